package node

import (
	"context"
	"crypto/ed25519"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/directory"
	"github.com/covey-mail/covey/internal/peer"
	"github.com/covey-mail/covey/internal/wire"
)

// How often a node that waits for others asks again, and says so.
const (
	askEvery = 500 * time.Millisecond
	sayEvery = 10 * time.Second
)

// belong finds out which cluster this node is in (design section 9). A folder that
// is in one stays there. A new one without anybody to join makes a cluster of its
// own; one that is to join never does, except the first of those that are to make
// one together, and only after every other has said that it has none.
func (n *Node) belong(ctx context.Context) error {
	if n.folder.self.Cluster == "" {
		var err error
		if len(n.cfg.Cluster.Join) == 0 {
			err = n.folder.found(n.cfg.Cluster.Shards)
		} else {
			err = n.enter(ctx)
		}
		if err != nil {
			return err
		}
	}
	id, err := n.folder.cluster()
	if err != nil || n.links.Net == nil {
		return err
	}
	return n.links.SetCluster(id)
}

// enter joins a cluster, or makes one if that is this node's part, and waits for
// as long as neither can be.
func (n *Node) enter(ctx context.Context) error {
	var said time.Time
	for {
		done, waiting, err := n.tryEnter(ctx)
		if done || err != nil {
			return err
		}
		if time.Since(said) >= sayEvery {
			said = time.Now()
			n.log.Info("waiting for other nodes", "for", strings.Join(waiting, "; "))
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(askEvery):
		}
	}
}

// tryEnter asks every address once. It returns what is still waited for.
func (n *Node) tryEnter(ctx context.Context) (done bool, waiting []string, err error) {
	first, self := false, n.info().Peer
	for i, addr := range n.cfg.Cluster.Join {
		if addr == self { // by another name it is found out by asking
			first = first || i == 0
			continue
		}
		reply, from, err := n.links.CallAddr(ctx, addr, methodHello, nil)
		switch {
		case from.Node == n.folder.id:
			first = first || i == 0
		case err != nil:
			waiting = append(waiting, addr+": "+err.Error())
		case len(reply) > 0:
			err := n.joinBy(ctx, addr)
			if err == nil || errors.Is(err, covey.Denied) || errors.Is(err, covey.Limit) {
				return err == nil, nil, err
			}
			waiting = append(waiting, addr+": "+err.Error())
		case !n.cfg.Cluster.Init:
			waiting = append(waiting, addr+" is in no cluster yet")
		case i == 0:
			waiting = append(waiting, addr+", the first in the list, to make the cluster")
		}
	}
	if !n.cfg.Cluster.Init || !first || len(waiting) > 0 {
		return false, waiting, nil
	}
	return true, nil, n.folder.found(n.cfg.Cluster.Shards)
}

// joinBy has this node made a member by the node at an address.
func (n *Node) joinBy(ctx context.Context, addr string) error {
	b, _, err := n.links.CallAddr(ctx, addr, methodJoin, encodeInfo(n.info()))
	if err != nil {
		return err
	}
	reply, err := decodeJoin(b)
	if err != nil {
		return err
	}
	n.links.learn(reply.nodes)
	peers := []string{addr}
	for _, node := range reply.nodes {
		if node.peer != "" && !slices.Contains(peers, node.peer) && len(peers) < maxPeers {
			peers = append(peers, node.peer)
		}
	}
	n.log.Info("joined", "cluster", reply.cluster.String(), "by", addr, "nodes", len(reply.nodes))
	return n.folder.join(reply.cluster, int(reply.shards), peers)
}

// maxPeers bounds the addresses kept in node.toml.
const maxPeers = 16

// joinAddrs are where this node may find its cluster before it has the directory.
func (n *Node) joinAddrs() []string {
	return slices.Concat(n.cfg.Cluster.Join, n.folder.self.Peers)
}

// rejoin asks for the members again when the directory has not come yet: the
// joining of a node that was killed in between is repeated, which changes nothing.
func (n *Node) rejoin(ctx context.Context) {
	for _, addr := range n.joinAddrs() {
		b, from, err := n.links.CallAddr(ctx, addr, methodJoin, encodeInfo(n.info()))
		if err != nil || from.Node == n.folder.id {
			continue
		}
		if reply, err := decodeJoin(b); err == nil {
			n.links.learn(reply.nodes)
			return
		}
	}
}

// serveHello tells a node that joins whether there is a cluster here.
func (n *Node) serveHello(context.Context, peer.Remote, []byte) ([]byte, error) {
	d := n.links.directory.Load()
	if d == nil {
		return nil, nil
	}
	id, shards := d.Cluster()
	if shards == 0 {
		return nil, nil
	}
	return id[:], nil
}

// serveJoin makes a node a member.
func (n *Node) serveJoin(ctx context.Context, from peer.Remote, req []byte) ([]byte, error) {
	d := n.links.directory.Load()
	if d == nil {
		return nil, covey.Errorf(covey.Unavailable, "this node is starting")
	}
	id, shards := d.Cluster()
	if shards == 0 {
		return nil, covey.Errorf(covey.Unavailable, "this node has no copy of the directory yet")
	}
	info, err := decodeInfo(req)
	if err != nil {
		return nil, err
	}
	if err := d.AddNode(ctx, from.Node, from.Key, info); err != nil {
		return nil, err
	}
	n.log.Info("node joins", "id", from.Node.String(), "peer", info.Peer, "from", from.Addr)
	reply := joinReply{cluster: id, shards: shards}
	for _, node := range d.Nodes() {
		reply.nodes = append(reply.nodes, joinNode{node.ID, node.Key, node.Peer})
	}
	return reply.encode(), nil
}

// encodeInfo is the request of a join.
func encodeInfo(i directory.NodeInfo) []byte {
	b := wire.AppendBytes(wire.AppendBytes([]byte{joinVersion}, i.Peer), i.Gossip)
	b = wire.AppendBytes(wire.AppendBytes(b, i.Zone), i.Version)
	return wire.AppendUint(b, uint64(i.Level))
}

const joinVersion = 1

// decodeInfo is its inverse. The directory judges what it says.
func decodeInfo(b []byte) (directory.NodeInfo, error) {
	r := wire.NewReader(b)
	if r.Byte() != joinVersion {
		r.Fail("unknown version of a join")
	}
	i := directory.NodeInfo{Peer: r.String(), Gossip: r.String(), Zone: r.String(), Version: r.String()}
	level := r.Uint()
	if i.Level = uint32(level); uint64(i.Level) != level {
		r.Fail("level")
	}
	return i, r.End()
}

// A joinReply is what a node that joins needs until it has the directory.
type joinReply struct {
	cluster covey.ClusterID
	shards  uint32
	nodes   []joinNode
}

type joinNode struct {
	id   covey.NodeID
	key  ed25519.PublicKey
	peer string
}

func (j joinReply) encode() []byte {
	b := append([]byte{joinVersion}, j.cluster[:]...)
	b = wire.AppendUint(wire.AppendUint(b, uint64(j.shards)), uint64(len(j.nodes)))
	for _, n := range j.nodes {
		b = wire.AppendUint(b, uint64(n.id))
		b = wire.AppendBytes(wire.AppendBytes(b, []byte(n.key)), n.peer)
	}
	return b
}

func decodeJoin(b []byte) (j joinReply, err error) {
	r := wire.NewReader(b)
	if r.Byte() != joinVersion {
		r.Fail("unknown version of a join")
	}
	copy(j.cluster[:], r.Raw(len(j.cluster)))
	shards := r.Uint()
	if shards < 1 || shards > maxShards {
		r.Fail("number of shards")
	}
	j.shards = uint32(shards)
	for range r.Count(3) {
		n := joinNode{id: covey.NodeID(r.Uint()), key: slices.Clone(ed25519.PublicKey(r.Bytes())), peer: r.String()}
		if len(n.key) != ed25519.PublicKeySize {
			r.Fail("key of a node")
		}
		j.nodes = append(j.nodes, n)
	}
	return j, r.End()
}
