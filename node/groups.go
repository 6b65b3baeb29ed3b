package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/node/reconcile"
	"github.com/covey-mail/covey/placement"
	"github.com/covey-mail/covey/replica"
	"github.com/covey-mail/covey/storage"
)

// openGroups opens the groups that this node has: those that the log knows and,
// if it makes the cluster, all.
func (n *Node) openGroups() error {
	for id := covey.ShardID(1); id <= covey.ShardID(n.folder.self.Shards); id++ {
		if !n.folder.self.Founding && n.seglog.Group(id).Empty() {
			if err := n.removeState(id); err != nil { // of a removal that was cut short
				return err
			}
			continue
		}
		if err := n.openShard(id, n.founders()); err != nil {
			return err
		}
	}
	return nil
}

// founders are who new groups begin with: this node alone if it makes the
// cluster, else nobody that it knows.
func (n *Node) founders() []covey.NodeID {
	if n.folder.self.Founding {
		return []covey.NodeID{n.folder.id}
	}
	return nil
}

// openShard opens the state of a shard and brings it to the host.
func (n *Node) openShard(id covey.ShardID, voters []covey.NodeID) error {
	st, err := storage.Open(n.shardConfig(id))
	if err != nil {
		return fmt.Errorf("%w%s", err, hint(err))
	}
	// Before the group, so that whoever hears of its leader finds its state.
	n.states.add(id, st)
	if err := n.add(id, st, voters); err != nil {
		n.states.remove(id)
		return err
	}
	return nil
}

// removeState deletes the database of a shard that has no replica here.
func (n *Node) removeState(id covey.ShardID) error {
	for _, suffix := range []string{"", "-wal", "-shm"} {
		err := n.folder.fs.Remove(n.folder.shardPath(id) + suffix)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("remove what is left of shard %d: %w", id, err)
		}
	}
	return nil
}

// tendGroups brings in the groups that the shard map wants here, and removes those
// that it wants elsewhere and that are so.
func (n *Node) tendGroups(ctx context.Context) {
	n.tending.Lock()
	defer n.tending.Unlock()
	wanted, epoch := n.directory.ShardMap()
	if epoch == 0 {
		return
	}
	for id, voters := range wanted {
		if id == covey.DirectoryShard {
			continue
		}
		_, here := n.states.get(id)
		want := slices.Contains(voters, n.folder.id)
		switch {
		case want && !here:
			n.log.Info("shard comes to this node", "shard", uint32(id))
			if err := n.openShard(id, nil); err != nil {
				n.log.Error("could not take in a shard", "shard", uint32(id), "err", err)
			}
		case !want && here:
			leader := n.dismissed(ctx, id, voters)
			if leader == 0 {
				continue
			}
			n.log.Info("shard has left this node", "shard", uint32(id), "leader", leader.String())
			_, term := n.table.Known(id)
			if err := n.dropShard(ctx, id); err != nil {
				n.log.Error("could not remove a shard that is elsewhere now", "shard", uint32(id), "err", err)
			}
			n.table.Learn(id, term, leader) // the group's last word was that it knows none
		}
	}
}

// dismissed returns the leader of a shard if that counts this node as a member no
// more, else 0. Besides the leader that this node knows it asks those who are to
// vote: nobody tells one that was dismissed of the leaders that follow.
func (n *Node) dismissed(ctx context.Context, id covey.ShardID, voters []covey.NodeID) covey.NodeID {
	known, _ := n.table.Known(id)
	if known == n.folder.id {
		return 0 // it has to hand over first
	}
	ask := slices.Clone(voters)
	if known != 0 && !slices.Contains(ask, known) {
		ask = append(ask, known)
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	var by atomic.Uint64
	var asked sync.WaitGroup
	for _, other := range ask {
		asked.Go(func() {
			members, err := n.askMembers(ctx, other, id)
			if err != nil || len(members) == 0 {
				return // it does not lead, or the next look finds it
			}
			if !slices.Contains(members, n.folder.id) {
				by.Store(uint64(other))
			}
			cancel()
		})
	}
	asked.Wait()
	return covey.NodeID(by.Load())
}

// dropShard removes a shard from this node.
func (n *Node) dropShard(ctx context.Context, id covey.ShardID) error {
	n.states.remove(id)
	if err := n.host.Remove(ctx, id); err != nil {
		return err
	}
	return n.removeState(id)
}

// ledGroups implements reconcile.Groups.
type ledGroups struct{ n *Node }

// behind is how many entries a follower may lack to count as caught up: a second
// or so of a busy shard.
const behind = 4096

// caughtUp reports whether a follower may take a vote. One that has nothing yet may
// not, however short the log is: it would not vote, and get a state from a leader
// alone.
func caughtUp(f replica.Follower, committed uint64) bool {
	return f.Active && !f.Snapshot && f.Match > 0 && f.Match+behind >= committed
}

// Groups implements reconcile.Groups.
func (l ledGroups) Groups() (list []reconcile.Group) {
	for _, s := range l.n.host.Status() {
		if s.Leader != l.n.folder.id || s.Fault != nil {
			continue
		}
		g := reconcile.Group{ID: s.Group, Group: placement.Group{
			Voters: s.Voters, Learners: s.Learners, Leader: s.Leader, Joint: s.Joint,
			CaughtUp: map[covey.NodeID]bool{l.n.folder.id: true},
		}}
		for _, f := range s.Followers {
			g.CaughtUp[f.Node] = caughtUp(f, s.Committed)
		}
		list = append(list, g)
	}
	return list
}

// ChangeMembers implements reconcile.Groups.
func (l ledGroups) ChangeMembers(ctx context.Context, id covey.ShardID, changes []placement.Change) error {
	roles := map[placement.Role]replica.Role{
		placement.Voter: replica.Voter, placement.Learner: replica.Learner, placement.Removed: replica.Removed,
	}
	list := make([]replica.MemberChange, len(changes))
	for i, c := range changes {
		list[i] = replica.MemberChange{Node: c.Node, Role: roles[c.Role]}
	}
	return l.n.host.ChangeMembers(ctx, id, list)
}

// TransferLeader implements reconcile.Groups.
func (l ledGroups) TransferLeader(ctx context.Context, id covey.ShardID, to covey.NodeID) error {
	return l.n.host.TransferLeader(ctx, id, to)
}
