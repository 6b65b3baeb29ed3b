package seglog

import (
	"errors"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"slices"
	"testing"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/internal/durable/durabletest"
)

// A rig drives a log and a model of it through crashes.
type rig struct {
	disk   *durabletest.Disk
	cfg    Config
	log    *Log
	sure   model    // what is on stable storage
	maybe  []change // what was written since, in order
	now    model    // sure and maybe: what readers see
	bodies map[Extent][]byte
	rnd    *rand.Rand
}

func newRig(seed uint64) *rig {
	r := &rig{disk: durabletest.NewDisk(), sure: model{}, now: model{}, bodies: map[Extent][]byte{}, rnd: rand.New(rand.NewPCG(seed, 7))}
	r.cfg = Config{Dir: "/log", FS: r.disk, SegmentSize: 4 << 10 << r.rnd.IntN(4), Keep: 8 << 10, CacheBytes: 8 << 10}
	return r
}

// open opens the log and checks it against the model: what was synced and some
// first part of what was not.
func (r *rig) open() error {
	l, err := Open(r.cfg)
	if err != nil {
		return err
	}
	r.log = l
	if err := r.settle(); err != nil {
		return err
	}
	for id, g := range r.now {
		l.Applied(id, g.applied)
		if err := l.Verify(id, g.applied+1); err != nil {
			return err
		}
	}
	return r.readBodies()
}

// settle finds out how much of what was not synced is there.
func (r *rig) settle() error {
	m := r.sure.clone()
	err := m.match(r.log)
	for i := range r.maybe {
		if err == nil {
			break
		}
		m.apply(&r.maybe[i])
		err = m.match(r.log)
	}
	if err != nil {
		return fmt.Errorf("not the synced state with any part of %d more changes: %w", len(r.maybe), err)
	}
	// Applied is volatile, and was told of what is durable only.
	for id, g := range r.now {
		if m[id] != nil {
			m[id].applied = min(max(m[id].applied, g.applied), m[id].last())
		}
	}
	r.sure, r.now, r.maybe = m, m.clone(), nil
	return nil
}

func (r *rig) readBodies() error {
	for e, want := range r.bodies {
		p := make([]byte, e.Length)
		if err := r.log.Read(e, p); err != nil {
			return fmt.Errorf("body %v: %w", e, err)
		}
		if e.Sum = crc32.Checksum(p, castagnoli); string(p) != string(want) {
			return fmt.Errorf("body %v: wrong bytes", e)
		}
	}
	return nil
}

// write writes a batch and keeps the books.
func (r *rig) write(b *Batch, sync bool) error {
	r.maybe = append(r.maybe, steps(b)...)
	err := r.log.Write(b, Durability(sync))
	if err != nil {
		return err
	}
	for _, c := range steps(b) {
		r.now.apply(&c)
	}
	if sync {
		r.synced()
	}
	return nil
}

func (r *rig) synced() {
	r.sure, r.maybe = r.now.clone(), nil
}

// act does one thing at random.
func (r *rig) act() error {
	switch n := r.rnd.IntN(20); {
	case n < 14:
		b := r.batch()
		return r.write(b, r.rnd.IntN(4) > 0)
	case n < 15:
		id := covey.ShardID(r.rnd.IntN(3))
		g := r.now.group(id)
		if g.last() == 0 {
			return nil
		}
		meta := &raftpb.SnapshotMetadata{Index: new(g.last() + r.rnd.Uint64N(3)), Term: new(g.hard.term + 1), ConfState: &raftpb.ConfState{Voters: []uint64{r.rnd.Uint64()}}}
		var b Batch
		b.Snapshot(id, meta)
		b.HardState(id, &raftpb.HardState{Term: new(g.hard.term + 1), Commit: meta.Index})
		return r.write(&b, true)
	case n < 16 && r.rnd.IntN(2) == 0:
		id := covey.ShardID(r.rnd.IntN(3))
		var b Batch
		g := r.now.group(id)
		b.Leave(id, &raftpb.HardState{Term: new(g.hard.term + 1), Vote: new(r.rnd.Uint64N(5))}, g.last(), g.term(g.last()))
		return r.write(&b, true)
	case n < 17:
		return r.copyBodies()
	case n < 19:
		return r.checkpoint()
	default:
		return r.remove()
	}
}

// batch makes changes for some groups: new entries, or others in the place of
// those that are not applied yet.
func (r *rig) batch() *Batch {
	var b Batch
	for id := range covey.ShardID(3) {
		if r.rnd.IntN(3) == 0 {
			continue
		}
		g := r.now.group(id)
		from, term := g.last()+1, g.hard.term+1
		if back := from - max(g.applied, g.prev.index) - 1; back > 0 && r.rnd.IntN(4) == 0 {
			from -= r.rnd.Uint64N(back + 1)
		}
		var ents []*raftpb.Entry
		for i := range r.rnd.Uint64N(5) {
			ents = append(ents, entry(term, from+i, r.rnd.IntN(3)*r.rnd.IntN(600)))
		}
		b.Append(id, ents)
		b.HardState(id, &raftpb.HardState{Term: new(term), Vote: new(r.rnd.Uint64N(5)), Commit: new(from - 1)})
		if r.rnd.IntN(5) == 0 {
			b.ConfState(id, &raftpb.ConfState{Voters: []uint64{1, r.rnd.Uint64()}, Learners: []uint64{3}}, g.applied)
		}
	}
	return &b
}

// checkpoint says that a group's database has what is on stable storage.
func (r *rig) checkpoint() error {
	id := covey.ShardID(r.rnd.IntN(3))
	g, sure := r.now.group(id), r.sure.group(id)
	index := min(g.last(), sure.last())
	if len(r.maybe) > 0 || index <= g.applied {
		return nil
	}
	g.applied = g.applied + 1 + r.rnd.Uint64N(index-g.applied)
	sure.applied = g.applied
	r.log.Applied(id, g.applied)
	// Bodies of applied entries are referred to.
	first, _ := r.log.Group(id).FirstIndex()
	for i := first; i <= g.applied; i++ {
		if e, err := r.log.Place(id, i); err != nil {
			return err
		} else if e.Length > 0 && r.rnd.IntN(3) == 0 {
			data := g.ents[i-g.prev.index-1].GetData()
			e.Sum = crc32.Checksum(data, castagnoli)
			r.bodies[e] = data
		}
	}
	return nil
}

// copyBodies moves some of the bodies in the oldest segments.
func (r *rig) copyBodies() error {
	var from []Extent
	for e := range r.bodies {
		from = append(from, e)
	}
	slices.SortFunc(from, func(a, b Extent) int {
		return int(a.Segment<<20+uint64(a.Offset)) - int(b.Segment<<20+uint64(b.Offset))
	})
	from = from[:min(len(from), 6)]
	to, err := r.log.CopyBodies(from)
	if err != nil {
		return err
	}
	for i := range from {
		data := r.bodies[from[i]]
		delete(r.bodies, from[i])
		if r.rnd.IntN(4) > 0 { // the others were expunged
			r.bodies[to[i]] = data
		}
	}
	r.synced()
	return nil
}

// remove removes a segment that nothing refers to, not always the oldest.
func (r *rig) remove() error {
	used := map[uint64]bool{}
	for e := range r.bodies {
		used[e.Segment] = true
	}
	for _, s := range r.log.Segments() {
		if used[s.Number] || r.rnd.IntN(3) == 0 {
			continue
		}
		err := r.log.Remove(s.Number)
		if errors.Is(err, covey.InUse) {
			continue
		}
		if err == nil {
			r.synced()
		}
		return err
	}
	return nil
}

// crash kills the process or cuts the power, and sometimes cuts it again while
// the log recovers.
func (r *rig) crash() error {
	if _, err := r.disk.Stat("/"); err == nil && r.rnd.IntN(2) == 0 {
		r.disk.StopAfter(1 << 30)
		return r.open()
	}
	r.disk.Crash(r.rnd.Uint64N(100))
	for r.rnd.IntN(3) == 0 {
		r.disk.StopAfter(r.rnd.IntN(4))
		if l, err := Open(r.cfg); err == nil {
			l.Close()
		} else if !errors.Is(err, durabletest.ErrPower) {
			return fmt.Errorf("recovery that is cut off: %w", err)
		}
		r.disk.Crash(r.rnd.Uint64N(100))
	}
	if faults := Check(r.cfg); faults != nil {
		return fmt.Errorf("check after the crash: %w", errors.Join(faults...))
	}
	return r.open()
}

// run works until the power goes or n things are done.
func (r *rig) run(n int) error {
	for range n {
		if err := r.act(); err != nil {
			if errors.Is(err, durabletest.ErrPower) {
				return nil
			}
			return err
		}
		if err := r.now.match(r.log); err != nil {
			return fmt.Errorf("while running: %w", err)
		}
	}
	return nil
}

// F-10, F-11, F-13: whatever the moment of the crash, all that Write reported as
// synced is there byte for byte, nothing is there that was not written, and a
// crash during the recovery changes nothing about it.
func TestF13_RandomCrashes(t *testing.T) {
	rounds := uint64(150)
	if testing.Short() {
		rounds = 40
	}
	for seed := range rounds {
		r := newRig(seed)
		if err := r.open(); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		for life := range 6 {
			r.disk.StopAfter(r.rnd.IntN(90))
			if err := r.run(30); err != nil {
				t.Fatalf("seed %d, life %d: %v", seed, life, err)
			}
			if err := r.crash(); err != nil {
				t.Fatalf("seed %d, life %d: after the crash: %v", seed, life, err)
			}
		}
		r.log.Close()
	}
}
