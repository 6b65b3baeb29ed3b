package storage_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/internal/durable/durabletest"
	"github.com/covey-mail/covey/storage"
	"github.com/covey-mail/covey/storage/seglog"
)

// A machine is one node's log, on a disk in memory, and two shards whose
// databases are in a folder.
type machine struct {
	t      testing.TB
	disk   *durabletest.Disk
	dir    string
	log    *seglog.Log
	states map[covey.ShardID]storage.State
	last   map[covey.ShardID]uint64
	hasty  bool            // commands are not synced, and shard 1's stay in said
	said   []*raftpb.Entry // from index 1 on
	c      *storage.Compactor
}

var shards = []covey.ShardID{1, 2}

func startMachine(t testing.TB, disk *durabletest.Disk, dir string) *machine {
	t.Helper()
	return startWith(t, dir, seglog.Config{Dir: "/log", FS: disk, SegmentSize: 64 << 10, Keep: -1, CacheBytes: -1})
}

func startWith(t testing.TB, dir string, cfg seglog.Config) *machine {
	t.Helper()
	log, err := seglog.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	disk, _ := cfg.FS.(*durabletest.Disk)
	m := &machine{t: t, disk: disk, dir: dir, log: log, states: map[covey.ShardID]storage.State{}, last: map[covey.ShardID]uint64{}}
	for _, id := range shards {
		s, err := storage.Open(storage.Config{Shard: id, Path: filepath.Join(dir, fmt.Sprintf("shard%d", id)), Log: log})
		if err != nil {
			t.Fatal(err)
		}
		m.states[id] = s
		m.replay(id)
	}
	m.compactor(nil)
	return m
}

// compactor makes the compactor, which tells of damage to damaged.
func (m *machine) compactor(damaged func(covey.ShardID, covey.BodyID)) {
	m.t.Helper()
	var err error
	m.c, err = storage.NewCompactor(storage.CompactorConfig{Log: m.log, Checkpoint: m.checkpoint, Damaged: damaged, Shards: func() map[covey.ShardID]storage.Placer {
		return map[covey.ShardID]storage.Placer{1: m.states[1], 2: m.states[2]}
	}})
	if err != nil {
		m.t.Fatal(err)
	}
}

// replay applies what the database does not have.
func (m *machine) replay(id covey.ShardID) {
	m.t.Helper()
	g := m.log.Group(id)
	last, err := g.LastIndex()
	if err != nil {
		m.t.Fatal(err)
	}
	from := m.states[id].Applied() + 1
	if first, _ := g.FirstIndex(); first > from && last >= from {
		m.t.Fatalf("shard %d: the log begins at %d, applied is %d", id, first, from-1)
	}
	if m.last[id] = last; from <= last {
		ents, err := g.Entries(from, last+1, 1<<30)
		if err != nil {
			m.t.Fatal(err)
		}
		for _, e := range ents {
			m.applyEntry(id, e)
		}
	}
}

func (m *machine) applyEntry(id covey.ShardID, e *raftpb.Entry) *storage.Result {
	m.t.Helper()
	place, err := m.log.Place(id, e.GetIndex())
	if err != nil {
		m.t.Fatal(err)
	}
	cmd := seglog.Command{Index: e.GetIndex(), Data: e.GetData(), Place: place}
	return m.states[id].Apply([]seglog.Command{cmd})[0].(*storage.Result)
}

// propose logs and applies a command.
func (m *machine) propose(id covey.ShardID, c storage.Command) *storage.Result {
	m.t.Helper()
	m.last[id]++
	e := &raftpb.Entry{Index: proto.Uint64(m.last[id]), Term: proto.Uint64(1), Data: storage.Encode(c)}
	var b seglog.Batch
	b.Append(id, []*raftpb.Entry{e})
	if err := m.log.Write(&b, seglog.Durability(!m.hasty)); err != nil {
		m.t.Fatal(err)
	}
	if m.hasty && id == 1 {
		m.said = append(m.said, e)
	}
	r := m.applyEntry(id, e)
	if r.Err != nil {
		m.t.Fatal(r.Err)
	}
	return r
}

func (m *machine) checkpoint(_ context.Context, id covey.ShardID) error {
	index, err := m.states[id].Checkpoint()
	if err == nil {
		m.log.Applied(id, index)
	}
	return err
}

func (m *machine) close() {
	m.t.Helper()
	for _, s := range m.states {
		if err := s.Close(); err != nil {
			m.t.Error(err)
		}
	}
	m.log.Close()
}

// fill delivers messages to both shards and expunges all but every tenth.
func (m *machine) fill() {
	m.t.Helper()
	body := []byte(strings.Repeat("0123456789abcdef", 250))
	for i := range 100 {
		for _, id := range shards {
			m.propose(id, storage.Deliver{
				ID: covey.DeliveryID{Node: 1, Seq: uint64(i)}, Time: noon, Recipients: []storage.Recipient{{Account: 1, Mailbox: "INBOX"}},
				Body: storage.Body{Inline: body, Size: int64(len(body))},
			})
		}
	}
	upload := covey.DeliveryID{Node: 2}
	for n := range uint32(3) {
		m.propose(1, storage.Chunk{Upload: upload, N: n, Time: noon, Data: body})
	}
	for _, id := range shards {
		for uid := covey.UID(1); uid < 100; uid += 10 {
			m.propose(id, storage.Expunge{Account: 1, Mailbox: 1, UIDs: []storage.UIDRange{{First: uid, Last: uid + 8}}})
		}
	}
}

// verify checks every invariant and every body, and that the messages are those
// that fill left.
func (m *machine) verify() {
	m.t.Helper()
	for id, s := range m.states {
		for _, err := range append(s.Check(m.t.Context()), storage.CheckBodies(m.t.Context(), s, m.log)...) {
			m.t.Errorf("shard %d: %v", id, err)
		}
		mb, uids, _, err := s.View(1, 1)
		if mb.Messages != 10 || len(uids) != 10 || uids[9].Last != 100 || err != nil {
			m.t.Errorf("shard %d: %+v with UIDs %v, error %v", id, mb, uids, err)
		}
	}
}

func (m *machine) size() (disk, live int64) {
	for _, s := range m.log.Segments() {
		disk += s.Size
	}
	for _, s := range m.states {
		used, err := s.Live()
		if err != nil {
			m.t.Fatal(err)
		}
		for _, n := range used {
			live += n.Bytes
		}
	}
	return disk, live
}

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func TestCompact(t *testing.T) {
	disk := durabletest.NewDisk()
	m := startMachine(t, disk, t.TempDir())
	m.fill()
	before, live := m.size()
	if before < 5*live {
		t.Fatalf("%d bytes on disk, %d live: nothing to do", before, live)
	}
	if err := m.c.Pass(t.Context()); err != nil {
		t.Fatal(err)
	}
	m.verify()
	// What is left is the segment being written, and one that was sealed since.
	if after, live := m.size(); after > 2*live+64<<10 {
		t.Errorf("%d bytes on disk after a pass, %d live, before %d", after, live, before)
	}
	old := m.log.Segments()
	if err := m.c.Pass(t.Context()); err != nil {
		t.Fatal(err)
	}
	if now := m.log.Segments(); now[len(now)-1].Size != old[len(old)-1].Size {
		t.Errorf("a second pass copied something again: %+v, was %+v", now, old)
	}
	// The chunks, which were moved, still make a body.
	m.propose(1, storage.Deliver{
		ID: covey.DeliveryID{Node: 3}, Time: noon, Recipients: []storage.Recipient{{Account: 2, Mailbox: "INBOX"}},
		Body: storage.Body{Upload: covey.DeliveryID{Node: 2}, Chunks: 3, Size: 12000},
	})
	m.close()
	m = startMachine(t, disk, m.dir)
	m.verify()
	m.close()
}

// TestCompactSmallBodies is about a segment that can never be half alive,
// because what goes with each body is more than the body.
func TestCompactSmallBodies(t *testing.T) {
	m := startMachine(t, durabletest.NewDisk(), t.TempDir())
	defer m.close()
	for i := range 1500 {
		m.propose(1, storage.Deliver{
			ID: covey.DeliveryID{Node: 1, Seq: uint64(i)}, Time: noon, Recipients: []storage.Recipient{{Account: 1, Mailbox: "INBOX"}},
			Summary: make([]byte, 100), Body: storage.Body{Inline: []byte("x"), Size: 1},
		})
	}
	for range 6 {
		if err := m.c.Pass(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	before := m.log.Segments()
	if err := m.c.Pass(t.Context()); err != nil {
		t.Fatal(err)
	}
	if after := m.log.Segments(); after[len(after)-1] != before[len(before)-1] {
		t.Errorf("passes do not come to an end: %+v, then %+v", before, after)
	}
}

// TestCompactCrash cuts the power before each operation on the log's disk that a
// pass makes, takes the databases as they are at that moment, and starts again.
func TestCompactCrash(t *testing.T) {
	disk := durabletest.NewDisk()
	m := startMachine(t, disk, t.TempDir())
	m.fill()
	m.close()
	ops := 0
	for n := 0; ; n++ {
		d := disk.Clone()
		r := startMachine(t, d, copyFiles(t, m.dir))
		d.StopAfter(n)
		err := r.c.Pass(t.Context())
		if err == nil {
			r.verify()
			r.close()
			break
		}
		ops++
		crashed := copyFiles(t, r.dir)
		r.close()
		d.Crash(uint64(n)) // 0 loses and 1 keeps all that was not synced
		r = startMachine(t, d, crashed)
		r.verify()
		if err := r.c.Pass(t.Context()); err != nil {
			t.Errorf("pass after a crash before operation %d: %v", n, err)
		}
		r.verify()
		r.close()
		if t.Failed() {
			t.Fatalf("after a crash before operation %d: %v", n, err)
		}
	}
	if ops < 5 {
		t.Errorf("a pass made %d operations, want several", ops)
	}
}

func copyFiles(t testing.TB, from string) string {
	t.Helper()
	to := t.TempDir()
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
	return to
}

// TestCompactHeld copies nothing out of segments that could not be removed.
func TestCompactHeld(t *testing.T) {
	m := startMachine(t, durabletest.NewDisk(), t.TempDir())
	defer m.close()
	m.fill()
	var numbers []uint64
	for _, s := range m.log.Segments() {
		numbers = append(numbers, s.Number)
	}
	h := m.log.Hold(numbers...)
	before := m.log.Segments()
	if err := m.c.Pass(t.Context()); err != nil {
		t.Fatal(err)
	}
	after := m.log.Segments()
	if len(after) != len(before) || after[len(after)-1].Size != before[len(before)-1].Size {
		t.Errorf("a pass changed %+v to %+v", before, after)
	}
	h.Release()
	if err := m.c.Pass(t.Context()); err != nil {
		t.Fatal(err)
	}
	if now := m.log.Segments(); now[0].Number == before[0].Number {
		t.Error("nothing is removed when they are held no more")
	}
	m.verify()
}

// TestCompactDamage keeps the segment of a body that cannot be copied, and moves
// the others out of it.
func TestCompactDamage(t *testing.T) {
	disk := durabletest.NewDisk()
	m := startMachine(t, disk, t.TempDir())
	defer m.close()
	m.fill()
	extents, err := m.states[1].Body(10)
	if err != nil {
		t.Fatal(err)
	}
	e := extents[0]
	names, err := disk.ReadDir("/log")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range names {
		if strings.Contains(f.Name(), fmt.Sprintf("%x.", e.Segment)) {
			disk.Flip("/log/"+f.Name(), int64(e.Offset)+5, 1)
		}
	}
	for range 2 {
		if err := m.c.Pass(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if again, err := m.states[1].Body(10); err != nil || again[0] != e {
		t.Errorf("the damaged body is now at %v, error %v", again, err)
	}
	found := storage.CheckBodies(t.Context(), m.states[1], m.log)
	if len(found) != 1 || !errors.Is(found[0], covey.Corrupt) {
		t.Errorf("check tells %v", found)
	}
	live, err := m.states[1].Live()
	if n := live[e.Segment]; n.Extents != 1 || err != nil {
		t.Errorf("in the damaged segment %+v is live, error %v", n, err)
	}
}

func TestCompactorRun(t *testing.T) {
	m := startMachine(t, durabletest.NewDisk(), t.TempDir())
	defer m.close()
	m.fill()
	tick := make(chan time.Time)
	metrics := storage.NewCompactorMetrics()
	c, err := storage.NewCompactor(storage.CompactorConfig{
		Log: m.log,
		Shards: func() map[covey.ShardID]storage.Placer {
			return map[covey.ShardID]storage.Placer{1: m.states[1], 2: m.states[2]}
		},
		Checkpoint: m.checkpoint, Tick: tick, Metrics: metrics, PassBytes: 1,
	})
	if err != nil {
		t.Fatal(err)
	}
	before := len(m.log.Segments())
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- c.Run(ctx) }()
	tick <- noon
	tick <- noon // the first pass is over
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if now := len(m.log.Segments()); now >= before {
		t.Errorf("%d segments, were %d", now, before)
	}
	m.disk.Inject(durabletest.Fault{Op: durabletest.Sync, Times: -1, Err: errors.New("no sync")})
	go func() { done <- c.Run(t.Context()) }()
	tick <- noon
	if err := <-done; err == nil {
		t.Error("Run went on with a failed log")
	}
	if len(metrics.Collectors()) != 4 {
		t.Error("metrics are missing")
	}
}

func TestNewCompactorRefuses(t *testing.T) {
	if _, err := storage.NewCompactor(storage.CompactorConfig{}); !errors.Is(err, covey.Invalid) {
		t.Errorf("error %v", err)
	}
}
