package placement

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/covey-mail/covey"
)

// cluster draws nodes in the given states, in one of zones zones each, or in
// none if zones is 0.
func cluster(t *rapid.T, n, zones int, states ...State) []Node {
	var nodes []Node
	for i := range n {
		node := Node{ID: covey.NodeID(i + 1), State: rapid.SampledFrom(states).Draw(t, "state")}
		if zones > 0 {
			node.Zone = fmt.Sprint("z", rapid.IntRange(1, zones).Draw(t, "zone"))
		}
		nodes = append(nodes, node)
	}
	return nodes
}

func find(nodes []Node, id covey.NodeID) Node {
	for _, n := range nodes {
		if n.ID == id {
			return n
		}
	}
	return Node{}
}

// loads counts the replicas on each node that is up.
func loads(nodes []Node, m Map) map[covey.NodeID]int {
	load := map[covey.NodeID]int{}
	for _, n := range nodes {
		if n.State == Up {
			load[n.ID] = 0
		}
	}
	for _, a := range m {
		for _, id := range a {
			if _, up := load[id]; up {
				load[id]++
			}
		}
	}
	return load
}

// spread returns the difference between the most and the least.
func spread(load map[covey.NodeID]int) int {
	least, most := -1, 0
	for _, n := range load {
		if least < 0 || n < least {
			least = n
		}
		most = max(most, n)
	}
	return most - max(least, 0)
}

// moved counts the replicas of b that are not in a.
func moved(a, b Map) (n int) {
	for s := range b {
		for _, id := range b[s] {
			if !slices.Contains(a[s], id) {
				n++
			}
		}
	}
	return n
}

// collisions counts pairs of replicas that share a zone.
func collisions(nodes []Node, m Map) (n int) {
	for _, a := range m {
		for i, x := range a {
			for _, y := range a[:i] {
				if z := find(nodes, x).Zone; z != "" && z == find(nodes, y).Zone {
					n++
				}
			}
		}
	}
	return n
}

func TestPlanIsBalancedAndOdd(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		nodes := cluster(t, rapid.IntRange(1, 9).Draw(t, "nodes"), 0, Up)
		shards := rapid.IntRange(1, 40).Draw(t, "shards")
		replicas := rapid.SampledFrom([]int{1, 3, 5}).Draw(t, "replicas")
		m := Plan(nodes, nil, shards, replicas)
		if len(m) != shards {
			t.Fatalf("%d shards, want %d", len(m), shards)
		}
		want := odd(min(replicas, len(nodes)))
		for s, a := range m {
			if len(a) != want {
				t.Errorf("shard %d has %d voters, want %d", s, len(a), want)
			}
			if !slices.Equal(a, sorted(a)) {
				t.Errorf("shard %d: %v is not in order, or holds a node twice", s, a)
			}
		}
		if d := spread(loads(nodes, m)); d > 1 {
			t.Errorf("loads differ by %d: %v", d, m)
		}
	})
}

func TestPlanKeepsWhatIsGood(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		nodes := cluster(t, rapid.IntRange(1, 8).Draw(t, "nodes"), rapid.IntRange(0, 4).Draw(t, "zones"), Up, Up, Up, Draining, Down, Lost)
		shards := rapid.IntRange(1, 20).Draw(t, "shards")
		replicas := rapid.SampledFrom([]int{1, 3, 5}).Draw(t, "replicas")
		m := Plan(nodes, randomMap(t, nodes, shards), shards, replicas)
		if diff := cmp.Diff(m, Plan(nodes, m, shards, replicas)); diff != "" {
			t.Errorf("planned again, something moves (-first +second):\n%s", diff)
		}
	})
}

// randomMap has any odd number of the given nodes, and one that was removed, in
// each shard.
func randomMap(t *rapid.T, nodes []Node, shards int) Map {
	m := Map{}
	for s := range shards {
		var ids []covey.NodeID
		for _, n := range nodes {
			ids = append(ids, n.ID)
		}
		ids = append(ids, 99)
		ids = rapid.Permutation(ids).Draw(t, "order")
		m[covey.ShardID(s+1)] = ids[:min(odd(len(ids)), rapid.SampledFrom([]int{0, 1, 3, 5}).Draw(t, "voters"))]
	}
	return m
}

func TestPlanDependsOnNothingElse(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		nodes := cluster(t, rapid.IntRange(1, 8).Draw(t, "nodes"), 3, Up, Up, Draining, Down, Lost)
		current := randomMap(t, nodes, 10)
		first := Plan(nodes, current, 10, 3)
		shuffled := rapid.Permutation(nodes).Draw(t, "shuffled")
		for s, a := range current {
			current[s] = rapid.Permutation(a).Draw(t, "voters")
		}
		if diff := cmp.Diff(first, Plan(shuffled, current, 10, 3)); diff != "" {
			t.Errorf("the order of the arguments matters (-first +second):\n%s", diff)
		}
	})
}

func TestOneMoreNodeMovesItsShare(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(3, 12).Draw(t, "nodes")
		shards := rapid.IntRange(1, 60).Draw(t, "shards")
		nodes := cluster(t, n+1, 0, Up)
		before := Plan(nodes[:n], nil, shards, 3)
		after := Plan(nodes, before, shards, 3)
		if got, most := moved(before, after), (shards*3+n)/(n+1); got > most {
			t.Errorf("%d replicas move, at most %d", got, most)
		}
		if d := spread(loads(nodes, after)); d > 1 {
			t.Errorf("loads differ by %d", d)
		}
	})
}

func TestOneLessNodeMovesItsOwn(t *testing.T) {
	for _, state := range []State{Draining, Lost} {
		rapid.Check(t, func(t *rapid.T) {
			n := rapid.IntRange(4, 12).Draw(t, "nodes")
			shards := rapid.IntRange(1, 60).Draw(t, "shards")
			nodes := cluster(t, n, 0, Up)
			before := Plan(nodes, nil, shards, 3)
			own := loads(nodes, before)[1]
			nodes[0].State = state
			after := Plan(nodes, before, shards, 3)
			for s, a := range after {
				if slices.Contains(a, 1) || len(a) != 3 {
					t.Errorf("shard %d: %v", s, a)
				}
			}
			// Where it goes is limited by where shards are already, so
			// that a few others may move in turn.
			if got, most := moved(before, after), own+n; got < own || got > most {
				t.Errorf("%d replicas move, want %d to %d", got, own, most)
			}
			if d := spread(loads(nodes, after)); d > 1 {
				t.Errorf("loads differ by %d", d)
			}
		})
	}
}

func TestNothingMovesWhenANodeGoesDown(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(3, 9).Draw(t, "nodes")
		nodes := cluster(t, n, rapid.IntRange(0, 3).Draw(t, "zones"), Up)
		before := Plan(nodes, nil, 20, 3)
		nodes[rapid.IntRange(0, n-1).Draw(t, "dead")].State = Down
		if diff := cmp.Diff(before, Plan(nodes, before, 20, 3)); diff != "" {
			t.Error(diff)
		}
	})
}

// A new node beside a dead one gets nothing from those that live: a shard that lacks
// a replica needs the others. When the dead one is back, or given up, it does.
func TestNothingIsGivenAwayBesideADeadNode(t *testing.T) {
	nodes := []Node{{ID: 1, State: Up, Zone: "a"}, {ID: 2, State: Up, Zone: "a"}, {ID: 3, State: Down}, {ID: 4, State: Up, Zone: "b"}}
	before := Plan(nodes[:3], Map{}, 8, 3)
	for id := range before {
		before[id] = Assignment{1, 2, 3}
	}
	if diff := cmp.Diff(before, Plan(nodes, before, 8, 3)); diff != "" {
		t.Error(diff)
	}
	for _, state := range []State{Up, Lost} {
		nodes[2].State = state
		if cmp.Equal(before, Plan(nodes, before, 8, 3)) {
			t.Errorf("nothing moves to a new node beside one that is %d", state)
		}
	}
}

func TestShardsDoNotShrinkBecauseNodesDie(t *testing.T) {
	for _, state := range []State{Draining, Down, Lost} {
		nodes := []Node{{ID: 1, State: Up}, {ID: 2, State: Up}, {ID: 3, State: Up}}
		before := Plan(nodes, nil, 4, 3)
		nodes[2].State = state
		if diff := cmp.Diff(before, Plan(nodes, before, 4, 3)); diff != "" {
			t.Errorf("one of three is %d: %s", state, diff)
		}
	}
}

func TestShardsWithoutMajorityStay(t *testing.T) {
	nodes := []Node{{ID: 1, State: Up}, {ID: 2, State: Down}, {ID: 3, State: Lost}, {ID: 4, State: Up}, {ID: 5, State: Up}}
	current := Map{1: {1, 2, 3}, 2: {3}, 3: {2, 3, 4}, 4: {3, 4, 5}}
	got := Plan(nodes, current, 4, 3)
	want := Map{1: {1, 2, 3}, 2: {3}, 3: {2, 3, 4}, 4: {1, 4, 5}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// TestZonesThenBalance compares with the best of all maps there are.
func TestZonesThenBalance(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		nodes := cluster(t, rapid.IntRange(3, 5).Draw(t, "nodes"), 3, Up)
		current := randomMap(t, nodes, 3)
		got := Plan(nodes, current, 3, 3)
		c, b := cost(nodes, got)
		bestC, bestB := 1<<30, 1<<30
		for _, x := range threes(nodes) {
			for _, y := range threes(nodes) {
				for _, z := range threes(nodes) {
					c, b := cost(nodes, Map{1: x, 2: y, 3: z})
					if c < bestC || c == bestC && b < bestB {
						bestC, bestB = c, b
					}
				}
			}
		}
		if c != bestC || b != bestB {
			t.Errorf("%v: %d pairs share a zone and squares of loads are %d, could be %d and %d", got, c, b, bestC, bestB)
		}
	})
}

func cost(nodes []Node, m Map) (zones, balance int) {
	for _, n := range loads(nodes, m) {
		balance += n * n
	}
	return collisions(nodes, m), balance
}

func threes(nodes []Node) (all []Assignment) {
	for i := range nodes {
		for j := range i {
			for k := range j {
				all = append(all, Assignment{nodes[k].ID, nodes[j].ID, nodes[i].ID})
			}
		}
	}
	return all
}

func TestDirectory(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		nodes := cluster(t, rapid.IntRange(1, 9).Draw(t, "nodes"), 2, Up, Up, Up, Down, Draining, Lost)
		current := randomMap(t, nodes, 1)[1]
		voters, learners := Directory(nodes, current)
		for _, n := range nodes {
			if slices.Contains(voters, n.ID) == slices.Contains(learners, n.ID) {
				t.Errorf("node %d: voters %v, learners %v", n.ID, voters, learners)
			}
		}
		again, _ := Directory(nodes, voters)
		if !slices.Equal(voters, again) {
			t.Errorf("first %v, then %v", voters, again)
		}
		up := 0
		for _, n := range nodes {
			if n.State == Up {
				up++
			}
		}
		if up == len(nodes) && len(voters) != odd(min(up, 5)) && !slices.Contains(current, 99) {
			t.Errorf("%d voters of %d nodes", len(voters), up)
		}
	})
}

func TestLeaders(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		nodes := cluster(t, rapid.IntRange(3, 9).Draw(t, "nodes"), 0, Up)
		shards := rapid.IntRange(1, 40).Draw(t, "shards")
		m := Plan(nodes, nil, shards, 3)
		current := map[covey.ShardID]covey.NodeID{}
		for s := range m {
			current[s] = covey.NodeID(rapid.IntRange(0, len(nodes)).Draw(t, "leader"))
		}
		got := Leaders(m, nodes, current)
		if diff := cmp.Diff(got, Leaders(m, nodes, got)); diff != "" {
			t.Errorf("asked again, leaders change: %s", diff)
		}
		load := map[covey.NodeID]int{}
		for _, a := range m {
			for _, id := range a {
				load[id] += 0
			}
		}
		for s, a := range m {
			if !slices.Contains(a, got[s]) {
				t.Errorf("shard %d is led by %d, not one of %v", s, got[s], a)
			}
			load[got[s]]++
		}
		if d := spread(load); d > 1 {
			t.Errorf("leaders differ by %d: %v", d, load)
		}
	})
}

func TestLeadersLeaveNodesThatGo(t *testing.T) {
	nodes := []Node{{ID: 1, State: Up}, {ID: 2, State: Draining}, {ID: 3, State: Down}, {ID: 4, State: Lost}}
	m := Map{1: {1, 2, 3}, 2: {2, 3, 4}, 3: {3}, 4: {1}}
	got := Leaders(m, nodes, map[covey.ShardID]covey.NodeID{1: 2, 2: 3, 3: 3})
	want := map[covey.ShardID]covey.NodeID{1: 1, 2: 2, 4: 1}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// TestFewLeadersChange: where one node leads too much, only what is too much
// goes.
func TestFewLeadersChange(t *testing.T) {
	nodes := []Node{{ID: 1, State: Up}, {ID: 2, State: Up}, {ID: 3, State: Up}}
	m, current := Map{}, map[covey.ShardID]covey.NodeID{}
	for s := range covey.ShardID(12) {
		m[s+1], current[s+1] = Assignment{1, 2, 3}, 1
	}
	changes := 0
	for s, id := range Leaders(m, nodes, current) {
		if id != current[s] {
			changes++
		}
	}
	if changes != 8 {
		t.Errorf("%d changes, want 8", changes)
	}
}

func TestRemoval(t *testing.T) {
	up := func(n int) (nodes []Node) {
		for i := range n {
			nodes = append(nodes, Node{ID: covey.NodeID(i + 1), State: Up})
		}
		return nodes
	}
	with := func(nodes []Node, id covey.NodeID, s State) []Node {
		nodes = slices.Clone(nodes)
		nodes[id-1].State = s
		return nodes
	}
	m := Map{1: {1, 2, 3}, 2: {2, 3, 4}, 3: {3}}
	tests := map[string]struct {
		nodes            []Node
		m                Map
		replicas         int
		id               covey.NodeID
		lostQuorum, lost []covey.ShardID
	}{
		"it holds nothing":                       {up(5), m, 3, 5, nil, nil},
		"one of four":                            {up(4), m, 3, 1, nil, nil},
		"it holds the only replica":              {up(4), m, 3, 3, nil, []covey.ShardID{3}},
		"one of three":                           {up(3), Map{1: {1, 2, 3}}, 3, 1, []covey.ShardID{1}, nil},
		"one of three, one replica wanted":       {up(3), Map{1: {1, 2, 3}}, 1, 1, nil, nil},
		"another is dead":                        {with(up(4), 2, Down), m, 3, 1, []covey.ShardID{1}, nil},
		"it is dead itself":                      {with(up(4), 1, Lost), m, 3, 1, nil, nil},
		"all others are lost":                    {with(with(up(5), 2, Lost), 3, Lost), m, 3, 1, nil, []covey.ShardID{1}},
		"in the middle of a move":                {up(4), Map{7: {1, 2}}, 1, 2, []covey.ShardID{7}, nil},
		"others drain, so nobody takes its part": {with(up(4), 4, Draining), Map{1: {1, 2, 3}}, 3, 1, []covey.ShardID{1}, nil},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			lostQuorum, lost := Removal(tt.nodes, tt.m, tt.replicas, tt.id)
			if !slices.Equal(lostQuorum, tt.lostQuorum) || !slices.Equal(lost, tt.lost) {
				t.Errorf("got %v and %v, want %v and %v", lostQuorum, lost, tt.lostQuorum, tt.lost)
			}
		})
	}
}

func BenchmarkPlan(b *testing.B) {
	rnd := rand.New(rand.NewPCG(1, 2))
	var nodes []Node
	for i := range 33 {
		nodes = append(nodes, Node{ID: covey.NodeID(i + 1), State: Up, Zone: fmt.Sprint(rnd.IntN(5))})
	}
	before := Plan(nodes[:32], nil, 1024, 3)
	for b.Loop() {
		Plan(nodes, before, 1024, 3)
	}
}

// TestEverybodySharesWithEverybody: when a node dies, all others take over some
// of what it led.
func TestEverybodySharesWithEverybody(t *testing.T) {
	var nodes []Node
	for i := range 6 {
		nodes = append(nodes, Node{ID: covey.NodeID(i + 1), State: Up})
	}
	m := Plan(nodes, nil, 36, 3)
	for _, n := range nodes {
		var mates []covey.NodeID
		for _, a := range m {
			if slices.Contains(a, n.ID) {
				mates = append(mates, a...)
			}
		}
		if got := len(sorted(mates)) - 1; got != 5 {
			t.Errorf("node %d shares shards with %d others, want 5", n.ID, got)
		}
	}
}
