package quota

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/directory"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A cluster is a directory and shards that any number of boards look at.
type cluster struct {
	t  *testing.T
	mu sync.Mutex

	accounts []directory.Account // by id
	used     map[covey.AccountID]int64
	leaders  map[covey.ShardID]covey.NodeID
	lookups  int
}

func (c *cluster) ByID(_ context.Context, id covey.AccountID) (directory.Account, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lookups++
	for _, a := range c.accounts {
		if a.ID == id {
			return a, nil
		}
	}
	return directory.Account{}, covey.Errorf(covey.NotFound, "no account %d", id)
}

func (c *cluster) InShard(id covey.ShardID, after covey.AccountID, limit int) (list []directory.Account, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, a := range c.accounts {
		if a.Shard == id && a.ID > after && len(list) < limit {
			list = append(list, a)
		}
	}
	return list, nil
}

func (c *cluster) board(self covey.NodeID) *Board {
	return New(Config{
		Self: self, Accounts: c,
		Led: func() (list []covey.ShardID) {
			c.mu.Lock()
			defer c.mu.Unlock()
			for id, leader := range c.leaders {
				if leader == self {
					list = append(list, id)
				}
			}
			slices.Sort(list)
			return list
		},
		Leader: func(id covey.ShardID) covey.NodeID {
			c.mu.Lock()
			defer c.mu.Unlock()
			return c.leaders[id]
		},
		Used: func(_ covey.ShardID, id covey.AccountID) (int64, error) {
			c.mu.Lock()
			defer c.mu.Unlock()
			return c.used[id], nil
		},
	})
}

// run runs boards that ask each other until the test's bubble ends.
func (c *cluster) run(nodes ...*Board) {
	ctx, cancel := context.WithCancel(c.t.Context())
	var done sync.WaitGroup
	c.t.Cleanup(func() {
		cancel()
		done.Wait()
	})
	for _, b := range nodes {
		done.Go(func() { b.Run(ctx) })
		for _, of := range nodes {
			if of == b {
				continue
			}
			done.Go(func() {
				err := b.Watch(ctx, of.cfg.Self, func(ctx context.Context, request []byte) ([]byte, error) {
					return of.Serve(ctx, b.cfg.Self, request)
				})
				if !errors.Is(err, covey.Unavailable) {
					c.t.Errorf("watch: %v", err)
				}
			})
		}
	}
}

// hold makes an account hold so much, as a delivery or an expunge does.
func (c *cluster) hold(id covey.AccountID, bytes int64, nodes ...*Board) {
	c.mu.Lock()
	c.used[id] = bytes
	c.mu.Unlock()
	for _, b := range nodes {
		b.Touch(1, id)
	}
}

func pass(d time.Duration) { <-time.After(d) }

func newCluster(t *testing.T) *cluster {
	return &cluster{t: t, used: map[covey.AccountID]int64{1: 5, 2: 10, 3: 100}, leaders: map[covey.ShardID]covey.NodeID{1: 1},
		accounts: []directory.Account{
			{ID: 1, Shard: 1, Quota: 10}, {ID: 2, Shard: 1, Quota: 10}, {ID: 3, Shard: 1, Quota: 0}, {ID: 4, Shard: 2, Quota: 1},
		}}
}

// Every node knows within seconds which accounts are over and which no longer are;
// a new leader goes on from what the old one told.
func TestEveryNodeKnows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		nodes := []*Board{c.board(1), c.board(2), c.board(3)}
		c.run(nodes...)
		expect := func(when string, want ...int64) {
			t.Helper()
			pass(2 * roundEvery)
			for _, b := range nodes {
				got := []int64{b.Used(1, 1), b.Used(1, 2), b.Used(1, 3)}
				if d := cmp.Diff(want, got); d != "" {
					t.Errorf("%s, node %d (-want +got):\n%s", when, b.cfg.Self, d)
				}
			}
		}
		expect("at first", 0, 10, 0)
		c.hold(1, 11, nodes...)
		expect("one more is over", 11, 10, 0)
		c.hold(2, 9, nodes...)
		expect("one is not any more", 11, 0, 0)

		c.mu.Lock()
		c.leaders[1] = 2
		c.used[2] = 20
		c.mu.Unlock()
		expect("another leader", 11, 20, 0)
		if nodes[0].Over() != 0 || nodes[1].Over() != 2 {
			t.Errorf("told of %d by the old leader and %d by the new one, want 0 and 2", nodes[0].Over(), nodes[1].Over())
		}
		nodes[2].Forget(2)
		if got := nodes[2].Used(1, 1); got != 0 {
			t.Errorf("of a node that is forgotten %d is known", got)
		}
	})
}

// The quota of a busy account is looked up once a minute; one that changes is told;
// the slow look finds what nobody told of.
func TestQuotaIsLookedUpSeldom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		b := c.board(1)
		c.run(b)
		pass(2 * roundEvery)
		for range 30 {
			c.hold(1, 6, b)
			pass(roundEvery)
		}
		if c.lookups != 0 { // the slow look has just told
			t.Errorf("%d look-ups", c.lookups)
		}
		c.mu.Lock()
		c.accounts[0].Quota = 5
		c.accounts[1].Quota = 1000
		c.mu.Unlock()
		pass(quotaFor)
		c.hold(1, 7, b)
		pass(2 * roundEvery)
		if got := b.Used(1, 1); got != 7 || c.lookups != 1 {
			t.Errorf("after the quota was lowered: %d is known after %d look-ups, want 7 after 1", got, c.lookups)
		}
		if got := b.Used(1, 2); got != 10 {
			t.Errorf("untouched: %d is known, want 10", got)
		}
		for _, quota := range []int64{100, 3} {
			b.Requote(directory.Account{ID: 1, Shard: 1, Quota: quota})
			pass(2 * roundEvery)
			if got, want := b.Used(1, 1), map[int64]int64{100: 0, 3: 7}[quota]; got != want {
				t.Errorf("with a quota of %d: %d is known, want %d", quota, got, want)
			}
		}
		pass(again)
		if got := b.Used(1, 2); got != 0 {
			t.Errorf("after the slow look: %d is known, want 0", got)
		}
	})
}

// However many are over, so many are told; however many are touched, so many are
// kept, and the rest is found by the slow look.
func TestBounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		c.accounts = nil
		for i := range MaxAccounts + 100 {
			c.accounts = append(c.accounts, directory.Account{ID: covey.AccountID(i + 1), Shard: 1, Quota: 1})
		}
		b := c.board(1)
		b.follow()
		b.led[1].next = time.Now().Add(again)
		for _, a := range c.accounts {
			c.hold(a.ID, 2, b)
		}
		if got := len(b.led[1].touched); got != maxTouched {
			t.Errorf("%d are kept, want %d", got, maxTouched)
		}
		b.take(b.led[1])
		for range 2*MaxAccounts/stepAccounts + 1 {
			b.step(1, b.led[1], stepAccounts, time.Now())
		}
		if got := b.Over(); got != MaxAccounts {
			t.Errorf("%d are over, want %d", got, MaxAccounts)
		}
		b.publish()
		reply, err := b.Serve(t.Context(), 2, []byte{0, 0})
		if err != nil {
			t.Fatal(err)
		}
		if _, all, err := decode(reply); err != nil || len(all[1]) != MaxAccounts {
			t.Errorf("%d arrive, %v", len(all[1]), err)
		}
	})
}

// A node that was started anew tells everything again, though it counts from the
// beginning; one that has nothing new answers after a while.
func TestVersions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		ask := func(b *Board, has version) (version, time.Duration) {
			t.Helper()
			start := time.Now()
			reply, err := b.Serve(t.Context(), 2, encode(has, nil)[:len(encode(has, nil))-1])
			if err != nil {
				t.Fatal(err)
			}
			v, _, err := decode(reply)
			if err != nil {
				t.Fatal(err)
			}
			return v, time.Since(start)
		}
		b := c.board(1)
		v, took := ask(b, version{})
		if took != 0 {
			t.Errorf("first answer after %v", took)
		}
		if same, took := ask(b, v); same != v || took != holdTime {
			t.Errorf("without news: %v after %v, want %v after %v", same, took, v, holdTime)
		}
		if other, took := ask(c.board(1), v); other == v || took != 0 {
			t.Errorf("started anew: %v after %v", other, took)
		}
		for _, bad := range []string{"", "\x00", "\x00\x00\x00"} {
			if _, err := b.Serve(t.Context(), 2, []byte(bad)); !errors.Is(err, covey.Invalid) {
				t.Errorf("request %q: %v, want Invalid", bad, err)
			}
		}
	})
}

func FuzzDecode(f *testing.F) {
	f.Add(encode(version{1, 2}, nil))
	f.Add(encode(version{1, 2}, told{1: {7: 100, 8: 0}, 65535: {}}))
	f.Add([]byte{0, 0, 0xff, 0xff, 0xff, 0xff, 0x0f})
	f.Fuzz(func(t *testing.T, b []byte) {
		v, all, err := decode(b)
		if err != nil {
			return
		}
		w, again, err := decode(encode(v, all))
		if d := cmp.Diff(all, again); err != nil || w != v || d != "" {
			t.Error(fmt.Sprint(err, v, w), d)
		}
	})
}
