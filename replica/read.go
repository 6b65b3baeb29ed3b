package replica

import (
	"context"
	"encoding/binary"

	"go.etcd.io/raft/v3"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/internal/mutant"
)

// A read is a caller of ReadIndex.
type read struct {
	group *group
	done  chan error // holds one
	gone  <-chan struct{}
	index uint64 // once known: to be applied before the read may go on
	until uint64 // tick at which it is given up; 0: not known yet
}

// readRounds is how the loop confirms reads: those that wait at one moment share
// a round of messages. All fields but local belong to the loop.
type readRounds struct {
	local   bool    // guarded by group.mu: this node alone is the quorum and knows all that is committed
	next    []*read // for the next round
	asked   []*read // of the round under way
	number  uint64  // of the round under way
	retryAt uint64  // tick at which the round is asked again, as its messages may be lost
	now     uint64  // the last tick
}

// ReadIndex returns once everything that was committed anywhere in the group
// before the call is applied here, so that what is read afterwards is not stale.
// It works on every node of the group. Unavailable: no leader or no quorum could
// be asked, or ctx ended.
func (h *Host) ReadIndex(ctx context.Context, id covey.ShardID) error {
	g, err := h.group(id)
	if err != nil {
		return err
	}
	if mutant.Is(mutant.LocalRead) {
		return nil
	}
	r := &read{group: g, done: make(chan error, 1), gone: ctx.Done()}
	if done, err := g.admitRead(r); done || err != nil {
		return err
	}
	defer g.readEnded()
	if r.index == 0 && !h.events.put(r) {
		return g.refuse(refusedStopping, "stopping")
	}
	select {
	case err := <-r.done:
		return err
	case <-ctx.Done():
		return covey.Errorf(covey.Unavailable, "read from shard %d: %w", id, ctx.Err())
	}
}

// admitRead lets a read in, or answers it from memory: with a quorum of one,
// nobody else can have committed anything.
func (g *group) admitRead(r *read) (done bool, err error) {
	if g.h.stopping.Load() {
		return false, g.refuse(refusedStopping, "stopping")
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case g.err != nil:
		g.h.refused(refusedStopped)
		return false, covey.Errorf(covey.Unavailable, "shard %d has stopped: %w", g.id, g.err)
	case g.reads.local && g.applied >= g.status.Committed:
		return true, nil
	case g.numReads >= g.h.cfg.MaxReads:
		return false, g.refuse(refusedQueue, "too many reads wait")
	case g.reads.local:
		r.index = g.status.Committed
		g.readers = append(g.readers, r)
	}
	g.numReads++
	return false, nil
}

func (g *group) readEnded() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.numReads--
}

func (r *read) handle(l *loop) {
	g := r.group
	r.until = l.ticks + 2*uint64(g.h.cfg.ElectionTicks)
	g.reads.next = append(g.reads.next, r)
	l.mark(g)
}

func (r *read) drop(*loop) { r.done <- r.group.refuse(refusedStopping, "stopping") }

// startRead begins a round with the reads that wait, if none is under way.
func (g *group) startRead(now uint64) {
	switch {
	case len(g.reads.next) == 0 || len(g.reads.asked) > 0:
		return
	case g.solo() && !g.current():
		// The core would answer with a commit index that may be older than what
		// this node acknowledged before its last start.
		return
	case g.lead == 0:
		for _, r := range g.reads.next {
			r.done <- g.refuseToLead(refusedNoLeader, "no leader")
		}
		g.reads.next = nil
		return
	}
	g.reads.asked, g.reads.next = g.reads.next, nil
	g.ask(now)
}

// ask sends the round's question under a number of its own: an answer to an
// earlier asking was confirmed before the later reads came.
func (g *group) ask(now uint64) {
	g.reads.number++
	g.reads.retryAt = now + uint64(g.h.cfg.ElectionTicks)/2
	g.rn.ReadIndex(binary.LittleEndian.AppendUint64(nil, g.reads.number))
}

// readConfirmed lets the reads of the round wait for the index to be applied.
func (g *group) readConfirmed(state raft.ReadState) {
	if len(state.RequestCtx) != 8 || binary.LittleEndian.Uint64(state.RequestCtx) != g.reads.number {
		return
	}
	reads := g.reads.asked
	g.reads.asked = nil
	until := g.reads.now + applyWait*uint64(g.h.cfg.ElectionTicks)
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, r := range reads {
		r.index, r.until = state.Index, until
		if r.index <= g.applied {
			r.done <- nil
		} else {
			g.readers = append(g.readers, r)
		}
	}
}

// tickReads gives up reads that nobody answers and repeats the question that may
// be lost.
func (g *group) tickReads(now uint64) {
	g.reads.now = now
	if now%uint64(g.h.cfg.ElectionTicks) == 0 {
		g.expireReaders(now)
	}
	g.reads.next = g.expireReads(g.reads.next, now)
	g.reads.asked = g.expireReads(g.reads.asked, now)
	if len(g.reads.asked) > 0 && now >= g.reads.retryAt {
		g.reads.next = append(g.reads.asked, g.reads.next...)
		g.reads.asked = nil
		g.startRead(now)
	}
}

func (g *group) expireReads(reads []*read, now uint64) []*read {
	kept := reads[:0]
	for _, r := range reads {
		switch {
		case now >= r.until:
			r.done <- g.refuse(refusedTimeout, "nobody answered in time")
		case r.left():
		default:
			kept = append(kept, r)
		}
	}
	clear(reads[len(kept):])
	return kept
}

// applyWait is how many election timeouts a read waits at most until what it is to
// see is applied here. A leader that is lost may have confirmed an index that
// never comes.
const applyWait = 5

// expireReaders gives up reads that wait too long to be applied.
func (g *group) expireReaders(now uint64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, r := range g.readers {
		if r.until == 0 {
			r.until = now + applyWait*uint64(g.h.cfg.ElectionTicks)
		}
	}
	g.readers = g.expireReads(g.readers, now)
}

// left reports whether the caller has gone.
func (r *read) left() bool {
	select {
	case <-r.gone:
		return true
	default:
		return false
	}
}

// wakeReadersLocked lets go the reads whose index is applied.
func (g *group) wakeReadersLocked() {
	if len(g.readers) == 0 {
		return
	}
	kept := g.readers[:0]
	for _, r := range g.readers {
		switch {
		case r.index <= g.applied:
			r.done <- nil
		case r.left():
		default:
			kept = append(kept, r)
		}
	}
	clear(g.readers[len(kept):])
	g.readers = kept
}

// failReads refuses the reads that the loop holds.
func (g *group) failReads(err error) {
	for _, r := range g.reads.next {
		r.done <- err
	}
	for _, r := range g.reads.asked {
		r.done <- err
	}
	g.reads.next, g.reads.asked = nil, nil
}
