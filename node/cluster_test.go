package node

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/directory"
	"github.com/covey-mail/covey/membership"
	"github.com/covey-mail/covey/node/admin"
)

// joining is the configuration of a node that joins another.
func joining(t *testing.T, first *Node) Config {
	t.Helper()
	cfg := config(t.TempDir())
	cfg.Cluster.SecretFile = first.secretFile()
	cfg.Cluster.Join = []string{first.links.listeners[0].Addr().String()}
	return cfg
}

// A node that joins is entered in the directory, and knows which cluster it is in
// for good.
func TestJoinIsEntered(t *testing.T) {
	a := run(t, config(t.TempDir()))
	cfg := joining(t, a)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		n, err := StartOn(ctx, cfg, realSystem())
		if n != nil {
			err = errors.Join(err, n.Stop())
		}
		done <- err
	}()
	waitUntil(t, "the directory has two nodes, and the second knows", func() bool {
		b, err := os.ReadFile(filepath.Join(cfg.Node.Data, "node.toml"))
		return len(a.directory.Nodes()) == 2 && err == nil && strings.Contains(string(b), a.folder.self.Cluster)
	})
	cancel()
	<-done
	f, err := openOldFolder(realSystem().FS, cfg.Node.Data)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if f.self.Cluster != a.folder.self.Cluster || f.self.Shards != a.folder.self.Shards || f.self.Founding {
		t.Errorf("the node that joined is %+v, the first is %+v", f.self, a.folder.self)
	}
	if _, ok := a.directory.Pin(f.id); !ok {
		t.Error("the key of the node that joined is not known")
	}
}

// twoNodes returns two nodes with one replica of each shard, and a shard that has
// gone from the first to the second.
func twoNodes(t *testing.T) (a, b *Node, shard covey.ShardID) {
	t.Helper()
	cfg := config(t.TempDir())
	cfg.Cluster.Shards, cfg.Cluster.Replicas = 2, 1
	a = run(t, cfg)
	b = run(t, joining(t, a))
	waitUntil(t, "a shard goes to the second node", func() bool {
		wanted, _ := a.directory.ShardMap()
		for id, voters := range wanted {
			_, here := a.states.get(id)
			if id != covey.DirectoryShard && slices.Equal(voters, []covey.NodeID{b.folder.id}) && !here {
				shard = id
			}
		}
		return shard != 0
	})
	return a, b, shard
}

// A node that was dismissed, and believes in a leader that is none any more, asks
// those who are to vote, and lets go of the shard: nobody would tell it.
func TestDismissedByALaterLeader(t *testing.T) {
	a, b, shard := twoNodes(t)
	a.tending.Lock() // it takes what follows for left over if it looks between
	err := a.openShard(shard, nil)
	gone := b.folder.id + 1
	_, term := b.table.Known(shard)
	a.table.Learn(shard, term, gone)
	a.tending.Unlock()
	if err != nil {
		t.Fatal(err)
	}
	waitUntil(t, "what is left of it is removed", func() bool {
		_, here := a.states.get(shard)
		_, err := os.Stat(a.folder.shardPath(shard))
		leader, _ := a.table.Known(shard)
		return !here && errors.Is(err, os.ErrNotExist) && leader == b.folder.id
	})
}

// What gossip said of a leader too early to be believed is taken in later, though
// another leader is known.
func TestGossipIsLookedAtAgain(t *testing.T) {
	a, b, shard := twoNodes(t)
	_, term := b.table.Known(shard)
	a.table.Learn(shard, term, b.folder.id+1)
	a.relearn(map[covey.ShardID]membership.Leader{shard: {Shard: shard, Term: term + 1, Node: b.folder.id, Quorum: true}})
	if leader, _ := a.table.Known(shard); leader != b.folder.id {
		t.Errorf("node %s leads, want %s", leader, b.folder.id)
	}
}

func waitUntil(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for by := time.Now().Add(30 * time.Second); !cond(); <-time.After(10 * time.Millisecond) {
		if time.Now().After(by) {
			t.Fatalf("it never happens that %s", what)
		}
	}
}

// C-03: who does not know the secret is not let in, and a node that is to join
// never makes a cluster of its own.
func TestJoinNeedsTheSecret(t *testing.T) {
	a := run(t, config(t.TempDir()))
	cfg := joining(t, a)
	cfg.Cluster.SecretFile = run(t, config(t.TempDir())).secretFile()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	if n, err := StartOn(ctx, cfg, realSystem()); err == nil {
		t.Errorf("started: %v", n.Stop())
	}
	if got := len(a.directory.Nodes()); got != 1 {
		t.Errorf("%d nodes, want 1", got)
	}
	cfg.Cluster.SecretFile = ""
	if n, err := StartOn(t.Context(), cfg, realSystem()); !errors.Is(err, covey.Invalid) {
		t.Errorf("without a secret: %v, %v; want Invalid", n, err)
	}
}

// A cluster from before there was a node list enters its only node at the start.
func TestFirstNodeIsInItsOwnList(t *testing.T) {
	n := run(t, config(t.TempDir()))
	s := call[admin.Status](t, n, admin.NodeStatus, admin.Empty{})
	if len(s.Peers) != 1 || s.Peers[0].Node != s.Node || s.Peers[0].State != "alive" || s.Peers[0].Leads != 3 || s.Peers[0].Replicas != 3 {
		t.Errorf("nodes: %+v", s.Peers)
	}
	for _, sh := range s.Shards {
		if !slices.Equal(sh.Wanted, []string{s.Node}) || sh.Leader != s.Node {
			t.Errorf("shard %d: %+v", sh.ID, sh)
		}
	}
}

// The only node can neither be drained nor removed, and is told why.
func TestTheLastNodeStays(t *testing.T) {
	n := run(t, config(t.TempDir()))
	for _, op := range []string{admin.NodeDrain, admin.NodeRemove} {
		if _, err := try[admin.NodeMove](t, n, op, admin.NodeRequest{Node: n.folder.id.String()}); !errors.Is(err, covey.Denied) {
			t.Errorf("%s: %v, want Denied", op, err)
		}
	}
	if _, err := try[admin.NodeMove](t, n, admin.NodeDrain, admin.NodeRequest{Node: "00000000000000ff"}); !errors.Is(err, covey.NotFound) {
		t.Errorf("unknown node: %v, want NotFound", err)
	}
}

func TestClusterSettings(t *testing.T) {
	n := run(t, config(t.TempDir()))
	one := 1
	got := call[admin.Settings](t, n, admin.ClusterSet, admin.Settings{Replicas: &one})
	if *got.Replicas != 1 || n.directory.Settings().Replicas != 1 {
		t.Errorf("replicas %d, want 1", *got.Replicas)
	}
}

func sampleJoin() joinReply {
	return joinReply{cluster: covey.ClusterID{1}, shards: 16, nodes: []joinNode{{id: 7, key: make([]byte, 32), peer: "192.0.2.1:7947"}}}
}

func FuzzJoin(f *testing.F) {
	f.Add(sampleJoin().encode())
	f.Add(encodeInfo(directory.NodeInfo{Peer: "192.0.2.1:7947", Zone: "z", Version: "v", Level: 1}))
	f.Fuzz(func(t *testing.T, b []byte) {
		if j, err := decodeJoin(b); err == nil {
			again, err := decodeJoin(j.encode())
			if d := cmp.Diff(j, again, cmp.AllowUnexported(joinReply{}, joinNode{})); d != "" || err != nil {
				t.Errorf("(-want +got), error %v:\n%s", err, d)
			}
		}
		if i, err := decodeInfo(b); err == nil {
			again, err := decodeInfo(encodeInfo(i))
			if d := cmp.Diff(i, again); d != "" || err != nil {
				t.Errorf("(-want +got), error %v:\n%s", err, d)
			}
		}
	})
}
