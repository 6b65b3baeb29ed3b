package storage

import (
	"iter"
	"slices"

	"github.com/covey-mail/covey"
)

// Limits on what a shard remembers of deliveries whose positive reply is not
// known to have reached the sender.
const (
	unconfirmedFor = 5 * 24 * 3600 // seconds of the shard's clock
	maxUnconfirmed = 1 << 16       // deliveries; beyond, the oldest is forgotten
)

// unconfirmed is the deliveries whose sender may yet send them again, in memory.
// Those that are confirmed before the next commit never reach the disk.
type unconfirmed struct {
	byID           map[covey.DeliveryID]*delivery
	byPlace        map[place]*delivery // who speaks for what lies where: the newest; delivery.below has the others
	oldest, newest *delivery           // in order of index
	gone           []uint64            // indexes of stored ones that were forgotten since the commit
}

// A place is a message, known by its hash, in a mailbox.
type place struct {
	hash    [16]byte
	mailbox covey.MailboxID
}

// A delivery is one Deliver as it was applied.
type delivery struct {
	index  uint64 // of its command
	id     covey.DeliveryID
	time   int64 // the shard's clock
	hash   [16]byte
	placed []Placed
	spent  []bool // as long as placed, or nil: a later delivery found it there and speaks for it now

	stored, dirty bool // the tables hold it; not as it is now
	prev, next    *delivery

	// below has, for each of placed, who spoke for the place before and does so
	// still, for a message of the same bytes sent on purpose. Nil: nobody anywhere.
	below []*delivery
}

func newUnconfirmed() unconfirmed {
	return unconfirmed{byID: map[covey.DeliveryID]*delivery{}, byPlace: map[place]*delivery{}}
}

// add notes a delivery with the highest index so far.
func (u *unconfirmed) add(d *delivery) {
	if len(u.byID) >= maxUnconfirmed {
		u.forget(u.oldest)
	}
	u.byID[d.id] = d
	for i := range d.placed {
		if d.speaks(i) {
			u.push(d, i)
		}
	}
	if d.prev = u.newest; d.prev != nil {
		d.prev.next = d
	} else {
		u.oldest = d
	}
	u.newest = d
}

// speaks reports whether the delivery can be recognised by what it placed.
func (d *delivery) speaks(i int) bool {
	if d.hash == [16]byte{} || d.spent != nil && d.spent[i] {
		return false
	}
	_, twice := placedIn(d.placed[:i], d.placed[i].Mailbox)
	return !twice
}

func (u *unconfirmed) push(d *delivery, i int) {
	at := place{d.hash, d.placed[i].Mailbox}
	if old := u.byPlace[at]; old != nil {
		if d.below == nil {
			d.below = make([]*delivery, len(d.placed))
		}
		d.below[i] = old
	}
	u.byPlace[at] = d
}

// under returns the slot of below for a mailbox; nil if there is none.
func (d *delivery) under(id covey.MailboxID) **delivery {
	if d.below == nil {
		return nil
	}
	return &d.below[slices.IndexFunc(d.placed, func(p Placed) bool { return p.Mailbox == id })]
}

// at goes over those who speak for a place, the newest first.
func (u *unconfirmed) at(at place) iter.Seq[*delivery] {
	return func(yield func(*delivery) bool) {
		for d := u.byPlace[at]; d != nil && yield(d); {
			slot := d.under(at.mailbox)
			if slot == nil {
				return
			}
			d = *slot
		}
	}
}

// take returns where a message lies that this is a resend of, and which is none of
// apart. Whoever spoke for it does so no more; the delivery that asks does: once it
// is confirmed, the next such message is one sent on purpose.
func (u *unconfirmed) take(at place, apart []covey.DeliveryID) (Placed, bool) {
	for d := range u.at(at) {
		if slices.Contains(apart, d.id) {
			continue
		}
		u.silence(d, at)
		if d.spent == nil {
			d.spent = make([]bool, len(d.placed))
		}
		for i, p := range d.placed {
			d.spent[i] = d.spent[i] || p.Mailbox == at.mailbox
		}
		d.dirty = true
		return placedIn(d.placed, at.mailbox)
	}
	return Placed{}, false
}

// silence takes a delivery out of those who speak for a place, if it is one.
func (u *unconfirmed) silence(d *delivery, at place) {
	var next *delivery
	if slot := d.under(at.mailbox); slot != nil {
		next = *slot
	}
	if u.byPlace[at] == d {
		if u.byPlace[at] = next; next == nil {
			delete(u.byPlace, at)
		}
		return
	}
	for above := range u.at(at) {
		if slot := above.under(at.mailbox); slot != nil && *slot == d {
			*slot = next
			return
		}
	}
}

func placedIn(list []Placed, mailbox covey.MailboxID) (Placed, bool) {
	for _, p := range list {
		if p.Mailbox == mailbox {
			p.Repeat = true
			return p, true
		}
	}
	return Placed{}, false
}

// expire forgets deliveries that are too old to be sent again.
func (u *unconfirmed) expire(clock int64) {
	for u.oldest != nil && u.oldest.time+unconfirmedFor < clock {
		u.forget(u.oldest)
	}
}

func (u *unconfirmed) forget(d *delivery) {
	delete(u.byID, d.id)
	for _, p := range d.placed {
		u.silence(d, place{d.hash, p.Mailbox})
	}
	if d.prev != nil {
		d.prev.next = d.next
	} else {
		u.oldest = d.next
	}
	if d.next != nil {
		d.next.prev = d.prev
	} else {
		u.newest = d.prev
	}
	if d.stored {
		u.gone = append(u.gone, d.index)
	}
}
