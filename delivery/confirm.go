package delivery

import (
	"sync"

	"github.com/covey-mail/covey"
)

// Bounds on confirmations that wait for a command to travel with. What falls
// off stays unconfirmed: a copy sent on purpose within five days would then be
// taken for a resend, nothing worse.
const (
	maxConfirmed  = 8192 // kept per shard
	takeConfirmed = 512  // sent with one command
)

// confirmed are deliveries whose positive reply reached the sender and whose
// shard has not been told.
type confirmed struct {
	mu  *sync.Mutex // guards ids
	ids map[covey.ShardID][]covey.DeliveryID
}

func newConfirmed() confirmed {
	return confirmed{mu: new(sync.Mutex), ids: make(map[covey.ShardID][]covey.DeliveryID)}
}

func (c confirmed) add(shard covey.ShardID, ids ...covey.DeliveryID) {
	if len(ids) == 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	all := append(c.ids[shard], ids...)
	if over := len(all) - maxConfirmed; over > 0 {
		all = append([]covey.DeliveryID(nil), all[over:]...)
	}
	c.ids[shard] = all
}

// take returns confirmations to send to the shard and forgets them.
func (c confirmed) take(shard covey.ShardID) []covey.DeliveryID {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := c.ids[shard]
	n := min(len(all), takeConfirmed)
	c.ids[shard] = all[n:]
	if n == len(all) {
		delete(c.ids, shard)
	}
	return all[:n:n]
}

// Confirm says that the positive reply for a receipt surely reached the sender:
// it went on with the session. Until then a message with the same bytes is taken
// for a resend and is not stored again.
func (s *Service) Confirm(r Receipt) {
	for _, shard := range r.shards {
		s.confirmed.add(shard, r.ID)
	}
}
