package directory

import (
	"context"
	"sync/atomic"
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

	at atomic.Pointer[time.Time] // this copy held everything committed before it; nil: never confirmed
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
	s.fresh.at.Store(&asked)
	return nil
}

func (s *Service) isFresh() bool {
	at := s.fresh.at.Load()
	if at == nil {
		return false
	}
	age := s.now().Sub(*at)
	return age >= 0 && age < confirmFor
}
