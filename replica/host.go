package replica

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/covey-mail/covey"
)

// A Host runs the groups of one node. Its methods may be called from several
// goroutines.
type Host struct {
	cfg     Config
	metrics *Metrics
	nonce   atomic.Uint64 // last one given out
	frames  sync.Pool     // of *[]byte: data of entries on their way to the core

	adding sync.Mutex   // held by Add; before mu
	mu     sync.RWMutex // guards the following
	groups map[covey.ShardID]*group
	order  []*group // the same, in the order of Add

	events   *queue[event] // what the loop is told
	now      atomic.Uint64 // ticks so far
	offers   offers
	inbound  atomic.Int64  // bytes of peers' messages in events
	full     atomic.Bool   // the log has no room; set by the writer
	stopping atomic.Bool   // Run winds down
	started  atomic.Bool   // Run was called
	stopped  chan struct{} // closed when the loop has ended
}

// An event is something that the loop is told from outside. handle runs on the
// loop's goroutine; drop is called instead if the loop has ended, and tells
// whoever waits.
type event interface {
	handle(*loop)
	drop(*loop)
}

// New makes a Host without groups. It does no I/O.
func New(cfg Config) (*Host, error) {
	if err := cfg.fill(); err != nil {
		return nil, err
	}
	h := &Host{cfg: cfg, metrics: cfg.Metrics, groups: map[covey.ShardID]*group{}, events: newQueue[event](), stopped: make(chan struct{})}
	h.offers.byID = map[uint64]*offer{}
	h.frames.New = func() any { return new([]byte) }
	// Nonces of an earlier run are still in the log and will be seen again at
	// start; a random origin keeps them apart without a counter on disk.
	var origin [8]byte
	rand.Read(origin[:])
	h.nonce.Store(binary.LittleEndian.Uint64(origin[:]))
	return h, nil
}

// Run drives the groups until ctx ends or the log fails, and returns nil in the
// first case and the reason in the second. When ctx ends, it takes no more
// proposals, gives those under way the time of two elections, and hands the
// groups it leads to others. When it returns, all that it started has ended, and
// every state machine is closed, after a checkpoint if the log is sound.
//
// Run is called once.
func (h *Host) Run(ctx context.Context) error {
	if !h.started.CompareAndSwap(false, true) {
		return covey.Errorf(covey.Invalid, "replica: Run was called before")
	}
	l := newLoop(h)
	fetching, endFetches := context.WithCancel(context.Background())
	l.fetchCtx = fetching
	end := make(chan struct{})
	var writer sync.WaitGroup
	writer.Go(func() { l.writeAll(end) })

	err := l.run(ctx)

	h.stopping.Store(true)
	h.events.close()
	close(h.stopped)
	close(end)
	close(l.jobs)
	writer.Wait()
	endFetches()
	l.dropEvents()
	l.fetchers.Wait()
	for _, g := range l.groups {
		g.work.close()
	}
	l.appliers.Wait()
	// Only now: what the appliers still finished was answered with its result.
	for _, g := range l.groups {
		g.abandon()
	}
	return errors.Join(err, l.closeMachines(err == nil))
}

// dropEvents tells whoever waits for the loop, after its end, that it is over.
func (l *loop) dropEvents() {
	for _, g := range l.groups {
		for _, o := range g.offers {
			l.h.offers.set(o.id, nil)
		}
		g.settleCopy()
		g.failReads(g.refuse(refusedStopping, "stopping"))
		g.endChange(covey.Errorf(covey.Unknown, "shard %d: stopped before the change of members was done", g.id))
	}
	events, _ := l.h.events.take(nil)
	for _, e := range events {
		e.drop(l)
	}
}

// closeMachines closes the state machines one after the other, with a checkpoint
// before if the log is sound.
func (l *loop) closeMachines(sound bool) error {
	var errs []error
	for _, g := range l.groups {
		if g.removal != nil {
			g.removal.done <- g.leftBehind()
		}
		if g.closed {
			continue
		}
		if sound && g.fault() == nil {
			if err := g.checkpoint(); err != nil {
				errs = append(errs, err)
			}
		}
		if err := g.closeMachine(); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// group returns the group, NotFound if it is not on this node.
func (h *Host) group(id covey.ShardID) (*group, error) {
	h.mu.RLock()
	g := h.groups[id]
	h.mu.RUnlock()
	if g != nil {
		return g, nil
	}
	return nil, covey.Errorf(covey.NotFound, "shard %d is not on this node", id)
}

// refused counts a refusal.
func (h *Host) refused(reason string) { h.metrics.refusals.WithLabelValues(reason).Inc() }

// Checkpoint makes the group's state durable now and tells the log so. It waits
// for what is queued before it, not for ctx's end to stop it: a checkpoint that
// has begun goes on when ctx ends. Unavailable if the host stops.
func (h *Host) Checkpoint(ctx context.Context, id covey.ShardID) error {
	g, err := h.group(id)
	if err != nil {
		return err
	}
	done := make(chan error, 1)
	if !g.work.put(work{checkpoint: func(err error) { done <- err }}) {
		return covey.Errorf(covey.Unavailable, "checkpoint shard %d: stopping", id)
	}
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return covey.Errorf(covey.Unknown, "checkpoint shard %d: %w", id, ctx.Err())
	}
}

// asFault turns what recover returned into an error.
func asFault(id covey.ShardID, doing string, v any) error {
	if err, ok := v.(error); ok {
		return fmt.Errorf("shard %d: %s: %w", id, doing, err)
	}
	return fmt.Errorf("shard %d: %s: %v", id, doing, v)
}
