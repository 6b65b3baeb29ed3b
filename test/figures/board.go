package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/covey-mail/covey/bench"
)

// A contest is one load on a peer and on Covey.
type contest struct {
	name    string
	peer    string
	proto   bench.Protocol // Covey's
	against bench.Protocol // the peer's
	goal    float64        // Covey's rate over the peer's
	change  func(*bench.Config)
}

func contests() []contest {
	once := func(c *bench.Config) { c.PerSession = 1 }
	return []contest{
		{"SMTP, kept open", "smtp-sink", bench.SMTP, bench.SMTP, 0.5, nil},
		{"SMTP, one a connection", "smtp-sink", bench.SMTP, bench.SMTP, 0.4, once},
		{"SMTP over LMTP", "dovecot", bench.SMTP, bench.LMTP, 6, nil},
		{"LMTP", "dovecot", bench.LMTP, bench.LMTP, 6, nil},
		{"POP3 sessions", "dovecot", bench.POP3, bench.POP3, 5, readers},
		{"IMAP sessions", "dovecot", bench.IMAP, bench.IMAP, 5, readers},
	}
}

// Mailboxes that are read hold the same in every server and get no more.
const (
	readerPattern = "reader%05d@" + domain
	readerMail    = 25
)

func readers(c *bench.Config) { c.UserPattern = readerPattern }

// An entry is what one server did in one round of a contest.
type entry struct {
	Contest string        `json:"contest"`
	Server  string        `json:"server"`
	Round   int           `json:"round"`
	Result  *bench.Result `json:"result"`
}

// A board holds all entries.
type board struct {
	*lab
	servers map[string]*server
	seed    uint64
	entries []entry
}

// play fills the mailboxes that are read and holds all contests, all servers in
// turn in each round, so that what changes on the machine meanwhile meets all.
func (b *board) play(ctx context.Context) error {
	for _, name := range []string{"dovecot", "covey"} {
		if s := b.servers[name]; s != nil {
			if err := b.fill(ctx, s); err != nil {
				return err
			}
		}
	}
	for round := range b.rounds {
		for _, c := range contests() {
			if b.servers[c.peer] == nil {
				continue
			}
			if err := b.one(ctx, c, c.peer, c.against, round); err != nil {
				return err
			}
			if err := b.one(ctx, c, "covey", c.proto, round); err != nil {
				return err
			}
		}
	}
	return nil
}

func (b *board) config(s *server, p bench.Protocol) bench.Config {
	return bench.Config{
		Protocol: p, Addr: s.addr[string(p)], Conns: b.conns, Duration: b.duration, Users: b.users,
		UserPattern: "user%05d@" + domain, Seed: b.seed, PID: s.pid,
	}
}

// fill gives each reader its mail, and logs each in once: what a server does only
// at a user's first log-in is not measured.
func (b *board) fill(ctx context.Context, s *server) error {
	b.say("filling the mailboxes of %s", s.name)
	cfg := b.config(s, bench.LMTP)
	cfg.UserPattern, cfg.Users = readerPattern, b.readers
	cfg.Duration, cfg.Count = 0, int64(b.readers*readerMail)
	if _, err := b.load(ctx, cfg); err != nil {
		return err
	}
	cfg.Protocol, cfg.Addr, cfg.Count = bench.POP3, s.addr["pop3"], int64(b.readers)
	_, err := b.load(ctx, cfg)
	return err
}

// one holds one round of a contest with one server.
func (b *board) one(ctx context.Context, c contest, name string, p bench.Protocol, round int) error {
	s := b.servers[name]
	cfg := b.config(s, p)
	if c.change != nil {
		c.change(&cfg)
	}
	if cfg.UserPattern == readerPattern {
		cfg.Users = b.readers
	}
	if round == 0 && !b.short { // it does not change from round to round
		cfg.Ceiling = min(b.duration, 3*time.Second)
	}
	b.say("round %d of %d: %s: %s", round+1, b.rounds, c.name, name)
	res, err := b.load(ctx, cfg)
	if err != nil {
		return err
	}
	b.entries = append(b.entries, entry{c.name, name, round, res})
	return nil
}

// median returns the middle of what value says of a server's entries.
func (b *board) median(contest, server string, value func(*bench.Result) float64) float64 {
	var all []float64
	for _, e := range b.entries {
		if e.Contest == contest && e.Server == server {
			all = append(all, value(e.Result))
		}
	}
	if len(all) == 0 {
		return 0
	}
	slices.Sort(all)
	return (all[len(all)/2] + all[(len(all)-1)/2]) / 2
}

// rates returns the medians of the peer and of Covey, 0 for one that was left out.
func (b *board) rates(c contest) [2]float64 {
	rate := func(r *bench.Result) float64 { return r.Rate }
	return [2]float64{b.median(c.name, c.peer, rate), b.median(c.name, "covey", rate)}
}

// print writes the table, and the entries to the file asked for.
func (b *board) print(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "\tpeer\tpeer/s\tCovey/s\tratio\tgoal\tpeer µs CPU\tCovey µs CPU\tpeer B written\tCovey B written\tpeer p99 ms\tCovey p99 ms\t")
	for _, c := range contests() {
		if b.servers[c.peer] == nil {
			continue
		}
		row := func(value func(*bench.Result) float64) (peer, covey float64) {
			return b.median(c.name, c.peer, value), b.median(c.name, "covey", value)
		}
		rate := b.rates(c)
		peerCPU, coveyCPU := row(func(r *bench.Result) float64 { return r.Server.CPUMicros })
		peerOut, coveyOut := row(func(r *bench.Result) float64 { return r.Server.Written })
		peerP99, coveyP99 := row(func(r *bench.Result) float64 { return r.Latency.P99 })
		fmt.Fprintf(t, "%s\t%s\t%.0f\t%.0f\t%.2f\t%g\t%.0f\t%.0f\t%.0f\t%.0f\t%.1f\t%.1f\t\n",
			c.name, c.peer, rate[0], rate[1], rate[1]/rate[0], c.goal, peerCPU, coveyCPU, peerOut, coveyOut, peerP99, coveyP99)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	b.notes(w)
	if b.json == "" {
		return nil
	}
	text, err := json.MarshalIndent(b.entries, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(b.json, text, 0o644)
}

// notes says where the generator was the limit.
func (b *board) notes(w io.Writer) {
	for _, e := range b.entries {
		if e.Result.Limited != "" {
			fmt.Fprintf(w, "round %d, %s, %s: the generator was the limit: %s\n", e.Round+1, e.Contest, e.Server, e.Result.Limited)
		}
	}
	share := 0.0
	for _, e := range b.entries {
		share = max(share, e.Result.Generator)
		for _, f := range e.Result.Failures {
			fmt.Fprintf(w, "round %d, %s, %s: %d failed: %s\n", e.Round+1, e.Contest, e.Server, f.Count, f.What)
		}
	}
	fmt.Fprintf(w, "the generator used at most %.0f %% of the machine's CPU time\n", share*100)
}
