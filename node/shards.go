package node

import (
	"context"
	"sync"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/replica"
	"github.com/covey-mail/covey/storage"
)

// shards is mailbox.Shards over the groups and states of this node.
type shards struct {
	host   *replica.Host
	states map[covey.ShardID]storage.State // not changed once the node runs
	frames *sync.Pool                      // of *[]byte, for encoded commands
}

func newShards(host *replica.Host) shards {
	return shards{
		host:   host,
		states: make(map[covey.ShardID]storage.State),
		frames: &sync.Pool{New: func() any { return new([]byte) }},
	}
}

// Propose implements mailbox.Shards.
func (s shards) Propose(ctx context.Context, id covey.ShardID, cmd storage.Command) (*storage.Result, error) {
	frame := s.frames.Get().(*[]byte)
	*frame = storage.AppendEncoded((*frame)[:0], cmd)
	v, err := s.host.Propose(ctx, id, *frame)
	s.frames.Put(frame) // Propose keeps nothing of it
	if err != nil {
		return nil, err
	}
	res := v.(*storage.Result)
	return res, res.Err
}

// Read implements mailbox.Shards.
func (s shards) Read(ctx context.Context, id covey.ShardID) (storage.Reader, error) {
	if err := s.host.ReadIndex(ctx, id); err != nil {
		return nil, err
	}
	return s.Local(id)
}

// Local implements mailbox.Shards.
func (s shards) Local(id covey.ShardID) (storage.Reader, error) {
	st, ok := s.states[id]
	if !ok {
		return nil, covey.Errorf(covey.Unavailable, "shard %d has no replica on this node", id)
	}
	return st, nil
}
