package replica

import "sync"

// A queue hands values of many goroutines to one, in order, and never blocks
// those who give. What may wait in it is bounded by them.
type queue[T any] struct {
	wake chan struct{} // a token lies here when there may be something to take

	mu     sync.Mutex // guards the following
	items  []T
	closed bool
}

func newQueue[T any]() *queue[T] { return &queue[T]{wake: make(chan struct{}, 1)} }

// put appends v and reports whether the queue is still open; if not, v is
// dropped.
func (q *queue[T]) put(v T) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return false
	}
	q.items = append(q.items, v)
	q.signal()
	return true
}

func (q *queue[T]) signal() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// take returns what waits, and whether the queue is open. spent is a slice
// returned before, whose memory is used again.
func (q *queue[T]) take(spent []T) ([]T, bool) {
	clear(spent)
	q.mu.Lock()
	defer q.mu.Unlock()
	items := q.items
	q.items = spent[:0]
	return items, !q.closed
}

// close refuses further values. What waits can still be taken.
func (q *queue[T]) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	q.signal()
}

// depth returns how many values wait.
func (q *queue[T]) depth() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.items)
}
