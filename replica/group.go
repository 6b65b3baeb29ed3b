package replica

import (
	"errors"
	"log/slog"
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

	forward bool // proposals go to the leader, whoever that is

	sinceCheckpoint atomic.Int64 // bytes applied since the last checkpoint
	covered         uint64       // the state lacks no command up to this index; of the applier

	taking sync.WaitGroup // the fetch of a copy

	// Of the applier: the membership as of what it has applied, and the copies that
	// are open.
	applyConf      *raftpb.ConfState
	applyConfIndex uint64
	copies         []*offer

	closed bool // the state machine is; of the applier, and of Run after it

	// Owned by the loop.
	rn            *raft.RawNode
	conf          *raftpb.ConfState
	confIndex     uint64 // of the entry that brought conf
	confAt        uint64 // tick at which it did
	dirty         bool   // is in loop.dirty
	dead          bool   // takes no part any more
	lead          covey.NodeID
	leads         bool // this node is the leader
	announced     Leadership
	term, vote    uint64 // of the hard state
	committed     uint64
	termStart     uint64            // index of the first entry of the term this node leads, 0 if not known
	hard          *raftpb.HardState // not yet in a batch
	hardMarked    bool              // is in loop.hard
	proposals     []*proposal       // waiting to be stepped
	proposalBytes int64             // theirs
	asked         []*proposal       // sent to the leader, which has not answered
	seen          seen
	since         map[covey.NodeID]uint64 // while this node leads: index of the change that made a node a member in this term
	life          life
	former        position        // the last entry of this replica's former life here
	offers        []*offer        // copies that followers may fetch; not empty for a leader only
	opening       bool            // another is being opened
	openAfter     uint64          // tick before which none is
	fetch         *fetch          // the copy on its way here; nil: none
	offered       *raftpb.Message // offers the next one
	fetchAfter    uint64          // tick before which none is begun
	staged        *fetch          // was shown to the core, which has not said what it does with it
	installing    *install        // the copy that the core took
	reads         readRounds
	change        *change                 // the membership change under way
	holding       int                     // works held until a membership is on disk
	lostAt        uint64                  // tick at which leadership was lost last
	dueAt         uint64                  // tick of the next checkpoint
	heard         map[covey.NodeID]uint64 // tick at which a member last answered this leader
	doubt         doubt                   // not zero: the leader is suspected
	removal       *removal                // not nil: the group leaves this node

	mu           sync.Mutex // guards the following; held for moments only
	waiting      map[uint64]*proposal
	waitingBytes int64
	lost         bool    // some of waiting were stepped under a leadership that ended
	readers      []*read // know their index, wait for it to be applied
	numReads     int
	applied      uint64
	status       Status // Applied, Last and Fault are filled in when asked
	err          error  // why the group stopped, or left
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

// fault returns why the group stopped, nil if it did not.
func (g *group) fault() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.err
}

// fail stops the group on this node: whoever waits is told, later callers are
// refused, the loop forgets it. The other groups go on.
func (g *group) fail(err error) {
	// What was under way may be in the log, and may be applied once the fault is
	// mended; but asking again now is no use.
	if !g.halt(err, covey.Internal) {
		return
	}
	g.h.metrics.stopped.Inc()
	g.out.Error("group stopped", "error", err)
	g.h.events.put(failed{g})
}

// halt ends the group's service here, unless that has happened. Callers whose
// proposals may yet be applied get an error of the kind given.
func (g *group) halt(reason error, underWay covey.Kind) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.err != nil {
		return false
	}
	g.err = reason
	g.answerAllLocked(underWay, reason)
	return true
}

// answerAllLocked answers whoever waits.
func (g *group) answerAllLocked(underWay covey.Kind, reason error) {
	for _, p := range g.waiting {
		kind := covey.Unavailable
		if p.stepped {
			kind = underWay
		}
		g.answerLocked(p, nil, covey.Errorf(kind, "shard %d has stopped: %w", g.id, reason))
	}
	for _, r := range g.readers {
		r.done <- covey.Errorf(covey.Unavailable, "shard %d has stopped: %w", g.id, reason)
	}
	g.readers = nil
}

// failed tells the loop that a group is no more.
type failed struct{ group *group }

func (f failed) handle(l *loop) { l.bury(f.group) }
func (failed) drop(*loop)       {}

// errStopping is why a group takes no part any more when the host stops.
var errStopping = errors.New("the node stops")

// abandon answers whoever still waits when the host has stopped.
func (g *group) abandon() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.answerAllLocked(covey.Unknown, errStopping)
}
