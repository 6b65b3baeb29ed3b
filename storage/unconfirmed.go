package storage

import "github.com/covey-mail/covey"

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
	byPlace        map[place]*delivery // what lies where; the delivery that found it there last
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
	if d.hash != [16]byte{} {
		for i, p := range d.placed {
			if d.spent == nil || !d.spent[i] {
				u.claim(d, place{d.hash, p.Mailbox})
			}
		}
	}
	if d.prev = u.newest; d.prev != nil {
		d.prev.next = d
	} else {
		u.oldest = d
	}
	u.newest = d
}

// claim makes d speak for a place, instead of an earlier try of the same
// message: once d is confirmed, the next such message is one sent on purpose.
func (u *unconfirmed) claim(d *delivery, at place) {
	if old := u.byPlace[at]; old != nil && old != d {
		if old.spent == nil {
			old.spent = make([]bool, len(old.placed))
		}
		for i, p := range old.placed {
			old.spent[i] = old.spent[i] || p.Mailbox == at.mailbox
		}
		old.dirty = true
	}
	u.byPlace[at] = d
}

// find returns where a message with this hash lies in a mailbox.
func (u *unconfirmed) find(hash [16]byte, mailbox covey.MailboxID) (Placed, bool) {
	if d := u.byPlace[place{hash, mailbox}]; d != nil {
		return placedIn(d.placed, mailbox)
	}
	return Placed{}, false
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
		if at := (place{d.hash, p.Mailbox}); u.byPlace[at] == d {
			delete(u.byPlace, at)
		}
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
