package imapd

import (
	"slices"
	"strings"

	"github.com/emersion/go-imap/v2"
	"github.com/emersion/go-imap/v2/imapserver"

	"github.com/covey-mail/covey/mailbox"
	"github.com/covey-mail/covey/storage"
)

// Create makes a mailbox.
func (s *session) Create(name string, o *imap.CreateOptions) error {
	use, err := specialUse(o.SpecialUse)
	if err != nil {
		return err
	}
	ctx, cancel := s.op()
	defer cancel()
	return s.answer("CREATE", s.account.Create(ctx, name, use))
}

// specialUse takes the one use that a mailbox may have here (RFC 6154 section 3).
func specialUse(attrs []imap.MailboxAttr) (storage.SpecialUse, error) {
	if len(attrs) == 0 {
		return storage.NoUse, nil
	}
	for _, use := range []storage.SpecialUse{storage.Drafts, storage.Sent, storage.Junk, storage.Trash, storage.Archive} {
		if len(attrs) == 1 && useAttr(use) == attrs[0] {
			return use, nil
		}
	}
	return storage.NoUse, no("USEATTR", "A mailbox has one of the uses Archive, Drafts, Junk, Sent, Trash")
}

// useAttr returns a use as LIST shows it, empty for none.
func useAttr(use storage.SpecialUse) imap.MailboxAttr {
	switch use {
	case storage.Drafts:
		return imap.MailboxAttrDrafts
	case storage.Sent:
		return imap.MailboxAttrSent
	case storage.Junk:
		return imap.MailboxAttrJunk
	case storage.Trash:
		return imap.MailboxAttrTrash
	case storage.Archive:
		return imap.MailboxAttrArchive
	}
	return ""
}

// Delete removes a mailbox. If it is the one that is selected, nothing is
// selected any more.
func (s *session) Delete(name string) error {
	ctx, cancel := s.op()
	defer cancel()
	own := false
	if s.view != nil {
		m, err := s.account.Status(ctx, name)
		own = err == nil && m.ID == s.view.Mailbox().ID
	}
	err := s.account.Delete(ctx, name)
	if err == nil && own {
		s.unselect()
	}
	return s.answer("DELETE", err)
}

// Rename renames a mailbox and what is below it.
func (s *session) Rename(from, to string, _ *imap.RenameOptions) error {
	ctx, cancel := s.op()
	defer cancel()
	return s.answer("RENAME", s.account.Rename(ctx, from, to))
}

// Subscribe puts a name on the list of subscriptions.
func (s *session) Subscribe(name string) error {
	ctx, cancel := s.op()
	defer cancel()
	return s.answer("SUBSCRIBE", s.account.Subscribe(ctx, name))
}

// Unsubscribe takes a name off the list of subscriptions.
func (s *session) Unsubscribe(name string) error {
	ctx, cancel := s.op()
	defer cancel()
	return s.answer("UNSUBSCRIBE", s.account.Unsubscribe(ctx, name))
}

// Status returns the counts of a mailbox.
func (s *session) Status(name string, _ *imap.StatusOptions) (*imap.StatusData, error) {
	ctx, cancel := s.op()
	defer cancel()
	box, err := s.account.Status(ctx, name)
	if err != nil {
		return nil, s.answer("STATUS", err)
	}
	return s.statusData(box), nil
}

// statusData fills in all: go-imap takes what it needs, and panics where that is
// nil.
func (s *session) statusData(box storage.Mailbox) *imap.StatusData {
	none, limit, deletedBytes := uint32(0), s.AppendLimit(), int64(0)
	return &imap.StatusData{
		Mailbox:        box.Name,
		NumMessages:    &box.Messages,
		NumRecent:      &none,
		UIDNext:        imap.UID(box.UIDNext),
		UIDValidity:    box.UIDValidity,
		NumUnseen:      &box.Unseen,
		NumDeleted:     &box.Deleted,
		Size:           &box.Bytes,
		AppendLimit:    &limit,
		DeletedStorage: &deletedBytes,
	}
}

// A lister answers one LIST or LSUB.
type lister struct {
	s        *session
	w        *imapserver.ListWriter
	o        *imap.ListOptions
	lsub     bool
	patterns []*matcher
	folders  []mailbox.Folder // in the order of their names
	told     map[string]bool  // parents that LSUB has shown
}

// List shows the mailboxes that match (RFC 3501 sections 6.3.8 and 6.3.9, RFC
// 5258).
func (s *session) List(w *imapserver.ListWriter, ref string, patterns []string, o *imap.ListOptions) error {
	if len(patterns) == 0 {
		return w.WriteList(&imap.ListData{Attrs: []imap.MailboxAttr{imap.MailboxAttrNoSelect}, Delim: delimiter})
	}
	ctx, cancel := s.op()
	defer cancel()
	folders, err := s.account.List(ctx)
	if err != nil {
		return s.answer("LIST", err)
	}
	l := &lister{s: s, w: w, o: o, lsub: s.g.cmd == "LSUB", folders: folders, told: make(map[string]bool)}
	for _, p := range patterns {
		l.patterns = append(l.patterns, newMatcher(foldInbox(ref+p)))
	}
	for i := range folders {
		if err := l.show(i); err != nil {
			return err
		}
	}
	return nil
}

func (l *lister) matches(name string) bool {
	for _, p := range l.patterns {
		if p.match(name) {
			return true
		}
	}
	return false
}

// show tells of folder i if it is wanted.
func (l *lister) show(i int) error {
	f := &l.folders[i]
	if l.lsub {
		return l.showSubscribed(f)
	}
	wanted := f.Exists || l.o.SelectSubscribed
	if l.o.SelectSubscribed && !f.Subscribed || l.o.SelectSpecialUse && useAttr(f.Use) == "" {
		wanted = false
	}
	below := l.o.SelectRecursiveMatch && l.subscribedBelow(i)
	if !wanted && !below || !l.matches(f.Name) {
		return nil
	}
	data := &imap.ListData{Attrs: l.attrs(i), Delim: delimiter, Mailbox: f.Name}
	if below {
		data.ChildInfo = &imap.ListDataChildInfo{Subscribed: true}
	}
	if l.o.ReturnStatus != nil && f.Exists && !f.NoSelect {
		box, err := l.status(f)
		if err != nil {
			return err
		}
		data.Status = l.s.statusData(box)
	}
	return l.w.WriteList(data)
}

// status returns the counts of a folder; one that is not made yet is made for
// that, as it has no UIDVALIDITY before.
func (l *lister) status(f *mailbox.Folder) (storage.Mailbox, error) {
	if f.ID != 0 {
		return f.Mailbox, nil
	}
	ctx, cancel := l.s.op()
	defer cancel()
	box, err := l.s.account.Status(ctx, f.Name)
	return box, l.s.answer("LIST", err)
}

// showSubscribed tells LSUB of a subscription, or of the first of its parents that
// matches where "%" stops short of it (RFC 3501 section 6.3.9).
func (l *lister) showSubscribed(f *mailbox.Folder) error {
	if !f.Subscribed {
		return nil
	}
	if l.matches(f.Name) {
		var attrs []imap.MailboxAttr
		if !f.Exists || f.NoSelect {
			attrs = append(attrs, imap.MailboxAttrNoSelect)
		}
		return l.w.WriteList(&imap.ListData{Attrs: attrs, Delim: delimiter, Mailbox: f.Name})
	}
	for i := strings.LastIndexByte(f.Name, delimiter); i > 0; i = strings.LastIndexByte(f.Name[:i], delimiter) {
		parent := f.Name[:i]
		if !l.matches(parent) || l.told[parent] || l.subscribed(parent) {
			continue
		}
		l.told[parent] = true
		attrs := []imap.MailboxAttr{imap.MailboxAttrNoSelect}
		return l.w.WriteList(&imap.ListData{Attrs: attrs, Delim: delimiter, Mailbox: parent})
	}
	return nil
}

func (l *lister) subscribed(name string) bool {
	i, found := slices.BinarySearchFunc(l.folders, name, func(f mailbox.Folder, name string) int {
		return strings.Compare(f.Name, name)
	})
	return found && l.folders[i].Subscribed
}

// attrs returns the attributes of folder i. Children and special use are shown
// whether asked for or not (RFC 5258 section 4, RFC 6154 section 2).
func (l *lister) attrs(i int) []imap.MailboxAttr {
	f := &l.folders[i]
	var attrs []imap.MailboxAttr
	if !f.Exists {
		attrs = append(attrs, imap.MailboxAttrNonExistent)
	} else if f.NoSelect {
		attrs = append(attrs, imap.MailboxAttrNoSelect)
	}
	child := imap.MailboxAttrHasNoChildren
	if l.below(i, func(c *mailbox.Folder) bool { return c.Exists }) {
		child = imap.MailboxAttrHasChildren
	}
	attrs = append(attrs, child)
	if use := useAttr(f.Use); use != "" {
		attrs = append(attrs, use)
	}
	if f.Subscribed && (l.o.ReturnSubscribed || l.o.SelectSubscribed) {
		attrs = append(attrs, imap.MailboxAttrSubscribed)
	}
	return attrs
}

func (l *lister) subscribedBelow(i int) bool {
	return l.below(i, func(c *mailbox.Folder) bool { return c.Subscribed && !l.matches(c.Name) })
}

// below reports whether a folder below folder i is as ok wants it. The order of
// names does not keep them next to each other: "a-b" stands between "a" and
// "a/b".
func (l *lister) below(i int, ok func(*mailbox.Folder) bool) bool {
	prefix := l.folders[i].Name + string(delimiter)
	first, _ := slices.BinarySearchFunc(l.folders, prefix, func(f mailbox.Folder, name string) int {
		return strings.Compare(f.Name, name)
	})
	for j := first; j < len(l.folders) && strings.HasPrefix(l.folders[j].Name, prefix); j++ {
		if ok(&l.folders[j]) {
			return true
		}
	}
	return false
}
