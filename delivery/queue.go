package delivery

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/storage"
)

// Pauses between two tries of one delivery: each twice as long as the one before.
const (
	firstPause = 5 * time.Second
	lastPause  = time.Minute
)

// QueueConfig is what a Queue needs. All but Metrics and Logger is required.
type QueueConfig struct {
	Delivery *Service

	// Propose proposes to a shard as its leader in a term; Unavailable, and
	// certainly not done, if this node is not that any more.
	Propose func(ctx context.Context, id covey.ShardID, term uint64, cmd storage.Command) error

	// Removed reports whether an account was there and is no more.
	Removed func(covey.AccountID) (bool, error)

	Metrics *QueueMetrics // nil: not reported
	Logger  *slog.Logger  // nil: silent
}

// A Queue works off what waits in the queues of the shards that this node leads: it
// brings each delivery to the shards of its remaining recipients, again and again
// until they take it, and marks those that did. What it does for a shard it does in
// one term of its leadership, and no mark of an earlier term is ever made.
//
// Nothing is ever given up. A Queue is safe for concurrent use.
type Queue struct {
	cfg  QueueConfig
	kick chan struct{}

	mu     sync.Mutex // guards led, and what tenures say it does; not held while a shard is asked
	led    map[covey.ShardID]*tenure
	passes sync.WaitGroup
}

// A tenure is a term in which this node leads a shard.
type tenure struct {
	shard covey.ShardID
	term  uint64
	ctx   context.Context
	end   context.CancelFunc

	busy bool                      // guarded by Queue.mu: a pass is under way
	soon bool                      // so too: the next pass tries everything
	past map[covey.DeliveryID]past // so too: of deliveries that were tried in vain
}

// past is what became of a delivery so far, in a tenure.
type past struct {
	tries int
	next  time.Time // not before
	err   error     // of the last try
}

// NewQueue returns a Queue that leads nothing yet. It does no I/O.
func NewQueue(cfg QueueConfig) *Queue {
	if cfg.Metrics == nil {
		cfg.Metrics = NewQueueMetrics()
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	cfg.Logger = cfg.Logger.With("component", "queue")
	return &Queue{cfg: cfg, kick: make(chan struct{}, 1), led: make(map[covey.ShardID]*tenure)}
}

// Lead says that this node leads a shard in a term, or with term 0 that it does not
// lead it. It does not block.
func (q *Queue) Lead(id covey.ShardID, term uint64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	old := q.led[id]
	if old != nil && old.term == term {
		return
	}
	if old != nil {
		old.end()
		delete(q.led, id)
	}
	if term > 0 {
		t := &tenure{shard: id, term: term, past: make(map[covey.DeliveryID]past)}
		t.ctx, t.end = context.WithCancel(context.Background())
		q.led[id] = t
	}
}

// Kick has everything tried again soon, because a shard may have become reachable.
// It does not block.
func (q *Queue) Kick() {
	q.mu.Lock()
	for _, t := range q.led {
		t.soon = true
	}
	q.mu.Unlock()
	select {
	case q.kick <- struct{}{}:
	default:
	}
}

// Run looks at the queues with each tick until ctx ends, and returns when nothing
// is under way any more.
func (q *Queue) Run(ctx context.Context, tick <-chan time.Time) {
	defer q.passes.Wait()
	for {
		q.look()
		select {
		case <-ctx.Done():
			q.stop()
			return
		case <-tick:
		case <-q.kick:
		}
	}
}

func (q *Queue) stop() {
	q.mu.Lock()
	defer q.mu.Unlock()
	for id, t := range q.led {
		t.end()
		delete(q.led, id)
	}
}

// look begins a pass for each shard in whose queue something waits. The shards are
// asked without the lock: they may be busy, and Lead must not wait for them.
func (q *Queue) look() {
	var waiting int
	var oldest time.Time
	for _, t := range q.tenures() {
		n, since := q.length(t.shard)
		waiting += n
		if n > 0 && (oldest.IsZero() || since.Before(oldest)) {
			oldest = since
		}
		q.begin(t, n)
	}
	q.cfg.Metrics.report(waiting, oldest, q.cfg.Delivery.cfg.Now())
}

func (q *Queue) tenures() []*tenure {
	q.mu.Lock()
	defer q.mu.Unlock()
	return slices.Collect(maps.Values(q.led))
}

// begin begins a pass if something waits and none is under way.
func (q *Queue) begin(t *tenure, waiting int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	switch {
	case waiting == 0:
		clear(t.past)
	case !t.busy && t.ctx.Err() == nil:
		t.busy = true
		q.passes.Go(func() { q.pass(t) })
	}
}

// length returns how much waits in the queue of a shard as this node has it, and
// the time of the oldest.
func (q *Queue) length(id covey.ShardID) (int, time.Time) {
	r, err := q.cfg.Delivery.cfg.Shards.Local(id)
	if err != nil {
		return 0, time.Time{}
	}
	n, since, err := r.QueueLength()
	if err != nil {
		return 0, time.Time{} // the shard has stopped, and says so itself
	}
	return n, since
}

// A Waiting is a delivery that waits in a queue.
type Waiting struct {
	storage.Queued
	Tries int       // in vain, since this node leads the shard
	Next  time.Time // no try before; zero: soon
	Err   error     // of the last try; nil: none failed yet
}

// List returns what waits in the queue of a shard that this node leads, in the order
// in which it came, at most most. Unavailable if it does not lead it.
func (q *Queue) List(id covey.ShardID, most int) ([]Waiting, error) {
	q.mu.Lock()
	t := q.led[id]
	q.mu.Unlock()
	if t == nil {
		return nil, covey.Errorf(covey.Unavailable, "shard %d is not led by this node", id)
	}
	r, err := q.cfg.Delivery.cfg.Shards.Local(id)
	if err != nil {
		return nil, err
	}
	queued, err := r.Queue(0, most)
	if err != nil {
		return nil, err
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	list := make([]Waiting, len(queued))
	for i, one := range queued {
		p := t.past[one.ID]
		list[i] = Waiting{one, p.tries, p.next, p.err}
	}
	return list, nil
}

// pause returns how long to wait after a number of tries in vain.
func pause(tries int) time.Duration {
	p := firstPause
	for ; tries > 1 && p < lastPause; tries-- {
		p *= 2
	}
	return min(p, lastPause)
}
