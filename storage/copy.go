package storage

import "github.com/covey-mail/covey"

// copy applies a Copy.
func (m *machine) copy(c *Copy, r *Result) error {
	from, err := m.find(c.Account, c.Mailbox)
	if err != nil {
		return err
	}
	to, err := m.target(c.Account, c.To)
	if err != nil {
		return err
	}
	n, err := m.checkCopy(c, from, to)
	if err != nil || n == 0 {
		return err
	}
	m.tick(c.Time)
	in := m.span(from, c.UIDs)
	dest := m.destination(to)
	r.Placed = make([]Placed, 0, n)
	r.ModSeq = m.bump(dest)
	r.UIDs = m.copyAll(transfer{in, from, dest, c.Move}, r)
	if !c.Move {
		r.UIDs = nil
	} else {
		if from != dest {
			r.ModSeq = m.bump(from)
		}
		m.noteExpunged(from, r.UIDs)
	}
	r.Mailbox = dest.public()
	return nil
}

// checkCopy returns how many messages a Copy is about, and whether all of them
// may go where it puts them.
func (m *machine) checkCopy(c *Copy, from *mailbox, to target) (int, error) {
	n, size := 0, int64(0)
	keywords := newKeywordSet(to.have)
	in := m.span(from, c.UIDs)
	for len(in.uids) > 0 {
		for _, msg := range m.t.messages(&in, sliceRows) {
			n++
			size += msg.Size
			if _, err := keywords.spell(msg.Flags); err != nil {
				return 0, err
			}
		}
	}
	if err := to.room(n); err != nil {
		return 0, err
	}
	if c.Move {
		return n, nil
	}
	return n, m.withinQuota(c.Account, size, c.Quota)
}

// A transfer puts messages of one mailbox into another.
type transfer struct {
	in       span
	from, to *mailbox
	move     bool
}

// copyAll carries out a transfer that was found to be possible, with the ModSeq
// that the destination has, and returns the UIDs that it copied.
func (m *machine) copyAll(t transfer, r *Result) []UIDRange {
	var done []UIDRange
	keywords := newKeywordSet(t.to)
	for len(t.in.uids) > 0 {
		for _, msg := range m.t.messages(&t.in, sliceRows) {
			done = appendUID(done, msg.UID)
			p := Placed{Mailbox: t.to.ID, UIDValidity: t.to.UIDValidity, Source: msg.UID}
			if t.move {
				m.remove(t.from, &msg)
			} else {
				m.t.ref(msg.Body, 1)
			}
			msg.Flags, _ = keywords.spell(msg.Flags)
			msg.ModSeq = t.to.HighestModSeq
			p.UID = m.put(t.to, &msg)
			r.Placed = append(r.Placed, p)
		}
	}
	t.to.Keywords = keywords.used
	m.t.counted(t.to)
	return done
}

// A keywordSet spells keywords as a mailbox does and gathers new ones.
type keywordSet struct{ used []string }

func newKeywordSet(mb *mailbox) keywordSet {
	if mb == nil {
		return keywordSet{}
	}
	return keywordSet{mb.Keywords}
}

func (k *keywordSet) spell(f covey.Flags) (covey.Flags, error) {
	if len(f.Keywords) == 0 {
		return f, nil
	}
	mb := mailbox{Mailbox: Mailbox{Keywords: k.used}}
	f, used, err := spell(&mb, f)
	if err == nil {
		k.used = used
	}
	return f, err
}
