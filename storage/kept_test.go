package storage

import (
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/storage/seglog"
)

// What is kept of messages in memory is what the database says, whatever was asked
// before and has changed since.
func TestKeptRows(t *testing.T) {
	s := open(t, Config{Path: filepath.Join(t.TempDir(), "shard")})
	d := s.m.t.(*database)
	read := func() (all [4][]Message) {
		t.Helper()
		for i := range all {
			q := Query{Mailbox: 1, UIDs: []UIDRange{{1, 9}}, Summary: i&1 != 0, Extents: i&2 != 0}
			if err := s.Messages(t.Context(), q, func(m *Message) error {
				all[i] = append(all[i], *m)
				return nil
			}); err != nil {
				t.Fatal(err)
			}
		}
		return all
	}
	index := uint64(0)
	apply := func(c Command) func() {
		return func() {
			index++
			s.Apply([]seglog.Command{entry(index, c)})
		}
	}
	arrive := func() {
		index++
		s.Apply([]seglog.Command{deliver(index, 5)})
	}
	body := covey.BodyID(2)
	for _, step := range []struct {
		what string
		do   func()
		left int
	}{
		{"three messages", func() { arrive(); arrive(); arrive() }, 3},
		{"flags", apply(StoreFlags{Account: 5, Mailbox: 1, UIDs: []UIDRange{{2, 2}}, Op: AddFlags, Flags: covey.Flags{System: covey.Seen, Keywords: []string{"work"}}}), 3},
		{"a move", func() {
			from, _ := d.extents(body)
			to := from[0]
			to.Segment++
			d.moveBody(body, from, []seglog.Extent{to})
		}, 3},
		{"one expunged", apply(Expunge{Account: 5, Mailbox: 1, UIDs: []UIDRange{{2, 2}}}), 2},
		{"another message", arrive, 3},
	} {
		step.do()
		first, again := read(), read()
		d.rows.Clear()
		d.single.Clear()
		fresh := read()
		if diff := cmp.Diff(fresh, first); diff != "" {
			t.Errorf("after %s (-database +kept):\n%s", step.what, diff)
		}
		if diff := cmp.Diff(fresh, again); diff != "" {
			t.Errorf("after %s, asked again (-database +kept):\n%s", step.what, diff)
		}
		if len(fresh[3]) != step.left || fresh[3][0].Extents == nil || fresh[3][0].Summary == nil || fresh[0][0].Summary != nil {
			t.Errorf("after %s: %+v", step.what, fresh)
		}
	}
}
