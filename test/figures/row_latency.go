package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/covey-mail/covey/bench"
)

var latencyRow = row{
	name: "latency",
	what: "end of DATA to 250 at 500 messages/s, over the median of one 8 KiB write + fdatasync",
	run:  runLatency,
}

const (
	latencyRate  = 500 // messages a second
	latencyConns = 256 // at most; as many are made as are needed
	syncWrites   = 500 // before the load, and as many after it
)

func runLatency(ctx context.Context, l *lab) ([]figure, error) {
	users := l.count(1000, 100)
	s, err := l.covey(ctx, makeAccounts("user", users))
	if err != nil {
		return nil, err
	}
	cfg := l.intake(s, users)
	cfg.Conns, cfg.Rate = l.connsOf(latencyConns), latencyRate
	cfg.Duration = l.lasting(time.Minute, 2*time.Second)
	warm := cfg // every account has had mail
	warm.Duration, warm.Count, warm.Seed = 0, int64(users), 1
	if _, err := l.load(ctx, warm); err != nil {
		return nil, err
	}
	before, err := syncedWrites(l.dir, syncWrites)
	if err != nil {
		return nil, err
	}
	res, err := l.load(ctx, cfg)
	if err != nil {
		return nil, err
	}
	if res.Overflow > 0 {
		return nil, fmt.Errorf("%d messages were never sent: the server does not keep up with %d/s", res.Overflow, latencyRate)
	}
	after, err := syncedWrites(l.dir, syncWrites)
	if err != nil {
		return nil, err
	}
	return latencyFigures(res, before, after), nil
}

func latencyFigures(res *bench.Result, before, after []float64) []figure {
	once := middle(slices.Concat(before, after))
	return []figure{
		{Name: "p50 over one write", Value: res.Accept.P50 / once, Goal: 5, Most: true, Note: fmt.Sprintf("%d messages in %.0f s", res.Done, res.Seconds)},
		{Name: "p99 over one write", Value: res.Accept.P99 / once, Goal: 20, Most: true},
		{Name: "8 KiB write + fdatasync, median", Value: once, Unit: "ms", Note: fmt.Sprintf("before %s, after %s", number(middle(before)), number(middle(after)))},
		{Name: "end of DATA to 250, p50", Value: res.Accept.P50, Unit: "ms"},
		{Name: "end of DATA to 250, p99", Value: res.Accept.P99, Unit: "ms"},
		{Name: "end of DATA to 250, p99.9", Value: res.Accept.P999, Unit: "ms"},
		{Name: "whole message from its planned start, p99", Value: res.Latency.P99, Unit: "ms", Note: "three round trips more"},
	}
}
