package main

import (
	"bufio"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"
)

// popConn is a POP3 session.
type popConn struct {
	conn        net.Conn
	in          *bufio.Reader
	count       int       // of messages at log-in
	asked, told time.Time // of PASS
}

// popLogin opens a session.
func popLogin(h *host, user string) (*popConn, error) {
	conn, err := dial(h, pop3sPort)
	if err != nil {
		return nil, err
	}
	c := &popConn{conn: conn, in: bufio.NewReaderSize(conn, maxLine)}
	_ = conn.SetDeadline(time.Now().Add(replyTimeout))
	_, err = c.line()
	for _, cmd := range []string{"USER " + address(user), "PASS " + user} {
		if err == nil {
			c.asked = time.Now()
			_, err = c.ask("%s", cmd)
			c.told = time.Now()
		}
	}
	var stat string
	if err == nil {
		stat, err = c.ask("STAT")
	}
	if err == nil {
		_, err = fmt.Sscan(strings.TrimPrefix(stat, "+OK"), &c.count)
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	return c, nil
}

func (c *popConn) close() { _ = c.conn.Close() }

func (c *popConn) ask(format string, args ...any) (string, error) {
	_ = c.conn.SetDeadline(time.Now().Add(replyTimeout))
	if _, err := fmt.Fprintf(c.conn, format+"\r\n", args...); err != nil {
		return "", err
	}
	return c.line()
}

func (c *popConn) line() (string, error) {
	line, err := readLine(c.in)
	if err != nil {
		return "", err
	}
	if !strings.HasPrefix(line, "+OK") {
		return "", fmt.Errorf("%w: %.200s", errRefused, line)
	}
	return line, nil
}

// lines reads a multi-line reply with the dots taken off.
func (c *popConn) lines() (string, error) {
	var b strings.Builder
	for b.Len() < maxLiteral {
		line, err := readLine(c.in)
		if err != nil {
			return "", err
		}
		if line == "." {
			return b.String(), nil
		}
		b.WriteString(strings.TrimPrefix(line, ".") + "\r\n")
	}
	return "", fmt.Errorf("a reply of more than %d octets", maxLiteral)
}

// drop is one message of a maildrop.
type drop struct {
	number int
	uidl   string
}

// list reads UIDL.
func (c *popConn) list() ([]drop, error) {
	if _, err := c.ask("UIDL"); err != nil {
		return nil, err
	}
	text, err := c.lines()
	if err != nil {
		return nil, err
	}
	var all []drop
	for line := range strings.Lines(text) {
		number, uidl, _ := strings.Cut(strings.TrimSpace(line), " ")
		n, err := strconv.Atoi(number)
		if err != nil {
			return nil, fmt.Errorf("UIDL line %q", line)
		}
		all = append(all, drop{n, uidl})
	}
	return all, nil
}

// top reads a message's header.
func (c *popConn) top(number int) (string, error) {
	if _, err := c.ask("TOP %d 0", number); err != nil {
		return "", err
	}
	return c.lines()
}
