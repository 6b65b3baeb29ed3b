package node

import (
	"context"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/replica"
	"github.com/covey-mail/covey/storage"
)

// shards is mailbox.Shards over the groups and states of this node.
type shards struct {
	host   *replica.Host
	states map[covey.ShardID]storage.State // not changed once the node runs
}

// Propose implements mailbox.Shards.
func (s shards) Propose(ctx context.Context, id covey.ShardID, cmd storage.Command) (*storage.Result, error) {
	v, err := s.host.Propose(ctx, id, storage.Encode(cmd))
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
