package delivery

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/storage"
)

// Bounds of what is known about senders of the same bytes.
const (
	maxSenders = 1 << 16 // deliveries; beyond, a sender counts as gone
	maxApart   = 512     // deliveries that one command names
	maxRounds  = 4       // of doubt about one message
)

// senders are the deliveries of this node that their shards hold for
// unconfirmed. Whose sender is there, or has heard the reply, will not come again:
// another message of the same bytes is then one sent on purpose, and not a resend.
type senders struct {
	mu   *sync.Mutex // guards the maps and what they lead to
	byID map[covey.DeliveryID]*sender
	same map[sameness][]*sender
}

// A sameness is what senders of the same message have in common.
type sameness struct {
	hash  [16]byte
	shard covey.ShardID
}

type sender struct {
	id     covey.DeliveryID
	hash   [16]byte
	shards []covey.ShardID // that have not been told that it heard
	here   func() bool     // Envelope.Here
	heard  bool
}

func newSenders() senders {
	return senders{mu: new(sync.Mutex), byID: make(map[covey.DeliveryID]*sender), same: make(map[sameness][]*sender)}
}

// enter notes a delivery that is about to be proposed.
func (s senders) enter(one *sender) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if one.here == nil || len(s.byID) >= maxSenders {
		return
	}
	s.byID[one.id] = one
	for _, shard := range one.shards {
		at := sameness{one.hash, shard}
		s.same[at] = append(s.same[at], one)
	}
}

// hear notes that a sender has its reply, of which shards will be told.
func (s senders) hear(id covey.DeliveryID, shards []covey.ShardID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if one := s.byID[id]; one != nil {
		one.heard, one.here = true, nil
		s.keep(one, func(id covey.ShardID) bool { return slices.Contains(shards, id) })
	}
}

// leave notes that a sender may come again, or cannot be told from one that may.
func (s senders) leave(id covey.DeliveryID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if one := s.byID[id]; one != nil {
		s.keep(one, func(covey.ShardID) bool { return false })
	}
}

// told notes that a shard knows who has heard, or will never be told.
func (s senders) told(shard covey.ShardID, ids []covey.DeliveryID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, id := range ids {
		if one := s.byID[id]; one != nil {
			s.keep(one, func(id covey.ShardID) bool { return id != shard })
		}
	}
}

// keep leaves a delivery where wanted says so, and nothing of one that is left
// nowhere. mu is held.
func (s senders) keep(one *sender, wanted func(covey.ShardID) bool) {
	left := one.shards[:0]
	for _, shard := range one.shards {
		if wanted(shard) {
			left = append(left, shard)
			continue
		}
		at := sameness{one.hash, shard}
		if s.same[at] = slices.DeleteFunc(s.same[at], func(o *sender) bool { return o == one }); len(s.same[at]) == 0 {
			delete(s.same, at)
		}
	}
	if one.shards = left; len(left) == 0 {
		delete(s.byID, one.id)
	}
}

// apart returns the deliveries of a message to a shard, but for one, whose senders
// will not come again.
func (s senders) apart(at sameness, but covey.DeliveryID) (ids []covey.DeliveryID) {
	s.mu.Lock()
	var ask []sender
	for _, one := range s.same[at] {
		if one.id != but && len(ask) < maxApart {
			ask = append(ask, *one)
		}
	}
	s.mu.Unlock()
	for _, one := range ask {
		if one.heard || one.here() {
			ids = append(ids, one.id)
		}
	}
	return ids
}

// Apart returns this node's deliveries of a message to a shard whose senders will
// not send it again, in answer to Config.Ask of another node.
func (s *Service) Apart(hash [16]byte, shard covey.ShardID) []covey.DeliveryID {
	return s.senders.apart(sameness{hash, shard}, covey.DeliveryID{})
}

// Lost says that the sender of a receipt is gone, and perhaps without the reply. A
// receipt whose outcomes are not temporary is given to Confirm or to Lost.
func (s *Service) Lost(r Receipt) { s.senders.leave(r.ID) }

// askTimeout bounds how long another node may take to say what it knows.
const askTimeout = time.Second

// settle has a Deliver proposed, and finds out what its shard wants to know before
// it can tell a resend from a message that is sent a second time on purpose.
func (s *Service) settle(ctx context.Context, shard covey.ShardID, cmd storage.Deliver, propose func(storage.Deliver) (*storage.Result, error)) error {
	at := sameness{cmd.Hash, shard}
	for range maxRounds {
		if cmd.Asks {
			cmd.Apart = merge(cmd.Apart, s.senders.apart(at, cmd.ID))
		}
		res, err := propose(cmd)
		if err != nil || len(res.Doubts) == 0 {
			return err
		}
		s.resolve(ctx, at, &cmd, res.Doubts)
	}
	// Others send the same at the same moment, again and again: no resends.
	cmd.Hash, cmd.Asks, cmd.Apart, cmd.Lost = [16]byte{}, false, nil, nil
	_, err := propose(cmd)
	return err
}

// resolve finds out about deliveries that a shard is in doubt about.
func (s *Service) resolve(ctx context.Context, at sameness, cmd *storage.Deliver, doubts []covey.DeliveryID) {
	mine := s.senders.apart(at, cmd.ID)
	asked := map[covey.NodeID]bool{cmd.ID.Node: true}
	for _, id := range doubts {
		if !asked[id.Node] && s.cfg.Ask != nil {
			ctx, cancel := context.WithTimeout(ctx, askTimeout)
			theirs, err := s.cfg.Ask(ctx, id.Node, at.hash, at.shard)
			cancel()
			if err == nil { // else its senders are lost, as far as can be told
				mine = merge(mine, theirs)
			}
		}
		asked[id.Node] = true
	}
	cmd.Apart = merge(cmd.Apart, mine)
	for _, id := range doubts {
		if !slices.Contains(cmd.Apart, id) {
			cmd.Lost = merge(cmd.Lost, []covey.DeliveryID{id})
		}
	}
}

// merge returns the ids of both lists, each once, up to the bound of a command.
func merge(a, b []covey.DeliveryID) []covey.DeliveryID {
	for _, id := range b {
		if len(a) < maxApart && !slices.Contains(a, id) {
			a = append(a, id)
		}
	}
	return a
}
