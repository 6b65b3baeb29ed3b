package replica

import (
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/storage/seglog"
)

// A group is one Raft group on this node.
type group struct {
	id   covey.ShardID
	h    *Host
	log  *seglog.Group
	sm   StateMachine
	work *queue[work]
	out  *slog.Logger

	sinceCheckpoint atomic.Int64 // bytes applied since the last checkpoint

	// Owned by the loop.
	rn         *raft.RawNode
	conf       *raftpb.ConfState
	confIndex  uint64 // of the entry that brought conf
	dirty      bool   // is in loop.dirty
	dead       bool   // takes no part any more
	lead       covey.NodeID
	leads      bool   // this node is the leader
	term       uint64 // of the hard state
	committed  uint64
	termStart  uint64            // index of the first entry of the term this node leads, 0 if not known
	hard       *raftpb.HardState // not yet in a batch
	hardMarked bool              // is in loop.hard
	proposals  []*proposal       // waiting to be stepped
	reads      readRounds
	change     *change // the membership change under way
	holding    int     // works held until a membership is on disk
	lostAt     uint64  // tick at which leadership was lost last
	dueAt      uint64  // tick of the next checkpoint

	mu           sync.Mutex // guards the following; held for moments only
	waiting      map[uint64]*proposal
	waitingBytes int64
	lost         bool    // some of waiting were stepped under a leadership that ended
	readers      []*read // know their index, wait for it to be applied
	numReads     int
	applied      uint64
	status       Status // Applied, Last and Fault are filled in when asked
	err          error  // why the group stopped
}

// Add brings a group to this node, before Run. The Host owns sm from then on,
// and Run closes it; after an error it is still the caller's. voters is the
// membership that the group begins with, the same on each of them, and matters
// only if the log holds nothing of the group.
//
// A log that does not reach what sm has applied, or does not connect to it, is
// damage and refused with Corrupt: the node promised what it no longer has and
// must be replaced.
func (h *Host) Add(id covey.ShardID, sm StateMachine, voters []covey.NodeID) error {
	if h.groups[id] != nil {
		return covey.Errorf(covey.Exists, "add shard %d: it is there already", id)
	}
	g := &group{
		id: id, h: h, sm: sm,
		log:     h.cfg.Log.Group(id),
		work:    newQueue[work](),
		out:     h.cfg.Logger.With("shard", uint32(id)),
		waiting: map[uint64]*proposal{},
		applied: sm.Applied(),
	}
	if err := g.open(voters); err != nil {
		return fmt.Errorf("add shard %d: %w", id, err)
	}
	h.groups[id] = g
	h.order = append(h.order, g)
	return nil
}

// open checks the log against the state machine and makes the Raft core.
func (g *group) open(voters []covey.NodeID) error {
	hs, _, err := g.log.InitialState()
	if err != nil {
		return err
	}
	cs, confIndex := g.log.ConfState()
	last, err := g.log.LastIndex()
	if err != nil {
		return err
	}
	if len(cs.GetVoters()) == 0 {
		if last != 0 || g.applied != 0 || !raft.IsEmptyHardState(hs) {
			return covey.Errorf(covey.Corrupt, "the log holds no membership but ends at %d, and %d was applied", last, g.applied)
		}
		if cs, err = g.bootstrap(voters); err != nil {
			return err
		}
	} else if err := g.checkLog(hs, last); err != nil {
		return err
	}
	start := &startState{Group: g.log, applied: g.applied}
	cfg := g.h.cfg.raftConfig(start, g.applied, raftLogger{g.out})
	if g.rn, err = newRawNode(g.id, cfg); err != nil {
		return err
	}
	g.conf, g.confIndex = cs, confIndex
	g.term, g.committed = hs.GetTerm(), max(hs.GetCommit(), g.applied)
	g.publish()
	return nil
}

// newRawNode turns the core's panics over a log that cannot be read into errors.
func newRawNode(id covey.ShardID, cfg *raft.Config) (rn *raft.RawNode, err error) {
	defer func() {
		if v := recover(); v != nil {
			err = asFault(id, "start", v)
		}
	}()
	return raft.NewRawNode(cfg)
}

// checkLog refuses a log that lost something this node vouched for.
func (g *group) checkLog(hs *raftpb.HardState, last uint64) error {
	first, err := g.log.FirstIndex()
	if err != nil {
		return err
	}
	switch {
	case last < g.applied:
		return covey.Errorf(covey.Corrupt, "the log ends at %d, but %d was applied: records are lost", last, g.applied)
	case first > g.applied+1:
		return covey.Errorf(covey.Corrupt, "the log begins at %d, but only %d was applied: the state is older than the log", first, g.applied)
	case hs.GetCommit() > last:
		return covey.Errorf(covey.Corrupt, "the log ends at %d, but %d was committed: records are lost", last, hs.GetCommit())
	}
	term, err := g.log.Term(last)
	if err != nil {
		return fmt.Errorf("term of entry %d: %w", last, err)
	}
	if term > hs.GetTerm() {
		return covey.Errorf(covey.Corrupt, "the last entry is of term %d, but the hard state of term %d: records are lost", term, hs.GetTerm())
	}
	return nil
}

// bootstrap writes the first membership. The log begins at index 1 on every
// voter; nothing was voted, so no entry is needed to agree on it.
func (g *group) bootstrap(voters []covey.NodeID) (*raftpb.ConfState, error) {
	ids := make([]uint64, 0, len(voters))
	for _, v := range voters {
		ids = append(ids, uint64(v))
	}
	slices.Sort(ids)
	if len(ids) == 0 || ids[0] == 0 || len(slices.Compact(slices.Clone(ids))) != len(ids) {
		return nil, covey.Errorf(covey.Invalid, "voters %v of a new group", voters)
	}
	cs := &raftpb.ConfState{Voters: ids}
	var b seglog.Batch
	b.ConfState(g.id, cs, 0)
	if err := g.h.cfg.Log.Write(&b, seglog.Synced); err != nil {
		return nil, fmt.Errorf("write first membership: %w", err)
	}
	return cs, nil
}

// startState is the group's log as the core sees it at start: what was applied
// is committed, even if the commit index that says so never reached the disk.
type startState struct {
	*seglog.Group
	applied uint64
}

func (s *startState) InitialState() (*raftpb.HardState, *raftpb.ConfState, error) {
	hs, cs, err := s.Group.InitialState()
	if err == nil && s.applied > hs.GetCommit() {
		hs = &raftpb.HardState{Term: new(hs.GetTerm()), Vote: new(hs.GetVote()), Commit: new(s.applied)}
	}
	return hs, cs, err
}

// solo reports whether this node alone is the quorum.
func (g *group) solo() bool {
	v := g.conf.GetVoters()
	return len(v) == 1 && v[0] == uint64(g.h.cfg.Node) && len(g.conf.GetVotersOutgoing()) == 0
}

// current reports whether this node leads and knows all that was committed
// before its term.
func (g *group) current() bool {
	return g.leads && g.termStart != 0 && g.committed >= g.termStart
}

// publish makes the loop's view visible to Status and to reads.
func (g *group) publish() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.status.Group = g.id
	g.status.Leader, g.status.Term, g.status.Committed = g.lead, g.term, g.committed
	if g.status.Voters == nil {
		g.status.Voters = nodeIDs(g.conf.GetVoters())
		g.status.Learners = nodeIDs(g.conf.GetLearners())
	}
	g.reads.local = g.solo() && g.current()
}

func (g *group) snapshotStatus() Status {
	last, err := g.log.LastIndex()
	g.mu.Lock()
	defer g.mu.Unlock()
	s := g.status
	s.Voters, s.Learners = slices.Clone(s.Voters), slices.Clone(s.Learners)
	s.Applied, s.Last, s.Fault = g.applied, last, g.err
	if s.Fault == nil {
		s.Fault = err
	}
	return s
}

// fault returns why the group stopped, nil if it did not.
func (g *group) fault() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.err
}

// fail stops the group on this node: whoever waits is told, later callers are
// refused, the loop forgets it. The other groups go on.
func (g *group) fail(err error) {
	g.mu.Lock()
	if g.err != nil {
		g.mu.Unlock()
		return
	}
	g.err = err
	// Their commands may be in the log, and may be applied once the fault is
	// mended; but asking again now is no use.
	g.answerAllLocked(covey.Errorf(covey.Internal, "shard %d has stopped: %w", g.id, err))
	g.failReadersLocked(covey.Errorf(covey.Unavailable, "shard %d has stopped: %w", g.id, err))
	g.mu.Unlock()
	g.h.metrics.stopped.Inc()
	g.out.Error("group stopped", "error", err)
	g.h.events.put(failed{g})
}

// failed tells the loop that a group is no more.
type failed struct{ group *group }

func (f failed) handle(l *loop) { l.bury(f.group) }

// abandon answers whoever still waits when the host has stopped.
func (g *group) abandon() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, p := range g.waiting {
		if p.stepped {
			g.answerLocked(p, nil, covey.Errorf(covey.Unknown, "shard %d: stopped before the outcome was known", g.id))
		} else {
			g.answerLocked(p, nil, covey.Errorf(covey.Unavailable, "shard %d: stopping", g.id))
		}
	}
	g.failReadersLocked(covey.Errorf(covey.Unavailable, "shard %d: stopping", g.id))
}
