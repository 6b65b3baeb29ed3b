package smtpd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/delivery"
	"github.com/covey-mail/covey/directory"
	"github.com/covey-mail/covey/logon"
)

// A session is what a connection is about: who speaks, and the transaction. It is
// go-smtp's backend session, and holds the state that its conn checks commands
// against.
type session struct {
	c *conn

	lines    int
	verb     string // of the last command
	helo     string // "" before the greeting, and again after STARTTLS
	extended bool   // the greeting was not HELO
	user     *directory.Account
	mailing  mailArgs      // of the MAIL that go-smtp answers
	rcpting  covey.Address // of the RCPT likewise
	chunks   *chunkFraming // of the message that is due; nil for DATA
	tx       *transaction  // nil outside
	serial   int           // of the last transaction
}

// A transaction is what MAIL begins.
type transaction struct {
	mailArgs
	id      string
	began   time.Time
	receipt delivery.Receipt     // of the data, once delivered
	rcpts   []delivery.Recipient // each once
	// told are the recipients in the order of RCPT, as go-smtp names them, each
	// with its index in rcpts: one named twice gets two replies and one copy.
	told  []string
	index []int
}

var (
	_ smtp.AuthSession = (*session)(nil)
	_ smtp.LMTPSession = (*session)(nil)
)

// Reset implements smtp.Session: it ends the transaction.
func (s *session) Reset() { s.tx, s.chunks = nil, nil }

// Logout implements smtp.Session.
func (s *session) Logout() error { return nil }

// Mail implements smtp.Session. The conn has parsed the arguments; from lacks the
// quotes that tell a@b@c from "a@b"@c.
func (s *session) Mail(string, *smtp.MailOptions) error {
	if err := s.c.srv.svc.Delivery.Room(); err != nil {
		return s.refuse(atMail, err)
	}
	if s.user != nil {
		if err := s.maySend(); err != nil {
			return s.refuse(atMail, err)
		}
	}
	s.serial++
	s.tx = &transaction{
		mailArgs: s.mailing,
		id:       s.c.id + "-" + strconv.Itoa(s.serial),
		began:    s.c.srv.cfg.Now(),
	}
	return nil
}

// maySend returns why the user may not begin a message, nil if they may.
func (s *session) maySend() error {
	if err := s.c.srv.svc.Logon.Allowed(s.c.ctx, *s.user); err != nil || s.mailing.from.IsZero() {
		return err
	}
	return s.owns(s.mailing.from, replyNotOwned)
}

// owns returns other, or why it cannot be told, unless the user may send as from.
func (s *session) owns(from covey.Address, other *smtp.SMTPError) error {
	ctx, cancel := context.WithTimeout(s.c.ctx, s.c.srv.cfg.RecipientTimeout)
	defer cancel()
	owned, err := s.c.srv.svc.Directory.Owns(ctx, s.user.ID, from)
	if err == nil && !owned {
		err = other
	}
	return err
}

// Rcpt implements smtp.Session.
func (s *session) Rcpt(to string, _ *smtp.RcptOptions) error {
	key := s.rcpting.Key()
	i := slices.IndexFunc(s.tx.rcpts, func(r delivery.Recipient) bool { return r.Address.Key() == key })
	if i < 0 {
		ctx, cancel := context.WithTimeout(s.c.ctx, s.c.srv.cfg.RecipientTimeout)
		defer cancel()
		r, err := s.c.srv.svc.Delivery.Recipient(ctx, s.rcpting)
		if err != nil {
			return s.refuse(atRcpt, err)
		}
		i = len(s.tx.rcpts)
		s.tx.rcpts = append(s.tx.rcpts, r)
	}
	s.tx.told = append(s.tx.told, to)
	s.tx.index = append(s.tx.index, i)
	return nil
}

// refuse makes the reply to an error and logs what the peer is not told.
func (s *session) refuse(st stage, err error) error {
	r := replyTo(st, s.c.kind, err)
	if covey.KindOf(err) == covey.Internal && !errors.As(err, new(*smtp.SMTPError)) && s.c.ctx.Err() == nil {
		s.c.srv.log.Error("internal error", "session", s.c.id, "verb", s.verb, "err", err)
	}
	return r
}

// Data implements smtp.Session. One reply speaks for all recipients: positive
// only if every one has the message, and temporary if that may still come true.
func (s *session) Data(r io.Reader) error {
	tx := s.tx
	outcomes, err := s.transfer(r)
	for _, o := range outcomes {
		if o != nil && (err == nil || temporary(o)) {
			err = o
		}
	}
	reply := newReply(250, 2, 0, 0, "Delivered as "+tx.id)
	if err != nil {
		reply = replyTo(atData, s.c.kind, err)
	}
	s.logMessage(tx, reply.Code, err)
	return reply
}

// LMTPData implements smtp.LMTPSession.
func (s *session) LMTPData(r io.Reader, status smtp.StatusCollector) error {
	tx := s.tx
	outcomes, err := s.transfer(r)
	code, first := 250, err
	for i, to := range tx.told {
		reply := newReply(250, 2, 1, 5, "Delivered as "+tx.id)
		why := err
		if err == nil {
			why = outcomes[tx.index[i]]
		}
		if why != nil {
			reply = replyTo(atData, LMTP, why)
			code, first = max(code, reply.Code), why
		}
		status.SetStatus(to, reply)
	}
	s.logMessage(tx, code, first)
	return nil
}

// temporary reports whether what failed may work later.
func temporary(err error) bool {
	return errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) || covey.KindOf(err).Temporary()
}

// transfer takes the data of a message and has it delivered. It returns an
// outcome for each of tx.rcpts, or an error for all. The data has been read to
// its end when it returns, or the connection is dead, and r, go-smtp's view of
// the data, is through.
func (s *session) transfer(r io.Reader) ([]error, error) {
	s.c.mute = false
	b := &body{limit: s.c.srv.cfg.MaxMessageBytes, drain: s.c.srv.drain()}
	if b.frame = newDotFraming(s.c.in); s.chunks != nil {
		b.frame = s.chunks
	}
	s.c.raw.BeginBody()
	receipt, err := s.deliver(b)
	fault := b.finish()
	s.c.raw.EndBody()
	s.verb = "DATA"
	s.c.next = []byte(".\r\n")
	if _, cerr := io.Copy(io.Discard, r); cerr != nil {
		return nil, fmt.Errorf("end of message: %w", cerr)
	}
	switch {
	case fault != nil:
		return nil, s.faulty(fault)
	case err != nil:
		return nil, s.refuse(atData, err)
	case len(receipt.Outcomes) != len(s.tx.rcpts):
		return nil, s.refuse(atData, fmt.Errorf("%d outcomes for %d recipients", len(receipt.Outcomes), len(s.tx.rcpts)))
	}
	s.c.errors, s.c.idle = 0, 0
	s.c.srv.cfg.Metrics.Octets.WithLabelValues(s.c.kind.String()).Add(float64(b.size))
	if !slices.ContainsFunc(receipt.Outcomes, func(err error) bool { return err != nil && temporary(err) }) {
		s.c.unheard = append(s.c.unheard, receipt)
	}
	return receipt.Outcomes, nil
}

// faulty acts on a fault of the data and returns it.
func (s *session) faulty(fault error) error {
	switch {
	case errors.Is(fault, errRunaway):
		s.c.bye(replyTooBig, "message without end")
		s.c.linger = true
	case errors.Is(fault, errAborted):
		s.c.mute = true // the command that gave it up is answered instead
	}
	return fault
}

// deliver hands the message to Delivery, with our header fields in front.
func (s *session) deliver(data io.Reader) (delivery.Receipt, error) {
	header := s.trace()
	if s.user != nil {
		fields, rest, err := s.submitted(data)
		if err != nil {
			return delivery.Receipt{}, err
		}
		header, data = append(header, fields...), rest
	}
	receipt, err := s.c.srv.svc.Delivery.Deliver(s.c.ctx, delivery.Envelope{
		From: s.tx.from, Recipients: s.tx.rcpts, Header: header,
	}, data)
	s.tx.receipt = receipt
	return receipt, err
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

// logMessage writes the one line of a transaction that had its data.
func (s *session) logMessage(tx *transaction, code int, err error) {
	took := s.c.srv.cfg.Now().Sub(tx.began)
	m := s.c.srv.cfg.Metrics
	m.Messages.WithLabelValues(s.c.kind.String(), string(rune('0'+code/100))).Inc()
	m.Seconds.WithLabelValues(s.c.kind.String()).Observe(took.Seconds())
	attrs := [9]slog.Attr{
		slog.String("txn", tx.id), slog.String("listener", s.c.kind.String()), slog.String("from", clip(tx.path)),
		slog.Int("rcpts", len(tx.told)), slog.Int64("size", tx.receipt.Size), slog.String("delivery", tx.receipt.ID.String()),
		slog.Int("code", code), slog.Duration("took", took),
	}
	n := len(attrs) - 1
	if err != nil {
		attrs[n] = slog.Any("err", err)
		n++
	}
	s.c.srv.log.LogAttrs(s.c.ctx, slog.LevelInfo, "transaction", attrs[:n]...)
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
