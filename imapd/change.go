package imapd

import (
	"context"
	"slices"

	"github.com/emersion/go-imap/v2"
	"github.com/emersion/go-imap/v2/imapserver"

	"github.com/covey-mail/covey/mailbox"
	"github.com/covey-mail/covey/storage"
)

// Store changes flags.
func (s *session) Store(w *imapserver.FetchWriter, set imap.NumSet, f *imap.StoreFlags, _ *imap.StoreOptions) error {
	if err := s.writable(); err != nil {
		return err
	}
	uids, err := s.targets(set)
	if err != nil {
		return err
	}
	flags, err := storedFlags(f.Flags)
	if err != nil || len(uids) == 0 {
		return err
	}
	// The view does not report the messages that this changes, so what others did
	// to them before is taken out of it first.
	if err := s.refresh(mailbox.PollOptions{}); err != nil {
		return s.answer("STORE", err)
	}
	tell := intersect(uids, s.takeFlagUpdates(uids))
	ops := map[imap.StoreFlagsOp]storage.FlagOp{
		imap.StoreFlagsSet: storage.SetFlags, imap.StoreFlagsAdd: storage.AddFlags, imap.StoreFlagsDel: storage.RemoveFlags,
	}
	ctx, cancel := s.op()
	defer cancel()
	if _, err := s.view.Store(ctx, mailbox.Flags{UIDs: uids, Op: ops[f.Op], Flags: flags}); err != nil {
		return s.answer("STORE", err)
	}
	if !f.Silent {
		tell = uids
	}
	_, uid := setOf(set)
	return s.fetch(w, tell, &imap.FetchOptions{Flags: true, UID: uid})
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
		if targets, err = s.targets(*uids); err != nil {
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
	uids, err := s.targets(set)
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
	uids, err := s.targets(set)
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
