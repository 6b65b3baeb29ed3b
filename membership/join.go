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
	settling    = 15 * time.Second
	settleEvery = 5 * time.Second
	lookupLimit = 3 * time.Second
)

// joinMissing tries, now and again until ctx ends, to reach nodes that should be
// there and are not: memberlist does not look again for those it lost.
//
// For a while after the start it goes back to nodes that are there, too. They may
// have taken this one for an impostor of its last life at another address, and
// believe it once that is dead.
func (g *Gossip) joinMissing(ctx context.Context) {
	start := time.Now()
	joined := false
	for {
		missing, there := g.missing(ctx)
		joined = g.join(ctx, missing) || joined
		if time.Since(start) < settling {
			joined = g.join(ctx, there) || joined
		}
		wait := g.cfg.Timing.Rejoin*3/4 + rand.N(g.cfg.Timing.Rejoin/2)
		switch {
		case !joined && len(missing) > 0:
			wait = min(wait, joinFirst)
		case time.Since(start) < settling:
			wait = min(wait, settleEvery)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}

// missing returns, each in random order, the addresses of dead members and of
// seeds at which no member lives, and those of other members that live. Who left
// will come by itself, but for seeds.
func (g *Gossip) missing(ctx context.Context) (missing, there []netip.AddrPort) {
	missing = g.resolve(ctx, g.cfg.Seeds())
	lives := map[netip.AddrPort]bool{}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.left {
		return nil, nil
	}
	for _, m := range g.members {
		at, err := netip.ParseAddrPort(m.Gossip)
		switch {
		case err != nil:
		case m.ID == g.self.ID:
			lives[at] = true
		case m.State.here():
			lives[at] = true
			there = append(there, at)
		case m.State == Dead:
			missing = append(missing, at)
		}
	}
	slices.SortFunc(missing, netip.AddrPort.Compare)
	missing = slices.DeleteFunc(slices.Compact(missing), func(a netip.AddrPort) bool { return lives[a] })
	for _, addrs := range [][]netip.AddrPort{missing, there} {
		rand.Shuffle(len(addrs), func(i, j int) { addrs[i], addrs[j] = addrs[j], addrs[i] })
	}
	return missing, there
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
		g.cfg.Logger.Debug("joined", "gossip", at)
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
