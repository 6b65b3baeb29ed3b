package placement

import (
	"cmp"
	"iter"
	"slices"

	"github.com/covey-mail/covey"
)

// A planner works out one plan.
type planner struct {
	nodes map[covey.NodeID]Node
	up    []covey.NodeID       // those that may be given replicas, ascending
	load  map[covey.NodeID]int // replicas in want

	shards []covey.ShardID // those that can be changed, ascending
	have   Map             // their nodes at present, as far as known
	want   Map
}

func newPlanner(nodes []Node) *planner {
	p := &planner{nodes: map[covey.NodeID]Node{}, load: map[covey.NodeID]int{}, have: Map{}, want: Map{}}
	for _, n := range nodes {
		p.nodes[n.ID] = n
		if n.State == Up {
			p.up = append(p.up, n.ID)
		}
	}
	p.up = sorted(p.up)
	return p
}

func (p *planner) plan(shards []covey.ShardID, current Map, replicas int) Map {
	for _, s := range shards {
		have := slices.DeleteFunc(sorted(current[s]), func(id covey.NodeID) bool { return p.nodes[id].ID == 0 })
		if len(have) > 0 && p.alive(have) < majority(len(have)) {
			p.put(s, sorted(current[s]))
			continue
		}
		p.shards = append(p.shards, s)
		p.have[s] = have
		p.put(s, p.keep(have))
	}
	for _, s := range p.shards {
		p.resize(s, p.size(p.have[s], replicas))
	}
	for _, s := range p.shards {
		if !p.lacksOne(s) {
			p.separate(s)
		}
	}
	p.level()
	for s, a := range p.want {
		slices.Sort(a)
		if len(a) == 0 {
			delete(p.want, s)
		}
	}
	return p.want
}

func (p *planner) alive(ids []covey.NodeID) (n int) {
	for _, id := range ids {
		if s := p.nodes[id].State; s == Up || s == Draining {
			n++
		}
	}
	return n
}

func (p *planner) put(s covey.ShardID, a Assignment) {
	p.want[s] = a
	for _, id := range a {
		p.load[id]++
	}
}

// keep returns those of a shard's nodes that nothing drives away.
func (p *planner) keep(have Assignment) Assignment {
	return slices.DeleteFunc(slices.Clone(have), func(id covey.NodeID) bool {
		s := p.nodes[id].State
		return s != Up && s != Down
	})
}

// size returns how many replicas a shard should have. It grows only over nodes
// that are fit, but does not shrink because some are not.
func (p *planner) size(have Assignment, replicas int) int {
	fit := len(p.keep(have))
	for _, id := range p.up {
		if !slices.Contains(have, id) {
			fit++
		}
	}
	return max(odd(min(replicas, fit)), odd(min(replicas, len(have))), 1)
}

// resize drops replicas of s or adds some until there are size of them, as far
// as there are nodes. Nodes that it should leave are taken again only if nothing
// else is there.
func (p *planner) resize(s covey.ShardID, size int) {
	for len(p.want[s]) > size {
		p.drop(s, slices.MaxFunc(p.want[s], func(a, b covey.NodeID) int {
			return cmp.Or(
				cmp.Compare(p.nodes[a].State, p.nodes[b].State),
				cmp.Compare(p.sharing(s, a, a), p.sharing(s, b, b)),
				cmp.Compare(p.load[a], p.load[b]),
				cmp.Compare(a, b))
		}))
	}
	for len(p.want[s]) < size {
		id, ok := p.best(s, p.up, 0)
		if !ok {
			break
		}
		p.add(s, id)
	}
	// Draining before Lost: states are in order of preference.
	rest := slices.Clone(p.have[s])
	slices.SortFunc(rest, func(a, b covey.NodeID) int {
		return cmp.Or(cmp.Compare(p.nodes[a].State, p.nodes[b].State), cmp.Compare(a, b))
	})
	for _, id := range rest {
		if len(p.want[s]) < size && !slices.Contains(p.want[s], id) {
			p.add(s, id)
		}
	}
}

func (p *planner) add(s covey.ShardID, id covey.NodeID) {
	p.want[s] = append(p.want[s], id)
	p.load[id]++
}

func (p *planner) drop(s covey.ShardID, id covey.NodeID) {
	p.want[s] = slices.DeleteFunc(p.want[s], func(v covey.NodeID) bool { return v == id })
	p.load[id]--
}

// sharing returns how many of the nodes of s, without one of them, are in the
// zone of id.
func (p *planner) sharing(s covey.ShardID, id, without covey.NodeID) (n int) {
	zone := p.nodes[id].Zone
	if zone == "" {
		return 0
	}
	for _, v := range p.want[s] {
		if v != without && p.nodes[v].Zone == zone {
			n++
		}
	}
	return n
}

// best returns that candidate for s which, with a node of it gone, shares its
// zone with the fewest and has the least load. Of equal ones it takes another one
// for each shard, so that those who share shards with a node are many: they
// share its work when it dies.
func (p *planner) best(s covey.ShardID, candidates []covey.NodeID, without covey.NodeID) (covey.NodeID, bool) {
	var best covey.NodeID
	for _, id := range candidates {
		if slices.Contains(p.want[s], id) {
			continue
		}
		if best == 0 || cmp.Or(
			cmp.Compare(p.sharing(s, id, without), p.sharing(s, best, without)),
			cmp.Compare(p.load[id], p.load[best]),
			cmp.Compare(mix(s, id), mix(s, best))) < 0 {
			best = id
		}
	}
	return best, best != 0
}

// mix makes a number of a shard and a node that looks like chance (the end of
// splitmix64). Changing it moves replicas in every cluster.
func mix(s covey.ShardID, id covey.NodeID) uint64 {
	x := uint64(id) + uint64(s)*0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// separate moves replicas of s to zones that it has fewer replicas in. Exchanging
// one replica at a time finds the best there is, since zones do not overlap.
func (p *planner) separate(s covey.ShardID) {
	for {
		var from, to covey.NodeID
		gain := 0
		for _, x := range p.want[s] {
			if p.nodes[x].State != Up {
				continue
			}
			y, ok := p.best(s, p.up, x)
			if !ok {
				continue
			}
			g := p.sharing(s, x, x) - p.sharing(s, y, x)
			if g > gain || g == gain && g > 0 && p.load[x] > p.load[from] {
				from, to, gain = x, y, g
			}
		}
		if gain == 0 {
			return
		}
		p.drop(s, from)
		p.add(s, to)
	}
}

// level moves replicas from nodes that have most to nodes that have fewest, as
// long as somebody has two more than somebody else and zones are no worse for it.
// Where zones forbid the direct way, a third node takes a replica and gives
// another.
func (p *planner) level() {
	for p.levelOnce() {
	}
}

func (p *planner) levelOnce() bool {
	from := slices.Clone(p.up)
	slices.SortFunc(from, func(a, b covey.NodeID) int {
		return cmp.Or(cmp.Compare(p.load[b], p.load[a]), cmp.Compare(a, b))
	})
	for _, x := range from {
		if p.load[x] < p.load[from[len(from)-1]]+2 {
			return false
		}
		for way := range ways(x, p.load, p.shift) {
			if p.walk(way) {
				return true
			}
		}
	}
	return false
}

// A step hands a shard on from one node to another.
type step struct {
	shard    covey.ShardID
	from, to covey.NodeID
}

// shift returns for a node the steps by which it may give a replica away, at
// most one to each other node, and best one that it does not have yet.
func (p *planner) shift(x covey.NodeID) []step {
	var fresh, old []covey.ShardID
	for _, s := range p.shards {
		switch {
		case !slices.Contains(p.want[s], x), p.lacksOne(s):
		case slices.Contains(p.have[s], x):
			old = append(old, s)
		default:
			fresh = append(fresh, s)
		}
	}
	var steps []step
	for _, y := range p.up {
		for _, s := range slices.Concat(fresh, old) {
			if t := (step{s, x, y}); p.fits(t) {
				steps = append(steps, t)
				break
			}
		}
	}
	return steps
}

// lacksOne reports whether a replica of a shard is on a node that is down: it needs
// those that it has.
func (p *planner) lacksOne(s covey.ShardID) bool {
	return slices.ContainsFunc(p.want[s], func(id covey.NodeID) bool { return p.nodes[id].State == Down })
}

func (p *planner) fits(t step) bool {
	a := p.want[t.shard]
	return slices.Contains(a, t.from) && !slices.Contains(a, t.to) &&
		p.sharing(t.shard, t.to, t.from) <= p.sharing(t.shard, t.from, t.from)
}

// walk takes all steps of a way, or none if one is not possible after those
// before it: two of them may be about the same shard.
func (p *planner) walk(way []step) bool {
	for i, t := range way {
		if !p.fits(t) {
			for _, t := range slices.Backward(way[:i]) {
				p.drop(t.shard, t.to)
				p.add(t.shard, t.from)
			}
			return false
		}
		p.drop(t.shard, t.from)
		p.add(t.shard, t.to)
	}
	return true
}

// ways yields, shortest first, one way from x to each node that has at least two
// fewer than x and can be reached by the steps that nodes can make.
func ways(x covey.NodeID, load map[covey.NodeID]int, steps func(covey.NodeID) []step) iter.Seq[[]step] {
	return func(yield func([]step) bool) {
		came := map[covey.NodeID]step{x: {}}
		for reached := []covey.NodeID{x}; len(reached) > 0; {
			var next []covey.NodeID
			for _, at := range reached {
				for _, t := range steps(at) {
					if _, seen := came[t.to]; !seen {
						came[t.to] = t
						next = append(next, t.to)
					}
				}
			}
			slices.SortStableFunc(next, func(a, b covey.NodeID) int { return cmp.Compare(load[a], load[b]) })
			for _, id := range next {
				if load[id] <= load[x]-2 && !yield(way(came, id)) {
					return
				}
			}
			reached = next
		}
	}
}

// way returns the steps that led to a node.
func way(came map[covey.NodeID]step, to covey.NodeID) []step {
	var way []step
	for t := came[to]; t.from != 0; t = came[t.from] {
		way = append(way, t)
	}
	slices.Reverse(way)
	return way
}
