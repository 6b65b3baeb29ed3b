package storage

import (
	"slices"
	"strings"

	"github.com/covey-mail/covey"
)

// MaxSubscriptions bounds the names that one account is subscribed to by its own
// commands; making a default folder subscribes to it whatever the number.
const MaxSubscriptions = 10000

// public returns the row as readers see it; the caller's own.
func (mb *mailbox) public() Mailbox {
	p := mb.Mailbox
	p.Keywords = slices.Clone(p.Keywords)
	return p
}

// makeMailbox makes a mailbox that can be selected, and the levels above it that
// are missing; in place of a name that cannot be, if there is one. A default
// folder gets its own use.
func (m *machine) makeMailbox(a covey.AccountID, name string, use SpecialUse) *mailbox {
	for level := range parents(name) {
		if m.t.mailboxNamed(a, level) == nil {
			m.makeOne(a, level, NoUse)
		}
	}
	return m.makeOne(a, name, use)
}

func (m *machine) makeOne(id covey.AccountID, name string, use SpecialUse) *mailbox {
	a := m.t.account(id)
	if a == nil {
		a = &account{id: id}
	}
	if old := m.t.mailboxNamed(id, name); old != nil {
		m.t.dropMailbox(old)
		a.mailboxes--
	}
	if folder, ok := defaultFolder(name); ok {
		use = folder
		m.show(a, name)
	}
	a.lastValidity = max(a.lastValidity+1, uint32(max(m.meta.clock, 0)))
	a.mailboxes++
	m.t.putAccount(a)
	m.meta.lastMailbox++
	mb := &mailbox{Mailbox: Mailbox{
		ID: m.meta.lastMailbox, Account: id, Name: name, Use: use,
		UIDValidity: a.lastValidity, UIDNext: 1, HighestModSeq: 1,
	}}
	m.t.putMailbox(mb)
	m.touch(mb)
	return mb
}

// hide notes that a default folder was deleted.
func (a *account) hide(name string) {
	if _, ok := defaultFolder(name); ok && !slices.Contains(a.hidden, name) {
		a.hidden = append(a.hidden, name)
		slices.Sort(a.hidden)
	}
}

// show notes that a default folder is there. It is subscribed to, as it was shown
// before its first use, so that clients which list only subscriptions keep it.
func (m *machine) show(a *account, name string) {
	a.hidden = slices.DeleteFunc(a.hidden, func(h string) bool { return h == name })
	if len(a.hidden) == 0 {
		a.hidden = nil // as it comes from a database
	}
	m.t.subscribe(a.id, name)
}

// missing returns how many rows makeMailbox would add for name.
func (m *machine) missing(a covey.AccountID, name string) int {
	n := 0
	for level := range parents(name) {
		if m.t.mailboxNamed(a, level) == nil {
			n++
		}
	}
	if m.t.mailboxNamed(a, name) == nil {
		n++
	}
	return n
}

// create applies a CreateMailbox.
func (m *machine) create(c *CreateMailbox, r *Result) error {
	name, err := CleanName(c.Name)
	if err != nil {
		return err
	}
	if c.Account == 0 || c.Use > Archive {
		return covey.Errorf(covey.Invalid, "mailbox with use %d of account %d", c.Use, c.Account)
	}
	if mb := m.named(c.Account, name); mb != nil {
		if !c.IfMissing {
			return covey.Errorf(covey.Exists, "mailbox %q of account %d", name, c.Account)
		}
		r.Mailbox = mb.public()
		return nil
	}
	have := 0
	if a := m.t.account(c.Account); a != nil {
		have = a.mailboxes
	}
	if c.Most > 0 && have+m.missing(c.Account, name) > int(c.Most) {
		return covey.Errorf(covey.Limit, "account %d has %d mailboxes", c.Account, have)
	}
	m.tick(c.Time)
	mb := m.makeMailbox(c.Account, name, c.Use)
	r.Mailbox, r.ModSeq = mb.public(), mb.HighestModSeq
	return nil
}

// delete applies a DeleteMailbox.
func (m *machine) delete(c *DeleteMailbox) error {
	name, err := CleanName(c.Name)
	if err != nil {
		return err
	}
	if name == Inbox {
		return covey.Errorf(covey.Denied, "INBOX cannot be deleted")
	}
	mb := m.t.mailboxNamed(c.Account, name)
	if mb == nil {
		return m.hideUnused(c.Account, name)
	}
	below := m.t.mailboxes(c.Account, name)
	if mb.NoSelect && len(below) > 0 {
		return covey.Errorf(covey.Denied, "mailbox %q has others below it", name)
	}
	m.empty(mb)
	m.drop(mb)
	if len(below) > 0 {
		m.makeName(c.Account, name)
	} else {
		m.prune(c.Account, parent(name))
	}
	return nil
}

// hideUnused deletes a default folder that is shown and was never used.
func (m *machine) hideUnused(id covey.AccountID, name string) error {
	if !m.showsUnused(id, name) {
		return covey.Errorf(covey.NotFound, "mailbox %q of account %d", name, id)
	}
	a := m.t.account(id)
	if a == nil {
		a = &account{id: id}
	}
	a.hide(name)
	m.t.putAccount(a)
	return nil
}

// showsUnused reports whether name is a default folder that is shown to the
// account though it does not exist.
func (m *machine) showsUnused(id covey.AccountID, name string) bool {
	_, ok := defaultFolder(name)
	a := m.t.account(id)
	return ok && id != 0 && m.t.mailboxNamed(id, name) == nil && (a == nil || !slices.Contains(a.hidden, name))
}

// drop removes an empty mailbox's row.
func (m *machine) drop(mb *mailbox) {
	if a := m.t.account(mb.Account); a != nil {
		a.mailboxes--
		a.hide(mb.Name)
		m.t.putAccount(a)
	}
	m.touch(mb)
	m.rolls.drop(mb.ID)
	m.t.dropMailbox(mb)
}

// makeName makes a name that cannot be selected, under an id that no session
// holds.
func (m *machine) makeName(id covey.AccountID, name string) {
	if a := m.t.account(id); a != nil {
		a.mailboxes++
	}
	m.meta.lastMailbox++
	m.t.putMailbox(&mailbox{Mailbox: Mailbox{
		ID: m.meta.lastMailbox, Account: id, Name: name, NoSelect: true, UIDNext: 1,
	}})
}

// prune drops names that cannot be selected and have nothing below them any
// more, from name upwards.
func (m *machine) prune(id covey.AccountID, name string) {
	for ; name != ""; name = parent(name) {
		mb := m.t.mailboxNamed(id, name)
		if mb == nil || !mb.NoSelect || len(m.t.mailboxes(id, name)) > 0 {
			return
		}
		m.drop(mb)
	}
}

// rename applies a RenameMailbox.
func (m *machine) rename(c *RenameMailbox) error {
	from, err := CleanName(c.From)
	if err != nil {
		return err
	}
	to, err := CleanName(c.To)
	if err != nil {
		return err
	}
	if to == Inbox || m.t.mailboxNamed(c.Account, to) != nil {
		return covey.Errorf(covey.Exists, "mailbox %q of account %d", to, c.Account)
	}
	if from == Inbox {
		return m.renameInbox(c, to)
	}
	if strings.HasPrefix(to, from+"/") || to == from {
		return covey.Errorf(covey.Denied, "mailbox %q cannot go below itself", from)
	}
	if m.t.mailboxNamed(c.Account, from) == nil && !m.showsUnused(c.Account, from) {
		return covey.Errorf(covey.NotFound, "mailbox %q of account %d", from, c.Account)
	}
	for _, mb := range m.t.mailboxes(c.Account, from) {
		if _, err := CleanName(to + mb.Name[len(from):]); err != nil {
			return covey.Errorf(covey.Limit, "a mailbox below %q would have too long a name", from)
		}
	}
	m.tick(c.Time)
	m.renameTree(c.Account, from, to)
	return nil
}

// renameTree gives a mailbox and all below it new names.
func (m *machine) renameTree(id covey.AccountID, from, to string) {
	mb := m.t.mailboxNamed(id, from)
	if mb == nil {
		mb = m.makeMailbox(id, from, NoUse)
	}
	if up := parent(to); up != "" && m.t.mailboxNamed(id, up) == nil {
		m.makeMailbox(id, up, NoUse)
	}
	a := m.t.account(id)
	if a == nil {
		return // a fault, or a broken invariant that check tells
	}
	a.hide(from)
	if use, ok := defaultFolder(to); ok && !mb.NoSelect {
		mb.Use = use
		m.show(a, to)
	}
	m.t.putAccount(a)
	for _, one := range append(m.t.mailboxes(id, from), mb) {
		one.Name = to + one.Name[len(from):]
		m.t.putMailbox(one)
		m.touch(one)
	}
	m.prune(id, parent(from))
}

// renameInbox moves what INBOX holds into a new mailbox (RFC 9051 section 6.3.6).
func (m *machine) renameInbox(c *RenameMailbox, to string) error {
	if c.Account == 0 {
		return covey.Errorf(covey.Invalid, "account 0")
	}
	m.tick(c.Time)
	from := m.named(c.Account, Inbox)
	if from == nil {
		from = m.makeMailbox(c.Account, Inbox, NoUse)
	}
	dest := m.makeMailbox(c.Account, to, NoUse)
	if from.Messages == 0 {
		return nil
	}
	m.bump(dest)
	var r Result
	gone := m.copyAll(transfer{m.span(from, []UIDRange{{1, from.UIDNext}}), from, dest, true}, &r)
	m.bump(from)
	m.noteExpunged(from, gone)
	return nil
}

// subscribe applies a Subscribe.
func (m *machine) subscribe(c *Subscribe) error {
	name, err := CleanName(c.Name)
	if err != nil {
		return err
	}
	if c.Account == 0 {
		return covey.Errorf(covey.Invalid, "account 0")
	}
	if !c.On {
		m.t.unsubscribe(c.Account, name)
		return nil
	}
	if n := len(m.t.subscriptions(c.Account)); n >= MaxSubscriptions {
		return covey.Errorf(covey.Limit, "account %d is subscribed to %d names", c.Account, n)
	}
	m.t.subscribe(c.Account, name)
	return nil
}

// dropAccount applies a DropAccount.
func (m *machine) dropAccount(id covey.AccountID) {
	for _, mb := range m.t.mailboxes(id, "") {
		m.empty(mb)
		m.drop(mb)
	}
	for _, name := range m.t.subscriptions(id) {
		m.t.unsubscribe(id, name)
	}
	m.t.dropAccount(id)
}
