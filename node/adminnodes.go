package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/directory"
	"github.com/covey-mail/covey/node/admin"
	"github.com/covey-mail/covey/placement"
)

// member returns the member of the cluster that an operator names.
func (n *Node) member(name string) (directory.Node, error) {
	id, err := covey.ParseNodeID(name)
	if err != nil {
		return directory.Node{}, err
	}
	m, ok := n.directory.Node(id)
	if !ok || m.State == directory.Removed {
		return m, covey.Errorf(covey.NotFound, "there is no node %s in the cluster: see `covey status`", name)
	}
	return m, nil
}

// nodeDrain has all replicas move away from a node, which stays a member.
func (n *Node) nodeDrain(ctx context.Context, r admin.NodeRequest) (admin.NodeMove, error) {
	m, err := n.member(r.Node)
	if err != nil {
		return admin.NodeMove{}, err
	}
	if r.Undo {
		return admin.NodeMove{Done: true}, n.directory.SetNodeState(ctx, m.ID, directory.Active, directory.Draining)
	}
	if err := n.canLose(ctx, m.ID); err != nil {
		return admin.NodeMove{}, err
	}
	if err := n.directory.SetNodeState(ctx, m.ID, directory.Draining, directory.Active); err != nil {
		return admin.NodeMove{}, err
	}
	return n.moved(ctx, m.ID), nil
}

// nodeRemove drains a node and ends its membership once it holds nothing.
func (n *Node) nodeRemove(ctx context.Context, r admin.NodeRequest) (admin.NodeMove, error) {
	if r.AcceptLoss {
		m, err := n.member(r.Node)
		if err == nil {
			err = n.acceptLoss(ctx, m.ID)
		}
		if err != nil {
			return admin.NodeMove{}, err
		}
	}
	if m, err := n.member(r.Node); err == nil && n.dead(m.ID) {
		if err := n.mapWithout(ctx, m.ID); err != nil {
			return admin.NodeMove{}, err
		}
	}
	move, err := n.nodeDrain(ctx, admin.NodeRequest{Node: r.Node})
	if err != nil || !move.Done {
		return move, err
	}
	m, err := n.member(r.Node)
	if err != nil {
		return move, err
	}
	if err := n.directoryWithout(m.ID); err != nil {
		return move, err
	}
	return move, n.directory.RemoveNode(ctx, m.ID, 0)
}

// directoryWithout returns why the directory would have no quorum without a node.
func (n *Node) directoryWithout(id covey.NodeID) error {
	voters := n.directory.Voters(covey.DirectoryShard)
	alive := 0
	for _, v := range voters {
		if v != id && !n.dead(v) {
			alive++
		}
	}
	if slices.Contains(voters, id) && alive <= len(voters)/2 {
		return covey.Errorf(covey.Denied, "without node %s the directory would have no quorum: of its %d voters %d others are there", id, len(voters), alive)
	}
	return nil
}

// nodeReplace puts one node in the place of another everywhere, and ends the
// membership of the other once it holds nothing.
func (n *Node) nodeReplace(ctx context.Context, r admin.NodeRequest) (admin.NodeMove, error) {
	old, err := n.member(r.Node)
	if err != nil {
		return admin.NodeMove{}, err
	}
	by, err := n.member(r.By)
	if err != nil {
		return admin.NodeMove{}, err
	}
	if by.ID == old.ID {
		return admin.NodeMove{}, covey.Errorf(covey.Invalid, "node %s cannot replace itself", r.Node)
	}
	if err := n.directory.SetNodeState(ctx, old.ID, directory.Draining, directory.Active); err != nil {
		return admin.NodeMove{}, err
	}
	if err := n.mapTo(ctx, old.ID, by.ID); err != nil {
		return admin.NodeMove{}, err
	}
	move := n.moved(ctx, old.ID)
	if !move.Done {
		return move, nil
	}
	return move, n.directory.RemoveNode(ctx, old.ID, by.ID)
}

// removal returns what the cluster would lose without a node: see
// placement.Removal.
func (n *Node) removal(id covey.NodeID) (noQuorum, lost []covey.ShardID) {
	var nodes []placement.Node
	for _, m := range n.directory.Nodes() {
		state := placement.Up
		if n.dead(m.ID) {
			state = placement.Down
		}
		nodes = append(nodes, placement.Node{ID: m.ID, Zone: m.Zone, State: state})
	}
	wanted, _ := n.directory.ShardMap()
	m := make(placement.Map, len(wanted))
	for shard, voters := range wanted {
		if shard != covey.DirectoryShard {
			m[shard] = voters
		}
	}
	return placement.Removal(nodes, m, n.directory.Settings().Replicas, id)
}

// mapTries bounds how often a change of the shard map is tried: the node that
// drives the cluster changes it too, now and then.
const mapTries = 10

// mapTo puts one node in the place of another in the shard map.
func (n *Node) mapTo(ctx context.Context, old, by covey.NodeID) (err error) {
	for range mapTries {
		wanted, epoch := n.directory.ShardMap()
		changes := make(map[covey.ShardID][]covey.NodeID)
		for id, voters := range wanted {
			if i := slices.Index(voters, old); i >= 0 && !slices.Contains(voters, by) {
				next := slices.Clone(voters)
				next[i] = by
				slices.Sort(next)
				changes[id] = next
			}
		}
		if len(changes) == 0 {
			return nil
		}
		if _, err = n.directory.SetShardMap(ctx, epoch, changes); !errors.Is(err, covey.Conflict) {
			return err
		}
		select { // this node may have yet to hear of the change
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
	return err
}

// canLose returns why a node cannot be done without. What only it has is moved, as
// long as it is there and another node too.
func (n *Node) canLose(ctx context.Context, id covey.NodeID) error {
	replicas := n.directory.Settings().Replicas
	noQuorum, alone := n.removal(id)
	if n.dead(id) {
		lost, err := n.lostWith(ctx, id)
		if err != nil {
			return err
		}
		if len(lost) > 0 {
			return covey.Errorf(covey.Denied, "node %s has the only replica of %d shards, and cannot be reached to move them: bring it back, or give up all mail in there with `covey node remove %s --accept-loss`, which lists the accounts first",
				id, len(lost), id)
		}
	}
	switch {
	case len(alone) > 0 && len(n.heirs(id)) == 0:
		return covey.Errorf(covey.Denied, "node %s has the only replica of %s, and there is no other node for it: add one first", id, shardList(alone))
	case len(noQuorum) > 0:
		return covey.Errorf(covey.Denied, "without node %s there are too few nodes for %d replicas of %s: add a node first and use `covey node replace %s NEW`, or lower the number with `covey cluster set --replicas`",
			id, replicas, shardList(noQuorum), id)
	}
	return nil
}

// shardList names shards for people, the first few of them.
func shardList(ids []covey.ShardID) string {
	const most = 5
	if len(ids) == 1 {
		return fmt.Sprintf("shard %d", ids[0])
	}
	var names []string
	for _, id := range ids[:min(len(ids), most)] {
		names = append(names, fmt.Sprint(id))
	}
	text := "shards " + strings.Join(names, ", ")
	if more := len(ids) - most; more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}

// moved tells which shards still count on a node: by the map, or by the members
// that their leaders see.
func (n *Node) moved(ctx context.Context, id covey.NodeID) admin.NodeMove {
	left := []covey.ShardID{}
	for _, sh := range n.allShards(ctx) {
		is := func(r admin.Replica) bool { return r.Node == id.String() }
		votes := func(r admin.Replica) bool { return !r.Learner && !is(r) }
		counts := slices.Contains(sh.Wanted, id.String()) || slices.ContainsFunc(sh.Replicas, is)
		if sh.ID == covey.DirectoryShard { // a member has a copy, and may vote beside others
			counts = slices.Equal(sh.Wanted, []string{id.String()}) || !slices.ContainsFunc(sh.Replicas, votes)
		}
		if counts || sh.Leader == "" {
			left = append(left, sh.ID)
		}
	}
	return admin.NodeMove{Done: len(left) == 0, Shards: left}
}

// clusterSet changes settings of the cluster and returns all of them.
func (n *Node) clusterSet(ctx context.Context, r admin.Settings) (admin.Settings, error) {
	set := directory.SetSettings{Quota: r.Quota, Replicas: r.Replicas}
	if r.RebuildAfter != nil {
		d := time.Duration(*r.RebuildAfter) * time.Second
		set.RebuildAfter = &d
	}
	if r != (admin.Settings{}) {
		if err := n.directory.SetSettings(ctx, set); err != nil {
			return admin.Settings{}, err
		}
	}
	is := n.directory.Settings()
	after := int64(is.RebuildAfter / time.Second)
	return admin.Settings{Quota: &is.Quota, Replicas: &is.Replicas, RebuildAfter: &after}, nil
}
