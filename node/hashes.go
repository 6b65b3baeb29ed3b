package node

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/internal/wire"
	"github.com/covey-mail/covey/node/admin"
	"github.com/covey-mail/covey/node/compare"
)

const (
	// compareEvery is the time between two comparisons of the replicas of a shard:
	// each is some small calls.
	compareEvery = 10 * time.Second
	// compareTime bounds a comparison of all shards that an operator asks for, and
	// compareAtOnce how many are compared at a time.
	compareTime   = 20 * time.Second
	compareAtOnce = 16
)

// makeComparer makes what compares the replicas of the shards led here.
func (n *Node) makeComparer() {
	n.comparer = compare.New(compare.Config{
		Led: n.ledMembers, Ask: n.askHash, Every: compareEvery,
		Differ: func(r compare.Result) {
			n.log.Error("replicas of a shard differ: see docs/operating.md, «Replicas differ»",
				"shard", uint32(r.Shard), "index", r.Index, "hashes", describe(r))
		},
		Alike: func(id covey.ShardID) { n.log.Info("replicas of a shard are alike again", "shard", uint32(id)) },
	})
	n.metrics.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "covey_shards_differing", Help: "Shards led by this node of which two replicas are not alike. Anything but 0 is an alarm.",
	}, func() float64 { return float64(len(n.comparer.Differing())) }))
}

// describe writes a result for the log.
func describe(r compare.Result) string {
	var words []string
	for _, p := range r.Replicas {
		switch {
		case p.Differs:
			words = append(words, fmt.Sprintf("%s %016x differs", p.Node, p.Hash))
		case p.Known:
			words = append(words, fmt.Sprintf("%s %016x", p.Node, p.Hash))
		default:
			words = append(words, fmt.Sprintf("%s unknown", p.Node))
		}
	}
	return strings.Join(words, ", ")
}

// ledMembers returns the members of the groups that this node leads.
func (n *Node) ledMembers() map[covey.ShardID][]covey.NodeID {
	all := make(map[covey.ShardID][]covey.NodeID)
	for _, s := range n.host.Status() {
		if s.Leader == n.folder.id && s.Fault == nil {
			all[s.Group] = slices.Concat(s.Voters, s.Learners)
		}
	}
	return all
}

// A hashed state keeps a running hash.
type hashed interface {
	Hash() (index, hash uint64)
	HashAt(index uint64) (uint64, bool)
}

// hashHere answers for this node's replica of a shard, as compare.Ask says.
func (n *Node) hashHere(id covey.ShardID, index uint64) (compare.Answer, error) {
	var st hashed = n.directoryState
	ok := id == covey.DirectoryShard
	if !ok {
		st, ok = n.states.get(id)
	}
	if !ok {
		return compare.Answer{}, covey.Errorf(covey.NotFound, "shard %d has no replica on node %s", id, n.folder.id)
	}
	applied, hash := st.Hash()
	a := compare.Answer{Applied: applied, Known: true, Hash: hash}
	if index > 0 && index != applied {
		a.Hash, a.Known = st.HashAt(index)
	}
	return a, nil
}

// askHash is compare.Ask.
func (n *Node) askHash(ctx context.Context, to covey.NodeID, id covey.ShardID, index uint64) (compare.Answer, error) {
	if to == n.folder.id {
		return n.hashHere(id, index)
	}
	if n.links.Net == nil {
		return compare.Answer{}, covey.Errorf(covey.Unavailable, "this node has no links")
	}
	b, err := n.links.Call(ctx, to, methodHash, hashRequest{id, index}.encode())
	if err != nil {
		return compare.Answer{}, err
	}
	return decodeAnswer(b)
}

// serveHash answers askHash.
func (n *Node) serveHash(_ context.Context, _ covey.NodeID, b []byte) ([]byte, error) {
	req, err := decodeHash(b)
	if err != nil {
		return nil, err
	}
	a, err := n.hashHere(req.shard, req.index)
	return encodeAnswer(a), err
}

// A hashRequest asks for the running hash of a shard, as compare.Ask does.
type hashRequest struct {
	shard covey.ShardID
	index uint64
}

func (h hashRequest) encode() []byte {
	return wire.AppendUint(wire.AppendUint(nil, uint64(h.shard)), h.index)
}

func decodeHash(b []byte) (hashRequest, error) {
	r := wire.NewReader(b)
	shard, index := r.Uint(), r.Uint()
	if shard > maxShards {
		r.Fail("shard")
	}
	return hashRequest{covey.ShardID(shard), index}, r.End()
}

func encodeAnswer(a compare.Answer) []byte {
	return wire.AppendUint(wire.AppendBool(wire.AppendUint(nil, a.Applied), a.Known), a.Hash)
}

func decodeAnswer(b []byte) (compare.Answer, error) {
	r := wire.NewReader(b)
	a := compare.Answer{Applied: r.Uint(), Known: r.Bool(), Hash: r.Uint()}
	return a, r.End()
}

// compareAll compares the replicas of every shard.
func (n *Node) compareAll(ctx context.Context, _ admin.Empty) ([]admin.Comparison, error) {
	ctx, cancel := context.WithTimeout(ctx, compareTime)
	defer cancel()
	shards := n.allShards(ctx)
	list := make([]admin.Comparison, len(shards))
	slots := make(chan struct{}, compareAtOnce)
	var all sync.WaitGroup
	for i, sh := range shards {
		slots <- struct{}{}
		all.Go(func() {
			defer func() { <-slots }()
			list[i] = comparison(compare.Shard(ctx, n.askHash, sh.ID, members(sh)))
		})
	}
	all.Wait()
	return list, nil
}

// members returns the nodes that have a replica of a shard, or, if nobody told,
// those that should.
func members(sh admin.Shard) (ids []covey.NodeID) {
	names := sh.Wanted
	if len(sh.Replicas) > 0 {
		names = nil
		for _, r := range sh.Replicas {
			names = append(names, r.Node)
		}
	}
	for _, name := range names {
		if id, err := covey.ParseNodeID(name); err == nil { // a peer made it
			ids = append(ids, id)
		}
	}
	return ids
}

func comparison(r compare.Result) admin.Comparison {
	c := admin.Comparison{Shard: r.Shard, Index: r.Index, Differ: r.Differ(), Replicas: []admin.ComparedReplica{}}
	for _, p := range r.Replicas {
		one := admin.ComparedReplica{Node: p.Node.String(), Differs: p.Differs}
		if p.Known {
			one.Hash = fmt.Sprintf("%016x", p.Hash)
		}
		if p.Err != nil {
			one.Error = p.Err.Error()
		}
		c.Replicas = append(c.Replicas, one)
	}
	return c
}
