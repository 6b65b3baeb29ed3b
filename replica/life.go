package replica

import (
	"slices"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/covey-mail/covey"
)

// A replica that left a node and comes back there within one term of the leader
// is a stranger under an old name: what its former life acknowledged it does not
// have. Such an acknowledgement may still be on its way, and the core would take
// it: the leader would believe for the rest of its term that the follower has what
// it has not, and would never send it. So messages of a leader say since when the
// follower is a member, and the follower repeats it.

// A life is what a follower knows of its membership in a term. Owned by the loop.
type life struct{ term, since uint64 }

// sinceOf returns what a message says of lives.
func (g *group) sinceOf(to covey.NodeID, m *raftpb.Message) uint64 {
	switch {
	case g.leads:
		return g.since[to]
	case m.GetTerm() == g.life.term:
		return g.life.since
	}
	return 0
}

// noteMembers takes note, at the leader, of nodes that became members or are none
// any more.
func (g *group) noteMembers(before *raftpb.ConfState) {
	if !g.leads {
		return
	}
	for _, id := range members(before) {
		if !slices.Contains(members(g.conf), id) {
			delete(g.since, covey.NodeID(id))
		}
	}
	for _, id := range members(g.conf) {
		if !slices.Contains(members(before), id) {
			g.since[covey.NodeID(id)] = g.confIndex
		}
	}
}

func members(cs *raftpb.ConfState) []uint64 {
	return slices.Concat(cs.GetVoters(), cs.GetLearners(), cs.GetVotersOutgoing(), cs.GetLearnersNext())
}

// ofThisLife reports whether a message is not from a former life of its sender,
// and learns of this node's.
func (g *group) ofThisLife(from covey.NodeID, m Message) bool {
	switch m.Message.GetType() {
	case raftpb.MsgApp, raftpb.MsgHeartbeat, raftpb.MsgSnap:
		if term := m.Message.GetTerm(); term > g.life.term {
			g.life = life{term, m.Since}
		} else if term == g.life.term {
			g.life.since = max(g.life.since, m.Since)
		}
	case raftpb.MsgAppResp, raftpb.MsgHeartbeatResp:
		return !g.leads || m.Message.GetTerm() != g.term || m.Since == g.since[from]
	}
	return true
}

// A position is an entry's index and term.
type position struct{ index, term uint64 }

// behind reports whether a log that ends at p is less up to date than one that
// ends at q, in the sense of Raft's elections.
func (p position) behind(q position) bool {
	return p.term < q.term || p.term == q.term && p.index < q.index
}

// lastEntry returns the last entry that this replica, or its former life, may have
// acknowledged.
func (g *group) lastEntry() (position, error) {
	last, err := g.log.LastIndex()
	if err != nil {
		return position{}, err
	}
	term, err := g.log.Term(last)
	if err != nil {
		return position{}, err
	}
	return position{last, term}, nil
}

// blank reports whether this replica has no membership: it came to a group that
// goes on elsewhere, and has no copy of the state yet. It does not vote. If it is
// one that left and came back, others may still count on what it had then: a node
// that does not know of its leaving could be elected by it, over entries that a
// majority committed with its help. With a copy that is not behind what it had
// (see copyOffered), it refuses those that its former life would have refused.
func (g *group) blank() bool { return len(g.conf.GetVoters()) == 0 }
