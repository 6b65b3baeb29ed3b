package simnet

import (
	"context"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/covey-mail/covey"
)

// inBubble runs fn beside a network whose nodes 1 to 3 note what they receive,
// and returns the notes once all of it has arrived.
func inBubble(t *testing.T, w Weather, fn func(n *Net[int])) map[covey.NodeID][]int {
	t.Helper()
	got := map[covey.NodeID][]int{}
	synctest.Test(t, func(t *testing.T) {
		n := New[int](7, w)
		var mu sync.Mutex
		for id := covey.NodeID(1); id <= 3; id++ {
			n.Join(id, func(_ covey.NodeID, m int) {
				mu.Lock()
				defer mu.Unlock()
				got[id] = append(got[id], m)
			})
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		var wg sync.WaitGroup
		wg.Go(func() { n.Run(ctx) })
		fn(n)
		wg.Wait()
	})
	return got
}

func sendAll(n *Net[int], from, to covey.NodeID, count int) {
	for i := range count {
		n.Send(from, to, i)
	}
}

func TestFairWeatherKeepsOrder(t *testing.T) {
	got := inBubble(t, Weather{}, func(n *Net[int]) { sendAll(n, 1, 2, 5) })
	want := map[covey.NodeID][]int{2: {0, 1, 2, 3, 4}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("delivered (-want +got):\n%s", diff)
	}
}

func TestDelayReorders(t *testing.T) {
	w := Weather{MinDelay: time.Millisecond, MaxDelay: time.Second}
	got := inBubble(t, w, func(n *Net[int]) { sendAll(n, 1, 2, 100) })[2]
	if len(got) != 100 {
		t.Fatalf("delivered %d of 100", len(got))
	}
	if slices.IsSorted(got) {
		t.Errorf("nothing was overtaken: %v", got)
	}
	slices.Sort(got)
	if len(slices.Compact(got)) != 100 {
		t.Errorf("some arrived twice, others not at all: %v", got)
	}
}

func TestLossAndDuplication(t *testing.T) {
	var counts Counts
	got := inBubble(t, Weather{Loss: 0.2, Duplicate: 0.2}, func(n *Net[int]) {
		sendAll(n, 1, 2, 1000)
		synctest.Wait()
		counts = n.Counts()
	})[2]
	if counts.Lost < 150 || counts.Lost > 250 {
		t.Errorf("lost %d of 1000, want about 200", counts.Lost)
	}
	if want := int(1000 - counts.Lost + counts.Duplicated); len(got) != want || counts.Delivered != uint64(want) {
		t.Errorf("received %d, counted %d, want %d", len(got), counts.Delivered, want)
	}
	if counts.Duplicated < 110 || counts.Duplicated > 210 {
		t.Errorf("duplicated %d, want about 160", counts.Duplicated)
	}
}

func TestSameSeedSameFate(t *testing.T) {
	w := Weather{Loss: 0.3, Duplicate: 0.3, MaxDelay: time.Second}
	fn := func(n *Net[int]) { sendAll(n, 1, 2, 50); sendAll(n, 2, 3, 50) }
	if diff := cmp.Diff(inBubble(t, w, fn), inBubble(t, w, fn)); diff != "" {
		t.Errorf("two runs differ:\n%s", diff)
	}
}

func TestCuts(t *testing.T) {
	tests := []struct {
		name string
		cut  func(n *Net[int])
		want map[covey.NodeID][]int
	}{
		{"one way", func(n *Net[int]) { n.Cut(1, 2) }, map[covey.NodeID][]int{1: {21}, 2: {32}, 3: {13}}},
		{"split", func(n *Net[int]) { n.Split([]covey.NodeID{1}, []covey.NodeID{2, 3}) }, map[covey.NodeID][]int{2: {32}}},
		{"gone", func(n *Net[int]) { n.Leave(2) }, map[covey.NodeID][]int{1: {21}, 3: {13}}},
		{"healed", func(n *Net[int]) { n.Cut(1, 2); n.Heal() }, map[covey.NodeID][]int{1: {21}, 2: {12, 32}, 3: {13}}},
		{"cut on the way", func(n *Net[int]) { n.Send(1, 2, 99); n.Cut(1, 2) }, map[covey.NodeID][]int{1: {21}, 2: {32}, 3: {13}}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got := inBubble(t, Weather{MinDelay: time.Millisecond}, func(n *Net[int]) {
				test.cut(n)
				n.Send(1, 2, 12)
				n.Send(1, 3, 13)
				n.Send(2, 1, 21)
				n.Send(3, 2, 32)
			})
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("delivered (-want +got):\n%s", diff)
			}
		})
	}
}

func TestSetWeather(t *testing.T) {
	got := inBubble(t, Weather{Loss: 1}, func(n *Net[int]) {
		n.Send(1, 2, 1)
		n.SetWeather(Weather{})
		n.Send(1, 2, 2)
	})
	if diff := cmp.Diff(map[covey.NodeID][]int{2: {2}}, got); diff != "" {
		t.Errorf("delivered (-want +got):\n%s", diff)
	}
}
