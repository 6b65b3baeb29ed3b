package placement

import (
	"cmp"
	"maps"
	"slices"

	"github.com/covey-mail/covey"
)

// Leaders returns which voter should lead each shard of m, so that each node
// leads about as many as any other, with few differences from current. A node
// that is draining leads only what has no voter that is up. A shard without a
// voter that is alive is not in the result.
func Leaders(m Map, nodes []Node, current map[covey.ShardID]covey.NodeID) map[covey.ShardID]covey.NodeID {
	l := &leading{fit: Map{}, load: map[covey.NodeID]int{}, want: map[covey.ShardID]covey.NodeID{}}
	state := map[covey.NodeID]State{}
	for _, n := range nodes {
		state[n.ID] = n.State
	}
	shards := slices.Sorted(maps.Keys(m))
	for _, s := range shards {
		l.fit[s] = fit(m[s], state)
		if slices.Contains(l.fit[s], current[s]) {
			l.give(s, current[s])
		}
	}
	for _, s := range shards {
		if l.want[s] == 0 && len(l.fit[s]) > 0 {
			l.give(s, slices.MinFunc(l.fit[s], func(a, b covey.NodeID) int {
				return cmp.Or(cmp.Compare(l.load[a], l.load[b]), cmp.Compare(a, b))
			}))
		}
	}
	l.shards = shards
	for l.levelOnce() {
	}
	return l.want
}

// fit returns the voters that may lead.
func fit(voters Assignment, state map[covey.NodeID]State) Assignment {
	for _, want := range []State{Up, Draining} {
		a := slices.DeleteFunc(sorted(voters), func(id covey.NodeID) bool { return state[id] != want })
		if len(a) > 0 {
			return a
		}
	}
	return nil
}

// leading works out who leads.
type leading struct {
	shards []covey.ShardID      // ascending
	fit    Map                  // who may lead each shard
	load   map[covey.NodeID]int // shards led in want
	want   map[covey.ShardID]covey.NodeID
}

func (l *leading) give(s covey.ShardID, id covey.NodeID) {
	if old := l.want[s]; old != 0 {
		l.load[old]--
	}
	l.want[s] = id
	l.load[id]++
}

// levelOnce brings two nodes closer together, by way of others if need be, and
// reports whether it could.
func (l *leading) levelOnce() bool {
	from := slices.SortedFunc(maps.Keys(l.load), func(a, b covey.NodeID) int {
		return cmp.Or(cmp.Compare(l.load[b], l.load[a]), cmp.Compare(a, b))
	})
	for _, x := range from {
		for way := range ways(x, l.load, l.handOver) {
			for _, t := range way {
				l.give(t.shard, t.to)
			}
			return true
		}
	}
	return false
}

// handOver returns for a node the steps by which others may lead in its place,
// at most one to each.
func (l *leading) handOver(x covey.NodeID) []step {
	var steps []step
	seen := map[covey.NodeID]bool{x: true}
	for _, s := range l.shards {
		if l.want[s] != x {
			continue
		}
		for _, y := range l.fit[s] {
			if !seen[y] {
				seen[y] = true
				steps = append(steps, step{s, x, y})
			}
		}
	}
	return steps
}
