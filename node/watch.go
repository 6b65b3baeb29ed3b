package node

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/membership"
)

const (
	// holdTime is how long a watch is held by the other side before it is asked
	// for again. It is less than the 10 s that calls have to end on a link that is
	// replaced, as when the secret is: nobody is lost then.
	holdTime = 8 * time.Second
	// retryPeer is the time between tries to reach a peer that is lost.
	retryPeer = 200 * time.Millisecond
)

// watchers tell the routes which nodes can be reached: one call to each is always
// under way, and fails at the moment its link breaks. That is within a second when
// the peer's kernel says so, and within two or so when it falls silent; gossip
// takes longer. Groups that the node leads look for another leader at once.
type watchers struct {
	n    *Node
	mu   sync.Mutex
	ends map[covey.NodeID]context.CancelFunc
	done sync.WaitGroup

	strangers map[covey.NodeID]bool // that were warned of; of forgetStrangers
}

// pings wake those who wait for a node that is lost: it has come to us.
type pings struct {
	mu    sync.Mutex
	wakes map[covey.NodeID]chan struct{}
}

// from returns the channel that gets something when a node pings this one.
func (p *pings) from(id covey.NodeID) chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.wakes == nil {
		p.wakes = make(map[covey.NodeID]chan struct{})
	}
	wake := p.wakes[id]
	if wake == nil {
		wake = make(chan struct{}, 1)
		p.wakes[id] = wake
	}
	return wake
}

func newWatchers(n *Node) *watchers {
	return &watchers{n: n, ends: make(map[covey.NodeID]context.CancelFunc), strangers: make(map[covey.NodeID]bool)}
}

// maxStrangers bounds how many are warned of one by one.
const maxStrangers = 64

// forgetStrangers has gossip forget who is no member of the cluster: a node that
// was removed, or somebody who has come by the key.
func (w *watchers) forgetStrangers(g *membership.Gossip, members []covey.NodeID) {
	for _, m := range g.Members() {
		if m.ID == w.n.folder.id || slices.Contains(members, m.ID) {
			continue
		}
		if !w.strangers[m.ID] && len(w.strangers) < maxStrangers {
			w.strangers[m.ID] = true
			w.n.log.Warn("somebody gossips who is no member of the cluster: a node that was removed and still runs, or one that has the key and should not",
				"id", m.ID.String(), "gossip", m.Gossip, "state", m.State.String())
		}
		g.Forget(m.ID)
	}
}

// watch makes one watcher for each of the nodes and ends the others.
func (w *watchers) watch(ctx context.Context, nodes []covey.NodeID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	want := make(map[covey.NodeID]bool)
	for _, id := range nodes {
		if id == w.n.folder.id {
			continue
		}
		want[id] = true
		if w.ends[id] != nil {
			continue
		}
		ctx, end := context.WithCancel(ctx)
		w.ends[id] = end
		w.done.Go(func() { w.follow(ctx, id) })
		w.done.Go(func() { w.n.watchQuota(ctx, id) })
	}
	for id, end := range w.ends {
		if !want[id] {
			end()
			delete(w.ends, id)
		}
	}
}

// follow watches one node until ctx ends.
func (w *watchers) follow(ctx context.Context, id covey.NodeID) {
	for ctx.Err() == nil {
		if w.reach(ctx, id) == nil {
			w.n.table.Back(id)
			w.n.log.Debug("peer reached", "peer", id.String())
			err := w.hold(ctx, id)
			for err == nil {
				err = w.hold(ctx, id)
			}
			if ctx.Err() == nil {
				w.n.log.Info("peer lost", "peer", id.String(), "err", err)
				if errors.Is(err, covey.Unknown) { // else it said that it stops, and hands over what it leads
					w.n.host.Suspect(id)
				}
			}
		}
		if ctx.Err() != nil {
			return
		}
		w.n.table.Lost(id)
		select {
		case <-ctx.Done():
		case <-w.n.pings.from(id): // or other nodes would believe it to be there before we do
		case <-time.After(retryPeer):
		}
	}
}

// reach asks the node for an answer at once.
func (w *watchers) reach(ctx context.Context, id covey.NodeID) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	_, err := w.n.links.Call(ctx, id, methodPing)
	return err
}

// hold asks it for one after a while.
func (w *watchers) hold(ctx context.Context, id covey.NodeID) error {
	ctx, cancel := context.WithTimeout(ctx, 2*holdTime)
	defer cancel()
	_, err := w.n.links.Call(ctx, id, methodWatch)
	return err
}

// servePing answers at once. Of a node that stops nobody expects anything more.
func (n *Node) servePing(_ context.Context, from covey.NodeID, _ []byte) ([]byte, error) {
	select {
	case n.pings.from(from) <- struct{}{}:
	default:
	}
	select {
	case <-n.leaving:
		return nil, covey.Errorf(covey.Unavailable, "the node is stopping")
	default:
		return nil, nil
	}
}

// serveWatch answers after a while. A node that stops does not wait for it.
func (n *Node) serveWatch(ctx context.Context, _ covey.NodeID, _ []byte) ([]byte, error) {
	timer := time.NewTimer(holdTime)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil, nil
	case <-n.leaving:
		return nil, covey.Errorf(covey.Unavailable, "the node is stopping")
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}
