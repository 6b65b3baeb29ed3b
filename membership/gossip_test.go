package membership

import (
	"bytes"
	"context"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/covey-mail/covey"
)

// C-02: who dies without a word is dead to all others, and alive again when it
// comes back.
func TestDeathIsSeenByAll(t *testing.T) {
	for _, n := range []int{3, 16} {
		inWorld(t, lan, func(w *world) {
			w.cluster(n)
			w.crash(2)
			w.see(2, Dead)
			if got := w.nodes[1].states(2); !slices.Contains(got, Suspect) || got[len(got)-1] != Dead {
				t.Errorf("%d nodes: node 1 was told %v, want suspect and then dead", n, got)
			}
			w.start(2)
			w.see(2, Alive)
		})
	}
}

// A pulled cable: both sides find each other dead, and alive when it is put back.
func TestPartition(t *testing.T) {
	inWorld(t, lan, func(w *world) {
		w.cluster(3)
		w.net.Split([]covey.NodeID{1}, []covey.NodeID{2, 3})
		w.until("each side finds the other dead", func() bool {
			a, _ := w.nodes[1].Member(2)
			b, _ := w.nodes[2].Member(1)
			c, _ := w.nodes[3].Member(1)
			return a.State == Dead && b.State == Dead && c.State == Dead
		})
		if m, _ := w.nodes[2].Member(3); m.State != Alive {
			t.Errorf("node 2 takes node 3 on its own side for %v", m.State)
		}
		w.net.Heal()
		w.all(Alive)
	})
}

func TestWhoLeavesHasLeft(t *testing.T) {
	inWorld(t, lan, func(w *world) {
		w.cluster(3)
		if err := w.nodes[3].Leave(context.Background()); err != nil {
			t.Fatal(err)
		}
		w.crash(3)
		w.see(3, Left)
		w.nodes[1].Forget(3)
		if _, ok := w.nodes[1].Member(3); ok {
			t.Error("a member that left and was forgotten is there")
		}
	})
}

// The newest term counts, wherever it is announced and whoever comes late.
func TestLeadersSpread(t *testing.T) {
	inWorld(t, lan, func(w *world) {
		w.cluster(3)
		w.nodes[1].Announce([]Leader{{Shard: 4, Term: 7, Node: 1, Quorum: true}})
		w.nodes[2].Announce([]Leader{{Shard: 4, Term: 6, Node: 2, Quorum: true}})
		want := Leader{Shard: 4, Term: 7, Node: 1, Quorum: true}
		w.start(4)
		for id, n := range w.nodes {
			w.until("the newest leader is known to "+id.String(), func() bool { return n.Leaders()[4] == want })
		}
	})
}

// C-04, C-05: who has another key, or is of another cluster, has no effect and is
// not heard.
func TestStrangersHaveNoEffect(t *testing.T) {
	for name, edit := range map[string]func(*Config){
		"another key":     func(c *Config) { c.Keys = [][]byte{key(9)} },
		"another cluster": func(c *Config) { c.Cluster = covey.ClusterID{9} },
	} {
		inWorld(t, lan, func(w *world) {
			w.cluster(3)
			stranger := w.start(9, edit)
			delete(w.nodes, 9)
			defer stranger.Close()
			w.pass(30 * time.Second)
			for id, n := range w.nodes {
				if _, ok := n.Member(9); ok || len(n.Members()) != 3 {
					t.Errorf("%s: node %s has members %v", name, id, n.Members())
				}
			}
			if got := stranger.Members(); len(got) != 1 {
				t.Errorf("%s: the stranger has members %v", name, got)
			}
		})
	}
}

// Keys rotate without anybody being lost: new as the second, then as the first.
func TestKeysRotate(t *testing.T) {
	inWorld(t, lan, func(w *world) {
		w.cluster(3)
		for _, keys := range [][][]byte{{key(1), key(2)}, {key(2), key(1)}, {key(2)}} {
			for _, n := range w.nodes {
				if err := n.SetKeys(keys); err != nil {
					t.Fatal(err)
				}
			}
			w.pass(10 * time.Second)
		}
		w.all(Alive)
		for _, n := range w.nodes {
			for id := range w.nodes {
				if got := n.states(id); slices.Contains(got, Dead) {
					t.Errorf("node %s was found dead", id)
				}
			}
		}
	})
}

func TestDescriptionTravels(t *testing.T) {
	inWorld(t, lan, func(w *world) {
		w.cluster(2)
		load := Load{DiskUsed: 1, DiskFree: 2, Connections: 3, Sessions: 4}
		w.nodes[1].SetLoad(load)
		w.until("the load is known", func() bool {
			m, _ := w.nodes[2].Member(1)
			return m.Load == load
		})
		m, _ := w.nodes[2].Member(1)
		if m.Version != "v1" || m.Zone != "z" || m.Peer == "" {
			t.Errorf("node 1 is described as %+v", m)
		}
	})
}

func FuzzDecodeMeta(f *testing.F) {
	f.Add(encodeMeta(Member{Peer: "192.0.2.1:7947", Version: "v1", Zone: "z", Load: Load{DiskFree: 1 << 40}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := decodeMeta(b)
		if err != nil {
			return
		}
		again, err := decodeMeta(encodeMeta(m))
		if d := cmp.Diff(m, again); d != "" || err != nil {
			t.Errorf("(-want +got), error %v:\n%s", err, d)
		}
	})
}

func FuzzDecodeLeaders(f *testing.F) {
	f.Add(encodeLeaders([]Leader{{Shard: 1, Term: 2, Node: 3, Quorum: true}, {Shard: 65535, Term: 1, Node: 1}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		ls, err := decodeLeaders(b)
		if err != nil {
			return
		}
		again, err := decodeLeaders(encodeLeaders(ls))
		if d := cmp.Diff(ls, again); d != "" || err != nil {
			t.Errorf("(-want +got), error %v:\n%s", err, d)
		}
	})
}

// FuzzFrame reads any octets as the beginning of a packet and of a stream.
func FuzzFrame(f *testing.F) {
	own := newFrame("00112233445566778899aabbccddeeff")
	f.Add(append(bytes.Clone(own), cipher, 1, 2, 3))
	f.Add([]byte{streamMark, 0, 0, 1, 0, cipher})
	f.Fuzz(func(t *testing.T, b []byte) {
		if own.checkPacket(b) == "" && !bytes.HasPrefix(b, own) {
			t.Error("a packet without our label passes")
		}
		for _, h := range []*head{own.inbound(), own.reply()} {
			if len(b) >= h.size() && h.check(b[:h.size()]) == "" && !bytes.HasPrefix(b, h.frame) {
				t.Error("a stream without our label passes")
			}
		}
	})
}
