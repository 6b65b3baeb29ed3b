// Package smtpd takes mail in: SMTP from other servers (MX), submission by
// users, and LMTP from a local MTA, all on github.com/emersion/go-smtp.
//
// Between go-smtp and the connection stands a guard (conn), a net.Conn that hands
// it one well-formed command line at a time, and only once the last one is
// answered. The guard answers by itself what go-smtp has no hook for or answers
// with another code than RFC 5321 asks for: syntax, bare CR and LF, lines that are
// too long, STARTTLS, junk; and all of a transaction, MAIL, RCPT, DATA and BDAT, so
// that there is one place that knows where a message ends. What is left to go-smtp
// is greeting, capabilities, AUTH and the small commands.
//
// Limits: a command line has at most 2,048 octets (12,288 in AUTH), a session 16
// KiB of input buffer and 4 KiB of output buffer; a message is streamed.
//
// It stores nothing and knows no user: it asks the services it declares.
package smtpd

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"time"

	"github.com/emersion/go-sasl"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/delivery"
	"github.com/covey-mail/covey/directory"
	"github.com/covey-mail/covey/internal/serve"
	"github.com/covey-mail/covey/logon"
)

// A Kind is what a listener is for.
type Kind uint8

const (
	MX          Kind = iota // port 25: mail from anywhere for local recipients
	Submission              // port 587: mail from users, TLS by STARTTLS
	Submissions             // port 465: mail from users, TLS first
	LMTP                    // RFC 2033, for a local MTA: a reply per recipient
	numKinds
)

// String returns the name that configuration, logs and metrics use.
func (k Kind) String() string {
	switch k {
	case MX:
		return "smtp"
	case Submission:
		return "submission"
	case Submissions:
		return "submissions"
	case LMTP:
		return "lmtp"
	}
	return fmt.Sprintf("kind %d", uint8(k))
}

// submits reports whether users send their mail here.
func (k Kind) submits() bool { return k == Submission || k == Submissions }

// Delivery takes messages; *delivery.Service is one.
type Delivery interface {
	// Recipient decides whether a recipient can be taken; its errors are those of
	// delivery.Service. It blocks no longer than ctx.
	Recipient(ctx context.Context, to covey.Address) (delivery.Recipient, error)

	// Deliver reads data to its end, once, and does not retain it. An error of
	// data makes it return an error and store nothing.
	Deliver(ctx context.Context, e delivery.Envelope, data io.Reader) (delivery.Receipt, error)

	// Confirm says that the positive reply for r reached the sender.
	Confirm(r delivery.Receipt)

	// Lost says that the sender of r is gone and may not have the reply. Every
	// receipt without a temporary outcome is given to Confirm or to Lost.
	Lost(r delivery.Receipt)

	// Room returns covey.DiskFull while nothing can be stored. It does not block.
	Room() error
}

// Directory says who may send as whom; *directory.Service is one.
type Directory interface {
	Owns(ctx context.Context, id covey.AccountID, from covey.Address) (bool, error)
}

// Logon authenticates; *logon.Service is one. It counts failures, delays and
// limits by itself.
type Logon interface {
	Mechanisms(c logon.Conn) []string
	SASL(ctx context.Context, c logon.Conn, mech string, done func(directory.Account)) (sasl.Server, error)

	// Allowed returns covey.Denied once an account that has logged in is removed or
	// disabled. It does not block.
	Allowed(ctx context.Context, a directory.Account) error
}

// Services are what a Server needs of the node. All are called from several
// goroutines at once.
type Services struct {
	Delivery  Delivery  // required
	Directory Directory // required for submission
	Logon     Logon     // required for submission
}

// A Config is what a Server offers and bears. The zero Config is usable.
type Config struct {
	Hostname string      // in greeting and Received; "" means localhost
	TLS      *tls.Config // nil: no STARTTLS, and no Submissions

	MaxMessageBytes int64 // 0 means 50 MiB
	MaxRecipients   int   // of one transaction; 0 means 100, the least that RFC 5321 section 4.5.3.1.8 allows
	MaxErrors       int   // errors before 421; 0 means 20. A message taken in starts a new count
	MaxIdle         int   // commands that bring no message nearer before 421; 0 means 100; counted likewise

	// ClearText says from where a user may log in without TLS.
	ClearText logon.ClearText

	// TrustedLMTP are the networks beside loopback that may speak LMTP.
	TrustedLMTP []netip.Prefix

	// RecipientTimeout bounds the look-up of one recipient; 0 means 2 s.
	RecipientTimeout time.Duration

	// Listeners holds caps and time limits by kind. Name, Refusal, Logger and
	// Metrics are filled in. A zero Limits.Session means 30 minutes.
	Listeners    map[Kind]serve.Config
	ServeMetrics *serve.Metrics // nil: none

	Now     func() time.Time // nil: time.Now
	Logger  *slog.Logger     // nil discards
	Metrics *Metrics         // nil counts into the void
}

// defaultSession is the longest that a connection is held.
const defaultSession = 30 * time.Minute

func (c Config) withDefaults() Config {
	setDefault(&c.Hostname, "localhost")
	setDefault(&c.MaxMessageBytes, 50<<20)
	setDefault(&c.MaxRecipients, 100)
	setDefault(&c.MaxErrors, 20)
	setDefault(&c.MaxIdle, 100)
	setDefault(&c.RecipientTimeout, 2*time.Second)
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Metrics == nil {
		c.Metrics = NewMetrics()
	}
	return c
}

func setDefault[T comparable](v *T, def T) {
	var zero T
	if *v == zero {
		*v = def
	}
}

// validate checks a Config with its defaults.
func (c Config) validate() error {
	if _, err := covey.ParseDomain(c.Hostname); err != nil {
		return fmt.Errorf("hostname: %w", err)
	}
	for name, n := range map[string]int64{
		"message bytes": c.MaxMessageBytes, "recipients": int64(c.MaxRecipients), "errors": int64(c.MaxErrors),
		"idle commands": int64(c.MaxIdle), "recipient timeout": int64(c.RecipientTimeout),
	} {
		if n < 0 {
			return covey.Errorf(covey.Invalid, "limit of %s is negative", name)
		}
	}
	return nil
}
