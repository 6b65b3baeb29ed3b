package reconcile

import (
	"context"
	"maps"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/directory"
	"github.com/covey-mail/covey/placement"
)

// A model is a cluster in which all that is asked for happens at once.
type model struct {
	nodes  []directory.Node
	wanted map[covey.ShardID][]covey.NodeID
	epoch  uint64
	groups map[covey.ShardID]*placement.Group
	dead   map[covey.NodeID]time.Time
	behind map[covey.NodeID]bool // never catches up
}

const shards = 6

// founded is a cluster of node 1 alone.
func founded() *model {
	m := &model{
		nodes: []directory.Node{{ID: 1}}, wanted: map[covey.ShardID][]covey.NodeID{}, epoch: 1,
		groups: map[covey.ShardID]*placement.Group{}, dead: map[covey.NodeID]time.Time{}, behind: map[covey.NodeID]bool{},
	}
	for id := covey.ShardID(0); id <= shards; id++ {
		m.wanted[id] = []covey.NodeID{1}
		m.groups[id] = &placement.Group{Voters: []covey.NodeID{1}, Leader: 1}
	}
	return m
}

func (m *model) Nodes() []directory.Node { return m.nodes }

func (m *model) ShardMap() (map[covey.ShardID][]covey.NodeID, uint64) {
	return maps.Clone(m.wanted), m.epoch
}

func (m *model) Settings() directory.Settings {
	return directory.Settings{Replicas: 3, RebuildAfter: 10 * time.Minute}
}

func (m *model) Cluster() (covey.ClusterID, uint32) { return covey.ClusterID{1}, shards }

func (m *model) SetShardMap(_ context.Context, expected uint64, changes map[covey.ShardID][]covey.NodeID) (uint64, error) {
	if expected != m.epoch {
		return m.epoch, covey.Errorf(covey.Conflict, "epoch is %d", m.epoch)
	}
	maps.Copy(m.wanted, changes)
	m.epoch++
	return m.epoch, nil
}

func (m *model) Dead(id covey.NodeID) (time.Time, bool) {
	since, ok := m.dead[id]
	return since, ok
}

// die takes a node away; others are elected.
func (m *model) die(id covey.NodeID) {
	m.dead[id] = time.Now()
	for _, g := range m.groups {
		if g.Leader == id {
			g.Leader = g.Voters[slices.IndexFunc(g.Voters, func(n covey.NodeID) bool { return n != id })]
		}
	}
}

func (m *model) Leaders() map[covey.ShardID]covey.NodeID {
	all := make(map[covey.ShardID]covey.NodeID)
	for id, g := range m.groups {
		all[id] = g.Leader
	}
	return all
}

// view is the model as one node sees its groups.
type view struct {
	*model
	self covey.NodeID
}

func (v view) Groups() (list []Group) {
	for _, id := range slices.Sorted(maps.Keys(v.groups)) {
		g := *v.groups[id]
		if g.Leader != v.self {
			continue
		}
		g.CaughtUp = make(map[covey.NodeID]bool)
		for _, n := range slices.Concat(g.Voters, g.Learners) {
			_, dead := v.dead[n]
			g.CaughtUp[n] = !dead && !v.behind[n]
		}
		list = append(list, Group{id, g})
	}
	return list
}

func (v view) ChangeMembers(_ context.Context, id covey.ShardID, changes []placement.Change) error {
	g := v.groups[id]
	for _, c := range changes {
		g.Voters = slices.DeleteFunc(slices.Clone(g.Voters), func(n covey.NodeID) bool { return n == c.Node })
		g.Learners = slices.DeleteFunc(slices.Clone(g.Learners), func(n covey.NodeID) bool { return n == c.Node })
		switch c.Role {
		case placement.Voter:
			g.Voters = append(g.Voters, c.Node)
		case placement.Learner:
			g.Learners = append(g.Learners, c.Node)
		}
	}
	slices.Sort(g.Voters)
	return nil
}

func (v view) TransferLeader(_ context.Context, id covey.ShardID, to covey.NodeID) error {
	v.groups[id].Leader = to
	return nil
}

// run makes passes on all live nodes for some time.
func (m *model) run(ctx context.Context, d time.Duration) {
	all := make(map[covey.NodeID]*Reconciler)
	for _, n := range m.nodes {
		all[n.ID] = New(Config{Self: n.ID, Directory: m, Groups: view{m, n.ID}, Gossip: m})
	}
	for end := time.Now().Add(d); time.Now().Before(end); {
		for _, id := range slices.Sorted(maps.Keys(all)) {
			if _, dead := m.dead[id]; !dead {
				all[id].pass(ctx)
			}
		}
		<-time.After(every)
	}
}

// leads counts the shards that each node leads, group 0 among them.
func (m *model) leads() map[covey.NodeID]int {
	n := make(map[covey.NodeID]int)
	for _, g := range m.groups {
		n[g.Leader]++
	}
	return n
}

func TestOneBecomesThree(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := founded()
		m.run(t.Context(), time.Minute)
		if m.epoch != 1 {
			t.Errorf("the map of a single node changed: epoch %d", m.epoch)
		}
		m.nodes = append(m.nodes, directory.Node{ID: 2})
		m.run(t.Context(), time.Minute)
		for id, g := range m.groups {
			if len(g.Voters) != 1 {
				t.Errorf("two nodes: shard %d has voters %v, want one", id, g.Voters)
			}
		}
		if want := []covey.NodeID{2}; !slices.Equal(m.groups[0].Learners, want) && !slices.Equal(m.groups[0].Voters, want) {
			t.Errorf("two nodes: the directory has learners %v, want a copy on every node", m.groups[0].Learners)
		}
		m.nodes = append(m.nodes, directory.Node{ID: 3})
		m.run(t.Context(), 2*time.Minute)
		for id, g := range m.groups {
			if len(g.Voters) != 3 || len(g.Learners) != 0 {
				t.Errorf("three nodes: shard %d has voters %v and learners %v", id, g.Voters, g.Learners)
			}
		}
		for id, n := range m.leads() {
			if n < 2 || n > 3 {
				t.Errorf("node %d leads %d of 7 groups", id, n)
			}
		}
	})
}

// A dead node keeps its replicas until it is lost; then they are made elsewhere.
func TestLostNodeIsReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := founded()
		m.nodes = []directory.Node{{ID: 1}, {ID: 2}, {ID: 3}, {ID: 4}}
		m.run(t.Context(), 3*time.Minute)
		m.die(2)
		epoch := m.epoch
		m.run(t.Context(), 9*time.Minute)
		if m.epoch != epoch {
			t.Errorf("the map changed while the node may come back")
		}
		m.run(t.Context(), 5*time.Minute)
		for id, g := range m.groups {
			if id != 0 && (len(g.Voters) != 3 || slices.Contains(g.Voters, 2)) {
				t.Errorf("shard %d has voters %v, want three without node 2", id, g.Voters)
			}
		}
	})
}

// A dead node that an operator removes or replaces is not waited for, also where
// its successor has a replica already.
func TestDeadNodeIsDrained(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := founded()
		m.nodes = []directory.Node{{ID: 1}, {ID: 2}, {ID: 3}, {ID: 4}}
		m.run(t.Context(), 3*time.Minute)
		m.die(2)
		m.nodes = slices.Clone(m.nodes)
		m.nodes[1].State = directory.Draining
		m.run(t.Context(), time.Minute)
		for id, g := range m.groups {
			if id != 0 && (len(g.Voters) != 3 || slices.Contains(g.Voters, 2)) {
				t.Errorf("shard %d has voters %v, want three without node 2", id, g.Voters)
			}
		}
	})
}

func TestDrainedNodeHoldsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := founded()
		m.nodes = []directory.Node{{ID: 1}, {ID: 2}, {ID: 3}, {ID: 4}}
		m.run(t.Context(), 3*time.Minute)
		m.nodes = slices.Clone(m.nodes)
		m.nodes[0].State = directory.Draining
		m.run(t.Context(), 3*time.Minute)
		for id, g := range m.groups {
			if slices.Contains(g.Voters, 1) || g.Leader == 1 {
				t.Errorf("shard %d has voters %v and leader %v, want nothing on node 1", id, g.Voters, g.Leader)
			}
		}
	})
}

// A node that does not catch up never becomes a voter.
func TestWhoIsBehindDoesNotVote(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := founded()
		m.nodes = []directory.Node{{ID: 1}, {ID: 2}, {ID: 3}}
		m.behind[3] = true
		m.run(t.Context(), time.Minute)
		for id, g := range m.groups {
			if slices.Contains(g.Voters, 3) {
				t.Errorf("shard %d has voters %v", id, g.Voters)
			}
		}
	})
}
