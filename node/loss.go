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
// reached.
func (n *Node) nodeLoss(ctx context.Context, r admin.NodeRequest) (admin.Loss, error) {
	m, err := n.member(r.Node)
	if err != nil {
		return admin.Loss{}, err
	}
	loss := admin.Loss{Shards: []covey.ShardID{}}
	if !n.gone(m.ID) {
		return loss, nil
	}
	lost, err := n.lostWith(ctx, m.ID)
	if err != nil {
		return admin.Loss{}, err
	}
	for _, l := range lost {
		loss.Shards = append(loss.Shards, l.id)
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

// decideTime bounds questions to all nodes without whose answer nothing is given up.
const decideTime = 10 * time.Second

// A lostShard is one that nobody votes in who is there.
type lostShard struct {
	id   covey.ShardID
	rest []covey.NodeID // who have something of it, which is of no use any more
}

// lostWith returns the shards that are lost with a dead node: it led them, or is to
// hold them alone, and none of the others, who must all answer, has a vote there. A
// copy that is not complete, as of a move that the death broke off, saves nothing.
func (n *Node) lostWith(ctx context.Context, id covey.NodeID) ([]lostShard, error) {
	ctx, cancel := context.WithTimeout(ctx, decideTime)
	defer cancel()
	held, voted := make(map[covey.ShardID]bool), make(map[covey.ShardID]bool)
	rest := make(map[covey.ShardID][]covey.NodeID)
	for _, m := range n.directory.Nodes() {
		if m.ID == id {
			continue
		}
		here, err := n.shardsAt(ctx, m.ID)
		if err != nil {
			return nil, unreached(m.ID, err)
		}
		for _, sh := range here {
			rest[sh.ID] = append(rest[sh.ID], m.ID)
			votes := func(of covey.NodeID) bool {
				return slices.ContainsFunc(sh.Replicas, func(r admin.Replica) bool { return !r.Learner && r.Node == of.String() })
			}
			held[sh.ID] = held[sh.ID] || votes(m.ID)
			voted[sh.ID] = voted[sh.ID] || votes(id)
		}
	}
	var lost []lostShard
	for shard := covey.ShardID(1); shard <= covey.ShardID(n.folder.self.Shards); shard++ {
		leader, _ := n.table.Known(shard)
		alone := slices.Equal(n.directory.Voters(shard), []covey.NodeID{id})
		if !held[shard] && (alone || leader == id || voted[shard]) {
			lost = append(lost, lostShard{shard, rest[shard]})
		}
	}
	return lost, nil
}

// shardsAt asks a node, perhaps this one, what it has.
func (n *Node) shardsAt(ctx context.Context, id covey.NodeID) (list []admin.Shard, err error) {
	if id == n.folder.id {
		return n.shardsHere(), nil
	}
	b, err := n.links.Call(ctx, id, methodShards)
	if err == nil {
		err = json.Unmarshal(b, &list)
	}
	return list, err
}

// acceptLoss has the shards begin once more, empty, that are lost with a dead node.
// Their accounts stay. It may be done again when it was broken off: a shard that
// has begun somewhere is not lost any more.
func (n *Node) acceptLoss(ctx context.Context, id covey.NodeID) error {
	if err := n.answers(ctx, id); err != nil {
		return err
	}
	lost, err := n.lostWith(ctx, id)
	if err != nil {
		return err
	}
	heirs := n.heirs(id)
	if len(heirs) == 0 && len(lost) > 0 {
		return covey.Errorf(covey.Denied, "no node is there that could hold what node %s had", id)
	}
	for i, l := range lost {
		to := heirs[i%len(heirs)]
		n.log.Warn("a shard begins anew: all that it held is lost", "shard", uint32(l.id), "lost_with", id.String(), "at", to.String())
		for _, leftover := range l.rest {
			if err := n.askFound(ctx, leftover, l.id, 0); err != nil {
				return err
			}
		}
		_, term := n.table.Known(l.id)
		if err := n.askFound(ctx, to, l.id, term+termsAhead); err != nil {
			return err
		}
	}
	return n.mapWithout(ctx, id)
}

// mapWithout takes a dead node out of the shard map where a shard has begun anew
// elsewhere.
func (n *Node) mapWithout(ctx context.Context, id covey.NodeID) error {
	ctx, cancel := context.WithTimeout(ctx, decideTime)
	defer cancel()
	wanted, epoch := n.directory.ShardMap()
	changes := make(map[covey.ShardID][]covey.NodeID)
	for _, m := range n.directory.Nodes() {
		if m.ID == id {
			continue
		}
		here, err := n.shardsAt(ctx, m.ID)
		if err != nil {
			return unreached(m.ID, err)
		}
		for _, sh := range here {
			// Its leader may have taken the dead one for a learner, as the map wants it.
			voted := slices.ContainsFunc(sh.Replicas, func(r admin.Replica) bool { return !r.Learner && r.Node == id.String() })
			if sh.ID != covey.DirectoryShard && sh.Leader == m.ID.String() && !voted && slices.Equal(wanted[sh.ID], []covey.NodeID{id}) {
				changes[sh.ID] = []covey.NodeID{m.ID}
			}
		}
	}
	if len(changes) == 0 {
		return nil
	}
	_, err := n.directory.SetShardMap(ctx, epoch, changes)
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

// askFound has a node found a shard in a term; with term 0, only remove what it has
// of one that is lost.
func (n *Node) askFound(ctx context.Context, to covey.NodeID, id covey.ShardID, term uint64) error {
	req := wire.AppendUint(wire.AppendUint(nil, uint64(id)), term)
	if to == n.folder.id {
		_, err := n.serveFound(ctx, to, req)
		return err
	}
	_, err := n.links.Call(ctx, to, methodFound, req)
	return err
}

// serveFound answers askFound, after looking for itself that nobody who is there has
// a vote in the shard.
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
	n.tending.Lock()
	defer n.tending.Unlock()
	_, here := n.states.get(id)
	if here {
		for _, g := range n.host.Status() {
			for _, v := range g.Voters {
				if g.Group != id {
					continue
				}
				if err := n.answers(ctx, v); err != nil {
					return nil, covey.Errorf(covey.Conflict, "shard %d is not lost: %w", id, err)
				}
			}
		}
		n.log.Warn("what this node has of a lost shard is removed", "shard", uint32(id), "asked_by", from.String())
		if err := n.dropShard(ctx, id); err != nil {
			return nil, err
		}
	}
	if term == 0 {
		return nil, nil
	}
	n.log.Warn("a lost shard begins anew on this node", "shard", uint32(id), "asked_by", from.String())
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
