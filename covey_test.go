package covey

import (
	"errors"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestNodeID(t *testing.T) {
	const id NodeID = 0xab
	got, err := ParseNodeID(id.String())
	if err != nil || got != id {
		t.Errorf("ParseNodeID(%q) = %v, %v", id.String(), got, err)
	}
	for _, s := range []string{"", "0000000000000000", "ab", "zz00000000000000", "00000000000000001"} {
		if _, err := ParseNodeID(s); !errors.Is(err, Invalid) {
			t.Errorf("ParseNodeID(%q) = %v, want Invalid", s, err)
		}
	}
}

func TestErrorKinds(t *testing.T) {
	inner := errors.New("cause")
	err := fmt.Errorf("outer: %w", Errorf(OverQuota, "account: %w", inner))
	if !errors.Is(err, OverQuota) || errors.Is(err, NotFound) || !errors.Is(err, inner) {
		t.Errorf("%v: wrong kind or cause lost", err)
	}
	if got := KindOf(err); got != OverQuota {
		t.Errorf("KindOf = %v, want OverQuota", got)
	}
	if got := KindOf(inner); got != Internal {
		t.Errorf("KindOf(plain) = %v, want Internal", got)
	}
	if got := KindOf(fmt.Errorf("x: %w", NotFound)); got != NotFound {
		t.Errorf("KindOf(wrapped kind) = %v, want NotFound", got)
	}
	for k := Kind(0); k < numKinds; k++ {
		if k.String() == "" {
			t.Errorf("kind %d has no name", k)
		}
	}
}

// The numbers travel between nodes of different versions.
func TestKindNumbersAreFixed(t *testing.T) {
	want := map[Kind]uint8{
		Internal: 0, Invalid: 1, NotFound: 2, Exists: 3, Denied: 4, OverQuota: 5, TooBig: 6, Limit: 7,
		InUse: 8, Unavailable: 9, Unknown: 10, DiskFull: 11, Corrupt: 12, Conflict: 13, Loop: 14,
	}
	if len(want) != int(numKinds) {
		t.Errorf("%d kinds listed here, %d exist", len(want), numKinds)
	}
	for k, n := range want {
		if uint8(k) != n {
			t.Errorf("%v is %d, want %d", k, k, n)
		}
	}
}

func TestFlags(t *testing.T) {
	f := NewFlags(Seen, "$Junk", "alpha", "$junk")
	if diff := cmp.Diff(Flags{Seen, []string{"$Junk", "alpha"}}, f); diff != "" {
		t.Error(diff)
	}
	g := f.With(NewFlags(Deleted, "Beta", "ALPHA"))
	if diff := cmp.Diff(Flags{Seen | Deleted, []string{"$Junk", "alpha", "Beta"}}, g); diff != "" {
		t.Error(diff)
	}
	if got := g.Without(NewFlags(Seen, "$JUNK", "beta")); !got.Equal(NewFlags(Deleted, "Alpha")) {
		t.Errorf("Without = %+v", got)
	}
	if len(f.Keywords) != 2 || !f.Has("ALPHA") || f.Has("beta") {
		t.Errorf("f was changed: %+v", f)
	}
}
