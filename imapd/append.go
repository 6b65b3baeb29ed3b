package imapd

import (
	"errors"
	"io"

	"github.com/emersion/go-imap/v2"

	"github.com/covey-mail/covey/internal/serve"
	"github.com/covey-mail/covey/mailbox"
)

// errTail is the error of a message whose command goes on wrongly after it.
var errTail = errors.New("syntax error after the message")

// Append puts a message into a mailbox. What is not read of it go-imap skips.
func (s *session) Append(name string, r imap.LiteralReader, o *imap.AppendOptions) (*imap.AppendData, error) {
	in := s.g.body
	if r.Size() == 0 || in == nil {
		return nil, no("", "A message is not empty")
	}
	flags, err := storedFlags(o.Flags)
	if err != nil {
		return nil, err
	}
	if c := serve.From(s.g.Conn); c != nil {
		c.BeginBody()
		defer c.EndBody()
	}
	placed, err := s.account.Append(s.g.ctx, name,
		mailbox.AppendMessage{Flags: flags, Date: o.Time, Size: r.Size()},
		&wholeReader{r: r, left: r.Size(), in: in})
	switch {
	case errors.Is(err, errTail):
		return nil, in.err
	case err != nil && s.g.ended:
		return nil, no("", "The message did not arrive")
	case err != nil:
		return nil, s.answerTo("APPEND", err)
	}
	return &imap.AppendData{UID: imap.UID(placed.UID), UIDValidity: placed.UIDValidity}, nil
}

// A wholeReader ends without error only if all of the message was there, and the
// end of the line after it. go-imap's ends quietly when the connection does.
type wholeReader struct {
	r    io.Reader
	left int64
	in   *incoming
}

// Read implements io.Reader.
func (w *wholeReader) Read(p []byte) (int, error) {
	n, err := w.r.Read(p)
	w.left -= int64(n)
	switch {
	case w.left > 0:
		return n, midCommand(err, true)
	case w.in.err != nil:
		return 0, errTail
	}
	return n, err
}
