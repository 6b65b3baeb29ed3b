package membership

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/internal/simnet"
	"github.com/covey-mail/covey/membership/membershiptest"
)

// Who dies without a word is suspect and then dead to all others, and a member
// again as soon as it comes back.
func TestDeathIsSeenByAll(t *testing.T) {
	for _, n := range []int{2, 3, 16} {
		t.Run(fmt.Sprint(n, " nodes"), func(t *testing.T) {
			inWorld(t, lan, func(w *world) {
				w.cluster(n)
				w.crash(2)
				w.see(2, Dead)
				for id, n := range w.nodes {
					if got := n.states(2); !slices.Equal(got, []State{Alive, Suspect, Dead}) {
						t.Errorf("%s was told %v", id, got)
					}
				}
				w.start(2)
				w.see(2, Alive)
				w.all(Alive)
			})
		})
	}
}

// Two of three die at once, so that nobody can confirm that they are dead.
func TestTheLastOneSees(t *testing.T) {
	inWorld(t, lan, func(w *world) {
		w.cluster(3)
		w.crash(2)
		w.crash(3)
		w.see(2, Dead)
		w.see(3, Dead)
	})
}

// A pulled cable: both sides find each other dead. When it is in again they find
// together within one round of tries, while memberlist still knows of the dead and
// when it has forgotten them.
func TestPartition(t *testing.T) {
	for _, long := range []time.Duration{10 * time.Second, 3 * time.Minute} {
		inWorld(t, lan, func(w *world) {
			w.cluster(3)
			w.net.Split([]covey.NodeID{1}, []covey.NodeID{2, 3})
			w.pass(long)
			for by, n := range w.nodes {
				for id := range w.nodes {
					want := Alive
					if (by == 1) != (id == 1) {
						want = Dead
					}
					if m, _ := n.Member(id); m.State != want {
						t.Errorf("after %s %s takes %s for %s, want %s", long, by, id, m.State, want)
					}
				}
			}
			w.net.Heal()
			for by, n := range w.nodes {
				w.within(15*time.Second, fmt.Sprintf("%s sees all", by), func() bool { return n.living() == 3 })
			}
		})
	}
}

// TestOneRoundIsEnough: when one node alone looks for the other, they are together
// after it has found it once, though each takes the other for dead as of its
// latest incarnation.
func TestOneRoundIsEnough(t *testing.T) {
	inWorld(t, lan, func(w *world) {
		w.seeds = []string{membershiptest.IP(1) + ":7946"}
		w.start(1, func(c *Config) { c.Timing.Rejoin = time.Hour })
		w.start(2)
		w.all(Alive)
		w.net.Split([]covey.NodeID{1}, []covey.NodeID{2})
		w.see(1, Dead)
		w.see(2, Dead)
		w.net.Heal()
		w.within(13*time.Second, "they are together", func() bool {
			return w.nodes[1].living() == 2 && w.nodes[2].living() == 2
		})
	})
}

// TestSuspectObjects: who is suspect and lives is not taken for dead.
func TestSuspectObjects(t *testing.T) {
	inWorld(t, lan, func(w *world) {
		w.cluster(3)
		w.net.Split([]covey.NodeID{3}, []covey.NodeID{1, 2})
		w.within(5*time.Second, "node 3 is suspect", func() bool {
			a, _ := w.nodes[1].Member(3)
			b, _ := w.nodes[2].Member(3)
			return a.State == Suspect || b.State == Suspect
		})
		w.net.Heal()
		w.see(3, Alive)
		w.pass(30 * time.Second)
		w.all(Alive)
		for id, n := range w.nodes {
			if got := slices.Concat(n.states(1), n.states(2), n.states(3)); slices.Contains(got, Dead) {
				t.Errorf("%s was told %v", id, got)
			}
		}
	})
}

// TestF31_NoUDP: where only TCP gets through, all stay alive (but for the moment
// of a suspicion).
func TestF31_NoUDP(t *testing.T) {
	inWorld(t, lan, func(w *world) {
		w.cluster(3)
		w.net.SetWeather(simnet.Weather{Loss: 1})
		w.pass(time.Minute)
		w.all(Alive)
	})
}

// TestBadWeather: of a tenth of all packets lost nobody dies. (F-29 asks for 5 %.)
func TestBadWeather(t *testing.T) {
	inWorld(t, lan, func(w *world) {
		w.cluster(5)
		w.net.SetWeather(simnet.Weather{Loss: 0.1, Duplicate: 0.05, MaxDelay: 50 * time.Millisecond})
		w.pass(5 * time.Minute)
		for by, n := range w.nodes {
			for id := range w.nodes {
				if slices.Contains(n.states(id), Dead) {
					t.Errorf("%s took %s for dead", by, id)
				}
			}
		}
	})
}

func TestWhoLeavesHasLeft(t *testing.T) {
	inWorld(t, lan, func(w *world) {
		w.cluster(3)
		ctx, cancel := context.WithTimeout(w.Context(), 3*time.Second)
		defer cancel()
		for range 2 {
			if err := w.nodes[3].Leave(ctx); err != nil {
				t.Fatal(err)
			}
		}
		if m, _ := w.nodes[3].Member(3); m.State != Left && m.State != Alive {
			t.Errorf("itself is %s", m.State)
		}
		w.see(3, Left)
		w.pass(time.Minute)
		w.crash(3)
		w.pass(time.Minute)
		for id, n := range w.nodes {
			if got := n.states(3); !slices.Equal(got, []State{Alive, Left}) {
				t.Errorf("%s was told %v", id, got)
			}
		}
		w.start(3)
		w.see(3, Alive)
	})
}

func TestLeaveAfterClose(t *testing.T) {
	inWorld(t, lan, func(w *world) {
		n := w.start(1)
		for range 2 {
			if err := n.Close(); err != nil {
				t.Error(err)
			}
		}
		if err := n.Leave(w.Context()); covey.KindOf(err) != covey.Unavailable {
			t.Errorf("Leave: %v", err)
		}
	})
}

// TestRestart: a node that is back before it was missed is not taken for dead,
// though it begins to count its incarnations anew, and tells what is new about it.
func TestRestart(t *testing.T) {
	inWorld(t, lan, func(w *world) {
		w.cluster(3)
		for version := range 5 {
			// Each life refutes the one before; so it is more than one
			// incarnation behind.
			w.crash(2)
			w.pass(300 * time.Millisecond)
			v := fmt.Sprint("v", version+2)
			w.start(2, func(c *Config) { c.Self.Version = v })
			for _, id := range []covey.NodeID{1, 3} {
				n := w.nodes[id]
				w.within(5*time.Second, "the new life is known", func() bool {
					m, _ := n.Member(2)
					return m.Version == v && m.State == Alive
				})
			}
			w.pass(5 * time.Second)
		}
		for _, id := range []covey.NodeID{1, 3} {
			if got := w.nodes[id].states(2); slices.Contains(got, Dead) {
				t.Errorf("%s was told %v", id, got)
			}
		}
	})
}

// TestRestartElsewhere: a node that comes back at another address, as a container
// does, is a member as soon as its old address is known to be dead.
func TestRestartElsewhere(t *testing.T) {
	inWorld(t, lan, func(w *world) {
		w.cluster(3)
		w.crash(2)
		w.startAt(2, membershiptest.IP(200))
		for _, id := range []covey.NodeID{1, 3} {
			n := w.nodes[id]
			w.within(12*time.Second, "node 2 is where it is now", func() bool {
				m, _ := n.Member(2)
				return m.State == Alive && m.Gossip == membershiptest.IP(200)+":7946"
			})
		}
		w.all(Alive)
	})
}

func TestForget(t *testing.T) {
	inWorld(t, lan, func(w *world) {
		w.cluster(3)
		w.nodes[3].Announce([]Leader{{5, 9, 3, true}})
		w.until("all know who leads", func() bool {
			return w.nodes[1].Leaders()[5].Node == 3 && w.nodes[2].Leaders()[5].Node == 3
		})
		for _, n := range w.nodes {
			n.Forget(3) // lives: no effect
			n.Forget(77)
		}
		w.all(Alive)
		w.crash(3)
		w.see(3, Dead)
		w.nodes[1].Forget(3)
		w.pass(30 * time.Second) // node 2 has not forgotten, and tells all it knows
		w.nodes[2].Forget(3)
		w.pass(30 * time.Second)
		for id, n := range w.nodes {
			if m, ok := n.Member(3); ok || len(n.Members()) != 2 {
				t.Errorf("%s knows %v", id, m)
			}
			if l, ok := n.Leaders()[5]; ok {
				t.Errorf("%s knows %v", id, l)
			}
			if want := []Leader{{5, 9, 3, true}, {Shard: 5}}; !slices.Equal(n.leads, want) {
				t.Errorf("%s was told %v, want %v", id, n.leads, want)
			}
		}
		w.start(3)
		w.see(3, Alive)
	})
}

// TestLeadersSpread: the newest term counts, wherever it is announced and in
// whatever order, and is known everywhere before the next full exchange.
func TestLeadersSpread(t *testing.T) {
	inWorld(t, lan, func(w *world) {
		w.cluster(5)
		w.pass(20 * time.Second)
		want := map[covey.ShardID]Leader{}
		var own [6][]Leader
		for s := range covey.ShardID(200) {
			l := Leader{s, 7, covey.NodeID(s%5 + 1), true}
			want[s] = l
			own[l.Node] = append(own[l.Node], l)
		}
		for id, ls := range own[1:] {
			w.nodes[covey.NodeID(id+1)].Announce(ls)
		}
		w.nodes[2].Announce([]Leader{{0, 6, 2, true}, {maxShards, 9, 2, true}, {3, 0, 2, true}, {3, 99, 0, true}})
		want[4] = Leader{4, 8, 2, true}
		w.nodes[2].Announce([]Leader{want[4]})
		for by, n := range w.nodes {
			w.within(5*time.Second, fmt.Sprint(by, " knows all leaders"), func() bool { return maps.Equal(n.Leaders(), want) })
		}
		want[4] = Leader{4, 8, 2, false}
		w.nodes[2].Announce([]Leader{want[4], {4, 8, 2, true}, {2, 7, 2, true}})
		for by, n := range w.nodes {
			w.within(5*time.Second, fmt.Sprint(by, " knows the quorum is lost"), func() bool { return n.Leaders()[4] == want[4] })
		}
		late := w.start(6)
		w.until("who comes late knows all", func() bool { return maps.Equal(late.Leaders(), want) })
		if len(late.leads) != len(want) {
			t.Errorf("who comes late was told %d, want %d", len(late.leads), len(want))
		}
	})
}

// TestWhatIsPassedOn: what came as gossip, and what an exchange brings that is
// newer than what was known.
func TestWhatIsPassedOn(t *testing.T) {
	inWorld(t, lan, func(w *world) {
		d := delegate{w.start(1).Gossip}
		hear := map[string]func(b []byte){
			"gossip":   d.NotifyMsg,
			"exchange": func(b []byte) { d.MergeRemoteState(b, false) },
		}
		for i, tt := range []struct {
			by     string
			l      Leader
			queued int
		}{
			{"exchange", Leader{1, 1, 1, true}, 0}, // it knew nothing, as a node that is new
			{"exchange", Leader{1, 2, 1, true}, 1},
			{"exchange", Leader{1, 2, 1, true}, 1},
			{"exchange", Leader{1, 1, 1, true}, 1},
			{"gossip", Leader{2, 1, 1, true}, 2},
			{"gossip", Leader{2, 2, 1, true}, 2}, // in place of the one before
			{"gossip", Leader{3, 0, 1, true}, 2},
		} {
			hear[tt.by](encodeLeaders([]Leader{tt.l}))
			if got := d.leaders.queue.NumQueued(); got != tt.queued {
				t.Errorf("step %d: %d wait to be passed on, want %d", i, got, tt.queued)
			}
		}
		for _, b := range [][]byte{nil, {9}, []byte("nonsense")} {
			d.NotifyMsg(b)
		}
		if got := refused(t, d.Gossip, refusedLeaders); got != 4 {
			t.Errorf("%d refused, want 4", got)
		}
	})
}

// TestLeadersAfterPartition: both sides come to know the newest.
func TestLeadersAfterPartition(t *testing.T) {
	inWorld(t, lan, func(w *world) {
		w.cluster(4)
		w.nodes[1].Announce([]Leader{{1, 1, 1, true}})
		for _, n := range w.nodes {
			w.until("the first leader is known", func() bool { return n.Leaders()[1].Term == 1 })
		}
		w.net.Split([]covey.NodeID{1, 2}, []covey.NodeID{3, 4})
		w.pass(30 * time.Second)
		w.nodes[3].Announce([]Leader{{1, 2, 3, true}})
		w.pass(10 * time.Second)
		w.net.Heal()
		w.all(Alive)
		for _, n := range w.nodes {
			w.until("the second leader is known", func() bool { return n.Leaders()[1].Term == 2 })
		}
	})
}

// TestUnknownNodesLeadNothing: C-02, a key holder may say that somebody leads who
// is not there.
func TestUnknownNodesLeadNothing(t *testing.T) {
	inWorld(t, lan, func(w *world) {
		w.cluster(2)
		w.nodes[1].Announce([]Leader{{1, 1, 55, true}, {2, 1, 1, true}})
		n := w.nodes[2]
		w.until("the leader that is a member is known", func() bool { return n.Leaders()[2].Node == 1 })
		w.pass(30 * time.Second)
		if l, ok := n.Leaders()[1]; ok {
			t.Errorf("it believes %v", l)
		}
	})
}

// TestC01_C05_StrangersHaveNoEffect: who has another key, or is of another
// cluster, is not heard, and learns nothing; and that is said once.
func TestC01_C05_StrangersHaveNoEffect(t *testing.T) {
	for name, edit := range map[string]func(*Config){
		"another key":     func(c *Config) { c.Keys = [][]byte{key(9)} },
		"another cluster": func(c *Config) { c.Cluster = covey.ClusterID{9} },
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, lan, func(w *world) {
				w.cluster(3)
				stranger := w.start(9, edit)
				delete(w.nodes, 9)
				defer stranger.Close()
				w.pass(50 * time.Second)
				for id, n := range w.nodes {
					if len(n.Members()) != 3 || n.living() != 3 {
						t.Errorf("%s has members %v", id, n.Members())
					}
					if got := n.log.count("level=WARN"); got > 1 {
						t.Errorf("%s warns %d times", id, got)
					}
				}
				if got := stranger.Members(); len(got) != 1 {
					t.Errorf("the stranger has members %v", got)
				}
				sum := 0
				for _, n := range w.nodes {
					sum += refused(t, n.Gossip, refusedLabel) + refused(t, n.Gossip, refusedDecrypt)
				}
				if sum < 10 {
					t.Errorf("%d refusals counted", sum)
				}
			})
		})
	}
}

// TestC01_TakenName: a node that calls itself by the id of a living one, at
// another address, takes nothing from it.
func TestC01_TakenName(t *testing.T) {
	inWorld(t, lan, func(w *world) {
		w.cluster(3)
		impostor := w.start(66, func(c *Config) { c.Self.ID = 2; c.Self.Peer = "10.9.9.9:1" })
		delete(w.nodes, 66)
		defer impostor.Close()
		w.pass(50 * time.Second)
		warned, counted := 0, 0
		for id, n := range w.nodes {
			m, _ := n.Member(2)
			if m.State != Alive || m.Gossip != membershiptest.IP(2)+":7946" || m.Peer != membershiptest.IP(2)+":7947" {
				t.Errorf("to %s node 2 is %+v", id, m)
			}
			if got := n.log.count("Conflicting address"); got > 1 {
				t.Errorf("%s warns %d times", id, got)
			} else {
				warned += got
			}
			counted += refused(t, n.Gossip, refusedConflict)
		}
		if warned == 0 || counted < warned {
			t.Errorf("%d warnings, %d counted", warned, counted)
		}
	})
}

// TestKeysRotate: a new key is everybody's second first, then the first, then
// alone; nobody is lost, and the old key is good for nothing after.
func TestKeysRotate(t *testing.T) {
	inWorld(t, lan, func(w *world) {
		w.cluster(3)
		for _, keys := range [][][]byte{{key(1), key(2)}, {key(2), key(1)}, {key(2)}} {
			for _, n := range w.nodes {
				if err := n.SetKeys(keys); err != nil {
					t.Fatal(err)
				}
				w.pass(3 * time.Second)
			}
		}
		w.pass(20 * time.Second)
		old := w.start(4) // has the first key only
		delete(w.nodes, 4)
		defer old.Close()
		w.pass(20 * time.Second)
		for by, n := range w.nodes {
			for id := range w.nodes {
				if got := n.states(id); slices.Contains(got, Suspect) || slices.Contains(got, Dead) {
					t.Errorf("%s was told of %s: %v", by, id, got)
				}
			}
			if len(n.Members()) != 3 {
				t.Errorf("%s has members %v", by, n.Members())
			}
		}
		w.start(5, func(c *Config) { c.Keys = [][]byte{key(2)} })
		w.see(5, Alive)
	})
}

func TestDescriptionTravels(t *testing.T) {
	inWorld(t, lan, func(w *world) {
		w.cluster(2)
		load := Load{1, 2, 3, 4}
		w.nodes[1].SetLoad(load)
		for id, n := range w.nodes {
			w.until(fmt.Sprint(id, " knows the load"), func() bool {
				m, _ := n.Member(1)
				return m.Load == load
			})
			m, _ := n.Member(1)
			if m.Since.IsZero() || m.Since.After(time.Now()) {
				t.Errorf("%s: alive since %v", id, m.Since)
			}
			m.Since = time.Time{}
			want := Member{
				ID: 1, Peer: "10.0.0.1:7947", Gossip: "10.0.0.1:7946", Version: "v1", Zone: "z", State: Alive, Load: load,
			}
			if diff := cmp.Diff(want, m); diff != "" {
				t.Errorf("%s: %s", id, diff)
			}
		}
		if got := w.nodes[2].states(1); len(got) != 1 {
			t.Errorf("a load is no news, but it was told %v", got)
		}
		if got := w.nodes[1].states(1); len(got) != 0 {
			t.Errorf("it was told of itself: %v", got)
		}
	})
}

// TestFirstTogether: nodes that start before those they know of find them, and
// what they know of may be wrong.
func TestFirstTogether(t *testing.T) {
	inWorld(t, lan, func(w *world) {
		w.seeds = []string{membershiptest.IP(3) + ":7946", membershiptest.IP(99) + ":7946", "nonsense", "10.0.0.1:http:"}
		w.start(1)
		w.start(2)
		w.pass(30 * time.Second)
		w.start(3)
		w.within(5*time.Second, "all are together", func() bool {
			return w.nodes[1].living() == 3 && w.nodes[2].living() == 3 && w.nodes[3].living() == 3
		})
	})
}
