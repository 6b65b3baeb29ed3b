package serve

import (
	"net/netip"
	"time"
)

const (
	// maxTrusted bounds the addresses that are remembered for the reserve.
	maxTrusted = 8192
	// trustFor is how long an address is remembered after a log-in.
	trustFor = time.Hour
)

// A gate counts connections. It has no clock and no lock of its own.
type gate struct {
	most, reserve, perAddr int
	capLocal               bool

	open    int
	from    map[netip.Addr]int // by block; an address without connections is not in it
	trusted map[netip.Addr]time.Time
}

func newGate(cfg Config) gate {
	return gate{
		most: cfg.Conns, reserve: cfg.Reserve, perAddr: cfg.PerAddr, capLocal: cfg.CapLocal,
		from: make(map[netip.Addr]int), trusted: make(map[netip.Addr]time.Time),
	}
}

// block returns what counts as one peer: an IPv4 address, or the /64 that an
// IPv6 host picks its addresses from.
func block(a netip.Addr) netip.Addr {
	if !a.Is6() {
		return a
	}
	p, err := a.WithZone("").Prefix(64)
	if err != nil { // not for an address of 128 bits
		return a
	}
	return p.Addr()
}

// local reports whether a is this host: loopback, or a Unix socket's zero.
func local(a netip.Addr) bool { return !a.IsValid() || a.IsLoopback() }

// enter counts a connection from a, or returns why not.
func (g *gate) enter(a netip.Addr, now time.Time) string {
	b := block(a)
	most := g.most
	if !local(a) && now.After(g.trusted[b]) {
		most -= g.reserve
	}
	if g.open >= most {
		return "total"
	}
	if g.capped(a) && g.from[b] >= g.perAddr {
		return "address"
	}
	g.open++
	if g.capped(a) {
		g.from[b]++
	}
	return ""
}

func (g *gate) capped(a netip.Addr) bool {
	return g.perAddr > 0 && (g.capLocal || !local(a))
}

// leave undoes enter.
func (g *gate) leave(a netip.Addr) {
	g.open--
	if !g.capped(a) {
		return
	}
	b := block(a)
	if g.from[b]--; g.from[b] <= 0 {
		delete(g.from, b)
	}
}

// trust lets a's block use the reserve for a while.
func (g *gate) trust(a netip.Addr, now time.Time) {
	if local(a) {
		return
	}
	b := block(a)
	if _, known := g.trusted[b]; !known && len(g.trusted) >= maxTrusted {
		g.forget(now)
	}
	g.trusted[b] = now.Add(trustFor)
}

// forget drops what has expired, or else any address: the reserve is a help to
// known peers, not a right.
func (g *gate) forget(now time.Time) {
	for a, until := range g.trusted {
		if now.After(until) {
			delete(g.trusted, a)
		}
	}
	for a := range g.trusted {
		if len(g.trusted) < maxTrusted {
			return
		}
		delete(g.trusted, a)
	}
}
