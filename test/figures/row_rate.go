package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/covey-mail/covey/bench"
)

var rateRow = row{
	name: "cluster-rate",
	what: "three nodes with three replicas over one node, and 16 shards over one, all on this machine",
	run:  runRate,
}

// All nodes run all the time, those of one contestant are loaded at a time: a node
// that has nothing to do ticks, and takes next to nothing.
func runRate(ctx context.Context, l *lab) ([]figure, error) {
	users := l.count(1000, 100)
	contestants := []clusterConfig{{nodes: 1, shards: 16}, {nodes: 3, shards: 16}, {nodes: 3, shards: 1}}
	loads := make([]bench.Config, len(contestants))
	for i, cfg := range contestants {
		cfg.users = users
		c, err := l.newCluster(ctx, cfg)
		if err != nil {
			return nil, err
		}
		loads[i] = c.deliveries(users)
		loads[i].Duration = l.lasting(15*time.Second, time.Second)
	}
	rates, err := l.inTurn(ctx, l.roundsOf(5), loads...)
	if err != nil {
		return nil, err
	}
	one, three, single := rates[0], rates[1], rates[2]
	note := fmt.Sprintf("median of %d rounds of %v in turn", len(rates[0]), loads[0].Duration)
	return []figure{
		{Name: "three nodes over one", Value: inPairs(three, one), Goal: 0.33, Note: note},
		{Name: "16 shards over one, three nodes", Value: inPairs(three, single), Goal: 0.7, Note: note},
		{Name: "one node", Value: middle(one), Unit: "/s", Note: spread(one)},
		{Name: "three nodes", Value: middle(three), Unit: "/s", Note: spread(three)},
		{Name: "three nodes, one shard", Value: middle(single), Unit: "/s", Note: spread(single)},
	}, nil
}

var remoteRow = row{
	name: "cluster-remote",
	what: "a delivery to another node over one to the node that took it, three nodes with one replica, light load",
	run:  runRemote,
}

// lightRate is in messages a second: each finds the nodes idle. There are
// connections enough that none waits for another.
const (
	lightRate  = 20
	lightConns = 16
)

// Both loads go through the same node, to users of its own shards and to those of
// others, in turn.
func runRemote(ctx context.Context, l *lab) ([]figure, error) {
	users := l.count(320, 96)
	c, err := l.newCluster(ctx, clusterConfig{users: users, replicas: 1})
	if err != nil {
		return nil, err
	}
	shard, err := c.groups(ctx)
	if err != nil {
		return nil, err
	}
	by, err := c.led(ctx, 0)
	if err != nil {
		return nil, err
	}
	cfg := c.deliveries(users)
	cfg.Addr, cfg.Groups, cfg.Conns, cfg.Rate = c.nodes[0].at("smtp"), shard, lightConns, lightRate
	cfg.Duration = l.lasting(10*time.Second, time.Second)
	local, remote := cfg, cfg
	local.Only, remote.Only = by[0], slices.Concat(by[1], by[2])
	var accept, message [2][]float64
	for range l.roundsOf(6) {
		for i, cfg := range []bench.Config{local, remote} {
			cfg.Seed = uint64(time.Now().UnixNano())
			res, err := l.load(ctx, cfg)
			if err != nil {
				return nil, err
			}
			accept[i], message[i] = append(accept[i], res.Accept.P50), append(message[i], res.Latency.P50)
		}
	}
	return []figure{
		{Name: "remote over local, end of DATA to 250", Value: middle(accept[1]) / middle(accept[0]), Goal: 1.5, Most: true, Note: fmt.Sprintf("medians of %d × %v in turn, %d/s", len(accept[0]), cfg.Duration, lightRate)},
		{Name: "remote over local, whole message", Value: middle(message[1]) / middle(message[0]), Note: fmt.Sprintf("%s ms and %s ms; MAIL and RCPT are answered by the node that takes it", number(middle(message[1])), number(middle(message[0])))},
		{Name: "local, end of DATA to 250, p50", Value: middle(accept[0]), Unit: "ms", Note: spread(accept[0])},
		{Name: "remote, end of DATA to 250, p50", Value: middle(accept[1]), Unit: "ms", Note: spread(accept[1])},
	}, nil
}
