package bench

import (
	"bytes"
	"context"
	"strconv"
)

// A pop3Session logs in, reads or deletes a few messages and leaves.
type pop3Session struct {
	cfg Config
	who *users
	to  *target
	c   *conn
}

func (s *pop3Session) do(ctx context.Context, op *operation) error {
	defer s.close()
	if err := s.login(ctx, op.user); err != nil {
		return err
	}
	count, err := s.stat()
	if err != nil {
		return err
	}
	want := max(s.cfg.Retrieve, 0)
	for i := 1; i <= min(want, count); i++ {
		if err := s.retrieve(i, op); err != nil {
			return err
		}
	}
	for i := want + 1; i <= min(want+s.cfg.Discard, count); i++ {
		if _, err := s.command("DELE", "DELE ", strconv.Itoa(i), "\r\n"); err != nil {
			return err
		}
	}
	op.short = count < want+s.cfg.Discard
	_, err = s.command("QUIT", "QUIT\r\n")
	return err
}

// login connects and opens the user's mailbox.
func (s *pop3Session) login(ctx context.Context, user int) error {
	c, err := dial(ctx, &s.cfg, s.to)
	if err != nil {
		return err
	}
	s.c = c
	if _, err := s.expect("greeting"); err != nil {
		return err
	}
	if s.cfg.TLS == StartTLS {
		if _, err := s.command("STLS", "STLS\r\n"); err != nil {
			return err
		}
		if err := c.startTLS(); err != nil {
			return err
		}
	}
	name, password := s.who.login(user)
	if _, err := s.command("login", "USER ", name, "\r\n"); err != nil {
		return err
	}
	_, err = s.command("login", "PASS ", password, "\r\n")
	return err
}

func (s *pop3Session) stat() (count int, err error) {
	text, err := s.command("STAT", "STAT\r\n")
	if err != nil {
		return 0, err
	}
	f := bytes.Fields(text)
	if len(f) < 3 {
		return 0, broken("STAT", garbage(text))
	}
	if count, err = strconv.Atoi(string(f[1])); err != nil || count < 0 {
		return 0, broken("STAT", garbage(text))
	}
	return count, nil
}

func (s *pop3Session) retrieve(i int, op *operation) error {
	number := strconv.Itoa(i)
	if _, err := s.command("RETR", "RETR ", number, "\r\n"); err != nil {
		return err
	}
	n, err := readPOP3Body(s.c.r, nil)
	if err != nil {
		return broken("RETR", err)
	}
	op.bytes += n
	if s.cfg.Delete {
		_, err = s.command("DELE", "DELE ", number, "\r\n")
	}
	return err
}

// top reads the header of message i into keep.
func (s *pop3Session) top(i int, keep *[]byte) error {
	if _, err := s.command("TOP", "TOP ", strconv.Itoa(i), " 0\r\n"); err != nil {
		return err
	}
	if _, err := readPOP3Body(s.c.r, keep); err != nil {
		return broken("TOP", err)
	}
	return nil
}

// command returns the text of a positive reply; it lies in the read buffer.
func (s *pop3Session) command(step string, parts ...string) ([]byte, error) {
	if err := s.c.send(parts...); err != nil {
		return nil, broken(step, err)
	}
	return s.expect(step)
}

func (s *pop3Session) expect(step string) ([]byte, error) {
	ok, text, err := readPOP3Reply(s.c.r)
	if err != nil {
		return nil, broken(step, err)
	}
	if !ok {
		return nil, refused(step, string(text))
	}
	return text, nil
}

func (s *pop3Session) rest() {}

func (s *pop3Session) close() {
	if s.c != nil {
		s.c.close()
		s.c = nil
	}
}
