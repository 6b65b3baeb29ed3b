package imapd

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"math"
	"time"

	"github.com/emersion/go-sasl"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/directory"
	"github.com/covey-mail/covey/internal/handoff"
	"github.com/covey-mail/covey/logon"
	"github.com/covey-mail/covey/mailbox"
)

// Logons says who a peer is; *logon.Service is one. Methods may be called
// concurrently and delay failures by themselves.
type Logons interface {
	// Mechanisms returns the names of the SASL mechanisms to offer.
	Mechanisms(c logon.Conn) []string

	// SASL returns the server side of a mechanism. done is called once, when it
	// has succeeded, before its last Next returns.
	SASL(ctx context.Context, c logon.Conn, mech string, done func(directory.Account)) (sasl.Server, error)

	// Password checks a user name and a password. covey.Denied: wrong, whatever
	// it was; covey.Limit: too many failures, close the connection.
	Password(ctx context.Context, c logon.Conn, user, password string) (directory.Account, error)

	// Allowed returns covey.Denied once an account that has logged in is removed or
	// disabled. It is asked before each command, and does not wait.
	Allowed(ctx context.Context, a directory.Account) error
}

// Mailboxes opens accounts; *mailbox.Service is one.
type Mailboxes interface {
	Account(id covey.AccountID, shard covey.ShardID, quota int64) *mailbox.Account
}

// Config is what a Server needs. Logons and Mailboxes are required.
type Config struct {
	Logons    Logons
	Mailboxes Mailboxes
	Homes     handoff.Homes // where sessions run; nil: all of them here

	Hostname string      // in the greeting; empty: none
	TLS      *tls.Config // for STARTTLS; nil: not offered

	// ClearText says from where a peer may log in without TLS.
	ClearText logon.ClearText

	AppendLimit int64 // octets of a message; 0: 50 MiB, at most 4 GiB
	PerUser     int   // sessions of one account at a time; 0: 50

	LoginTime  time.Duration // from greeting to login; 0: 3 minutes
	IdleTime   time.Duration // without a command, and in IDLE; 0: 31 minutes (RFC 3501 section 5.4: at least 30)
	ReadTime   time.Duration // for the rest of a command once begun, and between parts of a message; 0: 1 minute
	WriteTime  time.Duration // for each 16 KiB that the peer is to take; 0: 5 minutes
	SearchTime time.Duration // one SEARCH may take; 0: 30 seconds

	Logger  *slog.Logger // nil: discard
	Metrics *Metrics     // nil: counted for nobody
}

func (cfg Config) withDefaults() (Config, error) {
	if cfg.Logons == nil || cfg.Mailboxes == nil {
		return cfg, errors.New("imapd: Logons and Mailboxes are required")
	}
	if cfg.AppendLimit < 0 || cfg.AppendLimit > math.MaxUint32 || cfg.PerUser < 0 {
		return cfg, errors.New("imapd: AppendLimit or PerUser out of range")
	}
	cfg.AppendLimit = cmp.Or(cfg.AppendLimit, 50<<20)
	cfg.PerUser = cmp.Or(cfg.PerUser, 50)
	for _, t := range []struct {
		at *time.Duration
		or time.Duration
	}{
		{&cfg.LoginTime, 3 * time.Minute}, {&cfg.IdleTime, 31 * time.Minute}, {&cfg.ReadTime, time.Minute},
		{&cfg.WriteTime, 5 * time.Minute}, {&cfg.SearchTime, 30 * time.Second},
	} {
		if *t.at < 0 {
			return cfg, errors.New("imapd: negative time")
		}
		*t.at = cmp.Or(*t.at, t.or)
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Metrics == nil {
		cfg.Metrics = NewMetrics()
	}
	return cfg, nil
}

// Metrics count what a Server does.
type Metrics struct {
	Sessions prometheus.Gauge       // open, logged in
	Logins   *prometheus.CounterVec // by result
	Commands *prometheus.CounterVec // by name and result
	Refused  *prometheus.CounterVec // by reason

}

// NewMetrics returns collectors that are registered nowhere.
func NewMetrics() *Metrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "covey", Subsystem: "imap", Name: name, Help: help}, labels)
	}
	return &Metrics{
		Sessions: prometheus.NewGauge(prometheus.GaugeOpts{
			Namespace: "covey", Subsystem: "imap", Name: "sessions", Help: "Sessions that are logged in.",
		}),
		Logins:   counter("logins_total", "Attempts to log in, by result.", "result"),
		Commands: counter("commands_total", "Commands after login, by name.", "command"),
		Refused:  counter("refused_total", "Commands and sessions refused for a limit, by reason.", "reason"),
	}
}

// Collectors returns all of m.
func (m *Metrics) Collectors() []prometheus.Collector {
	return []prometheus.Collector{m.Sessions, m.Logins, m.Commands, m.Refused}
}
