package replica

import (
	"slices"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/covey-mail/covey"
)

// Under load a group comes up with something for its followers with every
// proposal, every write and every acknowledgement. Sent as they come, most messages
// would bear one entry or none, and each has to be encoded, decoded, stepped and
// answered. So a leader lets proposals, and news of what is committed, wait while
// its own log is being written, as they would have to for its next batch in any
// case; and what one message can say is not said with two.

// holds reports whether what can wait for the end of the write under way does. A
// disk that hangs is not waited for: who leads next may have it then.
func (l *loop) holds() bool { return l.writing && l.ticks == l.since }

// release ends the waiting.
func (l *loop) release() {
	for to, messages := range l.late {
		l.outbox[to] = append(messages, l.outbox[to]...)
		delete(l.late, to)
	}
	for _, g := range l.groups {
		if len(g.proposals) > 0 {
			l.mark(g)
		}
	}
}

// post puts a message of the core into the outbox.
func (l *loop) post(g *group, m *raftpb.Message) {
	to := covey.NodeID(m.GetTo())
	box := l.outbox
	if l.holds() && m.GetType() == raftpb.MsgApp && len(m.GetEntries()) == 0 {
		box = l.late
	}
	box[to] = put(box[to], Message{Group: g.id, Message: m, Since: g.sinceOf(to, m)})
}

// send passes on what is posted, one frame for each peer.
func (l *loop) send() {
	for to, messages := range l.outbox {
		delete(l.outbox, to)
		if l.h.cfg.Transport != nil {
			l.h.cfg.Transport.Send(to, messages)
		}
	}
}

// put appends a message to those of other groups, and of its own, for the same
// node, or joins it to the last one of its group.
func put(list []Message, m Message) []Message {
	for i := range slices.Backward(list) {
		last := &list[i]
		if last.Group != m.Group {
			continue
		}
		if last.Message != nil && last.Since == m.Since {
			if joined := join(last.Message, m.Message); joined != nil {
				last.Message = joined
				return list
			}
		}
		break
	}
	return append(list, m)
}

// join returns a message that says what two say that follow each other; nil if
// there is none. Both may be in use elsewhere, and stay as they are.
func join(a, b *raftpb.Message) *raftpb.Message {
	if a.GetType() != b.GetType() || a.GetTerm() != b.GetTerm() || a.GetReject() || b.GetReject() {
		return nil
	}
	switch a.GetType() {
	case raftpb.MsgAppResp:
		// An acknowledgement is one of all that comes before.
		if b.GetIndex() >= a.GetIndex() {
			return b
		}
	case raftpb.MsgApp:
		if b.GetIndex() != a.GetIndex()+uint64(len(a.GetEntries())) || entryBytes(a)+entryBytes(b) > maxMessageBytes {
			return nil
		}
		return &raftpb.Message{
			Type: a.Type, To: a.To, From: a.From, Term: a.Term, LogTerm: a.LogTerm, Index: a.Index,
			Entries: slices.Concat(a.GetEntries(), b.GetEntries()),
			Commit:  new(max(a.GetCommit(), b.GetCommit())),
		}
	}
	return nil
}

func entryBytes(m *raftpb.Message) (n int) {
	for _, e := range m.GetEntries() {
		n += len(e.GetData())
	}
	return n
}
