package directory

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/covey-mail/covey"
)

// A cluster is the node list and the shard map. It is not changed once readers see
// it, nor is anything in it: a change makes another.
type cluster struct {
	known   map[covey.NodeID]Node // members, and those that were
	members []Node                // by id
	shards  map[covey.ShardID][]covey.NodeID
	epoch   uint64 // of shards; 0: there is none yet
}

// listMembers makes members of known.
func (c *cluster) listMembers() {
	c.members = nil
	for _, n := range c.known {
		if n.State != Removed {
			c.members = append(c.members, n)
		}
	}
	slices.SortFunc(c.members, func(a, b Node) int { return cmp.Compare(a.ID, b.ID) })
}

// member returns a member, or the error that there is none.
func (c *cluster) member(id covey.NodeID) (Node, error) {
	n, ok := c.known[id]
	switch {
	case !ok:
		return n, covey.Errorf(covey.NotFound, "there is no node %s: see `covey status`", id)
	case n.State == Removed && n.ReplacedBy != 0:
		return n, covey.Errorf(covey.Denied, "node %s was removed from the cluster and replaced by %s: start it on an empty folder, as a new node", id, n.ReplacedBy)
	case n.State == Removed:
		return n, covey.Errorf(covey.Denied, "node %s was removed from the cluster: start it on an empty folder, as a new node", id)
	}
	return n, nil
}

// wanted counts the shards that want a node, but for group 0 if others vote there:
// everybody has a copy of that, and as long as the node is a member it may be
// needed for an odd number of voters.
func (c *cluster) wanted(id covey.NodeID) (n int) {
	for shard, voters := range c.shards {
		if slices.Contains(voters, id) && (shard != covey.DirectoryShard || len(voters) == 1) {
			n++
		}
	}
	return n
}

// showCluster makes c what readers see, and remembers to tell watchers.
func (s *State) showCluster(c *cluster, changed Event) {
	s.viewMu.Lock()
	defer s.viewMu.Unlock()
	s.cluster = c
	s.changed |= changed
}

// viewCluster returns the cluster as readers see it.
func (s *State) viewCluster() *cluster {
	s.viewMu.Lock()
	defer s.viewMu.Unlock()
	return s.cluster
}

// putNode writes a node.
func (s *State) putNode(n Node) error {
	err := s.db.exec("REPLACE INTO node VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
		int64(n.ID), []byte(n.Key), n.Peer, n.Gossip, n.Zone, n.Version, int64(n.Level),
		int64(n.State), int64(n.ReplacedBy), n.Joined.Unix(), n.Changed.Unix(), int64(n.Stamp.Count), int64(n.Stamp.Mark))
	if err != nil {
		return err
	}
	next := *s.cluster
	next.known = maps.Clone(next.known)
	next.known[n.ID] = n
	next.listMembers()
	s.showCluster(&next, NodesChanged)
	return nil
}

func (s *State) addNode(c AddNode) (any, error) {
	is, known := s.cluster.known[c.ID]
	switch {
	case s.meta.shards == 0:
		return covey.Errorf(covey.Unavailable, "the cluster is not founded yet"), nil
	case known && is.State != Removed && !is.Key.Equal(c.Key):
		return covey.Errorf(covey.Denied, "there is a node %s with another key: start this one on an empty folder, as a new node", c.ID), nil
	case known:
		return s.updateNode(UpdateNode{ID: c.ID, NodeInfo: c.NodeInfo, Time: c.Time})
	case c.Level < s.meta.level:
		return tooOld(c.ID, c.Level, s.meta.level), nil
	case len(s.cluster.members) >= MaxNodes:
		return covey.Errorf(covey.Limit, "there are %d nodes, and there cannot be more", MaxNodes), nil
	case len(s.cluster.known) >= maxEver:
		return covey.Errorf(covey.Limit, "%d nodes have joined this cluster, and there cannot be more", maxEver), nil
	}
	return nil, s.putNode(Node{ID: c.ID, Key: c.Key, NodeInfo: c.NodeInfo, Joined: c.Time, Changed: c.Time})
}

func tooOld(id covey.NodeID, has, needs uint32) error {
	return covey.Errorf(covey.Denied, "node %s has a program of level %d, and the cluster needs %d: install a newer one", id, has, needs)
}

func (s *State) updateNode(c UpdateNode) (any, error) {
	n, err := s.cluster.member(c.ID)
	switch {
	case err != nil:
		return err, nil
	case c.Level < s.meta.level:
		return tooOld(c.ID, c.Level, s.meta.level), nil
	case n.NodeInfo == c.NodeInfo:
		return nil, nil
	}
	n.NodeInfo, n.Changed = c.NodeInfo, c.Time
	return nil, s.putNode(n)
}

func (s *State) setNodeState(c SetNodeState) (any, error) {
	n, err := s.cluster.member(c.ID)
	switch {
	case err != nil:
		return err, nil
	case n.State == c.State:
		return nil, nil
	case n.State != c.Expected:
		return covey.Errorf(covey.Conflict, "node %s is %s, not %s", c.ID, n.State, c.Expected), nil
	}
	n.State, n.Changed = c.State, c.Time
	return nil, s.putNode(n)
}

func (s *State) stampNode(c StampNode) (any, error) {
	n, err := s.cluster.member(c.ID)
	switch {
	case err != nil:
		return err, nil
	case n.Stamp == c.Stamp:
		return nil, nil
	case !c.Stamp.Follows(n.Stamp):
		return diskPutBack(c.ID), nil
	}
	n.Stamp = c.Stamp
	return nil, s.putNode(n)
}

// diskPutBack is why a node with an old disk is not believed.
func diskPutBack(id covey.NodeID) error {
	return covey.Errorf(covey.Denied, "the disk of node %s is older than what the cluster has heard from it: it was put back, or there are two of it; "+
		"`covey node remove %s`, and start it on an empty folder, as a new node", id, id)
}

func (s *State) removeNode(c RemoveNode) (any, error) {
	if is := s.cluster.known[c.ID]; is.State == Removed && is.ReplacedBy == c.ReplacedBy {
		return nil, nil
	}
	n, err := s.cluster.member(c.ID)
	if err != nil {
		return err, nil
	}
	switch wanted := s.cluster.wanted(c.ID); {
	case wanted > 0:
		return covey.Errorf(covey.Denied, "node %s is to hold %d shards: move them away first, with `covey node drain %s`", c.ID, wanted, c.ID), nil
	case len(s.cluster.members) == 1:
		return covey.Errorf(covey.Denied, "node %s is the only one", c.ID), nil
	case c.ReplacedBy == c.ID:
		return covey.Errorf(covey.Invalid, "node %s cannot replace itself", c.ID), nil
	case c.ReplacedBy != 0:
		if _, err := s.cluster.member(c.ReplacedBy); err != nil {
			return err, nil
		}
	}
	n.State, n.ReplacedBy, n.Changed = Removed, c.ReplacedBy, c.Time
	return nil, s.putNode(n)
}

func (s *State) setShardMap(c SetShardMap) (any, error) {
	is := s.cluster
	if c.Expected != is.epoch {
		return covey.Errorf(covey.Conflict, "the shard map has epoch %d, not %d: it was changed meanwhile", is.epoch, c.Expected), nil
	}
	if len(c.Changes) == 0 || is.epoch == 0 && len(c.Changes) != int(s.meta.shards)+1 {
		return covey.Errorf(covey.Invalid, "%d shards in a change of the shard map of epoch %d: the first map has all of them, each change at least one",
			len(c.Changes), is.epoch), nil
	}
	order := slices.Sorted(maps.Keys(c.Changes))
	for _, id := range order {
		if err := is.checkVoters(id, c.Changes[id], s.meta.shards); err != nil {
			return err, nil
		}
	}
	for _, id := range order {
		if err := s.db.exec("REPLACE INTO shard VALUES (?, ?, ?)", int64(id), int64(is.epoch+1), formatVoters(c.Changes[id])); err != nil {
			return nil, err
		}
	}
	next := *is
	next.shards = maps.Clone(is.shards)
	maps.Copy(next.shards, c.Changes)
	next.epoch++
	s.showCluster(&next, MapChanged)
	return next.epoch, nil
}

// checkVoters returns why voters cannot be those of a shard, of which there are so
// many.
func (c *cluster) checkVoters(id covey.ShardID, voters []covey.NodeID, shards uint32) error {
	if shards == 0 || uint32(id) > shards {
		return covey.Errorf(covey.NotFound, "there is no shard %d", id)
	}
	if len(voters) == 0 {
		return covey.Errorf(covey.Invalid, "shard %d has to have a voter", id)
	}
	for i, v := range voters {
		if _, err := c.member(v); err != nil {
			return fmt.Errorf("voters of shard %d: %w", id, err)
		}
		if slices.Contains(voters[:i], v) {
			return covey.Errorf(covey.Invalid, "voters of shard %d: node %s is there twice", id, v)
		}
	}
	return nil
}

func (s *State) setLevel(c SetLevel) any {
	if c.Level < s.meta.level {
		return covey.Errorf(covey.Denied, "the cluster has level %d and cannot go back to %d", s.meta.level, c.Level)
	}
	for _, n := range s.cluster.members {
		if n.Level < c.Level {
			return tooOld(n.ID, n.Level, c.Level)
		}
	}
	if c.Level > s.meta.level {
		s.change(func(m *meta) { m.level = c.Level })
		s.changed |= SettingsChanged
	}
	return nil
}

func (s *State) found(c Found) (any, error) {
	switch {
	case s.meta.shards != 0:
		return covey.Errorf(covey.Exists, "the directory belongs to cluster %s already", s.meta.cluster), nil
	case c.First != nil && c.First.Level < s.meta.level:
		return tooOld(c.First.ID, c.First.Level, s.meta.level), nil
	}
	s.change(func(m *meta) { m.cluster, m.shards = c.Cluster, c.Shards })
	s.changed |= SettingsChanged
	if c.First == nil {
		return nil, nil
	}
	s.change(func(m *meta) { m.level = c.First.Level })
	first := SetShardMap{Changes: make(map[covey.ShardID][]covey.NodeID)}
	for id := range covey.ShardID(c.Shards) + 1 {
		first.Changes[id] = []covey.NodeID{c.First.ID}
	}
	for _, step := range []func() (any, error){
		func() (any, error) { return s.addNode(*c.First) },
		func() (any, error) { return s.setShardMap(first) },
	} {
		result, err := step()
		if refused, ok := result.(error); ok { // nothing can be in the way
			err = fmt.Errorf("found a cluster: %w", refused)
		}
		if err != nil {
			return nil, err
		}
	}
	return nil, nil
}

func (c SetSettings) change(m *meta) {
	if c.Quota != nil {
		m.quota = max(*c.Quota, 0)
	}
	if c.Postmaster != nil {
		m.postmaster = *c.Postmaster
	}
	if c.Replicas != nil {
		m.replicas = *c.Replicas
	}
	if c.RebuildAfter != nil {
		m.rebuild = c.RebuildAfter.Truncate(time.Second)
	}
}
