package bench

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// fate is what became of a message, as far as its sender knows.
type fate uint8

const (
	fateNone         fate = iota // never sent to its end
	fateRefused                  // the server said that it does not take it
	fateUnknown                  // sent, and no reply
	fateAcknowledged             // taken
)

// An operation is one of those a run consists of.
type operation struct {
	n       int64
	user    int
	planned time.Time // its latency counts from here

	handed time.Time // when the end of a message was given to the server
	ended  time.Time // set by done; zero: when do returns
	fate   fate
	bytes  int64 // of messages sent or read
	short  bool  // the mailbox had fewer messages than were to be read
}

// done marks the end of what counts as latency.
func (o *operation) done() { o.ended = time.Now() }

// drain is how long arrivals that wait when the time is over may still take.
const drain = 10 * time.Second

// A load starts operations. run may be called once.
type load struct {
	conns    int
	rate     float64 // 0: closed loop
	duration time.Duration
	count    int64
	users    *users
	pace     func(context.Context) error // of a closed loop; nil: none
	open     func(worker int) session
	rec      *recorder

	next    atomic.Int64 // number of the next operation
	pending atomic.Int64 // open loop: arrivals waiting or being worked on
	workers sync.WaitGroup
}

// run blocks until the last operation has ended.
func (l *load) run(ctx context.Context) {
	start := ctx // ends when no more may start
	if l.duration > 0 {
		var cancel, cancelStart context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, l.duration+drain)
		defer cancel()
		start, cancelStart = context.WithTimeout(ctx, l.duration)
		defer cancelStart()
	}
	if l.rate > 0 {
		l.openLoop(ctx, start)
	} else {
		for i := range l.conns {
			l.workers.Go(func() { l.closedWorker(ctx, start, i) })
		}
	}
	l.workers.Wait()
}

func (l *load) closedWorker(ctx, start context.Context, worker int) {
	s := l.open(worker)
	defer s.close()
	var pause backoff
	for start.Err() == nil {
		if l.pace != nil && l.pace(start) != nil {
			return
		}
		n := l.next.Add(1) - 1
		if l.count > 0 && n >= l.count {
			return
		}
		pause.after(start, l.do(ctx, s, n, time.Now()))
	}
}

// do does operation n and records it.
func (l *load) do(ctx context.Context, s session, n int64, planned time.Time) error {
	op := operation{n: n, user: l.users.of(n), planned: planned}
	err := s.do(ctx, &op)
	if op.ended.IsZero() {
		op.done()
	}
	l.rec.record(&op, err)
	s.rest()
	return err
}

// A backoff keeps a worker whose connection breaks at once from filling the run
// with failures and the machine with connections.
type backoff struct{ wait time.Duration }

func (b *backoff) after(ctx context.Context, err error) {
	if !lost(err) {
		b.wait = 0
		return
	}
	b.wait = min(max(2*b.wait, 5*time.Millisecond), time.Second)
	select {
	case <-ctx.Done():
	case <-time.After(b.wait):
	}
}

// An arrival is an operation of an open loop, at its moment.
type arrival struct {
	n       int64
	planned time.Time
}

// openLoop starts an operation every 1/rate seconds. Workers are made as they are
// needed, so that an arrival waits only when all conns are at work.
func (l *load) openLoop(ctx, start context.Context) {
	queue := make(chan arrival, queueLimit)
	defer close(queue)
	workers := 0
	begin := time.Now()
	timer := time.NewTimer(0)
	defer timer.Stop()
	<-timer.C
	for n := int64(0); l.count == 0 || n < l.count; n++ {
		planned := begin.Add(time.Duration(float64(n) / l.rate * float64(time.Second)))
		if l.duration > 0 && planned.Sub(begin) >= l.duration {
			return
		}
		if wait := time.Until(planned); wait > 0 {
			timer.Reset(wait)
			select {
			case <-start.Done():
				return
			case <-timer.C:
			}
		}
		if l.pending.Add(1) > int64(workers) {
			if workers < l.conns {
				worker := workers
				l.workers.Go(func() { l.openWorker(ctx, queue, worker) })
				workers++
			} else {
				l.rec.waited()
			}
		}
		select {
		case queue <- arrival{n, planned}:
		default:
			l.pending.Add(-1)
			l.rec.overflowed()
		}
	}
}

func (l *load) openWorker(ctx context.Context, queue <-chan arrival, worker int) {
	s := l.open(worker)
	defer s.close()
	for a := range queue {
		if ctx.Err() != nil {
			l.rec.overflowed() // the run is over and this one never began
			continue
		}
		_ = l.do(ctx, s, a.n, a.planned) // recorded; the plan paces what follows
		l.pending.Add(-1)
	}
}
