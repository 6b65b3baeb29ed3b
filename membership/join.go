package membership

import (
	"context"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"time"
)

const (
	joinTries   = 3           // addresses that are tried at a time
	joinFirst   = time.Second // from one try to the next while nobody was ever reached
	lookupLimit = 3 * time.Second
)

// joinMissing tries, now and again until ctx ends, to reach nodes that should be
// there and are not: memberlist does not look again for those it lost.
func (g *Gossip) joinMissing(ctx context.Context) {
	joined := false
	for {
		missing := g.missing(ctx)
		if g.join(ctx, missing) {
			joined = true
		}
		wait := g.cfg.Timing.Rejoin*3/4 + rand.N(g.cfg.Timing.Rejoin/2)
		if !joined && len(missing) > 0 {
			wait = min(wait, joinFirst)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}

// missing returns, in random order, the addresses of dead members and of seeds at
// which no member lives. Those who left will come by themselves, but for seeds.
func (g *Gossip) missing(ctx context.Context) []netip.AddrPort {
	addrs := g.resolve(ctx, g.cfg.Seeds())
	lives := map[netip.AddrPort]bool{}
	g.mu.Lock()
	if g.left {
		addrs = nil
	}
	for _, m := range g.members {
		at, err := netip.ParseAddrPort(m.Gossip)
		switch {
		case err != nil:
		case m.State.here() || m.ID == g.self.ID:
			lives[at] = true
		case m.State == Dead:
			addrs = append(addrs, at)
		}
	}
	g.mu.Unlock()
	slices.SortFunc(addrs, netip.AddrPort.Compare)
	addrs = slices.DeleteFunc(slices.Compact(addrs), func(a netip.AddrPort) bool { return lives[a] })
	rand.Shuffle(len(addrs), func(i, j int) { addrs[i], addrs[j] = addrs[j], addrs[i] })
	return addrs
}

// resolve looks up host names, which memberlist itself would do by a query for
// ANY over TCP first.
func (g *Gossip) resolve(ctx context.Context, seeds []string) []netip.AddrPort {
	ctx, cancel := context.WithTimeout(ctx, lookupLimit)
	defer cancel()
	var addrs []netip.AddrPort
	for _, s := range seeds {
		if at, err := netip.ParseAddrPort(s); err == nil {
			addrs = append(addrs, netip.AddrPortFrom(at.Addr().Unmap(), at.Port()))
			continue
		}
		host, service, err := net.SplitHostPort(s)
		if err == nil {
			var port int
			var ips []netip.Addr
			if port, err = net.DefaultResolver.LookupPort(ctx, "tcp", service); err == nil {
				ips, err = net.DefaultResolver.LookupNetIP(ctx, "ip", host)
			}
			for _, ip := range ips {
				addrs = append(addrs, netip.AddrPortFrom(ip.Unmap(), uint16(port)))
			}
		}
		if err != nil {
			g.log.say("seed", "seed "+s+": "+err.Error())
		}
	}
	return addrs
}

// join exchanges all states with the first of a few addresses that answers, and
// reports whether one did; from there the rest is gossip.
//
// With a member that is dead here it does so twice. After a partition each takes
// the other for dead as of its latest incarnation, and does not believe the other
// that it lives: the first exchange only tells each that it must object.
func (g *Gossip) join(ctx context.Context, addrs []netip.AddrPort) bool {
	for _, at := range addrs[:min(len(addrs), joinTries)] {
		if ctx.Err() != nil {
			return false
		}
		if n, err := g.list.Join([]string{at.String()}); n == 0 {
			g.cfg.Logger.Debug("not joined", "gossip", at, "error", err)
			continue
		}
		g.cfg.Logger.Info("joined", "gossip", at)
		if g.deadAt(at.String()) {
			_, _ = g.list.Join([]string{at.String()})
		}
		return true
	}
	return false
}

func (g *Gossip) deadAt(gossip string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, m := range g.members {
		if m.Gossip == gossip && m.State == Dead {
			return true
		}
	}
	return false
}
