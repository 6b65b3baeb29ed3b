package smtpd

import (
	"context"
	"sync"
	"time"
)

// A lazyContext is a context with a time limit that sets up its timer only when
// somebody waits, which for nearly all recipients nobody does: their look-up is done
// in less time than a timer takes to make.
type lazyContext struct {
	context.Context
	by time.Time

	mu     sync.Mutex      // guards what follows
	timed  context.Context // nil until somebody waits
	cancel context.CancelFunc
}

// newLazyContext returns a context that ends with ctx or after d. Its end is called
// when it is not used any more.
func newLazyContext(ctx context.Context, d time.Duration) *lazyContext {
	return &lazyContext{Context: ctx, by: time.Now().Add(d)}
}

// Deadline implements context.Context. A deadline of the context around it does not
// show before somebody waits.
func (p *lazyContext) Deadline() (time.Time, bool) { return p.by, true }

// Done implements context.Context.
func (p *lazyContext) Done() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.timed == nil {
		p.timed, p.cancel = context.WithDeadline(p.Context, p.by)
	}
	return p.timed.Done()
}

// Err implements context.Context.
func (p *lazyContext) Err() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.timed != nil:
		return p.timed.Err()
	case !time.Now().Before(p.by):
		return context.DeadlineExceeded
	}
	return p.Context.Err()
}

func (p *lazyContext) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cancel != nil {
		p.cancel()
	}
}
