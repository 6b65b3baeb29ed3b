// Package reconcile drives a cluster from what it is to what it should be: the
// leader of group 0 keeps the shard map as placement wants it, and the leader of
// each group changes its members, one safe step at a time, until they are as the
// map says. Leaders move until each node leads about as many shards.
//
// Every node runs a Reconciler; what a node does not lead it leaves alone. Nothing
// is remembered between passes but what gossip cannot tell, so a pass that fails,
// or a leader that dies in the middle, is made good by the next pass anywhere.
package reconcile

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"time"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/directory"
	"github.com/covey-mail/covey/placement"
)

// Directory is the node list and the shard map; *directory.Service is one.
type Directory interface {
	Nodes() []directory.Node
	ShardMap() (map[covey.ShardID][]covey.NodeID, uint64)
	Settings() directory.Settings
	Cluster() (covey.ClusterID, uint32)
	SetShardMap(ctx context.Context, expected uint64, changes map[covey.ShardID][]covey.NodeID) (uint64, error)
}

// A Group is one of this node's Raft groups.
type Group struct {
	ID covey.ShardID
	placement.Group
}

// Groups are the Raft groups of this node.
type Groups interface {
	// Groups returns the groups that this node leads.
	Groups() []Group
	ChangeMembers(ctx context.Context, id covey.ShardID, changes []placement.Change) error
	TransferLeader(ctx context.Context, id covey.ShardID, to covey.NodeID) error
}

// Gossip is what this node hears of others.
type Gossip interface {
	// Dead reports since when a node does not answer; false if it does.
	Dead(covey.NodeID) (since time.Time, dead bool)
	// Leaders returns the leader of each shard as far as known.
	Leaders() map[covey.ShardID]covey.NodeID
}

// Config is what a Reconciler needs. All but Logger is required.
type Config struct {
	Self      covey.NodeID
	Directory Directory
	Groups    Groups
	Gossip    Gossip
	Logger    *slog.Logger
}

const (
	// every is the time between passes when nothing calls for one.
	every = time.Second
	// settle is how long leadership must have been the same everywhere before it
	// is moved for balance: all who decide then see the same.
	settle = 3 * time.Second
	// stepTimeout bounds one step of a pass.
	stepTimeout = 10 * time.Second
)

// A Reconciler is driven by Run.
type Reconciler struct {
	cfg  Config
	kick chan struct{}

	leaders map[covey.ShardID]covey.NodeID // as of the pass before
	stable  time.Time                      // since when leaders is the same
}

// New returns a Reconciler. It does no I/O.
func New(cfg Config) *Reconciler {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &Reconciler{cfg: cfg, kick: make(chan struct{}, 1)}
}

// Kick asks for a pass soon. It does not block.
func (r *Reconciler) Kick() {
	select {
	case r.kick <- struct{}{}:
	default:
	}
}

// Run makes passes until ctx ends.
func (r *Reconciler) Run(ctx context.Context) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		r.pass(ctx)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-r.kick:
		}
	}
}

// pass does what there is to do now, at most one step for each group.
func (r *Reconciler) pass(ctx context.Context) {
	now := time.Now()
	if leaders := r.cfg.Gossip.Leaders(); !maps.Equal(leaders, r.leaders) {
		r.leaders, r.stable = leaders, now
	}
	nodes := r.nodes(now)
	groups := r.cfg.Groups.Groups()
	if slices.ContainsFunc(groups, func(g Group) bool { return g.ID == covey.DirectoryShard }) {
		r.step(ctx, "change the shard map", covey.DirectoryShard, func(ctx context.Context) error { return r.plan(ctx, nodes) })
	}
	wanted, _ := r.cfg.Directory.ShardMap()
	moved := false
	for _, g := range groups {
		if voters, ok := wanted[g.ID]; ok {
			moved = r.members(ctx, g, voters, nodes) || moved
		}
	}
	if !moved && now.Sub(r.stable) >= settle {
		r.balance(ctx, groups, wanted, nodes)
	}
}

// step does one thing with a bound on its time. What cannot be done now is tried
// again by the next pass.
func (r *Reconciler) step(ctx context.Context, doing string, id covey.ShardID, f func(context.Context) error) {
	ctx, cancel := context.WithTimeout(ctx, stepTimeout)
	defer cancel()
	err := f(ctx)
	switch {
	case err == nil || ctx.Err() != nil && errors.Is(err, context.Canceled):
	case errors.Is(err, covey.Unavailable), errors.Is(err, covey.Conflict), errors.Is(err, covey.InUse), errors.Is(err, covey.Unknown):
		r.cfg.Logger.Debug("not yet: "+doing, "shard", uint32(id), "err", err)
	default:
		r.cfg.Logger.Warn("could not "+doing, "shard", uint32(id), "err", err)
	}
}

// nodes returns the members as placement sees them.
func (r *Reconciler) nodes(now time.Time) []placement.Node {
	members := r.cfg.Directory.Nodes()
	rebuild := r.cfg.Directory.Settings().RebuildAfter
	nodes := make([]placement.Node, 0, len(members))
	for _, m := range members {
		n := placement.Node{ID: m.ID, Zone: m.Zone, State: placement.Up}
		since, dead := r.cfg.Gossip.Dead(m.ID)
		switch {
		// Nobody waits for a dead node that an operator wants to be empty.
		case m.ID != r.cfg.Self && dead && (m.State == directory.Draining || now.Sub(since) > rebuild):
			n.State = placement.Lost
		case m.ID != r.cfg.Self && dead:
			n.State = placement.Down
		case m.State == directory.Draining:
			n.State = placement.Draining
		}
		nodes = append(nodes, n)
	}
	return nodes
}

// plan makes the shard map what placement wants.
func (r *Reconciler) plan(ctx context.Context, nodes []placement.Node) error {
	current, epoch := r.cfg.Directory.ShardMap()
	_, shards := r.cfg.Directory.Cluster()
	if epoch == 0 || shards == 0 {
		return nil // not founded yet
	}
	have := make(placement.Map, len(current))
	for id, voters := range current {
		if id != covey.DirectoryShard {
			have[id] = voters
		}
	}
	want := placement.Plan(nodes, have, int(shards), r.cfg.Directory.Settings().Replicas)
	want[covey.DirectoryShard], _ = placement.Directory(nodes, current[covey.DirectoryShard])
	changes := make(map[covey.ShardID][]covey.NodeID)
	for id, voters := range want {
		if len(voters) > 0 && !slices.Equal(voters, placement.Assignment(current[id])) {
			changes[id] = voters
		}
	}
	if len(changes) == 0 {
		return nil
	}
	r.cfg.Logger.Info("shard map changes", "shards", len(changes), "epoch", epoch+1)
	_, err := r.cfg.Directory.SetShardMap(ctx, epoch, changes)
	return err
}

// members takes one step towards the members that a group should have, and
// reports whether there was one to take.
func (r *Reconciler) members(ctx context.Context, g Group, voters []covey.NodeID, nodes []placement.Node) bool {
	var learners placement.Assignment
	if g.ID == covey.DirectoryShard { // everybody has a copy of the directory
		for _, n := range nodes {
			if !slices.Contains(voters, n.ID) {
				learners = append(learners, n.ID)
			}
		}
	}
	changes := placement.Next(g.Group, voters, learners)
	if len(changes) == 0 {
		return false
	}
	r.step(ctx, "change the members of a group", g.ID, func(ctx context.Context) error {
		if changes[0].Role == placement.Leader {
			return r.cfg.Groups.TransferLeader(ctx, g.ID, changes[0].Node)
		}
		r.cfg.Logger.Info("members change", "shard", uint32(g.ID), "changes", changes)
		return r.cfg.Groups.ChangeMembers(ctx, g.ID, changes)
	})
	return true
}

// balance hands over the groups that other nodes should lead.
func (r *Reconciler) balance(ctx context.Context, groups []Group, wanted map[covey.ShardID][]covey.NodeID, nodes []placement.Node) {
	m := make(placement.Map, len(wanted))
	for id, voters := range wanted {
		m[id] = voters
	}
	should := placement.Leaders(m, nodes, r.leaders)
	for _, g := range groups {
		to := should[g.ID]
		if to == 0 || to == r.cfg.Self || !g.CaughtUp[to] || !slices.Contains(g.Voters, to) || g.Joint {
			continue
		}
		r.step(ctx, "hand over a group", g.ID, func(ctx context.Context) error {
			return r.cfg.Groups.TransferLeader(ctx, g.ID, to)
		})
	}
}
