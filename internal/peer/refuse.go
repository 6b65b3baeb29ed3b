package peer

import (
	"errors"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"github.com/covey-mail/covey"
)

// Why a connection was refused.
const (
	refusedBusy        = "busy"        // too many that have not proved themselves
	refusedTLS         = "tls"         // no TLS, or no end of the handshake
	refusedVersion     = "version"     // another protocol
	refusedCertificate = "certificate" // not of our cluster's secret
	refusedCluster     = "cluster"     // of another cluster
	refusedNode        = "node"        // not who it should be, or ourselves
	refusedPin         = "pin"         // not a member, or with another key
	refusedDisk        = "disk"        // its disk is older than what it told before
	refusedHello       = "hello"       // nonsense after the handshake
	refusedService     = "service"     // no such service, or too many streams
	refusedStopping    = "stopping"
)

// A refusal is why a connection is not wanted.
type refusal struct {
	reason string // a label of metrics
	error         // with the kind and text for whoever has proved to know the secret
}

// Unwrap returns the cause.
func (r *refusal) Unwrap() error { return r.error }

func refuse(reason string, kind covey.Kind, format string, args ...any) error {
	return &refusal{reason, covey.Errorf(kind, format, args...)}
}

// reasonOf returns the label of a refusal, other if err is none.
func reasonOf(err error, other string) string {
	var r *refusal
	if errors.As(err, &r) {
		return r.reason
	}
	return other
}

const (
	// maxBlocks bounds what is remembered of addresses.
	maxBlocks = 1024
	// quiet is how long nothing is logged about an address after a line was.
	quiet = 10 * time.Second
)

// A gate counts connections whose other end has not proved who it is, and
// thereby bounds what strangers cost. Its methods may be called from several
// goroutines.
type gate struct {
	most int

	mu    sync.Mutex // guards what follows
	open  int
	from  map[netip.Addr]int      // an address without connections is not in it
	known map[netip.Addr]struct{} // where members came from
}

func newGate(most int) *gate {
	return &gate{most: most, from: map[netip.Addr]int{}, known: map[netip.Addr]struct{}{}}
}

// enter counts a connection, or reports that there are too many: in all, from its
// address, or from addresses where no member has come from, which leave half of
// the room to the others.
func (g *gate) enter(a netip.Addr) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	most := g.most
	if _, known := g.known[a]; !known {
		most /= 2
	}
	if g.open >= most || g.from[a] >= max(g.most/2, 1) {
		return false
	}
	g.open++
	g.from[a]++
	return true
}

// leave undoes enter.
func (g *gate) leave(a netip.Addr) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.open--
	if g.from[a]--; g.from[a] <= 0 {
		delete(g.from, a)
	}
}

// know remembers that a member came from a.
func (g *gate) know(a netip.Addr) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if _, ok := g.known[a]; ok {
		return
	}
	for old := range g.known { // any: it is a help to members, not a right
		if len(g.known) < maxBlocks {
			break
		}
		delete(g.known, old)
	}
	g.known[a] = struct{}{}
}

// block returns what counts as one address: one of IPv4, or the /64 that a host
// picks its IPv6 addresses from.
func block(a netip.Addr) netip.Addr {
	a = a.Unmap().WithZone("")
	if !a.Is6() {
		return a
	}
	p, err := a.Prefix(64)
	if err != nil { // not for an address of 128 bits
		return a
	}
	return p.Addr()
}

// A diary logs refusals, at most one line an address and quiet.
type diary struct {
	log *slog.Logger

	mu   sync.Mutex // guards what follows
	last map[netip.Addr]*entry
}

type entry struct {
	at       time.Time // of the last line
	silenced int       // since
}

// note logs that a connection from an address was refused, unless a line about
// the address was written moments ago; the next line then tells how many it
// stands for.
func (d *diary) note(a netip.Addr, reason string, err error) {
	silenced, speak := d.count(block(a), time.Now())
	if speak {
		d.log.Warn("connection refused", "remote", a, "reason", reason, "err", clip(err.Error()), "unreported", silenced)
	}
}

func (d *diary) count(b netip.Addr, now time.Time) (silenced int, speak bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.last[b] == nil && len(d.last) >= maxBlocks {
		for old, e := range d.last {
			if now.Sub(e.at) >= quiet {
				delete(d.last, old)
			}
		}
		if len(d.last) >= maxBlocks { // a scan from everywhere: one line for all others
			b = netip.Addr{}
		}
	}
	e := d.last[b]
	if e == nil {
		d.last[b] = &entry{at: now}
		return 0, true
	}
	if now.Sub(e.at) < quiet {
		e.silenced++
		return 0, false
	}
	silenced = e.silenced
	*e = entry{at: now}
	return silenced, true
}

// clip bounds text in logs that others may have made.
func clip(s string) string {
	const most = 300
	if len(s) > most {
		return s[:most] + "…"
	}
	return s
}
