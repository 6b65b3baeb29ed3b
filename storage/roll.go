package storage

import (
	"slices"

	"github.com/covey-mail/covey"
)

// Of the rolls of one shard at most maxRolls words are kept, a run counting for
// one and a roll for rollCost more.
const (
	maxRolls = 128 << 10
	rollCost = 8
)

// A roll is which UIDs a mailbox holds, and where its unseen messages start, so
// that opening a large mailbox does not read its index from end to end. It is
// made when a mailbox is first opened, kept in memory only, and follows each
// change.
type roll struct {
	uids []UIDRange // ascending, disjoint, not adjacent
	seen covey.UID  // all messages below it have \Seen
	sure bool       // and the message with this UID is there, and has not
}

// rolls are those of a shard's mailboxes.
type rolls struct {
	of   map[covey.MailboxID]*roll
	size int // as maxRolls counts
}

func newRolls() rolls { return rolls{of: map[covey.MailboxID]*roll{}} }

// keep takes in a new roll. When there are too many, all others go: which of
// them will be asked for is not known, and they can be made again.
func (l *rolls) keep(id covey.MailboxID, r *roll) {
	if rollCost+len(r.uids) > maxRolls {
		return
	}
	if l.size+rollCost+len(r.uids) > maxRolls {
		*l = newRolls()
	}
	l.of[id] = r
	l.size += rollCost + len(r.uids)
}

func (l *rolls) drop(id covey.MailboxID) {
	if r := l.of[id]; r != nil {
		delete(l.of, id)
		l.size -= rollCost + len(r.uids)
	}
}

// add notes a message with a UID above all others.
func (l *rolls) add(id covey.MailboxID, uid covey.UID) {
	r := l.of[id]
	if r == nil {
		return
	}
	before := len(r.uids)
	r.uids = appendUID(r.uids, uid)
	if l.size += len(r.uids) - before; l.size > maxRolls {
		*l = newRolls()
	}
}

// remove notes that messages are gone; uids is ascending and disjoint.
func (l *rolls) remove(id covey.MailboxID, uids []UIDRange) {
	r := l.of[id]
	if r == nil {
		return
	}
	l.drop(id)
	r.uids = Subtract(r.uids, uids)
	r.sure = false
	l.keep(id, r)
}

// mark notes that a message has \Seen now, or has it no more.
func (l *rolls) mark(id covey.MailboxID, uid covey.UID, f covey.SystemFlags) {
	r := l.of[id]
	if r == nil {
		return
	}
	switch seen := f&covey.Seen != 0; {
	case !seen && uid <= r.seen:
		r.seen, r.sure = uid, true
	case seen && uid == r.seen:
		r.sure = false
	}
}

// roll returns the roll of a mailbox.
func (m *machine) roll(id covey.MailboxID) *roll {
	r := m.rolls.of[id]
	if r == nil {
		r = &roll{uids: m.t.uids(id)}
		m.rolls.keep(id, r)
	}
	return r
}

// view returns the UIDs in a mailbox, the caller's own, and the first of them
// without \Seen, 0 if there is none.
func (m *machine) view(mb *mailbox) (uids []UIDRange, unseen covey.UID) {
	if mb.Messages == 0 {
		return nil, 0
	}
	r := m.roll(mb.ID)
	if mb.Unseen == 0 {
		return slices.Clone(r.uids), 0
	}
	if !r.sure {
		first := m.t.firstUnseen(mb.ID, r.seen)
		if first == 0 { // a fault
			return nil, 0
		}
		r.seen, r.sure = first, true
	}
	return slices.Clone(r.uids), r.seen
}

// checkRolls compares the rolls with the tables.
func (m *machine) checkRolls(v *violations) {
	size := 0
	for id, r := range m.rolls.of {
		size += rollCost + len(r.uids)
		if !slices.Equal(r.uids, m.t.uids(id)) {
			v.add("mailbox %d: the UIDs in memory are not those of its messages", id)
		}
		if first := m.t.firstUnseen(id, 1); first != 0 && first < r.seen || r.sure && first != r.seen {
			v.add("mailbox %d: message %d is the first unseen, and %d is taken for it", id, first, r.seen)
		}
	}
	if size != m.rolls.size || size > maxRolls {
		v.add("rolls take %d words, not %d of at most %d", size, m.rolls.size, maxRolls)
	}
}
