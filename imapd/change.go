package imapd

import (
	"context"
	"slices"
	"strings"

	"github.com/emersion/go-imap/v2"
	"github.com/emersion/go-imap/v2/imapserver"

	"github.com/covey-mail/covey/mailbox"
	"github.com/covey-mail/covey/storage"
)

// A storeQuery is what STORE asks for.
type storeQuery struct {
	set    numSet
	uid    bool // UID STORE
	op     storage.FlagOp
	silent bool
	flags  []imap.Flag
}

// parseStore is RFC 3501 section 6.4.6.
func parseStore(cmd command) (*storeQuery, *imap.Error) {
	c, q := cursor{s: cmd.args}, &storeQuery{uid: cmd.name == "UID STORE"}
	c.sp()
	q.set = c.set()
	c.sp()
	item := strings.ToUpper(c.atom())
	item, q.silent = strings.CutSuffix(item, ".SILENT")
	switch item {
	case "FLAGS":
		q.op = storage.SetFlags
	case "+FLAGS":
		q.op = storage.AddFlags
	case "-FLAGS":
		q.op = storage.RemoveFlags
	default:
		c.fail(bad("Unknown item"))
	}
	c.sp()
	if c.peek() == '(' {
		q.flags = c.flags()
	} else {
		q.flags = append(q.flags, c.flag(0))
		for c.accept(' ') {
			q.flags = append(q.flags, c.flag(len(q.flags)))
		}
	}
	c.end()
	return q, c.err
}

// storeFlags changes flags.
func (s *session) storeFlags(q *storeQuery) error {
	if err := s.writable(); err != nil {
		return err
	}
	uids, err := s.targets(q.set, q.uid)
	if err != nil {
		return err
	}
	flags, err := storedFlags(q.flags)
	if err != nil || len(uids) == 0 {
		return err
	}
	// The view does not report the messages that this changes, so what others did
	// to them before is taken out of it first.
	if err := s.refresh(mailbox.PollOptions{}); err != nil {
		return s.answer("STORE", err)
	}
	tell := intersect(uids, s.takeFlagUpdates(uids))
	change := mailbox.Flags{UIDs: uids, Op: q.op, Flags: flags}
	ctx, cancel := s.op()
	defer cancel()
	done, err := s.view.Holds(ctx, change)
	if err == nil && !done {
		_, err = s.view.Store(ctx, change)
	}
	if err != nil {
		return s.answer("STORE", err)
	}
	if !q.silent {
		tell = uids
	}
	return s.fetch(tell, &fetchQuery{flags: true, uids: q.uid})
}

// takeFlagUpdates takes the changes of flags of messages in uids from what is to
// be told, and returns which messages those are.
func (s *session) takeFlagUpdates(uids []storage.UIDRange) []storage.UIDRange {
	var taken []storage.UIDRange
	s.pending = slices.DeleteFunc(s.pending, func(u mailbox.Update) bool {
		if u.Message == nil || !contains(uids, u.Message.UID) {
			return false
		}
		taken = append(taken, storage.UIDRange{First: u.Message.UID, Last: u.Message.UID})
		return true
	})
	return joinRanges(taken)
}

// Expunge removes messages with \Deleted: those of uids, or all that the client
// knows of. go-imap calls it for CLOSE too. The next Poll tells which they were.
func (s *session) Expunge(_ *imapserver.ExpungeWriter, uids *imap.UIDSet) error {
	if s.g.cmd == "CLOSE" && (s.readOnly || s.view == nil) {
		return nil
	}
	if err := s.writable(); err != nil {
		return err
	}
	targets := s.view.Span(1, s.view.Len())
	if uids != nil {
		var err error
		if targets, err = s.targets(setOf(*uids)); err != nil {
			return err
		}
	}
	if err := s.refresh(mailbox.PollOptions{Sync: true}); err != nil {
		return s.answer(s.g.cmd, err)
	}
	if s.view.Mailbox().Deleted == 0 || len(targets) == 0 {
		return nil
	}
	ctx, cancel := s.op()
	defer cancel()
	_, err := s.view.ExpungeDeleted(ctx, targets)
	return s.answer("EXPUNGE", err)
}

// Copy copies messages to another mailbox.
func (s *session) Copy(set imap.NumSet, dest string) (*imap.CopyData, error) {
	uids, err := s.targets(setOf(set))
	if err != nil || len(uids) == 0 {
		return nil, err
	}
	ctx, cancel := s.op()
	defer cancel()
	if err := s.destination(ctx, dest); err != nil {
		return nil, err
	}
	res, err := s.view.Copy(ctx, uids, dest)
	if err != nil {
		return nil, s.answer("COPY", err)
	}
	return copyData(res), nil
}

// Move moves messages to another mailbox. The Poll that follows tells that they
// are gone from this one.
func (s *session) Move(w *imapserver.MoveWriter, set imap.NumSet, dest string) error {
	if err := s.writable(); err != nil {
		return err
	}
	uids, err := s.targets(setOf(set))
	if err != nil || len(uids) == 0 {
		return err
	}
	ctx, cancel := s.op()
	defer cancel()
	if err := s.destination(ctx, dest); err != nil {
		return err
	}
	res, err := s.view.Move(ctx, uids, dest)
	if err != nil {
		return s.answer("MOVE", err)
	}
	if data := copyData(res); data != nil {
		return w.WriteCopyData(data)
	}
	return nil
}

// destination makes sure that there is a mailbox to put messages into: that it
// can be created is said of no other (RFC 3501 section 6.4.7).
func (s *session) destination(ctx context.Context, name string) error {
	_, err := s.account.Status(ctx, name)
	return s.answerTo("COPY", err)
}

// copyData returns what COPYUID says, nil if nothing was copied. Both sets are in
// the order of the source (RFC 4315 section 3).
func copyData(res *storage.Result) *imap.CopyData {
	if len(res.Placed) == 0 {
		return nil
	}
	data := &imap.CopyData{UIDValidity: res.Placed[0].UIDValidity}
	for _, p := range res.Placed {
		data.SourceUIDs.AddNum(imap.UID(p.Source))
		data.DestUIDs.AddNum(imap.UID(p.UID))
	}
	return data
}
