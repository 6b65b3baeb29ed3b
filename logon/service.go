// Package logon decides who may log in: it verifies passwords and SASL exchanges
// against the directory, remembers for ten minutes which ones were right, and
// slows down and stops those who guess.
//
// Front ends call Password or drive a server from SASL; both wait out the delay
// of a failure themselves. Whatever is wrong with a try — no such user, a wrong
// password, an account that is disabled, an identity that may not be assumed — the
// answer is the same error, at the same time after the try began: the delay is
// counted from there, so that what a hash costs does not show.
//
// An address (of IPv6, a /64) may fail ten times a minute, and addresses that never
// logged in to an account may fail a hundred times a day there. Neither stops an
// address from logging in where it did so before: that pair has ten failures a
// minute of its own. All tables are bounded, and forget what was not used lately.
//
// The nodes of a cluster tell each other of failures, and of addresses that became
// known, a moment later (News): who guesses at several of them is counted as one,
// but for what is under way at the same moment.
package logon

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"time"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/directory"
	"github.com/covey-mail/covey/directory/password"
)

// A Config says what a Service works with. Directory must be set.
type Config struct {
	Directory *directory.Service
	Logger    *slog.Logger // nil: silent

	Delay    time.Duration // of the first failure; each further one within a minute adds half of it. 0: 1 s; negative: none
	MaxDelay time.Duration // of any failure. 0: 5 s
	PerAddr  int           // failures of one address in a minute. 0: 10
	PerDay   int           // failures of strangers on one account in a day. 0: 100
	Entries  int           // in each table. 0: 65,536

	// Tell passes what happened here on to the other nodes of the cluster, whose
	// Hear it reaches. It must not block. nil: there are none.
	Tell func(News)

	// SaltKey makes the salts that SCRAM shows for users who do not exist. Nodes of
	// a cluster should share it, else the differing salts tell such users apart. nil,
	// or no key: random.
	SaltKey func() []byte

	Now func() time.Time // nil: time.Now
}

func (c *Config) setDefaults() {
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Delay == 0 {
		c.Delay = time.Second
	}
	if c.MaxDelay <= 0 {
		c.MaxDelay = 5 * time.Second
	}
	if c.PerAddr <= 0 {
		c.PerAddr = 10
	}
	if c.PerDay <= 0 {
		c.PerDay = 100
	}
	if c.Entries <= 0 {
		c.Entries = 65_536
	}
	if c.SaltKey == nil || len(c.SaltKey()) == 0 {
		key := newKey()
		c.SaltKey = func() []byte { return key }
	}
	if c.Now == nil {
		c.Now = time.Now
	}
}

func newKey() []byte {
	key := make([]byte, 32)
	rand.Read(key)
	return key
}

// A Conn is what a front end knows of the connection that a try comes from.
type Conn struct {
	Remote   netip.Addr
	Protocol string // imap, pop3, submission; a label of metrics, so never from the peer
	Session  string // id in log lines
	Secure   bool   // TLS, or in clear where that is allowed
}

// A Service verifies log-ins. Its methods may be called by any number of
// goroutines.
type Service struct {
	cfg      Config
	dir      *directory.Service
	log      *slog.Logger
	limits   *limits
	verified *verified
	standing standing
	metrics  *Metrics
}

// New returns a Service. It does no I/O and starts nothing.
func New(cfg Config) (*Service, error) {
	if cfg.Directory == nil {
		return nil, covey.Errorf(covey.Invalid, "logon: Directory is needed")
	}
	cfg.setDefaults()
	return &Service{
		cfg:      cfg,
		dir:      cfg.Directory,
		log:      cfg.Logger.With("component", "logon"),
		limits:   newLimits(cfg.PerAddr, cfg.PerDay, cfg.Entries),
		verified: newVerified(cfg.Entries),
		metrics:  newMetrics(),
	}, nil
}

// Metrics returns the collectors of this Service, to be registered once.
func (s *Service) Metrics() *Metrics { return s.metrics }

// Password verifies a user's name and password, which nothing is kept of. The name
// is an address in any case, or its local part if there is one domain only.
//
// Denied: they are not right, for whatever reason. Limit: there were too many
// failures, and the connection should be closed. Unavailable: this node cannot tell
// now. A failure returns after its delay, or when ctx ends.
func (s *Service) Password(ctx context.Context, c Conn, user, pass string) (directory.Account, error) {
	return s.password(ctx, c, s.parseName(user), pass)
}

func (s *Service) password(ctx context.Context, c Conn, n name, pass string) (directory.Account, error) {
	return s.try(ctx, c, n, func() (directory.Account, string, error) {
		return s.verifyPassword(ctx, n, pass)
	})
}

// Allowed returns Denied once an account that has logged in is removed or disabled,
// Unavailable if this node cannot tell. A session asks before each command: it costs
// a look into memory.
func (s *Service) Allowed(ctx context.Context, a directory.Account) error {
	version := s.dir.Applied() // before the look-up, which may know more
	if s.standing.holds(a, version) {
		return nil
	}
	now, err := s.dir.Lookup(ctx, a.Address)
	switch {
	case errors.Is(err, covey.NotFound):
	case err != nil:
		return fmt.Errorf("look up who is logged in: %w", err)
	case now.ID == a.ID && !now.Disabled:
		s.standing.note(a, version)
		return nil
	}
	return covey.Errorf(covey.Denied, "account %s was removed or disabled", a.Address)
}

// denied is the one answer to everything that is not right.
func denied() error { return covey.Errorf(covey.Denied, "user name or password is wrong") }

// try runs one try to log in: verify, between the limits that count it and the
// delay that follows a failure. verify returns why a try is not right, or an error
// if it cannot tell.
func (s *Service) try(ctx context.Context, c Conn, n name, verify func() (directory.Account, string, error)) (directory.Account, error) {
	start := s.cfg.Now()
	if !c.Secure {
		return directory.Account{}, covey.Errorf(covey.Denied, "logging in needs TLS")
	}
	if err := s.dir.Confirm(ctx); err != nil {
		s.metrics.tries.WithLabelValues(c.Protocol, "unavailable").Inc()
		return directory.Account{}, err
	}
	t, err := s.limits.begin(ctx, c.Remote, n.key, s.cfg.Now)
	if err != nil {
		return directory.Account{}, s.refuse(ctx, c, n, start, err)
	}
	account, reason, err := verify()
	switch {
	case err != nil:
		s.limits.cancel(t)
		s.metrics.tries.WithLabelValues(c.Protocol, "unavailable").Inc()
		return directory.Account{}, fmt.Errorf("verify log-in: %w", err)
	case reason != "":
		failures := s.limits.fail(t, s.cfg.Now())
		s.tell(t.pair, false)
		s.report(c, n, "denied", reason)
		s.wait(ctx, start, failures)
		return directory.Account{}, denied()
	}
	if s.limits.succeed(t, s.cfg.Now()) {
		s.tell(t.pair, true)
	}
	s.metrics.tries.WithLabelValues(c.Protocol, "ok").Inc()
	return account, nil
}

// refuse answers a try that is not looked at.
func (s *Service) refuse(ctx context.Context, c Conn, n name, start time.Time, err error) error {
	if covey.KindOf(err) != covey.Limit {
		s.metrics.tries.WithLabelValues(c.Protocol, "unavailable").Inc()
		return err
	}
	s.report(c, n, "limited", err.Error())
	s.wait(ctx, start, 1)
	return err
}

// report counts and logs one failure. The password is not at hand here.
func (s *Service) report(c Conn, n name, outcome, reason string) {
	s.metrics.tries.WithLabelValues(c.Protocol, outcome).Inc()
	s.log.Info("log-in refused", "outcome", outcome, "reason", reason, "user", n.quoted,
		"remote", c.Remote, "protocol", c.Protocol, "session", c.Session)
}

// wait returns when a failure that began at start may be told, or when ctx ends.
func (s *Service) wait(ctx context.Context, start time.Time, failures int) {
	if s.cfg.Delay < 0 {
		return
	}
	d := min(s.cfg.Delay+time.Duration(max(failures-1, 0))*s.cfg.Delay/2, s.cfg.MaxDelay)
	timer := time.NewTimer(d - s.cfg.Now().Sub(start))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// verifyPassword finds the account and compares. A user who does not exist costs
// as much as one who does.
func (s *Service) verifyPassword(ctx context.Context, n name, pass string) (directory.Account, string, error) {
	if err := password.Acceptable(pass); err != nil {
		return directory.Account{}, err.Error(), nil
	}
	creds, err := s.find(ctx, n)
	if err != nil {
		return directory.Account{}, "", err
	}
	reason, hash := creds.obstacle(), creds.Hash
	if hash == "" {
		hash = password.Nobody()
	}
	key := s.verified.key(creds.ID, hash, pass)
	if reason == "" && s.verified.has(key, s.cfg.Now()) {
		s.metrics.cached.Inc()
		return creds.Account, "", nil
	}
	ok, err := s.dir.Hasher().Verify(ctx, hash, pass)
	switch {
	case err != nil:
		return directory.Account{}, "", err
	case reason != "":
		return directory.Account{}, reason, nil
	case !ok:
		return directory.Account{}, "wrong password", nil
	}
	s.verified.add(key, s.cfg.Now())
	s.keepVerifier(ctx, creds.Credentials, pass)
	return creds.Account, "", nil
}

// keepVerifier makes the SCRAM verifier of an imported account, now that its
// password is at hand. If that does not work, the next log-in tries again.
func (s *Service) keepVerifier(ctx context.Context, creds directory.Credentials, pass string) {
	if creds.Verifier != "" {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	verifier, err := s.dir.Hasher().Scram(ctx, pass)
	if err == nil {
		err = s.dir.SetVerifier(ctx, creds, verifier)
	}
	if err != nil {
		s.log.Info("SCRAM verifier not kept", "account", creds.Address, "error", err)
	}
}
