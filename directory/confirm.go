package directory

import (
	"context"
	"sync"
	"time"

	"github.com/covey-mail/covey"
)

const (
	// confirmFor is how long one confirmation serves everybody.
	confirmFor = 5 * time.Second
	// confirmWait bounds a wait for it: no recipient and no log-in waits longer.
	confirmWait = 2 * time.Second
)

// freshness remembers when this copy was last known to have everything that was
// committed.
type freshness struct {
	slot chan struct{} // held by whoever asks group 0; everybody else waits for the answer

	mu sync.Mutex // guards at
	at time.Time  // this copy held everything committed before it; zero: never confirmed
}

func (f *freshness) load() time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.at
}

func (f *freshness) store(t time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.at = t
}

// Confirm returns nil if group 0 has confirmed within the last five seconds that
// this copy is up to date, so that a negative answer from it is true. If need be it
// asks, at most for two seconds; callers at the same time share one question.
// Otherwise it is Unavailable.
func (s *Service) Confirm(ctx context.Context) error {
	if s.isFresh() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, confirmWait)
	defer cancel()
	select {
	case s.fresh.slot <- struct{}{}:
		defer func() { <-s.fresh.slot }()
	case <-ctx.Done():
		return covey.Errorf(covey.Unavailable, "confirm the directory: %w", ctx.Err())
	}
	if s.isFresh() {
		return nil
	}
	asked := s.now()
	if err := s.proposer.ReadIndex(ctx, covey.DirectoryShard); err != nil {
		s.metrics.unconfirmed.Inc()
		return covey.Errorf(covey.Unavailable, "confirm the directory: %w", err)
	}
	s.fresh.store(asked)
	return nil
}

func (s *Service) isFresh() bool {
	age := s.now().Sub(s.fresh.load())
	return age >= 0 && age < confirmFor
}
