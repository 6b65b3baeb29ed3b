package storage

import "github.com/covey-mail/covey"

// Of a mailbox, at most maxRuns runs of expunged UIDs are kept one by one;
// beyond, the older ones go until keepRuns are left.
const (
	maxRuns  = 1024
	keepRuns = 512
)

// expunge applies an Expunge.
func (m *machine) expunge(c *Expunge, r *Result) error {
	mb, err := m.find(c.Account, c.Mailbox)
	if err != nil {
		return err
	}
	in := m.span(mb, c.UIDs)
	for len(in.uids) > 0 {
		for _, msg := range m.t.messages(&in, sliceRows) {
			if c.OnlyDeleted && msg.Flags.System&covey.Deleted == 0 {
				continue
			}
			r.UIDs = appendUID(r.UIDs, msg.UID)
			m.remove(mb, &msg)
			m.t.ref(msg.Body, -1)
		}
	}
	if len(r.UIDs) > 0 {
		r.ModSeq = m.bump(mb)
		m.noteExpunged(mb, r.UIDs)
	}
	return nil
}

// noteExpunged takes note of what went with mb's latest change, for its roll and
// for Changes.
func (m *machine) noteExpunged(mb *mailbox, uids []UIDRange) {
	m.rolls.remove(mb.ID, uids)
	m.t.addExpunged(mb.ID, mb.HighestModSeq, uids)
	mb.runs += uint32(len(uids))
	if mb.runs > maxRuns {
		left, gone := m.t.trimExpunged(mb.ID, keepRuns)
		mb.runs, mb.horizon = uint32(left), gone
	}
}

// empty removes all messages of a mailbox that is about to go.
func (m *machine) empty(mb *mailbox) {
	in := m.span(mb, []UIDRange{{1, mb.UIDNext}})
	for len(in.uids) > 0 {
		for _, msg := range m.t.messages(&in, sliceRows) {
			m.remove(mb, &msg)
			m.t.ref(msg.Body, -1)
		}
	}
}
