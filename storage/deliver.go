package storage

import (
	"bytes"
	"slices"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/internal/mutant"
)

// maxPrefix bounds the header lines of one recipient's copy, in octets.
const maxPrefix = 1024

// MaxDoubts bounds Result.Doubts.
const MaxDoubts = 64

// deliver applies a Deliver.
func (m *machine) deliver(c *Deliver, r *Result) error {
	if d := m.unconfirmed.byID[c.ID]; d != nil && !mutant.Is(mutant.NoDedupe) {
		r.Placed = make([]Placed, len(d.placed))
		for i, p := range d.placed {
			p.Repeat = true
			r.Placed[i] = p
		}
		m.dropUpload(c.Body.Upload) // the retry sent it again
		return nil
	}
	if mutant.Is(mutant.Poison) && bytes.Contains(c.Summary, []byte(mutant.PoisonWord)) {
		panic("poison")
	}
	extents, err := m.body(&c.Body)
	if err != nil {
		return err
	}
	if err := m.checkRecipients(c); err != nil {
		return err
	}
	if r.Doubts = m.doubts(c); len(r.Doubts) > 0 && !mutant.Is(mutant.NoDedupe) {
		return nil
	}
	m.confirm(c.Confirmed, c.Remember)
	if c.Body.Chunks > 0 {
		// Whether or not the body is wanted: its chunks have done their duty. The
		// extents become the body's before anything else can look.
		defer m.dropUpload(c.Body.Upload)
	}
	m.tick(c.Time)
	r.Placed = make([]Placed, len(c.Recipients))
	stored := 0
	var spent []bool
	for i := range c.Recipients {
		r.Placed[i] = m.deliverTo(c, i, r.Placed[:i])
		switch p := r.Placed[i]; {
		case !p.Repeat:
			stored++
		case p.UID == 0: // the sender was heard of it: it speaks for nothing
			if spent == nil {
				spent = make([]bool, len(c.Recipients))
			}
			spent[i] = true
		}
	}
	if stored > 0 {
		m.t.addBody(covey.BodyID(m.entry.Index), newBody{stored, c.Body.Size, extents, c.Summary})
	}
	m.unconfirmed.add(&delivery{
		index: m.entry.Index, id: c.ID, time: m.meta.clock, hash: c.Hash, placed: slices.Clone(r.Placed), spent: spent,
	})
	return nil
}

// doubts returns deliveries of the same bytes about which the front node has said
// nothing, but could.
func (m *machine) doubts(c *Deliver) (ids []covey.DeliveryID) {
	if !c.Asks || c.Hash == [16]byte{} {
		return nil
	}
	for i := range c.Recipients {
		to := m.recipientTarget(&c.Recipients[i])
		if to.have == nil {
			continue
		}
		for d := range m.unconfirmed.at(place{c.Hash, to.have.ID}) {
			known := slices.Contains(c.Apart, d.id) || slices.Contains(c.Lost, d.id) || slices.Contains(c.Confirmed, d.id)
			if !known && len(ids) < MaxDoubts && !slices.Contains(ids, d.id) {
				ids = append(ids, d.id)
			}
		}
	}
	return ids
}

// confirm forgets deliveries whose positive reply reached the sender. From a
// queue they are still to go to their other recipients.
func (m *machine) confirm(ids []covey.DeliveryID, remember bool) {
	for _, id := range ids {
		m.hear(id)
		d := m.unconfirmed.byID[id]
		if d == nil {
			continue
		}
		if remember {
			m.heard.note(d)
		}
		m.unconfirmed.forget(d)
	}
}

func (m *machine) checkRecipients(c *Deliver) error {
	if len(c.Recipients) == 0 {
		return covey.Errorf(covey.Invalid, "delivery to nobody")
	}
	for i := range c.Recipients {
		rc := &c.Recipients[i]
		if rc.Account == 0 || len(rc.Prefix) > maxPrefix {
			return covey.Errorf(covey.Invalid, "recipient of account %d with a prefix of %d octets", rc.Account, len(rc.Prefix))
		}
		if err := m.recipientTarget(rc).room(1); err != nil {
			return err
		}
	}
	return nil
}

// recipientTarget returns the mailbox that a recipient names, or INBOX.
func (m *machine) recipientTarget(rc *Recipient) target {
	if to, err := m.target(rc.Account, rc.Mailbox); err == nil {
		return to
	}
	return target{rc.Account, Inbox, m.named(rc.Account, Inbox)}
}

// deliverTo puts the message into the mailbox of recipient i, unless it lies
// there: put there for an earlier recipient of the same command, or by an
// earlier try.
func (m *machine) deliverTo(c *Deliver, i int, earlier []Placed) Placed {
	rc := &c.Recipients[i]
	mb := m.destination(m.recipientTarget(rc))
	if p, ok := placedIn(earlier, mb.ID); ok {
		return p
	}
	if p, ok := m.unconfirmed.take(place{c.Hash, mb.ID}, c.Apart); ok && !mutant.Is(mutant.NoDedupe) {
		return p
	}
	if c.Late && m.heard.has(place{c.Hash, mb.ID}, c.Time.Unix()-lateSlack) {
		return Placed{Mailbox: mb.ID, UIDValidity: mb.UIDValidity, Repeat: true}
	}
	uid := m.put(mb, &Message{
		ModSeq: m.bump(mb),
		Date:   c.Time,
		Size:   c.Body.Size + int64(len(rc.Prefix)),
		Prefix: rc.Prefix,
		Body:   covey.BodyID(m.entry.Index),
	})
	return Placed{Mailbox: mb.ID, UIDValidity: mb.UIDValidity, UID: uid}
}

// append applies an Append.
func (m *machine) append(c *Append, r *Result) error {
	extents, err := m.body(&c.Body)
	if err != nil {
		return err
	}
	to, err := m.target(c.Account, c.Mailbox)
	if err != nil {
		return err
	}
	if err := to.room(1); err != nil {
		return err
	}
	if err := m.withinQuota(c.Account, c.Body.Size, c.Quota); err != nil {
		return err
	}
	flags, keywords, err := spell(to.have, c.Flags)
	if err != nil {
		return err
	}
	if c.Body.Chunks > 0 {
		defer m.dropUpload(c.Body.Upload)
	}
	m.tick(c.Time)
	mb := m.destination(to)
	mb.Keywords = keywords
	msg := Message{
		ModSeq: m.bump(mb),
		Flags:  flags,
		Date:   c.Date,
		Size:   c.Body.Size,
		Body:   covey.BodyID(m.entry.Index),
	}
	uid := m.put(mb, &msg)
	m.t.addBody(msg.Body, newBody{1, c.Body.Size, extents, c.Summary})
	r.Placed = []Placed{{Mailbox: mb.ID, UIDValidity: mb.UIDValidity, UID: uid}}
	r.Mailbox, r.ModSeq = mb.public(), msg.ModSeq
	return nil
}
