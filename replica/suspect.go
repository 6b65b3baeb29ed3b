package replica

import (
	"slices"

	"github.com/covey-mail/covey"
)

// staggerTicks lie between the tries of one voter to be elected and those of the
// next, when their leader is suspected: time for two rounds of messages and two
// fsyncs.
const staggerTicks = 3

// Suspect tells that a node cannot be reached, as far as this one can see. Groups
// that it leads do not wait until they miss it: they look for another leader at
// once. A suspicion that is wrong costs at most a change of leader: voters that
// still hear the old one elect no other, so that it takes a majority of wrong ones.
// It does not block.
func (h *Host) Suspect(node covey.NodeID) { h.events.put(suspected{node}) }

// suspected tells the loop of a node that cannot be reached.
type suspected struct{ node covey.NodeID }

func (e suspected) handle(l *loop) {
	if l.drainBy != 0 || e.node == l.h.cfg.Node {
		return
	}
	for _, g := range l.groups {
		if !g.dead && g.lead == e.node && g.votes(l.h.cfg.Node) {
			l.guard(g, func() { l.doubt(g) })
			l.mark(g)
		}
	}
}

func (suspected) drop(*loop) {}

// A doubt is what a voter does about a leader that is suspected: it has forgotten
// it, so that it grants others their pre-vote, and stands for election itself from
// time to time. Pre-vote sees to it that this does no harm as long as a majority
// hears the leader.
type doubt struct {
	leader covey.NodeID // 0: no doubt
	began  uint64       // tick
	next   uint64       // tick of the next try
	every  uint64       // ticks between two
}

// doubt makes the group look for another leader. The voters that are left stand
// for election one after the other, so that votes are not split; which of them is
// first goes by the group, so that all groups of a node that died do not go to the
// same one.
func (l *loop) doubt(g *group) {
	var voters []uint64
	for _, id := range g.conf.GetVoters() {
		if id != uint64(g.lead) {
			voters = append(voters, id)
		}
	}
	slices.Sort(voters)
	n := uint64(len(voters))
	at := uint64(slices.Index(voters, uint64(l.h.cfg.Node)))
	turn := (at + n - uint64(g.id)%n) % n
	g.out.Info("leader suspected", "leader", g.lead.String(), "term", g.term)
	g.doubt = doubt{leader: g.lead, began: l.ticks, next: l.ticks + 1 + turn*staggerTicks, every: n * staggerTicks}
	g.forgetLeader()
}

func (g *group) forgetLeader() {
	if err := g.rn.ForgetLeader(); err != nil {
		g.out.Warn("forget leader", "error", err)
	}
}

// tickDoubt stands for election when it is this node's turn. After an election
// timeout without success, time decides as ever.
func (g *group) tickDoubt(now uint64) {
	d := &g.doubt
	if d.leader == 0 {
		return
	}
	if g.lead == d.leader && now == d.began+1 {
		g.forgetLeader() // what it sent last came only now; if it lives, it is heard again
		return
	}
	if g.lead != 0 || now > d.began+uint64(g.h.cfg.ElectionTicks) {
		g.doubt = doubt{}
		return
	}
	if now >= d.next {
		d.next += d.every
		if err := g.rn.Campaign(); err != nil {
			g.out.Warn("campaign", "error", err)
		}
	}
}
