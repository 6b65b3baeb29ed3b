package storage

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/covey-mail/covey"
)

func TestRecent(t *testing.T) {
	var r recent
	for i := range covey.UID(20) { // one message a command, ModSeq 2 to 21
		r.add(covey.ModSeq(i+2), i+1)
	}
	r.add(22, 3)
	r.add(22, 4)
	for _, c := range []struct {
		since covey.ModSeq
		want  []UIDRange
	}{
		{0, []UIDRange{{1, 20}}},
		{16, []UIDRange{{1, 20}}},
		{17, []UIDRange{{3, 4}, {17, 20}}},
		{21, []UIDRange{{3, 4}}},
		{22, nil},
	} {
		got, ok := r.since(c.since)
		if d := cmp.Diff(c.want, got); d != "" || !ok {
			t.Errorf("since %d (-want +got), known %v:\n%s", c.since, ok, d)
		}
	}
	for uid := covey.UID(100); uid < 1000; uid += 2 {
		r.add(23, uid) // one command, too large to remember
	}
	if _, ok := r.since(22); ok || len(r.changes) > maxRecent {
		t.Errorf("%d runs, and what is remembered is said to be all", len(r.changes))
	}
	r.add(24, 7)
	if got, ok := r.since(23); !ok || !cmp.Equal(got, []UIDRange{{7, 7}}) {
		t.Errorf("after it: %v, known %v", got, ok)
	}
}
