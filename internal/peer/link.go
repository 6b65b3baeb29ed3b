package peer

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/covey-mail/covey"
)

type callState uint8

const (
	callQueued  callState = iota
	callWritten           // perhaps in part
	callFinished
)

// A call is one that we made.
type call struct {
	done chan struct{} // closed when finished

	// The mutex of the call's link guards what follows; once done is closed
	// nobody changes it.
	state callState
	reply []byte
	err   error
}

func (c *call) finish(reply []byte, err error) {
	c.state, c.reply, c.err = callFinished, reply, err
	close(c.done)
}

// A link is a connection that we dial, or have dialled, for what we send to a
// peer and the answers to it. It exists from the moment that somebody needs one,
// so that frames can wait for it, until it breaks; then another takes its place.
type link struct {
	n      *Net
	p      *peer
	class  class
	cancel context.CancelFunc // of ctx
	ctx    context.Context    // ends with the link
	once   sync.Once          // end
	sender                    // its err may be set a moment before the link ends

	// settled is closed when the link is up, or calls do not wait for it any more.
	settled chan struct{}

	// sender.mu guards what follows.
	isSettled bool
	c         *conn            // not nil: up
	refusal   error            // not nil: not up, and calls do not wait for it
	pending   map[uint64]*call // made and not finished, by number
	number    uint64           // of the last call
	retireBy  time.Time        // not zero: there is a successor
	upSince   time.Time
}

func newLink(p *peer, c class) *link {
	l := &link{n: p.n, p: p, class: c, pending: map[uint64]*call{}, settled: make(chan struct{})}
	l.sender.init(p.n.cfg.QueueBytes)
	l.ctx, l.cancel = context.WithCancel(p.n.ctx)
	return l
}

// post queues a frame that has no answer.
func (l *link) post(o outgoing) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.refusal != nil {
		return l.refusal
	}
	return l.putLocked(o)
}

// begin queues a call and returns its number.
func (l *link) begin(c *call, o outgoing) (uint64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.refusal != nil:
		return 0, l.refusal
	case len(l.pending) >= maxPending:
		return 0, errQueueFull
	}
	l.number++
	o.id, o.call = l.number, c
	if err := l.putLocked(o); err != nil {
		return 0, err
	}
	l.pending[o.id] = c
	return o.id, nil
}

// abandon finishes a call whose context ended, unless it is finished.
func (l *link) abandon(id uint64, c *call, cause error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch c.state {
	case callQueued:
		c.finish(nil, covey.Errorf(covey.Unavailable, "call of node %s: not sent yet: %w", l.p.id, cause))
	case callWritten:
		c.finish(nil, covey.Errorf(covey.Unknown, "call of node %s: no answer yet: %w", l.p.id, cause))
	case callFinished:
		return
	}
	l.forgetLocked(id)
}

func (l *link) forgetLocked(id uint64) {
	delete(l.pending, id)
	l.endIfDoneLocked()
}

// endIfDoneLocked ends a link that has a successor and waits for no answer.
func (l *link) endIfDoneLocked() {
	if !l.retireBy.IsZero() && len(l.pending) == 0 {
		l.finishLocked()
	}
}

// finish finishes the call with that number, if it still waits.
func (l *link) finish(id uint64, reply []byte, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if c := l.pending[id]; c != nil {
		c.finish(reply, err)
		l.forgetLocked(id)
	}
}

// await waits until the link is up, or says why one should not wait for it.
func (l *link) await(ctx context.Context) error {
	select {
	case <-l.settled:
	case <-ctx.Done():
		return ctx.Err()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.refusal != nil {
		return l.refusal
	}
	return l.err
}

// retire has the link end when its calls are done. The caller has seen to it that
// no more come.
func (l *link) retire() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.retireBy.IsZero() {
		l.retireBy = time.Now().Add(retireTime)
		l.endIfDoneLocked()
	}
}

// run makes the connection, works on it until it breaks, and leaves nothing.
func (l *link) run() {
	l.end(l.live())
	if n := l.drop(); n > 0 {
		l.n.dropped[droppedBroken].Add(float64(n))
	}
}

func (l *link) live() error {
	c, err := l.connect()
	if err != nil {
		return err
	}
	defer l.n.release(c)
	if err := l.up(c); err != nil {
		return err
	}
	gauge := l.n.cfg.Metrics.links.WithLabelValues(l.class.String(), "us")
	gauge.Inc()
	defer gauge.Dec()
	var reading sync.WaitGroup
	reading.Go(func() { l.end(c.cause(l.read(c))) })
	err = c.cause(l.write(c, l.n.cfg.Silence/beats, l.ticked))
	l.end(err)
	reading.Wait()
	return err
}

// connect makes the connection. While it takes its time with a peer that could
// not be reached before either, callers do not wait for it.
func (l *link) connect() (*conn, error) {
	if l.p.failing() {
		var waiting sync.WaitGroup
		defer waiting.Wait()
		connected := make(chan struct{})
		defer close(connected)
		waiting.Go(func() {
			t := time.NewTimer(patience)
			defer t.Stop()
			select {
			case <-t.C:
				l.refuse(fmt.Errorf("still trying: %v", l.p.lastReason()))
			case <-connected:
			}
		})
	}
	c, err := l.n.reach(l.ctx, l.p.id, hello{class: l.class})
	outcome := "ok"
	if err != nil {
		outcome = "failed"
	}
	l.n.cfg.Metrics.dials.WithLabelValues(outcome).Inc()
	return c, err
}

// refuse has callers not wait for the link, unless it is up.
func (l *link) refuse(why error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.c != nil || l.err != nil {
		return
	}
	l.refusal = why
	l.failLocked(why)
	l.n.dropped[droppedNoLink].Add(float64(posts(l.queue)))
	l.queue, l.bytes = nil, 0
	l.settleLocked()
}

func (l *link) settleLocked() {
	if !l.isSettled {
		l.isSettled = true
		close(l.settled)
	}
}

// failLocked finishes all calls.
func (l *link) failLocked(why error) {
	for id, c := range l.pending {
		if c.state == callWritten {
			c.finish(nil, covey.Errorf(covey.Unknown, "call of node %s: the link broke before the answer: %v", l.p.id, why))
		} else {
			c.finish(nil, unreachable(l.p.id, why))
		}
		delete(l.pending, id)
	}
}

// up begins to use the connection.
func (l *link) up(c *conn) error {
	if err := c.sock.link(l.n.cfg.Silence); err != nil {
		return err
	}
	l.p.reached(l)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		return l.err
	}
	l.c, l.refusal, l.upSince = c, nil, time.Now()
	l.settleLocked()
	return nil
}

// end breaks the link, the first time it is called. Whoever waits for an answer
// is told at once.
func (l *link) end(why error) {
	l.once.Do(func() {
		l.mu.Lock()
		c, since := l.c, l.upSince
		l.mu.Unlock()
		l.p.down(l, since, why) // who comes now finds another link, or a refusal
		l.mu.Lock()
		l.stopLocked(why)
		l.failLocked(l.err)
		l.settleLocked()
		l.mu.Unlock()
		l.cancel()
		if c == nil {
			return
		}
		_ = c.sock.Close() // reader and writer see that
		if silent(why) {
			l.n.cutStreams(l.p.id, c.sock.lastHeard())
		}
	})
}

// ticked is called by the writer every so often.
func (l *link) ticked() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.retireBy.IsZero() && time.Now().After(l.retireBy) {
		return errRetired
	}
	// A queue that is full keeps the peer hearing from us as well.
	_ = l.putLocked(outgoing{header: header{typ: framePing, id: uint64(time.Since(l.upSince))}})
	return nil
}

func (l *link) read(c *conn) error {
	r := frameReader{r: bufio.NewReaderSize(c, 16<<10), max: MaxPayload}
	for {
		h, payload, err := r.next()
		if err != nil {
			return err
		}
		switch h.typ {
		case frameReply:
			l.finish(h.id, payload, nil)
		case frameError:
			l.finish(h.id, nil, parseError(h.code, payload))
		case framePong:
			l.pong(h.id)
		case frameBye:
			var why error
			if h.code == byeStopping {
				why = errors.New("the node is stopping")
			}
			l.p.retire(l, why)
		default:
			return covey.Errorf(covey.Corrupt, "frame of type %d from the acceptor of a link", h.typ)
		}
	}
}

// pong takes the answer to the ping sent so many nanoseconds after the link was
// made; 0 is an answer to none, which says just that the peer is there.
func (l *link) pong(id uint64) {
	l.mu.Lock()
	since := time.Since(l.upSince)
	l.mu.Unlock()
	if id > 0 && id <= uint64(since) {
		l.n.cfg.Metrics.roundTrip.Observe((since - time.Duration(id)).Seconds())
	}
}

// unreachable is the error of what was surely not handled.
func unreachable(to covey.NodeID, why error) error {
	return covey.Errorf(covey.Unavailable, "node %s cannot be reached: %v", to, why)
}
