package replica

import (
	"go.etcd.io/raft/v3/raftpb"

	"github.com/covey-mail/covey"
)

// inbound is what a peer sent.
type inbound struct {
	from     covey.NodeID
	messages []arrival
	bytes    int64
}

// An arrival is a message and whom it is for.
type arrival struct {
	group *group
	Message
}

// Step takes in messages that the node from sent to this one, and owns them from
// then on. It never blocks: messages that make no sense, that are not from that
// node, or that are too many, are dropped, and so are those to groups that are
// not here, of which Config.Unknown is told. from must be authenticated.
func (h *Host) Step(from covey.NodeID, messages []Message) {
	kept := make([]arrival, 0, len(messages))
	size := int64(0)
	for _, m := range messages {
		g, err := h.group(m.Group)
		if !h.acceptable(from, m) {
			err = covey.Invalid
		} else if err != nil && h.cfg.Unknown != nil {
			h.cfg.Unknown(m.Group, from)
		}
		if err != nil {
			h.metrics.inboundDropped.Inc()
			continue
		}
		kept = append(kept, arrival{g, m})
		size += messageBytes(m)
	}
	if len(kept) == 0 {
		return
	}
	if h.inbound.Add(size) > h.cfg.MaxInboundBytes {
		h.inbound.Add(-size)
		h.metrics.inboundDropped.Add(float64(len(kept)))
		return
	}
	h.events.put(inbound{from, kept, size})
}

func (i inbound) handle(l *loop) {
	l.h.inbound.Add(-i.bytes)
	for _, m := range i.messages {
		l.arrived(m.group, i.from, m.Message)
	}
}

func (l *loop) arrived(g *group, from covey.NodeID, m Message) {
	switch {
	case m.Proposal != nil:
		l.proposed(g, from, m.Proposal)
		return
	case m.Answer != nil:
		g.answered(from, m.Answer)
		return
	case !g.ofThisLife(from, m):
		l.h.metrics.inboundDropped.Inc()
		return
	}
	g.hear(from, m.Message, l.ticks)
	switch {
	case g.blank() && (m.Message.GetType() == raftpb.MsgVote || m.Message.GetType() == raftpb.MsgPreVote):
		// It does not vote.
	case m.Message.GetType() == raftpb.MsgReadIndex && g.solo() && !g.current():
		// The core would answer at once, with a commit index that may be older than
		// what this node acknowledged before its last start. A learner asks again.
	case m.Message.GetType() == raftpb.MsgSnap:
		l.copyOffered(g, from, m.Message)
	case m.Message.GetType() == raftpb.MsgAppResp && m.Message.GetTerm() == g.term && m.Message.GetIndex() == 0 && !m.Message.GetReject():
		// A follower's answer to what this node sent in an earlier term. The core
		// would take it for an acknowledgement of nothing, and go back to the
		// beginning of its log or, where that is gone, to a copy of the state.
	default:
		l.step(g, m.Message)
	}
}

func (inbound) drop(*loop) {}

// messageBytes is about what a message takes in memory.
func messageBytes(m Message) int64 {
	n := int64(128 + len(m.Message.GetContext()))
	if m.Proposal != nil {
		n += int64(len(m.Proposal.Data))
	}
	for _, e := range m.Message.GetEntries() {
		n += int64(64 + len(e.GetData()))
	}
	return n
}

// acceptable reports whether a message makes sense.
func (h *Host) acceptable(from covey.NodeID, m Message) bool {
	switch {
	case from == 0 || from == h.cfg.Node:
		return false
	case m.Message != nil:
		return m.Proposal == nil && m.Answer == nil && h.steppable(from, m.Message)
	case m.Proposal != nil:
		n := len(m.Proposal.Data)
		return m.Answer == nil && m.Proposal.Term != 0 && n > frameSize && n <= frameSize+MaxCommand
	}
	return m.Answer != nil && m.Answer.Term != 0
}

// steppable reports whether a message may be shown to the Raft core, which
// panics over some that no sound peer sends.
func (h *Host) steppable(from covey.NodeID, m *raftpb.Message) bool {
	if m.GetFrom() != uint64(from) || m.GetTo() != uint64(h.cfg.Node) {
		return false
	}
	snap := m.GetType() == raftpb.MsgSnap
	if !snap && m.GetSnapshot().GetMetadata().GetIndex() != 0 || len(m.GetResponses()) != 0 {
		return false
	}
	switch m.GetType() {
	case raftpb.MsgSnap:
		return offersCopy(m, h.cfg.Node)
	case raftpb.MsgApp:
		return entriesConnect(m)
	case raftpb.MsgHeartbeatResp:
		return len(m.GetEntries()) == 0 && (len(m.GetContext()) == 0 || len(m.GetContext()) == 8)
	case raftpb.MsgReadIndex, raftpb.MsgReadIndexResp:
		return len(m.GetEntries()) == 1 && m.GetEntries()[0] != nil
	case raftpb.MsgAppResp, raftpb.MsgHeartbeat, raftpb.MsgVote, raftpb.MsgVoteResp,
		raftpb.MsgPreVote, raftpb.MsgPreVoteResp, raftpb.MsgTimeoutNow:
		return m.GetTerm() != 0 && len(m.GetEntries()) == 0
	}
	// Proposals are not forwarded by the core, and the rest is between a core and
	// its own host.
	return false
}

// entriesConnect reports whether the entries of an append follow one another and
// the entry they are said to follow.
func entriesConnect(m *raftpb.Message) bool {
	if m.GetTerm() == 0 {
		return false
	}
	index, term := m.GetIndex(), m.GetLogTerm()
	for _, e := range m.GetEntries() {
		index++
		if e == nil || e.GetIndex() != index || e.GetTerm() < term || e.GetTerm() > m.GetTerm() {
			return false
		}
		if _, known := raftpb.EntryType_name[int32(e.GetType())]; !known {
			return false
		}
		term = e.GetTerm()
	}
	return true
}
