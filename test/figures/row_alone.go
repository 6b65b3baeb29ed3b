package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/covey-mail/covey/bench"
)

var aloneRow = row{
	name: "cluster-alone",
	what: "one replica, one of three nodes killed: deliveries to users of the other two, and what its own users get",
	run:  runAlone,
}

// An aloneTest has a cluster whose shards have one replica each.
type aloneTest struct {
	*cluster
	users  int
	shard  map[string]string
	victim int
	its    []string // shards of the victim
	others []string
}

const (
	aloneAfter = 15 * time.Second // the kill
	aloneLoad  = 45 * time.Second
	aloneRate  = 50 // messages a second to the dead node's users
	known      = 5 * time.Second
	window     = 5 // seconds over which a rate is a rate
)

func runAlone(ctx context.Context, l *lab) ([]figure, error) {
	t := &aloneTest{users: l.count(320, 96), victim: 2}
	var err error
	if t.cluster, err = l.newCluster(ctx, clusterConfig{users: t.users, replicas: 1}); err != nil {
		return nil, err
	}
	if t.shard, err = t.groups(ctx); err != nil {
		return nil, err
	}
	by, err := t.led(ctx, 0)
	if err != nil {
		return nil, err
	}
	for i, shards := range by {
		if i == t.victim {
			t.its = shards
		} else {
			t.others = append(t.others, shards...)
		}
	}
	after := l.lasting(aloneAfter, 4*time.Second)
	good, bad, err := t.killUnder(ctx, after, l.lasting(aloneLoad, 14*time.Second))
	if err != nil {
		return nil, err
	}
	later, err := t.refusals(ctx)
	if err != nil {
		return nil, err
	}
	return aloneFigures(good, bad, later, after), nil
}

// through returns a load on users of some shards through the nodes that survive.
func (t *aloneTest) through(shards []string) bench.Config {
	cfg := t.deliveries(t.users)
	cfg.Addr, cfg.Groups, cfg.Only = t.addrs("smtp", t.victim), t.shard, shards
	cfg.PerSession = 5 // a client that is refused again and again is sent away
	return cfg
}

// killUnder loads the survivors with mail for their own users, as much as they take,
// and some for those of the victim, and kills it.
func (t *aloneTest) killUnder(ctx context.Context, after, whole time.Duration) (good, bad *bench.Result, err error) {
	own, its := t.through(t.others), t.through(t.its)
	own.PerSession = 0
	own.Duration, its.Duration = whole, whole
	own.Timeline = func(bench.Moment) {}
	its.Conns, its.Rate = openConns, aloneRate
	err = together(
		func() (err error) {
			good, err = t.during(ctx, own, after, func() error { t.kill(t.victim); return nil })
			return err
		},
		func() (err error) {
			bad, err = bench.Run(ctx, its)
			return err
		},
	)
	return good, bad, err
}

// refusals has mail sent to the users of the node that is dead and known to be.
func (t *aloneTest) refusals(ctx context.Context) (*bench.Result, error) {
	if err := pause(ctx, known); err != nil {
		return nil, err
	}
	cfg := t.through(t.its)
	cfg.Conns, cfg.Rate, cfg.Duration = openConns, aloneRate, t.lasting(10*time.Second, 2*time.Second)
	return bench.Run(ctx, cfg)
}

func aloneFigures(good, bad, later *bench.Result, killed time.Duration) []figure {
	before, after := kept(good.Timeline, int(killed/time.Second))
	at451, wait := refusedAt(later)
	_, first := refusedAt(bad)
	return []figure{
		{Name: "least rate after the kill over that before", Value: after / before, Goal: 0.9, Note: fmt.Sprintf("over %d s; users of the other two, %d failed", window, good.Failed)},
		{Name: "rate before", Value: before, Unit: "/s"},
		{Name: "least rate after", Value: after, Unit: "/s"},
		{Name: "its users: share told 451 at RCPT, once known", Value: at451, Goal: 1, Note: fmt.Sprintf("of %d", later.Failed+later.Done)},
		{Name: "its users: answer after, median", Value: later.Refused.P50, Unit: "ms", Goal: 50, Most: true, Note: "the whole transaction until 451, MAIL included"},
		{Name: "its users: RCPT answered after, longest, once known", Value: wait, Unit: "ms"},
		{Name: "its users: RCPT answered after, longest, at all", Value: first, Unit: "ms", Goal: 2000, Most: true, Note: "from the transaction's planned start; " + summary(bad)},
	}
}

// kept returns the median rate of the seconds before the kill, the first one left
// out, and the least rate over any few seconds after it.
func kept(line []bench.Moment, killed int) (before, after float64) {
	var rates []float64
	for _, m := range line {
		if m.Group == "" {
			rates = append(rates, float64(m.Done))
		}
	}
	if n := len(rates); n > 0 {
		rates = rates[:n-1] // the last is not a whole one
	}
	if killed < 2 || len(rates) < killed+window {
		return 0, 0
	}
	before = middle(rates[1:killed])
	for i := killed; i+window <= len(rates); i++ {
		sum := 0.0
		for _, r := range rates[i : i+window] {
			sum += r
		}
		if rate := sum / window; i == killed || rate < after {
			after = rate
		}
	}
	return before, after
}

// refusedAt returns the share of operations that were told 451 at RCPT, and the
// longest that anybody waited for it in milliseconds.
func refusedAt(res *bench.Result) (share, longest float64) {
	var told int64
	for _, class := range res.Failures {
		if strings.HasPrefix(class.What, "RCPT: 451") {
			told += class.Count
			longest = max(longest, class.MaxMS)
		}
	}
	return float64(told) / float64(max(res.Done+res.Failed, 1)), longest
}

func summary(res *bench.Result) string {
	f := make(failures)
	f.add(res)
	return f.String()
}
