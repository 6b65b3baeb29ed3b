package storagetest

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/storage"
	"github.com/covey-mail/covey/storage/seglog"
)

// testRandom applies random commands to the state and to the reference, side by
// side: each result has to be the same, and in the end everything.
func testRandom(t *testing.T, open Opener) {
	rapid.Check(t, func(rt *rapid.T) {
		w := newWorld(t, rt, open)
		rt.Repeat(map[string]func(*rapid.T){
			"command": w.command,
			"read":    w.read,
			"view":    w.view,
		})
		w.finish()
	})
}

// A world is a state and the reference beside it.
type world struct {
	t      testing.TB
	open   Opener
	cfg    storage.Config
	log    *Log
	state  storage.State
	ref    storage.State
	now    time.Time
	seq    uint64
	ids    []covey.DeliveryID // deliveries so far
	upload []storage.Body     // pending

	durable uint64 // a checkpoint said so
}

func newWorld(t testing.TB, rt *rapid.T, open Opener) *world {
	cfg := storage.Config{Shard: Shard, Path: t.TempDir() + "/shard", Mailboxes: rapid.SampledFrom([]int{1, 3, 0}).Draw(rt, "cache")}
	return &world{
		t: t, open: open, cfg: cfg, log: &Log{SegmentSize: 2 << 10}, now: noon,
		state: open(t, cfg), ref: storage.OpenMemory(cfg),
	}
}

func (w *world) finish() {
	d := driver{t: w.t, log: w.log, state: w.state}
	d.compare(w.ref)
	if err := w.state.Close(); err != nil {
		w.t.Errorf("close: %v", err)
	}
}

// command applies a random command to both.
func (w *world) command(rt *rapid.T) {
	w.now = w.now.Add(time.Duration(rapid.SampledFrom([]int{0, 0, 0, 1, 1, 60, 4000, -4000, 100000}).Draw(rt, "seconds")) * time.Second)
	e := w.log.Append(w.draw(rt))
	got := w.state.Apply([]seglog.Command{e})[0].(*storage.Result)
	want := w.ref.Apply([]seglog.Command{e})[0].(*storage.Result)
	if d := cmp.Diff(want, got, cmp.Comparer(sameKind)); d != "" {
		rt.Fatalf("result (-reference +got):\n%s", d)
	}
	travel(w.t, w.state, w.log)
}

func sameKind(a, b error) bool {
	if a == nil || b == nil {
		return a == nil && b == nil
	}
	return covey.KindOf(a) == covey.KindOf(b)
}

// read compares what changed in a mailbox after some point.
func (w *world) read(rt *rapid.T) {
	a, id := w.account(rt), w.mailboxID(rt)
	since := covey.ModSeq(rapid.IntRange(0, 12).Draw(rt, "since"))
	got, err := w.state.Changes(a, id, since)
	want, wantErr := w.ref.Changes(a, id, since)
	if d := cmp.Diff(want, got); d != "" || !sameKind(err, wantErr) {
		rt.Fatalf("changes of mailbox %d since %d: error %v, reference %v (-reference +got):\n%s", id, since, err, wantErr, d)
	}
}

// view opens a mailbox, so that what is kept of it has to follow later commands,
// and compares with the messages themselves.
func (w *world) view(rt *rapid.T) {
	a, id := w.account(rt), w.mailboxID(rt)
	_, got, unseen, err := w.state.View(a, id)
	if err != nil {
		return
	}
	var want []storage.UIDRange
	var first covey.UID
	for _, m := range messages(w.t, w.state, storage.Query{Mailbox: id}) {
		if n := len(want); n > 0 && want[n-1].Last+1 == m.UID {
			want[n-1].Last = m.UID
		} else {
			want = append(want, storage.UIDRange{First: m.UID, Last: m.UID})
		}
		if first == 0 && m.Flags.System&covey.Seen == 0 {
			first = m.UID
		}
	}
	if d := cmp.Diff(want, got); d != "" || unseen != first {
		rt.Fatalf("view of mailbox %d: first unseen %d, want %d; UIDs (-messages +view):\n%s", id, unseen, first, d)
	}
}

func (w *world) account(rt *rapid.T) covey.AccountID {
	return covey.AccountID(rapid.IntRange(1, accounts).Draw(rt, "account"))
}

func (w *world) mailboxID(rt *rapid.T) covey.MailboxID {
	return covey.MailboxID(rapid.IntRange(1, 12).Draw(rt, "mailbox"))
}

func (w *world) name(rt *rapid.T) string {
	return rapid.SampledFrom([]string{"INBOX", "INBOX", "inbox/x", "a", "a/b", "a/b/c", "b", "Junk", "Trash/old", "//"}).Draw(rt, "name")
}

func (w *world) uids(rt *rapid.T) []storage.UIDRange {
	uid := rapid.IntRange(0, 12)
	return rapid.SliceOfN(rapid.Custom(func(t *rapid.T) storage.UIDRange {
		return storage.UIDRange{First: covey.UID(uid.Draw(t, "first")), Last: covey.UID(uid.Draw(t, "last"))}
	}), 1, 3).Draw(rt, "uids")
}

func (w *world) flags(rt *rapid.T) covey.Flags {
	keywords := rapid.SliceOfN(rapid.SampledFrom([]string{"a", "A", "b", "$Junk", "c d"}), 0, 2).Draw(rt, "keywords")
	return covey.Flags{System: covey.SystemFlags(rapid.IntRange(0, 31).Draw(rt, "flags")), Keywords: keywords}
}

func (w *world) next() covey.DeliveryID {
	w.seq++
	return covey.DeliveryID{Node: 1, Boot: 1, Seq: w.seq}
}

// delivered returns a delivery id that may have been used.
func (w *world) delivered(rt *rapid.T) covey.DeliveryID {
	if len(w.ids) == 0 {
		return w.next()
	}
	return rapid.SampledFrom(w.ids).Draw(rt, "delivery")
}

// body returns a small body, or one in chunks, which may or may not be there.
func (w *world) body(rt *rapid.T) storage.Body {
	if len(w.upload) > 0 && rapid.Bool().Draw(rt, "chunked") {
		return rapid.SampledFrom(w.upload).Draw(rt, "upload")
	}
	return inline(fmt.Sprintf("body %d", rapid.IntRange(0, 99999).Draw(rt, "body")))
}

func (w *world) draw(rt *rapid.T) storage.Command {
	a := w.account(rt)
	switch rapid.IntRange(0, 21).Draw(rt, "kind") {
	default:
		return w.deliver(rt)
	case 1:
		return w.chunk(rt)
	case 2:
		return storage.Abort{Upload: w.delivered(rt)}
	case 18:
		return storage.Confirm{IDs: []covey.DeliveryID{w.delivered(rt)}, Remember: rapid.Bool().Draw(rt, "remember")}
	case 19, 20:
		return storage.Enqueue{
			ID: w.delivered(rt), Time: w.now, Sender: rapid.SampledFrom([]string{"", "s@example.net"}).Draw(rt, "sender"),
			Rest: rapid.SliceOfN(rapid.Custom(func(t *rapid.T) storage.Rest {
				return storage.Rest{Shard: 5, Account: w.account(t), Mailbox: "INBOX", Address: "a@example.org"}
			}), 0, 3).Draw(rt, "rest"),
		}
	case 21:
		return storage.Dequeue{ID: w.delivered(rt), Accounts: []covey.AccountID{a, w.account(rt)}}
	case 3, 4:
		return storage.Append{
			Account: a, Mailbox: w.name(rt), Time: w.now, Date: w.now, Flags: w.flags(rt),
			Quota: rapid.SampledFrom([]int64{0, 50}).Draw(rt, "quota"), Body: w.body(rt),
		}
	case 5, 6:
		return storage.StoreFlags{
			Account: a, Mailbox: w.mailboxID(rt), UIDs: w.uids(rt), Op: storage.FlagOp(rapid.IntRange(0, 3).Draw(rt, "op")),
			Flags: w.flags(rt), UnchangedSince: covey.ModSeq(rapid.IntRange(0, 12).Draw(rt, "unchanged")),
			Conditional: rapid.Bool().Draw(rt, "conditional"),
		}
	case 7:
		return storage.Expunge{Account: a, Mailbox: w.mailboxID(rt), UIDs: w.uids(rt), OnlyDeleted: rapid.Bool().Draw(rt, "deleted")}
	case 8, 9:
		return storage.Copy{
			Account: a, Mailbox: w.mailboxID(rt), UIDs: w.uids(rt), To: w.name(rt), Time: w.now,
			Quota: rapid.SampledFrom([]int64{0, 60}).Draw(rt, "quota"), Move: rapid.Bool().Draw(rt, "move"),
		}
	case 10, 11:
		return storage.CreateMailbox{
			Account: a, Name: w.name(rt), Use: storage.SpecialUse(rapid.IntRange(0, 6).Draw(rt, "use")), Time: w.now,
			IfMissing: rapid.Bool().Draw(rt, "missing"), Most: rapid.SampledFrom([]uint32{0, 0, 4}).Draw(rt, "most"),
		}
	case 12:
		return storage.DeleteMailbox{Account: a, Name: w.name(rt)}
	case 13:
		return storage.RenameMailbox{Account: a, From: w.name(rt), To: w.name(rt), Time: w.now}
	case 14:
		return storage.Subscribe{Account: a, Name: w.name(rt), On: rapid.Bool().Draw(rt, "on")}
	case 15:
		if rapid.IntRange(0, 3).Draw(rt, "drop") == 0 {
			return storage.DropAccount{Account: a}
		}
		return w.deliver(rt)
	}
}

func (w *world) deliver(rt *rapid.T) storage.Deliver {
	c := storage.Deliver{ID: w.next(), Time: w.now, Summary: []byte("s"), Body: w.body(rt)}
	if rapid.IntRange(0, 4).Draw(rt, "retry") == 0 {
		c.ID = w.delivered(rt)
	}
	w.ids = append(w.ids, c.ID)
	c.Late, c.Remember = rapid.Bool().Draw(rt, "late"), rapid.Bool().Draw(rt, "remember")
	c.Hash[0] = byte(rapid.IntRange(0, 3).Draw(rt, "hash"))
	c.Recipients = rapid.SliceOfN(rapid.Custom(func(t *rapid.T) storage.Recipient {
		return storage.Recipient{Account: w.account(t), Mailbox: w.name(t), Prefix: []byte(rapid.SampledFrom([]string{"", "X: y\r\n"}).Draw(t, "prefix"))}
	}), 0, 3).Draw(rt, "recipients")
	for range rapid.IntRange(0, 2).Draw(rt, "confirmed") {
		c.Confirmed = append(c.Confirmed, w.delivered(rt))
	}
	return c
}

func (w *world) chunk(rt *rapid.T) storage.Chunk {
	if len(w.upload) == 0 || rapid.Bool().Draw(rt, "new") {
		id := w.next()
		w.ids = append(w.ids, id)
		w.upload = append(w.upload, storage.Body{Upload: id})
	}
	b := &w.upload[rapid.IntRange(0, len(w.upload)-1).Draw(rt, "upload")]
	c := storage.Chunk{Upload: b.Upload, N: b.Chunks, Time: w.now, Data: make([]byte, 700)}
	b.Chunks++
	b.Size += 700
	return c
}
