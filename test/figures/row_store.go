package main

import (
	"context"
	"fmt"
	"time"

	"github.com/covey-mail/covey/bench"
)

var storeRow = row{
	name: "store",
	what: "intake into a store of 1,000,000 messages over intake into an empty one",
	run:  runStore,
}

// Both nodes have the same accounts, run all the time and are loaded in turn. The
// empty one fills up by what the rounds bring.
func runStore(ctx context.Context, l *lab) ([]figure, error) {
	store, err := l.fill(ctx)
	if err != nil {
		return nil, err
	}
	before := store.Messages
	filled, err := l.start(store.data())
	if err != nil {
		return nil, err
	}
	empty, err := l.covey(ctx, makeAccounts("user", store.Accounts))
	if err != nil {
		return nil, err
	}
	loads := []bench.Config{l.intake(empty, store.Accounts), l.intake(filled, store.Accounts)}
	for i := range loads {
		loads[i].Duration = l.lasting(8*time.Second, time.Second)
	}
	rates, err := l.inTurn(ctx, l.roundsOf(9), loads...)
	if err != nil {
		return nil, err
	}
	for _, rate := range rates[1] {
		if err := store.add(int64(rate * loads[1].Duration.Seconds())); err != nil {
			return nil, err
		}
	}
	if err := filled.node.Stop(); err != nil {
		return nil, fmt.Errorf("stop the node: %w", err)
	}
	return []figure{
		{Name: "filled store over empty one", Value: inPairs(rates[1], rates[0]), Goal: 0.9, Note: fmt.Sprintf("median of %d pairs of %v in turn", len(rates[0]), loads[0].Duration)},
		{Name: "intake into the empty store", Value: middle(rates[0]), Unit: "/s", Note: spread(rates[0])},
		{Name: fmt.Sprintf("intake into %d messages", before), Value: middle(rates[1]), Unit: "/s", Note: spread(rates[1])},
	}, nil
}
