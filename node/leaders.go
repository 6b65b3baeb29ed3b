package node

import (
	"context"
	"sync"
	"time"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/internal/wire"
)

// seekLeaders asks the other nodes who leads, if there are shards of which this
// node reaches no leader. Gossip tells as well, and sooner; but it may be blocked
// where the links are not, and what it says is only a hint.
func (n *Node) seekLeaders(ctx context.Context) {
	wanted, _ := n.directory.ShardMap()
	missing := false
	for id := range wanted {
		missing = missing || n.table.Leaderless(id)
	}
	if !missing || n.links.Net == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	var asked sync.WaitGroup
	for _, m := range n.directory.Nodes() {
		if m.ID == n.folder.id {
			continue
		}
		asked.Go(func() {
			b, err := n.links.Call(ctx, m.ID, methodLeaders)
			if err != nil {
				return // another may know
			}
			list, err := decodeLeaders(b)
			if err != nil {
				n.log.Warn("a node's word of leaders makes no sense", "from", m.ID.String(), "err", err)
				return
			}
			for _, l := range list {
				n.table.Learn(l.shard, l.term, l.node)
			}
		})
	}
	asked.Wait()
}

// A ledShard is a shard with its leader as a member of its group knows it.
type ledShard struct {
	shard covey.ShardID
	term  uint64
	node  covey.NodeID
}

// serveLeaders tells who leads the groups that this node is a member of.
func (n *Node) serveLeaders(context.Context, covey.NodeID, []byte) ([]byte, error) {
	var list []ledShard
	for _, g := range n.host.Status() {
		if g.Leader != 0 {
			list = append(list, ledShard{g.Group, g.Term, g.Leader})
		}
	}
	return encodeLeaders(list), nil
}

func encodeLeaders(list []ledShard) []byte {
	b := wire.AppendUint(nil, uint64(len(list)))
	for _, l := range list {
		b = wire.AppendUint(wire.AppendUint(b, uint64(l.shard)), l.term)
		b = wire.AppendUint(b, uint64(l.node))
	}
	return b
}

// decodeLeaders is the inverse of encodeLeaders.
func decodeLeaders(b []byte) ([]ledShard, error) {
	r := wire.NewReader(b)
	list := make([]ledShard, r.Count(3))
	for i := range list {
		shard := r.Uint()
		list[i] = ledShard{covey.ShardID(shard), r.Uint(), covey.NodeID(r.Uint())}
		if shard > maxShards || list[i].node == 0 {
			r.Fail("leader of a shard")
		}
	}
	return list, r.End()
}
