package nodetest

import (
	"encoding/hex"
	"net"
	"sync/atomic"
	"testing"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/internal/durable"
	"github.com/covey-mail/covey/internal/peer"
	"github.com/covey-mail/covey/membership"
	"github.com/covey-mail/covey/node/admin"
)

// stranger gossips beside a cluster with its key, as a node of some cluster, and
// counts who connects to the peer port that it tells of.
func stranger(t *testing.T, c *Cluster, of covey.ClusterID) (*membership.Gossip, *atomic.Int64) {
	t.Helper()
	secrets, err := peer.ReadSecrets(durable.OS(), c.secret)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	visits := new(atomic.Int64)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			visits.Add(1)
			conn.Close()
		}
	}()
	const id = covey.NodeID(0x5712a46e)
	g, err := membership.Start(membership.Config{
		Self: membership.Member{ID: id, Peer: l.Addr().String()}, Cluster: of, Keys: [][]byte{secrets[0].GossipKey()},
		Transport: c.gossip.Host(id, "10.0.9.9"), Seeds: func() []string { return []string{c.nodes[0].Config.Listen.Gossip[0]} },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := g.Close(); err != nil {
			t.Error(err)
		}
		l.Close()
		<-done
	})
	return g, visits
}

func clusterID(t *testing.T, text string) (id covey.ClusterID) {
	t.Helper()
	if n, err := hex.Decode(id[:], []byte(text)); err != nil || n != len(id) {
		t.Fatalf("cluster id %q: %v", text, err)
	}
	return id
}

// C-02: who has the key of gossip and no certificate is no node. It gets no traffic,
// its word on who leads costs a redirect at most, and the log says that it is there.
func TestC02_GossipKeyAlone(t *testing.T) {
	takesLong(t)
	c := Started(t, 2, Options{})
	load := c.Load(c.Nodes()...)
	load.More(2)
	load.Mark()
	g, visits := stranger(t, c, clusterID(t, c.nodes[0].Status().Cluster))
	c.WaitFor("it hears the cluster", func() bool { return len(g.Leaders()) > 0 })
	var lies []membership.Leader
	for shard := range covey.ShardID(5) {
		lies = append(lies, membership.Leader{Shard: shard, Term: 1 << 40, Node: 0x5712a46e, Quorum: true})
	}
	g.Announce(lies)
	load.More(5)
	for i := range lies { // each shard by one that is a member, and does not lead it
		s := c.nodes[0].Status()
		for _, p := range s.Peers {
			if id, err := covey.ParseNodeID(p.Node); err == nil && p.Node != s.Shards[i].Leader {
				lies[i].Node, lies[i].Term = id, 1<<41
			}
		}
	}
	g.Announce(lies)
	load.More(5)
	c.WaitFor("the log tells of it", func() bool { return c.nodes[0].Logged("no member of the cluster") })
	for _, n := range c.Nodes() {
		if s := n.Status(); len(s.Peers) != 2 {
			t.Errorf("node %d: %+v", n.number, s.Peers)
		}
	}
	if n := visits.Load(); n > 0 {
		t.Errorf("%d connections to the stranger", n)
	}
	load.Check()
	load.NoFailures()
}

// C-05: two clusters with the same secret on one network have nothing to do with
// each other, not even when a node of one is told to join the other.
func TestC05_TwoClusters(t *testing.T) {
	takesLong(t)
	one := Started(t, 2, Options{})
	two := New(t, Options{Beside: one})
	n := two.Node()
	n.Start()
	was := n.Status()
	n.Stop()
	n.Config.Cluster.Join = []string{one.nodes[0].PeerAddr()}
	n.Start()
	if s := n.Status(); s.Cluster != was.Cluster || len(s.Peers) != 1 {
		t.Errorf("it is of cluster %s with %d nodes; it was of %s", s.Cluster, len(s.Peers), was.Cluster)
	}
	g, visits := stranger(t, one, clusterID(t, was.Cluster))
	g.Announce([]membership.Leader{{Shard: 1, Term: 1 << 40, Node: one.nodes[0].ID(), Quorum: true}})
	load := one.Load(one.Nodes()...)
	load.More(5)
	load.Check()
	load.NoFailures()
	if len(g.Members()) > 1 || visits.Load() > 0 {
		t.Errorf("the other cluster's node hears %+v, and had %d visits", g.Members(), visits.Load())
	}
	if s := Call[admin.Status](t, one.nodes[0], admin.NodeStatus, admin.Empty{}); len(s.Peers) != 2 {
		t.Errorf("the first cluster has %d nodes", len(s.Peers))
	}
}
