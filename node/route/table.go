// Package route finds the node that leads a shard and brings commands to it.
//
// A Table holds what this node believes about leaders: from its own Raft groups,
// from gossip, from the answers of other nodes. It may be wrong, and Raft decides
// who leads; a wrong belief costs one redirect. What it is for above all is to
// know early whom not to wait for: a shard without a quorum is refused at once,
// and nobody waits longer than Patience for a leader to appear.
package route

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/covey-mail/covey"
)

// Patience is how long a caller waits for a shard to get a leader. Elections take
// about this long; one who comes when the shard has been without a leader for
// longer does not wait at all.
const Patience = 2 * time.Second

// A Table is safe for concurrent use.
type Table struct {
	mu     sync.Mutex
	down   map[covey.NodeID]bool
	shards map[covey.ShardID]*entry
}

// An entry is what is believed of one shard.
type entry struct {
	term    uint64       // the newest that a member of the group spoke of
	leader  covey.NodeID // 0: none is known in term
	heard   uint64       // the newest term that gossip spoke of
	voters  []covey.NodeID
	lost    time.Time     // since when no leader can be reached; zero while one can
	changed chan struct{} // closed when any of this changes
}

// NewTable returns a Table that knows nothing.
func NewTable() *Table {
	return &Table{down: make(map[covey.NodeID]bool), shards: make(map[covey.ShardID]*entry)}
}

// Learn takes in what a member of a shard's group says: who leads in a term, or
// with leader 0 that it knows none. What is of an older term is passed over.
func (t *Table) Learn(shard covey.ShardID, term uint64, leader covey.NodeID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.entry(shard)
	if term < e.term || term == e.term && e.leader == leader {
		return
	}
	e.term = term
	if leader == 0 && e.heard > term && e.leader != 0 {
		return // gossip is ahead of that member
	}
	e.leader = leader
	t.refresh(e)
}

// Hear takes in who leads a shard by gossip. That is a hint: whoever has the key
// of gossip can give it. It is believed where it is newer than all that is known,
// or nothing better is, and costs a redirect if it is wrong.
func (t *Table) Hear(shard covey.ShardID, term uint64, leader covey.NodeID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.entry(shard)
	if leader == 0 || term < e.term || leader == e.leader {
		return
	}
	if e.leader != 0 && !t.down[e.leader] && term <= max(e.term, e.heard) {
		return
	}
	e.leader, e.heard = leader, max(e.heard, term)
	t.refresh(e)
}

// Disproved takes in that node said it does not lead the shard.
func (t *Table) Disproved(shard covey.ShardID, node covey.NodeID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if e := t.entry(shard); e.leader == node {
		e.leader = 0
		t.refresh(e)
	}
}

// SetVoters says which nodes vote in a shard.
func (t *Table) SetVoters(shard covey.ShardID, voters []covey.NodeID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.entry(shard)
	if !slices.Equal(e.voters, voters) {
		e.voters = slices.Clone(voters)
		t.refresh(e)
	}
}

// Lost says that a node cannot be reached.
func (t *Table) Lost(node covey.NodeID) { t.set(node, true) }

// Back says that a node can be reached, as every one is believed to be at first.
func (t *Table) Back(node covey.NodeID) { t.set(node, false) }

func (t *Table) set(node covey.NodeID, down bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.down[node] == down {
		return
	}
	t.down[node] = down
	for _, e := range t.shards {
		t.refresh(e)
	}
}

// Known returns the leader that is believed in, reachable or not, and the newest
// term that a member of the group spoke of.
func (t *Table) Known(shard covey.ShardID) (leader covey.NodeID, term uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.entry(shard)
	return e.leader, e.term
}

// Leaderless reports whether the shard has no leader that can be reached.
func (t *Table) Leaderless(shard covey.ShardID) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return !t.entry(shard).lost.IsZero()
}

// Leader returns the shard's leader, waiting for one at most until the shard has
// been without for Patience. Unavailable if there is none by then, at once if so
// many voters are down that there cannot be one.
func (t *Table) Leader(ctx context.Context, shard covey.ShardID) (covey.NodeID, error) {
	for {
		leader, changed, left, err := t.look(shard)
		if leader != 0 || err != nil {
			return leader, err
		}
		timer := time.NewTimer(left)
		select {
		case <-changed:
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return 0, covey.Errorf(covey.Unavailable, "shard %d has no leader: %w", shard, ctx.Err())
		}
		timer.Stop()
	}
}

// look returns the leader, or what to wait for and how long, or that there is
// nothing to wait for.
func (t *Table) look(shard covey.ShardID) (leader covey.NodeID, changed <-chan struct{}, left time.Duration, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.entry(shard)
	if e.lost.IsZero() {
		return e.leader, nil, 0, nil
	}
	if up := t.votersUp(e); len(e.voters) > 0 && up <= len(e.voters)/2 {
		return 0, nil, 0, covey.Errorf(covey.Unavailable, "shard %d has no quorum: %d of %d replicas can be reached", shard, up, len(e.voters))
	}
	left = Patience - time.Since(e.lost)
	if left <= 0 {
		return 0, nil, 0, covey.Errorf(covey.Unavailable, "shard %d has had no leader for %v", shard, time.Since(e.lost).Round(time.Second))
	}
	return 0, e.changed, left, nil
}

// entry returns the entry of a shard, a new one if need be. t.mu is held.
func (t *Table) entry(shard covey.ShardID) *entry {
	e := t.shards[shard]
	if e == nil {
		e = &entry{changed: make(chan struct{}), lost: time.Now()}
		t.shards[shard] = e
	}
	return e
}

// refresh follows a change of e or of who is down. t.mu is held.
func (t *Table) refresh(e *entry) {
	switch {
	case e.leader != 0 && !t.down[e.leader]:
		e.lost = time.Time{}
	case e.lost.IsZero():
		e.lost = time.Now()
	}
	close(e.changed)
	e.changed = make(chan struct{})
}

// votersUp counts the voters that are not known to be down. t.mu is held.
func (t *Table) votersUp(e *entry) (n int) {
	for _, v := range e.voters {
		if !t.down[v] {
			n++
		}
	}
	return n
}
