package mailbox

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/storage"
)

// model is the plain list that uidList must agree with.
type model []covey.UID

func (m model) runs() []storage.UIDRange {
	var out []storage.UIDRange
	for _, u := range m {
		if k := len(out); k > 0 && out[k-1].Last+1 == u {
			out[k-1].Last = u
		} else {
			out = append(out, storage.UIDRange{First: u, Last: u})
		}
	}
	return out
}

func (m model) within(set []storage.UIDRange) (in, out model) {
	for _, u := range m {
		if slices.ContainsFunc(set, func(r storage.UIDRange) bool { return r.First <= u && u <= r.Last }) {
			in = append(in, u)
		} else {
			out = append(out, u)
		}
	}
	return in, out
}

func randomSet(r *rand.Rand, top covey.UID) []storage.UIDRange {
	var set []storage.UIDRange
	for range r.IntN(4) {
		a := covey.UID(r.IntN(int(top) + 3))
		set = append(set, storage.UIDRange{First: a, Last: a + covey.UID(r.IntN(9))})
	}
	return normalize(set)
}

func TestUIDListAgreesWithPlainList(t *testing.T) {
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 1))
		l, m, next := newUIDList(nil), model(nil), covey.UID(1)
		for range 60 {
			if r.IntN(3) > 0 {
				next += covey.UID(1 + r.IntN(2))
				l.add(next)
				m = append(m, next)
			} else {
				set := randomSet(r, next)
				gone, left := m.within(set)
				checkRemoved(t, m, gone, l.remove(set))
				m = left
			}
			compare(t, seed, &l, m)
			in, _ := m.within(randomSet(rand.New(rand.NewPCG(seed, 2)), next))
			if diff := cmp.Diff(in.runs(), model(expand(l.within(randomSet(rand.New(rand.NewPCG(seed, 2)), next)))).runs()); diff != "" {
				t.Fatalf("seed %d: within: %s", seed, diff)
			}
		}
	}
}

// checkRemoved replays the announced sequence numbers on the plain list.
func checkRemoved(t *testing.T, m, gone model, seqs []uint32) {
	t.Helper()
	client := slices.Clone(m)
	for _, s := range seqs {
		client = slices.Delete(client, int(s)-1, int(s))
	}
	left := slices.DeleteFunc(slices.Clone(m), func(u covey.UID) bool { return slices.Contains(gone, u) })
	if diff := cmp.Diff(left, client); diff != "" {
		t.Fatalf("a client that follows the expunges has %s", diff)
	}
}

func compare(t *testing.T, seed uint64, l *uidList, m model) {
	t.Helper()
	if l.n != uint32(len(m)) {
		t.Fatalf("seed %d: %d messages, want %d", seed, l.n, len(m))
	}
	for i, u := range m {
		if got := l.uid(uint32(i + 1)); got != u {
			t.Fatalf("seed %d: uid(%d) = %d, want %d", seed, i+1, got, u)
		}
		if got := l.seq(u); got != uint32(i+1) {
			t.Fatalf("seed %d: seq(%d) = %d, want %d", seed, u, got, i+1)
		}
	}
	if l.uid(0) != 0 || l.uid(l.n+1) != 0 || l.seq(l.last()+1) != 0 {
		t.Fatalf("seed %d: numbers outside the list exist", seed)
	}
	if diff := cmp.Diff(m.runs(), l.span(1, l.n)); diff != "" {
		t.Fatalf("seed %d: span: %s", seed, diff)
	}
}

func expand(rs []storage.UIDRange) []covey.UID {
	var out []covey.UID
	for _, r := range rs {
		for u := r.First; u <= r.Last; u++ {
			out = append(out, u)
		}
	}
	return out
}

// I-15: a set as wide as the UID space costs the runs that exist, not its width.
func TestI15_WideSetsAreCutToTheView(t *testing.T) {
	l := newUIDList([]storage.UIDRange{{First: 5, Last: 9}, {First: 20, Last: 20}})
	got := l.within([]storage.UIDRange{{First: 1, Last: 1<<32 - 1}})
	if diff := cmp.Diff([]storage.UIDRange{{First: 5, Last: 9}, {First: 20, Last: 20}}, got); diff != "" {
		t.Error(diff)
	}
	if got := l.span(1, 1<<32-1); len(got) != 2 {
		t.Errorf("span = %v", got)
	}
}

func TestNormalize(t *testing.T) {
	got := normalize([]storage.UIDRange{{First: 7, Last: 9}, {First: 1, Last: 2}, {First: 3, Last: 3}, {First: 8, Last: 1<<32 - 1}})
	want := []storage.UIDRange{{First: 1, Last: 3}, {First: 7, Last: 1<<32 - 1}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}
