package storage

import (
	"encoding/binary"

	"github.com/covey-mail/covey/internal/wire"
)

const (
	// maxHeard bounds what is remembered of confirmed deliveries: a queue that is
	// kept from a shard for longer than these take to come may repeat a message.
	maxHeard = 1 << 15

	// lateSlack is how far, in seconds, the clocks of two front nodes may be apart
	// for the second of two tries to count as later than the first.
	lateSlack = 60
)

// heard is where messages came to lie of which the sender heard, the latest of
// them. What was forgotten when it was confirmed can so be told from what has yet
// to come, when it comes again from the queue of another shard: the reply to the
// first try was lost, the sender tried again, and the queue comes last.
//
// A message that the same sender sent twice on purpose, within lateSlack, and the
// reply to which was lost, counts as one here.
type heard struct {
	places []heardPlace // a ring once there are maxHeard
	next   int          // in places, the oldest of a full ring
	total  uint64       // ever noted
	stored uint64       // of them, those that the tables have
}

// A heardPlace is a place that was confirmed, in a form that is short, and that no
// other has but by a chance of one in 2^64.
type heardPlace struct {
	key  uint64
	time int64 // the shard's clock when it was delivered
}

// key tells places apart; hashes are as good as random.
func (p place) key() uint64 {
	return binary.LittleEndian.Uint64(p.hash[:]) ^ uint64(p.mailbox)*0x9e3779b97f4a7c15
}

// note remembers what a delivery speaks for.
func (h *heard) note(d *delivery) {
	if d.hash == [16]byte{} {
		return
	}
	for i, p := range d.placed {
		if d.spent == nil || !d.spent[i] {
			h.add(heardPlace{place{d.hash, p.Mailbox}.key(), d.time})
		}
	}
}

func (h *heard) add(p heardPlace) {
	h.total++
	if len(h.places) < maxHeard {
		h.places = append(h.places, p)
		return
	}
	h.places[h.next] = p
	h.next = (h.next + 1) % maxHeard
}

// has reports whether a message lay in a place that came there at a time or later.
func (h *heard) has(at place, since int64) bool {
	key := at.key()
	for _, p := range h.places {
		if p.key == key && p.time >= since {
			return true
		}
	}
	return false
}

// first returns the number, counted from 0, of the oldest that is remembered.
func (h *heard) first() uint64 { return h.total - uint64(len(h.places)) }

// at returns the one with a number that first and total allow.
func (h *heard) at(n uint64) heardPlace {
	return h.places[(uint64(h.next)+n-h.first())%uint64(len(h.places))]
}

// appendHeard writes those from a number on: eight octets and the time of each.
func (h *heard) appendHeard(b []byte, from uint64) []byte {
	for n := max(from, h.first()); n < h.total; n++ {
		p := h.at(n)
		b = wire.AppendInt(binary.LittleEndian.AppendUint64(b, p.key), p.time)
	}
	return b
}

// decodeHeard reads what appendHeard wrote.
func decodeHeard(b []byte) ([]heardPlace, error) {
	r := wire.NewReader(b)
	var list []heardPlace
	for r.Len() > 0 {
		list = append(list, heardPlace{r.Uint64(), r.Int()})
	}
	return list, r.End()
}
