package seglog

import (
	"slices"
	"sync"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/covey-mail/covey"
)

// A Group is one Raft group's part of the log. It implements raft.Storage; its
// methods may be called by any number of goroutines, also beside Write.
type Group struct {
	id  covey.ShardID
	log *Log

	plan struct { // guarded by Log.write: what the batch being checked leads to
		turn       uint64
		prev, last uint64
		empty      bool
	}

	mu        sync.RWMutex // guards what follows
	prev      position     // the entry before slots[0]
	noted     position     // the prev that a restart would find
	slots     []slot       // entry prev.index+1+i is slots[i]
	applied   uint64       // as told by Log.Applied
	kept      int64        // cost of the slots up to applied
	hard      hardState
	conf      *raftpb.ConfState // replaced, never changed; nil: none was written
	confIndex uint64
	snapshots func() (*raftpb.Snapshot, error)
}

var _ raft.Storage = (*Group)(nil)

// A slot is what memory keeps of an entry: 40 bytes.
type slot struct {
	term    uint64
	segment uint64
	offset  uint32 // of the record
	length  uint32 // of the payload
	entry   raftpb.EntryType
	ent     *raftpb.Entry // nil: not cached
}

// cost is what an entry counts against Config.Keep. The floor bounds the slots
// that a group of tiny entries holds.
func (s *slot) cost() int64 { return max(recordHeader+int64(s.length), 1<<10) }

func (g *Group) last() uint64 { return g.prev.index + uint64(len(g.slots)) }

// begin starts the check of a batch.
func (g *Group) begin(turn uint64) {
	if g.plan.turn == turn {
		return
	}
	g.mu.RLock()
	defer g.mu.RUnlock()
	g.plan.turn, g.plan.prev, g.plan.last, g.plan.empty = turn, g.prev.index, g.last(), g.emptyLocked()
}

// admit refuses a record that the group cannot take after those before it.
func (g *Group) admit(r *record) error {
	p := &g.plan
	switch r.kind {
	case kindEntry:
		if r.index <= p.prev || r.index > p.last+1 {
			return covey.Errorf(covey.Invalid, "write log: group %d: entry %d does not fit entries %d to %d", g.id, r.index, p.prev+1, p.last)
		}
		p.last = r.index
	case kindSnapshot:
		if r.index < p.prev && !p.empty {
			return covey.Errorf(covey.Invalid, "write log: group %d: snapshot at %d is older than the first entry %d", g.id, r.index, p.prev+1)
		}
		p.prev, p.last, p.empty = r.index, r.index, false
	}
	return nil
}

// applyLocked makes a record that was written visible.
func (g *Group) applyLocked(c *change, segment uint64, offset uint32) {
	switch c.kind {
	case kindEntry:
		g.cutLocked(c.index)
		g.slots = append(g.slots, slot{
			term: c.term, segment: segment, offset: offset, length: c.length, entry: c.entry,
		})
	case kindHardState:
		g.hard = hardState{term: c.term, vote: c.vote, commit: c.index}
	case kindConfState:
		g.conf, g.confIndex = c.conf, c.index
	case kindFirst:
		g.noted = position{c.index, c.term}
	case kindSnapshot:
		g.prev, g.slots = position{c.index, c.term}, nil
		g.noted = g.prev
		g.applied, g.kept = c.index, 0
		g.restartLocked(c)
	}
}

// restartLocked takes the membership of a snapshot; none if the group left.
func (g *Group) restartLocked(c *change) {
	g.conf, g.confIndex = c.conf, c.index
	if len(c.conf.GetVoters()) == 0 {
		g.conf, g.confIndex = nil, 0
	}
}

// cutLocked drops the entries from index on.
func (g *Group) cutLocked(index uint64) {
	if index > g.last() {
		return
	}
	keep := index - min(index, g.prev.index+1)
	clear(g.slots[keep:])
	g.slots = g.slots[:keep]
	if g.applied > g.last() { // only of a log that the state machine outran
		g.applied = g.last()
		g.kept = 0
		for i := range g.slots {
			g.kept += g.slots[i].cost()
		}
	}
}

// dropLocked moves the first entry behind index, which is at most the last one.
func (g *Group) dropLocked(index uint64) {
	if index <= g.prev.index {
		return
	}
	n := index - g.prev.index
	for i := range g.slots[:n] {
		if g.prev.index+uint64(i)+1 <= g.applied {
			g.kept -= g.slots[i].cost()
		}
	}
	g.prev = position{index, g.slots[n-1].term}
	rest := g.slots[n:]
	switch {
	case uint64(len(rest)) > n:
		clear(g.slots[:n]) // lets go of cached entries; append moves the others some day
		g.slots = rest
	case cap(g.slots) > 4*len(rest)+64:
		g.slots = slices.Clone(rest)
	default:
		m := copy(g.slots, rest)
		clear(g.slots[m:])
		g.slots = g.slots[:m]
	}
}

// slotLocked finds an entry. The errors are those of raft.Storage.
func (g *Group) slotLocked(index uint64) (*slot, error) {
	switch {
	case index <= g.prev.index:
		return nil, raft.ErrCompacted
	case index > g.last():
		return nil, raft.ErrUnavailable
	}
	return &g.slots[index-g.prev.index-1], nil
}

// InitialState returns the hard state and the membership that were written last,
// as they are: the commit index may be behind what a state machine has applied.
// The hard state is nil if there is none.
func (g *Group) InitialState() (*raftpb.HardState, *raftpb.ConfState, error) {
	g.mu.RLock()
	defer g.mu.RUnlock()
	cs := raftpb.EnsureConfState(cloneConf(g.conf))
	if g.hard == (hardState{}) {
		return nil, cs, nil
	}
	return &raftpb.HardState{Term: new(g.hard.term), Vote: new(g.hard.vote), Commit: new(g.hard.commit)}, cs, nil
}

// ConfState returns the membership and the index that it is as of; nil if none
// was ever written.
func (g *Group) ConfState() (*raftpb.ConfState, uint64) {
	g.mu.RLock()
	defer g.mu.RUnlock()
	return cloneConf(g.conf), g.confIndex
}

// Empty reports whether the log has neither entries nor a membership of the
// group: it was never here, or it left, or it has not heard of its leader. A
// term and a vote may be known, and the last entry before it left: LastIndex.
func (g *Group) Empty() bool {
	g.mu.RLock()
	defer g.mu.RUnlock()
	return g.emptyLocked()
}

func (g *Group) emptyLocked() bool { return len(g.slots) == 0 && g.conf == nil }

// Term implements raft.Storage.
func (g *Group) Term(index uint64) (uint64, error) {
	g.mu.RLock()
	defer g.mu.RUnlock()
	if index == g.prev.index {
		return g.prev.term, nil
	}
	s, err := g.slotLocked(index)
	if err != nil {
		return 0, err
	}
	return s.term, nil
}

// FirstIndex implements raft.Storage. Applied and Remove move it.
func (g *Group) FirstIndex() (uint64, error) {
	g.mu.RLock()
	defer g.mu.RUnlock()
	return g.prev.index + 1, nil
}

// LastIndex implements raft.Storage. A state machine that has applied more than
// this after Open belongs to a log that was damaged or replaced: the node must
// be replaced.
func (g *Group) LastIndex() (uint64, error) {
	g.mu.RLock()
	defer g.mu.RUnlock()
	return g.last(), nil
}

// SetSnapshots sets where Snapshot takes its answer. It is called before the
// group's Raft node is made.
func (g *Group) SetSnapshots(source func() (*raftpb.Snapshot, error)) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.snapshots = source
}

// Snapshot implements raft.Storage. Without a source it is temporarily
// unavailable.
func (g *Group) Snapshot() (*raftpb.Snapshot, error) {
	g.mu.RLock()
	source := g.snapshots
	g.mu.RUnlock()
	if source == nil {
		return nil, raft.ErrSnapshotTemporarilyUnavailable
	}
	return source()
}
