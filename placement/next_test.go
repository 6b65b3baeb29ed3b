package placement

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/covey-mail/covey"
)

func TestNext(t *testing.T) {
	ready := func(ids ...covey.NodeID) map[covey.NodeID]bool {
		m := map[covey.NodeID]bool{}
		for _, id := range ids {
			m[id] = true
		}
		return m
	}
	tests := map[string]struct {
		g                Group
		voters, learners Assignment
		want             []Change
	}{
		"as it should be":   {Group{Voters: []covey.NodeID{3, 1, 2}, Leader: 1}, Assignment{1, 2, 3}, nil, nil},
		"nobody leads":      {Group{Voters: []covey.NodeID{1}}, Assignment{2}, nil, nil},
		"a change is going": {Group{Voters: []covey.NodeID{1}, Leader: 1, Joint: true}, Assignment{2}, nil, nil},
		"nothing wanted":    {Group{Voters: []covey.NodeID{1}, Leader: 1}, nil, nil, nil},

		"one to three: learners": {Group{Voters: []covey.NodeID{1}, Leader: 1}, Assignment{1, 2, 3}, nil,
			[]Change{{2, Learner}, {3, Learner}}},
		"one to three: one of them is behind": {Group{Voters: []covey.NodeID{1}, Learners: []covey.NodeID{2, 3}, Leader: 1, CaughtUp: ready(2)},
			Assignment{1, 2, 3}, nil, nil},
		"one to three: both at once": {Group{Voters: []covey.NodeID{1}, Learners: []covey.NodeID{2, 3}, Leader: 1, CaughtUp: ready(2, 3)},
			Assignment{1, 2, 3}, nil, []Change{{2, Voter}, {3, Voter}}},

		"single replica: promote": {Group{Voters: []covey.NodeID{1}, Learners: []covey.NodeID{2}, Leader: 1, CaughtUp: ready(2)},
			Assignment{2}, nil, []Change{{2, Voter}}},
		"single replica: transfer": {Group{Voters: []covey.NodeID{1, 2}, Leader: 1, CaughtUp: ready(2)},
			Assignment{2}, nil, []Change{{2, Leader}}},
		"single replica: remove": {Group{Voters: []covey.NodeID{1, 2}, Leader: 2, CaughtUp: ready(1)},
			Assignment{2}, nil, []Change{{1, Removed}}},
		"single replica: the old one is dead": {Group{Voters: []covey.NodeID{1, 2}, Leader: 2},
			Assignment{2}, nil, nil},

		"dead one replaced": {Group{Voters: []covey.NodeID{1, 2, 3}, Learners: []covey.NodeID{4}, Leader: 1, CaughtUp: ready(2, 4)},
			Assignment{1, 2, 4}, nil, []Change{{4, Voter}, {3, Removed}}},
		"no majority before": {Group{Voters: []covey.NodeID{1, 2, 3}, Learners: []covey.NodeID{4}, Leader: 1, CaughtUp: ready(4)},
			Assignment{1, 2, 4}, nil, nil},
		"no majority after": {Group{Voters: []covey.NodeID{1, 2, 3}, Leader: 1, CaughtUp: ready(2)},
			Assignment{1, 3, 4}, nil, []Change{{4, Learner}}},
		"no majority after, though the new one is there": {Group{Voters: []covey.NodeID{1, 2, 3, 4, 5}, Learners: []covey.NodeID{6},
			Leader: 1, CaughtUp: ready(2, 3, 6)}, Assignment{4, 5, 6}, nil, nil},
		"the leader goes: a voter that stays takes over": {Group{Voters: []covey.NodeID{1, 2, 3}, Learners: []covey.NodeID{4}, Leader: 1, CaughtUp: ready(3, 4)},
			Assignment{2, 3, 4}, nil, []Change{{3, Leader}}},
		"the leader goes, and those that stay do not answer": {Group{Voters: []covey.NodeID{1, 2, 3}, Learners: []covey.NodeID{4, 5}, Leader: 1, CaughtUp: ready(3, 4, 5)},
			Assignment{2, 4, 5}, nil, []Change{{4, Voter}, {5, Voter}, {3, Removed}}},

		"a learner that nobody wants any more": {Group{Voters: []covey.NodeID{1}, Learners: []covey.NodeID{2}, Leader: 1, CaughtUp: ready(2)},
			Assignment{1}, nil, []Change{{2, Removed}}},
		"directory: the fourth follows": {Group{Voters: []covey.NodeID{1, 2, 3}, Leader: 1, CaughtUp: ready(2, 3)},
			Assignment{1, 2, 3}, Assignment{4}, []Change{{4, Learner}}},
		"directory: a voter becomes a learner": {Group{Voters: []covey.NodeID{1, 2, 3}, Learners: []covey.NodeID{4}, Leader: 1, CaughtUp: ready(2, 4)},
			Assignment{1, 2, 4}, Assignment{3}, []Change{{4, Voter}, {3, Learner}}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, Next(tt.g, tt.voters, tt.learners)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// A model of a group: what Next asks for happens, other things happen too.
type model struct {
	*rapid.T
	Group
	dead map[covey.NodeID]bool
}

// apply does what Next asked for and checks that the group can go on at every
// point of it.
func (m *model) apply(changes []Change) {
	if changes[0].Role == Leader {
		if len(changes) != 1 || !slices.Contains(m.Voters, changes[0].Node) || m.dead[changes[0].Node] {
			m.Fatalf("hand-over %v to a node that cannot lead %+v", changes, m.Group)
		}
		m.Leader = changes[0].Node
		return
	}
	before := slices.Clone(m.Voters)
	for _, c := range changes {
		other := func(id covey.NodeID) bool { return id == c.Node }
		m.Voters = slices.DeleteFunc(m.Voters, other)
		m.Learners = slices.DeleteFunc(m.Learners, other)
		switch c.Role {
		case Voter:
			if !m.CaughtUp[c.Node] {
				m.Fatalf("node %d votes before it has caught up", c.Node)
			}
			m.Voters = append(m.Voters, c.Node)
		case Learner:
			m.Learners = append(m.Learners, c.Node)
		}
	}
	if !slices.Contains(m.Voters, m.Leader) {
		m.Fatalf("%v takes the leader's vote", changes)
	}
	if !slices.Equal(sorted(before), sorted(m.Voters)) {
		// Between the two configurations both majorities are needed.
		m.majority(before)
		m.majority(m.Voters)
		if len(before)%2 == 0 && len(m.Voters)%2 == 0 {
			m.Errorf("from an even number of voters %v to another %v", before, m.Voters)
		}
	}
	for _, c := range changes {
		if c.Role == Removed {
			delete(m.CaughtUp, c.Node)
		}
	}
}

func (m *model) majority(voters []covey.NodeID) {
	n := 0
	for _, id := range voters {
		if !m.dead[id] && (m.CaughtUp[id] || id == m.Leader) {
			n++
		}
	}
	if n < majority(len(voters)) {
		m.Fatalf("of voters %v only %d are alive and caught up", voters, n)
	}
}

// chance lets a member catch up, fall behind, or lead.
func (m *model) chance() {
	members := slices.Concat(m.Voters, m.Learners)
	id := rapid.SampledFrom(members).Draw(m.T, "node")
	switch rapid.SampledFrom([]string{"nothing", "behind", "ahead", "leads"}).Draw(m.T, "event") {
	case "behind":
		delete(m.CaughtUp, id)
	case "ahead":
		m.CaughtUp[id] = !m.dead[id]
	case "leads":
		if slices.Contains(m.Voters, id) && m.CaughtUp[id] && !m.dead[id] {
			m.CaughtUp[m.Leader] = true
			m.Leader = id
		}
	}
}

// TestNextArrives: whatever a group is and should be, and whatever happens
// meanwhile, it gets there once those who live have caught up, as long as a
// majority lives before and after.
func TestNextArrives(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ids := rapid.Permutation([]covey.NodeID{1, 2, 3, 4, 5, 6, 7}).Draw(t, "nodes")
		size := rapid.SampledFrom([]int{1, 3, 5})
		m := &model{T: t, dead: map[covey.NodeID]bool{}}
		m.Voters = slices.Clone(ids[:size.Draw(t, "voters")])
		m.Leader = m.Voters[0]
		m.CaughtUp = map[covey.NodeID]bool{}
		want := sorted(rapid.Permutation(ids).Draw(t, "wanted order")[:size.Draw(t, "wanted")])
		var follow Assignment
		for _, id := range ids {
			if !slices.Contains(want, id) && rapid.Bool().Draw(t, "follows") {
				follow = append(follow, id)
			}
		}
		slices.Sort(follow)
		if goes := m.Voters[len(m.Voters)-1]; len(m.Voters) > 1 && !slices.Contains(want, goes) {
			m.dead[goes] = rapid.Bool().Draw(t, "one is dead")
		}
		for range rapid.IntRange(0, 20).Draw(t, "troubled steps") {
			m.chance()
			if c := Next(m.Group, want, follow); c != nil {
				m.apply(c)
			}
		}
		for range 10 {
			for _, id := range slices.Concat(m.Voters, m.Learners) {
				m.CaughtUp[id] = !m.dead[id]
			}
			c := Next(m.Group, want, follow)
			if c == nil {
				break
			}
			m.apply(c)
		}
		if !slices.Equal(sorted(m.Voters), want) || !slices.Equal(sorted(m.Learners), follow) {
			t.Errorf("arrived at %v and %v, want %v and %v", m.Voters, m.Learners, want, follow)
		}
	})
}
