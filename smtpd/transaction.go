package smtpd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strconv"
	"time"

	"github.com/emersion/go-smtp"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/delivery"
)

// A transaction is what MAIL begins.
type transaction struct {
	mailArgs
	id      string
	began   time.Time
	receipt delivery.Receipt     // of the data, once delivered
	rcpts   []delivery.Recipient // each once
	// told are the recipients in the order of RCPT, as replies name them, each
	// with its index in rcpts: one named twice gets two replies and one copy.
	told  []string
	index []int
}

// begin begins a transaction. It returns the reply.
func (s *session) begin(m mailArgs) *smtp.SMTPError {
	if err := s.c.srv.svc.Delivery.Room(); err != nil {
		return s.refuse(atMail, err)
	}
	if s.user != nil {
		if err := s.maySend(m.from); err != nil {
			return s.refuse(atMail, err)
		}
	}
	s.serial++
	s.tx = &transaction{
		mailArgs: m,
		id:       s.c.id + "-" + strconv.Itoa(s.serial),
		began:    s.c.srv.cfg.Now(),
	}
	return replyMail
}

// maySend returns why the user may not begin a message, nil if they may.
func (s *session) maySend(from covey.Address) error {
	if err := s.c.srv.svc.Logon.Allowed(s.c.ctx, *s.user); err != nil || from.IsZero() {
		return err
	}
	return s.owns(from, replyNotOwned)
}

// owns returns other, or why it cannot be told, unless the user may send as from.
func (s *session) owns(from covey.Address, other *smtp.SMTPError) error {
	ctx := newLazyContext(s.c.ctx, s.c.srv.cfg.RecipientTimeout)
	defer ctx.end()
	owned, err := s.c.srv.svc.Directory.Owns(ctx, s.user.ID, from)
	if err == nil && !owned {
		err = other
	}
	return err
}

// recipient adds a recipient to the transaction. It returns the reply.
func (s *session) recipient(to covey.Address) *smtp.SMTPError {
	key := to.Key()
	i := slices.IndexFunc(s.tx.rcpts, func(r delivery.Recipient) bool { return r.Address.Key() == key })
	if i < 0 {
		ctx := newLazyContext(s.c.ctx, s.c.srv.cfg.RecipientTimeout)
		defer ctx.end()
		r, err := s.c.srv.svc.Delivery.Recipient(ctx, to)
		if err != nil {
			return s.refuse(atRcpt, err)
		}
		i = len(s.tx.rcpts)
		s.tx.rcpts = append(s.tx.rcpts, r)
	}
	if to.Domain == "" {
		to.Domain = s.c.srv.cfg.Hostname
	}
	s.tx.told = append(s.tx.told, to.String())
	s.tx.index = append(s.tx.index, i)
	return replyRcpt
}

// message takes the data of a message, answers it, and ends the transaction.
func (s *session) message(f framing) {
	outcomes, err := s.transfer(f)
	if s.c.kind == LMTP {
		s.answerEach(outcomes, err)
	} else {
		s.answerAll(outcomes, err)
	}
	s.tx = nil
}

// answer replies to the data, unless that has ended the session. A message that its
// sender gave up between two chunks has no reply: the command that gave it up will.
func (s *session) answer(r *smtp.SMTPError, err error) {
	if !s.c.dead && !errors.Is(err, errAborted) {
		s.c.reply(r)
	}
}

// answerAll answers with one reply for all recipients: positive only if every one
// has the message, and temporary if that may still come true.
func (s *session) answerAll(outcomes []error, err error) {
	for _, o := range outcomes {
		if o != nil && (err == nil || temporary(o)) {
			err = o
		}
	}
	reply := newReply(250, 2, 0, 0, "Delivered as "+s.tx.id)
	if err != nil {
		reply = replyTo(atData, s.c.kind, err)
	}
	s.answer(reply, err)
	s.logMessage(reply.Code, err)
}

// answerEach answers with one reply for each recipient (RFC 2033 section 4.2).
func (s *session) answerEach(outcomes []error, err error) {
	code, first := 250, err
	for i, to := range s.tx.told {
		reply := newReply(250, 2, 1, 5, "Delivered as "+s.tx.id)
		why := err
		if err == nil {
			why = outcomes[s.tx.index[i]]
		}
		if why != nil {
			reply = replyTo(atData, LMTP, why)
			code, first = max(code, reply.Code), why
		}
		e := reply.EnhancedCode
		s.answer(newReply(reply.Code, e[0], e[1], e[2], "<"+to+"> "+reply.Message), why)
	}
	s.logMessage(code, first)
}

// temporary reports whether what failed may work later.
func temporary(err error) bool {
	return errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) || covey.KindOf(err).Temporary()
}

// transfer takes the data of a message and has it delivered. It returns an
// outcome for each of tx.rcpts, or an error for all. The data has been read to
// its end when it returns, or the connection is dead.
func (s *session) transfer(f framing) ([]error, error) {
	b := &body{frame: f, limit: s.c.srv.cfg.MaxMessageBytes, drain: s.c.srv.drain()}
	s.c.raw.BeginBody()
	receipt, err := s.deliver(b)
	fault := b.finish()
	s.c.raw.EndBody()
	s.verb = "DATA"
	switch {
	case fault != nil:
		if errors.Is(fault, errRunaway) {
			s.c.bye(replyTooBig, "message without end")
			s.c.linger = true
		}
		s.c.srv.svc.Delivery.Lost(receipt)
		return nil, fault
	case err != nil:
		return nil, s.refuse(atData, err)
	case len(receipt.Outcomes) != len(s.tx.rcpts):
		s.c.srv.svc.Delivery.Lost(receipt)
		return nil, s.refuse(atData, fmt.Errorf("%d outcomes for %d recipients", len(receipt.Outcomes), len(s.tx.rcpts)))
	}
	s.c.errors, s.c.idle = 0, 0
	s.c.srv.cfg.Metrics.Octets.WithLabelValues(s.c.kind.String()).Add(float64(b.size))
	if !slices.ContainsFunc(receipt.Outcomes, func(err error) bool { return err != nil && temporary(err) }) {
		s.c.unheard = append(s.c.unheard, receipt)
	}
	return receipt.Outcomes, nil
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
		From: s.tx.from, Recipients: s.tx.rcpts, Header: header, Together: s.c.kind != LMTP, Here: s.c.here,
	}, data)
	s.tx.receipt = receipt
	return receipt, err
}

// logMessage writes the one line of a transaction that had its data.
func (s *session) logMessage(code int, err error) {
	tx := s.tx
	took := s.c.srv.cfg.Now().Sub(tx.began)
	m := s.c.srv.cfg.Metrics
	m.Messages.WithLabelValues(s.c.kind.String(), string(rune('0'+code/100))).Inc()
	m.Seconds.WithLabelValues(s.c.kind.String()).Observe(took.Seconds())
	attrs := [10]slog.Attr{
		slog.String("txn", tx.id), slog.String("listener", s.c.kind.String()), slog.String("from", clip(tx.path)),
		slog.Int("rcpts", len(tx.told)), slog.Int64("size", tx.receipt.Size), slog.String("delivery", tx.receipt.ID.String()),
		slog.Int("code", code), slog.Duration("took", took),
	}
	n := len(attrs) - 2
	if q := tx.receipt.Queued; q > 0 {
		attrs[n] = slog.Int("queued", q)
		n++
	}
	if err != nil {
		attrs[n] = slog.Any("err", err)
		n++
	}
	s.c.srv.log.LogAttrs(s.c.ctx, slog.LevelInfo, "transaction", attrs[:n]...)
}
