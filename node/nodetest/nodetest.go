// Package nodetest runs several nodes of a cluster in one process, for tests.
//
// Each node is a whole one, as Start makes it, with a data folder and listeners on
// loopback. Gossip goes over a simulated network and the links over wires that can
// be cut, so that nodes are parted without privileges; clients reach every node at
// any time. Killing a node breaks its connections where they are, as the end of
// its process would, and what it has written stays. Where Options say so, its data
// folder lies on a simulated disk, and a power cut loses what was not synced.
package nodetest

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	mathrand "math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/internal/durable"
	"github.com/covey-mail/covey/internal/peer"
	"github.com/covey-mail/covey/internal/simnet"
	"github.com/covey-mail/covey/membership"
	"github.com/covey-mail/covey/membership/membershiptest"
	"github.com/covey-mail/covey/node"
	"github.com/covey-mail/covey/node/admin"
)

// patience bounds how long something that should happen may take; machines that
// run tests are slow and shared.
const patience = 90 * time.Second

// Options say what the nodes of a Cluster have in common. The zero value is fine.
type Options struct {
	Shards   int // 4
	Replicas int // 3

	// PowerCuts makes Node.CutPower possible.
	PowerCuts bool

	// Configure changes the configuration of each node that is made. nil: nobody
	// wants to.
	Configure func(*node.Config)

	// Beside has the cluster share network and secret with another, whose nodes it
	// otherwise knows nothing of. nil: it has its own.
	Beside *Cluster
}

// A Cluster is made of nodes that know the same secret. Its methods are for one
// goroutine, but Split and Heal.
type Cluster struct {
	t      testing.TB
	opts   Options
	dir    string
	secret string // file
	gossip *membershiptest.Net
	wires  *wires
	hosts  *int // in the network so far
	nodes  []*Node
}

// A Node is a place for a node: a data folder and addresses that stay the same.
type Node struct {
	Config node.Config // for the next Start
	Level  uint32      // likewise, of its program; 0: the newest

	cluster *Cluster
	number  int
	ip      string // of gossip
	host    *membershiptest.Host
	disk    *disk // nil: the real one
	log     journal

	mu   sync.Mutex   // guards what follows
	node *node.Node   // nil: it does not run
	id   covey.NodeID // of its latest life
}

// New returns a cluster without nodes. Everything ends with the test.
func New(t testing.TB, opts Options) *Cluster {
	t.Helper()
	// The paths of Unix sockets are short; those of t.TempDir are not.
	dir, err := os.MkdirTemp("", "covey")
	if err != nil {
		t.Fatal(err)
	}
	c := &Cluster{t: t, opts: opts, dir: dir}
	if c.opts.Shards == 0 {
		c.opts.Shards = 4
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	if b := opts.Beside; b != nil {
		c.wires, c.secret, c.gossip, c.hosts = b.wires, b.secret, b.gossip, b.hosts
	} else {
		c.network()
	}
	t.Cleanup(c.end)
	return c
}

// network makes what nodes have in common, and runs it until the test ends.
func (c *Cluster) network() {
	c.t.Helper()
	c.wires, c.hosts, c.secret = newWires(), new(int), filepath.Join(c.dir, "secret")
	c.gossip = membershiptest.New(uint64(time.Now().UnixNano()), simnet.Weather{MinDelay: 50 * time.Microsecond, MaxDelay: time.Millisecond})
	writeSecret(c.t, c.secret)
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { c.gossip.Run(ctx) })
	c.t.Cleanup(func() {
		cancel()
		running.Wait()
	})
}

// writeSecret makes a secret for the nodes of a cluster.
func writeSecret(t testing.TB, file string) {
	t.Helper()
	s, err := peer.NewSecret(rand.Reader)
	if err == nil {
		err = peer.WriteSecrets(durable.OS(), file, []peer.Secret{s})
	}
	if err != nil {
		t.Fatal(err)
	}
}

// end kills what still runs, and shows the logs of a test that failed.
func (c *Cluster) end() {
	var ends sync.WaitGroup
	for _, n := range c.nodes {
		ends.Go(n.Kill)
	}
	ends.Wait()
	for _, n := range c.nodes {
		if n.disk == nil {
			continue
		}
		if err := n.disk.vfs.Close(); err != nil {
			c.t.Errorf("node %d: %v", n.number, err)
		}
		n.disk = nil // a test that has ended is kept until all have
	}
	if !c.t.Failed() {
		return
	}
	for _, n := range c.nodes {
		c.t.Logf("node %d:\n%s", n.number, n.log.String())
	}
}

// Node makes a place for another node, which does not run yet. It joins the ones
// that are there; the first of all makes the cluster.
func (c *Cluster) Node() *Node {
	c.t.Helper()
	*c.hosts++
	n := &Node{cluster: c, number: *c.hosts}
	n.ip = fmt.Sprintf("10.0.0.%d", n.number)
	dir := filepath.Join(c.dir, fmt.Sprint("n", n.number))
	cfg := node.DefaultConfig(dir, 0)
	cfg.Node.Hostname = "mail.example.org"
	cfg.Cluster.Shards, cfg.Cluster.Replicas, cfg.Cluster.SecretFile = c.opts.Shards, c.opts.Replicas, c.secret
	cfg.Limits.DiskReserve = 1 << 20
	l := &cfg.Listen
	for _, list := range []*[]string{&l.SMTP, &l.Submission, &l.IMAP, &l.POP3, &l.LMTP, &l.Peer, &l.Metrics} {
		*list = []string{c.freeAddr()}
	}
	l.Submissions, l.IMAPS, l.POP3S = nil, nil, nil
	l.Gossip = []string{n.ip + ":7946"}
	cfg.Logger = slog.New(slog.NewTextHandler(&n.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	for _, other := range c.nodes {
		cfg.Cluster.Join = append(cfg.Cluster.Join, other.PeerAddr())
	}
	if c.opts.PowerCuts {
		cfg.Limits.SegmentSize = 1 << 20 // it is all in memory
		var err error
		if n.disk, err = newDisk(dir, c.secret); err != nil {
			c.t.Fatal(err)
		}
	}
	if c.opts.Configure != nil {
		c.opts.Configure(&cfg)
	}
	n.Config = cfg
	c.wires.place(n.number, cfg.Listen.Peer[0])
	c.nodes = append(c.nodes, n)
	return n
}

// taken are the addresses that were given out: a node comes back to its own.
var (
	takenMu sync.Mutex
	taken   = make(map[string]bool)
)

// freeAddr returns an address of loopback that nobody listens at, and no other node
// has. The kernel gives ports of this range to nobody who does not ask for them.
func (c *Cluster) freeAddr() string {
	c.t.Helper()
	takenMu.Lock()
	defer takenMu.Unlock()
	const first, ports, tries = 10_000, 20_000, 100
	for range tries {
		addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(first+mathrand.IntN(ports)))
		if taken[addr] {
			continue
		}
		if l, err := net.Listen("tcp", addr); err == nil {
			_ = l.Close() // nobody has connected
			taken[addr] = true
			c.t.Cleanup(func() {
				takenMu.Lock()
				defer takenMu.Unlock()
				delete(taken, addr)
			})
			return addr
		}
	}
	c.t.Fatal("no port is free")
	return ""
}

// Started returns a cluster of so many nodes, joined one after the other, with the
// accounts u0 … u7 of example.org, when all is in its place.
func Started(t testing.TB, nodes int, opts Options) *Cluster {
	t.Helper()
	c := New(t, opts)
	for range nodes {
		c.Node().Start()
	}
	c.AddUsers()
	c.Settle()
	return c
}

// Nodes returns all nodes, in the order in which they were made.
func (c *Cluster) Nodes() []*Node { return slices.Clone(c.nodes) }

// Users are the addresses that AddUsers makes accounts for; the password of each is
// "secret".
func Users() (all []string) {
	for i := range 8 {
		all = append(all, fmt.Sprintf("u%d@example.org", i))
	}
	return all
}

// AddUsers makes accounts, through the first node.
func (c *Cluster) AddUsers() {
	c.t.Helper()
	n := c.nodes[0]
	Call[admin.Done](c.t, n, admin.DomainAdd, admin.Name{Name: "example.org"})
	hash := saltedHash("secret")
	for _, u := range Users() {
		c.addUser(admin.UserRequest{Address: u, Hash: &hash})
	}
}

// addUser makes an account through the first node, once somebody leads the
// directory: while the nodes of many clusters start that may take longer than a node
// waits.
func (c *Cluster) addUser(req admin.UserRequest) {
	c.t.Helper()
	c.WaitFor("there is an account "+req.Address, func() bool {
		_, err := Try[admin.User](c.t.Context(), c.nodes[0], admin.UserAdd, req)
		if err != nil && !errors.Is(err, covey.Unavailable) {
			c.t.Fatal(err)
		}
		return err == nil
	})
}

// Split parts the nodes into sides that do not reach each other; a node that is in
// none reaches nobody.
func (c *Cluster) Split(sides ...[]*Node) {
	side := make(map[int]int)
	var ids [][]covey.NodeID
	for i, s := range sides {
		var of []covey.NodeID
		for _, n := range s {
			side[n.number] = i + 1
			of = append(of, n.ID())
		}
		ids = append(ids, of)
	}
	var cut []way
	for _, a := range c.nodes {
		for _, b := range c.nodes {
			if a != b && (side[a.number] != side[b.number] || side[a.number] == 0) {
				cut = append(cut, way{a.number, b.number})
			}
		}
	}
	c.wires.set(true, cut...)
	c.gossip.Split(ids...)
}

// Unplug takes one node away from all others.
func (c *Cluster) Unplug(n *Node) {
	c.Split([]*Node{n}, slices.DeleteFunc(c.Nodes(), func(o *Node) bool { return o == n }))
}

// Heal joins what Split parted.
func (c *Cluster) Heal() {
	c.wires.heal()
	c.gossip.Heal()
}

// Start starts the node and returns when it serves.
func (n *Node) Start() {
	n.cluster.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := n.TryStart(ctx); err != nil {
		n.cluster.t.Fatalf("start node %d: %v", n.number, err)
	}
}

// TryStart is Start for a start that may fail.
func (n *Node) TryStart(ctx context.Context) error {
	sys := node.System{
		Dial: n.cluster.wires.dial(n.number), Level: n.Level,
		Gossip: func(id covey.NodeID) membership.Transport {
			n.mu.Lock()
			defer n.mu.Unlock()
			n.id, n.host = id, n.cluster.gossip.Host(id, n.ip)
			return n.host
		},
	}
	if n.disk != nil {
		sys.FS, sys.VFS = n.disk, n.disk.vfs.Name()
	}
	started, err := node.StartOn(ctx, n.Config, sys)
	if err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.node = started
	return nil
}

// take returns the running node, which is none from then on.
func (n *Node) take() *node.Node {
	n.mu.Lock()
	defer n.mu.Unlock()
	was := n.node
	n.node = nil
	return was
}

func (n *Node) running() *node.Node {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.node
}

// Running reports whether the node has been started, and neither stopped nor
// killed since.
func (n *Node) Running() bool { return n.running() != nil }

// Stop stops the node in good order.
func (n *Node) Stop() {
	n.cluster.t.Helper()
	if r := n.take(); r != nil {
		if err := r.Stop(); err != nil {
			n.cluster.t.Errorf("stop node %d: %v", n.number, err)
		}
	}
}

// Kill ends the node at once; see node.Node.Kill.
func (n *Node) Kill() {
	if r := n.take(); r != nil {
		n.host.Kill()
		r.Kill()
	}
}

// CutPower ends the node as a power cut would: it is killed, and what it had not
// synced is there in whole, in part or not at all, as the seed has it
// (durabletest.Disk.Crash). Only where Options.PowerCuts is set.
func (n *Node) CutPower(seed uint64) {
	n.disk.StopAfter(0)
	n.Kill()
	n.disk.Crash(seed)
}

// Wipe removes all that the node, which does not run, has on its disk.
func (n *Node) Wipe() {
	n.cluster.t.Helper()
	err := os.RemoveAll(n.Config.Node.Data)
	if err == nil && n.disk != nil {
		if err = n.disk.vfs.Close(); err == nil {
			n.disk, err = newDisk(n.Config.Node.Data, n.cluster.secret)
		}
	}
	if err != nil {
		n.cluster.t.Fatal(err)
	}
}

// ID returns the id of the node that was last there, 0 if none was.
func (n *Node) ID() covey.NodeID {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.id
}

// Name is the node's id as an operator writes it.
func (n *Node) Name() string { return n.ID().String() }

// PeerAddr is where other nodes reach it.
func (n *Node) PeerAddr() string { return n.Config.Listen.Peer[0] }

// Logged reports whether the node has logged a text, in any of its lives.
func (n *Node) Logged(text string) bool { return strings.Contains(n.log.String(), text) }

// Call runs an operation on a node; it must succeed.
func Call[Resp any](t testing.TB, n *Node, op string, req any) Resp {
	t.Helper()
	resp, err := Try[Resp](t.Context(), n, op, req)
	if err != nil {
		t.Fatalf("%s on node %d: %v", op, n.number, err)
	}
	return resp
}

// Try runs an operation on a node.
func Try[Resp any](ctx context.Context, n *Node, op string, req any) (Resp, error) {
	c := admin.NewClient(n.Config.Node.Data)
	defer c.Close()
	return admin.Call[Resp](ctx, c, op, req)
}

// Status is what a node says of the cluster.
func (n *Node) Status() admin.Status {
	n.cluster.t.Helper()
	return Call[admin.Status](n.cluster.t, n, admin.NodeStatus, admin.Empty{})
}

// Shard returns the shard of an account.
func (n *Node) Shard(user string) covey.ShardID {
	n.cluster.t.Helper()
	return Call[admin.User](n.cluster.t, n, admin.UserShow, admin.Name{Name: user}).Shard
}

// WaitFor waits until something holds.
func (c *Cluster) WaitFor(what string, cond func() bool) {
	c.t.Helper()
	WaitFor(c.t, what, cond)
}

// WaitFor waits until something holds.
func WaitFor(t testing.TB, what string, cond func() bool) {
	t.Helper()
	end := time.NewTimer(patience)
	defer end.Stop()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !cond() {
		select {
		case <-tick.C:
		case <-end.C:
			t.Fatalf("waited %v in vain: %s", patience, what)
		}
	}
}

// Settle waits until every running node sees all others that run, each shard has
// the replicas that are wanted, all of them caught up, and leaders are spread.
func (c *Cluster) Settle() {
	c.t.Helper()
	why := ""
	defer func() {
		if c.t.Failed() {
			c.t.Logf("not settled: %s", why)
		}
	}()
	c.WaitFor("the cluster settles", func() bool {
		why = c.unsettled()
		return why == ""
	})
}

// unsettled says what keeps the cluster from being settled.
func (c *Cluster) unsettled() string {
	up := slices.DeleteFunc(c.Nodes(), func(n *Node) bool { return !n.Running() })
	for _, n := range up {
		s, err := Try[admin.Status](c.t.Context(), n, admin.NodeStatus, admin.Empty{})
		if err != nil {
			return err.Error()
		}
		if why := unsettled(s, len(up)); why != "" {
			return fmt.Sprintf("node %d: %s", n.number, why)
		}
	}
	return ""
}

func unsettled(s admin.Status, up int) string {
	alive := make(map[string]bool)
	least, most, holders := 1<<30, 0, 0
	for _, p := range s.Peers {
		if p.State != "alive" {
			continue
		}
		alive[p.Node] = true
		if p.Role == "active" {
			least, most, holders = min(least, p.Leads), max(most, p.Leads), holders+1
		}
	}
	if len(alive) != up {
		return fmt.Sprintf("%d of %d nodes are alive", len(alive), up)
	}
	for _, sh := range s.Shards {
		if why := unsettledShard(sh, alive); why != "" {
			return fmt.Sprintf("shard %d: %s", sh.ID, why)
		}
	}
	// A node may lead one shard more or less than another, and group 0 is counted
	// apart.
	if most-least > 2 {
		return fmt.Sprintf("one node leads %d shards, another %d of %d", most, least, len(s.Shards))
	}
	return ""
}

func unsettledShard(sh admin.Shard, alive map[string]bool) string {
	switch {
	case !alive[sh.Leader]:
		return fmt.Sprintf("leader is %q", sh.Leader)
	case sh.Stopped != "":
		return sh.Stopped
	}
	voters := 0
	for _, r := range sh.Replicas {
		if !r.Learner {
			voters++
		}
		if alive[r.Node] && (r.Silent || r.Copying || r.Lag > 100) {
			return fmt.Sprintf("replica %+v", r)
		}
		if !r.Learner && !slices.Contains(sh.Wanted, r.Node) {
			return fmt.Sprintf("voter %s is not wanted, but %v", r.Node, sh.Wanted)
		}
	}
	if voters != len(sh.Wanted) {
		return fmt.Sprintf("%d voters, want %v", voters, sh.Wanted)
	}
	return ""
}

// saltedHash is a password as an import brings it, quick to check.
func saltedHash(password string) string {
	salt := make([]byte, 8)
	rand.Read(salt)
	sum := sha256.Sum256(append([]byte(password), salt...))
	return "{SSHA256}" + base64.StdEncoding.EncodeToString(append(sum[:], salt...))
}

// idle is found in lines of the log that are many and say little.
var idle = []string{"level=DEBUG", "msg=session", `msg="imap session`, "msg=transaction", "connection cut"}

// A journal gathers a log.
type journal struct {
	mu sync.Mutex // guards b
	b  bytes.Buffer
}

// Write implements io.Writer.
func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.b.Write(p)
}

// String returns what was written, but for idle lines.
func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	var keep strings.Builder
	for line := range strings.Lines(j.b.String()) {
		if !slices.ContainsFunc(idle, func(s string) bool { return strings.Contains(line, s) }) {
			keep.WriteString(line)
		}
	}
	return keep.String()
}
