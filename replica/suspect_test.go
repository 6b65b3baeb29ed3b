package replica

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/covey-mail/covey"
)

// gaps kills a node that leads a third of 16 groups, again and again, and returns
// for how long each of those took no proposals. Fsyncs take 20 ms. told says
// whether the others are told that the node is gone.
func gaps(t *testing.T, kills uint64, told bool) (all []time.Duration) {
	const groups = 16
	for seed := range kills {
		synctest.Test(t, func(t *testing.T) {
			c := prepareCluster(t, seed, 3, 3, groups)
			c.fsync = 20 * time.Millisecond
			c.start()
			for id := range covey.ShardID(groups) {
				if p, want := c.leader(id, c.all()...), c.node(covey.NodeID(id%3+1)); p != want {
					if err := p.host.TransferLeader(t.Context(), id, want.id); err != nil {
						t.Fatal(err)
					}
					c.leader(id, want.id)
				}
			}
			advance(t, time.Duration(seed*37%1000)*time.Millisecond)
			dead := c.node(covey.NodeID(seed%3 + 1))
			var crash sync.WaitGroup
			crash.Go(func() { dead.crash(seed) })
			if told {
				for _, id := range c.others(dead.id) {
					c.node(id).host.Suspect(dead.id)
				}
			}
			all = append(all, c.outages(dead, groups)...)
			crash.Wait()
			c.end()
		})
	}
	slices.Sort(all)
	return all
}

// outages returns how long the groups that a dead node led take no proposals.
func (c *cluster) outages(dead *peer, groups covey.ShardID) (all []time.Duration) {
	began := time.Now()
	var mu sync.Mutex
	var clients sync.WaitGroup
	for id := covey.ShardID(dead.id - 1); id < groups; id += 3 {
		clients.Go(func() {
			for n := 0; ; n++ {
				for _, other := range c.others(dead.id) {
					if p := c.node(other); p.leads(id) && p.propose(id, time.Second, fmt.Sprint("after ", id, n)) == nil {
						mu.Lock()
						defer mu.Unlock()
						all = append(all, time.Since(began))
						return
					}
				}
				pause(c.t.Context(), 10*time.Millisecond)
			}
		})
	}
	clients.Wait()
	return all
}

func wantGaps(t *testing.T, all []time.Duration, median, p99 time.Duration) {
	t.Helper()
	half, most := all[len(all)/2], all[len(all)*99/100]
	t.Logf("%d groups without a leader: median %v, p99 %v, longest %v", len(all), half, most, all[len(all)-1])
	if half > median || most > p99 {
		t.Errorf("median %v, want at most %v; p99 %v, want at most %v", half, median, most, p99)
	}
}

// A leader that falls silent is replaced when it is missed, and one that is known
// to be gone much sooner.
func TestLeaderIsReplaced(t *testing.T) {
	kills := uint64(20)
	if testing.Short() {
		kills = 5
	}
	wantGaps(t, gaps(t, kills, false), 1700*time.Millisecond, 2500*time.Millisecond)
	wantGaps(t, gaps(t, kills, true), 400*time.Millisecond, time.Second)
}

// A leader that is heard is not replaced because one of the others thinks that it
// cannot be reached; if all think so it may be. Commands go on either way.
func TestWrongSuspicion(t *testing.T) {
	inCluster(t, 3, 3, func(c *cluster) {
		leader := c.leader(0, c.all()...)
		term := leader.status(0).Term
		for i, id := range c.others(leader.id) {
			for range 5 {
				c.node(id).host.Suspect(leader.id)
				c.node(id).host.Suspect(77) // leads nothing
				advance(c.t, 230*time.Millisecond)
			}
			leader.mustPropose(0, fmt.Sprint("meanwhile ", i))
			advance(c.t, 3*time.Second)
			if got := c.node(id).status(0); got.Leader != leader.id || got.Term != term {
				c.t.Errorf("at node %d, which suspects it: leader %s in term %d, was %s in %d", id, got.Leader, got.Term, leader.id, term)
			}
		}
		leader.host.Suspect(leader.id)
		for _, id := range c.others(leader.id) {
			c.node(id).host.Suspect(leader.id)
		}
		c.leader(0, c.all()...).mustPropose(0, "after")
		advance(c.t, 3*time.Second)
		if got := c.leader(0, c.all()...).status(0).Term; got > term+1 {
			c.t.Errorf("it is term %d, was %d", got, term)
		}
		c.agree(0)
	})
}
