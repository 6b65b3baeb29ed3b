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
// what is allocated in gcEvery, within gcRoom; a node that has become quiet is back
// at the runtime's own measure, and gives the memory back.
const (
	gcEvery = time.Second
	gcRoom  = 128 << 20
	gcUsual = 100 // per cent, the runtime's default
)

// A collector paces the runtime's.
type collector struct {
	samples   []metrics.Sample
	allocated uint64 // at the last look
	percent   int    // as set
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
			// Setting it stops the world for a moment; small changes are not worth it.
			if p := gcPercent(c.look()); p > c.percent+c.percent/4 || p < c.percent-c.percent/4 {
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

// gcPercent returns by how much the heap may grow, in per cent of what is live.
func gcPercent(allocated, live uint64) int {
	const least = 4 << 20 // the runtime's own least heap
	room := min(allocated, gcRoom)
	return max(gcUsual, int(100*room/max(live, least)))
}
