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
// goroutines, but for Add, which comes first.
type Host struct {
	cfg     Config
	metrics *Metrics
	nonce   atomic.Uint64 // last one given out
	frames  sync.Pool     // of *[]byte: data of entries on their way to the core

	groups map[covey.ShardID]*group // not changed once Run was called
	order  []*group                 // the same, in the order of Add

	events   *queue[event] // what the loop is told
	inbound  atomic.Int64  // bytes of peers' messages in events
	full     atomic.Bool   // the log has no room; set by the writer
	stopping atomic.Bool   // Run winds down
	started  atomic.Bool   // Run was called
}

// An event is something that the loop is told from outside. handle runs on the
// loop's goroutine.
type event interface{ handle(*loop) }

// New makes a Host without groups. It does no I/O.
func New(cfg Config) (*Host, error) {
	if err := cfg.fill(); err != nil {
		return nil, err
	}
	h := &Host{cfg: cfg, metrics: cfg.Metrics, groups: map[covey.ShardID]*group{}, events: newQueue[event]()}
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
	end := make(chan struct{})
	var writer, appliers sync.WaitGroup
	writer.Go(func() { l.writeAll(end) })
	for _, g := range h.order {
		appliers.Go(g.applyAll)
	}

	err := l.run(ctx)

	h.stopping.Store(true)
	h.events.close()
	close(end)
	close(l.jobs)
	writer.Wait()
	for _, g := range h.order {
		g.work.close()
	}
	appliers.Wait()
	// Only now: what the appliers still finished was answered with its result.
	for _, g := range h.order {
		g.abandon()
	}
	return errors.Join(err, h.closeMachines(err == nil))
}

// closeMachines closes the state machines one after the other, with a checkpoint
// before if the log is sound.
func (h *Host) closeMachines(sound bool) error {
	var errs []error
	for _, g := range h.order {
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
	if g := h.groups[id]; g != nil {
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

// Status tells how a group is doing, as seen from this node.
type Status struct {
	Group     covey.ShardID
	Leader    covey.NodeID // 0 for none known
	Term      uint64
	Applied   uint64 // last index applied here
	Committed uint64 // last index known to be committed
	Last      uint64 // last index in the log here
	Voters    []covey.NodeID
	Learners  []covey.NodeID
	Fault     error // not nil: the group has stopped on this node, and why
}

// Status returns the state of every group in the order of Add. It does not
// wait for the loop and may be a moment old.
func (h *Host) Status() []Status {
	all := make([]Status, 0, len(h.order))
	for _, g := range h.order {
		all = append(all, g.snapshotStatus())
	}
	return all
}

func nodeIDs(ids []uint64) []covey.NodeID {
	nodes := make([]covey.NodeID, 0, len(ids))
	for _, id := range ids {
		nodes = append(nodes, covey.NodeID(id))
	}
	return nodes
}

// asFault turns what recover returned into an error.
func asFault(id covey.ShardID, doing string, v any) error {
	if err, ok := v.(error); ok {
		return fmt.Errorf("shard %d: %s: %w", id, doing, err)
	}
	return fmt.Errorf("shard %d: %s: %v", id, doing, v)
}
