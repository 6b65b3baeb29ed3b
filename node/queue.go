package node

import (
	"context"
	"encoding/json"
	"slices"
	"sync"
	"time"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/delivery"
	"github.com/covey-mail/covey/directory"
	"github.com/covey-mail/covey/internal/wire"
	"github.com/covey-mail/covey/node/admin"
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

// Bounds on what is told of queues.
const (
	queueLimit      = 1000 // deliveries, unless a limit is given
	queueMost       = 10_000
	queueRecipients = 100 // of one delivery
)

// queueList tells what waits in the queues of all shards.
func (n *Node) queueList(ctx context.Context, r admin.QueueRequest) (admin.QueueAnswer, error) {
	if r.Limit < 0 || r.Limit > queueMost {
		return admin.QueueAnswer{}, covey.Errorf(covey.Invalid, "limit %d: want at most %d", r.Limit, queueMost)
	}
	if r.Limit == 0 {
		r.Limit = queueLimit
	}
	told := make(map[covey.ShardID]shardQueue)
	for _, one := range append(n.askQueues(ctx, r.Limit), n.queuesHere(r.Limit)...) {
		told[one.Shard] = one
	}
	all := admin.QueueAnswer{Deliveries: []admin.Queued{}, Silent: []covey.ShardID{}}
	for id := covey.ShardID(1); id <= covey.ShardID(n.folder.self.Shards); id++ {
		one, ok := told[id]
		if !ok {
			all.Silent = append(all.Silent, id)
		}
		all.Total += one.Total
		all.Deliveries = append(all.Deliveries, one.Deliveries...)
	}
	slices.SortStableFunc(all.Deliveries, func(a, b admin.Queued) int { return a.Since.Compare(b.Since) })
	all.Deliveries = all.Deliveries[:min(len(all.Deliveries), r.Limit)]
	return all, nil
}

// A shardQueue is what the leader of a shard tells of its queue.
type shardQueue struct {
	Shard      covey.ShardID  `json:"shard"`
	Total      int            `json:"total"`
	Deliveries []admin.Queued `json:"deliveries"` // the first of them
}

// queuesHere tells of the queues of shards that this node leads.
func (n *Node) queuesHere(limit int) (list []shardQueue) {
	q := n.queue.Load()
	if q == nil {
		return nil
	}
	for id := covey.ShardID(1); id <= covey.ShardID(n.folder.self.Shards); id++ {
		waiting, err := q.List(id, 0, limit)
		if err != nil {
			continue // it is for another to tell
		}
		one := shardQueue{Shard: id, Total: len(waiting)}
		if st, ok := n.states.get(id); ok && len(waiting) == limit {
			one.Total, _, _ = st.QueueLength() // a fault is the shard's to tell
		}
		for i := range waiting {
			one.Deliveries = append(one.Deliveries, queuedFor(id, &waiting[i]))
		}
		list = append(list, one)
	}
	return list
}

func queuedFor(id covey.ShardID, w *delivery.Waiting) admin.Queued {
	q := admin.Queued{
		Shard: id, Delivery: w.ID.String(), Sender: w.Sender, Since: w.Time, Left: len(w.Rest), Recipients: []admin.QueuedRecipient{}, Tries: w.Tries,
	}
	for _, r := range w.Rest[:min(len(w.Rest), queueRecipients)] {
		q.Recipients = append(q.Recipients, admin.QueuedRecipient{Address: r.Address, Shard: r.Shard})
	}
	if w.Err != nil {
		q.Error, q.Next = w.Err.Error(), &w.Next
	}
	return q
}

// askQueues asks every other node for the queues of shards that it leads.
func (n *Node) askQueues(ctx context.Context, limit int) (all []shardQueue) {
	if n.links.Net == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	var mu sync.Mutex // guards all
	var asked sync.WaitGroup
	for _, m := range n.directory.Nodes() {
		if m.ID == n.folder.id || m.Level < directory.LevelQueues {
			continue
		}
		asked.Go(func() {
			b, err := n.links.Call(ctx, m.ID, methodQueue, wire.AppendUint(nil, uint64(limit)))
			var list []shardQueue
			if err != nil || json.Unmarshal(b, &list) != nil {
				return // its shards are told to be silent
			}
			mu.Lock()
			defer mu.Unlock()
			all = append(all, list...)
		})
	}
	asked.Wait()
	return all
}

// serveQueue answers askQueues.
func (n *Node) serveQueue(_ context.Context, _ covey.NodeID, req []byte) ([]byte, error) {
	r := wire.NewReader(req)
	limit := r.Uint()
	if err := r.End(); err != nil {
		return nil, err
	}
	return json.Marshal(n.queuesHere(int(min(limit, queueMost))))
}
