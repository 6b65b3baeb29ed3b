package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/covey-mail/covey/bench"
)

var killRow = row{
	name: "cluster-kill",
	what: "SIGKILL of a node under load: how long no delivery to a shard that it led, and to others, is acknowledged",
	run:  runKill,
}

// A killTest kills nodes, each time that of two which leads more, the third being
// asked what they lead, and sends mail through the others meanwhile.
type killTest struct {
	*cluster
	users int
	shard map[string]string // of each address
	rate  float64

	led, other []float64 // gaps in seconds, one for each shard and kill
	quiet      []float64 // gaps without a kill, by which to read the others
	seen       []float64 // seconds until a survivor called the node dead
	disk       []float64 // of each kill the longest fdatasync of a file beside the nodes', in seconds
	failed     failures
}

const (
	killAfter = 4 * time.Second  // of load
	killLoad  = 16 * time.Second // in all

	killsPerLook = 6 // kills for each load without one
)

func runKill(ctx context.Context, l *lab) ([]figure, error) {
	t := &killTest{users: l.count(320, 96), failed: make(failures)}
	var err error
	if t.cluster, err = l.newCluster(ctx, clusterConfig{users: t.users}); err != nil {
		return nil, err
	}
	if t.shard, err = t.groups(ctx); err != nil {
		return nil, err
	}
	if t.rate, err = t.steady(ctx, t.users); err != nil {
		return nil, err
	}
	kills := l.roundsOf(30)
	for n := range kills {
		if n%killsPerLook == 0 {
			if err := t.look(ctx); err != nil {
				return nil, err
			}
		}
		l.say("kill %d of %d, %.0f messages/s", n+1, kills, t.rate)
		if err := t.one(ctx, n); err != nil {
			return nil, fmt.Errorf("kill %d: %w", n+1, err)
		}
	}
	return t.figures(kills), nil
}

// through returns the load through all nodes but one, -1 for none.
func (t *killTest) through(but int) bench.Config {
	cfg := t.deliveries(t.users)
	cfg.Addr, cfg.Groups = t.addrs("smtp", but), t.shard
	cfg.Conns, cfg.Rate, cfg.Duration = openConns, t.rate, t.lasting(killLoad, 10*time.Second)
	return cfg
}

// look has the load run without a kill.
func (t *killTest) look(ctx context.Context) error {
	res, err := bench.Run(ctx, t.through(-1))
	if err != nil {
		return err
	}
	for _, g := range res.Groups {
		t.quiet = append(t.quiet, g.Gap.Seconds)
	}
	return ctx.Err()
}

// one kills a node under load and starts it again.
func (t *killTest) one(ctx context.Context, n int) error {
	witness := n % len(t.nodes)
	by, err := t.cluster.led(ctx, witness)
	if err != nil {
		return err
	}
	victim := (witness + 1) % len(t.nodes)
	for i := range t.nodes {
		if i != witness && len(by[i]) > len(by[victim]) {
			victim = i
		}
	}
	s, err := t.strike(ctx, witness, victim)
	if err != nil {
		return err
	}
	var led, other []float64
	var worst bench.Gap // of others
	for _, g := range s.res.Groups {
		if slices.Contains(s.led, g.Label) {
			led = append(led, g.Gap.Seconds)
			continue
		}
		other = append(other, g.Gap.Seconds)
		if g.Gap.Seconds > worst.Seconds {
			worst = g.Gap
		}
	}
	t.say("node %d killed, which led %d shards: longest gap %.2f s, of others %.2f s, from %+.2f s on, the kill being at 0, longest fdatasync beside them %.2f s; %s",
		victim+1, len(led), percentile(led, 1), worst.Seconds, worst.From-killAfter.Seconds(), s.disk, summary(s.res))
	t.led, t.other, t.disk = append(t.led, led...), append(t.other, other...), append(t.disk, s.disk)
	t.failed.add(s.res)
	t.deaths(victim, s.at)
	if err := t.startNode(victim); err != nil {
		return err
	}
	return t.settle(ctx)
}

// A strike is a kill under load.
type strike struct {
	res  *bench.Result
	at   time.Time
	led  []string // shards that the victim led
	disk float64  // the longest fdatasync of a file beside the nodes', in seconds
}

// strike kills the victim under load, and watches the disk meanwhile.
func (t *killTest) strike(ctx context.Context, witness, victim int) (s strike, err error) {
	loaded, done := context.WithCancel(ctx)
	err = together(
		func() (err error) {
			defer done()
			s.res, err = t.during(ctx, t.through(victim), killAfter, func() error {
				by, err := t.cluster.led(ctx, witness) // as it is now
				if err != nil {
					return err
				}
				s.led, s.at = by[victim], t.kill(victim)
				return nil
			})
			return err
		},
		func() (err error) {
			s.disk, err = watchDisk(loaded, t.lab.dir)
			return err
		},
	)
	return s, err
}

// deaths notes when the survivors saw the node dead, as they say in their logs.
func (t *killTest) deaths(victim int, killed time.Time) {
	for i, m := range t.nodes {
		if i == victim {
			continue
		}
		if at, ok := deathIn(m.node.Log(), t.nodes[victim].id, killed); ok {
			t.seen = append(t.seen, at.Sub(killed).Seconds())
		}
	}
}

// deathIn finds when the log of a node first calls another dead after a moment.
func deathIn(log, id string, after time.Time) (time.Time, bool) {
	for line := range strings.Lines(log) {
		if !strings.Contains(line, "msg=member ") || !strings.Contains(line, "member="+id+" ") || !strings.Contains(line, "state=dead") {
			continue
		}
		text, _, _ := strings.Cut(strings.TrimPrefix(line, "time="), " ")
		at, err := time.Parse(time.RFC3339Nano, text)
		if err == nil && at.After(after.Add(-time.Millisecond)) { // as exact as the log is
			return at, true
		}
	}
	return time.Time{}, false
}

func (t *killTest) figures(kills int) []figure {
	load := fmt.Sprintf("%d kills, %.0f messages/s through the survivors", kills, t.rate)
	return []figure{
		{Name: "gap of its shards, p50", Value: percentile(t.led, 0.5), Unit: "s", Goal: 2, Most: true, Note: load},
		{Name: "gap of its shards, p99", Value: percentile(t.led, 0.99), Unit: "s", Goal: 5, Most: true, Note: fmt.Sprintf("%d gaps; %s", len(t.led), t.failed)},
		{Name: "gap of its shards, longest", Value: percentile(t.led, 1), Unit: "s"},
		{Name: "gap of other shards, longest", Value: percentile(t.other, 1), Unit: "s", Goal: 1, Most: true, Note: fmt.Sprintf("%d gaps", len(t.other))},
		{Name: "gap of other shards, p99", Value: percentile(t.other, 0.99), Unit: "s"},
		{Name: "gap of a shard when no node is killed, longest", Value: percentile(t.quiet, 1), Unit: "s", Note: fmt.Sprintf("%d gaps, in as long a time each", len(t.quiet))},
		{Name: "fdatasync of another file on their disk, longest", Value: percentile(t.disk, 1), Unit: "s", Note: "8 KiB, five times a second"},
		{Name: "survivors call it dead after, p50", Value: percentile(t.seen, 0.5), Unit: "s", Note: fmt.Sprintf("%d of %d did", len(t.seen), kills*(len(t.nodes)-1))},
		{Name: "survivors call it dead after, p99", Value: percentile(t.seen, 0.99), Unit: "s"},
	}
}

var restartRow = row{
	name: "cluster-restart",
	what: "graceful restart of each node in turn under load: transactions broken inside, and gaps",
	run:  runRestart,
}

// A restartTest restarts nodes while mail comes through all of them.
type restartTest struct {
	*cluster
	gaps    []float64 // one for each shard and restart
	stopped []float64 // seconds that a node took to end
	done    int64
	inside  int64 // operations that broke in a transaction
	between int64 // that were told 421 outside one
	refused int64 // that got another temporary error
	failed  failures
}

func runRestart(ctx context.Context, l *lab) ([]figure, error) {
	users := l.count(320, 96)
	c, err := l.newCluster(ctx, clusterConfig{users: users})
	if err != nil {
		return nil, err
	}
	t := &restartTest{cluster: c, failed: make(failures)}
	shard, err := c.groups(ctx)
	if err != nil {
		return nil, err
	}
	rate, err := c.steady(ctx, users)
	if err != nil {
		return nil, err
	}
	for range l.roundsOf(5) {
		for i := range c.nodes {
			cfg := c.deliveries(users)
			cfg.Groups, cfg.Conns, cfg.Rate, cfg.Duration = shard, openConns, rate, l.lasting(20*time.Second, 10*time.Second)
			l.say("restart of node %d", i+1)
			if err := t.one(ctx, i, cfg); err != nil {
				return nil, fmt.Errorf("restart of node %d: %w", i+1, err)
			}
		}
	}
	return t.figures(rate), nil
}

func (t *restartTest) one(ctx context.Context, i int, cfg bench.Config) error {
	res, err := t.during(ctx, cfg, killAfter, func() error {
		took, err := t.restart(i)
		t.stopped = append(t.stopped, took.Seconds())
		return err
	})
	if err != nil {
		return err
	}
	for _, g := range res.Groups {
		t.gaps = append(t.gaps, g.Gap.Seconds)
	}
	t.done += res.Done
	t.failed.add(res)
	for _, class := range res.Failures {
		*t.kind(class.What) += class.Count
	}
	return t.settle(ctx)
}

// kind tells failures by where in a session they happened. What breaks after MAIL
// was answered is inside a transaction; a server that must go says 421 before.
func (t *restartTest) kind(what string) *int64 {
	step, reply, _ := strings.Cut(what, ": ")
	switch {
	case strings.HasPrefix(reply, "421") && !insideTransaction(step):
		return &t.between
	case len(reply) > 3 && reply[0] == '4' && !strings.HasPrefix(reply, "421"):
		return &t.refused
	case insideTransaction(step):
		return &t.inside
	}
	return &t.between // the connection was gone before it was used again
}

func insideTransaction(step string) bool {
	return slices.Contains([]string{"RCPT", "DATA", "send message", "end of DATA"}, step)
}

func (t *restartTest) figures(rate float64) []figure {
	whole := 1 - float64(t.inside)/float64(max(t.inside+t.done+t.refused, 1))
	return []figure{
		{Name: "transactions not broken inside, share", Value: whole, Goal: 1, Note: fmt.Sprintf("%d broken of %d, %.0f/s; %s", t.inside, t.inside+t.done+t.refused, rate, t.failed)},
		{Name: "gap of a shard, longest", Value: percentile(t.gaps, 1), Unit: "s", Goal: 1, Most: true, Note: fmt.Sprintf("%d restarts, %d gaps", len(t.stopped), len(t.gaps))},
		{Name: "gap of a shard, p99", Value: percentile(t.gaps, 0.99), Unit: "s"},
		{Name: "gap of a shard, p50", Value: percentile(t.gaps, 0.5), Unit: "s"},
		{Name: "a node ends after, longest", Value: percentile(t.stopped, 1), Unit: "s", Goal: 20, Most: true},
		{Name: "told 421 between transactions", Value: float64(t.between), Note: "or found the connection closed there"},
		{Name: "told another temporary error", Value: float64(t.refused)},
	}
}
