package storage

import (
	"slices"
	"time"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/internal/wire"
)

// Limits of a shard's queue; beyond, an Enqueue is refused with covey.Limit.
const (
	maxQueued     = 1 << 14 // deliveries
	maxQueuedRest = 1 << 16 // recipients of all of them
	maxQueuedText = 400     // octets of an address
)

// Enqueue puts the recipients of a delivery whose shards did not take it into the
// queue of a shard that did. The body is the one that lies here, and stays as long
// as the queue refers to it. A delivery that is there already is left as it is.
//
// NotFound: the delivery is not known here, or its message was removed since.
// Limit: the queue is full.
type Enqueue struct {
	ID     covey.DeliveryID
	Time   time.Time // as in the Deliver that failed elsewhere, as Hash is
	Hash   [16]byte
	Sender string // reverse-path; empty for <>
	Rest   []Rest // at least one
}

// A Rest is a recipient whose shard has yet to take a message.
type Rest struct {
	Shard   covey.ShardID
	Account covey.AccountID
	Mailbox string // as in Recipient
	Address string // of the account, when the message came
}

// Dequeue takes recipients off a delivery in the queue; with the last of them it
// goes. What is not there is passed over.
type Dequeue struct {
	ID       covey.DeliveryID
	Accounts []covey.AccountID
}

// A Queued is a delivery in the queue.
type Queued struct {
	Enqueue
	Index uint64       // of the command that put it there
	Body  covey.BodyID // where its bytes and its summary are
	Heard bool         // the sender is known to have heard that it was taken
}

// A queue is the deliveries that wait, in the order in which they came.
type queue struct {
	list []*Queued
	byID map[covey.DeliveryID]*Queued
	rest int // recipients in all
}

func newQueue() queue { return queue{byID: map[covey.DeliveryID]*Queued{}} }

func (q *queue) add(one *Queued) {
	q.list = append(q.list, one)
	q.byID[one.ID] = one
	q.rest += len(one.Rest)
}

func (q *queue) drop(one *Queued) {
	i, _ := q.find(one.Index)
	q.list = slices.Delete(q.list, i, i+1)
	delete(q.byID, one.ID)
}

// find returns where in the list an index is or would be.
func (q *queue) find(index uint64) (int, bool) {
	return slices.BinarySearchFunc(q.list, index, func(one *Queued, index uint64) int {
		switch {
		case one.Index < index:
			return -1
		case one.Index > index:
			return 1
		}
		return 0
	})
}

// enqueue applies an Enqueue.
func (m *machine) enqueue(c *Enqueue) error {
	if m.queue.byID[c.ID] != nil {
		return nil
	}
	if err := c.check(); err != nil {
		return err
	}
	if len(m.queue.list) >= maxQueued || m.queue.rest+len(c.Rest) > maxQueuedRest {
		return covey.Errorf(covey.Limit, "%d deliveries to %d recipients are queued", len(m.queue.list), m.queue.rest)
	}
	body, ok := m.bodyOf(c.ID)
	if !ok {
		return covey.Errorf(covey.NotFound, "delivery %s has no message here", c.ID)
	}
	one := &Queued{Enqueue: *c, Index: m.entry.Index, Body: body}
	m.t.ref(body, 1)
	m.t.putQueued(one)
	m.queue.add(one)
	return nil
}

func (c *Enqueue) check() error {
	if len(c.Rest) == 0 || len(c.Sender) > maxQueuedText {
		return covey.Errorf(covey.Invalid, "%d recipients to queue, and a sender of %d octets", len(c.Rest), len(c.Sender))
	}
	for _, r := range c.Rest {
		if r.Shard == covey.DirectoryShard || r.Account == 0 || len(r.Address) > maxQueuedText || len(r.Mailbox) > maxQueuedText {
			return covey.Errorf(covey.Invalid, "recipient to queue of account %d in shard %d", r.Account, r.Shard)
		}
	}
	return nil
}

// bodyOf returns the body that a delivery brought or, if it was recognised as
// sent again, one that lies where it was found.
func (m *machine) bodyOf(id covey.DeliveryID) (covey.BodyID, bool) {
	d := m.unconfirmed.byID[id]
	if d == nil {
		return 0, false
	}
	if _, ok := m.t.extents(covey.BodyID(d.index)); ok {
		return covey.BodyID(d.index), true
	}
	for _, p := range d.placed {
		mb := m.t.mailbox(p.Mailbox)
		if mb == nil || mb.NoSelect || p.UID == 0 {
			continue
		}
		in := span{mailbox: p.Mailbox, uids: []UIDRange{{p.UID, p.UID}}}
		if list := m.t.messages(&in, 1); len(list) > 0 {
			return list[0].Body, true
		}
	}
	return 0, false
}

// dequeue applies a Dequeue.
func (m *machine) dequeue(c *Dequeue) {
	one := m.queue.byID[c.ID]
	if one == nil {
		return
	}
	left := slices.DeleteFunc(slices.Clone(one.Rest), func(r Rest) bool { return slices.Contains(c.Accounts, r.Account) })
	m.queue.rest -= len(one.Rest) - len(left)
	switch {
	case len(left) == 0:
		m.queue.drop(one)
		m.t.dropQueued(one.Index)
		m.t.ref(one.Body, -1)
	case len(left) < len(one.Rest):
		one.Rest = left
		m.t.putQueued(one)
	}
}

// hear notes that the sender of a delivery heard that it was taken: it will not
// come again.
func (m *machine) hear(id covey.DeliveryID) {
	if one := m.queue.byID[id]; one != nil && !one.Heard {
		one.Heard = true
		m.t.putQueued(one)
	}
}

// clone returns a copy that shares nothing with q.
func (q *Queued) clone() Queued {
	out := *q
	out.Rest = slices.Clone(q.Rest)
	return out
}

// Queue implements Reader.
func (s *shard) Queue(after uint64, most int) ([]Queued, error) {
	var list []Queued
	err := s.read(func() error {
		i, _ := s.m.queue.find(after + 1)
		for _, one := range s.m.queue.list[i:] {
			if len(list) == most {
				break
			}
			list = append(list, one.clone())
		}
		return nil
	})
	return list, err
}

// QueueLength implements Reader.
func (s *shard) QueueLength() (n int, oldest time.Time, err error) {
	err = s.read(func() error {
		if n = len(s.m.queue.list); n > 0 {
			oldest = s.m.queue.list[0].Time
		}
		return nil
	})
	return n, oldest, err
}

// Summary implements Reader.
func (s *shard) Summary(id covey.BodyID) ([]byte, error) {
	var sum []byte
	err := s.read(func() error {
		var ok bool
		if sum, ok = s.m.t.summary(id); !ok {
			return covey.Errorf(covey.NotFound, "body %d of shard %d", id, s.cfg.Shard)
		}
		return nil
	})
	return sum, err
}

func (c Enqueue) encode(b []byte) []byte {
	b = appendTime(appendDelivery(b, c.ID), c.Time)
	b = wire.AppendBytes(append(b, c.Hash[:]...), c.Sender)
	b = wire.AppendUint(b, uint64(len(c.Rest)))
	for _, r := range c.Rest {
		b = wire.AppendUint(wire.AppendUint(b, uint64(r.Shard)), uint64(r.Account))
		b = wire.AppendBytes(wire.AppendBytes(b, r.Mailbox), r.Address)
	}
	return b
}

func (r decoder) enqueue() Enqueue {
	c := Enqueue{ID: r.delivery(), Time: r.time()}
	copy(c.Hash[:], r.Raw(len(c.Hash)))
	c.Sender = r.String()
	if n := r.Count(4); n > 0 {
		c.Rest = make([]Rest, n)
		for i := range c.Rest {
			c.Rest[i] = Rest{Shard: covey.ShardID(r.uint32()), Account: r.account(), Mailbox: r.name(), Address: r.String()}
		}
	}
	return c
}

func (c Dequeue) encode(b []byte) []byte {
	b = wire.AppendUint(appendDelivery(b, c.ID), uint64(len(c.Accounts)))
	for _, a := range c.Accounts {
		b = wire.AppendUint(b, uint64(a))
	}
	return b
}

func (r decoder) dequeue() Dequeue {
	c := Dequeue{ID: r.delivery()}
	if n := r.Count(1); n > 0 {
		c.Accounts = make([]covey.AccountID, n)
		for i := range c.Accounts {
			c.Accounts[i] = r.account()
		}
	}
	return c
}

// appendQueued writes a row of the queue but for its index and body.
func appendQueued(b []byte, q *Queued) []byte {
	return q.Enqueue.encode(wire.AppendBool(b, q.Heard))
}

// decodeQueued reads what appendQueued wrote.
func decodeQueued(b []byte) (*Queued, error) {
	r := decoder{wire.NewReader(b)}
	q := &Queued{Heard: r.Bool()}
	q.Enqueue = r.enqueue()
	return q, r.End()
}
