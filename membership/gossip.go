package membership

import (
	"cmp"
	"context"
	"log"
	"maps"
	"net"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/covey-mail/covey"
)

// A Gossip is this node's part in the gossip of its cluster. Its methods may be
// called from several goroutines.
type Gossip struct {
	cfg     Config
	list    *memberlist.Memberlist
	eyes    *observer // used by run alone
	keys    *memberlist.Keyring
	leaders *leaders
	log     *logbook

	wake    chan struct{} // a token lies here when run has something to look at
	stop    context.CancelFunc
	running sync.WaitGroup // run
	joining sync.WaitGroup // joinMissing

	ends   sync.Mutex // held by Leave and Close; taken before mu
	closed bool       // guarded by ends

	mu       sync.Mutex // guards the following; never held over a call of memberlist
	self     Member     // as others are told
	stale    bool       // the load in self is newer than what others were told
	left     bool
	members  map[covey.NodeID]Member
	admitted map[covey.NodeID]bool // members and those about to be seen
}

// Start opens the sockets and begins to gossip. It does not wait for anybody to
// be reached.
func Start(cfg Config) (*Gossip, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	g := &Gossip{
		cfg: cfg, keys: &memberlist.Keyring{}, log: newLogbook(cfg.Logger, cfg.Metrics),
		wake: make(chan struct{}, 1), self: cfg.Self,
		members: map[covey.NodeID]Member{}, admitted: map[covey.NodeID]bool{},
	}
	g.leaders = newLeaders(g.living)
	if err := install(g.keys, cfg.Keys); err != nil {
		return nil, err
	}
	t, err := g.transport()
	if err != nil {
		return nil, err
	}
	if err := g.open(t); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	g.stop = cancel
	g.running.Go(func() { g.run(ctx) })
	g.joining.Go(func() { g.joinMissing(ctx) })
	return g, nil
}

func (g *Gossip) transport() (Transport, error) {
	if g.cfg.Transport != nil {
		return g.cfg.Transport, nil
	}
	n, err := listen(g.cfg.Bind, g.cfg.Advertise, newFrame(g.cfg.label()), g.log.refuseFrom)
	if err != nil {
		return nil, err
	}
	n.start()
	return n, nil
}

// open makes memberlist and the observer over t, and this node the first member.
func (g *Gossip) open(t Transport) error {
	fail := func(err error) error { return covey.Errorf(covey.Unavailable, "start gossip: %w", err) }
	ip, port, err := t.FinalAdvertiseAddr("", 0)
	if err != nil {
		t.Shutdown()
		return fail(err)
	}
	g.self.Gossip = net.JoinHostPort(ip.String(), strconv.Itoa(port))
	g.self.State, g.self.Since = Alive, time.Now()
	g.members[g.self.ID] = g.self
	g.admitted[g.self.ID] = true

	m := g.cfg.memberlist(g.keys)
	m.Transport = t
	m.Delegate, m.Events, m.Alive = delegate{g}, delegate{g}, delegate{g}
	m.Logger = log.New(g.log, "", 0)
	if g.list, err = memberlist.Create(m); err != nil {
		t.Shutdown()
		return fail(err)
	}
	if g.eyes, err = newObserver(&g.cfg, g.keys, t); err != nil {
		_ = g.list.Shutdown()
		return fail(err)
	}
	return nil
}

// poke has run look at things.
func (g *Gossip) poke() {
	select {
	case g.wake <- struct{}{}:
	default:
	}
}

func (g *Gossip) run(ctx context.Context) {
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	var told time.Time // when others were last told the load
	for {
		select {
		case <-ctx.Done():
			return
		case <-g.wake:
		case <-look.C:
		}
		for _, m := range g.look() {
			g.cfg.Metrics.changes.WithLabelValues(m.State.String()).Inc()
			g.cfg.Logger.Info("member", "member", m.ID, "state", m.State, "gossip", m.Gossip, "version", m.Version)
			g.cfg.Changed(m)
		}
		for _, l := range g.leaders.news() {
			g.cfg.LeaderChanged(l)
		}
		g.cfg.Metrics.health.Set(float64(g.list.GetHealthScore()))
		if time.Since(told) >= loadEvery && g.tellLoad() {
			told = time.Now()
		}
	}
}

// look brings the members up to date and returns those that others would want to
// know of, by id.
func (g *Gossip) look() []Member {
	nodes := g.eyes.look()
	if nodes == nil {
		return nil
	}
	now := time.Now()
	var changed []Member
	g.mu.Lock()
	defer g.mu.Unlock()
	seen := map[covey.NodeID]bool{}
	for _, n := range nodes {
		m, err := decodeMeta(n.Meta)
		if err != nil {
			continue // NotifyAlive let none such in
		}
		m.Gossip, m.State = n.Address(), stateOf(n.State)
		if _, known := g.members[m.ID]; !known && !m.State.here() {
			continue // it was forgotten
		}
		seen[m.ID] = true
		if g.setLocked(m, now) {
			changed = append(changed, g.members[m.ID])
		}
	}
	for id, m := range g.members {
		// memberlist forgets the dead after a while; we may have missed
		// that one died.
		if !seen[id] && m.State.here() && id != g.self.ID {
			m.State = Dead
			g.setLocked(m, now)
			changed = append(changed, g.members[id])
		}
	}
	clear(g.admitted)
	for id := range g.members {
		g.admitted[id] = true
	}
	slices.SortFunc(changed, byID)
	return changed
}

// setLocked takes in a member as it was seen and reports whether Changed should
// be told.
func (g *Gossip) setLocked(m Member, now time.Time) bool {
	old := g.members[m.ID]
	m.Since = old.Since
	if m.State != old.State {
		m.Since = now
	}
	g.members[m.ID] = m
	return old.differs(m) && m.ID != g.self.ID
}

func stateOf(s memberlist.NodeStateType) State {
	switch s {
	case memberlist.StateAlive:
		return Alive
	case memberlist.StateSuspect:
		return Suspect
	case memberlist.StateLeft:
		return Left
	}
	return Dead
}

func byID(a, b Member) int { return cmp.Compare(a.ID, b.ID) }

// tellLoad has others told the load if it has changed, and reports whether it
// did.
func (g *Gossip) tellLoad() bool {
	g.mu.Lock()
	stale := g.stale && !g.left
	g.stale = false
	g.mu.Unlock()
	if stale {
		// It goes out whether we wait for it or not.
		_ = g.list.UpdateNode(time.Millisecond)
	}
	return stale
}

// living returns how many members take part.
func (g *Gossip) living() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	n := 0
	for _, m := range g.members {
		if m.State.here() {
			n++
		}
	}
	return n
}

// Members returns this node and all others that it knows, by id. Who is dead or
// left stays until Forget.
func (g *Gossip) Members() []Member {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.SortedFunc(maps.Values(g.members), byID)
}

// Member returns one of Members.
func (g *Gossip) Member(id covey.NodeID) (Member, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	m, ok := g.members[id]
	return m, ok
}

// Forget drops a member that is dead or left, and what it led. One that lives is
// kept; one that comes to life again is a member again.
func (g *Gossip) Forget(id covey.NodeID) {
	g.mu.Lock()
	m, ok := g.members[id]
	drop := ok && !m.State.here() && id != g.self.ID
	if drop {
		delete(g.members, id)
		delete(g.admitted, id)
	}
	g.mu.Unlock()
	if drop {
		g.leaders.forget(id)
		g.poke()
	}
}

// Announce tells everybody who leads. Of what is known of a shard the highest
// term counts; in the same term, that it lost its quorum. What is no news is not
// told again, nor what cannot be: a shard above 65,535, no term, no node.
func (g *Gossip) Announce(ls []Leader) {
	good := slices.DeleteFunc(slices.Clone(ls), func(l Leader) bool { return !l.sensible() })
	if g.leaders.merge(good, func(Leader, Leader) bool { return true }) {
		g.poke()
	}
}

// Leaders returns the newest that is known of each shard.
func (g *Gossip) Leaders() map[covey.ShardID]Leader { return g.leaders.all() }

// SetKeys changes the keys: one or two, the first encrypts, all decrypt. A new key
// must be everybody's second before it is anybody's first, and an old one
// nobody's first any more before it is left out.
func (g *Gossip) SetKeys(keys [][]byte) error { return install(g.keys, keys) }

// SetLoad changes the load that others are told, within seconds.
func (g *Gossip) SetLoad(l Load) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.self.Load != l {
		g.self.Load = l
		g.stale = true
	}
}

// Leave tells the others that this node goes, so that none waits for it. It waits
// until some of them have been told, but no longer than ctx lasts nor than five
// seconds. The node answers until Close; it can only come back by a new Start.
func (g *Gossip) Leave(ctx context.Context) error {
	g.ends.Lock()
	defer g.ends.Unlock()
	if g.closed {
		return covey.Errorf(covey.Unavailable, "gossip is closed")
	}
	g.mu.Lock()
	g.left = true
	g.mu.Unlock()
	wait := streamTimeout
	if by, ok := ctx.Deadline(); ok {
		wait = max(min(wait, time.Until(by)), time.Millisecond) // zero would mean for ever
	}
	if err := g.list.Leave(wait); err != nil {
		return covey.Errorf(covey.Unavailable, "leave gossip: %w", err)
	}
	g.poke()
	return nil
}

// Close ends gossip without a word; others will find this node dead, unless it
// left. It waits for all that is under way, but for one of memberlist's
// goroutines: it may wait for the answer to a last probe, for at most a second,
// and says nothing more. Close may be called again.
func (g *Gossip) Close() error {
	g.ends.Lock()
	defer g.ends.Unlock()
	if g.closed {
		return nil
	}
	g.closed = true
	g.stop()
	g.running.Wait()
	g.log.close()
	_ = g.list.Shutdown()
	g.eyes.close()
	g.joining.Wait()
	return nil
}
