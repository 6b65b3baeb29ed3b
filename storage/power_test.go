package storage_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
	"zombiezen.com/go/sqlite"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/internal/durable"
	"github.com/covey-mail/covey/internal/durable/durabletest"
	"github.com/covey-mail/covey/internal/durable/durabletest/sqlitedisk"
	"github.com/covey-mail/covey/storage"
	"github.com/covey-mail/covey/storage/seglog"
)

// A plugged machine is a log and two shards, databases and all, on a disk whose power
// may go at any operation. Unlike those of a machine its methods return errors.
type plugged struct {
	vfs    *sqlitedisk.VFS
	log    *seglog.Log
	states map[covey.ShardID]storage.State
	c      *storage.Compactor
	now    time.Time
	said   said
}

// said is what a machine has acknowledged.
type said struct {
	last   map[covey.ShardID]uint64   // the command before is the last that was
	hashes map[covey.ShardID][]uint64 // of the state, after each command
}

func (s said) clone() said {
	c := said{map[covey.ShardID]uint64{}, map[covey.ShardID][]uint64{}}
	for _, id := range shards {
		c.last[id], c.hashes[id] = s.last[id], append([]uint64(nil), s.hashes[id]...)
	}
	return c
}

// plug starts a machine with what is on the disk.
func plug(fsys durable.FS, before said) (*plugged, error) {
	vfs, err := sqlitedisk.Register(fsys)
	if err != nil {
		return nil, err
	}
	p := &plugged{vfs: vfs, states: map[covey.ShardID]storage.State{}, now: noon, said: before.clone()}
	if err := p.start(fsys); err != nil {
		p.unplug()
		return nil, err
	}
	return p, nil
}

func (p *plugged) start(fsys durable.FS) (err error) {
	p.log, err = seglog.Open(seglog.Config{Dir: "/node/log", FS: fsys, SegmentSize: 8 << 10, Keep: -1, CacheBytes: -1})
	if err != nil {
		return err
	}
	if err := fsys.MkdirAll("/node/shards", 0o700); err != nil {
		return err
	}
	for _, id := range shards {
		s, err := storage.Open(storage.Config{
			Shard: id, Path: fmt.Sprintf("/node/shards/%d.db", id), FS: fsys, VFS: p.vfs.Name(), Log: p.log, Clock: p.clock,
		})
		if err != nil {
			return err
		}
		p.states[id] = s
		if err := p.replay(id); err != nil {
			return err
		}
	}
	p.c, err = storage.NewCompactor(storage.CompactorConfig{Log: p.log, Checkpoint: p.checkpoint, Shards: func() map[covey.ShardID]storage.Placer {
		return map[covey.ShardID]storage.Placer{1: p.states[1], 2: p.states[2]}
	}})
	return err
}

// clock has every other command committed without a checkpoint.
func (p *plugged) clock() time.Time {
	p.now = p.now.Add(10 * time.Second)
	return p.now
}

// unplug closes all, whatever becomes of that: there may be no power.
func (p *plugged) unplug() {
	for _, s := range p.states {
		_ = s.Close()
	}
	if p.log != nil {
		_ = p.log.Close()
	}
	if err := p.vfs.Close(); err != nil {
		panic(err)
	}
}

// replay applies what the log has above the database.
func (p *plugged) replay(id covey.ShardID) error {
	g := p.log.Group(id)
	last, err := g.LastIndex()
	if err != nil {
		return err
	}
	applied := p.states[id].Applied()
	first, err := g.FirstIndex()
	if err != nil {
		return err
	}
	if last < applied && p.states[id].Installed() != nil {
		return nil // replica would note in the log that it has been installed
	}
	if first > applied+1 || last < applied {
		return fmt.Errorf("shard %d has applied %d, the log has %d to %d", id, applied, first, last)
	}
	if applied == last {
		return nil
	}
	ents, err := g.Entries(applied+1, last+1, 1<<30)
	if err != nil {
		return err
	}
	for _, e := range ents {
		if err := p.apply(id, e); err != nil {
			return err
		}
	}
	return nil
}

func (p *plugged) apply(id covey.ShardID, e *raftpb.Entry) (err error) {
	place, err := p.log.Place(id, e.GetIndex())
	if err != nil {
		return err
	}
	defer func() {
		if f, ok := recover().(error); ok {
			err = f
		}
	}()
	p.states[id].Apply([]seglog.Command{{Index: e.GetIndex(), Data: e.GetData(), Place: place}})
	return nil
}

// propose logs and applies a command. It is acknowledged if there is no error.
func (p *plugged) propose(id covey.ShardID, c storage.Command) error {
	next := p.said.last[id] + 1
	e := &raftpb.Entry{Index: proto.Uint64(next), Term: proto.Uint64(1), Data: storage.Encode(c)}
	var b seglog.Batch
	b.Append(id, []*raftpb.Entry{e})
	if err := p.log.Write(&b, seglog.Synced); err != nil {
		return err
	}
	p.said.last[id] = next // the log has promised it
	if err := p.apply(id, e); err != nil {
		return err
	}
	_, hash := p.states[id].Hash()
	p.said.hashes[id] = append(p.said.hashes[id], hash)
	return nil
}

func (p *plugged) checkpoint(_ context.Context, id covey.ShardID) error {
	index, err := p.states[id].Checkpoint()
	if err == nil {
		p.log.Applied(id, index)
	}
	return err
}

// work does some of all that a node does: deliveries, deletions, commits, checkpoints,
// compaction.
func (p *plugged) work(ctx context.Context, rounds int) error {
	body := []byte(strings.Repeat("0123456789abcdef", 40))
	for i := range rounds {
		for _, id := range shards {
			seq := p.said.last[id] + 1
			err := p.propose(id, storage.Deliver{
				ID: covey.DeliveryID{Node: 1, Seq: seq}, Time: noon, Recipients: []storage.Recipient{{Account: 1, Mailbox: "INBOX"}},
				Body: storage.Body{Inline: body, Size: int64(len(body))},
			})
			if i%3 == 2 && err == nil {
				uid := covey.UID(seq / 2)
				err = p.propose(id, storage.Expunge{Account: 1, Mailbox: 1, UIDs: []storage.UIDRange{{First: uid, Last: uid + 2}}})
			}
			if i%4 == 3 && err == nil {
				err = p.checkpoint(ctx, id)
			}
			if err != nil {
				return err
			}
		}
		if i%6 == 5 {
			if err := p.c.Pass(ctx); err != nil {
				return err
			}
		}
	}
	return nil
}

// wrong says what of the commands that were acknowledged is not there, or is wrong.
// hashes are those of a machine whose power stayed on.
func (p *plugged) wrong(ctx context.Context, hashes map[covey.ShardID][]uint64) error {
	var errs []error
	for id, s := range p.states {
		errs = append(errs, s.Check(ctx)...)
		errs = append(errs, storage.CheckBodies(ctx, s, p.log)...)
		applied, hash := s.Hash()
		if applied < p.said.last[id] {
			errs = append(errs, fmt.Errorf("shard %d is at %d, %d was acknowledged", id, applied, p.said.last[id]))
		} else if n := int(applied); n > 0 && hash != hashes[id][n-1] {
			errs = append(errs, fmt.Errorf("shard %d is another at %d than it was", id, applied))
		}
	}
	return errors.Join(errs...)
}

// A stretch is a time of work on a disk that has something on it already.
type stretch struct {
	before *durabletest.Disk
	said   said                       // when it begins
	rounds int                        // of work
	hashes map[covey.ShardID][]uint64 // of the states to the end of it, without a power cut
}

// startStretch returns a stretch, and the disk at its end. What was not synced is
// still so, as after the end of the process.
func startStretch(t *testing.T, before *durabletest.Disk, s said, rounds int) (stretch, *durabletest.Disk) {
	t.Helper()
	disk := before.Clone()
	p, err := plug(disk, s)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.work(t.Context(), rounds); err != nil {
		t.Fatal(err)
	}
	after := disk.Clone()
	p.unplug()
	return stretch{before, s, rounds, p.said.hashes}, after
}

// cut carries the stretch out on what over makes of a disk, and cuts the power at an
// operation, which the seed is made of. It returns what is wrong after the start that
// follows; done: the stretch came to its end.
func (r stretch) cut(ctx context.Context, op int, over func(durable.FS) durable.FS) (done bool, err error) {
	disk := r.before.Clone()
	disk.StopAfter(op)
	now := r.said
	p, err := plug(over(disk), r.said)
	if err == nil {
		err = p.work(ctx, r.rounds)
		now = p.said
		p.unplug()
	}
	if err == nil {
		return true, nil
	}
	disk.Crash(seedOf(op))
	for range 2 { // the second time after a checkpoint that nothing disturbed
		p, err := plug(disk, now)
		if err != nil {
			return false, err
		}
		err = p.wrong(ctx, r.hashes)
		for _, id := range shards {
			err = errors.Join(err, p.checkpoint(ctx, id))
		}
		err = errors.Join(err, p.c.Pass(ctx), p.wrong(ctx, r.hashes))
		p.unplug()
		if err != nil {
			return false, err
		}
	}
	return false, nil
}

// copied returns the chunks of a copy of shard 1 as it is at the end of a stretch of
// so many rounds, and the hashes up to it.
func copied(t *testing.T, rounds int) (chunks [][]byte, hashes map[covey.ShardID][]uint64) {
	t.Helper()
	p, err := plug(durabletest.NewDisk(), said{})
	if err != nil {
		t.Fatal(err)
	}
	defer p.unplug()
	if err := p.work(t.Context(), rounds); err != nil {
		t.Fatal(err)
	}
	c, err := p.states[1].Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for n := uint64(0); ; n++ {
		b, err := c.ReadChunk(n)
		if err == io.EOF {
			return chunks, p.said.hashes
		}
		if err != nil {
			t.Fatal(err)
		}
		chunks = append(chunks, b)
	}
}

// install puts a copy in the place of shard 1.
func (p *plugged) install(chunks [][]byte, meta string) error {
	r, err := p.states[1].Restore()
	if err != nil {
		return err
	}
	for _, b := range chunks {
		if err := r.WriteChunk(b); err != nil {
			return errors.Join(err, r.Abort())
		}
	}
	index, err := r.Stage()
	if err != nil {
		return errors.Join(err, r.Abort())
	}
	if err := p.states[1].Install(r, []byte(meta)); err != nil {
		return err
	}
	p.said.last[1] = index
	return nil
}

// F-11: after a power cut at any operation while a copy is taken in, the shard is the
// old one or the new one, and the new one for good once that was said.
func TestF11_PowerCutsInInstall(t *testing.T) {
	chunks, hashes := copied(t, 12)
	before, disk := startStretch(t, durabletest.NewDisk(), said{}, 4)
	now := said{}.clone().upTo(before)
	news, olds := 0, 0
	step := 1
	if testing.Short() {
		step = 3
	}
	for op, done := 0, false; !done; op += step {
		d := disk.Clone()
		p, err := plug(d, now)
		if err != nil {
			t.Fatal(err)
		}
		d.StopAfter(op)
		err = p.install(chunks, "meta")
		promised := p.said
		p.unplug()
		done = err == nil
		d.Crash(seedOf(op))
		if p, err = plug(d, promised); err != nil {
			t.Fatalf("power cut at operation %d: %v", op, err)
		}
		switch string(p.states[1].Installed()) {
		case "meta":
			news++
		case "":
			olds++
		default:
			t.Errorf("power cut at operation %d: installed with %q", op, p.states[1].Installed())
		}
		err = errors.Join(p.wrong(t.Context(), hashes), p.checkpoint(t.Context(), 1), p.c.Pass(t.Context()), p.wrong(t.Context(), hashes))
		p.unplug()
		if err != nil {
			t.Fatalf("power cut at operation %d: %v", op, err)
		}
	}
	if news < 2 || olds < 10 {
		t.Errorf("%d times the new state, %d times the old: want some of both", news, olds)
	}
}

// seedOf returns a seed for an operation: every other loses all that can be lost.
func seedOf(op int) uint64 {
	if op%2 == 0 {
		return 0
	}
	return uint64(op)
}

func honest(f durable.FS) durable.FS { return f }

// F-09: nothing that was acknowledged is lost, wherever the power goes in logging,
// committing, checkpoints and compaction: on a new disk, on one with a state, and on
// one whose process was killed, so that what it wrote is not on the disk yet.
func TestF09_PowerCuts(t *testing.T) {
	fresh, after := startStretch(t, durabletest.NewDisk(), said{}, 12)
	killed, _ := startStretch(t, after, said{}.clone().upTo(fresh), 6)
	step := 3 // odd, for both kinds of seed
	if testing.Short() {
		step = 29
	}
	for name, r := range map[string]stretch{"fresh": fresh, "killed": killed} {
		t.Run(name, func(t *testing.T) {
			ops, done := 0, false
			for ; !done; ops += step {
				var err error
				if done, err = r.cut(t.Context(), ops, honest); err != nil {
					t.Fatalf("power cut at operation %d: %v", ops, err)
				}
			}
			if ops < 100 {
				t.Errorf("%d operations, want many", ops)
			}
		})
	}
}

// upTo returns what was acknowledged at the end of a stretch.
func (s said) upTo(r stretch) said {
	for _, id := range shards {
		s.hashes[id] = append([]uint64(nil), r.hashes[id]...)
		s.last[id] = uint64(len(s.hashes[id]))
	}
	return s
}

// A lazy disk says of files that it has synced them, and has not.
type lazy struct {
	durable.FS
	suffix string
}

type lazyFile struct{ durable.File }

// Open implements durable.FS.
func (l lazy) Open(name string, flag int, perm os.FileMode) (durable.File, error) {
	f, err := l.FS.Open(name, flag, perm)
	if err == nil && strings.HasSuffix(name, l.suffix) {
		f = lazyFile{f}
	}
	return f, err
}

// Sync implements durable.File.
func (lazyFile) Sync() error { return nil }

// TestF09_PowerCuts would find out that a checkpoint does not sync.
func TestF09_LazyDisk(t *testing.T) {
	r, _ := startStretch(t, durabletest.NewDisk(), said{}, 16)
	for _, suffix := range []string{".db", ".db-wal"} {
		found := false
		for op := 0; !found; op += 7 {
			done, err := r.cut(t.Context(), op, func(f durable.FS) durable.FS { return lazy{f, suffix} })
			if found = err != nil; done {
				break
			}
		}
		if !found {
			t.Errorf("nothing is lost though %s is never synced", suffix)
		}
	}
}

// F-16: after a failed sync of its log a database is left as it is, when it is closed
// too: SQLite makes a checkpoint of its own then.
func TestF16_CloseAfterAFailedSync(t *testing.T) {
	before, disk := startStretch(t, durabletest.NewDisk(), said{}, 5)
	now := said{}.clone().upTo(before)
	for op := range 30 {
		d := disk.Clone()
		p, err := plug(d, now)
		if err == nil {
			err = p.checkpoint(t.Context(), 1)
		}
		if err == nil {
			err = p.work(t.Context(), 2)
		}
		if err != nil {
			t.Fatal(err)
		}
		d.Inject(durabletest.Fault{Op: durabletest.Sync, Match: "1.db-wal", Err: syscall.EIO})
		if err := p.checkpoint(t.Context(), 1); sqlite.ErrCode(err) != sqlite.ResultIOErrFsync {
			t.Fatal(err)
		}
		d.StopAfter(op)
		_ = p.states[1].Close()
		p.unplug()
		d.Crash(uint64(op) + 2)
		said := p.said
		if p, err = plug(d, said); err != nil {
			t.Fatalf("power cut at operation %d of closing: %v", op, err)
		}
		if err := p.wrong(t.Context(), said.hashes); err != nil {
			t.Errorf("power cut at operation %d of closing: %v", op, err)
		}
		p.unplug()
	}
}
