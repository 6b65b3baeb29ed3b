package replica

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/internal/durable"
	"github.com/covey-mail/covey/internal/durable/durabletest"
	"github.com/covey-mail/covey/internal/simnet"
	"github.com/covey-mail/covey/storage/seglog"
)

// A cluster is nodes 1, 2, … in one synctest bubble, each with a disk of its own
// that forgets, joined by a simulated network.
type cluster struct {
	t      *testing.T
	net    *simnet.Net[packet]
	cfg    Config
	log    seglog.Config // of every node; Dir and FS are filled in
	groups int
	voters []covey.NodeID // of a new group
	fsync  time.Duration  // that one takes
	nodes  []*peer        // node id is index + 1
	stop   func()         // ends the network
}

// A peer is one node of a cluster. One goroutine starts and stops it; others ask
// live.
type peer struct {
	c        *cluster
	id       covey.NodeID
	disk     *durabletest.Disk
	gate     *syncGate
	log      *seglog.Log
	host     *Host
	machines []*recorder // by group; nil: the group is not here
	joined   []bool      // by group: it came while it was going on elsewhere
	port     *port
	up       atomic.Pointer[live] // nil while it is down
	cancel   context.CancelFunc
	ended    chan error
}

// live is what clients of a node that is up use.
type live struct {
	host     *Host
	machines []*recorder
}

// A syncGate is a file system whose fsyncs are counted and can be held up. Once
// the power was cut, it is not for those who used it before.
type syncGate struct {
	durable.FS
	slow  time.Duration // that an fsync takes
	power sync.RWMutex  // guards off
	off   bool
	syncs atomic.Int64
	from  atomic.Int64 // number of the first fsync that is held up
	held  atomic.Pointer[chan struct{}]
}

// hold stops fsyncs after some more until release is called.
func (g *syncGate) hold(after int64) (release func()) {
	gate := make(chan struct{})
	g.from.Store(g.syncs.Load() + after + 1)
	g.held.Store(&gate)
	return sync.OnceFunc(func() {
		g.held.Store(nil)
		close(gate)
	})
}

// on runs an operation that is by name, so that it could come after the crash.
func (g *syncGate) on(op func() error) error {
	g.power.RLock()
	defer g.power.RUnlock()
	if g.off {
		return durabletest.ErrPower
	}
	return op()
}

func (g *syncGate) Open(name string, flag int, perm os.FileMode) (f durable.File, err error) {
	err = g.on(func() error {
		f, err = g.FS.Open(name, flag, perm)
		return err
	})
	if err != nil {
		return nil, err
	}
	return &gatedFile{f, g}, nil
}

func (g *syncGate) Rename(oldname, newname string) error {
	return g.on(func() error { return g.FS.Rename(oldname, newname) })
}

func (g *syncGate) Remove(name string) error {
	return g.on(func() error { return g.FS.Remove(name) })
}

func (g *syncGate) SyncDir(name string) error {
	return g.on(func() error { return g.FS.SyncDir(name) })
}

// cut cuts the power of a disk under its users.
func (g *syncGate) cut(disk *durabletest.Disk, seed uint64) {
	g.power.Lock()
	defer g.power.Unlock()
	g.off = true
	disk.Crash(seed)
}

type gatedFile struct {
	durable.File
	gate *syncGate
}

func (f *gatedFile) Sync() error {
	n := f.gate.syncs.Add(1)
	if held := f.gate.held.Load(); held != nil && n >= f.gate.from.Load() {
		<-*held
	}
	if f.gate.slow > 0 {
		<-time.After(f.gate.slow)
	}
	return f.File.Sync()
}

// newCluster starts n nodes of which the first voters vote in every group.
func newCluster(t *testing.T, seed uint64, n, voters, groups int) *cluster {
	t.Helper()
	c := prepareCluster(t, seed, n, voters, groups)
	c.start()
	return c
}

// prepareCluster is newCluster as far as before the start.
func prepareCluster(t *testing.T, seed uint64, n, voters, groups int) *cluster {
	t.Helper()
	c := &cluster{t: t, net: simnet.New[packet](seed, simnet.Weather{MinDelay: time.Millisecond, MaxDelay: 5 * time.Millisecond}), groups: groups}
	c.log.SegmentSize = 256 << 10
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { c.net.Run(ctx) })
	c.stop = func() { cancel(); wg.Wait() }
	for i := range n {
		p := &peer{c: c, id: covey.NodeID(i + 1), disk: durabletest.NewDisk(), joined: make([]bool, groups)}
		for id := range groups {
			p.machines = append(p.machines, p.machine(covey.ShardID(id)))
		}
		c.nodes = append(c.nodes, p)
		if i < voters {
			c.voters = append(c.voters, p.id)
		}
	}
	return c
}

func (c *cluster) start() {
	c.t.Helper()
	for _, p := range c.nodes {
		p.start()
	}
}

// start starts a node on what its disk holds.
func (p *peer) start() {
	p.c.t.Helper()
	p.prepare()
	p.run()
}

// prepare is start as far as before Run.
func (p *peer) prepare() {
	t := p.c.t
	t.Helper()
	p.gate = &syncGate{FS: p.disk, slow: p.c.fsync}
	logConfig := p.c.log
	logConfig.Dir, logConfig.FS = "/log", p.gate
	log, err := seglog.Open(logConfig)
	if err != nil {
		t.Fatalf("node %d: %v", p.id, err)
	}
	cfg := p.c.cfg
	p.port = newPort(p.c.net, p.id)
	cfg.Node, cfg.Log, cfg.Transport = p.id, log, p.port
	p.log, p.host = log, newHost(t, cfg)
	p.port.host = p.host
	for i, m := range p.machines {
		switch {
		case m == nil:
		case p.joined[i] && log.Group(covey.ShardID(i)).Empty():
			m.remove() // what a removal that was cut short may have left
			p.machines[i] = p.machine(covey.ShardID(i))
			fallthrough
		default:
			p.add(covey.ShardID(i))
		}
	}
}

func (p *peer) run() {
	ctx, cancel := context.WithCancel(p.c.t.Context())
	p.cancel, p.ended = cancel, make(chan error, 1)
	host, ended := p.host, p.ended
	go func() { ended <- host.Run(ctx) }()
	p.c.net.Join(p.id, p.port.receive)
	p.up.Store(&live{p.host, slices.Clone(p.machines)})
}

// machine makes a state machine that keeps its state on the node's disk.
func (p *peer) machine(id covey.ShardID) *recorder {
	return newRecorder(p.disk, fmt.Sprintf("/state-%d", id))
}

// add adds a group with the machine that there is for it.
func (p *peer) add(id covey.ShardID) {
	p.c.t.Helper()
	voters := p.c.voters
	if p.joined[id] {
		voters = nil
	}
	p.machines[id].read, p.machines[id].fs = p.log.Read, p.gate
	if err := p.host.Add(id, p.machines[id], voters); err != nil {
		p.c.t.Fatalf("node %d: %v", p.id, err)
	}
}

// join gives a node a group that goes on elsewhere.
func (p *peer) join(id covey.ShardID) {
	p.c.t.Helper()
	p.machines[id], p.joined[id] = p.machine(id), true
	p.add(id)
	p.up.Store(&live{p.host, slices.Clone(p.machines)})
}

// leave takes a group from a node, if it can be taken.
func (p *peer) leave(id covey.ShardID) error {
	err := p.host.Remove(p.c.t.Context(), id)
	if err == nil {
		p.check()
		p.machines[id].remove()
		p.machines[id] = nil
		p.up.Store(&live{p.host, slices.Clone(p.machines)})
	}
	return err
}

// status returns the state of a group, the zero Status if it is not here.
func (p *peer) status(id covey.ShardID) Status { return status(p.host, id) }

func status(h *Host, id covey.ShardID) Status {
	for _, s := range h.Status() {
		if s.Group == id {
			return s
		}
	}
	return Status{}
}

// crash cuts a node's power. What its disk keeps of unsynced writes is drawn from
// seed.
func (p *peer) crash(seed uint64) {
	p.up.Store(nil)
	p.port.dead.Store(true)
	p.c.net.Leave(p.id)
	p.gate.cut(p.disk, seed)
	next := make([]*recorder, len(p.machines))
	for i, m := range p.machines {
		if m != nil {
			next[i] = m.reopened(p.disk)
		}
	}
	p.cancel()
	<-p.ended // whatever it says: the machine is off
	p.port.end()
	p.log.Close()
	p.check()
	p.machines = next
}

// shutDown stops a node in good order.
func (p *peer) shutDown() {
	p.c.t.Helper()
	p.up.Store(nil)
	p.cancel()
	if err := <-p.ended; err != nil {
		p.c.t.Errorf("node %d: Run: %v", p.id, err)
	}
	p.c.net.Leave(p.id)
	p.port.end()
	if err := p.log.Close(); err != nil {
		p.c.t.Errorf("node %d: close log: %v", p.id, err)
	}
	p.check()
	for i, m := range p.machines {
		if m != nil {
			p.machines[i] = m.reopened(p.disk)
		}
	}
}

func (p *peer) check() {
	p.c.t.Helper()
	for i, m := range p.machines {
		if m == nil {
			continue
		}
		m.mu.Lock()
		if m.fault != nil {
			p.c.t.Errorf("node %d group %d: %v", p.id, i, m.fault)
		}
		m.mu.Unlock()
	}
}

// end stops everything that is up.
func (c *cluster) end() {
	c.t.Helper()
	for _, p := range c.nodes {
		if p.up.Load() != nil {
			p.shutDown()
		}
	}
	c.stop()
}

func (c *cluster) node(id covey.NodeID) *peer { return c.nodes[id-1] }

// others returns all nodes but id.
func (c *cluster) others(id covey.NodeID) (ids []covey.NodeID) {
	for _, p := range c.nodes {
		if p.id != id {
			ids = append(ids, p.id)
		}
	}
	return ids
}

// leads reports whether the node thinks that it leads the group.
func (p *peer) leads(id covey.ShardID) bool {
	up := p.up.Load()
	return up != nil && status(up.host, id).Leader == p.id
}

// waitFor lets time pass until cond holds.
func (c *cluster) waitFor(what string, cond func() bool) {
	c.t.Helper()
	for range 600 {
		if cond() {
			return
		}
		advance(c.t, 100*time.Millisecond)
	}
	for _, p := range c.nodes {
		if p.up.Load() != nil {
			c.t.Logf("node %d: %+v", p.id, p.host.Status())
		}
	}
	c.t.Fatalf("after a minute: no %s", what)
}

// leader waits until one of the nodes leads the group and has proved it.
func (c *cluster) leader(id covey.ShardID, among ...covey.NodeID) *peer {
	c.t.Helper()
	var found *peer
	c.waitFor(fmt.Sprintf("leader of group %d among %v", id, among), func() bool {
		for _, n := range among {
			if p := c.node(n); p.leads(id) {
				ctx, cancel := context.WithTimeout(c.t.Context(), time.Second)
				err := p.host.ReadIndex(ctx, id)
				cancel()
				if err == nil {
					found = p
					return true
				}
			}
		}
		return false
	})
	return found
}

func (c *cluster) all() []covey.NodeID { return c.others(0) }

func (p *peer) propose(id covey.ShardID, timeout time.Duration, command string) error {
	return propose(p.c.t, p.host, id, timeout, command)
}

func propose(t *testing.T, h *Host, id covey.ShardID, timeout time.Duration, command string) error {
	ctx, cancel := context.WithTimeout(t.Context(), timeout)
	defer cancel()
	got, err := h.Propose(ctx, id, []byte(command))
	if err == nil && got != result(command) {
		return fmt.Errorf("Propose(%.40q) = %v", command, got)
	}
	return err
}

func (p *peer) mustPropose(id covey.ShardID, commands ...string) {
	p.c.t.Helper()
	for _, command := range commands {
		if err := p.propose(id, 10*time.Second, command); err != nil {
			p.c.t.Fatalf("node %d: Propose(%.40q): %v", p.id, command, err)
		}
	}
}

// agree waits until all nodes that are up applied the same, and returns it.
func (c *cluster) agree(id covey.ShardID) chain {
	c.t.Helper()
	var first chain
	c.waitFor(fmt.Sprintf("agreement on group %d", id), func() bool {
		first = chain{}
		for _, p := range c.nodes {
			if p.up.Load() == nil || p.machines[id] == nil {
				continue
			}
			got := p.machines[id].now()
			if first.Index == 0 {
				first = got
			}
			if got.Index == 0 || got.Hash != first.Hash {
				return false
			}
		}
		return first.Index != 0
	})
	return first
}

func inCluster(t *testing.T, n, voters int, fn func(c *cluster)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 1, n, voters, 1)
		fn(c)
		c.end()
	})
}

func TestThreeNodes(t *testing.T) {
	inCluster(t, 3, 3, func(c *cluster) {
		leader := c.leader(0, c.all()...)
		leader.mustPropose(0, "one", "two", "three")
		for _, p := range c.nodes {
			if err := p.host.ReadIndex(c.t.Context(), 0); err != nil {
				c.t.Errorf("read at node %d: %v", p.id, err)
			}
			wantCommands(c.t, p.machines[0], "one", "two", "three")
			if p != leader {
				wantKind(c.t, "proposal at a follower", p.propose(0, time.Second, "x"), covey.Unavailable)
			}
		}
		if got := metric(c.t, leader.host, "refusals_total", refusedElsewhere); got != 0 {
			c.t.Errorf("the leader refused %v", got)
		}
	})
}

// The leader's own disk is not waited for where others make a quorum, but no
// command is answered that only the leader has.
func TestNoAckWithoutQuorum(t *testing.T) {
	inCluster(t, 3, 3, func(c *cluster) {
		leader := c.leader(0, c.all()...)
		leader.mustPropose(0, "before")
		var releases []func()
		for _, id := range c.others(leader.id) {
			releases = append(releases, c.node(id).gate.hold(0))
		}
		done := make(chan error, 1)
		go func() { done <- leader.propose(0, time.Minute, "held") }()
		advance(c.t, 500*time.Millisecond)
		select {
		case err := <-done:
			c.t.Fatalf("answered while no follower had it: %v", err)
		default:
		}
		releases[0]()
		if err := <-done; err != nil {
			c.t.Error(err)
		}
		releases[1]()
		c.agree(0)
	})
}

func TestF25_LeaderInMinority(t *testing.T) {
	inCluster(t, 3, 3, func(c *cluster) {
		old := c.leader(0, c.all()...)
		old.mustPropose(0, "before")
		c.net.Split([]covey.NodeID{old.id}, c.others(old.id))
		began := time.Now()
		err := old.propose(0, time.Minute, "alone")
		wantKind(c.t, "proposal in the minority", err, covey.Unknown)
		if took := time.Since(began); took > 5*time.Second {
			c.t.Errorf("the caller learned it after %v", took)
		}
		wantKind(c.t, "read in the minority", old.host.ReadIndex(c.t.Context(), 0), covey.Unavailable)
		wantKind(c.t, "next proposal", old.propose(0, time.Minute, "refused"), covey.Unavailable)
		c.leader(0, c.others(old.id)...).mustPropose(0, "after")
		c.net.Heal()
		got := c.agree(0).Commands
		if diff := cmp.Diff([]string{"before", "after"}, got); diff != "" {
			c.t.Errorf("applied (-want +got):\n%s", diff)
		}
	})
}

// A proposal whose place in the log another leader's entry took was definitely
// not done, and its caller learns so when that can be seen in time.
func TestOverriddenProposal(t *testing.T) {
	inCluster(t, 3, 3, func(c *cluster) {
		old := c.leader(0, c.all()...)
		c.net.Split([]covey.NodeID{old.id}, c.others(old.id))
		done := make(chan error, 1)
		go func() { done <- old.propose(0, time.Minute, "overridden") }()
		c.waitFor("end of the old leadership", func() bool { return !old.leads(0) })
		c.waitFor("new leader", func() bool {
			for _, id := range c.others(old.id) {
				if c.node(id).leads(0) {
					return true
				}
			}
			return false
		})
		c.net.Heal()
		wantKind(c.t, "overridden proposal", <-done, covey.Unavailable)
	})
}

func TestF26_LeaderSendsButHearsNothing(t *testing.T) {
	inCluster(t, 3, 3, func(c *cluster) {
		old := c.leader(0, c.all()...)
		for _, id := range c.others(old.id) {
			c.net.Cut(id, old.id)
		}
		next := c.leader(0, c.others(old.id)...)
		if old.leads(0) {
			c.t.Error("the old leader still thinks it leads")
		}
		term := next.host.Status()[0].Term
		advance(c.t, time.Minute)
		status := next.host.Status()[0]
		if status.Term != term || !next.leads(0) {
			c.t.Errorf("a minute later the term is %d, was %d, and the leader %s", status.Term, term, status.Leader)
		}
		next.mustPropose(0, "after")
		c.net.Heal()
		c.agree(0)
	})
}

func TestF27_TwoNodesSeeEachOtherOnlyThroughTheThird(t *testing.T) {
	inCluster(t, 3, 3, func(c *cluster) {
		leader := c.leader(0, c.all()...)
		rest := c.others(leader.id)
		// Once with the leader at the end of the chain, once in its middle.
		for _, cut := range [][2]covey.NodeID{{leader.id, rest[0]}, {rest[0], rest[1]}} {
			c.net.Heal()
			c.net.Cut(cut[0], cut[1])
			c.net.Cut(cut[1], cut[0])
			advance(c.t, 5*time.Second)
			before := c.leaderChanges()
			advance(c.t, time.Minute)
			if changes := c.leaderChanges() - before; changes > 6 {
				c.t.Errorf("cut %v: nodes saw %v changes of leader in a minute", cut, changes)
			}
			c.leader(0, c.all()...).mustPropose(0, fmt.Sprintf("with %v cut", cut))
		}
		c.net.Heal()
		c.agree(0)
	})
}

func (c *cluster) leaderChanges() (n float64) {
	for _, p := range c.nodes {
		n += metric(c.t, p.host, "leader_changes_total")
	}
	return n
}

// errDisk is what a broken disk says.
var errDisk = errors.New("input/output error")

func TestF16_FailedSyncEndsTheNode(t *testing.T) {
	inCluster(t, 3, 3, func(c *cluster) {
		old := c.leader(0, c.all()...)
		old.mustPropose(0, "before")
		old.disk.Inject(durabletest.Fault{Op: durabletest.Sync, Err: errDisk}) // once; then it would work again
		err := old.propose(0, time.Minute, "in doubt")
		wantKind(c.t, "proposal over a failed fsync", err, covey.Unknown)
		if err := <-old.ended; !errors.Is(err, errDisk) {
			c.t.Errorf("Run: %v, want the disk's error", err)
		}
		wantKind(c.t, "next proposal", old.propose(0, time.Minute, "x"), covey.Unavailable)
		old.ended <- nil
		c.leader(0, c.others(old.id)...).mustPropose(0, "after")
		old.crash(0)
		old.start()
		c.agree(0)
	})
}

func TestF17_DiskThatFailsForGood(t *testing.T) {
	inCluster(t, 3, 3, func(c *cluster) {
		old := c.leader(0, c.all()...)
		old.disk.Inject(durabletest.Fault{Op: durabletest.Write, Err: errDisk, Times: -1})
		began := time.Now()
		wantKind(c.t, "proposal over a failed write", old.propose(0, time.Minute, "in doubt"), covey.Unknown)
		if err := <-old.ended; !errors.Is(err, errDisk) {
			c.t.Errorf("Run: %v, want the disk's error", err)
		}
		old.ended <- nil
		c.leader(0, c.others(old.id)...).mustPropose(0, "after")
		if took := time.Since(began); took > 10*time.Second {
			c.t.Errorf("the others took over after %v", took)
		}
		old.crash(0)
	})
}

func TestF20_DiskFullOnLeader(t *testing.T) {
	inCluster(t, 3, 3, func(c *cluster) {
		old := c.leader(0, c.all()...)
		old.mustPropose(0, "before")
		old.disk.Inject(durabletest.Fault{Op: durabletest.Write, Err: errNoSpace, Times: -1})
		// The others have it, and so it may be done although this disk is full.
		go old.propose(0, time.Second, "on the way")
		advance(c.t, time.Second)
		wantKind(c.t, "proposal on a full disk", old.propose(0, time.Minute, "x"), covey.DiskFull)
		next := c.leader(0, c.others(old.id)...)
		next.mustPropose(0, "elsewhere")
		old.disk.Heal()
		got := c.agree(0).Commands
		if diff := cmp.Diff([]string{"before", "on the way", "elsewhere"}, got); diff != "" {
			c.t.Errorf("applied (-want +got):\n%s", diff)
		}
		if err := next.host.TransferLeader(c.t.Context(), 0, old.id); err != nil {
			c.t.Error(err)
		}
		c.leader(0, old.id).mustPropose(0, "again")
	})
}

// A leader whose disk hangs hands over to one whose disk does not.
func TestF24_StalledDiskOnLeader(t *testing.T) {
	inCluster(t, 3, 3, func(c *cluster) {
		old := c.leader(0, c.all()...)
		release := old.gate.hold(0)
		go old.propose(0, time.Second, "on the way")
		next := c.leader(0, c.others(old.id)...)
		next.mustPropose(0, "elsewhere")
		release()
		got := c.agree(0).Commands
		if diff := cmp.Diff([]string{"on the way", "elsewhere"}, got); diff != "" {
			c.t.Errorf("applied (-want +got):\n%s", diff)
		}
	})
}

func TestTransferAndShutDown(t *testing.T) {
	inCluster(t, 3, 3, func(c *cluster) {
		old := c.leader(0, c.all()...)
		to := c.others(old.id)[0]
		if err := old.host.TransferLeader(c.t.Context(), 0, to); err != nil {
			c.t.Fatal(err)
		}
		advance(c.t, 200*time.Millisecond)
		next := c.node(to)
		if !next.leads(0) {
			c.t.Fatal("nobody took over at once")
		}
		wantKind(c.t, "transfer at a follower", old.host.TransferLeader(c.t.Context(), 0, to), covey.Unavailable)
		wantKind(c.t, "transfer to a stranger", next.host.TransferLeader(c.t.Context(), 0, 77), covey.Invalid)
		began := time.Now()
		next.shutDown() // hands over before it goes
		c.leader(0, c.others(to)...).mustPropose(0, "after")
		if took := time.Since(began); took > 500*time.Millisecond {
			c.t.Errorf("leadership was gone for %v", took)
		}
		next.start()
		c.agree(0)
	})
}
