package imapd

import (
	"context"
	"errors"

	"github.com/emersion/go-imap/v2"
	"github.com/emersion/go-imap/v2/imapserver"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/mailbox"
)

// Poll tells the client what has changed. An error ends the session: it cannot
// be told what it should know.
func (s *session) Poll(_ *imapserver.UpdateWriter, allowExpunge bool) error {
	sync := s.g.cmd == "NOOP" || s.g.cmd == "CHECK"
	return s.poll(mailbox.PollOptions{Expunge: allowExpunge, Sync: sync})
}

func (s *session) poll(o mailbox.PollOptions) error {
	if s.view == nil {
		return nil
	}
	if err := s.refresh(o); err != nil {
		e := s.replyLog("poll", err)
		if errors.Is(err, covey.NotFound) {
			e = &imap.Error{Text: "The selected mailbox was deleted"}
		}
		return errors.Join(err, s.g.farewell(e))
	}
	var b []byte
	if box := s.view.Mailbox(); len(box.Keywords) != s.keywords {
		s.keywords = len(box.Keywords)
		b = append(appendFlags(append(b, "* FLAGS "...), mailboxFlags(box)), "\r\n"...)
	}
	for _, u := range s.pending {
		b = appendUpdate(b, u)
	}
	s.pending = nil
	if len(b) == 0 {
		return nil
	}
	_, err := s.g.Write(b)
	return err
}

// refresh brings the view up to date and keeps what is to be told. Without
// o.Expunge no sequence number moves.
func (s *session) refresh(o mailbox.PollOptions) error {
	ctx := s.g.ctx
	if o.Sync {
		var cancel context.CancelFunc
		ctx, cancel = s.op()
		defer cancel()
	}
	ups, err := s.view.Poll(ctx, o)
	s.pending = append(s.pending, ups...)
	return err
}

// appendUpdate appends the response that tells of an update.
func appendUpdate(b []byte, u mailbox.Update) []byte {
	b = append(b, "* "...)
	switch {
	case u.Expunge != 0:
		return append(appendNumber(b, u.Expunge), " EXPUNGE\r\n"...)
	case u.Exists != 0:
		return append(appendNumber(b, u.Exists), " EXISTS\r\n"...)
	}
	b = append(appendNumber(b, u.Seq), " FETCH (UID "...)
	b = append(appendNumber(b, uint32(u.Message.UID)), " FLAGS "...)
	return append(appendFlags(b, u.Message.Flags), ")\r\n"...)
}

// An idleState is one IDLE.
type idleState struct {
	started bool
	over    bool
	stop    chan struct{}
	done    chan struct{} // closed when Idle has returned, if it started
}

// beginIdle prepares for the call of Idle that follows.
func (s *session) beginIdle() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.idle = &idleState{stop: make(chan struct{}), done: make(chan struct{})}
}

// endIdle makes Idle return and waits until it has, or sees to it that it does
// nothing if go-imap calls it yet.
func (s *session) endIdle() {
	s.mu.Lock()
	i := s.idle
	if i == nil {
		s.mu.Unlock()
		return
	}
	s.idle, i.over = nil, true
	close(i.stop)
	started := i.started
	s.mu.Unlock()
	if started {
		<-i.done
	}
}

// Idle tells the client of changes until stop is closed, or the guard stops it.
// go-imap runs it in a goroutine that it does not always wait for.
func (s *session) Idle(_ *imapserver.UpdateWriter, stop <-chan struct{}) error {
	s.mu.Lock()
	i := s.idle
	if i == nil || i.over || s.closed {
		s.mu.Unlock()
		return nil
	}
	i.started = true
	s.mu.Unlock()
	defer close(i.done)
	var changed <-chan struct{}
	if s.view != nil {
		changed = s.view.Changed()
	}
	for sync := true; ; sync = false {
		if err := s.poll(mailbox.PollOptions{Expunge: true, Sync: sync}); err != nil {
			s.g.abort() // go-imap notices no error of Idle before DONE
			return err
		}
		select {
		case <-changed:
		case <-i.stop:
			return nil
		case <-stop:
			return nil
		case <-s.g.ctx.Done():
			return nil
		}
	}
}
