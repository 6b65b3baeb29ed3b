package imapd

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"time"

	"github.com/emersion/go-imap/v2"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/directory"
	"github.com/covey-mail/covey/internal/serve"
	"github.com/covey-mail/covey/logon"
)

// A login is what the login front hands on with a connection once it knows who
// the peer is. It is all that a session needs, wherever it runs.
type login struct {
	Account   directory.Account
	Remote    string // the peer's address, for the log
	Session   string // the id in the log
	TLS       bool
	Mechanism string // of SASL, or LOGIN
	Leftover  []byte // what the peer sent ahead, after its login

	home net.Conn // to the node where the session runs; nil: this one
}

// Limits of the login front.
const (
	frontBuffer = 4 << 10
	maxSASL     = 8 << 10 // octets of one SASL response
	frontFaults = 10      // refused commands in all
)

// frontLimits bound a command before login: a peer that nobody knows costs no
// more than its buffers, about 16 KiB.
func frontLimits() limits {
	return limits{line: 8 << 10, literal: 1 << 10, literals: 2, octets: 2 << 10, depth: 2}
}

// A front talks to a peer that has not logged in. It is the only code that such
// a peer reaches.
type front struct {
	s      *Server
	raw    net.Conn // as accepted
	conn   net.Conn // raw, or the TLS that STARTTLS put on it
	ctx    context.Context
	cancel context.CancelFunc
	in     scanner
	id     string
	tls    bool
	faults int
	login  *login // set: done
	over   bool   // the connection is to be closed
}

func newFront(s *Server, conn net.Conn) *front {
	f := &front{s: s, raw: conn, conn: conn, id: fmt.Sprintf("%011x", rand.Uint64()>>20)}
	f.ctx, f.cancel = context.WithTimeout(context.Background(), s.cfg.LoginTime)
	_, f.tls = conn.(*tls.Conn)
	f.listen()
	return f
}

// listen starts reading commands from conn, and forgets what was read ahead.
func (f *front) listen() {
	f.in = scanner{
		br:   bufio.NewReaderSize(f.conn, frontBuffer),
		max:  frontLimits(),
		more: func() error { return f.say("+ go ahead\r\n") },
	}
}

// run talks until the peer has logged in, or is to be sent away: then it returns
// nil.
func (f *front) run() *login {
	greeting := "* OK [CAPABILITY " + f.capabilities() + "] "
	if f.s.cfg.Hostname != "" {
		greeting += f.s.cfg.Hostname + " "
	}
	err := f.say(greeting + "Covey ready\r\n")
	for err == nil && f.login == nil && !f.over {
		err = f.command()
	}
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		text := "Autologout; too slow to log in"
		if f.s.isStopping() {
			text = "[UNAVAILABLE] Server shutting down"
		}
		_ = f.say("* BYE " + text + "\r\n")
	}
	return f.login
}

func (f *front) say(lines string) error {
	if err := f.conn.SetWriteDeadline(time.Now().Add(f.s.cfg.ReadTime)); err != nil {
		return err
	}
	_, err := io.WriteString(f.conn, lines)
	return err
}

func (f *front) reply(tag string, e *imap.Error) error { return f.say(string(status(tag, e))) }

// command reads a command and does it. The error is that of the connection.
func (f *front) command() error {
	fr, err := f.in.next()
	if err != nil {
		return err
	}
	cmd, perr := parseCommand(bytes.TrimRight(fr.text, " "))
	refusal := fr.err
	if refusal == nil {
		refusal = perr
	}
	if refusal == nil {
		refusal, err = f.dispatch(cmd)
	}
	if err != nil || refusal == nil {
		return err
	}
	f.faults++
	if err := f.reply(cmd.tag, refusal); err != nil {
		return err
	}
	if fr.fatal || f.faults >= frontFaults {
		f.over = true
		return f.reply("", &imap.Error{Type: imap.StatusResponseTypeBye, Code: refusal.Code, Text: "Too many errors"})
	}
	return nil
}

// dispatch does a command and answers it, or returns why it is refused.
func (f *front) dispatch(cmd command) (*imap.Error, error) {
	c := &cursor{s: cmd.args}
	switch cmd.name {
	case "CAPABILITY":
		return f.simple(cmd, c, "* CAPABILITY "+f.capabilities()+"\r\n")
	case "NOOP":
		return f.simple(cmd, c, "")
	case "ID":
		if c.id(); c.err != nil {
			return c.err, nil
		}
		return f.simple(cmd, c, serverID)
	case "LOGOUT":
		f.over = true
		return f.simple(cmd, c, "* BYE Logging out\r\n")
	case "STARTTLS":
		return f.startTLS(cmd, c)
	case "LOGIN":
		return f.loginCommand(cmd, c)
	case "AUTHENTICATE":
		return f.authenticate(cmd, c)
	}
	return bad("Unknown command, or not before login"), nil
}

// simple answers a command without arguments.
func (f *front) simple(cmd command, c *cursor, lines string) (*imap.Error, error) {
	if c.end(); c.err != nil {
		f.over = false
		return c.err, nil
	}
	return nil, f.say(lines + string(status(cmd.tag, okay(cmd.name+" completed"))))
}

func okay(text string) *imap.Error {
	return &imap.Error{Type: imap.StatusResponseTypeOK, Text: text}
}

// capabilities before login.
func (f *front) capabilities() string {
	caps := "IMAP4rev1 LITERAL+ SASL-IR ID ENABLE"
	if f.s.cfg.TLS != nil && !f.tls {
		caps += " STARTTLS"
	}
	peer := f.peer()
	if !peer.Secure {
		return caps + " LOGINDISABLED"
	}
	for _, m := range f.s.cfg.Logons.Mechanisms(peer) {
		caps += " AUTH=" + m
	}
	return caps
}

// peer describes the connection to logon.
func (f *front) peer() logon.Conn {
	c := logon.Conn{
		Protocol: "imap", Session: f.id,
		Secure: f.tls || f.s.cfg.ClearText.Allows(f.conn.RemoteAddr()),
	}
	if a, ok := f.conn.RemoteAddr().(*net.TCPAddr); ok {
		c.Remote = a.AddrPort().Addr().Unmap()
	}
	return c
}

// startTLS is RFC 3501 section 6.2.1.
func (f *front) startTLS(cmd command, c *cursor) (*imap.Error, error) {
	c.end()
	switch {
	case c.err != nil:
		return c.err, nil
	case f.tls:
		return bad("TLS is on already"), nil
	case f.s.cfg.TLS == nil:
		return bad("TLS is not offered"), nil
	case f.in.br.Buffered() > 0:
		// Sent in the clear, perhaps by somebody else, to be taken for what
		// comes after the handshake (RFC 3501 section 6.2.1; CVE-2011-0411).
		f.over = true
		return nil, f.reply("", &imap.Error{Type: imap.StatusResponseTypeBye, Text: "Data after STARTTLS"})
	}
	if err := f.reply(cmd.tag, okay("Begin TLS")); err != nil {
		return nil, err
	}
	if sc := serve.From(f.conn); sc != nil {
		sc.BeginTLS()
	}
	conn := tls.Server(f.conn, f.s.cfg.TLS)
	f.conn, f.tls = conn, true
	if err := conn.HandshakeContext(f.ctx); err != nil {
		f.over = true // and no plain text after it
		return nil, nil
	}
	f.listen()
	return nil, nil
}

// loginCommand is RFC 3501 section 6.2.3.
func (f *front) loginCommand(cmd command, c *cursor) (*imap.Error, error) {
	c.sp()
	user := c.astring()
	c.sp()
	password := c.astring()
	c.end()
	if c.err != nil {
		return c.err, nil
	}
	peer := f.peer()
	if !peer.Secure {
		return privacyRequired(), nil
	}
	acct, err := f.s.cfg.Logons.Password(f.ctx, peer, user, password)
	return f.finish(cmd, "LOGIN", acct, err)
}

func privacyRequired() *imap.Error {
	return no(imap.ResponseCodePrivacyRequired, "TLS is required to log in")
}

// finish answers an attempt to log in.
func (f *front) finish(cmd command, mech string, acct directory.Account, err error) (*imap.Error, error) {
	if err != nil {
		return f.failed(cmd.tag, err)
	}
	leftover, _ := f.in.br.Peek(f.in.br.Buffered())
	l := &login{
		Account: acct, Remote: f.conn.RemoteAddr().String(), Session: f.id,
		TLS: f.tls, Mechanism: mech, Leftover: bytes.Clone(leftover),
	}
	if err := f.s.admit(f.ctx, l); err != nil {
		return f.failed(cmd.tag, err)
	}
	f.login = l
	f.s.cfg.Metrics.Logins.WithLabelValues("ok").Inc()
	e := okay("Logged in")
	e.Code = imap.ResponseCode("CAPABILITY " + sessionCapabilities(f.s.cfg.AppendLimit))
	if err := f.reply(cmd.tag, e); err != nil {
		f.s.dismiss(l)
		f.login = nil
		return nil, err
	}
	return nil, nil
}

// failed answers an attempt that failed. Wrong passwords, unknown users and
// disabled accounts read the same.
func (f *front) failed(tag string, err error) (*imap.Error, error) {
	kind := covey.KindOf(err)
	f.s.cfg.Metrics.Logins.WithLabelValues(kind.String()).Inc()
	switch kind {
	case covey.Denied, covey.NotFound:
		return no(imap.ResponseCodeAuthenticationFailed, "Authentication failed"), nil
	case covey.Invalid:
		return bad("Malformed response"), nil
	case covey.InUse: // too many sessions
		return no(imap.ResponseCodeLimit, "Too many sessions"), nil
	case covey.Limit:
		f.over = true
		if err := f.reply(tag, no(imap.ResponseCodeLimit, "Too many failures")); err != nil {
			return nil, err
		}
		return nil, f.reply("", &imap.Error{Type: imap.StatusResponseTypeBye, Text: "Try again later"})
	}
	f.s.cfg.Logger.Warn("login not decided", "session", f.id, "err", err)
	return reply(err), nil
}

// mechanism returns name if it is offered, so that no other word of the peer's
// gets further.
func (f *front) mechanism(name string, peer logon.Conn) (string, bool) {
	for _, m := range f.s.cfg.Logons.Mechanisms(peer) {
		if strings.EqualFold(m, name) {
			return m, true
		}
	}
	return "", false
}
