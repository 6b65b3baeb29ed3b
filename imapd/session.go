package imapd

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/emersion/go-imap/v2"
	"github.com/emersion/go-imap/v2/imapserver"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/mailbox"
	"github.com/covey-mail/covey/storage"
)

// opTime bounds a single operation on a mailbox.
const opTime = 30 * time.Second

// A session does the commands of one connection. go-imap calls its methods one
// at a time from the goroutine that reads; only Idle runs beside it, and the
// guard waits for Idle to return before it lets go-imap read on.
type session struct {
	g       *guard
	account *mailbox.Account

	open     bool          // a mailbox is selected, as go-imap sees it
	view     *mailbox.View // nil: none selected, or it was deleted by this session
	readOnly bool
	keywords int                // of the mailbox, as told
	pending  []mailbox.Update   // taken from view, not yet told
	saved    []storage.UIDRange // what $ stands for; may hold UIDs that are gone

	mu     sync.Mutex // guards what follows
	idle   *idleState
	closed bool
}

var (
	_ imapserver.SessionNamespace   = (*session)(nil)
	_ imapserver.SessionMove        = (*session)(nil)
	_ imapserver.SessionAppendLimit = (*session)(nil)
)

func newSession(g *guard) *session {
	a := g.login.Account
	return &session{g: g, account: g.s.cfg.Mailboxes.Account(a.ID, a.Shard, a.Quota)}
}

// Close ends the session. go-imap may still be in Idle, or about to call it.
func (s *session) Close() error {
	s.mu.Lock()
	s.closed = true
	idle := s.idle
	s.mu.Unlock()
	if idle != nil {
		s.g.abort() // Idle may be writing to a peer that does not read
		s.endIdle()
	}
	s.unselect()
	return nil
}

// op returns the context of a single operation.
func (s *session) op() (context.Context, context.CancelFunc) {
	return context.WithTimeout(s.g.ctx, opTime)
}

// replyLog is reply, and writes down what the client is not told.
func (s *session) replyLog(op string, err error) *imap.Error {
	e := reply(err)
	if e.Code == imap.ResponseCodeServerBug || e.Code == imap.ResponseCodeUnavailable {
		s.g.s.cfg.Logger.Warn("imap command failed", "session", s.g.login.Session, "command", op, "err", err)
	}
	return e
}

// answer is replyLog for what may be nil.
func (s *session) answer(op string, err error) error {
	if err == nil {
		return nil
	}
	return s.replyLog(op, err)
}

// answerTo is answer for commands that put messages into a mailbox.
func (s *session) answerTo(op string, err error) error {
	if errors.Is(err, covey.NotFound) {
		return replyTo(err)
	}
	return s.answer(op, err)
}

// Login is not reached: the connection is logged in before go-imap gets it.
func (s *session) Login(string, string) error { return bad("Logged in already") }

// Fetch is not reached: see guard.onMessages.
func (s *session) Fetch(*imapserver.FetchWriter, imap.NumSet, *imap.FetchOptions) error {
	return bad("Not here")
}

// Store is not reached either.
func (s *session) Store(*imapserver.FetchWriter, imap.NumSet, *imap.StoreFlags, *imap.StoreOptions) error {
	return bad("Not here")
}

// AppendLimit returns the most octets of a message.
func (s *session) AppendLimit() uint32 { return uint32(s.g.s.cfg.AppendLimit) }

// Namespace returns the one namespace there is.
func (s *session) Namespace() (*imap.NamespaceData, error) {
	return &imap.NamespaceData{Personal: []imap.NamespaceDescriptor{{Delim: delimiter}}}, nil
}

// Select opens a mailbox.
func (s *session) Select(name string, o *imap.SelectOptions) (*imap.SelectData, error) {
	ctx, cancel := s.op()
	defer cancel()
	s.unselect()
	v, err := s.account.Open(ctx, name)
	if err != nil {
		return nil, s.answer("SELECT", err)
	}
	s.open, s.view, s.readOnly = true, v, o.ReadOnly
	box := v.Mailbox()
	s.keywords = len(box.Keywords)
	data := &imap.SelectData{
		Flags:             imapFlags(mailboxFlags(box)),
		PermanentFlags:    []imap.Flag{},
		NumMessages:       v.Len(),
		FirstUnseenSeqNum: v.FirstUnseen(),
		UIDNext:           imap.UID(box.UIDNext),
		UIDValidity:       box.UIDValidity,
	}
	if !o.ReadOnly {
		data.PermanentFlags = imapFlags(mailboxFlags(box))
		if len(box.Keywords) < storage.MaxMailboxKeywords {
			data.PermanentFlags = append(data.PermanentFlags, imap.FlagWildcard)
		}
	}
	return data, nil
}

// Unselect closes the mailbox.
func (s *session) Unselect() error {
	s.open = false
	s.unselect()
	return nil
}

func (s *session) unselect() {
	if s.view != nil {
		s.view.Close()
	}
	s.view, s.pending, s.saved = nil, nil, nil
}

// selected returns why a command on the selected mailbox cannot be done.
func (s *session) selected() error {
	if s.view == nil {
		return no(imap.ResponseCodeNonExistent, "The selected mailbox was deleted")
	}
	return nil
}

// writable is selected for commands that change the mailbox.
func (s *session) writable() error {
	if s.view != nil && s.readOnly {
		return no("READ-ONLY", "The mailbox was selected read-only")
	}
	return s.selected()
}

// targets returns the UIDs of the view that a command names, by number or UID.
func (s *session) targets(ns numSet, uid bool) ([]storage.UIDRange, error) {
	if err := s.selected(); err != nil {
		return nil, err
	}
	if !uid && ns.highest() > s.view.Len() {
		return nil, bad("No message with that number")
	}
	return s.resolve(ns, uid), nil
}

// resolve returns the UIDs of the view that are in a set.
func (s *session) resolve(ns numSet, uid bool) []storage.UIDRange {
	switch {
	case ns.saved:
		return s.view.Within(s.saved)
	case uid:
		return s.view.Within(ns.resolve(uint32(s.view.LastUID())))
	}
	var out []storage.UIDRange
	for _, r := range ns.resolve(s.view.Len()) {
		out = append(out, s.view.Span(uint32(r.First), uint32(r.Last))...)
	}
	return joinRanges(out)
}

// mailboxFlags returns the flags that a mailbox knows.
func mailboxFlags(box storage.Mailbox) covey.Flags {
	return covey.Flags{
		System:   covey.Seen | covey.Answered | covey.Flagged | covey.Deleted | covey.Draft,
		Keywords: box.Keywords,
	}
}

// systemFlags are the flags of RFC 3501 section 2.3.2 that are kept.
func systemFlags() [5]struct {
	bit  covey.SystemFlags
	flag imap.Flag
} {
	return [...]struct {
		bit  covey.SystemFlags
		flag imap.Flag
	}{
		{covey.Answered, imap.FlagAnswered}, {covey.Flagged, imap.FlagFlagged}, {covey.Deleted, imap.FlagDeleted},
		{covey.Seen, imap.FlagSeen}, {covey.Draft, imap.FlagDraft},
	}
}

// imapFlags returns flags for go-imap to write.
func imapFlags(f covey.Flags) []imap.Flag {
	out := make([]imap.Flag, 0, len(f.Keywords)+6)
	for _, s := range systemFlags() {
		if f.System&s.bit != 0 {
			out = append(out, s.flag)
		}
	}
	for _, k := range f.Keywords {
		out = append(out, imap.Flag(k))
	}
	return out
}

// appendFlags writes flags in parentheses.
func appendFlags(b []byte, f covey.Flags) []byte {
	b = append(b, '(')
	sep := ""
	for _, s := range systemFlags() {
		if f.System&s.bit != 0 {
			b = append(append(b, sep...), s.flag...)
			sep = " "
		}
	}
	for _, k := range f.Keywords {
		b = append(append(b, sep...), k...)
		sep = " "
	}
	return append(b, ')')
}

// storedFlags takes flags from go-imap.
func storedFlags(flags []imap.Flag) (covey.Flags, error) {
	var system covey.SystemFlags
	var keywords []string
	for _, f := range flags {
		if bit := systemFlag(f); bit != 0 {
			system |= bit
		} else {
			keywords = append(keywords, string(f))
		}
	}
	f := covey.NewFlags(system, keywords...)
	if len(f.Keywords) > covey.MaxKeywords {
		return f, no(imap.ResponseCodeLimit, "Too many flags")
	}
	return f, nil
}

// take splits off the first n numbers of rs, or all there are. It does not change rs.
func take(rs []storage.UIDRange, n uint32) (head, tail []storage.UIDRange) {
	var have uint32
	for i, r := range rs {
		size := uint32(r.Last-r.First) + 1
		if have+size < n {
			have += size
			continue
		}
		cut := r.First + covey.UID(n-have) - 1
		head = append(slices.Clone(rs[:i]), storage.UIDRange{First: r.First, Last: cut})
		if cut == r.Last {
			return head, rs[i+1:]
		}
		tail = slices.Clone(rs[i:])
		tail[0].First = cut + 1
		return head, tail
	}
	return rs, nil
}
