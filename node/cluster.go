package node

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/directory"
	"github.com/covey-mail/covey/internal/wire"
	"github.com/covey-mail/covey/membership"
	"github.com/covey-mail/covey/node/reconcile"
	"github.com/covey-mail/covey/replica"
)

// tendEvery is how often a node looks whether it is as the directory wants it,
// when nothing tells it to.
const tendEvery = time.Second

// leaders gathers changes of leadership for the goroutine that tells of them: who
// changes them must not wait.
type leaders struct {
	mu   sync.Mutex
	news map[covey.ShardID]replica.Leadership
	here map[covey.ShardID]covey.NodeID // as this node's own groups say
	wake chan struct{}
}

func newLeaders() *leaders {
	return &leaders{
		news: make(map[covey.ShardID]replica.Leadership), here: make(map[covey.ShardID]covey.NodeID), wake: make(chan struct{}, 1),
	}
}

// known reports whether a group of this node knows its leader.
func (l *leaders) known(id covey.ShardID) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.here[id] != 0
}

func (l *leaders) put(news replica.Leadership) {
	l.mu.Lock()
	l.news[news.Group], l.here[news.Group] = news, news.Leader
	l.mu.Unlock()
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

func (l *leaders) take() map[covey.ShardID]replica.Leadership {
	l.mu.Lock()
	defer l.mu.Unlock()
	news := l.news
	l.news = make(map[covey.ShardID]replica.Leadership)
	return news
}

// led is replica.Config.Led.
func (n *Node) led(news replica.Leadership) {
	n.table.Learn(news.Group, news.Term, news.Leader)
	n.leaders.put(news)
}

// tellLeaders passes on who leads: to sessions that must end, to the other nodes,
// and to the reconciler.
func (n *Node) tellLeaders(ctx context.Context) {
	was := make(map[covey.ShardID]bool) // led by this node
	for {
		select {
		case <-ctx.Done():
			return
		case <-n.leaders.wake:
		}
		var gossip []membership.Leader
		for id, l := range n.leaders.take() {
			mine := l.Leader == n.folder.id
			if was[id] && !mine {
				n.fronts.end(id)
			}
			was[id] = mine
			n.leadQueue(l)
			if mine {
				gossip = append(gossip, membership.Leader{Shard: id, Term: l.Term, Node: l.Leader, Quorum: true})
			}
		}
		if g := n.links.gossip.Load(); g != nil && len(gossip) > 0 {
			g.Announce(gossip)
		}
		n.reconciler.Kick()
	}
}

// gossipAddr returns where other nodes reach this one's gossip, empty if that is
// nowhere or not known yet.
func (n *Node) gossipAddr(toward string) string {
	if g := n.links.gossip.Load(); g != nil {
		if me, ok := g.Member(n.folder.id); ok {
			return me.Gossip
		}
	}
	if len(n.cfg.Listen.Gossip) == 0 {
		return ""
	}
	_, port, _ := splitHostPort(n.cfg.Listen.Gossip[0]) // checked with the configuration
	return n.advertised(port, n.cfg.Listen.Gossip, toward)
}

// startGossip begins to gossip, once the directory is here.
func (n *Node) startGossip(context.Context) error {
	if n.links.Net == nil {
		return nil
	}
	id, err := n.folder.cluster()
	if err != nil {
		return err
	}
	info := n.info()
	m := membership.NewMetrics()
	n.metrics.MustRegister(m.Collectors()...)
	cfg := membership.Config{
		Self:    membership.Member{ID: n.folder.id, Peer: info.Peer, Version: info.Version, Zone: info.Zone},
		Cluster: id, Keys: gossipKeys(n.secrets.all()), Bind: n.cfg.Listen.Gossip[0], Advertise: info.Gossip,
		Seeds: n.seeds, Changed: func(membership.Member) { n.kickTend() }, LeaderChanged: n.heardLeader,
		Logger: n.cfg.Logger, Metrics: m,
	}
	if n.sys.Gossip != nil {
		cfg.Transport = n.sys.Gossip(n.folder.id)
	}
	g, err := membership.Start(cfg)
	if err != nil {
		return fmt.Errorf("[listen] %w%s", err, listenHint(err))
	}
	n.links.gossip.Store(g)
	return nil
}

// seeds are the gossip addresses of all members.
func (n *Node) seeds() (addrs []string) {
	for _, m := range n.directory.Nodes() {
		if m.Gossip != "" {
			addrs = append(addrs, m.Gossip)
		}
	}
	return addrs
}

// heardLeader takes in what gossip says of a leader. Of its own groups a node knows
// better, and who is no member of the cluster leads nothing.
func (n *Node) heardLeader(l membership.Leader) {
	if l.Node == n.folder.id || !l.Quorum || n.leaders.known(l.Shard) {
		return
	}
	if m, ok := n.directory.Node(l.Node); ok && m.State != directory.Removed {
		n.table.Hear(l.Shard, l.Term, l.Node)
	}
}

// startCluster begins to take part in the running of the cluster.
func (n *Node) startCluster(context.Context) error {
	ctx, cancel := context.WithCancel(context.Background())
	n.endCluster = cancel
	n.reconciler = reconcile.New(reconcile.Config{
		Self: n.folder.id, Directory: n.directory, Groups: ledGroups{n}, Gossip: gossiped{n}, Logger: n.cfg.Logger,
	})
	n.clusterWork.Go(func() { n.tellLeaders(ctx) })
	n.clusterWork.Go(func() { n.reconciler.Run(ctx) })
	n.clusterWork.Go(func() { n.comparer.Run(ctx) })
	n.directory.Watch(func(directory.Event) { n.kickTend() })
	n.clusterWork.Go(func() { n.tend(ctx) })
	return nil
}

// kickTend asks for a look soon. It does not block.
func (n *Node) kickTend() {
	select {
	case n.tendSoon <- struct{}{}:
	default:
	}
}

// tend keeps this node as the directory wants it, until ctx ends.
func (n *Node) tend(ctx context.Context) {
	w := newWatchers(n)
	defer w.done.Wait() // they end with ctx
	tick := time.NewTicker(tendEvery)
	defer tick.Stop()
	for {
		n.tendOnce(ctx, w)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-n.tendSoon:
		}
	}
}

func (n *Node) tendOnce(ctx context.Context, w *watchers) {
	wanted, _ := n.directory.ShardMap()
	for id, voters := range wanted {
		n.table.SetVoters(id, voters)
	}
	n.introduce(ctx)
	n.raiseLevel(ctx)
	n.stampDisk(ctx)
	n.tendGroups(ctx)
	if n.links.Net == nil {
		return
	}
	n.links.Recheck()
	members := n.directory.Nodes()
	ids := make([]covey.NodeID, len(members))
	for i, m := range members {
		ids[i] = m.ID
	}
	w.watch(ctx, ids)
	n.seekLeaders(ctx)
	if g := n.links.gossip.Load(); g != nil {
		n.relearn(g.Leaders())
		g.SetLoad(n.load())
		w.forgetStrangers(g, ids)
	}
	n.reconciler.Kick()
}

// relearn takes from this node's own groups, and from gossip, who leads: both tell
// what is new, and that may have come when the directory did not have the leader yet,
// or a group here was still believed to know better.
func (n *Node) relearn(heard map[covey.ShardID]membership.Leader) {
	for _, g := range n.host.Status() {
		if g.Leader != 0 {
			n.table.Learn(g.Group, g.Term, g.Leader)
		}
	}
	for _, l := range heard {
		n.heardLeader(l)
	}
}

func (n *Node) load() membership.Load {
	free := n.disk.free.Load()
	var used int64
	for _, s := range n.seglog.Segments() {
		used += s.Size
	}
	return membership.Load{DiskUsed: uint64(max(used, 0)), DiskFree: uint64(max(free, 0)), Connections: n.connections()}
}

// introduce tells the directory what this node says of itself, if it says
// something else than the directory has.
func (n *Node) introduce(ctx context.Context) {
	me, ok := n.directory.Node(n.folder.id)
	info := n.info()
	if !ok || me.State == directory.Removed || me.NodeInfo == info {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	if err := n.directory.UpdateNode(ctx, n.folder.id, info); err != nil && !errors.Is(err, covey.Unavailable) && ctx.Err() == nil {
		n.log.Warn("could not tell the cluster of this node's address", "err", err)
	}
}

// gossiped implements reconcile.Gossip.
type gossiped struct{ n *Node }

// Dead implements reconcile.Gossip. A node that nobody has heard of counts as dead
// since this one started; one whose disk was put back, since it was refused.
func (g gossiped) Dead(id covey.NodeID) (time.Time, bool) {
	if since, refused := g.n.links.refused(id); refused {
		return since, true
	}
	gossip := g.n.links.gossip.Load()
	if gossip == nil {
		return time.Time{}, false
	}
	m, ok := gossip.Member(id)
	if !ok {
		return g.n.started, true
	}
	return m.Since, m.State == membership.Dead || m.State == membership.Left
}

// Leaders implements reconcile.Gossip.
func (g gossiped) Leaders() map[covey.ShardID]covey.NodeID {
	all := make(map[covey.ShardID]covey.NodeID)
	wanted, _ := g.n.directory.ShardMap()
	for id := range wanted {
		if leader, _ := g.n.table.Known(id); leader != 0 {
			all[id] = leader
		}
	}
	return all
}

// askMembers asks the leader of a shard for its members.
func (n *Node) askMembers(ctx context.Context, leader covey.NodeID, id covey.ShardID) ([]covey.NodeID, error) {
	if n.links.Net == nil {
		return nil, covey.Errorf(covey.Unavailable, "this node has no links")
	}
	b, err := n.links.Call(ctx, leader, methodMembers, wire.AppendUint(nil, uint64(id)))
	if err != nil {
		return nil, err
	}
	r := wire.NewReader(b)
	members := make([]covey.NodeID, r.Count(1))
	for i := range members {
		members[i] = covey.NodeID(r.Uint())
	}
	return members, r.End()
}

// serveMembers answers askMembers on the leader, once the voters have confirmed
// that it is: who asks may be about to remove what it has.
func (n *Node) serveMembers(ctx context.Context, _ covey.NodeID, req []byte) ([]byte, error) {
	r := wire.NewReader(req)
	id := covey.ShardID(r.Uint())
	if err := r.End(); err != nil {
		return nil, err
	}
	if err := n.host.ReadIndex(ctx, id); err != nil {
		return nil, err
	}
	for _, s := range n.host.Status() {
		if s.Group != id || s.Leader != n.folder.id || s.Joint {
			continue
		}
		members := slices.Concat(s.Voters, s.Learners)
		b := wire.AppendUint(nil, uint64(len(members)))
		for _, m := range members {
			b = wire.AppendUint(b, uint64(m))
		}
		return b, nil
	}
	return nil, covey.Errorf(covey.Unavailable, "node %s does not lead shard %d, or it is changing", n.folder.id, id)
}

// leave hands over what this node leads and has the others know that it goes, so
// that nobody waits for it.
func (n *Node) leave(ctx context.Context) {
	close(n.leaving)
	if g := n.links.gossip.Load(); g != nil {
		_ = g.Leave(ctx) // they find out by themselves
	}
	n.endPart()
	n.handOver(ctx)
}

// endPart ends the work of startCluster.
func (n *Node) endPart() {
	if n.endCluster != nil {
		n.endCluster()
		n.clusterWork.Wait()
	}
}

// handOver transfers the leadership of every group that has a follower fit for it,
// and waits a moment until that has happened.
func (n *Node) handOver(ctx context.Context) {
	if n.host == nil || n.hostDone == nil {
		return
	}
	const most, again, giveUp = 4 * time.Second, 20 * time.Millisecond, 1200 * time.Millisecond
	ctx, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	type request struct {
		at time.Time // of the latest
		n  int       // how many
	}
	asked := make(map[covey.ShardID]request)
	for {
		left := 0
		for _, g := range (ledGroups{n}).Groups() {
			heirs := slices.DeleteFunc(slices.Clone(g.Voters), func(id covey.NodeID) bool { return id == n.folder.id || !g.CaughtUp[id] })
			if len(heirs) == 0 {
				continue
			}
			left++
			a := asked[g.ID]
			if time.Since(a.at) < giveUp { // the heir has as long to take over
				continue
			}
			if heir := heirs[(int(g.ID)+a.n)%len(heirs)]; n.host.TransferLeader(ctx, g.ID, heir) == nil {
				asked[g.ID] = request{time.Now(), a.n + 1}
			}
		}
		if left == 0 {
			break
		}
		select {
		case <-ctx.Done():
			n.log.Warn("some shards were not handed over", "shards", left)
			return
		case <-n.hostDone:
			return
		case <-time.After(again):
		}
	}
	if len(asked) > 0 {
		n.log.Info("handed over", "shards", slices.Sorted(maps.Keys(asked)))
	}
}
