// Package node assembles one node of Covey: it opens the data folder, starts the
// engine, the services and the front ends in an order that is written down in
// Start, and stops them in one that is written down in Stop.
//
// Two nodes can run in one process; nothing here is global. Configuration comes
// in as a Config; reading files and the environment is cmd's affair.
package node

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
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
	"github.com/covey-mail/covey/node/route"
	"github.com/covey-mail/covey/replica"
	"github.com/covey-mail/covey/storage"
	"github.com/covey-mail/covey/storage/seglog"
)

// A Node is a running node. Its methods may be called concurrently.
type Node struct {
	cfg         Config
	sys         system
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
	delivery       *delivery.Service

	certs      *certs
	fronts     fronts
	ready      atomic.Bool // Start is over and Stop has not begun
	background sync.WaitGroup
	endWork    context.CancelFunc // ends what runs in background beside the host
	endHost    context.CancelFunc
	hostDone   chan struct{} // closed when the host has stopped
	hostErr    error         // why; read after hostDone
	stop       sync.Once
	stopErr    error
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
//  4. the log is opened: it is the authority on what happened;
//  5. the states are opened and replay what the log has above them;
//  6. the groups elect leaders: nothing can be acknowledged before;
//  7. services, which propose to the groups;
//  8. the admin socket, so that an operator can look at a node that waits;
//  9. the front ends, last, because a listener that answers promises service.
func Start(ctx context.Context, cfg Config) (*Node, error) {
	return start(ctx, cfg, system{fs: durable.OS(), free: durable.Free})
}

// system is what a node stands on: the file system of the log and of the small
// files, and how much room there is.
type system struct {
	fs   durable.FS
	free func(dir string) (int64, error)
}

func start(ctx context.Context, cfg Config, sys system) (*Node, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	n := &Node{
		cfg: cfg, sys: sys, log: cfg.Logger.With("component", "node"), started: time.Now(), metrics: prometheus.NewRegistry(),
	}
	n.metrics.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	for _, step := range []func(context.Context) error{
		n.openFolder, n.openEngine, n.runEngine, n.elect, n.found, n.startServices, n.startAdmin, n.startFronts,
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
	if n.folder, err = openFolder(n.sys.fs, n.cfg.Node.Data, n.cfg.Cluster.Shards); err != nil {
		return err
	}
	n.log = n.log.With("node", n.folder.id.String())
	n.cfg.Logger = n.cfg.Logger.With("node", n.folder.id.String())
	if n.disk, err = openDisk(n.folder, n.sys.free, n.cfg.Limits.DiskReserve, n.cfg.Logger); err != nil {
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
	const alone = -1 // no other node will ask for old entries
	n.seglog, err = seglog.Open(seglog.Config{Dir: n.folder.path("log"), FS: n.sys.fs, SegmentSize: n.cfg.Limits.SegmentSize, Keep: alone, Logger: n.cfg.Logger})
	if err != nil {
		return fmt.Errorf("%w%s", err, hint(err))
	}
	m := replica.NewMetrics()
	n.metrics.MustRegister(m.Collectors()...)
	n.host, err = replica.New(replica.Config{
		Node: n.folder.id, Log: n.seglog, Logger: n.cfg.Logger, Metrics: m,
		CheckpointEvery: time.Duration(n.cfg.Limits.CheckpointEvery),
	})
	if err != nil {
		return err
	}
	st, err := directory.OpenState(directory.Config{Path: n.folder.path("directory.db")})
	if err != nil {
		return fmt.Errorf("%w%s", err, hint(err))
	}
	n.directoryState = st
	if err := n.add(covey.DirectoryShard, st); err != nil {
		return err
	}
	if n.directory, err = directory.New(directory.ServiceConfig{State: st, Proposer: n.host, Logger: n.cfg.Logger}); err != nil {
		return err
	}
	return n.openShards()
}

func (n *Node) openShards() error {
	if err := n.folder.fs.MkdirAll(n.folder.path("shards"), 0o700); err != nil {
		return fmt.Errorf("make folder for shards: %w", err)
	}
	n.states, n.table = newStates(), route.NewTable()
	n.shards = route.NewShards(route.Config{Self: n.folder.id, Table: n.table, Groups: n.host, Local: n.states.reader})
	// Before the states, which call it as soon as commands are applied.
	n.mailboxes = mailbox.New(mailbox.Config{
		Shards: n.shards, Bodies: n.seglog, Room: n.disk.room, Logger: n.cfg.Logger,
		Uploads: mailbox.NewSequence(n.folder.id, n.folder.self.Boot),
	})
	for id := covey.ShardID(1); id <= covey.ShardID(n.folder.self.Shards); id++ {
		st, err := storage.Open(n.shardConfig(id))
		if err != nil {
			return fmt.Errorf("%w%s", err, hint(err))
		}
		if err := n.add(id, st); err != nil {
			return err
		}
		n.states.add(id, st)
	}
	return nil
}

func (n *Node) shardConfig(id covey.ShardID) storage.Config {
	return storage.Config{
		Shard: id, Path: n.folder.shardPath(id), Logger: n.cfg.Logger,
		Changed: func(_ covey.AccountID, box covey.MailboxID) { n.mailboxes.Changed(id, box) },
	}
}

// add brings a state machine to the host, which owns it from then on.
func (n *Node) add(id covey.ShardID, sm replica.StateMachine) error {
	err := n.host.Add(id, sm, []covey.NodeID{n.folder.id})
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

// elect waits until every group has a leader and has applied what was committed.
func (n *Node) elect(ctx context.Context) error {
	for id := covey.ShardID(0); id <= covey.ShardID(n.folder.self.Shards); id++ {
		if err := n.awaitLeader(ctx, id); err != nil {
			return err
		}
	}
	n.learnLeaders()
	return nil
}

// learnLeaders tells the routes what this node's groups know.
func (n *Node) learnLeaders() {
	for _, g := range n.host.Status() {
		n.table.Learn(g.Group, g.Term, g.Leader)
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
	id, shards := n.directory.Cluster()
	var want covey.ClusterID
	if _, err := hex.Decode(want[:], []byte(n.folder.self.Cluster)); err != nil {
		return covey.Errorf(covey.Corrupt, "%s: cluster id %q", n.folder.path("node.toml"), n.folder.self.Cluster)
	}
	if shards == 0 {
		if err := n.directory.Found(ctx, directory.Found{Cluster: want, Shards: uint32(n.folder.self.Shards)}); err != nil {
			return err
		}
		return n.setQuota(ctx)
	}
	if id != want || int(shards) != n.folder.self.Shards {
		return covey.Errorf(covey.Corrupt, "the directory belongs to another cluster than %s says: a file of another node was copied here", n.folder.path("node.toml"))
	}
	if n.cfg.Cluster.Shards != n.folder.self.Shards {
		n.log.Warn("the number of shards is fixed when the data folder is made", "configured", n.cfg.Cluster.Shards, "shards", n.folder.self.Shards)
		n.cfg.Cluster.Shards = n.folder.self.Shards
	}
	return n.setQuota(ctx)
}

// setQuota makes [limits] quota what new accounts get.
func (n *Node) setQuota(ctx context.Context) error {
	if n.directory.Settings().Quota == n.cfg.Limits.Quota {
		return nil
	}
	err := n.directory.SetSettings(ctx, directory.SetSettings{Quota: &n.cfg.Limits.Quota})
	if errors.Is(err, covey.DiskFull) { // the node must start, so that mail can be deleted
		n.log.Warn("[limits] quota takes effect at the next start that finds room on the disk", "err", err)
		return nil
	}
	return err
}

func (n *Node) startServices(context.Context) (err error) {
	n.delivery = delivery.New(delivery.Config{
		Directory: n.directory, Mailboxes: n.mailboxes, Shards: n.shards, Room: n.disk.room,
	})
	if n.logon, err = logon.New(logon.Config{Directory: n.directory, Logger: n.cfg.Logger}); err != nil {
		return err
	}
	n.metrics.MustRegister(n.directory.Metrics().Collectors()...)
	n.metrics.MustRegister(n.logon.Metrics().Collectors()...)
	ctx, cancel := context.WithCancel(context.Background())
	n.endWork = cancel
	n.background.Go(func() { n.disk.watch(ctx) })
	n.background.Go(func() { n.confirm(ctx) })
	n.background.Go(func() { n.dropRemoved(ctx) })
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
//  2. the front ends finish what is under way and take nothing new: everything
//     below still works for them;
//  3. background work, which proposes to the groups too;
//  4. the admin socket, after the front ends, so that status answers while they
//     finish, and before the states are closed under a check;
//  5. the host: it answers what waits, checkpoints the states and closes them;
//  6. the log, which the states' last checkpoint needed;
//  7. the lock, when nothing writes any more.
func (n *Node) Stop() error {
	n.stop.Do(func() {
		n.ready.Store(false)
		n.log.Info("stopping")
		ctx, cancel := context.WithTimeout(context.Background(), drainTimeout)
		defer cancel()
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
		n.stopErr = errors.Join(errs...)
		n.log.Info("stopped", "err", n.stopErr)
	})
	return n.stopErr
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
	if n.seglog != nil {
		errs = append(errs, n.seglog.Close())
	}
	return errors.Join(errs...)
}
