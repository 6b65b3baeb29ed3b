package replica

import (
	"context"
	"slices"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/covey-mail/covey"
)

// A removal is the end of a group on this node.
type removal struct {
	group *group
	done  chan error // holds one
}

// Remove ends a group on this node: whoever waits is refused or told Unknown, the
// state machine is closed without a checkpoint, and the log forgets the group but
// for its last election and its last entry, which stay so that it can be added
// again: see replica.blank. When it returns nil, this is on stable storage, a later start does not
// see the group, and Add may be called for it; what the state machine has on the
// disk is the caller's to delete.
//
// The caller vouches that the members have agreed that this node is none of them.
// A voter that forgets its log may cost the group what it acknowledged.
//
// Invalid: this node leads the group; hand over first. InUse: it is being removed
// already. Unavailable: the host stops. Unknown: ctx ended, or the host stopped on
// the way; the group is gone or will be at the next call.
func (h *Host) Remove(ctx context.Context, id covey.ShardID) error {
	g, err := h.group(id)
	if err != nil {
		return err
	}
	r := &removal{group: g, done: make(chan error, 1)}
	if !h.events.put(r) {
		return g.refuse(refusedStopping, "stopping")
	}
	select {
	case err := <-r.done:
		return err
	case <-ctx.Done():
		return covey.Errorf(covey.Unknown, "remove shard %d: %w", id, ctx.Err())
	}
}

func (r *removal) handle(l *loop) {
	g := r.group
	switch {
	case g.removal != nil:
		r.done <- covey.Errorf(covey.InUse, "shard %d is being removed", g.id)
		return
	case l.drainBy != 0:
		r.done <- g.refuse(refusedStopping, "stopping")
		return
	case g.leads:
		r.done <- covey.Errorf(covey.Invalid, "shard %d: this node leads it: hand over first", g.id)
		return
	}
	last, err := g.lastEntry()
	if err != nil {
		r.done <- err
		return
	}
	g.removal = r
	g.halt(covey.Errorf(covey.NotFound, "shard %d was removed from this node", g.id), covey.Unknown)
	l.bury(g)
	// What it had to say is not written any more.
	l.hard = slices.DeleteFunc(l.hard, func(h *group) bool { return h == g })
	g.hardMarked = false
	l.gather.records.Leave(g.id, &raftpb.HardState{Term: new(g.term), Vote: new(g.vote)}, last.index, last.term)
	l.gather.sync = true
	g.holding++
	l.gather.works = append(l.gather.works, heldWork{g, work{leave: true}})
	g.out.Info("group leaves this node")
}

func (r *removal) drop(*loop) { r.done <- r.group.refuse(refusedStopping, "stopping") }

// leave closes the state machine of a group that the log has forgotten. It is the
// applier's last act.
func (g *group) leave() {
	g.taking.Wait() // it was told to end
	err := g.closeMachine()
	g.work.close()
	g.h.events.put(left{g, err})
}

// left tells the loop that nothing of a group is left.
type left struct {
	group *group
	err   error // of closing the state machine
}

func (e left) handle(l *loop) {
	l.groups = slices.DeleteFunc(l.groups, func(g *group) bool { return g == e.group })
	h := l.h
	h.mu.Lock()
	delete(h.groups, e.group.id)
	h.order = slices.DeleteFunc(h.order, func(g *group) bool { return g == e.group })
	h.mu.Unlock()
	e.group.removal.done <- e.err
}

func (e left) drop(l *loop) { e.handle(l) }

// leftBehind is what Remove returns when the host stopped on the way. The state
// machine is closed only once the log has forgotten the group.
func (g *group) leftBehind() error {
	if g.closed {
		return nil
	}
	return covey.Errorf(covey.Unknown, "shard %d: stopped before it was removed", g.id)
}
