package node

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"time"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/directory"
	"github.com/covey-mail/covey/internal/wire"
	"github.com/covey-mail/covey/node/admin"
	"github.com/covey-mail/covey/storage"
)

// termsAhead is how far above the last term that is known a shard begins anew
// whose replicas are lost: one that was alone counts one more at each start.
const termsAhead = 1_000_000

// nodeLoss tells the shards that are lost if a node is removed that cannot be
// reached: those of which it has the only replica.
func (n *Node) nodeLoss(_ context.Context, r admin.NodeRequest) (admin.Loss, error) {
	m, err := n.member(r.Node)
	if err != nil {
		return admin.Loss{}, err
	}
	loss := admin.Loss{Shards: []covey.ShardID{}}
	if n.gone(m.ID) {
		_, lost := n.removal(m.ID)
		loss.Shards = append(loss.Shards, lost...)
	}
	return loss, nil
}

// userInShard lists the accounts of a shard by their ids.
func (n *Node) userInShard(ctx context.Context, r admin.ShardPage) ([]admin.User, error) {
	const most = 1000
	list, err := n.directory.InShard(r.Shard, r.After, most)
	if err != nil {
		return nil, err
	}
	return n.users(ctx, list)
}

// acceptLoss has the shards begin once more, empty, of which a dead node has the
// only replica. Their accounts stay. It may be done again when it was broken off:
// a shard that has begun somewhere is left there.
func (n *Node) acceptLoss(ctx context.Context, id covey.NodeID) error {
	if err := n.answers(ctx, id); err != nil {
		return err
	}
	_, lost := n.removal(id)
	if len(lost) == 0 {
		return nil
	}
	begun, err := n.begun(ctx, id, lost)
	if err != nil {
		return err
	}
	heirs := n.heirs(id)
	if len(heirs) == 0 {
		return covey.Errorf(covey.Denied, "no node is there that could hold %s", shardList(lost))
	}
	_, epoch := n.directory.ShardMap()
	changes := make(map[covey.ShardID][]covey.NodeID)
	for i, shard := range lost {
		to, ok := begun[shard]
		if !ok {
			to = heirs[i%len(heirs)]
			n.log.Warn("a shard begins anew: all that it held is lost", "shard", uint32(shard), "lost_with", id.String(), "at", to.String())
			if err := n.askFound(ctx, to, shard); err != nil {
				return err
			}
		}
		changes[shard] = []covey.NodeID{to}
	}
	_, err = n.directory.SetShardMap(ctx, epoch, changes)
	return err
}

// heirs are the nodes that shards may begin anew on.
func (n *Node) heirs(without covey.NodeID) (ids []covey.NodeID) {
	for _, m := range n.directory.Nodes() {
		if m.ID != without && m.State == directory.Active && !n.dead(m.ID) {
			ids = append(ids, m.ID)
		}
	}
	return ids
}

// begun returns where shards have begun anew already. All nodes but the dead one
// have to answer, so that none begins twice.
func (n *Node) begun(ctx context.Context, dead covey.NodeID, shards []covey.ShardID) (map[covey.ShardID]covey.NodeID, error) {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	at := make(map[covey.ShardID]covey.NodeID)
	for _, m := range n.directory.Nodes() {
		if m.ID == dead {
			continue
		}
		here := n.shardsHere()
		if m.ID != n.folder.id {
			b, err := n.links.Call(ctx, m.ID, methodShards)
			if err == nil {
				here = nil
				err = json.Unmarshal(b, &here)
			}
			if err != nil {
				return nil, unreached(m.ID, err)
			}
		}
		for _, sh := range here {
			if slices.Contains(shards, sh.ID) && sh.Leader == m.ID.String() {
				at[sh.ID] = m.ID
			}
		}
	}
	return at, nil
}

// askFound has a node found a shard.
func (n *Node) askFound(ctx context.Context, to covey.NodeID, id covey.ShardID) error {
	_, term := n.table.Known(id)
	req := wire.AppendUint(wire.AppendUint(nil, uint64(id)), term+termsAhead)
	if to == n.folder.id {
		_, err := n.serveFound(ctx, to, req)
		return err
	}
	_, err := n.links.Call(ctx, to, methodFound, req)
	return err
}

// serveFound begins a shard anew on this node, after looking for itself that
// nobody who is there has it.
func (n *Node) serveFound(ctx context.Context, from covey.NodeID, req []byte) ([]byte, error) {
	r := wire.NewReader(req)
	number, term := r.Uint(), r.Uint()
	id := covey.ShardID(number)
	if number == 0 || number > uint64(n.folder.self.Shards) {
		r.Fail("number of a shard")
	}
	if err := r.End(); err != nil {
		return nil, covey.Errorf(covey.Invalid, "found a shard: %w", err)
	}
	for _, v := range n.directory.Voters(id) {
		if err := n.answers(ctx, v); err != nil {
			return nil, covey.Errorf(covey.Conflict, "shard %d has a replica there: %w", id, err)
		}
	}
	if _, here := n.states.get(id); here {
		return nil, covey.Errorf(covey.Conflict, "shard %d has a replica on node %s", id, n.folder.id)
	}
	n.log.Warn("shard begins anew on this node", "shard", uint32(id), "asked_by", from.String())
	return nil, n.foundShard(id, term)
}

// foundShard opens a new state for a shard and begins its group.
func (n *Node) foundShard(id covey.ShardID, term uint64) error {
	st, err := storage.Open(n.shardConfig(id))
	if err != nil {
		return err
	}
	n.states.add(id, st)
	if err := n.host.Found(id, st, term); err != nil {
		n.states.remove(id)
		return errors.Join(err, st.Close())
	}
	return nil
}

// answers returns nil only for a node that is neither heard of nor answers when it
// is asked.
func (n *Node) answers(ctx context.Context, id covey.NodeID) error {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	var err error = covey.Errorf(covey.Unavailable, "no links")
	if n.links.Net != nil && id != n.folder.id {
		_, err = n.links.Call(ctx, id, methodPing)
	}
	switch {
	case id == n.folder.id || err == nil:
		return covey.Errorf(covey.Denied, "node %s answers, and nothing need be lost: without --accept-loss what it has is moved away", id)
	case !n.gone(id):
		return covey.Errorf(covey.Denied, "node %s has not been dead for %v yet: ask again if it stays so", id, goneAfter)
	}
	return nil
}

// goneAfter is how long a node must have been dead for something to be given up
// for it: also after a start, when nobody has been heard of yet.
const goneAfter = 10 * time.Second

// gone reports whether gossip has taken a node for dead for goneAfter.
func (n *Node) gone(id covey.NodeID) bool {
	since, dead := (gossiped{n}).Dead(id)
	return dead && id != n.folder.id && time.Since(since) >= goneAfter
}

// dead reports whether gossip takes another node for dead.
func (n *Node) dead(id covey.NodeID) bool {
	_, dead := (gossiped{n}).Dead(id)
	return dead && id != n.folder.id
}
