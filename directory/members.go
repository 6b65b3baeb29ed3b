package directory

import (
	"context"
	"crypto/ed25519"
	"fmt"

	"github.com/covey-mail/covey"
)

// Nodes returns the members in the order of their ids. The list is shared, and not
// to be changed.
func (s *Service) Nodes() []Node { return s.state.viewCluster().members }

// Node returns a node that is a member, or was one.
func (s *Service) Node(id covey.NodeID) (Node, bool) {
	n, ok := s.state.viewCluster().known[id]
	return n, ok
}

// Pin returns the key that a link to a member, and from it, must be made with;
// false if the node is no member, or no longer one.
func (s *Service) Pin(id covey.NodeID) (ed25519.PublicKey, bool) {
	n, ok := s.state.viewCluster().known[id]
	if !ok || n.State == Removed {
		return nil, false
	}
	return n.Key, true
}

// CheckDisk returns why what a member says is not to be believed, given the stamp
// that its disk has: Denied if that is older than what this copy knows.
func (s *Service) CheckDisk(id covey.NodeID, has covey.DiskStamp) error {
	if n, ok := s.state.viewCluster().known[id]; ok && !has.Follows(n.Stamp) {
		return diskPutBack(id)
	}
	return nil
}

// ShardMap returns the wanted voters of every shard, group 0 among them, and the
// map's epoch, which is 0 while there is none. Who votes in truth, and leads, the
// shards themselves know. The map is shared, and not to be changed.
func (s *Service) ShardMap() (map[covey.ShardID][]covey.NodeID, uint64) {
	c := s.state.viewCluster()
	return c.shards, c.epoch
}

// Voters returns the wanted voters of one shard, none before there is a map. They
// are shared, and not to be changed.
func (s *Service) Voters(id covey.ShardID) []covey.NodeID { return s.state.viewCluster().shards[id] }

// Level returns the level that all members have: what they all understand.
func (s *Service) Level() uint32 {
	m, _ := s.state.view()
	return m.level
}

// AddNode makes a node a member: see the command. A node that is one already is
// no error.
func (s *Service) AddNode(ctx context.Context, id covey.NodeID, key ed25519.PublicKey, info NodeInfo) error {
	c := AddNode{ID: id, Key: key, NodeInfo: info, Time: s.now()}
	if err := c.check(); err != nil {
		return err
	}
	_, err := s.propose(ctx, c)
	return err
}

func (c AddNode) check() error {
	if err := checkNodeID(c.ID); err != nil {
		return err
	}
	if len(c.Key) != ed25519.PublicKeySize {
		return covey.Errorf(covey.Invalid, "node %s: key of %d octets, want %d", c.ID, len(c.Key), ed25519.PublicKeySize)
	}
	if err := c.NodeInfo.check(); err != nil {
		return fmt.Errorf("node %s: %w", c.ID, err)
	}
	return nil
}

// UpdateNode replaces what a member says of itself. What is said already costs a
// proposal and changes nothing.
func (s *Service) UpdateNode(ctx context.Context, id covey.NodeID, info NodeInfo) error {
	if err := checkNodeID(id); err != nil {
		return err
	}
	if err := info.check(); err != nil {
		return fmt.Errorf("node %s: %w", id, err)
	}
	_, err := s.propose(ctx, UpdateNode{ID: id, NodeInfo: info, Time: s.now()})
	return err
}

// StampNode takes down the stamp of a member's disk: see the command.
func (s *Service) StampNode(ctx context.Context, id covey.NodeID, stamp covey.DiskStamp) error {
	if err := checkNodeID(id); err != nil {
		return err
	}
	_, err := s.propose(ctx, StampNode{ID: id, Stamp: stamp})
	return err
}

// SetNodeState makes a member that is expected to be Active Draining, or the other
// way round: see the command.
func (s *Service) SetNodeState(ctx context.Context, id covey.NodeID, state, expected NodeState) error {
	if state > Draining || expected > Draining {
		return covey.Errorf(covey.Invalid, "a node is made active or draining, and nothing else")
	}
	if err := checkNodeID(id); err != nil {
		return err
	}
	_, err := s.propose(ctx, SetNodeState{ID: id, State: state, Expected: expected, Time: s.now()})
	return err
}

// RemoveNode ends a membership for good: see the command. replacedBy may be 0.
// Whether the shards can do without the node, the caller has to know: this looks at
// the shard map alone.
func (s *Service) RemoveNode(ctx context.Context, id, replacedBy covey.NodeID) error {
	if err := checkNodeID(id); err != nil {
		return err
	}
	_, err := s.propose(ctx, RemoveNode{ID: id, ReplacedBy: replacedBy, Time: s.now()})
	return err
}

// SetShardMap changes the wanted voters of some shards, if the map still has the
// epoch expected, and returns the new one: see the command. After Unknown the next
// try finds a Conflict if the first was done.
func (s *Service) SetShardMap(ctx context.Context, expected uint64, changes map[covey.ShardID][]covey.NodeID) (uint64, error) {
	for id, voters := range changes {
		if id > MaxShards || len(voters) > MaxVoters {
			return 0, covey.Errorf(covey.Invalid, "shard %d: %d voters, want at most %d of a shard up to %d", id, len(voters), MaxVoters, MaxShards)
		}
		for _, v := range voters {
			if err := checkNodeID(v); err != nil {
				return 0, fmt.Errorf("voters of shard %d: %w", id, err)
			}
		}
	}
	result, err := s.propose(ctx, SetShardMap{Expected: expected, Changes: changes})
	if err != nil {
		return 0, err
	}
	return result.(uint64), nil
}

// RaiseLevel raises the cluster's level to what all members have, if that is more.
func (s *Service) RaiseLevel(ctx context.Context) error {
	members := s.Nodes()
	if len(members) == 0 {
		return nil
	}
	level := members[0].Level
	for _, n := range members {
		level = min(level, n.Level)
	}
	if level <= s.Level() {
		return nil
	}
	_, err := s.propose(ctx, SetLevel{Level: level})
	return err
}

// Settings returns the settings of this copy.
func (s *Service) Settings() Settings {
	m, _ := s.state.view()
	return Settings{Quota: m.quota, Postmaster: m.postmaster, Replicas: m.replicas, RebuildAfter: m.rebuild}
}

// SetSettings changes the settings that c names. A postmaster must exist.
func (s *Service) SetSettings(ctx context.Context, c SetSettings) error {
	switch {
	case c.Quota != nil && *c.Quota < 0:
		return covey.Errorf(covey.Invalid, "quota %d is negative", *c.Quota)
	case c.Replicas != nil && !validReplicas(*c.Replicas):
		return covey.Errorf(covey.Invalid, "%d replicas: want 1, 3 or 5", *c.Replicas)
	case c.RebuildAfter != nil && (*c.RebuildAfter < MinRebuildAfter || *c.RebuildAfter > MaxRebuildAfter):
		return covey.Errorf(covey.Invalid, "rebuild after %v: want %v to %v", *c.RebuildAfter, MinRebuildAfter, MaxRebuildAfter)
	}
	if c.Postmaster != nil && !c.Postmaster.IsZero() {
		folded := c.Postmaster.Key()
		if _, err := s.Resolve(ctx, folded); err != nil {
			return fmt.Errorf("postmaster %s: %w", folded, err)
		}
		c.Postmaster = &folded
	}
	_, err := s.propose(ctx, c)
	return err
}

func validReplicas(n int) bool { return n == 1 || n == 3 || n == 5 }
