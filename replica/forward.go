package replica

import (
	"bytes"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/covey-mail/covey"
)

// Proposals of members that do not lead. The member sends the entry to the
// leader, with the term that it leads, and again until it is answered; the leader
// proposes it once, and remembers what it answered for as long as it may be asked
// again. So an answer is final, and a message that is lost or comes twice changes
// nothing. The result comes from the member's own state machine.

// maxSeen bounds how many proposals of others a leader remembers. A member asks
// again for some seconds only.
const maxSeen = 1 << 16

// seen is what a leader did with the proposals of others in one term. Owned by
// the loop.
type seen struct {
	term     uint64
	verdicts map[origin]*verdict
	order    []origin // of verdicts, the oldest first; a ring once it is full
	next     int      // in order: the oldest
}

// An origin names a proposal.
type origin struct {
	node  covey.NodeID
	nonce uint64
}

// A verdict is an answer, or a proposal that was accepted and has no place in the
// log yet.
type verdict struct {
	Answer
	pending bool
}

// reset forgets the proposals of earlier terms, which nobody accepts any more.
func (s *seen) reset(term uint64) { *s = seen{term: term, verdicts: map[origin]*verdict{}} }

func (s *seen) add(o origin, v *verdict) {
	s.verdicts[o] = v
	if len(s.order) < maxSeen {
		s.order = append(s.order, o)
		return
	}
	delete(s.verdicts, s.order[s.next])
	s.order[s.next] = o
	s.next = (s.next + 1) % maxSeen
}

// sendProposals sends what waits to the leader, and keeps it for another time.
func (l *loop) sendProposals(g *group) {
	for _, p := range g.proposals {
		g.mu.Lock()
		waits := g.waiting[p.nonce] == p
		if waits {
			p.stepped, p.leader, p.term = true, g.lead, g.term
			p.deadline, g.lost = l.ticks+4*uint64(l.h.cfg.ElectionTicks), true
		}
		g.mu.Unlock()
		if !waits { // its caller has gone
			g.release([]*proposal{p})
			continue
		}
		g.asked = append(g.asked, p)
		l.sendProposal(g, p)
	}
	g.proposals, g.proposalBytes = nil, 0
}

func (l *loop) sendProposal(g *group, p *proposal) {
	p.retryAt = l.ticks + max(1, uint64(l.h.cfg.ElectionTicks)/2)
	l.outbox[p.leader] = append(l.outbox[p.leader], Message{Group: g.id, Proposal: &Proposal{Term: p.term, Data: bytes.Clone(*p.data)}})
}

// tickForwarded asks again for what the leader has not answered.
func (l *loop) tickForwarded(g *group) {
	kept := g.asked[:0]
	for _, p := range g.asked {
		g.mu.Lock()
		waits := g.waiting[p.nonce] == p && p.index == 0
		g.mu.Unlock()
		if !waits || p.term != g.term {
			g.release([]*proposal{p})
			continue
		}
		kept = append(kept, p)
		if l.ticks >= p.retryAt {
			l.sendProposal(g, p)
		}
	}
	clear(g.asked[len(kept):])
	g.asked = kept
}

// leaderLost starts the clock for what was sent to a leader that leads no more,
// or that is not heard.
func (g *group) leaderLost(deadline uint64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, p := range g.waiting {
		if p.term != 0 && (p.term != g.term || g.lead == 0) && (p.deadline == 0 || p.deadline > deadline) {
			p.deadline = deadline
			g.lost = true
		}
	}
}

// proposed takes in a proposal of another member.
func (l *loop) proposed(g *group, from covey.NodeID, p *Proposal) {
	node, nonce, _, err := splitFrame(p.Data)
	if err != nil || node != from || p.Term != g.seen.term || g.dead {
		// Not said to be refused: in a term of which nothing is remembered, it may
		// have been accepted when it came for the first time.
		return
	}
	o := origin{node, nonce}
	v := g.seen.verdicts[o]
	if v == nil {
		v = &verdict{Answer: Answer{Term: p.Term, Nonce: nonce}, pending: true}
		g.seen.add(o, v)
		if err := l.proposeFor(g, p); err != nil {
			v.Kind, v.Text, v.pending = covey.KindOf(err), err.Error(), false
		}
	}
	if !v.pending {
		l.sendAnswer(g, from, v.Answer)
	}
}

// proposeFor hands another member's entry to the core.
func (l *loop) proposeFor(g *group, p *Proposal) (err error) {
	switch {
	case l.drainBy != 0:
		return g.refuse(refusedStopping, "stopping")
	case l.h.full.Load():
		l.h.refused(refusedDiskFull)
		return covey.Errorf(covey.DiskFull, "shard %d: the leader's log has no room", g.id)
	case !g.leads:
		return g.dropped()
	}
	l.guard(g, func() {
		e := &raftpb.Entry{Type: raftpb.EntryNormal.Enum(), Data: p.Data}
		if g.rn.Step(&raftpb.Message{Type: raftpb.MsgProp.Enum(), From: new(uint64(l.h.cfg.Node)), Entries: []*raftpb.Entry{e}}) != nil {
			err = g.dropped()
			return
		}
		l.h.metrics.proposals.Inc()
	})
	l.mark(g)
	return err
}

// noteForwarded answers a proposal of another member when it has a place.
func (l *loop) noteForwarded(g *group, o origin, index uint64) {
	if v := g.seen.verdicts[o]; v != nil && v.pending {
		v.Index, v.pending = index, false
		l.sendAnswer(g, o.node, v.Answer)
	}
}

func (l *loop) sendAnswer(g *group, to covey.NodeID, a Answer) {
	l.outbox[to] = append(l.outbox[to], Message{Group: g.id, Answer: &a})
}

// answered takes in what a leader says of a proposal.
func (g *group) answered(from covey.NodeID, a *Answer) {
	g.mu.Lock()
	defer g.mu.Unlock()
	p := g.waiting[a.Nonce]
	if p == nil || p.leader != from || p.term != a.Term || p.index != 0 {
		return
	}
	if a.Index == 0 {
		kind := covey.Unavailable
		if a.Kind == covey.DiskFull {
			kind = covey.DiskFull
		}
		g.answerLocked(p, nil, covey.Errorf(kind, "shard %d: node %s: %q", g.id, from, a.Text))
		return
	}
	p.index = a.Index
	if p.term == g.term && p.leader == g.lead {
		p.deadline = 0
	}
}
