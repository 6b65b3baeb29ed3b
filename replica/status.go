package replica

import (
	"cmp"
	"slices"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"go.etcd.io/raft/v3/tracker"

	"github.com/covey-mail/covey"
)

// Status tells how a group is doing, as seen from this node.
type Status struct {
	Group     covey.ShardID
	Leader    covey.NodeID // 0 for none known
	Term      uint64
	Applied   uint64 // last index applied here
	Committed uint64 // last index known to be committed
	Last      uint64 // last index in the log here
	Voters    []covey.NodeID
	Learners  []covey.NodeID
	Joint     bool       // between two memberships, of which both majorities must agree; Voters are those of the next
	Followers []Follower // if this node leads: the other members, by node, as of the last tick
	Receiving bool       // a copy of the state is on its way from the leader
	Fault     error      // not nil: the group has stopped on this node, and why
}

// A Follower is another member of a group, as its leader sees it.
type Follower struct {
	Node     covey.NodeID
	Match    uint64 // last index that it is known to have
	Learner  bool
	Active   bool // heard within the last two election timeouts
	Snapshot bool // it is sent a copy of the state, as the log does not have what it needs
}

// A Leadership tells who leads a group, as seen from this node.
type Leadership struct {
	Group  covey.ShardID
	Leader covey.NodeID // 0 for none known
	Term   uint64
}

// Status returns the state of every group in the order of Add. It does not
// wait for the loop and may be a moment old.
func (h *Host) Status() []Status {
	h.mu.RLock()
	order := slices.Clone(h.order)
	h.mu.RUnlock()
	all := make([]Status, 0, len(order))
	for _, g := range order {
		all = append(all, g.snapshotStatus())
	}
	return all
}

func (g *group) snapshotStatus() Status {
	last, err := g.log.LastIndex()
	g.mu.Lock()
	defer g.mu.Unlock()
	s := g.status
	s.Voters, s.Learners, s.Followers = slices.Clone(s.Voters), slices.Clone(s.Learners), slices.Clone(s.Followers)
	s.Applied, s.Last, s.Fault = g.applied, last, g.err
	if s.Fault == nil {
		s.Fault = err
	}
	return s
}

// publish makes the loop's view visible to Status and to reads.
func (g *group) publish() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.status.Group = g.id
	g.status.Leader, g.status.Term, g.status.Committed = g.lead, g.term, g.committed
	if !g.leads {
		g.status.Followers = nil
	}
	g.status.Receiving = g.fetch != nil || g.installing != nil
	g.reads.local = g.solo() && g.current()
}

// publishMembers makes the membership visible to Status.
func (g *group) publishMembers() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.status.Voters, g.status.Learners = nodeIDs(g.conf.GetVoters()), nodeIDs(g.conf.GetLearners())
	g.status.Joint = len(g.conf.GetVotersOutgoing()) > 0
}

// announce tells the node who leads, if that is news.
func (l *loop) announce(g *group) {
	news := Leadership{Group: g.id, Leader: g.lead, Term: g.term}
	if news == g.announced {
		return
	}
	g.announced = news
	if l.h.cfg.Led != nil {
		l.h.cfg.Led(news)
	}
}

// tickFollowers looks how the other members are doing.
func (l *loop) tickFollowers(g *group) {
	if (!g.leads || g.solo() && len(g.conf.GetLearners()) == 0) && len(g.offers) == 0 {
		return
	}
	members := map[covey.NodeID]tracker.Progress{}
	if g.leads {
		g.rn.WithProgress(func(id uint64, _ raft.ProgressType, pr tracker.Progress) {
			if id != uint64(l.h.cfg.Node) {
				members[covey.NodeID(id)] = pr
			}
		})
	}
	g.noteFollowers(members, l.ticks)
	l.tickOffers(g, members)
}

func (g *group) noteFollowers(members map[covey.NodeID]tracker.Progress, now uint64) {
	var all []Follower
	for node, pr := range members {
		all = append(all, Follower{
			Node: node, Match: pr.Match, Learner: pr.IsLearner,
			Active:   g.heardWithin(node, now, 2*g.h.cfg.ElectionTicks),
			Snapshot: pr.State == tracker.StateSnapshot,
		})
	}
	slices.SortFunc(all, func(a, b Follower) int { return cmp.Compare(a.Node, b.Node) })
	g.mu.Lock()
	defer g.mu.Unlock()
	g.status.Followers = all
}

// hear notes that a member answers this leader. The core's own RecentActive is true
// of a member that is new, and for an election timeout of one that has gone.
func (g *group) hear(from covey.NodeID, m *raftpb.Message, now uint64) {
	switch m.GetType() {
	case raftpb.MsgAppResp, raftpb.MsgHeartbeatResp:
		if g.leads && m.GetTerm() == g.term {
			g.heard[from] = now
		}
	}
}

// heardWithin reports whether a member answered this leader within so many ticks.
func (g *group) heardWithin(node covey.NodeID, now uint64, ticks int) bool {
	at, heard := g.heard[node]
	return heard && now-at <= uint64(ticks)
}

func nodeIDs(ids []uint64) []covey.NodeID {
	nodes := make([]covey.NodeID, 0, len(ids))
	for _, id := range ids {
		nodes = append(nodes, covey.NodeID(id))
	}
	return nodes
}
