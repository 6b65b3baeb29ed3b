package replica

import (
	"context"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/covey-mail/covey"
)

func TestChangeMembers(t *testing.T) {
	inCluster(t, 4, 3, func(c *cluster) {
		leader := c.leader(0, 1, 2, 3)
		leader.mustPropose(0, "one")
		gone := c.others(leader.id)[0]
		change := func(want covey.Kind, changes ...MemberChange) {
			c.t.Helper()
			err := leader.host.ChangeMembers(c.t.Context(), 0, changes)
			if (err == nil) != (want == covey.Internal) || err != nil && covey.KindOf(err) != want {
				c.t.Fatalf("ChangeMembers(%v): %v", changes, err)
			}
		}
		change(covey.Invalid)
		change(covey.Invalid, MemberChange{4, 9})
		change(covey.Invalid, MemberChange{0, Voter})
		change(covey.Invalid, MemberChange{leader.id, Learner})
		change(covey.Internal, MemberChange{4, Learner})
		leader.mustPropose(0, "two")
		change(covey.Internal, MemberChange{4, Voter}, MemberChange{gone, Removed})
		leader.mustPropose(0, "three")
		c.waitFor("news at node 4", func() bool { return len(c.node(4).machines[0].now().Commands) == 3 })
		status := c.node(4).host.Status()[0]
		want := c.others(gone)
		if diff := cmp.Diff(want, status.Voters); diff != "" {
			c.t.Errorf("voters at node 4 (-want +got):\n%s", diff)
		}
		c.node(gone).crash(0)

		// The membership survives, and the changes are not made again although
		// the state machines start from nothing.
		var made countingHandler
		c.cfg.Logger = slog.New(&made)
		for _, id := range want {
			c.node(id).crash(uint64(id))
		}
		for _, id := range want {
			c.node(id).start()
		}
		c.leader(0, want...).mustPropose(0, "four")
		if diff := cmp.Diff([]string{"one", "two", "three", "four"}, c.agree(0).Commands); diff != "" {
			c.t.Errorf("applied (-want +got):\n%s", diff)
		}
		if n := made.count("members"); n != 0 {
			c.t.Errorf("%d changes of members were made again", n)
		}
	})
}

// A change is answered when the next may be made, and not before it is applied: until
// then the core would refuse another.
func TestChangesInARow(t *testing.T) {
	inCluster(t, 3, 3, func(c *cluster) {
		leader := c.leader(0, c.all()...)
		leader.mustPropose(0, "one")
		c.agree(0)
		gate := make(chan struct{})
		leader.machines[0].gate = gate
		var done sync.WaitGroup
		defer done.Wait()
		done.Go(func() {
			if err := leader.propose(0, time.Minute, "two"); err != nil {
				c.t.Errorf("propose: %v", err)
			}
		})
		synctest.Wait()
		gone := c.others(leader.id)[0]
		answer := make(chan error, 1)
		done.Go(func() { answer <- leader.host.ChangeMembers(c.t.Context(), 0, []MemberChange{{gone, Removed}}) })
		advance(c.t, 200*time.Millisecond)
		early := len(answer) > 0
		close(gate)
		if err := <-answer; err != nil || early {
			c.t.Fatalf("answered with %v; before it was applied: %v", err, early)
		}
		if err := leader.host.ChangeMembers(c.t.Context(), 0, []MemberChange{{gone, Learner}}); err != nil {
			c.t.Errorf("the next change: %v", err)
		}
	})
}

// A voter that died a moment ago counts for no change that needs it.
func TestChangeBesideADeadVoter(t *testing.T) {
	inCluster(t, 3, 3, func(c *cluster) {
		leader := c.leader(0, c.all()...)
		leader.mustPropose(0, "one")
		c.agree(0)
		others := c.others(leader.id)
		c.node(others[0]).crash(0)
		advance(c.t, 700*time.Millisecond) // less than an election timeout
		remove := func(id covey.NodeID) error {
			return leader.host.ChangeMembers(c.t.Context(), 0, []MemberChange{{id, Removed}})
		}
		wantKind(c.t, "the one that lives leaves", remove(others[1]), covey.Unavailable)
		if err := remove(others[0]); err != nil {
			c.t.Errorf("the one that is dead leaves: %v", err)
		}
		leader.mustPropose(0, "two")
	})
}

// A change that leaves the group to voters that are gone, or have no state yet, is
// refused: without its leader such a group could not elect another.
func TestChangeThatCouldElectNobody(t *testing.T) {
	inTruncating(t, 4, 1, func(c *cluster) {
		leader, joiner := c.leader(0, 1), c.node(2)
		c.fill(leader, 20)
		change := func(what string, want covey.Kind, changes ...MemberChange) {
			c.t.Helper()
			switch err := leader.host.ChangeMembers(c.t.Context(), 0, changes); {
			case want != fine:
				wantKind(c.t, what, err, want)
			case err != nil:
				c.t.Fatalf("%s: %v", what, err)
			}
		}
		change("a second voter that is not there", covey.Unavailable, MemberChange{2, Voter})
		change("a learner", fine, MemberChange{2, Learner})
		change("a learner that is not there becomes a voter", covey.Unavailable, MemberChange{2, Voter})
		joiner.join(0)
		c.agree(0)
		advance(c.t, time.Second)
		change("one that has a state", fine, MemberChange{2, Voter})
		change("a third of three", fine, MemberChange{3, Voter})
		advance(c.t, time.Second)
		c.node(3).crash(0)
		advance(c.t, 5*time.Second)
		change("one of the two that are there leaves", covey.Unavailable, MemberChange{2, Removed})
		change("a fourth", covey.Unavailable, MemberChange{4, Voter})
		change("the one that is gone leaves", fine, MemberChange{3, Removed})
		leader.mustPropose(0, "after")
	})
}

// A countingHandler counts log lines by their text.
type countingHandler struct {
	slog.Handler
	mu    sync.Mutex
	lines map[string]int
}

func (h *countingHandler) Enabled(context.Context, slog.Level) bool { return true }
func (h *countingHandler) WithAttrs([]slog.Attr) slog.Handler       { return h }
func (h *countingHandler) Handle(_ context.Context, r slog.Record) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.lines == nil {
		h.lines = map[string]int{}
	}
	h.lines[r.Message]++
	return nil
}

func (h *countingHandler) count(line string) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.lines[line]
}
