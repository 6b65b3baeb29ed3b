// Package compare finds out whether the replicas of a shard are alike, by the
// running hash that each keeps of the commands that it has applied and of what
// they did. Replicas that have once differed differ for good: the hash of one
// command goes into that of the next.
//
// None of them stands still, so they are compared at an index that one of them has
// just applied and the others will in a moment. Bodies are no part of the hash;
// each has a checksum of its own.
package compare

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/covey-mail/covey"
)

const (
	// askTime bounds one question to one replica.
	askTime = 2 * time.Second
	// again is the time before a replica is asked again that has not come to the
	// index.
	again = 50 * time.Millisecond
	// rounds is how often another index is taken, because a replica has gone on so
	// far that it has forgotten the one before.
	rounds = 3
)

// An Answer is what a replica knows.
type Answer struct {
	Applied uint64 // the last command that it has applied
	Known   bool   // whether Hash is known
	Hash    uint64
}

// Ask asks a replica for its running hash over everything up to index, or, if that
// is 0, up to the last command that it has applied.
type Ask func(ctx context.Context, node covey.NodeID, id covey.ShardID, index uint64) (Answer, error)

// A Replica is how one compares with the others.
type Replica struct {
	Node    covey.NodeID
	Applied uint64 // when it was last asked
	Known   bool   // whether Hash is known
	Hash    uint64 // at Result.Index
	Differs bool   // from most of those whose hash is known; if there is no most, from any
	Err     error  // why it was not compared
}

// A Result is a comparison of the replicas of a shard.
type Result struct {
	Shard    covey.ShardID
	Index    uint64 // where they were compared; 0: none of them answered
	Replicas []Replica
}

// Differ reports whether two replicas have different hashes.
func (r Result) Differ() bool {
	return slices.ContainsFunc(r.Replicas, func(p Replica) bool { return p.Differs })
}

// Shard compares the replicas of one shard until all are compared that answer, or
// ctx ends.
func Shard(ctx context.Context, ask Ask, id covey.ShardID, nodes []covey.NodeID) Result {
	var res Result
	for range rounds {
		res = Result{Shard: id, Replicas: each(nodes, func(n covey.NodeID) Replica {
			return question(ctx, ask, id, n, 0)
		})}
		for _, p := range res.Replicas {
			res.Index = max(res.Index, p.Applied)
		}
		if res.Index == 0 {
			break
		}
		res.Replicas = each(nodes, func(n covey.NodeID) Replica { return arrive(ctx, ask, id, n, res.Index) })
		if !slices.ContainsFunc(res.Replicas, func(p Replica) bool { return p.forgot(res.Index) }) {
			break
		}
	}
	res.judge()
	return res
}

// each does something with all nodes at once.
func each(nodes []covey.NodeID, do func(covey.NodeID) Replica) []Replica {
	list := make([]Replica, len(nodes))
	var all sync.WaitGroup
	for i, n := range nodes {
		all.Go(func() { list[i] = do(n) })
	}
	all.Wait()
	return list
}

func question(ctx context.Context, ask Ask, id covey.ShardID, n covey.NodeID, index uint64) Replica {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	a, err := ask(ctx, n, id, index)
	return Replica{Node: n, Applied: a.Applied, Known: a.Known && err == nil, Hash: a.Hash, Err: err}
}

// arrive asks a replica until it has come to an index.
func arrive(ctx context.Context, ask Ask, id covey.ShardID, n covey.NodeID, index uint64) Replica {
	for {
		p := question(ctx, ask, id, n, index)
		if p.Err != nil || p.Known {
			return p
		}
		p.Err = covey.Errorf(covey.Unavailable, "it has applied %d, and does not know the hash at %d any more", p.Applied, index)
		if p.forgot(index) {
			return p
		}
		p.Err = covey.Errorf(covey.Unavailable, "it has applied %d and does not come to %d", p.Applied, index)
		select {
		case <-ctx.Done():
			return p
		case <-time.After(again):
		}
	}
}

// forgot reports whether a replica is past an index at which its hash is unknown.
func (p Replica) forgot(index uint64) bool { return !p.Known && p.Applied >= index }

// judge finds who differs.
func (r *Result) judge() {
	votes := make(map[uint64]int)
	known := 0
	for _, p := range r.Replicas {
		if p.Known {
			votes[p.Hash]++
			known++
		}
	}
	for i := range r.Replicas {
		p := &r.Replicas[i]
		p.Differs = p.Known && len(votes) > 1 && 2*votes[p.Hash] <= known
	}
}

// Config is what a Comparer needs; all is required.
type Config struct {
	// Led returns the members of the shards that this node leads.
	Led func() map[covey.ShardID][]covey.NodeID
	Ask Ask

	// Every is the time between two rounds over all that is led.
	Every time.Duration

	// Differ is told when replicas are found to differ that were alike before, or
	// were not led here; and Alike when those of a shard are alike again, because
	// one was replaced.
	Differ func(Result)
	Alike  func(covey.ShardID)
}

// A Comparer compares the shards that its node leads, again and again.
type Comparer struct {
	cfg Config

	mu     sync.Mutex
	differ map[covey.ShardID]Result // as last found
}

// New returns a Comparer. It does no I/O.
func New(cfg Config) *Comparer {
	return &Comparer{cfg: cfg, differ: make(map[covey.ShardID]Result)}
}

// Differing returns the shards led here whose replicas were found to differ. The
// map is the caller's.
func (c *Comparer) Differing() map[covey.ShardID]Result {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.differ)
}

// shardTime bounds the comparison of one shard: one whose replicas lag is left for
// the next round.
const shardTime = 10 * time.Second

// Run compares until ctx ends.
func (c *Comparer) Run(ctx context.Context) {
	tick := time.NewTicker(c.cfg.Every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			c.round(ctx)
		}
	}
}

func (c *Comparer) round(ctx context.Context) {
	led := c.cfg.Led()
	for id := range c.Differing() {
		if _, mine := led[id]; !mine { // its leader will find out
			c.set(id, Result{})
		}
	}
	for _, id := range slices.Sorted(maps.Keys(led)) {
		if len(led[id]) < 2 {
			continue
		}
		one, cancel := context.WithTimeout(ctx, shardTime)
		res := Shard(one, c.cfg.Ask, id, led[id])
		cancel()
		if ctx.Err() != nil {
			return
		}
		was := c.set(id, res)
		switch now := res.Differ(); {
		case now && !was:
			c.cfg.Differ(res)
		case was && !now:
			c.cfg.Alike(id)
		}
	}
}

// set notes a result and returns whether the one before was of replicas that
// differ.
func (c *Comparer) set(id covey.ShardID, res Result) (was bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, was = c.differ[id]
	delete(c.differ, id)
	if res.Differ() {
		c.differ[id] = res
	}
	return was
}
