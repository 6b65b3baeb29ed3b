package storage_test

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/internal/snapshot"
	"github.com/covey-mail/covey/storage"
	"github.com/covey-mail/covey/storage/seglog"
)

// Shard 1 of a machine gets the load of these tests, on behalf of so many
// accounts.
const many = 20

// text returns n octets that belong to i.
func text(i, n int) []byte {
	return bytes.Repeat(fmt.Appendf(nil, "line of message %d\r\n", i), n/10+1)[:n]
}

// load applies a mixture of commands to shard 1; i numbers them.
func (m *machine) load(r *rand.Rand, i int) {
	m.t.Helper()
	a := covey.AccountID(r.IntN(many) + 1)
	now := noon.Add(time.Duration(i) * time.Second)
	c := storage.Deliver{
		ID: covey.DeliveryID{Node: 1, Boot: 2, Seq: uint64(i)}, Time: now, Hash: [16]byte{byte(i), byte(i >> 8), byte(i >> 16), 1},
		Recipients: []storage.Recipient{{Account: a, Mailbox: "INBOX", Prefix: fmt.Appendf(nil, "To: %d\r\n", a)}},
		Summary:    fmt.Appendf(nil, "summary %d", i),
	}
	mb, err := m.states[1].Mailbox(a, "INBOX")
	switch k := r.IntN(300); {
	case k < 1: // a body in chunks; of every third the message does not come
		sizes := []int{storage.ChunkSize, storage.ChunkSize - i%1000, 1 + i%1000}
		for n, size := range sizes {
			m.propose(1, storage.Chunk{Upload: c.ID, N: uint32(n), Time: now, Data: text(i, size)})
			c.Body.Size += int64(size)
		}
		if i%3 > 0 {
			c.Body.Upload, c.Body.Chunks = c.ID, uint32(len(sizes))
			m.propose(1, c)
		}
	case k < 30 && err == nil:
		first := covey.UID(r.IntN(int(mb.UIDNext)) + 1)
		m.propose(1, storage.Expunge{Account: a, Mailbox: mb.ID, UIDs: []storage.UIDRange{{First: first, Last: first + 20}}})
	case k < 45 && err == nil:
		first := covey.UID(r.IntN(int(mb.UIDNext)) + 1)
		m.propose(1, storage.StoreFlags{
			Account: a, Mailbox: mb.ID, UIDs: []storage.UIDRange{{First: first, Last: first + 5}},
			Op: storage.AddFlags, Flags: covey.Flags{System: covey.Seen, Keywords: []string{"work"}},
		})
	case k < 60 && err == nil:
		first := covey.UID(r.IntN(int(mb.UIDNext)) + 1)
		m.propose(1, storage.Copy{Account: a, Mailbox: mb.ID, UIDs: []storage.UIDRange{{First: first, Last: first + 1}}, To: "Archive", Time: now, Move: k%2 == 0})
	default:
		for _, other := range []covey.AccountID{a%many + 1, (a+6)%many + 1} {
			c.Recipients = append(c.Recipients, storage.Recipient{Account: other, Mailbox: "INBOX"})
		}
		body := text(i, 1+r.IntN(2000))
		c.Body = storage.Body{Inline: body, Size: int64(len(body))}
		m.propose(1, c)
	}
}

// A seen is all that readers see of shard 1, but where bodies lie.
type seen struct {
	Mailboxes []storage.Mailbox
	Messages  map[covey.MailboxID][]storage.Message
	Expunged  map[covey.MailboxID][]storage.UIDRange
	Sums      map[covey.BodyID]string
}

func look(t testing.TB, s storage.State, log storage.BodyLog) seen {
	t.Helper()
	out := seen{Messages: map[covey.MailboxID][]storage.Message{}, Expunged: map[covey.MailboxID][]storage.UIDRange{}, Sums: map[covey.BodyID]string{}}
	for a := covey.AccountID(1); a <= many; a++ {
		list, err := s.Mailboxes(a)
		if err != nil {
			t.Fatal(err)
		}
		out.Mailboxes = append(out.Mailboxes, list...)
		for _, mb := range list {
			err := s.Messages(t.Context(), storage.Query{Mailbox: mb.ID, Summary: true}, func(m *storage.Message) error {
				out.Messages[mb.ID] = append(out.Messages[mb.ID], *m)
				out.Sums[m.Body] = bodySum(t, s, log, m.Body)
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			ch, err := s.Changes(a, mb.ID, 0)
			if err != nil {
				t.Fatal(err)
			}
			out.Expunged[mb.ID] = ch.Expunged
		}
	}
	return out
}

func bodySum(t testing.TB, s storage.State, log storage.BodyLog, id covey.BodyID) string {
	t.Helper()
	extents, err := s.Body(id)
	if err != nil {
		t.Fatal(err)
	}
	sum := ""
	for _, e := range extents {
		p := make([]byte, e.Length)
		if err := log.Read(e, p); err != nil {
			t.Fatalf("body %d: %v", id, err)
		}
		sum += fmt.Sprintf("%d:%x ", e.Length, e.Sum)
	}
	return sum
}

// sound checks shard 1.
func (m *machine) sound() {
	m.t.Helper()
	s := m.states[1]
	for _, err := range append(s.Check(m.t.Context()), storage.CheckBodies(m.t.Context(), s, m.log)...) {
		m.t.Error(err)
	}
}

// begin is what a group does behind an Install.
func (m *machine) begin(index uint64) {
	m.t.Helper()
	var b seglog.Batch
	term := uint64(1)
	b.Snapshot(1, &raftpb.SnapshotMetadata{Index: &index, Term: &term, ConfState: &raftpb.ConfState{Voters: []uint64{1}}})
	if err := m.log.Write(&b, seglog.Synced); err != nil {
		m.t.Fatal(err)
	}
	m.last[1] = index
}

// follow applies what another machine's log has beyond.
func (m *machine) follow(leader *machine) {
	m.t.Helper()
	for _, e := range leader.said[m.last[1]:] {
		var b seglog.Batch
		b.Append(1, []*raftpb.Entry{e})
		if err := m.log.Write(&b, seglog.Buffered); err != nil {
			m.t.Fatal(err)
		}
		m.last[1] = e.GetIndex()
		m.applyEntry(1, e)
	}
}

// take makes a copy of shard 1.
func (m *machine) take() snapshot.Snapshot {
	m.t.Helper()
	s, err := m.states[1].Snapshot()
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() { s.Close() })
	return s
}

func (m *machine) restore() snapshot.Restorer {
	m.t.Helper()
	r, err := m.states[1].Restore()
	if err != nil {
		m.t.Fatal(err)
	}
	return r
}

// carry gives all chunks of a copy to a restorer, and calls between after each.
func carry(t testing.TB, from snapshot.Snapshot, to snapshot.Restorer, between func()) {
	t.Helper()
	for n := uint64(0); ; n++ {
		b, err := from.ReadChunk(n)
		if err == io.EOF {
			return
		}
		if err == nil {
			err = to.WriteChunk(b)
		}
		if err != nil {
			t.Fatalf("chunk %d: %v", n, err)
		}
		if between != nil {
			between()
		}
	}
}

// install stages what was carried and installs it.
func (m *machine) install(r snapshot.Restorer, meta string) uint64 {
	m.t.Helper()
	index, err := r.Stage()
	if err != nil {
		m.t.Fatal(err)
	}
	if err := m.states[1].Install(r, []byte(meta)); err != nil {
		m.t.Fatal(err)
	}
	m.begin(index)
	return index
}

func newMachine(t testing.TB) *machine {
	t.Helper()
	m := startWith(t, t.TempDir(), seglog.Config{Dir: t.TempDir(), SegmentSize: 256 << 10, Keep: -1})
	m.hasty = true
	t.Cleanup(m.close)
	return m
}

// left reports files of copies that are still there.
func (m *machine) left() {
	m.t.Helper()
	list, err := os.ReadDir(m.dir)
	if err != nil {
		m.t.Fatal(err)
	}
	for _, f := range list {
		if strings.Contains(f.Name(), ".") {
			m.t.Errorf("%s is still there", f.Name())
		}
	}
}
