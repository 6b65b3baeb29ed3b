package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/textproto"
	"time"
)

// How long a sender waits: for the answer to a command, and for the one that
// follows the message, which servers may try for a minute.
const (
	smtpTimeout = 5 * time.Second
	dataTimeout = 12 * time.Second
)

// smtpConn is an SMTP or LMTP session, which differ in the greeting and in the
// replies to a message.
type smtpConn struct {
	conn   net.Conn
	text   *textproto.Conn
	host   *host
	lmtp   bool
	used   int
	inside bool // a transaction was begun and has not ended
}

func smtpOpen(h *host, lmtp bool) (*smtpConn, error) {
	port, hello := smtpPort, "EHLO"
	if lmtp {
		port, hello = lmtpPort, "LHLO"
	}
	conn, err := dial(h, port)
	if err != nil {
		return nil, err
	}
	c := &smtpConn{conn: conn, text: textproto.NewConn(conn), host: h, lmtp: lmtp}
	_ = conn.SetDeadline(time.Now().Add(smtpTimeout))
	_, _, err = c.text.ReadResponse(220)
	if err == nil {
		err = c.ask(250, "%s load.example.net", hello)
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	return c, nil
}

func (c *smtpConn) close() { _ = c.text.Close() }

// quit ends the session in order.
func (c *smtpConn) quit() {
	_ = c.ask(221, "QUIT") // whatever it says, nothing more is sent
	c.close()
}

func (c *smtpConn) ask(code int, format string, args ...any) error {
	_ = c.conn.SetDeadline(time.Now().Add(smtpTimeout))
	if err := c.text.PrintfLine(format, args...); err != nil {
		return err
	}
	_, _, err := c.text.ReadResponse(code)
	return err
}

// code returns the reply code that an error is about; 0: the connection broke.
func code(err error) int {
	var e *textproto.Error
	if errors.As(err, &e) {
		return e.Code
	}
	return 0
}

// begin offers a message to recipients and returns those that were accepted, with
// the answer to each of the others.
func (c *smtpConn) begin(to []string) (accepted []string, refused map[string]error, err error) {
	if err := c.ask(250, "MAIL FROM:<load@example.net>"); err != nil {
		return nil, nil, err
	}
	c.inside = true
	refused = make(map[string]error)
	for _, user := range to {
		err := c.ask(250, "RCPT TO:<%s>", address(user))
		switch {
		case err == nil:
			accepted = append(accepted, user)
		case code(err) == 0 || code(err) == 421:
			return nil, refused, err
		default:
			refused[user] = err
		}
	}
	if len(accepted) == 0 {
		c.inside = false
		return nil, refused, c.ask(250, "RSET")
	}
	return accepted, refused, c.ask(354, "DATA")
}

// finish sends the text and returns what is said of each recipient: nil is an
// acknowledgement; an error without a code leaves the outcome open.
func (c *smtpConn) finish(text string, accepted []string) []error {
	said := make([]error, len(accepted))
	_ = c.conn.SetDeadline(time.Now().Add(dataTimeout))
	_, err := io.WriteString(c.conn, text+".\r\n")
	if err != nil {
		err = fmt.Errorf("send message: %w", err)
	}
	replies := 1
	if c.lmtp {
		replies = len(accepted)
	}
	for i := range said {
		switch {
		case i >= replies:
			said[i] = said[0]
		case err != nil:
			said[i] = err
		default:
			if _, _, said[i] = c.text.ReadResponse(250); said[i] != nil && code(said[i]) == 0 {
				err = said[i]
			}
		}
	}
	c.inside = err != nil
	return said
}
