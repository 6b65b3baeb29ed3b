package smtpd

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

func TestLazyContext(t *testing.T) {
	tests := []struct {
		name   string
		waits  bool // before the context ends
		cut    bool // the context around it ends first
		want   error
		within time.Duration
	}{
		{"runs out, nobody waits", false, false, context.DeadlineExceeded, time.Second},
		{"runs out", true, false, context.DeadlineExceeded, time.Second},
		{"cut, nobody waits", false, true, context.Canceled, 0},
		{"cut", true, true, context.Canceled, 0},
	}
	for _, x := range tests {
		t.Run(x.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				around, cancel := context.WithCancel(t.Context())
				defer cancel()
				p := newLazyContext(around, time.Second)
				defer p.end()
				if x.waits {
					p.Done()
				}
				if err := p.Err(); err != nil {
					t.Fatalf("at the start: %v", err)
				}
				if by, ok := p.Deadline(); !ok || time.Until(by) != time.Second {
					t.Errorf("deadline %v, %v", by, ok)
				}
				if x.cut {
					cancel()
				} else {
					<-time.After(time.Second)
				}
				synctest.Wait()
				start := time.Now()
				if err := p.Err(); !errors.Is(err, x.want) {
					t.Errorf("error %v, want %v", err, x.want)
				}
				<-p.Done()
				if err := p.Err(); !errors.Is(err, x.want) || time.Since(start) > 0 {
					t.Errorf("after %v: error %v, want %v at once", time.Since(start), err, x.want)
				}
			})
		})
	}
}

// TestLazyContextStartsNoTimer counts what the usual look-up costs.
func TestLazyContextStartsNoTimer(t *testing.T) {
	ctx := t.Context()
	allocs := testing.AllocsPerRun(100, func() {
		p := newLazyContext(ctx, time.Minute)
		if p.Err() != nil {
			t.Error("ended at once")
		}
		p.end()
	})
	if allocs > 1 {
		t.Errorf("%v allocations, want the context alone", allocs)
	}
}
