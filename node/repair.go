package node

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/internal/wire"
	"github.com/covey-mail/covey/storage"
)

// makeScrubber makes what repairs damaged bodies.
func (n *Node) makeScrubber() (err error) {
	m := storage.NewScrubberMetrics()
	n.scrubber, err = storage.NewScrubber(storage.ScrubberConfig{
		Log: n.seglog, Shards: n.states.copy, Fetch: n.fetchPart, Every: time.Duration(n.cfg.Limits.ScrubEvery), Metrics: m, Logger: n.cfg.Logger,
	})
	if err == nil {
		n.metrics.MustRegister(m.Collectors()...)
	}
	return err
}

// fetchPart gets a part of a body from the first of the other replicas that has it
// whole.
func (n *Node) fetchPart(ctx context.Context, id covey.ShardID, p storage.Part) ([]byte, error) {
	why := errors.New("it has none")
	for _, from := range n.otherReplicas(id) {
		b, err := n.askPart(ctx, from, partRequest{id, p.Body, p.N})
		if err == nil && p.Matches(b) {
			return b, nil
		}
		if err == nil {
			err = covey.Errorf(covey.Corrupt, "node %s sent %d octets that do not match", from, len(b))
		}
		why = err
	}
	return nil, covey.Errorf(covey.Unavailable, "no other replica of shard %d has it: %v", id, why)
}

// bodyTime bounds the question to one replica.
const bodyTime = 5 * time.Second

func (n *Node) askPart(ctx context.Context, from covey.NodeID, req partRequest) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, bodyTime)
	defer cancel()
	return n.links.Call(ctx, from, methodPart, req.encode())
}

// otherReplicas returns the nodes that have a replica of a shard, beside this one,
// the leader first.
func (n *Node) otherReplicas(id covey.ShardID) []covey.NodeID {
	if n.links.Net == nil {
		return nil
	}
	for _, g := range n.host.Status() {
		if g.Group != id {
			continue
		}
		all := append([]covey.NodeID{g.Leader}, slices.DeleteFunc(slices.Concat(g.Voters, g.Learners), func(id covey.NodeID) bool {
			return id == g.Leader
		})...)
		return slices.DeleteFunc(all, func(id covey.NodeID) bool { return id == 0 || id == n.folder.id })
	}
	return nil
}

// A partRequest asks a node for part of a body as it has it.
type partRequest struct {
	shard covey.ShardID
	body  covey.BodyID
	n     int
}

func (p partRequest) encode() []byte {
	b := wire.AppendUint(nil, uint64(p.shard))
	b = wire.AppendUint(b, uint64(p.body))
	return wire.AppendUint(b, uint64(p.n))
}

func decodePart(b []byte) (partRequest, error) {
	r := wire.NewReader(b)
	shard, body, n := r.Uint(), r.Uint(), r.Uint()
	if shard > maxShards || n >= storage.MaxChunks {
		r.Fail("part of a body")
	}
	return partRequest{covey.ShardID(shard), covey.BodyID(body), int(n)}, r.End()
}

// servePart answers askPart.
func (n *Node) servePart(_ context.Context, _ covey.NodeID, b []byte) ([]byte, error) {
	p, err := decodePart(b)
	if err != nil {
		return nil, err
	}
	st, ok := n.states.get(p.shard)
	if !ok {
		return nil, covey.Errorf(covey.NotFound, "shard %d has no replica on node %s", p.shard, n.folder.id)
	}
	return storage.ReadPart(st, n.seglog, p.body, p.n)
}
