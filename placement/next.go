package placement

import (
	"fmt"
	"slices"

	"github.com/covey-mail/covey"
)

// A Role is what a change makes of a node.
type Role uint8

const (
	Voter   Role = iota + 1 // counts for the quorum
	Learner                 // gets all entries, does not count
	Removed                 // gets nothing
	Leader                  // is handed the leadership by the group's leader
)

// String returns what messages call the role.
func (r Role) String() string {
	switch r {
	case Voter:
		return "voter"
	case Learner:
		return "learner"
	case Removed:
		return "removed"
	case Leader:
		return "leader"
	}
	return fmt.Sprintf("role %d", uint8(r))
}

// A Change gives a node a role.
type Change struct {
	Node covey.NodeID
	Role Role
}

// A Group is what a group is at present, as its leader sees it.
type Group struct {
	Voters, Learners []covey.NodeID
	Leader           covey.NodeID          // 0 if there is none
	CaughtUp         map[covey.NodeID]bool // members that answer and have nearly all of the log
	Joint            bool                  // a change is under way
}

// Next returns what to do next, all at once, on the way from what a group is to
// the voters and learners it should have: either roles of members, or one
// hand-over of the leadership. Nil means that it is there, or that something must
// happen first: a change end, a leader be elected, a member catch up or come
// back.
//
// Nodes that are new come in as learners. Once all that are to vote have caught
// up, one change makes them voters and lets the others go. A leader is not asked
// to take its own vote: it hands over first, to a node that stays or, if there is
// none, to one that has been made a voter beside it. No change is made unless a
// majority of the voters before it and of those after it have caught up.
func Next(g Group, voters, learners Assignment) []Change {
	if g.Joint || g.Leader == 0 || len(voters) == 0 {
		return nil
	}
	m := move{g, sorted(voters), sorted(learners)}
	if c := m.invite(); len(c) > 0 {
		return c
	}
	return m.vote()
}

type move struct {
	Group
	want, follow Assignment
}

// invite returns the changes that take in as learners who is missing, and dismiss
// learners that nobody wants.
func (m *move) invite() []Change {
	var c []Change
	for _, id := range sorted(slices.Concat(m.want, m.follow)) {
		if !slices.Contains(m.Voters, id) && !slices.Contains(m.Learners, id) {
			c = append(c, Change{id, Learner})
		}
	}
	for _, id := range sorted(m.Learners) {
		if !slices.Contains(m.want, id) && !slices.Contains(m.follow, id) {
			c = append(c, Change{id, Removed})
		}
	}
	return c
}

// vote returns the changes of voters, or the hand-over that has to go before.
func (m *move) vote() []Change {
	after := m.want
	if !slices.Contains(m.want, m.Leader) {
		for _, id := range m.want {
			if slices.Contains(m.Voters, id) && m.ready(id) {
				return []Change{{id, Leader}}
			}
		}
		after = sorted(append(slices.Clone(m.want), m.Leader))
	}
	var c []Change
	for _, id := range after {
		if slices.Contains(m.Voters, id) {
			continue
		}
		if !m.ready(id) {
			return nil
		}
		c = append(c, Change{id, Voter})
	}
	for _, id := range sorted(m.Voters) {
		switch {
		case slices.Contains(after, id):
		case slices.Contains(m.follow, id):
			c = append(c, Change{id, Learner})
		default:
			c = append(c, Change{id, Removed})
		}
	}
	if !m.quorum(m.Voters) || !m.quorum(after) {
		return nil
	}
	return c
}

func (m *move) ready(id covey.NodeID) bool { return id == m.Leader || m.CaughtUp[id] }

func (m *move) quorum(voters []covey.NodeID) bool {
	n := 0
	for _, id := range voters {
		if m.ready(id) {
			n++
		}
	}
	return n >= majority(len(voters))
}
