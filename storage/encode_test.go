package storage

import (
	"bytes"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/storage/seglog"
)

var rewrite = flag.Bool("rewrite", false, "write golden samples instead of comparing with them")

// samples returns one command of each type with every field set, and one with
// few.
func samples() map[string]Command {
	id := covey.DeliveryID{Node: 0x0123456789abcdef, Boot: 3, Seq: 300}
	ranges := []UIDRange{{1, 5}, {7, 1<<32 - 1}}
	return map[string]Command{
		"chunk": Chunk{Upload: id, N: 2, Time: noon, Data: []byte("chunk")},
		"abort": Abort{Upload: id},
		"deliver": Deliver{
			ID: id, Time: noon, Hash: [16]byte{1, 2, 3},
			Recipients: []Recipient{{5, "INBOX", []byte("Delivered-To: a@b\r\n")}, {6, "Junk", nil}},
			Confirmed:  []covey.DeliveryID{{Node: 1, Boot: 2, Seq: 3}},
			Summary:    []byte("summary"), Body: Body{Inline: []byte("body"), Size: 4},
		},
		"deliver-chunks": Deliver{ID: id, Time: noon, Recipients: []Recipient{{5, "", nil}}, Body: Body{Upload: id, Chunks: 4, Size: 1 << 20}},
		"append": Append{
			Account: 5, Mailbox: "Drafts", Time: noon, Date: time.Unix(-1, 0).UTC(), Flags: covey.NewFlags(covey.Draft, "$a", "$b"),
			Quota: 1 << 40, Summary: []byte("s"), Body: Body{Inline: []byte("body"), Size: 4},
		},
		"store":     StoreFlags{Account: 5, Mailbox: 6, UIDs: ranges, Op: RemoveFlags, Flags: covey.NewFlags(covey.Seen, "k"), UnchangedSince: 9, Conditional: true},
		"expunge":   Expunge{Account: 5, Mailbox: 6, UIDs: ranges, OnlyDeleted: true},
		"copy":      Copy{Account: 5, Mailbox: 6, UIDs: ranges, To: "Trash", Time: noon, Quota: -1, Move: true},
		"create":    CreateMailbox{Account: 5, Name: "a/ü", Use: Junk, Time: noon, IfMissing: true, Most: 1000},
		"delete":    DeleteMailbox{Account: 5, Name: "a"},
		"rename":    RenameMailbox{Account: 5, From: "a", To: "b", Time: noon},
		"subscribe": Subscribe{Account: 5, Name: "a", On: true},
		"drop":      DropAccount{Account: 5},
		"deliver-late": Deliver{
			ID: id, Time: noon, Hash: [16]byte{1, 2, 3}, Recipients: []Recipient{{5, "INBOX", nil}}, Remember: true, Late: true,
			Confirmed: []covey.DeliveryID{{Node: 1, Boot: 2, Seq: 3}}, Body: Body{Inline: []byte("body"), Size: 4},
		},
		"deliver-asks": Deliver{
			ID: id, Time: noon, Hash: [16]byte{1, 2, 3}, Recipients: []Recipient{{5, "INBOX", nil}}, Asks: true,
			Apart: []covey.DeliveryID{{Node: 1, Boot: 2, Seq: 3}, {Node: 4, Boot: 5, Seq: 6}}, Lost: []covey.DeliveryID{{Node: 7, Boot: 8, Seq: 9}},
			Body: Body{Inline: []byte("body"), Size: 4},
		},
		"confirm-remember": Confirm{IDs: []covey.DeliveryID{id}, Remember: true},
		"enqueue": Enqueue{ID: id, Time: noon, Hash: [16]byte{1, 2, 3}, Sender: "s@example.net", Rest: []Rest{
			{Shard: 2, Account: 5, Mailbox: "INBOX", Address: "a@example.org"}, {Shard: 300, Account: 6, Mailbox: "Junk", Address: "b@example.org"},
		}},
		"dequeue": Dequeue{ID: id, Accounts: []covey.AccountID{5, 600}},
		"confirm": Confirm{IDs: []covey.DeliveryID{id, {Node: 1, Boot: 2, Seq: 3}}},
	}
}

var ignoreSums = cmp.Options{cmpopts.IgnoreFields(Body{}, "Sum"), cmpopts.IgnoreFields(Chunk{}, "Sum")}

// TestGoldenCommands keeps the form of what lies in logs.
func TestGoldenCommands(t *testing.T) {
	for name, c := range samples() {
		t.Run(name, func(t *testing.T) {
			got := hex.Dump(Encode(c))
			file := filepath.Join("testdata", name+".hex")
			if *rewrite {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(strings.Split(string(want), "\n"), strings.Split(got, "\n")); d != "" {
				t.Errorf("the encoding has changed (-want +got); run with -rewrite if that is meant:\n%s", d)
			}
			back, err := Decode(Encode(c))
			if d := cmp.Diff(c, back, ignoreSums); d != "" || err != nil {
				t.Errorf("decoded (-want +got), error %v:\n%s", err, d)
			}
		})
	}
}

func TestBodyIsTheTail(t *testing.T) {
	for name, c := range samples() {
		var inline []byte
		switch c := c.(type) {
		case Chunk:
			inline = c.Data
		case Deliver:
			inline = c.Body.Inline
		case Append:
			inline = c.Body.Inline
		}
		if !bytes.HasSuffix(Encode(c), inline) {
			t.Errorf("%s does not end with its body", name)
		}
	}
}

func TestDecodeRefuses(t *testing.T) {
	good := Encode(samples()["deliver"])
	for i := range good {
		if c, err := Decode(good[:i]); !errors.Is(err, covey.Corrupt) {
			t.Errorf("cut at %d: %+v, error %v", i, c, err)
		}
	}
	for what, b := range map[string][]byte{
		"trailing octet":          append(bytes.Clone(good), 0),
		"unknown version":         {2, typeAbort, 0, 0, 0},
		"unknown type":            {1, 200},
		"type before its version": {1, typeDequeue, 0, 0, 0, 0},
		"version without need":    {2, typeConfirm - 1, 1},
		"unknown flag":            append([]byte{2, typeDeliver, 4}, good[2:]...),
		"no flag":                 append([]byte{2, typeDeliver, 0}, good[2:]...),
		"many recipients":         {1, typeDeliver, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0x7f},
		"UID of 33 bits":          {1, typeExpunge, 1, 1, 1, 1, 0x80, 0x80, 0x80, 0x80, 0x10, 0},
	} {
		if c, err := Decode(b); !errors.Is(err, covey.Corrupt) {
			t.Errorf("%s: %+v, error %v", what, c, err)
		}
	}
}

func FuzzDecode(f *testing.F) {
	for _, c := range samples() {
		f.Add(Encode(c))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := Decode(b)
		if err != nil {
			return
		}
		again, err := Decode(Encode(c))
		if d := cmp.Diff(c, again, ignoreSums); d != "" || err != nil {
			t.Errorf("encoded and decoded again (-want +got), error %v:\n%s", err, d)
		}
	})
}

// FuzzStored reads what the database keeps in blobs.
func FuzzStored(f *testing.F) {
	f.Add(appendExtents(nil, []seglog.Extent{{Segment: 1, Offset: 2, Length: 3, Sum: 4}}))
	f.Add(appendDelivered(nil, &delivery{placed: []Placed{{Mailbox: 1, UIDValidity: 2, UID: 3, Repeat: true}}, spent: []bool{true}}))
	f.Add(appendQueued(nil, &Queued{Enqueue: samples()["enqueue"].(Enqueue), Heard: true}))
	f.Add((&heard{places: []heardPlace{{1, 2}, {3, 4}}, total: 2}).appendHeard(nil, 0))
	f.Fuzz(func(t *testing.T, b []byte) {
		if one, err := decodeQueued(b); err == nil {
			again, err := decodeQueued(appendQueued(nil, one))
			if d := cmp.Diff(one, again); d != "" || err != nil {
				t.Errorf("queued (-want +got), error %v:\n%s", err, d)
			}
		}
		if list, err := decodeHeard(b); err == nil && len(list) <= maxHeard {
			again, err := decodeHeard((&heard{places: list, total: uint64(len(list))}).appendHeard(nil, 0))
			if !slices.Equal(list, again) || err != nil {
				t.Errorf("heard: got %v, want %v, error %v", again, list, err)
			}
		}
		if list, err := decodeExtents(b); err == nil {
			again, err := decodeExtents(appendExtents(nil, list))
			if d := cmp.Diff(list, again); d != "" || err != nil {
				t.Errorf("extents (-want +got), error %v:\n%s", err, d)
			}
		}
		if one, err := decodeDelivery(b); err == nil {
			again, err := decodeDelivery(appendDelivered(nil, one))
			if d := cmp.Diff(fmt.Sprint(*one), fmt.Sprint(*again)); d != "" || err != nil {
				t.Errorf("delivery (-want +got), error %v:\n%s", err, d)
			}
		}
	})
}
