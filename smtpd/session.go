package smtpd

import (
	"errors"
	"io"
	"slices"
	"strings"

	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/directory"
	"github.com/covey-mail/covey/logon"
)

// A session is what a connection is about: who speaks, and the transaction, which
// go-smtp does not hear of. It is go-smtp's backend session for the rest, and holds
// the state that its conn checks commands against.
type session struct {
	c *conn

	lines    int
	verb     string // of the last command
	helo     string // "" before the greeting, and again after STARTTLS
	extended bool   // the greeting was not HELO
	user     *directory.Account
	tx       *transaction // nil outside
	serial   int          // of the last transaction
}

var _ smtp.AuthSession = (*session)(nil)

// Reset implements smtp.Session: it ends the transaction.
func (s *session) Reset() { s.tx = nil }

// errUnheard is what go-smtp would be told if it heard of a transaction.
var errUnheard = errors.New("smtpd: a command of a transaction reached go-smtp")

// Mail implements smtp.Session and is not called.
func (s *session) Mail(string, *smtp.MailOptions) error { return errUnheard }

// Rcpt implements smtp.Session and is not called.
func (s *session) Rcpt(string, *smtp.RcptOptions) error { return errUnheard }

// Data implements smtp.Session and is not called.
func (s *session) Data(io.Reader) error { return errUnheard }

// Logout implements smtp.Session.
func (s *session) Logout() error { return nil }

// refuse makes the reply to an error and logs what the peer is not told.
func (s *session) refuse(st stage, err error) *smtp.SMTPError {
	r := replyTo(st, s.c.kind, err)
	if covey.KindOf(err) == covey.Internal && !errors.As(err, new(*smtp.SMTPError)) && s.c.ctx.Err() == nil {
		s.c.srv.log.Error("internal error", "session", s.c.id, "verb", s.verb, "err", err)
	}
	return r
}

// mayAuth reports whether credentials may pass over the connection as it is.
func (s *session) mayAuth() bool {
	return s.c.kind.submits() && (s.c.secure || s.c.srv.cfg.ClearText.Allows(s.c.raw.RemoteAddr()))
}

func (s *session) logonConn() logon.Conn {
	return logon.Conn{Remote: s.c.raw.Remote(), Protocol: "submission", Session: s.c.id, Secure: s.mayAuth()}
}

// AuthMechanisms implements smtp.AuthSession.
func (s *session) AuthMechanisms() []string {
	if !s.mayAuth() {
		return nil
	}
	return s.c.srv.svc.Logon.Mechanisms(s.logonConn())
}

func (s *session) offers(mech string) bool { return slices.Contains(s.AuthMechanisms(), mech) }

// Auth implements smtp.AuthSession.
func (s *session) Auth(mech string) (sasl.Server, error) {
	done := func(a directory.Account) {
		s.user = &a
		s.c.raw.Trust()
	}
	srv, err := s.c.srv.svc.Logon.SASL(s.c.ctx, s.logonConn(), mech, done)
	if err != nil {
		return nil, s.refuse(atAuth, err)
	}
	return authExchange{s, srv}, nil
}

// An authExchange turns the errors of a SASL exchange into replies.
type authExchange struct {
	s   *session
	srv sasl.Server
}

// Next implements sasl.Server.
func (a authExchange) Next(response []byte) (challenge []byte, done bool, err error) {
	challenge, done, err = a.srv.Next(response)
	switch {
	case err == nil:
		return challenge, done, nil
	case errors.Is(err, sasl.ErrUnexpectedClientResponse):
		return nil, false, replyBadBase64
	}
	return nil, false, a.s.refuse(atAuth, err)
}

// clip bounds foreign text for a log.
func clip(s string) string {
	const most = 128
	if len(s) > most {
		return strings.ToValidUTF8(s[:most], "") + "…"
	}
	return s
}

// logEnd writes the one line of a session.
func (s *session) logEnd() {
	c := s.c
	c.srv.cfg.Metrics.Sessions.WithLabelValues(c.kind.String()).Inc()
	attrs := []any{"session", c.id, "listener", c.kind.String(), "remote", remote(c.raw.Remote()),
		"helo", clip(s.helo), "tls", c.secure, "commands", s.lines, "transactions", s.serial,
		"refused", c.refused, "took", c.srv.cfg.Now().Sub(c.born)}
	if s.user != nil {
		attrs = append(attrs, "user", s.user.Address.String())
	}
	if c.reason != "" {
		attrs = append(attrs, "reason", clip(c.reason))
	}
	c.srv.log.Info("session", attrs...)
}
