package main

import (
	"context"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// The runtime's collector runs when the heap has grown by what lives in it. A node
// whose mailboxes rest has little there, so that under load it would collect many
// times a second, for a tenth of its CPU time. Here the heap may grow instead by
// what is allocated in gcEvery, within gcRoom. A node that has become quiet is back
// at the runtime's own measure, and gives back what that would let it keep: thousands
// of idle sessions are then as large as what they hold, and not twice that.
const (
	gcEvery = time.Second
	gcRoom  = 128 << 20
	gcUsual = 100     // per cent, the runtime's default
	gcQuiet = 1 << 20 // bytes allocated between two looks
	gcCalm  = 20      // quiet looks in a row until memory is given back
)

// A collector paces the runtime's.
type collector struct {
	samples   []metrics.Sample
	allocated uint64 // at the last look
	percent   int    // as set
	calm      int    // quiet looks in a row
}

func newCollector() *collector {
	c := &collector{percent: gcUsual, samples: []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}, {Name: "/gc/heap/live:bytes"}}}
	c.look()
	return c
}

// pace follows the load until ctx ends, then goes back to the default. Where GOGC is
// set it does nothing: somebody knows better.
func (c *collector) pace(ctx context.Context) {
	if os.Getenv("GOGC") != "" {
		return
	}
	defer debug.SetGCPercent(gcUsual)
	tick := time.NewTicker(gcEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			allocated, live := c.look()
			if c.rests(allocated) {
				debug.FreeOSMemory()
			}
			// Setting it stops the world for a moment; small changes are not worth it.
			if p := gcPercent(allocated, live); p > c.percent+c.percent/4 || p < c.percent-c.percent/4 {
				c.percent = p
				debug.SetGCPercent(p)
			}
		}
	}
}

// look returns what was allocated since the last look, and what the last collection
// found alive.
func (c *collector) look() (allocated, live uint64) {
	metrics.Read(c.samples)
	total := c.samples[0].Value.Uint64()
	allocated, c.allocated = total-c.allocated, total
	return allocated, c.samples[1].Value.Uint64()
}

// rests reports whether the node has been quiet for just so long that memory is to
// be given back: once, until it has been busy again.
func (c *collector) rests(allocated uint64) bool {
	if allocated >= gcQuiet {
		c.calm = 0
		return false
	}
	c.calm++
	return c.calm == gcCalm
}

// gcPercent returns by how much the heap may grow, in per cent of what is live.
func gcPercent(allocated, live uint64) int {
	const least = 4 << 20 // the runtime's own least heap
	room := min(allocated, gcRoom)
	return max(gcUsual, int(100*room/max(live, least)))
}
