// Package node assembles one node of Covey: it opens the data folder, starts the
// engine, the services and the front ends in an order that is written down in
// Start, and stops them in one that is written down in Stop.
//
// Two nodes can run in one process; nothing here is global. Configuration comes
// in as a Config; reading files and the environment is cmd's affair.
package node

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/delivery"
	"github.com/covey-mail/covey/directory"
	"github.com/covey-mail/covey/internal/durable"
	"github.com/covey-mail/covey/internal/serve"
	"github.com/covey-mail/covey/logon"
	"github.com/covey-mail/covey/mailbox"
	"github.com/covey-mail/covey/membership"
	"github.com/covey-mail/covey/node/compare"
	"github.com/covey-mail/covey/node/quota"
	"github.com/covey-mail/covey/node/reconcile"
	"github.com/covey-mail/covey/node/route"
	"github.com/covey-mail/covey/replica"
	"github.com/covey-mail/covey/storage"
	"github.com/covey-mail/covey/storage/seglog"
)

// A Node is a running node. Its methods may be called concurrently.
type Node struct {
	cfg         Config
	sys         System
	log         *slog.Logger
	started     time.Time
	folder      *folder
	disk        *disk
	seglog      *seglog.Log
	host        *replica.Host
	metrics     *prometheus.Registry
	connMetrics *serve.Metrics
	conns       int // most connections of each listener

	states         *states
	table          *route.Table
	shards         *route.Shards
	directory      *directory.Service
	directoryState *directory.State
	logon          *logon.Service
	mailboxes      *mailbox.Service
	scrubber       *storage.Scrubber // of the bodies in seglog
	delivery       *delivery.Service
	queue          atomic.Pointer[delivery.Queue] // nil until startServices
	quota          *quota.Board
	guesses        *guesses

	links      *links
	pings      pings
	secrets    secrets
	tending    sync.Mutex // held while groups come and go
	leaders    *leaders
	reconciler *reconcile.Reconciler
	comparer   *compare.Comparer
	tendSoon   chan struct{}
	stamped    time.Time // of stampDisk: when the disk got its stamp, or was to
	stampTold  bool      // so too: it was said that the cluster knows one of this start
	putBack    bool      // so too: it was said that the disk was put back

	certs       *certs
	fronts      fronts
	ready       atomic.Bool // Start is over and Stop has not begun
	background  sync.WaitGroup
	endWork     context.CancelFunc // ends what runs in background beside the host
	endCluster  context.CancelFunc // ends clusterWork
	leaving     chan struct{}      // closed when the node begins to stop
	clusterWork sync.WaitGroup
	endHost     context.CancelFunc
	hostDone    chan struct{} // closed when the host has stopped
	hostErr     error         // why; read after hostDone
	stop        sync.Once
	stopErr     error
}

// Timeouts of starting and stopping.
const (
	electTimeout = 30 * time.Second // without progress towards a leader of every group
	drainTimeout = 15 * time.Second // for transactions under way to finish
)

// Start starts a node and returns when it serves. ctx bounds the start only.
//
// The order, with the reason for each step:
//
//  1. the folder is locked and says who we are, before anything can write to it;
//  2. the reserve is taken, or given up on a full disk, so that the rest has room;
//  3. the start is counted, so that delivery ids never repeat;
//  4. the peer port answers, so that nodes that wait for each other can find out;
//  5. a new node makes a cluster or joins one: all that follows belongs to one;
//  6. the log is opened: it is the authority on what happened;
//  7. the states are opened and replay what the log has above them;
//  8. groups of which this node is the quorum elect it, and the directory comes:
//     nothing can be acknowledged before;
//  9. gossip, for which the directory has the addresses;
//  10. services, which propose to the groups;
//  11. the admin socket, so that an operator can look at a node that waits;
//  12. the front ends, because a listener that answers promises service;
//  13. the part in the cluster, which ends sessions of the front ends.
func Start(ctx context.Context, cfg Config) (*Node, error) {
	return StartOn(ctx, cfg, System{})
}

// A System is what a node stands on. The zero value is the machine that it runs on.
type System struct {
	FS   durable.FS                              // of the data folder; nil: the real one
	VFS  string                                  // SQLite's name for FS, for the databases; empty: the operating system's
	Free func(dir string) (bytes int64, _ error) // how much room there is; nil: durable.Free

	// Dial makes connections to the peer ports of other nodes, and Gossip carries
	// the gossip of the node with that id. nil: the network.
	Dial   func(ctx context.Context, addr string) (net.Conn, error)
	Gossip func(covey.NodeID) membership.Transport

	// Level is what the node says that its program understands, for upgrades to be
	// tried; 0: directory.Level.
	Level uint32
}

// StartOn is Start on another system.
func StartOn(ctx context.Context, cfg Config, sys System) (*Node, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	if sys.FS == nil {
		sys.FS = durable.OS()
	}
	if sys.Free == nil {
		sys.Free = durable.Free
	}
	if sys.Level == 0 {
		sys.Level = directory.Level
	}
	n := &Node{
		cfg: cfg, sys: sys, log: cfg.Logger.With("component", "node"), started: time.Now(), metrics: prometheus.NewRegistry(), connMetrics: serve.NewMetrics(),
		states: newStates(), table: route.NewTable(), leaders: newLeaders(), links: new(links),
		tendSoon: make(chan struct{}, 1), leaving: make(chan struct{}),
	}
	n.metrics.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	for _, step := range []func(context.Context) error{
		n.openFolder, n.openLinks, n.belong, n.openEngine, n.runEngine, n.elect, n.found, n.startGossip,
		n.startServices, n.startAdmin, n.startFronts, n.startCluster,
	} {
		if err := step(ctx); err != nil {
			return nil, errors.Join(err, n.Stop())
		}
	}
	n.ready.Store(true)
	n.log.Info("ready", "version", cfg.Version, "took", time.Since(n.started).Round(time.Millisecond))
	return n, nil
}

func (n *Node) openFolder(context.Context) (err error) {
	if n.folder, err = openFolder(n.sys.FS, n.cfg.Node.Data); err != nil {
		return err
	}
	n.log = n.log.With("node", n.folder.id.String())
	n.cfg.Logger = n.cfg.Logger.With("node", n.folder.id.String())
	if n.disk, err = openDisk(n.folder, n.sys.Free, n.cfg.Limits.DiskReserve, n.cfg.Logger); err != nil {
		return err
	}
	if err = n.folder.countBoot(); err != nil {
		return err
	}
	n.certs, err = openCerts(n.folder, n.cfg, n.log)
	return err
}

// openEngine opens the log and the states and brings them together. What it
// opened is closed by runEngine's host, or here if that is not reached.
func (n *Node) openEngine(context.Context) (err error) {
	n.seglog, err = seglog.Open(seglog.Config{Dir: n.folder.path("log"), FS: n.sys.FS, SegmentSize: n.cfg.Limits.SegmentSize, Keep: n.cfg.Limits.LogKeep, Logger: n.cfg.Logger})
	if err != nil {
		return fmt.Errorf("%w%s", err, hint(err))
	}
	m := replica.NewMetrics()
	n.metrics.MustRegister(m.Collectors()...)
	cfg := replica.Config{
		Node: n.folder.id, Log: n.seglog, Logger: n.cfg.Logger, Metrics: m, Led: n.led,
		Unknown:         func(covey.ShardID, covey.NodeID) { n.kickTend() },
		Forward:         []covey.ShardID{covey.DirectoryShard}, // a change of the directory may begin on any node
		CheckpointEvery: time.Duration(n.cfg.Limits.CheckpointEvery),
	}
	if n.links.Net != nil {
		cfg.Transport = raftLinks{n.links.Net}
	}
	if n.host, err = replica.New(cfg); err != nil {
		return err
	}
	n.makeComparer()
	if err := n.openDirectory(); err != nil {
		return err
	}
	if err := n.openShards(); err != nil {
		return err
	}
	n.answerPeers()
	return nil
}

func (n *Node) openDirectory() error {
	st, err := directory.OpenState(directory.Config{Path: n.folder.path("directory.db"), FS: n.sys.FS, VFS: n.sys.VFS})
	if err != nil {
		return fmt.Errorf("%w%s", err, hint(err))
	}
	n.directoryState = st
	if err := n.add(covey.DirectoryShard, st, n.founders()); err != nil {
		return err
	}
	n.directory, err = directory.New(directory.ServiceConfig{State: st, Proposer: patient{n.host, n.table.Leader}, Logger: n.cfg.Logger})
	if err == nil {
		n.links.directory.Store(n.directory)
	}
	return err
}

func (n *Node) openShards() error {
	if err := n.folder.fs.MkdirAll(n.folder.path("shards"), 0o700); err != nil {
		return fmt.Errorf("make folder for shards: %w", err)
	}
	cfg := route.Config{Self: n.folder.id, Table: n.table, Groups: n.host, Local: n.states.reader}
	if n.links.Net != nil {
		cfg.Call = func(ctx context.Context, to covey.NodeID, request ...[]byte) ([]byte, error) {
			return n.links.Call(ctx, to, methodPropose, request...)
		}
	}
	n.shards = route.NewShards(cfg)
	n.quota = n.newQuota()
	if err := n.makeScrubber(); err != nil {
		return err
	}
	// Before the states, which call it as soon as commands are applied.
	n.mailboxes = mailbox.New(mailbox.Config{
		Shards: n.shards, Bodies: n.seglog, Repair: n.scrubber.Repair, Room: n.disk.room, Logger: n.cfg.Logger,
		Uploads: mailbox.NewSequence(n.folder.id, n.folder.self.Boot),
	})
	return n.openGroups()
}

// answerPeers begins to answer other nodes, now that there is an engine.
func (n *Node) answerPeers() {
	if n.links.Net == nil {
		return
	}
	n.links.HandlePost(kindRaft, n.receive)
	n.links.Handle(methodPing, n.servePing)
	n.links.Handle(methodWatch, n.serveWatch)
	n.links.Handle(methodPropose, n.shards.Serve)
	n.links.Handle(methodMembers, n.serveMembers)
	n.links.Handle(methodShards, n.serveShards)
	n.links.Handle(methodLeaders, n.serveLeaders)
	n.links.Handle(methodQueue, n.serveQueue)
	n.links.Handle(methodHash, n.serveHash)
	n.links.Handle(methodFetch, n.serveFetch)
	n.links.Handle(methodQuota, n.quota.Serve)
	n.links.Handle(methodAccounts, n.serveAccounts)
	n.links.Handle(methodSecrets, n.serveSecrets)
	n.links.Handle(methodFound, n.serveFound)
	n.links.Handle(methodPart, n.servePart)
}

func (n *Node) shardConfig(id covey.ShardID) storage.Config {
	return storage.Config{
		Shard: id, Path: n.folder.shardPath(id), FS: n.sys.FS, VFS: n.sys.VFS, Log: n.seglog, Logger: n.cfg.Logger,
		Changed: func(account covey.AccountID, box covey.MailboxID) {
			n.mailboxes.Changed(id, box)
			n.quota.Touch(id, account)
		},
	}
}

// add brings a state machine to the host, which owns it from then on.
func (n *Node) add(id covey.ShardID, sm replica.StateMachine, voters []covey.NodeID) error {
	err := n.host.Add(id, sm, voters)
	if err != nil {
		return errors.Join(fmt.Errorf("%w%s", err, hint(err)), sm.Close())
	}
	return nil
}

// hint says what to do about damage.
func hint(err error) string {
	if errors.Is(err, covey.Corrupt) {
		return ": keep the folder as it is, run covey check on it, and see docs/operating.md, «A check found damage»"
	}
	return ""
}

// runEngine starts the host.
func (n *Node) runEngine(context.Context) error {
	ctx, cancel := context.WithCancel(context.Background())
	n.endHost, n.hostDone = cancel, make(chan struct{})
	go func() { // stopEngine waits for it
		defer close(n.hostDone)
		n.hostErr = n.host.Run(ctx)
	}()
	return nil
}

// elect waits until this node leads every group of which it is the only voter, and
// has applied what was committed there, and until there is a directory. Groups
// that need others get a moment too, so that who restarts one node after the other
// does not stop the next before this one counts again; they may also get a leader
// later, and their users are told to come back until then.
func (n *Node) elect(ctx context.Context) error {
	for _, g := range n.host.Status() {
		if len(g.Voters) == 1 && g.Voters[0] == n.folder.id {
			if err := n.awaitLeader(ctx, g.Group); err != nil {
				return err
			}
		}
	}
	if n.folder.self.Founding {
		return nil
	}
	if err := n.awaitDirectory(ctx); err != nil {
		return err
	}
	return n.awaitPart(ctx)
}

// partTime bounds how long a start waits for groups that need other nodes.
const partTime = 5 * time.Second

// awaitPart waits until each group of this node knows who leads it and has applied
// what was committed when it learned that, for at most partTime.
func (n *Node) awaitPart(ctx context.Context) error {
	const again = 20 * time.Millisecond
	target := make(map[covey.ShardID]uint64)
	for end := time.Now().Add(partTime); time.Now().Before(end); {
		left := 0
		for _, g := range n.host.Status() {
			if g.Leader != 0 && target[g.Group] == 0 {
				target[g.Group] = max(g.Committed, 1)
			}
			if g.Fault == nil && (g.Leader == 0 || g.Applied < target[g.Group]) {
				left++
			}
		}
		if left == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for the leaders of %d shards: %w", left, ctx.Err())
		case <-n.hostDone:
			return errors.New("the engine stopped during the start") // Stop adds why
		case <-time.After(again):
		}
	}
	n.log.Warn("some shards have no leader yet: too few of their nodes are there")
	return nil
}

// awaitDirectory waits for the first copy of the directory of a node that has
// joined.
func (n *Node) awaitDirectory(ctx context.Context) error {
	said := time.Now()
	for again := false; ; again = true {
		if _, shards := n.directory.Cluster(); shards > 0 {
			return nil
		}
		if again && n.links.Net != nil {
			n.rejoin(ctx)
		}
		if time.Since(said) >= sayEvery {
			said = time.Now()
			n.log.Info("waiting for the directory: a majority of the cluster's nodes must be there")
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for the directory: %w", ctx.Err())
		case <-n.hostDone:
			return errors.New("the engine stopped during the start") // Stop adds why
		case <-time.After(askEvery):
		}
	}
}

// awaitLeader waits for one group. After a crash there may be much to apply
// first: the wait ends when nothing moves, not at a time.
func (n *Node) awaitLeader(ctx context.Context, id covey.ShardID) error {
	const each, again = time.Second, 5 * time.Millisecond
	applied, moved := n.applied(), time.Now()
	for {
		try, cancel := context.WithTimeout(ctx, each)
		err := n.host.ReadIndex(try, id)
		cancel()
		if err == nil {
			return nil
		}
		for _, g := range n.host.Status() {
			if g.Group == id && g.Fault != nil { // it will never have one
				return fmt.Errorf("%w%s", g.Fault, hint(g.Fault))
			}
		}
		if now := n.applied(); now != applied {
			applied, moved = now, time.Now()
		} else if time.Since(moved) > electTimeout {
			return fmt.Errorf("shard %d has no leader for %v: %w", id, electTimeout, err)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for a leader of shard %d: %w", id, ctx.Err())
		case <-n.hostDone:
			return errors.New("the engine stopped during the start") // Stop adds why
		case <-time.After(again):
		}
	}
}

// applied is how far all groups together have come.
func (n *Node) applied() (sum uint64) {
	for _, g := range n.host.Status() {
		sum += g.Applied
	}
	return sum
}

// found makes the cluster in a new directory, and checks that an old one is ours.
func (n *Node) found(ctx context.Context) error {
	want, err := n.folder.cluster()
	if err != nil {
		return err
	}
	first := directory.AddNode{ID: n.folder.id, Key: n.links.key.Public().(ed25519.PublicKey), NodeInfo: n.info()}
	id, shards := n.directory.Cluster()
	if shards == 0 {
		if err := n.directory.Found(ctx, directory.Found{Cluster: want, Shards: uint32(n.folder.self.Shards), First: &first}); err != nil {
			return err
		}
		id, shards = n.directory.Cluster()
	}
	if id != want || int(shards) != n.folder.self.Shards {
		return covey.Errorf(covey.Corrupt, "the directory belongs to another cluster than %s says: a file of another node was copied here", n.folder.path("node.toml"))
	}
	if err := n.enlist(ctx, first); err != nil {
		return err
	}
	if n.cfg.Cluster.Shards != n.folder.self.Shards {
		n.log.Warn("the number of shards is fixed when the cluster is made", "configured", n.cfg.Cluster.Shards, "shards", n.folder.self.Shards)
		n.cfg.Cluster.Shards = n.folder.self.Shards
	}
	if err := n.setSettings(ctx); err != nil {
		return err
	}
	return n.folder.founded()
}

// enlist makes this node the first in the list of a cluster from before there was
// one.
func (n *Node) enlist(ctx context.Context, first directory.AddNode) error {
	if _, epoch := n.directory.ShardMap(); epoch > 0 {
		return nil
	}
	if err := n.directory.AddNode(ctx, first.ID, first.Key, first.NodeInfo); err != nil {
		return err
	}
	all := make(map[covey.ShardID][]covey.NodeID)
	for id := covey.ShardID(0); id <= covey.ShardID(n.folder.self.Shards); id++ {
		all[id] = []covey.NodeID{n.folder.id}
	}
	_, err := n.directory.SetShardMap(ctx, 0, all)
	return err
}

// setSettings makes the cluster's settings what this node's configuration says, as
// long as it is the only node: among several the last to start would win.
func (n *Node) setSettings(ctx context.Context) error {
	is := n.directory.Settings()
	rebuild := time.Duration(n.cfg.Cluster.RebuildAfter)
	if is.Quota == n.cfg.Limits.Quota && is.Replicas == n.cfg.Cluster.Replicas && is.RebuildAfter == rebuild {
		return nil
	}
	if len(n.directory.Nodes()) > 1 {
		n.log.Warn("settings of the whole cluster differ from this node's configuration and stay: change them with `covey cluster set`",
			"quota", is.Quota, "replicas", is.Replicas, "rebuild_after", is.RebuildAfter)
		return nil
	}
	err := n.directory.SetSettings(ctx, directory.SetSettings{
		Quota: &n.cfg.Limits.Quota, Replicas: &n.cfg.Cluster.Replicas, RebuildAfter: &rebuild,
	})
	if errors.Is(err, covey.DiskFull) { // the node must start, so that mail can be deleted
		n.log.Warn("[limits] quota and [cluster] take effect at the next start that finds room on the disk", "err", err)
		return nil
	}
	return err
}

func (n *Node) startServices(context.Context) (err error) {
	n.delivery = delivery.New(delivery.Config{
		Directory: n.directory, Mailboxes: n.mailboxes, Shards: n.shards, Room: n.disk.room, Reachable: n.shards.Reachable, Used: n.quota.Used,
		Queue: func() bool { return n.directory.Level() >= directory.LevelQueues },
		Ask:   n.askApart,
	})
	if n.links.Net != nil {
		n.links.Handle(methodApart, n.serveApart)
	}
	n.makeQueue()
	if err := n.startLogon(); err != nil {
		return err
	}
	n.metrics.MustRegister(n.directory.Metrics().Collectors()...)
	n.metrics.MustRegister(n.logon.Metrics().Collectors()...)
	ctx, cancel := context.WithCancel(context.Background())
	n.endWork = cancel
	n.background.Go(func() { n.disk.watch(ctx) })
	n.background.Go(func() { n.confirm(ctx) })
	n.background.Go(func() { n.dropRemoved(ctx) })
	n.background.Go(func() { n.runQueue(ctx) })
	if n.links.Net != nil {
		n.background.Go(func() { n.quota.Run(ctx) })
		n.background.Go(func() { n.watchSecrets(ctx) })
		n.background.Go(func() { n.tellGuesses(ctx) })
	}
	n.background.Go(func() { n.scrubber.Run(ctx) })
	return n.startCompactor(ctx)
}

// Listening returns the addresses of the listeners, in the order of [listen].
func (n *Node) Listening() []Listening {
	n.fronts.mu.Lock()
	defer n.fronts.mu.Unlock()
	return slices.Clone(n.fronts.listening)
}

// Failed is closed when the engine has stopped by itself: the node cannot go on
// and must be stopped. Stop returns the reason.
func (n *Node) Failed() <-chan struct{} { return n.hostDone }

// Stop stops the node and returns why it failed, if it did. It may be called
// more than once and waits for the first call.
//
// The order, with the reason for each step:
//
//  1. not ready: a load balancer looks elsewhere;
//  2. what this node leads is handed to others, and they hear that it goes, so
//     that nobody waits for it;
//  3. the front ends finish what is under way and take nothing new: everything
//     below still works for them;
//  4. background work, which proposes to the groups too;
//  5. the admin socket, after the front ends, so that status answers while they
//     finish, and before the states are closed under a check;
//  6. the host: it answers what waits, checkpoints the states and closes them;
//  7. gossip and links, which the host needed;
//  8. the log, which the states' last checkpoint needed;
//  9. the lock, when nothing writes any more.
func (n *Node) Stop() error {
	n.stop.Do(func() {
		n.ready.Store(false)
		n.log.Info("stopping")
		ctx, cancel := context.WithTimeout(context.Background(), drainTimeout)
		defer cancel()
		n.leave(ctx)
		n.stopErr = n.end(ctx)
		n.log.Info("stopped", "err", n.stopErr)
	})
	return n.stopErr
}

// Kill ends the node as a crash of it looks to others: links and sessions break
// where they are, nothing is handed over and nobody is told. It returns when
// nothing of the node runs any more, and does nothing after Stop.
func (n *Node) Kill() {
	n.stop.Do(func() {
		n.ready.Store(false)
		n.links.close()
		n.endPart()
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		n.stopErr = n.end(ctx)
		n.log.Info("killed", "err", n.stopErr)
	})
}

// end stops what has no part in the cluster; the front ends have until ctx ends.
func (n *Node) end(ctx context.Context) error {
	errs := []error{n.fronts.shutdown(ctx)}
	if n.endWork != nil {
		n.endWork()
	}
	n.background.Wait()
	if n.fronts.admin != nil {
		errs = append(errs, n.fronts.admin.stop())
	}
	errs = append(errs, n.stopEngine())
	if n.folder != nil {
		errs = append(errs, n.folder.Close())
	}
	return errors.Join(errs...)
}

// stopEngine stops the host, which closes the states, and closes the log.
func (n *Node) stopEngine() error {
	var errs []error
	switch {
	case n.endHost != nil:
		n.endHost()
		<-n.hostDone
		errs = append(errs, n.hostErr)
	case n.host != nil:
		// Start ended before the host ran. Run closes the states in any case.
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		errs = append(errs, n.host.Run(ctx))
	}
	if g := n.links.gossip.Load(); g != nil {
		errs = append(errs, g.Close())
	}
	n.links.close()
	if n.seglog != nil {
		errs = append(errs, n.seglog.Close())
	}
	return errors.Join(errs...)
}
