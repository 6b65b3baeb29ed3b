package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/emersion/go-imap/v2/imapclient"
)

var idleRow = row{
	name: "idle",
	what: "resident memory per idle, selected, TLS IMAP session, 2,000 of them",
	run:  runIdle,
}

// The runtime collects garbage every two minutes at the latest, so that memory that
// has not fallen for longer will not fall.
const (
	idleMail  = 10 // messages in each mailbox
	settled   = 130 * time.Second
	mostWait  = 10 * time.Minute
	idleOpens = 32 // sessions opened at a time
)

// An idleTest holds sessions, one in each account.
type idleTest struct {
	*lab
	node     *server
	sessions []*imapclient.Client
}

// The node is started anew once the mailboxes are filled: what it has cached while
// it took the mail must not hide what the sessions add.
func runIdle(ctx context.Context, l *lab) ([]figure, error) {
	accounts := makeAccounts("user", l.connsOf(l.count(2000, 100)))
	t := &idleTest{lab: l, sessions: make([]*imapclient.Client, len(accounts))}
	if err := t.fillAndRestart(ctx, accounts); err != nil {
		return nil, err
	}
	before, err := t.settle(ctx)
	if err != nil {
		return nil, err
	}
	defer t.closeAll()
	if err := t.each(func(i int) error { return t.open(i, accounts[i]) }); err != nil {
		return nil, err
	}
	selected, err := t.settle(ctx)
	if err != nil {
		return nil, err
	}
	if err := t.each(t.idle); err != nil {
		return nil, err
	}
	idling, err := t.settle(ctx)
	if err != nil {
		return nil, err
	}
	per := func(mib float64) float64 { return (mib - before) * 1024 / float64(len(accounts)) }
	return []figure{
		{Name: "a session, selected and silent", Value: per(selected), Unit: "KiB", Goal: 48, Most: true, Note: fmt.Sprintf("%d sessions, TLS, a mailbox of %d messages each", len(accounts), idleMail)},
		{Name: "a session in IDLE", Value: per(idling), Unit: "KiB", Goal: 48, Most: true, Note: "the same sessions"},
		{Name: "the node without them", Value: before, Unit: "MiB"},
		{Name: "the node with them, silent", Value: selected, Unit: "MiB"},
		{Name: "the node with them, in IDLE", Value: idling, Unit: "MiB"},
	}, nil
}

func (t *idleTest) fillAndRestart(ctx context.Context, accounts []account) error {
	s, err := t.covey(ctx, accounts)
	if err != nil {
		return err
	}
	cfg := t.intake(s, len(accounts))
	cfg.Conns, cfg.Count = 64, int64(len(accounts)*idleMail)
	if _, err := t.load(ctx, cfg); err != nil {
		return err
	}
	s.stop()
	t.node, err = t.start(s.dir)
	return err
}

// settle waits until the node's memory has stopped falling and returns the least
// that it was, in MiB.
func (t *idleTest) settle(ctx context.Context) (float64, error) {
	t.say("waiting until the node's memory falls no more")
	quiet := settled
	if t.short {
		quiet = time.Second
	}
	tick := time.NewTicker(quiet / 130)
	defer tick.Stop()
	least, _, err := memoryOf(t.node.pid)
	if err != nil {
		return 0, err
	}
	began := time.Now()
	for since := began; time.Since(since) < quiet && time.Since(began) < mostWait; {
		select {
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-tick.C:
		}
		now, _, err := memoryOf(t.node.pid)
		if err != nil {
			return 0, err
		}
		if now < 0.99*least {
			since = time.Now()
		}
		least = min(least, now)
	}
	return least, nil
}

// each calls do for every session, a few at a time.
func (t *idleTest) each(do func(i int) error) error {
	var running sync.WaitGroup
	errs := make([]error, idleOpens)
	for w := range idleOpens {
		running.Go(func() {
			for i := w; i < len(t.sessions) && errs[w] == nil; i += idleOpens {
				errs[w] = do(i)
			}
		})
	}
	running.Wait()
	return errors.Join(errs...)
}

func (t *idleTest) open(i int, a account) error {
	c, err := imapclient.DialTLS(t.node.addr["imaps"], &imapclient.Options{TLSConfig: &tls.Config{InsecureSkipVerify: true}})
	if err != nil {
		return err
	}
	t.sessions[i] = c
	password, _, _ := strings.Cut(a.address, "@")
	if err := c.Login(a.address, password).Wait(); err != nil {
		return fmt.Errorf("log in as %s: %w", a.address, err)
	}
	box, err := c.Select("INBOX", nil).Wait()
	if err == nil && box.NumMessages < idleMail {
		err = fmt.Errorf("it has %d messages, not %d", box.NumMessages, idleMail)
	}
	if err != nil {
		return fmt.Errorf("select the mailbox of %s: %w", a.address, err)
	}
	return nil
}

// idle has the session wait for news, and does not end that.
func (t *idleTest) idle(i int) error {
	_, err := t.sessions[i].Idle()
	return err
}

func (t *idleTest) closeAll() {
	for _, c := range t.sessions {
		if c != nil {
			_ = c.Close() // the node is stopped next
		}
	}
}
