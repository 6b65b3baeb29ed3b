package peer

import (
	"bufio"
	"errors"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// An outgoing is a frame on its way. Its body is only read.
type outgoing struct {
	header
	body [][]byte
	call *call  // a call of ours
	slot *slots // an answer to a call of theirs, which occupies this
	held int    // octets of it
}

// cost is what a frame counts against the bound of its queue.
func (o *outgoing) cost() int {
	const ownMemory = 128
	return headerSize + int(o.size) + ownMemory
}

// Why a frame was not taken.
var (
	errLinkDown  = errors.New("the link broke")
	errQueueFull = errors.New("too much waits to be sent")
)

// errRetired ends a link that was replaced.
var errRetired = errors.New("the link was replaced")

// A sender queues frames, and writes them to a connection from one goroutine, as
// many at a time as there are.
type sender struct {
	most   int           // octets that may wait
	wake   chan struct{} // a token lies here when the sleeping writer has work
	broken chan struct{} // closed by stop

	// The writer's own: frames it has taken out of the queue, the first next of
	// them written.
	taken []outgoing
	next  int

	mu     sync.Mutex // guards what follows, and more in those that embed it
	queue  []outgoing
	bytes  int  // cost of what is queued, or taken and not yet written
	asleep bool // the writer waits for wake
	ending bool // nothing is put any more, and the writer stops when it has sent all
	err    error
}

func (s *sender) init(most int) {
	s.most = most
	s.wake = make(chan struct{}, 1)
	s.broken = make(chan struct{})
}

// put queues a frame.
func (s *sender) put(o outgoing) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.putLocked(o)
}

func (s *sender) putLocked(o outgoing) error {
	if s.err != nil || s.ending {
		return errLinkDown
	}
	// Answers are bounded by the calls that may be handled at a time.
	if o.slot == nil && s.bytes+o.cost() > s.most {
		return errQueueFull
	}
	s.bytes += o.cost()
	s.queue = append(s.queue, o)
	if s.asleep {
		s.asleep = false
		select {
		case s.wake <- struct{}{}:
		default: // a token is there
		}
	}
	return nil
}

// stop has the writer return and put refuse, for the reason of the first call.
func (s *sender) stop(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stopLocked(err)
}

// finishLocked has the writer stop once it has sent all, and put refuse.
func (s *sender) finishLocked() {
	s.ending = true
	if s.asleep {
		s.stopLocked(errRetired)
	}
}

func (s *sender) stopLocked(err error) {
	if s.err == nil {
		s.err = err
		close(s.broken)
	}
}

// reason returns what stop was told.
func (s *sender) reason() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// take returns the next frames to write, about a chunk of them. None means that
// the writer is to sleep.
func (s *sender) take() []outgoing {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.next == len(s.taken) {
		const keep = 1024
		if cap(s.taken) > keep {
			s.taken = nil
		}
		clear(s.taken)
		s.taken, s.queue, s.next = s.queue, s.taken[:0], 0
	}
	first := s.next
	for size := 0; s.next < len(s.taken) && size < chunk; s.next++ {
		o := &s.taken[s.next]
		s.bytes -= o.cost()
		size += o.cost()
		if o.call == nil {
			continue
		}
		if o.call.state != callQueued { // nobody waits for it any more
			*o = outgoing{}
			continue
		}
		o.call.state = callWritten // as far as one can tell, from here on
	}
	s.asleep = first == s.next
	if s.asleep && s.ending {
		s.stopLocked(errRetired)
	}
	return s.taken[first:s.next]
}

// write writes frames to c until that fails, or stop is called, or ticked, which
// it calls every so often, returns an error.
func (s *sender) write(c *conn, every time.Duration, ticked func() error) error {
	const record = 16 << 10 // the most that TLS puts into one
	w := bufio.NewWriterSize(c, record)
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		if batch := s.take(); len(batch) > 0 {
			if err := s.writeBatch(w, c, batch); err != nil {
				return err
			}
			continue
		}
		select {
		case <-s.wake:
			// Whoever woke us is seldom alone. To let the others put theirs first
			// saves a third of the processor's time under load (BenchmarkCall8KiB),
			// and an idle node has nobody to wait for.
			runtime.Gosched()
		case <-tick.C:
			if err := ticked(); err != nil {
				return err
			}
		case <-s.broken:
			return s.reason()
		}
	}
}

func (s *sender) writeBatch(w *bufio.Writer, c *conn, batch []outgoing) error {
	defer release(batch)
	for i := range batch {
		o := &batch[i]
		if o.typ == 0 {
			continue
		}
		if _, err := w.Write(o.append(w.AvailableBuffer())); err != nil {
			return err
		}
		for _, p := range o.body {
			if _, err := w.Write(p); err != nil {
				return err
			}
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	return c.sock.flush()
}

// drop empties the queue of a sender that has stopped and whose writer has
// returned, and returns how many posts were in it.
func (s *sender) drop() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	left := append(s.taken[s.next:], s.queue...)
	s.taken, s.next, s.queue, s.bytes = nil, 0, nil, 0
	release(left)
	return posts(left)
}

func posts(frames []outgoing) (n int) {
	for i := range frames {
		if frames[i].typ == framePost {
			n++
		}
	}
	return n
}

func release(frames []outgoing) {
	for i := range frames {
		if o := &frames[i]; o.slot != nil {
			o.slot.leave(o.held)
			o.slot = nil
		}
	}
}

// slots count the calls of a peer that are being handled or whose answers wait to
// be sent.
type slots struct {
	mostCalls, mostBytes int64
	calls, bytes         atomic.Int64
}

// enter counts a call, or reports that there are too many.
func (s *slots) enter(size int) bool {
	if s.calls.Add(1) > s.mostCalls {
		s.calls.Add(-1)
		return false
	}
	if s.bytes.Add(int64(size)) > s.mostBytes {
		s.leave(size)
		return false
	}
	return true
}

// leave undoes enter.
func (s *slots) leave(size int) {
	s.bytes.Add(-int64(size))
	s.calls.Add(-1)
}
