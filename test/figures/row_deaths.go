package main

import (
	"context"
	"fmt"
	"time"

	"github.com/covey-mail/covey/bench"
)

var deathsRow = row{
	name: "cluster-deaths",
	what: "false deaths in ten minutes of full load on three nodes",
	run:  runDeaths,
}

// A load in a closed loop through all nodes takes all of the machine. Every change
// that gossip sees is counted by each node.
func runDeaths(ctx context.Context, l *lab) ([]figure, error) {
	users := l.count(1000, 96)
	c, err := l.newCluster(ctx, clusterConfig{users: users})
	if err != nil {
		return nil, err
	}
	before, err := c.stateChanges(ctx)
	if err != nil {
		return nil, err
	}
	cfg := c.deliveries(users)
	cfg.Duration = l.lasting(10*time.Minute, 5*time.Second)
	cfg.Timeline = func(bench.Moment) {}
	res, err := l.load(ctx, cfg)
	if err != nil {
		return nil, err
	}
	after, err := c.stateChanges(ctx)
	if err != nil {
		return nil, err
	}
	dead, suspect := after["dead"]-before["dead"], after["suspect"]-before["suspect"]
	quiet := 0.0
	if dead == 0 {
		quiet = 1
	}
	return []figure{
		{Name: "load without a false death", Value: quiet * res.Seconds / 60, Unit: "min", Goal: 10, Note: fmt.Sprintf("0 if there was one; %.0f messages/s, %d failed", res.Rate, res.Failed)},
		{Name: "false deaths", Value: dead, Note: "as seen by all nodes together"},
		{Name: "suspicions", Value: suspect, Note: "that were refuted, unless it is counted above"},
		{Name: "longest time without a delivery", Value: res.Gap.Seconds, Unit: "s"},
	}, nil
}

// stateChanges adds up what every node has seen others become.
func (c *cluster) stateChanges(ctx context.Context) (map[string]float64, error) {
	sum := make(map[string]float64)
	for _, m := range c.nodes {
		metrics, err := scrape(ctx, m.at("metrics"))
		if err != nil {
			return nil, err
		}
		for _, state := range []string{"dead", "suspect"} {
			sum[state] += metrics[fmt.Sprintf("covey_gossip_state_changes_total{state=%q}", state)]
		}
	}
	return sum, nil
}
