package bench

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

func TestHistogramAgainstExactQuantiles(t *testing.T) {
	for name, draw := range map[string]func(r *rand.Rand) time.Duration{
		"uniform":     func(r *rand.Rand) time.Duration { return time.Duration(r.Int64N(int64(time.Second))) },
		"exponential": func(r *rand.Rand) time.Duration { return time.Duration(r.ExpFloat64() * float64(3*time.Millisecond)) },
		"small":       func(r *rand.Rand) time.Duration { return time.Duration(r.Int64N(300)) },
		"two humps":   func(r *rand.Rand) time.Duration { return time.Duration(1+r.IntN(2)*9999) * time.Microsecond },
	} {
		t.Run(name, func(t *testing.T) {
			r := rand.New(rand.NewPCG(1, 2))
			var h histogram
			exact := make([]time.Duration, 20_000)
			for i := range exact {
				exact[i] = draw(r)
				h.add(exact[i])
			}
			slices.Sort(exact)
			for _, q := range []float64{0.001, 0.5, 0.95, 0.99, 0.999, 1} {
				want := exact[max(int(q*float64(len(exact))+0.5), 1)-1]
				got := h.quantile(q)
				if got < want || float64(got) > float64(want)*1.01 {
					t.Errorf("quantile %v = %v, want %v to 1 %% more", q, got, want)
				}
			}
		})
	}
}

func TestHistogramBuckets(t *testing.T) {
	for shift := range maxBits {
		for _, v := range []time.Duration{1<<shift - 1, 1 << shift, 1<<shift + 1} {
			i := bucket(v)
			if highest(i) < v || i > 0 && highest(i-1) >= v {
				t.Errorf("%d counts in bucket %d, of %d to %d", v, i, highest(i-1)+1, highest(i))
			}
		}
	}
	if got := bucket(-1); got != 0 {
		t.Errorf("bucket of a negative time is %d, want 0", got)
	}
	if got := bucket(1 << 62); got != buckets-1 {
		t.Errorf("bucket of 146 years is %d, want the last, %d", got, buckets-1)
	}
}

func TestHistogramOfNothing(t *testing.T) {
	var h histogram
	if got := h.quantile(0.5); got != 0 {
		t.Errorf("median of nothing is %v, want 0", got)
	}
	h.add(100 * time.Hour)
	if got := h.quantile(0.5); got != highest(buckets-1) {
		t.Errorf("median of what is beyond the scale is %v, want its end, %v", got, highest(buckets-1))
	}
}

func BenchmarkHistogramAdd(b *testing.B) {
	var h histogram
	for i := range b.N {
		h.add(time.Duration(i))
	}
}
