// Package simnet is a network for tests: it joins nodes of one process and loses,
// delays, reorders and duplicates what they send to each other, and is cut where
// the test wants it cut.
//
// All chance comes from one seed, and all delays from the time package, so that
// inside a testing/synctest bubble hours pass in no time. What is drawn depends
// on the order in which nodes send; where their goroutines race, so do the draws.
package simnet

import (
	"container/heap"
	"context"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/covey-mail/covey"
)

// Weather is how badly a network behaves. The zero Weather delivers everything
// once, in order and at once.
type Weather struct {
	Loss      float64       // chance that a message is lost, 0 to 1
	Duplicate float64       // chance that a message arrives twice, 0 to 1
	MinDelay  time.Duration // each message takes between MinDelay …
	MaxDelay  time.Duration // … and MaxDelay, and so may overtake others
}

// A Net carries messages of type M between nodes. Its methods may be called from
// several goroutines. Use New.
type Net[M any] struct {
	wake chan struct{} // a token lies here when the queue's head may have changed

	mu      sync.Mutex // guards the following
	rand    *rand.Rand
	weather Weather
	nodes   map[covey.NodeID]func(from covey.NodeID, m M)
	cuts    map[link]bool
	queue   deliveries[M]
	number  uint64
	counts  Counts
}

// Counts tells what became of the messages so far.
type Counts struct {
	Delivered, Duplicated, Lost, Cut uint64
}

type link struct{ from, to covey.NodeID }

// New makes a network with the given seed and weather. Nothing is delivered
// before Run.
func New[M any](seed uint64, weather Weather) *Net[M] {
	return &Net[M]{
		wake:    make(chan struct{}, 1),
		rand:    rand.New(rand.NewPCG(seed, 0x6e6574)),
		weather: weather,
		nodes:   map[covey.NodeID]func(covey.NodeID, M){},
		cuts:    map[link]bool{},
	}
}

// Join has messages to id passed to receive, instead of whoever received them
// before. receive is called by one goroutine at a time, also for several nodes;
// it must not block. A message that is delivered twice is the same value twice.
func (n *Net[M]) Join(id covey.NodeID, receive func(from covey.NodeID, m M)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.nodes[id] = receive
}

// Leave takes a node off the network: what is under way to it is lost. A call of
// its receive may still be running.
func (n *Net[M]) Leave(id covey.NodeID) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.nodes, id)
}

// SetWeather changes the weather for messages that are sent from now on.
func (n *Net[M]) SetWeather(w Weather) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.weather = w
}

// Cut severs the way from one node to another, and no other way. What is under
// way is lost too.
func (n *Net[M]) Cut(from, to covey.NodeID) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.cuts[link{from, to}] = true
}

// Split severs all ways, in both directions, between nodes of different sides.
func (n *Net[M]) Split(sides ...[]covey.NodeID) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for i, side := range sides {
		for j, other := range sides {
			if i == j {
				continue
			}
			for _, a := range side {
				for _, b := range other {
					n.cuts[link{a, b}] = true
				}
			}
		}
	}
}

// Connected reports whether the way from one node to another is not cut. Tests
// that carry something by other means than Send may heed it.
func (n *Net[M]) Connected(from, to covey.NodeID) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return !n.cuts[link{from, to}]
}

// Heal mends all ways.
func (n *Net[M]) Heal() {
	n.mu.Lock()
	defer n.mu.Unlock()
	clear(n.cuts)
}

// Counts returns what became of the messages so far.
func (n *Net[M]) Counts() Counts {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.counts
}

// Send puts a message on its way. It does not block.
func (n *Net[M]) Send(from, to covey.NodeID, m M) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.rand.Float64() < n.weather.Loss {
		n.counts.Lost++
		return
	}
	n.queueLocked(from, to, m)
	if n.rand.Float64() < n.weather.Duplicate {
		n.counts.Duplicated++
		n.queueLocked(from, to, m)
	}
	select {
	case n.wake <- struct{}{}:
	default:
	}
}

func (n *Net[M]) queueLocked(from, to covey.NodeID, m M) {
	delay := n.weather.MinDelay
	if span := n.weather.MaxDelay - n.weather.MinDelay; span > 0 {
		delay += time.Duration(n.rand.Int64N(int64(span)))
	}
	n.number++
	heap.Push(&n.queue, delivery[M]{time.Now().Add(delay), n.number, link{from, to}, m})
}

// Run delivers messages until ctx ends. What is under way then is lost.
func (n *Net[M]) Run(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		wait, waits := n.deliver()
		var due <-chan time.Time
		if waits {
			timer.Reset(wait)
			due = timer.C
		}
		select {
		case <-ctx.Done():
			return
		case <-n.wake:
		case <-due:
		}
	}
}

// deliver delivers what is due, and returns how long the next message takes.
func (n *Net[M]) deliver() (wait time.Duration, waits bool) {
	for {
		n.mu.Lock()
		if len(n.queue) == 0 {
			n.mu.Unlock()
			return 0, false
		}
		if wait := time.Until(n.queue[0].at); wait > 0 {
			n.mu.Unlock()
			return wait, true
		}
		d := heap.Pop(&n.queue).(delivery[M])
		receive := n.nodes[d.to]
		switch {
		case n.cuts[d.link]:
			n.counts.Cut++
			receive = nil
		case receive == nil:
			n.counts.Lost++
		default:
			n.counts.Delivered++
		}
		n.mu.Unlock()
		if receive != nil {
			receive(d.from, d.message)
		}
	}
}

// A delivery is a message under way.
type delivery[M any] struct {
	at     time.Time
	number uint64 // of messages due at the same moment, the first sent comes first
	link
	message M
}

// deliveries is a heap, the next due at its root.
type deliveries[M any] []delivery[M]

func (q deliveries[M]) Len() int      { return len(q) }
func (q deliveries[M]) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q deliveries[M]) Less(i, j int) bool {
	if !q[i].at.Equal(q[j].at) {
		return q[i].at.Before(q[j].at)
	}
	return q[i].number < q[j].number
}
func (q *deliveries[M]) Push(x any) { *q = append(*q, x.(delivery[M])) }
func (q *deliveries[M]) Pop() any {
	old := *q
	last := old[len(old)-1]
	old[len(old)-1] = delivery[M]{}
	*q = old[:len(old)-1]
	return last
}
