package main

import (
	"context"
	"fmt"
	"time"

	"github.com/covey-mail/covey/bench"
)

var accountsRow = row{
	name: "accounts",
	what: "intake with 1,000,000 accounts over intake with 1,000",
	run:  runAccounts,
}

// Both nodes run all the time and are loaded in turn. The messages go to accounts
// over the whole range, so that with many nearly each of them is the first of its
// mailbox.
func runAccounts(ctx context.Context, l *lab) ([]figure, error) {
	many, few := l.count(1_000_000, 2000), l.count(1000, 100)
	var loads []bench.Config
	var importing, resident float64
	for _, n := range []int{few, many} {
		s, err := l.covey(ctx, nil)
		if err != nil {
			return nil, err
		}
		l.say("importing %d accounts", n)
		began := time.Now()
		if _, err := s.node.Covey(ctx, userLines(makeAccounts("user", n)), "user", "import", "-"); err != nil {
			return nil, err
		}
		importing = time.Since(began).Seconds()
		if resident, _, err = memoryOf(s.pid); err != nil {
			return nil, err
		}
		cfg := l.intake(s, n)
		cfg.Duration = l.lasting(10*time.Second, time.Second)
		loads = append(loads, cfg)
	}
	rates, err := l.inTurn(ctx, l.roundsOf(9), loads...)
	if err != nil {
		return nil, err
	}
	return []figure{
		{Name: "many accounts over few", Value: inPairs(rates[1], rates[0]), Goal: 0.8, Note: fmt.Sprintf("median of %d pairs of %v in turn", len(rates[0]), loads[0].Duration)},
		{Name: fmt.Sprintf("intake with %d accounts", few), Value: middle(rates[0]), Unit: "/s", Note: spread(rates[0])},
		{Name: fmt.Sprintf("intake with %d accounts", many), Value: middle(rates[1]), Unit: "/s", Note: spread(rates[1])},
		{Name: fmt.Sprintf("import of %d accounts", many), Value: importing, Unit: "s"},
		{Name: "resident after it", Value: resident, Unit: "MiB"},
	}, nil
}

// spread says what the values were.
func spread(values []float64) string {
	s := ""
	for i, v := range values {
		if i > 0 {
			s += ", "
		}
		s += number(v)
	}
	return s
}
