package replica

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/internal/durable"
)

// TestEntriesOutliveTheirProposals: the memory that carried a command to the core
// is used for the next one, while the entry is still read from the cache.
func TestEntriesOutliveTheirProposals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := startSingle(t, durable.OS(), t.TempDir(), Config{}, &recorder{})
		defer s.mustStop()
		var want []string
		for i := range 20 {
			want = append(want, fmt.Sprint(i)+strings.Repeat("x", 100-i))
			s.mustPropose(0, want[i])
		}
		last, err := s.log.Group(0).LastIndex()
		if err != nil {
			t.Fatal(err)
		}
		entries, err := s.log.Group(0).Entries(firstIndex+1, last+1, maxMessageBytes)
		if err != nil {
			t.Fatal(err)
		}
		entries = entries[len(entries)-len(want):]
		for i, e := range entries {
			if _, _, cmd, err := splitFrame(e.GetData()); err != nil || string(cmd) != want[i] {
				t.Errorf("entry %d became %q, %v, want %q", e.GetIndex(), cmd, err, want[i])
			}
		}
	})
}

// What a node does as leader of a term is not done in another, be it by the same
// node.
func TestProposeInATerm(t *testing.T) {
	inCluster(t, 3, 3, func(c *cluster) {
		in := func(p *peer, term uint64, command string) error {
			ctx, cancel := context.WithTimeout(c.t.Context(), 10*time.Second)
			defer cancel()
			_, err := p.host.ProposeIn(ctx, 0, term, []byte(command))
			return err
		}
		old := c.leader(0, c.all()...)
		term := old.status(0).Term
		if err := in(old, term, "in its term"); err != nil {
			c.t.Errorf("the leader in its term: %v", err)
		}
		wantKind(c.t, "no term", in(old, 0, "never"), covey.Invalid)
		for _, wrong := range []uint64{term - 1, term + 1} {
			wantKind(c.t, "another term", in(old, wrong, "never"), covey.Unavailable)
		}
		other := c.others(old.id)[0]
		wantKind(c.t, "a follower", in(c.node(other), term, "never"), covey.Unavailable)
		for _, to := range []covey.NodeID{other, old.id} {
			if err := c.leader(0, c.all()...).host.TransferLeader(c.t.Context(), 0, to); err != nil {
				c.t.Fatal(err)
			}
			c.leader(0, to)
		}
		wantKind(c.t, "the leader of another term", in(old, term, "never"), covey.Unavailable)
		if err := in(old, old.status(0).Term, "in its new term"); err != nil {
			c.t.Errorf("the leader in its new term: %v", err)
		}
		if got := c.agree(0).Commands; !slices.Equal(got, []string{"in its term", "in its new term"}) {
			c.t.Errorf("applied %q", got)
		}
	})
}
