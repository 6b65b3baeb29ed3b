package delivery

import (
	"context"
	"sync"
	"time"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/storage"
)

// Bounds on confirmations that wait to be told to their shard. What falls off
// stays unconfirmed: a copy sent on purpose within five days would then be taken
// for a resend, nothing worse.
const (
	maxConfirmed  = 8192 // kept per shard
	takeConfirmed = 512  // sent with one command
)

// confirmed are deliveries whose positive reply reached the sender and whose
// shard has not been told.
type confirmed struct {
	mu    *sync.Mutex // guards the maps
	ids   map[covey.ShardID][]covey.DeliveryID
	stale map[covey.ShardID]bool // has waited since the last look
}

func newConfirmed() confirmed {
	return confirmed{mu: new(sync.Mutex), ids: make(map[covey.ShardID][]covey.DeliveryID), stale: make(map[covey.ShardID]bool)}
}

// add returns what fell off.
func (c confirmed) add(shard covey.ShardID, ids ...covey.DeliveryID) (off []covey.DeliveryID) {
	if len(ids) == 0 {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	all := append(c.ids[shard], ids...)
	if over := len(all) - maxConfirmed; over > 0 {
		off, all = all[:over:over], append([]covey.DeliveryID(nil), all[over:]...)
	}
	c.ids[shard] = all
	return off
}

// take returns confirmations to send to the shard and forgets them.
func (c confirmed) take(shard covey.ShardID) []covey.DeliveryID {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.stale, shard)
	all := c.ids[shard]
	n := min(len(all), takeConfirmed)
	c.ids[shard] = all[n:]
	if n == len(all) {
		delete(c.ids, shard)
	}
	return all[:n:n]
}

// waiting returns the shards whose confirmations no delivery has taken along
// since the last call.
func (c confirmed) waiting() []covey.ShardID {
	c.mu.Lock()
	defer c.mu.Unlock()
	var list []covey.ShardID
	for id := range c.ids {
		if c.stale[id] {
			list = append(list, id)
		}
		c.stale[id] = true
	}
	return list
}

// Confirm says that the positive reply for a receipt surely reached the sender:
// it went on with the session. Until then a message with the same bytes is taken
// for a resend and is not stored again.
func (s *Service) Confirm(r Receipt) {
	s.senders.hear(r.ID, r.shards)
	for _, shard := range r.shards {
		s.confirm(shard, r.ID)
	}
}

// confirm has a shard told with what goes there next.
func (s *Service) confirm(shard covey.ShardID, ids ...covey.DeliveryID) {
	s.senders.told(shard, s.confirmed.add(shard, ids...))
}

// confirmTimeout bounds how long telling a shard may take.
const confirmTimeout = 2 * time.Second

// Run tells the shards what was confirmed when no delivery comes by to take it
// along: at each tick what has waited since the one before, and at the end of
// ctx all that is left. It returns then. Confirmations lost with the process cost
// nothing but that a copy sent on purpose is taken for a resend.
func (s *Service) Run(ctx context.Context, tick <-chan time.Time) {
	for {
		select {
		case <-ctx.Done():
			s.confirmed.waiting()
			s.flush(context.WithoutCancel(ctx))
			return
		case <-tick:
			s.flush(ctx)
		}
	}
}

func (s *Service) flush(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, confirmTimeout)
	defer cancel()
	for _, shard := range s.confirmed.waiting() {
		ids := s.confirmed.take(shard)
		if _, err := s.cfg.Shards.Propose(ctx, shard, storage.Confirm{IDs: ids, Remember: s.cfg.Queue()}); err != nil {
			s.confirm(shard, ids...)
		} else {
			s.senders.told(shard, ids)
		}
	}
}
