package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/covey-mail/covey/bench"
	"github.com/covey-mail/covey/node/admin"
)

var neighbourRow = row{
	name: "neighbour",
	what: "a quiet user's p99 for a delivery and a FETCH beside a sender with 64 connections, over theirs on an idle node",
	run:  runNeighbour,
}

// A neighbourTest has a sender that fills one mailbox as fast as it can, and quiet
// users: each gets a message every 100 ms and reads one as often.
type neighbourTest struct {
	*lab
	node   *server
	sender string // the mailbox that it fills
	lasts  time.Duration
}

// quiet is what a quiet user sees: the 99th percentiles in milliseconds.
type quiet struct{ delivery, fetch []float64 }

const (
	quietRate = 10  // deliveries and FETCHes a second, each
	quietMail = 100 // messages in the mailbox before
)

func runNeighbour(ctx context.Context, l *lab) ([]figure, error) {
	t := &neighbourTest{lab: l, lasts: l.lasting(30*time.Second, time.Second)}
	var err error
	if t.node, err = l.covey(ctx, makeAccounts("user", 100)); err != nil {
		return nil, err
	}
	near, far, err := t.choose(ctx)
	if err != nil {
		return nil, err
	}
	for _, user := range []string{near, far} {
		cfg := l.intake(t.node, 1)
		cfg.UserPattern, cfg.Count, cfg.Conns = user, quietMail, 1
		if _, err := l.load(ctx, cfg); err != nil {
			return nil, err
		}
	}
	var idle, sameShard, otherShard quiet
	var sent []float64
	for range l.roundsOf(3) {
		if err := t.look(ctx, near, &idle); err != nil {
			return nil, err
		}
		for user, q := range map[string]*quiet{near: &sameShard, far: &otherShard} {
			rate, err := t.beside(ctx, user, q)
			if err != nil {
				return nil, err
			}
			sent = append(sent, rate)
		}
	}
	return neighbourFigures(idle, sameShard, otherShard, sent), nil
}

func neighbourFigures(idle, same, other quiet, sent []float64) []figure {
	ratio := func(busy, idle []float64) float64 { return middle(busy) / middle(idle) }
	return []figure{
		{Name: "delivery, p99 over idle", Value: ratio(same.delivery, idle.delivery), Goal: 10, Most: true, Note: "sender in the same shard"},
		{Name: "FETCH, p99 over idle", Value: ratio(same.fetch, idle.fetch), Goal: 10, Most: true, Note: "sender in the same shard"},
		{Name: "delivery, p99 over idle, other shard", Value: ratio(other.delivery, idle.delivery)},
		{Name: "FETCH, p99 over idle, other shard", Value: ratio(other.fetch, idle.fetch)},
		{Name: "delivery, p99, idle", Value: middle(idle.delivery), Unit: "ms", Note: spread(idle.delivery)},
		{Name: "delivery, p99, beside the sender", Value: middle(same.delivery), Unit: "ms", Note: spread(same.delivery)},
		{Name: "FETCH, p99, idle", Value: middle(idle.fetch), Unit: "ms", Note: spread(idle.fetch)},
		{Name: "FETCH, p99, beside the sender", Value: middle(same.fetch), Unit: "ms", Note: spread(same.fetch)},
		{Name: "the sender's rate", Value: middle(sent), Unit: "/s"},
	}
}

// choose finds the sender's mailbox, a quiet user of the same shard and one of
// another.
func (t *neighbourTest) choose(ctx context.Context) (near, far string, err error) {
	text, err := t.node.node.Covey(ctx, "", "user", "list", "--json")
	if err != nil {
		return "", "", err
	}
	var users []admin.User
	if err := json.Unmarshal([]byte(text), &users); err != nil {
		return "", "", fmt.Errorf("list of users: %w", err)
	}
	t.sender, near, far = pick(users)
	if near == "" || far == "" {
		return "", "", fmt.Errorf("%d accounts are all in one shard, or each in its own", len(users))
	}
	return near, far, nil
}

// pick returns the first user, another of the same shard, and one of another
// shard; empty if there is none.
func pick(users []admin.User) (first, near, far string) {
	for i, u := range users {
		switch {
		case i == 0:
			first = u.Address
		case u.Shard == users[0].Shard && near == "":
			near = u.Address
		case u.Shard != users[0].Shard && far == "":
			far = u.Address
		}
	}
	return first, near, far
}

// look has the quiet user get and read mail, and notes how long that took.
func (t *neighbourTest) look(ctx context.Context, user string, q *quiet) error {
	deliver := t.intake(t.node, 1)
	deliver.UserPattern, deliver.Seed = user, uint64(time.Now().UnixNano())
	deliver.Conns, deliver.Rate, deliver.Duration = 1, quietRate, t.lasts
	read := bench.Config{
		Protocol: bench.IMAP, Addr: t.node.addr["imap"], Conns: 1, Rate: quietRate, Duration: t.lasts,
		UserPattern: user, Keep: bench.KeepMailbox, Envelopes: -1, Retrieve: 1,
	}
	return together(
		func() error { return t.note(ctx, deliver, &q.delivery) },
		func() error { return t.note(ctx, read, &q.fetch) },
	)
}

// note runs a load and adds its 99th percentile to p99.
func (t *neighbourTest) note(ctx context.Context, cfg bench.Config, p99 *[]float64) error {
	res, err := t.load(ctx, cfg)
	if err == nil {
		*p99 = append(*p99, res.Latency.P99)
	}
	return err
}

// beside is look while the sender sends, which begins before and ends after it.
// It returns the sender's rate.
func (t *neighbourTest) beside(ctx context.Context, user string, q *quiet) (rate float64, err error) {
	const margin = time.Second
	cfg := t.intake(t.node, 1)
	cfg.UserPattern, cfg.Seed, cfg.Duration = t.sender, uint64(time.Now().UnixNano()), t.lasts+2*margin
	err = together(
		func() error {
			res, err := t.load(ctx, cfg)
			if err == nil {
				rate = res.Rate
			}
			return err
		},
		func() error {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(margin):
			}
			return t.look(ctx, user, q)
		},
	)
	return rate, err
}

// together runs functions side by side and waits for all of them.
func together(list ...func() error) error {
	errs := make([]error, len(list))
	var running sync.WaitGroup
	for i, f := range list {
		running.Go(func() { errs[i] = f() })
	}
	running.Wait()
	return errors.Join(errs...)
}
