package replica

import (
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/internal/durable/durabletest"
)

// A group whose replicas are all lost begins once more, above every term that it
// had, on a node that never had it or that had it in a former life; it survives a
// restart like any other.
func TestFound(t *testing.T) {
	for _, former := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			disk := durabletest.NewDisk()
			s := newSingle(t, disk, "/log", Config{})
			s.run()
			if former {
				asFollower := &recorder{}
				if err := s.host.Add(0, asFollower, []covey.NodeID{1, 2, 3}); err != nil {
					t.Fatal(err)
				}
				if err := s.host.Remove(t.Context(), 0); err != nil {
					t.Fatal(err)
				}
			}
			m := &recorder{read: s.log.Read}
			if err := s.host.Found(0, m, 1000); err != nil {
				t.Fatal(err)
			}
			s.machines = []*recorder{m}
			s.mustPropose(0, "one")
			wantCommands(t, m, "one")
			if got := s.host.Status()[0]; got.Term < 1000 || got.Leader != 1 {
				t.Errorf("%+v, want a leader in a term from 1000", got)
			}
			wantKind(t, "founded twice", s.host.Found(0, &recorder{}, 2000), covey.Exists)
			s.mustStop()

			s = startSingle(t, disk, "/log", Config{}, &recorder{chain: m.durable, durable: m.durable})
			s.mustPropose(0, "two")
			if d := cmp.Diff([]string{"one", "two"}, s.machines[0].chain.Commands); d != "" {
				t.Errorf("applied (-want +got):\n%s", d)
			}
			s.mustStop()
		})
	}
}
