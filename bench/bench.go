// Package bench drives load at any mail server, ours or another, over SMTP, LMTP,
// POP3 and IMAP, and measures what comes back.
//
// An operation is one message (SMTP, LMTP) or one session (POP3, IMAP; of the
// latter also a part, see Keep). In a
// closed loop a fixed number of workers, each with at most one connection, do one
// operation after another. In an open loop operations start at planned moments
// whatever the server does, and their latency counts from the plan: a stall shows
// in every operation that should have run meanwhile. Operations that find all
// workers busy wait in a bounded queue; those that find it full are counted.
//
// A cluster has several addresses. Workers begin with one each, in turn, and make
// every further connection to the next, passing over those that refuse: what breaks
// goes on elsewhere, and stays there. What groups of users see, such as those of
// one shard, can be told apart: second by second, and how long nothing was done for
// them. In a closed loop operations that hang keep workers from the other groups;
// gaps are measured in an open one, with connections to spare.
//
// The clients are small on purpose: what they cost is taken from the same
// machine as the server's work. Run can measure that cost first, against a sink
// in this process that throws everything away, and says when the generator was
// the limit. Certificates are not verified. Every operation has one deadline for
// all its reads and writes, every line, reply and literal has a bound.
package bench

import (
	"context"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/covey-mail/covey"
)

// A Protocol is what the server speaks.
type Protocol string

// The protocols.
const (
	SMTP Protocol = "smtp"
	LMTP Protocol = "lmtp"
	POP3 Protocol = "pop3"
	IMAP Protocol = "imap"
)

// Security says when a connection is encrypted.
type Security string

// The kinds of Security. The zero value means None.
const (
	None     Security = "none"
	StartTLS Security = "starttls"
	Implicit Security = "implicit"
)

// A Keep says how far an IMAP session goes once. An operation is what comes after
// that, and is done again and again by the user of the session's first one;
// nothing is marked as seen, since the same messages are read over again.
type Keep string

// The kinds of Keep. The zero value means KeepNothing.
const (
	KeepNothing Keep = "nothing" // an operation is a session, from connecting to LOGOUT
	KeepLogin   Keep = "login"   // the connection stays, an operation begins with SELECT
	KeepMailbox Keep = "mailbox" // the mailbox stays selected
)

// Config describes a run. Only Protocol, Addr and one of Duration and Count must
// be set.
type Config struct {
	Protocol Protocol
	Addr     string   // host:port, or unix:/path; several with commas between: connections go to them in turn
	TLS      Security // None

	Conns    int           // connections at most; 64, in an open loop 1,000
	Rate     float64       // operations started a second; 0: closed loop
	Duration time.Duration // no operation starts later; 0: Count ends the run
	Count    int64         // operations started at most; 0: Duration ends the run
	Timeout  time.Duration // for one operation, connecting included; 60s
	Seed     uint64        // of users and bodies: the same seed, the same order

	Users       int    // 1
	UserPattern string // with one %d, such as the default, user%05d@example.org
	Password    string // fixed, or with one %d; empty: the user's local part

	From       string // sender; bench@example.net; with Auth the user
	Auth       bool   // SMTP: each connection logs in as the user of its first message and sends as him
	Size       int    // bytes of a message with its header; 8 KiB
	PerSession int    // messages a connection carries; 0: as many as it will
	Pipeline   bool   // MAIL, RCPT and DATA in one write (RFC 2920)

	Retrieve  int  // bodies a POP3 or IMAP session reads; 4, negative: none
	Envelopes int  // envelopes an IMAP session reads; 20, negative: none
	Delete    bool // POP3 deletes what it has read
	Discard   int  // messages a POP3 session deletes without reading them, after those
	Keep      Keep // of an IMAP session; KeepNothing

	Groups   map[string]string // labels of users by address: gaps and the time line are also told for each; nil: none
	Only     []string          // labels of the users that operations go to; nil: all users
	Timeline func(Moment)      // told each second, from one goroutine, soon after it is over; the Result has them all. nil: no time line

	PID     int           // server process to account for, with all its children; 0: none
	Verify  string        // pop3, pop3s, imap or imaps://host:port: count the messages sent back from there
	Wait    time.Duration // how long Verify waits for messages that a server still has in a queue; 0
	Ceiling time.Duration // how long the generator's own ceiling is measured before the run; 0: not at all

	Pace func(context.Context) error // called before each operation of a closed loop: it may block until ctx ends, an error ends the worker; nil: no pause

	Progress      func(Progress) // told how far the run is, from one goroutine; nil: nobody
	ProgressEvery time.Duration  // 1s
}

// Progress is how far a run is.
type Progress struct {
	Phase   string // "ceiling", "load" or "verify"
	Elapsed time.Duration
	Whole   time.Duration // how long the phase will take; 0: not known
	Done    int64
	Failed  int64
	Rate    float64 // done a second since the last call
}

// Bounds of what a command line may ask for.
const (
	maxConns   = 100_000
	maxUsers   = 10_000_000
	maxSize    = 1 << 30
	maxRate    = 1_000_000
	queueLimit = 1 << 16 // arrivals that wait for a worker
)

// verb is the number in a pattern. Padding with spaces is never meant.
var verb = regexp.MustCompile(`%(0[1-9])?d`)

// withDefaults returns a copy with what was left open filled in, or what is wrong
// with it, of Kind Invalid.
func (c Config) withDefaults() (Config, error) {
	setDefault(&c.TLS, None)
	setDefault(&c.Keep, KeepNothing)
	if c.Rate > 0 {
		setDefault(&c.Conns, 1000)
	}
	setDefault(&c.Conns, 64)
	setDefault(&c.Timeout, time.Minute)
	setDefault(&c.Users, 1)
	setDefault(&c.UserPattern, "user%05d@example.org")
	setDefault(&c.From, "bench@example.net")
	setDefault(&c.Size, 8<<10)
	setDefault(&c.Retrieve, 4)
	setDefault(&c.Envelopes, 20)
	setDefault(&c.ProgressEvery, time.Second)
	if c.Progress == nil {
		c.Progress = func(Progress) {}
	}
	return c, c.validate()
}

func setDefault[T comparable](v *T, to T) {
	var zero T
	if *v == zero {
		*v = to
	}
}

func (c *Config) validate() error {
	for _, check := range []struct {
		bad  bool
		text string
	}{
		{c.Protocol != SMTP && c.Protocol != LMTP && c.Protocol != POP3 && c.Protocol != IMAP, "the protocol must be smtp, lmtp, pop3 or imap"},
		{c.TLS != None && c.TLS != StartTLS && c.TLS != Implicit, "TLS must be none, starttls or implicit"},
		{c.Keep != KeepNothing && c.Keep != KeepLogin && c.Keep != KeepMailbox, "what is kept must be nothing, login or mailbox"},
		{c.Addr == "", "say where the server is: host:port or unix:/path"},
		{slices.Contains(c.addrs(), ""), "an address in the list is empty"},
		{c.Duration <= 0 && c.Count <= 0, "say when to end: give a duration or a count"},
		{c.Duration < 0 || c.Count < 0 || c.Timeout < 0 || c.Wait < 0, "durations and counts cannot be negative"},
		{c.Conns < 1 || c.Conns > maxConns, "connections: 1 to 100,000"},
		{!(c.Rate >= 0 && c.Rate <= maxRate), "rate: 0 to 1,000,000 a second"},
		{c.Users < 1 || c.Users > maxUsers, "users: 1 to 10,000,000"},
		{c.Size < 1 || c.Size > maxSize, "size: 1 byte to 1 GiB"},
		{c.Auth && c.Protocol != SMTP, "only smtp logs in to send"},
		{c.PerSession < 0, "messages a connection cannot be negative"},
		{c.Verify != "" && c.Protocol != SMTP && c.Protocol != LMTP, "only what smtp and lmtp send can be verified"},
		{!patternOK(c.UserPattern, c.Users > 1), "the user pattern needs one %d, such as user%05d@example.org, and no spaces"},
		{!patternOK(c.Password, false), "the password is plain, or has one %d"},
		{!patternOK(c.From, false) || verb.MatchString(c.From), "the sender is one address"},
	} {
		if check.bad {
			return covey.Errorf(covey.Invalid, "%s", check.text)
		}
	}
	if c.Verify != "" {
		if _, err := splitVerify(c.Verify); err != nil {
			return err
		}
	}
	return c.checkGroups()
}

func (c *Config) addrs() []string { return strings.Split(c.Addr, ",") }

// patternOK reports whether s may go into a command line as it is, once its one
// number is filled in.
func patternOK(s string, numbered bool) bool {
	n := len(verb.FindAllString(s, -1))
	return n == strings.Count(s, "%") && n <= 1 && (n == 1 || !numbered) &&
		!strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r == 0x7f || r == '<' || r == '>' })
}

// Run does what cfg says and blocks until the last operation has ended. When ctx
// ends, no more operations start, those under way get two seconds, and the Result
// covers what was done. An error is one of cfg, of Kind Invalid, or says that
// the process cfg.PID cannot be read; what the server does is in the Result.
func Run(ctx context.Context, cfg Config) (*Result, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	res := &Result{Protocol: cfg.Protocol, Addr: cfg.Addr, Conns: cfg.Conns, OpenRate: cfg.Rate}
	if cfg.Ceiling > 0 {
		if res.Ceiling, err = measureCeiling(ctx, cfg); err != nil {
			return nil, err
		}
	}
	var sent *ledger
	if cfg.Verify != "" {
		sent = newLedger(cfg.Users)
	}
	run := newRunID()
	t := trial{cfg: cfg, phase: "load", rec: newRecorder(sent, newTimeline(cfg)), open: factory(cfg, run)}
	if err := t.measure(ctx, res); err != nil {
		return nil, err
	}
	if sent != nil {
		// Also what an interrupted run has sent is counted.
		res.Verify = verify(context.WithoutCancel(ctx), cfg, run, sent)
	}
	return res, nil
}

// factory returns what opens the session of a worker.
func factory(cfg Config, run string) func(worker int) session {
	who := newUsers(cfg)
	switch cfg.Protocol {
	case POP3:
		return func(worker int) session { return &pop3Session{cfg: cfg, who: who, to: newTarget(cfg, worker)} }
	case IMAP:
		return func(worker int) session { return &imapSession{cfg: cfg, who: who, to: newTarget(cfg, worker)} }
	}
	text := newTemplate(cfg.Seed)
	return func(worker int) session {
		return &smtpSession{cfg: cfg, who: who, to: newTarget(cfg, worker), compose: newComposer(cfg, text, run, worker)}
	}
}
