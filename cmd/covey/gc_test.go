package main

import (
	"slices"
	"testing"
)

func TestGCPercent(t *testing.T) {
	const mib = 1 << 20
	for _, c := range []struct {
		name            string
		allocated, live uint64
		want            int
	}{
		{"nothing known yet", 0, 0, gcUsual},
		{"quiet", 2 * mib, 40 * mib, gcUsual},
		{"busy", 100 * mib, 40 * mib, 250},
		{"busier than there is room for", 1000 * mib, 64 * mib, 200},
		{"a large heap", 1000 * mib, 1000 * mib, gcUsual},
		{"a tiny heap", 1000 * mib, 1, 3200},
	} {
		if got := gcPercent(c.allocated, c.live); got != c.want {
			t.Errorf("%s: %d per cent, want %d", c.name, got, c.want)
		}
	}
}

func TestCollectorSeesAllocations(t *testing.T) {
	c := newCollector()
	kept := make([]byte, 1<<20)
	if got, _ := c.look(); got < uint64(len(kept)) {
		t.Errorf("saw %d bytes allocated, %d were", got, len(kept))
	}
	if got, _ := c.look(); got >= uint64(len(kept)) {
		t.Errorf("saw %d bytes allocated again", got)
	}
	kept[0] = 1
}

func TestMemoryIsGivenBackOnce(t *testing.T) {
	c := newCollector()
	var at []int
	for i := range 10 * gcCalm {
		allocated := uint64(gcQuiet - 1)
		if i == 5*gcCalm {
			allocated = gcQuiet
		}
		if c.rests(allocated) {
			at = append(at, i)
		}
	}
	if want := []int{gcCalm - 1, 6 * gcCalm}; !slices.Equal(at, want) {
		t.Errorf("given back at looks %v, want %v", at, want)
	}
}
