package main

import (
	"os"
	"testing"

	"github.com/covey-mail/covey/bench"
)

// The disk is looked at before and after, and the median of all is what counts.
func TestLatencyIsInWrites(t *testing.T) {
	res := &bench.Result{Latency: bench.Latency{P99: 60}, Accept: bench.Latency{P50: 6, P99: 50}}
	list := latencyFigures(res, []float64{1, 2, 2}, []float64{9, 2})
	if list[0].Value != 3 || list[1].Value != 25 || list[2].Value != 2 {
		t.Errorf("got %+v", list[:3])
	}
	if list[0].verdict() != "met" || list[1].verdict() != "missed" {
		t.Errorf("verdicts %q and %q", list[0].verdict(), list[1].verdict())
	}
}

func TestSyncedWrites(t *testing.T) {
	dir := t.TempDir()
	took, err := syncedWrites(dir, 5)
	if err != nil || len(took) != 5 {
		t.Fatalf("%d writes, %v", len(took), err)
	}
	for _, ms := range took {
		if ms <= 0 {
			t.Fatalf("a write took %v ms", ms)
		}
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("it left %v, %v", left, err)
	}
	if _, err := syncedWrites("/nowhere", 1); err == nil {
		t.Error("a folder that is not there was written to")
	}
}
