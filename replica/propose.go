package replica

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/covey-mail/covey"
)

const frameSize = 16

// appendFrame appends the data of the entry that carries cmd.
func appendFrame(b []byte, node covey.NodeID, nonce uint64, cmd []byte) []byte {
	b = binary.LittleEndian.AppendUint64(b, uint64(node))
	b = binary.LittleEndian.AppendUint64(b, nonce)
	return append(b, cmd...)
}

// splitFrame is the inverse of appendFrame; cmd aliases data.
func splitFrame(data []byte) (node covey.NodeID, nonce uint64, cmd []byte, err error) {
	if len(data) <= frameSize {
		return 0, 0, nil, covey.Errorf(covey.Corrupt, "entry of %d octets is no command", len(data))
	}
	return covey.NodeID(binary.LittleEndian.Uint64(data)), binary.LittleEndian.Uint64(data[8:]), data[frameSize:], nil
}

// A proposal is a command whose caller waits. Whoever takes it out of
// group.waiting answers it, so it is answered once.
type proposal struct {
	group *group
	nonce uint64
	only  uint64       // the term in which this node must lead for it to be proposed; 0: any
	size  int64        // of the entry's data
	done  chan outcome // holds one
	data  *[]byte      // the entry's, until the loop has stepped or dropped it; of Host.frames

	retryAt uint64 // tick at which the leader is asked again; of the loop

	// Guarded by group.mu.
	stepped  bool         // the core took it, or it was sent to the leader: from now on it may be committed
	leader   covey.NodeID // that it was sent to; 0: to none
	term     uint64       // in which that node leads
	index    uint64       // of its entry, once known
	deadline uint64       // tick at which its fate, with the leader lost or silent, counts as unknown; 0 for none
}

type outcome struct {
	value any
	err   error
}

// Propose has cmd applied on every replica of the group and returns what this
// node's state machine returned for it. It blocks until then, or until ctx ends.
// cmd is the caller's again when it returns.
//
// In a group of Config.Forward, a member that does not lead has the leader
// propose the command, and returns the result when it is applied here.
//
// Of the errors, Unavailable and DiskFull say that the command was not and will
// not be applied: another node leads or none does (ErrNotLeading), too much
// waits already, the disk is full, the host stops. Unknown says that it may yet
// be applied: ctx ended, or the leader was lost on the way, or a copy of the state
// came from another node that may contain it. Internal: the group
// stopped over a fault while the command was under way. NotFound: no such group
// here. TooBig: longer than MaxCommand.
func (h *Host) Propose(ctx context.Context, id covey.ShardID, cmd []byte) (any, error) {
	return h.propose(ctx, id, 0, cmd)
}

// ProposeIn is Propose for what this node does as the leader of a term: it is
// Unavailable, and nothing is proposed anywhere, unless the node leads the group in
// that very term when its turn comes.
func (h *Host) ProposeIn(ctx context.Context, id covey.ShardID, term uint64, cmd []byte) (any, error) {
	if term == 0 {
		return nil, covey.Errorf(covey.Invalid, "propose to shard %d: in no term", id)
	}
	return h.propose(ctx, id, term, cmd)
}

func (h *Host) propose(ctx context.Context, id covey.ShardID, only uint64, cmd []byte) (any, error) {
	g, err := h.group(id)
	if err != nil {
		return nil, err
	}
	if len(cmd) == 0 {
		return nil, covey.Errorf(covey.Invalid, "propose to shard %d: empty command", id)
	}
	if len(cmd) > MaxCommand {
		return nil, covey.Errorf(covey.TooBig, "propose to shard %d: %d octets, at most %d", id, len(cmd), MaxCommand)
	}
	if err := ctx.Err(); err != nil {
		return nil, covey.Errorf(covey.Unavailable, "propose to shard %d: %w", id, err)
	}
	p, err := g.admit(cmd, only)
	if err != nil {
		return nil, err
	}
	if !h.events.put(p) {
		g.answer(p, nil, g.refuse(refusedStopping, "stopping"))
	}
	select {
	case o := <-p.done:
		return o.value, o.err
	case <-ctx.Done():
		g.answer(p, nil, covey.Errorf(covey.Unknown, "propose to shard %d: %w", id, ctx.Err()))
		o := <-p.done
		return o.value, o.err
	}
}

// ErrNotLeading marks an Unavailable that says that another node leads the group,
// or that none does just now: who asks again soon may find one that takes the
// command.
var ErrNotLeading = errors.New("this node does not lead")

// refuse counts a refusal and makes its error: nothing was done.
func (g *group) refuse(reason, text string) error {
	g.h.refused(reason)
	return covey.Errorf(covey.Unavailable, "shard %d: %s", g.id, text)
}

// admit lets a proposal in if there is room.
func (g *group) admit(cmd []byte, only uint64) (*proposal, error) {
	switch {
	case g.h.stopping.Load():
		return nil, g.refuse(refusedStopping, "stopping")
	case g.h.full.Load():
		g.h.refused(refusedDiskFull)
		return nil, covey.Errorf(covey.DiskFull, "shard %d: the log has no room", g.id)
	}
	p := &proposal{group: g, nonce: g.h.nonce.Add(1), only: only, done: make(chan outcome, 1), size: int64(frameSize + len(cmd))}
	p.data = g.h.frames.Get().(*[]byte)
	*p.data = appendFrame((*p.data)[:0], g.h.cfg.Node, p.nonce, cmd)
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.err != nil {
		g.h.refused(refusedStopped)
		return nil, covey.Errorf(covey.Unavailable, "shard %d has stopped: %w", g.id, g.err)
	}
	if len(g.waiting) >= g.h.cfg.MaxProposals || g.waitingBytes+p.size > g.h.cfg.MaxProposalBytes {
		return nil, g.refuse(refusedQueue, "too many proposals wait")
	}
	g.waiting[p.nonce] = p
	g.waitingBytes += p.size
	g.h.metrics.waiting.Inc()
	return p, nil
}

// answer ends a proposal, unless it was answered before.
func (g *group) answer(p *proposal, value any, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.answerLocked(p, value, err)
}

func (g *group) answerLocked(p *proposal, value any, err error) {
	if g.waiting[p.nonce] != p {
		return
	}
	delete(g.waiting, p.nonce)
	g.waitingBytes -= p.size
	g.h.metrics.waiting.Dec()
	p.done <- outcome{value, err}
}

// drop leaves the caller to abandon.
func (p *proposal) drop(*loop) {}

// handle queues the proposal until the loop has seen all that waits.
func (p *proposal) handle(l *loop) {
	g := p.group
	g.proposals = append(g.proposals, p)
	g.proposalBytes += p.size
	l.mark(g)
}

// stepProposals hands what waits to the core, as many to a message as fit, so
// that followers get them in one piece too.
func (l *loop) stepProposals(g *group) {
	g.fence()
	switch {
	case len(g.proposals) == 0, !g.leads && g.lead == 0 && g.solo():
		// A group of one is about to elect itself: wait for it.
		return
	case g.forward && !g.leads && g.lead != 0:
		l.sendProposals(g)
		return
	case g.leads && l.holds() && g.proposalBytes < maxMessageBytes:
		return
	}
	g.proposalBytes = 0
	for len(g.proposals) > 0 {
		n, size := 0, int64(0)
		for n < len(g.proposals) && (n == 0 || size+g.proposals[n].size <= maxMessageBytes) {
			size += g.proposals[n].size
			n++
		}
		g.stepSome(g.proposals[:n])
		g.release(g.proposals[:n])
		clear(g.proposals[:n])
		g.proposals = g.proposals[n:]
	}
	g.proposals = nil
}

// fence refuses what belongs to a term that this node does not lead.
func (g *group) fence() {
	if !slices.ContainsFunc(g.proposals, func(p *proposal) bool { return p.only != 0 }) {
		return
	}
	now := g.rn.BasicStatus() // of the very state that the next step meets
	kept := g.proposals[:0]
	for _, p := range g.proposals {
		if p.only == 0 || p.only == now.GetTerm() && now.RaftState == raft.StateLeader {
			kept = append(kept, p)
			continue
		}
		g.answer(p, nil, g.refuse(refusedElsewhere, fmt.Sprintf("not led by this node in term %d", p.only)))
		g.release([]*proposal{p})
	}
	clear(g.proposals[len(kept):])
	g.proposals = kept
}

func (g *group) stepSome(proposals []*proposal) {
	entries := make([]*raftpb.Entry, 0, len(proposals))
	stepped := make([]*proposal, 0, len(proposals))
	g.mu.Lock()
	for _, p := range proposals {
		if g.waiting[p.nonce] == p { // else its caller has gone
			p.stepped = true
			stepped = append(stepped, p)
			entries = append(entries, &raftpb.Entry{Type: raftpb.EntryNormal.Enum(), Data: *p.data})
		}
	}
	g.mu.Unlock()
	if len(entries) == 0 {
		return
	}
	err := g.rn.Step(&raftpb.Message{Type: raftpb.MsgProp.Enum(), From: new(uint64(g.h.cfg.Node)), Entries: entries})
	if err == nil {
		g.h.metrics.proposals.Add(float64(len(entries)))
		return
	}
	for _, p := range stepped {
		g.answer(p, nil, g.dropped())
	}
}

// release gives back the memory of proposals that were stepped or never will be:
// the core copies an entry's data.
func (g *group) release(proposals []*proposal) {
	for _, p := range proposals {
		g.h.frames.Put(p.data)
		p.data = nil
	}
}

// dropped tells why the core refused a proposal.
func (g *group) dropped() error {
	now := g.rn.BasicStatus() // g.leads follows with the next Ready only
	switch {
	case now.RaftState == raft.StateLeader && now.LeadTransferee != 0:
		return g.refuseToLead(refusedElsewhere, "leadership is handed over")
	case now.RaftState == raft.StateLeader:
		return g.refuse(refusedBacklog, "too much waits to be committed")
	case g.lead == 0:
		return g.refuseToLead(refusedNoLeader, "no leader")
	}
	return g.refuseToLead(refusedElsewhere, "led by node "+g.lead.String())
}

// refuseToLead is refuse for a command that another node may take.
func (g *group) refuseToLead(reason, text string) error {
	g.h.refused(reason)
	return covey.Errorf(covey.Unavailable, "shard %d: %w: %s", g.id, ErrNotLeading, text)
}

// noteEntries remembers where the leader's own proposals went in the log.
func (l *loop) noteEntries(g *group, entries []*raftpb.Entry) {
	if !g.leads || len(entries) == 0 {
		return
	}
	if g.termStart == 0 {
		for _, e := range entries {
			if e.GetTerm() == g.term {
				g.termStart = e.GetIndex()
				break
			}
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, e := range entries {
		if e.GetType() != raftpb.EntryNormal {
			continue
		}
		node, nonce, _, err := splitFrame(e.GetData())
		switch {
		case err != nil:
		case node != g.h.cfg.Node:
			l.noteForwarded(g, origin{node, nonce}, e.GetIndex())
		default:
			if p := g.waiting[nonce]; p != nil {
				p.index = e.GetIndex()
			}
		}
	}
}

// leadershipLost starts the clock for proposals whose entries may now be
// overwritten, or committed by the next leader.
func (g *group) leadershipLost(deadline uint64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, p := range g.waiting {
		if p.stepped && p.deadline == 0 {
			p.deadline = deadline
			g.lost = true
		}
	}
}

// giveUp answers the proposals whose time after a lost leadership is over.
func (g *group) giveUp(now uint64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.lost {
		return
	}
	g.lost = false
	for _, p := range g.waiting {
		switch {
		case p.deadline == 0:
		case now >= p.deadline:
			g.answerLocked(p, nil, covey.Errorf(covey.Unknown, "shard %d: the leader was lost on the way, or does not answer", g.id))
		default:
			g.lost = true
		}
	}
}

// appliedLocked is called when all up to index is applied and answered: what was
// proposed below it, and is still waiting, lost its place to another entry.
func (g *group) appliedLocked(index uint64) {
	g.applied = index
	if !g.lost {
		return
	}
	for _, p := range g.waiting {
		if p.index != 0 && p.index <= index {
			g.answerLocked(p, nil, g.refuseToLead(refusedOverlaid, "another leader's entry took the place"))
		}
	}
}
