package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/bench"
	"github.com/covey-mail/covey/node/admin"
)

// A cluster is nodes on this machine that know each other. Each has an IP address
// of its own below 127/8, so that it finds its ports free when it comes back.
type cluster struct {
	*lab
	nodes    []*member
	shards   int
	replicas int
}

// A member is one node of a cluster, running or not.
type member struct {
	host    string // its address
	dir     string
	id      string // as status names it
	*server        // nil: it does not run
	env     []string
}

// clusterConfig is what rows differ in.
type clusterConfig struct {
	nodes    int      // 3
	shards   int      // 16
	replicas int      // 3
	users    int      // 320, with -short 96
	dirs     []string // data folders of the nodes; nil: made
}

// Ports of a node on its address.
var ports = map[string]int{
	"smtp": 2525, "submission": 2587, "submissions": 2465, "lmtp": 2424, "imap": 2143, "imaps": 2993,
	"pop3": 2110, "pop3s": 2995, "metrics": 9925, "peer": 7947, "gossip": 7946,
}

// newCluster starts nodes one after another, gives them accounts and waits until
// every shard has its replicas.
func (l *lab) newCluster(ctx context.Context, cfg clusterConfig) (*cluster, error) {
	setDefault(&cfg.nodes, 3)
	setDefault(&cfg.shards, 16)
	setDefault(&cfg.replicas, 3)
	setDefault(&cfg.users, l.count(320, 96))
	c := &cluster{lab: l, shards: cfg.shards, replicas: min(cfg.replicas, cfg.nodes)}
	net := fmt.Sprintf("127.%d.%d.", 1+rand.IntN(250), 1+rand.IntN(250))
	for i := range cfg.nodes {
		m := &member{host: net + strconv.Itoa(i+1)}
		if cfg.dirs != nil {
			m.dir = cfg.dirs[i]
		} else if dir, err := os.MkdirTemp(l.dir, "data-"); err != nil {
			return nil, err
		} else {
			m.dir = dir
		}
		m.env = settings(m.host, cfg)
		if i > 0 {
			m.env = append(m.env, "COVEY_CLUSTER_JOIN="+c.nodes[0].at("peer"), "COVEY_CLUSTER_SECRET_FILE="+c.nodes[0].dir+"/cluster.secret")
		}
		c.nodes = append(c.nodes, m)
		if err := c.startNode(i); err != nil {
			return nil, err
		}
		if i == 0 {
			if _, err := m.node.Covey(ctx, "", "domain", "add", domain); err != nil {
				return nil, err
			}
		}
	}
	if _, err := c.nodes[0].node.Covey(ctx, userLines(makeAccounts("user", cfg.users)), "user", "import", "-"); err != nil {
		return nil, err
	}
	return c, c.settle(ctx)
}

// settings are the environment of a node.
func settings(host string, cfg clusterConfig) []string {
	env := []string{
		"COVEY_CLUSTER_SHARDS=" + strconv.Itoa(cfg.shards), "COVEY_CLUSTER_REPLICAS=" + strconv.Itoa(cfg.replicas),
		"COVEY_LIMITS_LMTP_PEERS=127.0.0.0/8",
	}
	for service, port := range ports {
		env = append(env, fmt.Sprintf("COVEY_LISTEN_%s=%s:%d", strings.ToUpper(service), host, port))
	}
	return env
}

// at is where a service of the node listens, now or once it runs.
func (m *member) at(service string) string { return m.host + ":" + strconv.Itoa(ports[service]) }

// up reports whether the node runs, as far as this program made it.
func (m *member) up() bool { return m.server != nil }

// startNode starts a node and waits until it is ready. The node is stopped at the
// end of the row if it still runs then.
func (c *cluster) startNode(i int) error {
	m := c.nodes[i]
	s, err := startCovey(c.bin, m.dir, m.env...)
	if err != nil {
		return fmt.Errorf("node %d: %w", i+1, err)
	}
	m.server = s
	c.stops = append(c.stops, s.stop)
	return nil
}

// kill ends a node as a crash would, and returns when that was.
func (c *cluster) kill(i int) time.Time {
	at := time.Now()
	c.nodes[i].node.Kill()
	c.nodes[i].server = nil
	return at
}

// restart has a node end in peace and starts it again at once. It returns how long
// the end took.
func (c *cluster) restart(i int) (stopped time.Duration, err error) {
	began := time.Now()
	err = c.nodes[i].node.Stop()
	c.nodes[i].server = nil
	stopped = time.Since(began)
	return stopped, errors.Join(err, c.startNode(i))
}

// addrs are the addresses of a service on all nodes but one, -1 for none, as bench
// takes them.
func (c *cluster) addrs(service string, but int) string {
	var list []string
	for i, m := range c.nodes {
		if i != but {
			list = append(list, m.at(service))
		}
	}
	return strings.Join(list, ",")
}

// status asks a node for the state of the cluster.
func (m *member) status(ctx context.Context) (admin.Status, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	client := admin.NewClient(m.dir)
	defer client.Close()
	return admin.Call[admin.Status](ctx, client, admin.NodeStatus, admin.Empty{})
}

// mostSettling bounds how long a cluster may take to be whole.
const mostSettling = 3 * time.Minute

// settle waits until every node says that all are alive, and that every shard has
// a leader and all its replicas, in step, and that the leaders are spread.
func (c *cluster) settle(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, mostSettling)
	defer cancel()
	for {
		lacking := c.lacking(ctx)
		if lacking == "" {
			return nil
		}
		if pause(ctx, 200*time.Millisecond) != nil {
			return fmt.Errorf("the cluster is not whole after %v: %s", mostSettling, lacking)
		}
	}
}

// lacking says what is not yet as it should be, empty if all is.
func (c *cluster) lacking(ctx context.Context) string {
	for i, m := range c.nodes {
		if !m.up() {
			continue
		}
		s, err := m.status(ctx)
		if err != nil {
			return fmt.Sprintf("node %d: %v", i+1, err)
		}
		m.id = s.Node
		if why := whole(&s, len(c.nodes), c.replicas); why != "" {
			return fmt.Sprintf("node %d: %s", i+1, why)
		}
	}
	return ""
}

// mostLag is how far a follower of a cluster that is whole may be behind.
const mostLag = 100

// whole says what a cluster lacks, empty if nothing.
func whole(s *admin.Status, nodes, replicas int) string {
	if len(s.Peers) != nodes {
		return fmt.Sprintf("%d nodes of %d", len(s.Peers), nodes)
	}
	for _, p := range s.Peers {
		if p.State != "alive" {
			return fmt.Sprintf("node %s is %s", p.Node, p.State)
		}
	}
	leads := make(map[string]int)
	for _, sh := range s.Shards {
		want := replicas
		if sh.ID == 0 { // the directory: every node, as voter or learner
			want = nodes
		}
		voters := 0
		for _, r := range sh.Replicas {
			if r.Silent || r.Copying || r.Lag > mostLag {
				return fmt.Sprintf("shard %d: replica on %s: %+v", sh.ID, r.Node, r)
			}
			if !r.Learner || sh.ID == 0 {
				voters++
			}
		}
		if sh.Leader == "" || sh.Stopped != "" || voters != want || len(sh.Replicas) != want {
			return fmt.Sprintf("shard %d: leader %q, %d of %d replicas %s", sh.ID, sh.Leader, voters, want, sh.Stopped)
		}
		if sh.ID > 0 {
			leads[sh.Leader]++
		}
	}
	if mailboxes := len(s.Shards) - 1; mailboxes >= nodes && len(leads) < nodes {
		return fmt.Sprintf("%d nodes lead all of %d shards", len(leads), mailboxes)
	}
	return ""
}

// led returns the labels of the shards that each node leads, as node i sees it. On
// a busy machine a shard may be without a leader for a moment; led waits for it.
func (c *cluster) led(ctx context.Context, i int) (by map[int][]string, err error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for {
		s, err := c.nodes[i].status(ctx)
		if err != nil {
			return nil, err
		}
		by, missing := c.leaders(&s)
		if missing == "" {
			return by, nil
		}
		if err := pause(ctx, 100*time.Millisecond); err != nil {
			return nil, fmt.Errorf("shard %s has no leader: %w", missing, err)
		}
	}
}

// leaders returns what each node leads, and a shard that nobody does.
func (c *cluster) leaders(s *admin.Status) (by map[int][]string, missing string) {
	by = make(map[int][]string)
	for _, sh := range s.Shards {
		at := slices.IndexFunc(c.nodes, func(m *member) bool { return m.id == sh.Leader })
		switch {
		case at < 0:
			return nil, label(sh.ID)
		case sh.ID > 0:
			by[at] = append(by[at], label(sh.ID))
		}
	}
	return by, ""
}

func label(id covey.ShardID) string { return strconv.FormatUint(uint64(id), 10) }

// groups returns the shard of every account, by address.
func (c *cluster) groups(ctx context.Context) (map[string]string, error) {
	text, err := c.nodes[0].node.Covey(ctx, "", "user", "list", "--json")
	if err != nil {
		return nil, err
	}
	var users []admin.User
	if err := json.Unmarshal([]byte(text), &users); err != nil {
		return nil, fmt.Errorf("list of users: %w", err)
	}
	of := make(map[string]string)
	for _, u := range users {
		of[u.Address] = label(u.Shard)
	}
	return of, nil
}

// deliveries is a load on the cluster, in a closed loop through all nodes.
func (c *cluster) deliveries(users int) bench.Config {
	return bench.Config{
		Protocol: bench.SMTP, Addr: c.addrs("smtp", -1), Conns: c.connsOf(64), Seed: uint64(time.Now().UnixNano()),
		Users: users, UserPattern: "user%05d@" + domain, Size: messageSize,
	}
}

// Bounds of the rate of an open loop.
const (
	steadyShare = 0.4 // of what a closed loop reaches
	mostSteady  = 1000
	leastSteady = 50
)

// steady returns the rate of an open loop that the cluster carries with ease, also
// without one of its nodes.
func (c *cluster) steady(ctx context.Context, users int) (float64, error) {
	cfg := c.deliveries(users)
	cfg.Duration = c.lasting(10*time.Second, time.Second)
	res, err := c.load(ctx, cfg)
	if err != nil {
		return 0, err
	}
	return min(max(steadyShare*res.Rate, leastSteady), mostSteady), nil
}

// openConns is enough that operations which hang keep none from starting.
const openConns = 3000

// during runs a load, after a while does something to the cluster, and waits for
// both. Failed operations are no error: they are what is to be seen.
func (c *cluster) during(ctx context.Context, cfg bench.Config, after time.Duration, do func() error) (res *bench.Result, err error) {
	err = together(
		func() (err error) {
			res, err = bench.Run(ctx, cfg)
			return errors.Join(err, ctx.Err())
		},
		func() error {
			if err := pause(ctx, after); err != nil {
				return err
			}
			return do()
		},
	)
	return res, err
}

// each does something to every node at once and waits for all.
func (c *cluster) each(do func(i int) error) error {
	errs := make([]error, len(c.nodes))
	var running sync.WaitGroup
	for i := range c.nodes {
		running.Go(func() { errs[i] = do(i) })
	}
	running.Wait()
	return errors.Join(errs...)
}

// percentile returns the value that the share q of all does not exceed.
func percentile(values []float64, q float64) float64 {
	if len(values) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(values))
	return s[min(max(int(q*float64(len(s))+0.999999)-1, 0), len(s)-1)]
}

// failures sums up why operations failed, the most frequent first.
type failures map[string]int64

func (f failures) add(res *bench.Result) {
	for _, class := range res.Failures {
		f[class.What] += class.Count
	}
}

// String names the most frequent ones.
func (f failures) String() string {
	const most = 4
	names := make([]string, 0, len(f))
	for what := range f {
		names = append(names, what)
	}
	slices.SortFunc(names, func(a, b string) int {
		if f[a] != f[b] {
			return int(min(max(f[b]-f[a], -1), 1))
		}
		return strings.Compare(a, b)
	})
	parts := make([]string, 0, most)
	for _, what := range names[:min(most, len(names))] {
		parts = append(parts, fmt.Sprintf("%d × %s", f[what], what))
	}
	if len(parts) == 0 {
		return "none failed"
	}
	return strings.Join(parts, "; ")
}
