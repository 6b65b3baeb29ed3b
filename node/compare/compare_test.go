package compare

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/covey-mail/covey"
)

// A cluster has replicas that apply a command every 10 ms, from 100 on, and know
// the hashes at the last few.
type cluster struct {
	began  time.Time
	keeps  uint64
	lag    map[covey.NodeID]uint64
	wrong  map[covey.NodeID]uint64 // from which index on its hash is its own
	silent map[covey.NodeID]bool

	mu    sync.Mutex // guards all but began, while a Comparer runs
	asked map[covey.NodeID]int
}

var errSilent = errors.New("no link")

func newCluster() *cluster {
	return &cluster{
		began: time.Now(), keeps: 1000, lag: map[covey.NodeID]uint64{}, wrong: map[covey.NodeID]uint64{},
		silent: map[covey.NodeID]bool{}, asked: map[covey.NodeID]int{},
	}
}

func (c *cluster) ask(ctx context.Context, n covey.NodeID, id covey.ShardID, index uint64) (Answer, error) {
	c.mu.Lock()
	c.asked[n]++
	silent := c.silent[n]
	c.mu.Unlock()
	if silent {
		<-ctx.Done()
		return Answer{}, errSilent
	}
	<-time.After(time.Millisecond) // on the way
	c.mu.Lock()
	defer c.mu.Unlock()
	a := Answer{Applied: 100 + uint64(time.Since(c.began)/(10*time.Millisecond)) - c.lag[n]}
	if index == 0 {
		index = a.Applied
	}
	a.Known = index <= a.Applied && index+c.keeps > a.Applied
	if a.Known {
		a.Hash = index*1000 + uint64(id)
		if from, ok := c.wrong[n]; ok && index >= from {
			a.Hash += uint64(n)
		}
	}
	return a, nil
}

var three = []covey.NodeID{1, 2, 3}

// differing returns the nodes of a result that differ, and those that were not
// compared.
func differing(r Result) (differ, unknown []covey.NodeID) {
	for _, p := range r.Replicas {
		if p.Differs {
			differ = append(differ, p.Node)
		}
		if p.Known != (p.Err == nil) {
			panic("a replica is compared, or it is said why not")
		}
		if !p.Known {
			unknown = append(unknown, p.Node)
		}
	}
	return differ, unknown
}

func TestShard(t *testing.T) {
	for _, tt := range []struct {
		name            string
		nodes           []covey.NodeID
		is              func(*cluster)
		differ, unknown []covey.NodeID
	}{
		{name: "alike", nodes: three},
		{name: "one", nodes: three[:1]},
		{name: "two that lag", nodes: three, is: func(c *cluster) { c.lag[2], c.lag[3] = 20, 70 }},
		{name: "one that differs", nodes: three, is: func(c *cluster) { c.wrong[2] = 1 }, differ: three[1:2]},
		{name: "one that differs and lags", nodes: three, is: func(c *cluster) { c.wrong[3], c.lag[3] = 90, 40 }, differ: three[2:]},
		{name: "all differ", nodes: three, is: func(c *cluster) { c.wrong[1], c.wrong[2], c.wrong[3] = 1, 1, 1 }, differ: three},
		{name: "one of two", nodes: three[:2], is: func(c *cluster) { c.wrong[2] = 1 }, differ: three[:2]},
		{name: "silent", nodes: three, is: func(c *cluster) { c.silent[1] = true }, unknown: three[:1]},
		{name: "silent, and others differ", nodes: three, is: func(c *cluster) { c.silent[1], c.wrong[2] = true, 1 }, differ: three[1:], unknown: three[:1]},
		{name: "all silent", nodes: three, is: func(c *cluster) { c.silent[1], c.silent[2], c.silent[3] = true, true, true }, unknown: three},
		{name: "far behind", nodes: three, is: func(c *cluster) { c.lag[3] = 1 << 20 }, unknown: three[2:]},
		{name: "forgetful", nodes: three, is: func(c *cluster) { c.keeps = 1 }, unknown: nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newCluster()
				if tt.is != nil {
					tt.is(c)
				}
				if c.lag[3] > 100 {
					c.began = c.began.Add(-time.Duration(c.lag[3]) * 10 * time.Millisecond)
				}
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
				defer cancel()
				res := Shard(ctx, c.ask, 7, tt.nodes)
				differ, unknown := differing(res)
				if !slices.Equal(differ, tt.differ) || !slices.Equal(unknown, tt.unknown) || res.Differ() != (tt.differ != nil) {
					t.Errorf("%v differ, %v are unknown: %+v", differ, unknown, res)
				}
				if res.Shard != 7 || (res.Index == 0) != (len(unknown) == len(tt.nodes)) {
					t.Errorf("shard %d at %d", res.Shard, res.Index)
				}
			})
		})
	}
}

// A replica that has gone on too far is compared at a later index; one that is
// always too fast is not compared.
func TestForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster()
		c.keeps = 3
		c.lag[2] = 10 // it comes to the index when the others have forgotten it
		ask := func(ctx context.Context, n covey.NodeID, id covey.ShardID, index uint64) (Answer, error) {
			if index > 0 && n == 1 { // slow to answer
				<-time.After(100 * time.Millisecond)
			}
			return c.ask(ctx, n, id, index)
		}
		res := Shard(t.Context(), ask, 7, three)
		if _, unknown := differing(res); !slices.Equal(unknown, three[:1]) || c.asked[1] != 2*rounds {
			t.Errorf("unknown are %v, asked %d times: %+v", unknown, c.asked[1], res)
		}
	})
}

// TestComparer has a replica go wrong, and another put in its place.
func TestComparer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster()
		led := map[covey.ShardID][]covey.NodeID{3: three, 4: three[:1]}
		var told []Result
		var alike []covey.ShardID
		cmp := New(Config{
			Led: func() map[covey.ShardID][]covey.NodeID {
				c.mu.Lock()
				defer c.mu.Unlock()
				return maps.Clone(led)
			},
			Ask: c.ask, Every: time.Minute,
			Differ: func(r Result) {
				c.mu.Lock()
				defer c.mu.Unlock()
				told = append(told, r)
			},
			Alike: func(id covey.ShardID) {
				c.mu.Lock()
				defer c.mu.Unlock()
				alike = append(alike, id)
			},
		})
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { cmp.Run(ctx) })
		pass := func(d time.Duration) { // mu is held before and behind it
			c.mu.Unlock()
			<-time.After(d)
			synctest.Wait()
			c.mu.Lock()
		}
		c.mu.Lock()
		pass(150 * time.Second)
		if len(told) != 0 || len(cmp.Differing()) != 0 || c.asked[2] != 4 {
			t.Errorf("told %v, asked %v", told, c.asked)
		}
		c.wrong[2] = 1
		pass(3 * time.Minute)
		if got := cmp.Differing(); len(told) != 1 || len(got) != 1 || !got[3].Differ() {
			t.Errorf("told %+v, differing %+v", told, got)
		}
		delete(c.wrong, 2)
		pass(2 * time.Minute)
		if !slices.Equal(alike, []covey.ShardID{3}) || len(cmp.Differing()) != 0 {
			t.Errorf("alike are %v, differing %v", alike, cmp.Differing())
		}
		c.wrong[2] = 1
		pass(time.Minute)
		delete(led, 3)
		pass(time.Minute)
		if len(cmp.Differing()) != 0 || len(alike) != 1 || len(told) != 2 {
			t.Errorf("a shard that is led elsewhere: differing %v, alike %v, told %d times", cmp.Differing(), alike, len(told))
		}
		c.mu.Unlock()
		cancel()
		running.Wait()
	})
}
