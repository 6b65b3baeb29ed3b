package main

import (
	"context"
	"fmt"
	"time"

	"github.com/covey-mail/covey/bench"
)

var mailboxRow = row{
	name: "mailbox",
	what: "SELECT and FETCH of the newest 20 envelopes with 100,000 messages, time over the same with 1,000",
	run:  runMailbox,
}

// A mailboxTest has two mailboxes on one node.
type mailboxTest struct {
	*lab
	node *server
	size [2]int // messages of user00000 and user00001: the large mailbox, and the small
}

func runMailbox(ctx context.Context, l *lab) ([]figure, error) {
	t := &mailboxTest{lab: l, size: [2]int{l.count(100_000, 500), l.count(1000, 50)}}
	var err error
	if t.node, err = l.covey(ctx, makeAccounts("user", len(t.size))); err != nil {
		return nil, err
	}
	for user, n := range t.size {
		cfg := l.intake(t.node, 1)
		cfg.UserPattern, cfg.Count = t.user(user), int64(n)
		if _, err := l.load(ctx, cfg); err != nil {
			return nil, err
		}
	}
	again, err := t.again(ctx)
	if err != nil {
		return nil, err
	}
	arrived, err := t.afterArrivals(ctx)
	if err != nil {
		return nil, err
	}
	first, err := t.afterStarts(ctx)
	if err != nil {
		return nil, err
	}
	return t.figures(again, arrived, first), nil
}

func (t *mailboxTest) user(i int) string { return fmt.Sprintf("user%05d@%s", i, domain) }

// figures have medians of the times in milliseconds, by mailbox.
func (t *mailboxTest) figures(again, arrived, first [2][]float64) []figure {
	list := []figure{{Name: "large mailbox over small", Value: middle(again[0]) / middle(again[1]), Goal: 1.5, Most: true,
		Note: "medians; one connection, log-in not counted"}}
	for _, part := range []struct {
		times [2][]float64
		note  string
	}{
		{again, ""},
		{arrived, ", after a new message"},
		{first, ", for the first time after a start"},
	} {
		for user, n := range t.size {
			list = append(list, figure{Name: fmt.Sprintf("%d messages%s", n, part.note), Value: middle(part.times[user]), Unit: "ms"})
		}
	}
	return list
}

// look selects the mailbox of a user and fetches its newest envelopes, n times on
// one connection, and returns the median.
func (t *mailboxTest) look(ctx context.Context, user int, n int64) (float64, error) {
	res, err := t.load(ctx, bench.Config{
		Protocol: bench.IMAP, Addr: t.node.addr["imap"], Conns: 1, Count: n, Keep: bench.KeepLogin,
		UserPattern: t.user(user), Envelopes: 20, Retrieve: -1,
	})
	if err != nil {
		return 0, err
	}
	return res.Latency.P50, nil
}

// again looks at both mailboxes in turn.
func (t *mailboxTest) again(ctx context.Context) (times [2][]float64, err error) {
	for range t.roundsOf(20) {
		for user := range t.size {
			ms, err := t.look(ctx, user, 25)
			if err != nil {
				return times, err
			}
			times[user] = append(times[user], ms)
		}
	}
	return times, nil
}

// afterArrivals looks each time a message has come.
func (t *mailboxTest) afterArrivals(ctx context.Context) (times [2][]float64, err error) {
	for range t.roundsOf(20) {
		for user := range t.size {
			cfg := t.intake(t.node, 1)
			cfg.UserPattern, cfg.Count, cfg.Seed = t.user(user), 1, uint64(time.Now().UnixNano())
			if _, err := t.load(ctx, cfg); err != nil {
				return times, err
			}
			ms, err := t.look(ctx, user, 1)
			if err != nil {
				return times, err
			}
			times[user] = append(times[user], ms)
		}
	}
	return times, nil
}

// afterStarts looks each time the node has started.
func (t *mailboxTest) afterStarts(ctx context.Context) (times [2][]float64, err error) {
	for range t.roundsOf(3) {
		if err := t.node.node.Stop(); err != nil {
			return times, fmt.Errorf("stop the node: %w", err)
		}
		if t.node, err = t.start(t.node.dir); err != nil {
			return times, err
		}
		for user := range t.size {
			ms, err := t.look(ctx, user, 1)
			if err != nil {
				return times, err
			}
			times[user] = append(times[user], ms)
		}
	}
	return times, nil
}
