package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"time"
)

// forPeers fills in what the command line left open.
func (o options) forPeers() (options, error) {
	full := options{duration: 20 * time.Second, rounds: 3, conns: 64, users: 1000, readers: 1000}
	if o.short {
		full = options{duration: time.Second, rounds: 1, conns: 16, users: 100, readers: 64}
	}
	setDefault(&o.duration, full.duration)
	setDefault(&o.rounds, full.rounds)
	setDefault(&o.conns, full.conns)
	setDefault(&o.users, full.users)
	setDefault(&o.readers, full.readers)
	if o.readers < 4*o.conns {
		return o, fmt.Errorf("%d connections need at least %d readers: a POP3 mailbox has one session at a time", o.conns, 4*o.conns)
	}
	return o, nil
}

func setDefault[T comparable](v *T, to T) {
	var zero T
	if *v == zero {
		*v = to
	}
}

// peers lays one Covey node beside the servers it is measured against: Postfix's
// smtp-sink, which throws mail away, and Dovecot, which keeps it in Maildirs. All
// get the same load in turn, round by round; it prints medians, ratios and what
// each message cost its server in CPU time and bytes written. A server that is
// missing is named, and its rows are left out.
func peers(ctx context.Context, o options, w io.Writer) (err error) {
	if o, err = o.forPeers(); err != nil {
		return err
	}
	b, err := newBuild(o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.remove()) }()
	l := &lab{options: o, row: "peers", dir: b.dir, bin: b.bin}
	defer l.end()
	accounts := append(makeAccounts("user", o.users), makeAccounts("reader", o.readers)...)
	servers, missing := l.all(ctx, accounts)
	if servers["covey"] == nil {
		return missing
	}
	fmt.Fprintf(w, "%s\n%d × %v each, %d connections, messages of 8 KiB, %d accounts\n\n",
		b.machine(), o.rounds, o.duration, o.conns, o.users)
	if missing != nil {
		fmt.Fprintf(w, "left out: %v\n", missing)
	}
	g := &board{lab: l, servers: servers, seed: uint64(time.Now().UnixNano())}
	if err := g.play(ctx); err != nil {
		return err
	}
	return g.print(w)
}

// all starts the servers that can be; the error says what is missing.
func (l *lab) all(ctx context.Context, accounts []account) (map[string]*server, error) {
	servers := make(map[string]*server)
	var missing []error
	add := func(s *server, err error) {
		if err != nil {
			missing = append(missing, err)
			return
		}
		servers[s.name] = s
	}
	add(l.smtpSink(ctx))
	add(l.dovecot(ctx, accounts))
	add(l.covey(ctx, accounts))
	return servers, errors.Join(missing...)
}

// smtpSink starts Postfix's smtp-sink.
func (l *lab) smtpSink(ctx context.Context) (*server, error) {
	return l.keep(startSMTPSink(ctx, l.prefix))
}

// dovecot starts Dovecot with the accounts.
func (l *lab) dovecot(ctx context.Context, accounts []account) (*server, error) {
	return l.keep(startDovecot(ctx, filepath.Join(l.dir, "dovecot"), accounts))
}

// keep has the server stopped at the end.
func (l *lab) keep(s *server, err error) (*server, error) {
	if err == nil {
		l.stops = append(l.stops, s.stop)
	}
	return s, err
}
