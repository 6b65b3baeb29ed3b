package node

import (
	"context"
	"sync"
	"time"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/delivery"
	"github.com/covey-mail/covey/replica"
	"github.com/covey-mail/covey/storage"
)

// queueEvery is how often the queues of shards that this node leads are looked at.
const queueEvery = time.Second

// makeQueue makes what works off those queues.
func (n *Node) makeQueue() {
	m := delivery.NewQueueMetrics()
	n.metrics.MustRegister(m.Collectors()...)
	n.queue.Store(delivery.NewQueue(delivery.QueueConfig{
		Delivery: n.delivery, Propose: n.proposeIn, Removed: n.directory.Removed, Logger: n.cfg.Logger, Metrics: m,
	}))
}

// proposeIn is delivery.QueueConfig.Propose.
func (n *Node) proposeIn(ctx context.Context, id covey.ShardID, term uint64, cmd storage.Command) error {
	v, err := n.host.ProposeIn(ctx, id, term, storage.Encode(cmd))
	if err != nil {
		return err
	}
	return v.(*storage.Result).Err
}

// leadQueue has the queue of a shard worked off while this node leads it.
func (n *Node) leadQueue(l replica.Leadership) {
	if l.Group == covey.DirectoryShard {
		return
	}
	if l.Leader != n.folder.id {
		l.Term = 0
	}
	n.queue.Load().Lead(l.Group, l.Term)
}

// runQueue works off queues until ctx ends. A shard that has a leader again may take
// what it did not: nobody waits for the end of a pause then.
func (n *Node) runQueue(ctx context.Context) {
	q := n.queue.Load()
	looks := make(chan time.Time)
	var done sync.WaitGroup
	done.Go(func() { q.Run(ctx, looks) })
	defer done.Wait()
	tick := time.NewTicker(queueEvery)
	defer tick.Stop()
	was := make(map[covey.ShardID]lead)
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			if n.leadersChanged(was) {
				q.Kick()
				continue
			}
			select {
			case looks <- now:
			case <-ctx.Done():
				return
			}
		}
	}
}

// A lead is who leads a shard, as far as this node knows.
type lead struct {
	node  covey.NodeID
	term  uint64
	reach bool
}

// leadersChanged brings was up to date and reports whether there was anything new.
func (n *Node) leadersChanged(was map[covey.ShardID]lead) (changed bool) {
	for id := covey.ShardID(1); id <= covey.ShardID(n.folder.self.Shards); id++ {
		var now lead
		now.node, now.term = n.table.Known(id)
		now.reach = !n.table.Leaderless(id)
		changed = changed || was[id] != now
		was[id] = now
	}
	return changed
}
