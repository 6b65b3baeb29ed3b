// Package placement decides where the replicas of each shard should be, which of
// them should lead, and by which steps a group gets from what it is to what is
// wanted.
//
// Everything here is a function of its arguments: no clock, no chance, no I/O.
// The same arguments give the same result on every node, whatever their order.
// What is decided here is a wish; Raft decides what is. Nothing that is passed in
// is changed or kept.
//
// It is made for up to some hundred nodes and some thousand shards. DESIGN.md
// tells the rules and why.
package placement

import (
	"slices"

	"github.com/covey-mail/covey"
)

// A State tells what may be put on a node.
type State uint8

const (
	Up       State = iota + 1 // may hold and lead
	Draining                  // alive; everything is to leave it
	Down                      // dead, and expected back: keeps what it has, gets nothing
	Lost                      // dead for too long: what it has is to be made elsewhere
)

// A Node is what placement knows of a node.
type Node struct {
	ID    covey.NodeID
	Zone  string // nodes of one zone may fail together; "" shares its fate with nobody
	State State
}

// An Assignment is the voters that a group has or should have, in ascending
// order.
type Assignment []covey.NodeID

// A Map gives the assignment of each shard.
type Map map[covey.ShardID]Assignment

// directoryVoters is how many nodes vote on the directory, if there are as many.
const directoryVoters = 5

// Plan returns where the replicas of shards 1 to shards should be.
//
// Each shard gets replicas voters, or the greatest odd number of nodes there are
// to hold them; in different zones if that is possible, and as evenly over the
// nodes as zones allow, with few differences from current. A shard that has
// replicas keeps its number when nodes die, and a shard whose live replicas are
// no majority stays as it is, since nothing could change it. One with a replica that
// is Down gives none away, neither for zones nor to make loads even. An unknown node in
// current is one that was removed. A shard that nobody can hold is not in the
// result.
func Plan(nodes []Node, current Map, shards, replicas int) Map {
	p := newPlanner(nodes)
	ids := make([]covey.ShardID, shards)
	for i := range ids {
		ids[i] = covey.ShardID(i + 1)
	}
	return p.plan(ids, current, replicas)
}

// Directory returns who should vote on group 0, up to five nodes and an odd
// number, and who should only follow: everybody else. The rules of Plan hold for
// the voters.
func Directory(nodes []Node, current Assignment) (voters, learners Assignment) {
	p := newPlanner(nodes)
	id := covey.DirectoryShard
	voters = p.plan([]covey.ShardID{id}, Map{id: current}, directoryVoters)[id]
	for _, n := range nodes {
		if !slices.Contains(voters, n.ID) {
			learners = append(learners, n.ID)
		}
	}
	slices.Sort(learners)
	return voters, learners
}

// Removal returns what the cluster would lose if a node were removed now.
//
// A shard is lost if no other node that may come back holds it. It is in
// lostQuorum if others hold it, but those alive are no majority, or fewer nodes
// than its replicas would be left to hold it.
func Removal(nodes []Node, m Map, replicas int, id covey.NodeID) (lostQuorum, lost []covey.ShardID) {
	state := make(map[covey.NodeID]State)
	holders := 0
	for _, n := range nodes {
		state[n.ID] = n.State
		if n.ID != id && (n.State == Up || n.State == Down) {
			holders++
		}
	}
	for s, voters := range m {
		if !slices.Contains(voters, id) {
			continue
		}
		live, known := 0, 0
		for _, v := range voters {
			if v == id {
				continue
			}
			switch state[v] {
			case Up, Draining:
				live++
				known++
			case Down:
				known++
			}
		}
		switch {
		case known == 0:
			lost = append(lost, s)
		case live < majority(len(voters)) || holders < min(replicas, len(voters)):
			lostQuorum = append(lostQuorum, s)
		}
	}
	slices.Sort(lostQuorum)
	slices.Sort(lost)
	return lostQuorum, lost
}

func majority(voters int) int { return voters/2 + 1 }

// odd returns the greatest odd number up to n, 0 if there is none.
func odd(n int) int {
	if n <= 0 {
		return 0
	}
	return n - 1 + n%2
}

// sorted returns the distinct ids of a list in ascending order.
func sorted(ids []covey.NodeID) Assignment {
	a := slices.Clone(ids)
	slices.Sort(a)
	return slices.Compact(a)
}
