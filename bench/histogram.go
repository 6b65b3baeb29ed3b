package bench

import (
	"math/bits"
	"time"
)

// A histogram counts latencies in fixed memory. Buckets grow with the value, 128
// to each doubling, so that a quantile is at most 1 % above the exact one, from a
// nanosecond to an hour; what is longer counts as the longest. The zero value is
// empty. Not for concurrent use.
type histogram struct {
	counts [buckets]int64
	n      int64
	max    time.Duration
}

const (
	subBits = 7
	sub     = 1 << subBits
	maxBits = 42 // of the longest latency in nanoseconds, 73 minutes
	buckets = (maxBits-subBits-1)*sub + 2*sub
)

// bucket returns where v counts: below 2*sub a bucket for each value, then sub
// buckets for each doubling.
func bucket(v time.Duration) int {
	u := min(uint64(max(v, 0)), 1<<maxBits-1)
	if u < 2*sub {
		return int(u)
	}
	shift := bits.Len64(u) - (subBits + 1)
	return shift*sub + int(u>>shift)
}

// highest returns the largest value that counts in bucket i.
func highest(i int) time.Duration {
	if i < 2*sub {
		return time.Duration(i)
	}
	shift := i/sub - 1
	return time.Duration(i-shift*sub+1)<<shift - 1
}

func (h *histogram) add(v time.Duration) {
	h.counts[bucket(v)]++
	h.n++
	h.max = max(h.max, v)
}

// quantile returns a value that the share q of all values does not exceed, 0 for
// an empty histogram.
func (h *histogram) quantile(q float64) time.Duration {
	rank := int64(q*float64(h.n) + 0.5)
	rank = min(max(rank, 1), h.n)
	var seen int64
	for i, c := range h.counts {
		if seen += c; c > 0 && seen >= rank {
			return min(highest(i), h.max)
		}
	}
	return 0
}
