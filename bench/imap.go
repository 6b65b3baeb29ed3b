package bench

import (
	"bytes"
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// An imapSession logs in, looks at the newest messages, reads and marks a few, and
// leaves; or stays, see Keep.
type imapSession struct {
	cfg Config
	who *users
	to  *target
	c   *conn
	r   imapReader
	tag int

	count int // messages of INBOX, as of the last SELECT
}

func (s *imapSession) do(ctx context.Context, op *operation) error {
	err := s.operate(ctx, op)
	if err == nil && s.cfg.Keep == KeepNothing {
		err = s.command("LOGOUT", "LOGOUT", nil)
	}
	if err != nil || s.cfg.Keep == KeepNothing {
		s.close()
	}
	return err
}

// operate does what a session has to do up to LOGOUT, or what is left of it if it
// is kept.
func (s *imapSession) operate(ctx context.Context, op *operation) error {
	if err := s.begin(ctx, op); err != nil {
		return err
	}
	if s.cfg.Keep != KeepMailbox {
		if err := s.selectInbox(); err != nil {
			return err
		}
	}
	op.short = s.count < max(s.cfg.Envelopes, s.cfg.Retrieve)
	if n := min(s.cfg.Envelopes, s.count); n > 0 {
		if err := s.envelopes(newest(s.count, n)); err != nil {
			return err
		}
	}
	n := min(s.cfg.Retrieve, s.count)
	if n <= 0 {
		return nil
	}
	if err := s.read(n, op); err != nil || s.cfg.Keep != KeepNothing {
		return err
	}
	return s.command("STORE", "STORE "+newest(s.count, n)+` +FLAGS (\Seen)`, nil)
}

// begin logs in if the session does not go on. What is kept of a session is not
// in its first operation's latency, unless that waited for its turn.
func (s *imapSession) begin(ctx context.Context, op *operation) error {
	if s.c != nil {
		s.c.arm(s.cfg.Timeout)
		return nil
	}
	if err := s.login(ctx, op.user); err != nil {
		return err
	}
	if s.cfg.Keep == KeepMailbox {
		if err := s.selectInbox(); err != nil {
			return err
		}
	}
	if s.cfg.Keep != KeepNothing && s.cfg.Rate == 0 {
		op.planned = time.Now()
	}
	return nil
}

// newest is the sequence set of the last n of count messages.
func newest(count, n int) string { return strconv.Itoa(count-n+1) + ":" + strconv.Itoa(count) }

// login connects and authenticates.
func (s *imapSession) login(ctx context.Context, user int) error {
	c, err := dial(ctx, &s.cfg, s.to)
	if err != nil {
		return err
	}
	s.c, s.r.r, s.tag = c, c.r, 0
	if err := s.greeting(); err != nil {
		return err
	}
	if s.cfg.TLS == StartTLS {
		if err := s.command("STARTTLS", "STARTTLS", nil); err != nil {
			return err
		}
		if err := c.startTLS(); err != nil {
			return err
		}
		s.r.r = c.r
	}
	name, password := s.who.login(user)
	return s.command("login", "LOGIN "+quote(name)+" "+quote(password), nil)
}

func (s *imapSession) greeting() error {
	if err := s.r.next(); err != nil {
		return broken("greeting", err)
	}
	if bytes.HasPrefix(s.r.text, []byte("* BYE")) {
		return broken("greeting", fmt.Errorf("%s", printable(string(s.r.text))))
	}
	if !bytes.HasPrefix(s.r.text, []byte("* OK")) {
		return broken("greeting", garbage(s.r.text))
	}
	return nil
}

func (s *imapSession) selectInbox() error {
	s.count = 0
	return s.command("SELECT", "SELECT INBOX", func() {
		number, ok := bytes.CutSuffix(s.r.text, []byte(" EXISTS"))
		if ok {
			n, _ := strconv.Atoi(string(bytes.TrimPrefix(number, []byte("* "))))
			s.count = max(n, 0)
		}
	})
}

func (s *imapSession) envelopes(set string) error {
	return s.command("FETCH envelopes", "FETCH "+set+" (UID FLAGS INTERNALDATE RFC822.SIZE ENVELOPE)", nil)
}

// read fetches the bodies of the last n messages one by one, as a reader would.
func (s *imapSession) read(n int, op *operation) error {
	for i := s.count - n + 1; i <= s.count; i++ {
		err := s.command("FETCH body", "FETCH "+strconv.Itoa(i)+" BODY.PEEK[]", func() { op.bytes += s.r.literal })
		if err != nil {
			return err
		}
	}
	return nil
}

// command sends a command and reads its responses; untagged, unless nil, sees
// each untagged one in s.r.
func (s *imapSession) command(step, text string, untagged func()) error {
	s.tag++
	tag := "b" + strconv.Itoa(s.tag)
	if err := s.c.send(tag, " ", text, "\r\n"); err != nil {
		return broken(step, err)
	}
	for {
		if err := s.r.next(); err != nil {
			return broken(step, err)
		}
		line := s.r.text
		switch {
		case bytes.HasPrefix(line, []byte("* ")):
			if untagged != nil {
				untagged()
			}
		case len(line) > len(tag) && string(line[:len(tag)]) == tag && line[len(tag)] == ' ':
			return status(step, line[len(tag)+1:])
		default:
			return broken(step, garbage(line))
		}
	}
}

func status(step string, line []byte) error {
	switch word, _, _ := bytes.Cut(line, []byte(" ")); string(word) {
	case "OK":
		return nil
	case "NO", "BAD":
		return refused(step, string(line))
	}
	return broken(step, garbage(line))
}

// quote makes a quoted string (RFC 9051, section 4.3) of text without line ends.
func quote(s string) string { return `"` + escapes.Replace(s) + `"` }

var escapes = strings.NewReplacer(`\`, `\\`, `"`, `\"`)

func (s *imapSession) rest() {}

func (s *imapSession) close() {
	if s.c != nil {
		s.c.close()
		s.c = nil
	}
}
