package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"time"

	"github.com/covey-mail/covey/bench"
)

type benchCmd struct {
	SMTP benchSMTPCmd `cmd:"" name:"smtp" help:"Send messages by SMTP."`
	LMTP benchLMTPCmd `cmd:"" name:"lmtp" help:"Send messages by LMTP."`
	POP3 benchPOP3Cmd `cmd:"" name:"pop3" help:"Sessions: log in, STAT, RETR, QUIT."`
	IMAP benchIMAPCmd `cmd:"" name:"imap" help:"Sessions: log in, SELECT, FETCH envelopes and bodies, STORE, LOGOUT."`
}

// benchFlags are those of every protocol.
type benchFlags struct {
	Addr        string         `arg:"" help:"The server: host:port or unix:/path. With several, and commas between, connections go to them in turn, and on to the next when one breaks."`
	Conns       int            `help:"Connections at a time; default 64, with --rate at most 1000."`
	Rate        float64        `help:"Start this many operations a second whatever the server does; latency counts from the planned start. 0: each connection does one after another." placeholder:"N"`
	Duration    *time.Duration `help:"Start no operation later; default 10s without --count."`
	Count       int64          `help:"Start this many operations." placeholder:"N"`
	Timeout     time.Duration  `help:"Of one operation." default:"1m"`
	Users       int            `help:"Accounts to use." default:"1000"`
	UserPattern string         `help:"Their addresses." default:"user%05d@example.org"`
	Password    string         `help:"Their password, fixed or with one %d; without it, what stands before the @." placeholder:"PATTERN"`
	TLS         string         `name:"tls" help:"none, starttls or implicit; certificates are not verified." enum:"none,starttls,implicit" default:"none"`
	Seed        uint64         `help:"Of users and bodies." default:"1"`
	Size        size           `help:"Of a message; for pop3 and imap, of those that the ceiling is measured with." default:"8KiB"`
	Timeline    string         `help:"Write a line for each second: done, failed, latencies; - for standard output. With --json it is in there too." placeholder:"FILE"`
	Groups      string         `help:"File with an address and a label in each line, as covey user list prints them: time line and gaps also for each label, there the shard." placeholder:"FILE"`
	Only        []string       `help:"Use only the accounts with these labels." placeholder:"LABEL"`
	PID         int            `name:"pid" help:"Account for this server process and its children: CPU time, bytes written, memory." placeholder:"PID"`
	Procs       int            `help:"CPUs the generator may use; 0 for all." placeholder:"N"`
	Ceiling     bool           `help:"First measure for three seconds what the generator reaches against a sink." default:"true" negatable:""`
	JSON        bool           `help:"Print JSON."`
}

// benchSendFlags are those of SMTP and LMTP.
type benchSendFlags struct {
	benchFlags
	From       string        `help:"The sender." default:"bench@example.net"`
	PerSession int           `help:"Messages a connection carries; 0 for as many as it will." default:"0" placeholder:"N"`
	Pipeline   bool          `help:"Send MAIL, RCPT and DATA at once."`
	Verify     string        `help:"Count the messages sent back from pop3://host:port or imap://host:port (pop3s, imaps: TLS); a lost or doubled one is a failure." placeholder:"URL"`
	Wait       time.Duration `help:"How long --verify waits for messages that the server still has in a queue." default:"0s"`
}

type (
	benchSMTPCmd struct {
		benchSendFlags
		Auth bool `help:"Log in (AUTH PLAIN) as the accounts and send as them, as to a submission port; --from is not used."`
	}
	benchLMTPCmd struct{ benchSendFlags }
	benchPOP3Cmd struct {
		benchFlags
		Retr    int  `help:"Messages to read." default:"4"`
		Delete  bool `help:"Delete what was read."`
		Discard int  `help:"Messages to delete unread."`
	}
	benchIMAPCmd struct {
		benchFlags
		Envelopes int    `help:"Envelopes to fetch." default:"20"`
		Bodies    int    `help:"Bodies to fetch, and to mark as seen." default:"4"`
		Keep      string `help:"Do that once and measure only what comes after it, again and again: login, or mailbox, which stays selected." enum:"nothing,login,mailbox" default:"nothing"`
	}
)

// ceilingTime is how long the generator's ceiling is measured.
const ceilingTime = 3 * time.Second

func (c *benchFlags) config(p bench.Protocol) bench.Config {
	cfg := bench.Config{
		Protocol: p, Addr: c.Addr, TLS: bench.Security(c.TLS),
		Conns: c.Conns, Rate: c.Rate, Count: c.Count, Timeout: c.Timeout, Seed: c.Seed,
		Users: c.Users, UserPattern: c.UserPattern, Password: c.Password,
		Size: int(c.Size), PID: c.PID,
	}
	switch {
	case c.Duration != nil:
		cfg.Duration = *c.Duration
	case c.Count == 0:
		cfg.Duration = 10 * time.Second
	}
	if c.Ceiling {
		cfg.Ceiling = ceilingTime
	}
	return cfg
}

func (c *benchSendFlags) config(p bench.Protocol) bench.Config {
	cfg := c.benchFlags.config(p)
	cfg.From, cfg.PerSession, cfg.Pipeline = c.From, c.PerSession, c.Pipeline
	cfg.Verify, cfg.Wait = c.Verify, c.Wait
	return cfg
}

// Run sends by SMTP.
func (c *benchSMTPCmd) Run(ctx context.Context, io stdio) error {
	cfg := c.config(bench.SMTP)
	cfg.Auth = c.Auth
	return c.run(ctx, io, cfg)
}

// Run sends by LMTP.
func (c *benchLMTPCmd) Run(ctx context.Context, io stdio) error {
	return c.run(ctx, io, c.config(bench.LMTP))
}

// Run reads by POP3.
func (c *benchPOP3Cmd) Run(ctx context.Context, io stdio) error {
	cfg := c.config(bench.POP3)
	cfg.Retrieve, cfg.Delete, cfg.Discard = orNone(c.Retr), c.Delete, c.Discard
	return c.run(ctx, io, cfg)
}

// Run reads by IMAP.
func (c *benchIMAPCmd) Run(ctx context.Context, io stdio) error {
	cfg := c.config(bench.IMAP)
	cfg.Envelopes, cfg.Retrieve, cfg.Keep = orNone(c.Envelopes), orNone(c.Bodies), bench.Keep(c.Keep)
	return c.run(ctx, io, cfg)
}

// orNone turns a 0 from the command line, which means none, into the package's
// none; its 0 means the default.
func orNone(n int) int {
	if n == 0 {
		return -1
	}
	return n
}

func (c *benchFlags) run(ctx context.Context, io stdio, cfg bench.Config) error {
	if c.Procs > 0 {
		runtime.GOMAXPROCS(c.Procs)
	}
	p := &benchProgress{io: io, drawn: terminal(io.err)}
	cfg.Progress = p.show
	lines, err := c.watch(io, &cfg, p)
	if err != nil {
		return err
	}
	res, err := bench.Run(ctx, cfg)
	p.clear()
	if err := errors.Join(err, lines.close()); err != nil {
		return err
	}
	if c.JSON {
		err = io.json(res)
	} else {
		err = res.WriteTable(io.out)
	}
	if err != nil {
		return err
	}
	return res.Err()
}

// watch has cfg tell the groups of users apart and write a time line, as the flags
// say.
func (c *benchFlags) watch(io stdio, cfg *bench.Config, p *benchProgress) (*benchLines, error) {
	cfg.Only = c.Only
	if c.Groups != "" {
		f, err := os.Open(c.Groups)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		if cfg.Groups, err = bench.ReadGroups(f); err != nil {
			return nil, fmt.Errorf("%s: %w", c.Groups, err)
		}
	}
	l := &benchLines{}
	switch {
	case c.Timeline == "":
		return l, nil
	case c.Timeline != "-":
		f, err := os.Create(c.Timeline)
		if err != nil {
			return nil, err
		}
		l.file, l.w = f, f
	case !c.JSON:
		l.w = io.out
	}
	cfg.Timeline = func(m bench.Moment) {
		if l.file == nil {
			p.clear()
		}
		l.write(m)
	}
	return l, nil
}

// benchLines writes a time line as it grows. The zero value writes nothing.
type benchLines struct {
	w       io.Writer
	file    *os.File // to be closed; nil: none
	written bool
	err     error // the first
}

func (l *benchLines) write(m bench.Moment) {
	if l.w == nil || l.err != nil {
		return
	}
	if !l.written {
		l.written = true
		_, l.err = fmt.Fprint(l.w, bench.MomentsHead)
	}
	if l.err == nil {
		l.err = bench.WriteMoments(l.w, m)
	}
}

func (l *benchLines) close() error {
	if l.file == nil {
		return l.err
	}
	return errors.Join(l.err, l.file.Close())
}

// A benchProgress shows how far a run is: on a terminal in one line drawn over
// itself, elsewhere in a line every ten seconds.
type benchProgress struct {
	io    stdio
	drawn bool
}

const plainEvery = 10 * time.Second

func (p *benchProgress) show(at bench.Progress) {
	text := fmt.Sprintf("%s %s", at.Phase, at.Elapsed.Round(time.Second))
	if at.Whole > 0 {
		text += " of " + at.Whole.String()
	}
	text += fmt.Sprintf(": %d done, %d failed, %.0f/s", at.Done, at.Failed, at.Rate)
	if p.drawn {
		fmt.Fprintf(p.io.err, "\r\x1b[K%s", text)
		return
	}
	if n := int(at.Elapsed.Round(time.Second) / plainEvery); at.Elapsed.Round(time.Second)%plainEvery == 0 && n > 0 {
		fmt.Fprintln(p.io.err, text)
	}
}

// clear removes the line before the result is printed.
func (p *benchProgress) clear() {
	if p.drawn {
		fmt.Fprint(p.io.err, "\r\x1b[K")
	}
}
