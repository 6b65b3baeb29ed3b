package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/covey-mail/covey/internal/history"
	"github.com/covey-mail/covey/node/admin"
)

// Limits of a round.
const (
	recoverLimit = time.Minute
	historyLimit = 5 * time.Second
	queueLimit   = 90 * time.Second // queues pause up to a minute
	compareLimit = time.Minute
)

// schedule gives the fault of each round: every fault once, in an order drawn from
// the seed, then all again in another.
type schedule struct {
	seed   uint64
	faults []fault
}

func (s schedule) at(round int) (fault, *rand.Rand) {
	n := len(s.faults)
	order := rand.New(rand.NewPCG(s.seed, uint64(round/n))).Perm(n)
	return s.faults[order[round%n]], rand.New(rand.NewPCG(s.seed, 1<<32+uint64(round)))
}

// choose returns the faults that a run has, and why others are left out.
func choose(only string) (list []fault, skipped map[string]string, err error) {
	skipped = make(map[string]string)
	for _, f := range faults {
		if only != "" && !slices.Contains(strings.Split(only, ","), f.name) {
			continue
		}
		if f.cannot != nil {
			if why := f.cannot(); why != "" {
				skipped[f.name] = why
				fmt.Printf("%s %s: skipped: %s\n", f.name, f.what, why)
				continue
			}
		}
		list = append(list, f)
	}
	if len(list) == 0 && only != poisoned.name {
		return nil, nil, fmt.Errorf("no fault of %q can be done", only)
	}
	return list, skipped, nil
}

// run runs rounds until the time is over.
func run(ctx context.Context, o options) error {
	list, skipped, err := choose(o.only)
	if err != nil {
		return err
	}
	began := time.Now()
	c, err := newCluster(ctx, o)
	if err != nil {
		return err
	}
	defer c.end()
	s := &c.ledger.sums
	if o.state != "" {
		if err := s.load(o.state); err != nil {
			return err
		}
	}
	s.Seed, s.Skipped = o.seed, skipped
	plan := schedule{o.seed, list}
	c.r = rand.New(rand.NewPCG(o.seed, 0)) // until a round has its own
	fmt.Printf("seed %d: %d nodes, %d shards, %d users, ready after %v\n", o.seed, o.nodes, o.shards, len(c.load.users), time.Since(began).Round(time.Second/10))

	loads, stop := context.WithCancel(ctx)
	defer c.load.wait()
	defer stop()
	c.load.run(loads, o.seed)
	c.load.pause()
	held := true
	defer func() {
		if held {
			c.load.resume()
		}
	}()
	before := time.Duration(s.Seconds * float64(time.Second))
	first, err := c.verify(ctx, nil, time.Now())
	began = time.Now()
	for err == nil && ctx.Err() == nil && len(list) > 0 && before+time.Since(began) < o.length {
		f, r := plan.at(s.Rounds)
		c.r = r
		held = false
		first, err = c.round(ctx, f, first)
		held = true
		s.Rounds++
		s.Seconds = (before + time.Since(began)).Seconds()
		if o.state != "" && err == nil {
			err = s.save(o.state)
		}
		if o.untilBad && s.bad() > 0 {
			break
		}
	}
	if err == nil && ctx.Err() == nil && o.poisonBin != "" {
		held = false
		err = c.poison(ctx)
		held = true
	}
	s.table(os.Stdout)
	if n := s.bad(); n > 0 && err == nil {
		err = fmt.Errorf("seed %d: %d promises broken: %v", o.seed, n, s.Violations)
	}
	return err
}

// round breaks the cluster once and checks everything. It begins and ends with the
// clients paused; from is the state of each account at its beginning.
func (c *cluster) round(ctx context.Context, f fault, from map[string]history.Account) (map[string]history.Account, error) {
	l := c.ledger
	acked, broken, refused := l.sums.Acknowledged, c.load.broken.Load(), c.load.refusals.Load()
	began := time.Now()
	l.mu.Lock()
	l.replies = nil
	l.mu.Unlock()
	c.load.resume()
	c.last(0.3)

	injected := time.Now()
	err := f.do(c)
	healed := time.Now()
	if err != nil {
		c.load.pause()
		return nil, fmt.Errorf("%s %s: %w", f.name, f.what, err)
	}
	c.revive(f)
	back := c.serving(ctx, healed)
	c.last(0.2)
	c.load.pause()

	if n := c.load.broken.Load() - broken; f.clean && n > 0 {
		l.report(brokenSession, "%d transactions broke in a %s", n, f.what)
	}
	gap, shard := c.account(f, injected, back, healed)
	to, err := c.verify(ctx, from, began)
	x := l.sums.fault(f.name)
	x.Times++
	x.Back = append(x.Back, back.Sub(healed).Seconds())
	fmt.Printf("round %d, %s %s, %.1f s: %d acknowledged, %d refused, %d broken; longest gap %.1f s (shard %d), serving again after %.1f s\n",
		l.sums.Rounds, f.name, f.what, time.Since(began).Seconds(), l.sums.Acknowledged-acked, c.load.refusals.Load()-refused,
		c.load.broken.Load()-broken, gap, shard, back.Sub(healed).Seconds())
	c.tell()
	return to, err
}

// revive starts processes that ended by themselves, which only some faults may
// make them do.
func (c *cluster) revive(f fault) {
	for _, h := range c.hosts {
		if n := h.crashed.Swap(0); n > 0 && !f.endsProcess {
			c.ledger.report(crashed, "%s ended by itself, %d times: %s", h.name, n, h.lastWords())
		}
		if h.running() {
			continue
		}
		h.kill()
		if err := h.start(); err != nil {
			c.ledger.report(unrecovered, "start %s: %v", h.name, err)
		}
	}
}

// serving waits until every node is ready and every shard takes mail, and returns
// when that was.
func (c *cluster) serving(ctx context.Context, healed time.Time) time.Time {
	err := c.await(ctx, recoverLimit, "recovered cluster", func() error {
		if err := c.settled(); err != nil {
			return err
		}
		return c.ledger.deliveredSince(healed)
	})
	if err != nil && ctx.Err() == nil {
		c.ledger.report(unrecovered, "%v", err)
	}
	return time.Now()
}

// deliveredSince reports which shard, of those that are not named, took no mail
// that was sent since a moment.
func (l *ledger) deliveredSince(t time.Time, not ...int) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	took := make(map[int]bool)
	for _, p := range l.replies {
		if p.began.After(t) {
			took[p.shard] = true
		}
	}
	for _, s := range l.shards {
		if !took[s] && !slices.Contains(not, s) {
			return fmt.Errorf("shard %d took nothing yet", s)
		}
	}
	return nil
}

// account enters for how long each shard acknowledged nothing, and checks that no
// host acknowledged a change while it reached no quorum. Time in which no host
// did is not counted.
func (c *cluster) account(f fault, injected, back, healed time.Time) (longest float64, shard int) {
	l, windows := c.ledger, c.takeWindows()
	l.mu.Lock()
	defer l.mu.Unlock()
	last := make(map[int]time.Time)
	gaps := make(map[int]float64)
	for _, s := range l.shards {
		last[s], gaps[s] = injected, 0
	}
	replies := slices.Clone(l.replies)
	slices.SortFunc(replies, func(a, b positive) int { return a.got.Compare(b.got) })
	for s := range last {
		replies = append(replies, positive{shard: s, got: back})
	}
	for _, p := range replies {
		if p.got.Before(injected) || p.got.After(back) {
			continue
		}
		gaps[p.shard] = max(gaps[p.shard], without(windows, len(c.hosts), last[p.shard], p.got).Seconds())
		last[p.shard] = p.got
		for _, w := range windows {
			if p.host != nil && slices.Contains(w.hosts, p.host) && p.began.After(w.from) && p.got.Before(w.to) {
				l.reportLocked(untruthful, "%s acknowledged at %s, cut off from a quorum since %s: %s", p.host.name, p.got.Format(stamp), w.from.Format(stamp), p.what)
			}
		}
	}
	x := l.sums.fault(f.name)
	for s, g := range gaps {
		x.Gaps = append(x.Gaps, g)
		if g >= longest {
			longest, shard = g, s
		}
	}
	return longest, shard
}

// without is the time from a to b less what windows of all hosts take of it.
func without(windows []window, hosts int, a, b time.Time) time.Duration {
	d := b.Sub(a)
	for _, w := range windows {
		from, to := later(a, w.from), w.to
		if b.Before(to) {
			to = b
		}
		if len(w.hosts) >= hosts && to.After(from) {
			d -= to.Sub(from)
		}
	}
	return d
}

// verify reads everything, compares it with the ledger, and tries the histories
// since began, before which the accounts were from.
func (c *cluster) verify(ctx context.Context, from map[string]history.Account, began time.Time) (map[string]history.Account, error) {
	l := c.ledger
	if err := c.await(ctx, queueLimit, "empty queue", c.drained); err != nil && ctx.Err() == nil {
		l.report(unrecovered, "%v", err)
	}
	to, places, err := l.readAll(c.load.users, func(i int) *host { return c.hosts[i%len(c.hosts)] })
	if err != nil {
		l.report(unrecovered, "%v", err)
		return nil, err
	}
	histories := l.settle(c.load.users, began, places)
	if from != nil {
		l.checkHistories(from, histories, historyLimit)
	}
	c.compare(ctx)
	return to, nil
}

// drained reports what still waits in queues for shards that could not be reached.
func (c *cluster) drained() error {
	q, err := call[admin.QueueAnswer](c.hosts[c.r.IntN(len(c.hosts))], admin.QueueList, admin.QueueRequest{})
	if err != nil {
		return err
	}
	if len(q.Deliveries)+len(q.Silent) > 0 {
		return fmt.Errorf("%d deliveries wait, and shards %v say nothing", len(q.Deliveries), q.Silent)
	}
	return nil
}

// compare has the cluster compare its replicas, until each was compared: some may
// still be catching up.
func (c *cluster) compare(ctx context.Context) {
	err := c.await(ctx, compareLimit, "comparison of all replicas", func() error {
		list, err := callWithin[[]admin.Comparison](compareLimit, c.random(), admin.Compare, admin.Empty{})
		if err != nil {
			return err
		}
		for _, s := range list {
			if s.Differ {
				c.ledger.report(divergent, "replicas of shard %d differ at index %d: %+v", s.Shard, s.Index, s.Replicas)
				continue
			}
			for _, r := range s.Replicas {
				if r.Error != "" {
					return fmt.Errorf("shard %d on node %s: %s", s.Shard, r.Node, r.Error)
				}
			}
		}
		return nil
	})
	if err != nil && ctx.Err() == nil {
		c.ledger.report(unrecovered, "%v", err)
	}
}

// tell prints what was found wrong since it did last.
func (c *cluster) tell() {
	l := c.ledger
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, v := range l.found {
		fmt.Printf("  VIOLATION %s: %s\n", v.kind, v.text)
	}
	l.found = nil
}

// end stops the nodes; what else there is goes with the namespaces.
func (c *cluster) end() {
	c.tell()
	for _, h := range c.hosts {
		_ = h.thaw() // if it stands still; else there is nobody to thaw
		h.kill()
		if _, err := call[admin.Health](h, admin.NodeHealth, admin.Empty{}); err == nil {
			fmt.Printf("%s still answers after it was killed\n", h.name)
		}
		_ = h.umount()
	}
}
