package node

import (
	"context"
	"encoding/json"
	"slices"
	"sync"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/delivery"
	"github.com/covey-mail/covey/directory"
	"github.com/covey-mail/covey/internal/wire"
	"github.com/covey-mail/covey/node/admin"
)

// Bounds on what is told of queues. The octets are well below what fits into a
// frame between nodes.
const (
	queueLimit      = 1000 // deliveries, unless a limit is given
	queueMost       = 10_000
	queueRecipients = 100 // of one delivery
	queueOctets     = 4 << 20
	queueText       = 500 // of an error
)

// queueList tells what waits in the queues of all shards.
func (n *Node) queueList(ctx context.Context, r admin.QueueRequest) (admin.QueueAnswer, error) {
	if r.Limit < 0 || r.Limit > queueMost {
		return admin.QueueAnswer{}, covey.Errorf(covey.Invalid, "limit %d: want at most %d", r.Limit, queueMost)
	}
	if r.Limit == 0 {
		r.Limit = queueLimit
	}
	all := admin.QueueAnswer{Deliveries: []admin.Queued{}, Silent: []covey.ShardID{}}
	told := make(map[covey.ShardID]bool)
	for _, one := range append([]queuesTold{n.queuesHere(r.Limit)}, n.askQueues(ctx, r.Limit)...) {
		all.Deliveries = append(all.Deliveries, slices.DeleteFunc(one.Deliveries, func(q admin.Queued) bool { return told[q.Shard] })...)
		for _, t := range one.Totals {
			if !told[t.Shard] { // else leadership is moving
				all.Total += t.Deliveries
			}
			told[t.Shard] = true
		}
	}
	for id := covey.ShardID(1); id <= covey.ShardID(n.folder.self.Shards); id++ {
		if !told[id] {
			all.Silent = append(all.Silent, id)
		}
	}
	all.Deliveries = oldest(all.Deliveries, r.Limit)
	return all, nil
}

// oldest returns those of list that wait longest, at most limit, in their order.
func oldest(list []admin.Queued, limit int) []admin.Queued {
	slices.SortStableFunc(list, func(a, b admin.Queued) int { return a.Since.Compare(b.Since) })
	return list[:min(len(list), limit)]
}

// queuesTold is what a node tells of the queues of shards that it leads.
type queuesTold struct {
	Totals     []queueTotal   `json:"totals"`     // one for each of these shards
	Deliveries []admin.Queued `json:"deliveries"` // those that wait longest
}

type queueTotal struct {
	Shard      covey.ShardID `json:"shard"`
	Deliveries int           `json:"deliveries"`
}

// queuesHere tells of the queues of shards that this node leads.
func (n *Node) queuesHere(limit int) (all queuesTold) {
	q := n.queue.Load()
	if q == nil {
		return all
	}
	for id := covey.ShardID(1); id <= covey.ShardID(n.folder.self.Shards); id++ {
		st, here := n.states.get(id)
		waiting, err := q.List(id, limit)
		if !here || err != nil {
			continue // it is for another to tell
		}
		total, _, err := st.QueueLength()
		if err != nil {
			continue
		}
		all.Totals = append(all.Totals, queueTotal{id, total})
		for i := range waiting {
			all.Deliveries = append(all.Deliveries, queuedFor(id, &waiting[i]))
		}
	}
	all.Deliveries = oldest(all.Deliveries, limit)
	octets := 0
	for i := range all.Deliveries {
		if octets += size(&all.Deliveries[i]); octets > queueOctets {
			all.Deliveries = all.Deliveries[:i]
			break
		}
	}
	return all
}

// size is about how many octets a delivery takes in an answer.
func size(q *admin.Queued) int {
	n := 400 + len(q.Sender) + len(q.Error)
	for _, r := range q.Recipients {
		n += 40 + len(r.Address)
	}
	return n
}

func queuedFor(id covey.ShardID, w *delivery.Waiting) admin.Queued {
	q := admin.Queued{
		Shard: id, Delivery: w.ID.String(), Sender: w.Sender, Since: w.Time, Left: len(w.Rest), Recipients: []admin.QueuedRecipient{}, Tries: w.Tries,
	}
	for _, r := range w.Rest[:min(len(w.Rest), queueRecipients)] {
		q.Recipients = append(q.Recipients, admin.QueuedRecipient{Address: r.Address, Shard: r.Shard})
	}
	if w.Err != nil {
		text := w.Err.Error()
		q.Error, q.Next = text[:min(len(text), queueText)], &w.Next
	}
	return q
}

// askQueues asks every other node for the queues of shards that it leads.
func (n *Node) askQueues(ctx context.Context, limit int) (all []queuesTold) {
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
			var one queuesTold
			if err != nil || json.Unmarshal(b, &one) != nil {
				return // its shards are told to be silent
			}
			mu.Lock()
			defer mu.Unlock()
			all = append(all, one)
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
