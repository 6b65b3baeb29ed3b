package nodetest

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/covey-mail/covey/node"
)

var (
	seed      = flag.Uint64("schedule.seed", 0, "run the schedule of faults with this seed alone")
	schedules = flag.Uint64("schedules", 0, "run this many schedules of faults; 0: two with -long, else none")
)

// A schedule is a series of faults that follows from a seed. What the nodes do
// meanwhile does not: the same seed finds the same fault again often, not always.
type schedule struct {
	*Cluster
	t    *testing.T
	rand *rand.Rand
}

// Nothing that was acknowledged is lost, nothing is there twice, and what clients see
// of an account has an order, whatever becomes of the nodes: they are killed, stopped,
// parted, lose their power and come back, one or several at a time.
func TestSchedules(t *testing.T) {
	seeds := []uint64{1, 2}
	switch {
	case *seed != 0:
		seeds = []uint64{*seed}
	case *schedules != 0:
		seeds = nil
		first := rand.Uint64()
		for i := range *schedules {
			seeds = append(seeds, first+i)
		}
	default:
		takesLong(t)
	}
	for _, s := range seeds {
		t.Run(fmt.Sprint("seed=", s), func(t *testing.T) {
			if *schedules != 0 {
				t.Parallel() // they wait more than they work: see -parallel
			}
			replicas := 3
			if s%5 == 0 {
				replicas = 1
			}
			opts := Options{Replicas: replicas, Shards: 3, PowerCuts: true}
			if s%3 != 0 {
				opts.Configure = forgetful
			}
			c := Started(t, 3+int(s%2), opts)
			run := schedule{c, t, rand.New(rand.NewPCG(s, 0))}
			histories := c.Histories(2)
			load := c.Load(c.Nodes()...)
			load.More(2)
			for range 6 {
				run.step()
				<-time.After(time.Duration(run.rand.IntN(1500)) * time.Millisecond)
			}
			run.mend()
			c.Settle()
			load.More(2)
			load.Check()
			for _, h := range histories {
				h.Check()
			}
		})
	}
}

// forgetful has the log keep nothing that is in a checkpoint, and many checkpoints:
// what a database loses then is nowhere else on the node, and whoever was away is sent
// copies.
func forgetful(cfg *node.Config) {
	const often = node.Duration(500 * time.Millisecond)
	l := &cfg.Limits
	l.CheckpointEvery, l.CompactEvery, l.LogKeep = often, often, 1
}

// step does one thing to one node or to all.
func (s schedule) step() {
	nodes := s.Nodes()
	n := nodes[s.rand.IntN(len(nodes))]
	what := []string{"kill", "power", "power", "blackout", "stop", "split", "unplug", "heal"}[s.rand.IntN(8)]
	if !n.Running() {
		what = "start"
	}
	s.t.Logf("%s node %d", what, n.number)
	switch what {
	case "kill":
		n.Kill()
	case "power":
		n.CutPower(s.rand.Uint64())
	case "blackout":
		for _, n := range nodes {
			n.CutPower(s.rand.Uint64())
		}
	case "stop":
		n.Stop()
	case "split":
		s.rand.Shuffle(len(nodes), func(i, j int) { nodes[i], nodes[j] = nodes[j], nodes[i] })
		at := 1 + s.rand.IntN(len(nodes)-1)
		s.Split(nodes[:at], nodes[at:])
	case "unplug":
		s.Unplug(n)
	case "heal":
		s.Heal()
	case "start":
		n.Start()
	}
}

// mend brings everything back.
func (s schedule) mend() {
	s.Heal()
	for _, n := range slices.DeleteFunc(s.Nodes(), (*Node).Running) {
		n.Start()
	}
}
