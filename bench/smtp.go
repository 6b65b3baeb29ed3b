package bench

import (
	"context"
	"encoding/base64"
	"fmt"
	"time"
)

// A session does operations, one after another, for one worker.
type session interface {
	// do does one operation, with a new connection if there is none, and fills in
	// what op has to say about it. When ctx ends it fails within seconds.
	do(ctx context.Context, op *operation) error
	// rest does what belongs to the operation but not to its latency, such as
	// taking leave.
	rest()
	// close drops the connection.
	close()
}

// An smtpSession sends messages by SMTP or LMTP.
type smtpSession struct {
	cfg     Config
	who     *users
	to      *target
	compose *composer
	from    string
	c       *conn
	sent    int // messages on this connection, refused ones included
}

func (s *smtpSession) do(ctx context.Context, op *operation) error {
	if s.c == nil {
		if err := s.open(ctx, op.user); err != nil {
			s.close()
			return err
		}
	} else {
		s.c.arm(s.cfg.Timeout)
	}
	s.sent++
	err := s.transaction(op)
	switch {
	case err == nil:
	case lost(err):
		s.close()
	default:
		op.done()
		s.reset()
	}
	return err
}

// open connects and greets, and logs in as the user if cfg says so.
func (s *smtpSession) open(ctx context.Context, user int) error {
	c, err := dial(ctx, &s.cfg, s.to)
	if err != nil {
		return err
	}
	s.c, s.sent = c, 0
	return s.greet(user)
}

func (s *smtpSession) greet(user int) error {
	s.from = s.cfg.From
	if _, err := s.expect("greeting", 2); err != nil {
		return err
	}
	hello, err := s.hello()
	if err != nil {
		return err
	}
	if s.cfg.TLS == StartTLS {
		if _, err := s.command("STARTTLS", "STARTTLS\r\n"); err != nil {
			return err
		}
		if err := s.c.startTLS(); err != nil {
			return err
		}
		if hello, err = s.hello(); err != nil {
			return err
		}
	}
	if s.cfg.Pipeline && !hello.pipelining {
		return refused("EHLO", "the server does not offer PIPELINING")
	}
	if s.cfg.Auth {
		return s.login(user)
	}
	return nil
}

// login authenticates (RFC 4954 with RFC 4616). A server that gives an account to
// its users takes only its owner as sender.
func (s *smtpSession) login(user int) error {
	name, password := s.who.login(user)
	s.from = name
	s.compose.sender(name)
	_, err := s.command("login", "AUTH PLAIN ", base64.StdEncoding.EncodeToString([]byte("\x00"+name+"\x00"+password)), "\r\n")
	return err
}

func (s *smtpSession) hello() (smtpReply, error) {
	if s.cfg.Protocol == LMTP {
		return s.command("LHLO", "LHLO bench.invalid\r\n")
	}
	return s.command("EHLO", "EHLO bench.invalid\r\n")
}

// transaction sends one message to one recipient. With LMTP there is then one
// reply after the dot, as with SMTP.
func (s *smtpSession) transaction(op *operation) error {
	to := s.who.address(op.user)
	if err := s.envelope(to); err != nil {
		return err
	}
	op.fate = fateUnknown
	size, err := s.compose.write(s.c.w, op.n, to)
	if err == nil {
		op.handed = time.Now() // before, so that no server is waited for in between
		err = s.c.send(".\r\n")
	}
	if err != nil {
		return broken("send message", err)
	}
	if _, err = s.expect("end of DATA", 2); err != nil {
		if !lost(err) {
			op.fate = fateRefused
		}
		return err
	}
	op.done()
	op.fate, op.bytes = fateAcknowledged, int64(size)
	return nil
}

func (s *smtpSession) envelope(to string) error {
	if s.cfg.Pipeline {
		if err := s.c.send("MAIL FROM:<", s.from, ">\r\nRCPT TO:<", to, ">\r\nDATA\r\n"); err != nil {
			return broken("MAIL", err)
		}
		return s.replies()
	}
	if _, err := s.command("MAIL", "MAIL FROM:<", s.from, ">\r\n"); err != nil {
		return err
	}
	if _, err := s.command("RCPT", "RCPT TO:<", to, ">\r\n"); err != nil {
		return err
	}
	if err := s.c.send("DATA\r\n"); err != nil {
		return broken("DATA", err)
	}
	_, err := s.expect("DATA", 3)
	return err
}

// replies reads the three replies of a pipelined envelope. All are read, whatever
// they are: the server has sent them. A DATA that is accepted although the
// recipient was not is ended with an empty message (RFC 2920, section 3.1).
func (s *smtpSession) replies() error {
	_, first := s.expect("MAIL", 2)
	if lost(first) {
		return first
	}
	_, err := s.expect("RCPT", 2)
	if first == nil {
		first = err
	}
	if lost(err) {
		return err
	}
	_, err = s.expect("DATA", 3)
	if first == nil || lost(err) {
		return err
	}
	if err == nil {
		if err := s.c.send(".\r\n"); err != nil {
			return broken("DATA", err)
		}
		if _, err := s.expect("end of DATA", 2); lost(err) {
			return err
		}
	}
	return first
}

// reset ends a refused transaction.
func (s *smtpSession) reset() {
	if _, err := s.command("RSET", "RSET\r\n"); err != nil {
		s.close()
	}
}

func (s *smtpSession) command(step string, parts ...string) (smtpReply, error) {
	if err := s.c.send(parts...); err != nil {
		return smtpReply{}, broken(step, err)
	}
	return s.expect(step, 2)
}

// expect reads a reply whose code begins with want, and makes a failure of
// another.
func (s *smtpSession) expect(step string, want int) (smtpReply, error) {
	r, err := readSMTPReply(s.c.r)
	switch {
	case err != nil:
		return r, broken(step, err)
	case r.code >= 400:
		return r, refused(step, r.text)
	case r.code/100 != want:
		return r, broken(step, fmt.Errorf("%w: code %d", errGarbage, r.code))
	}
	return r, nil
}

func (s *smtpSession) rest() {
	if s.c != nil && s.cfg.PerSession > 0 && s.sent >= s.cfg.PerSession {
		// What is acknowledged is: a server that says no farewell loses nothing.
		_, _ = s.command("QUIT", "QUIT\r\n")
		s.close()
	}
}

func (s *smtpSession) close() {
	if s.c != nil {
		s.c.close()
		s.c = nil
	}
}
