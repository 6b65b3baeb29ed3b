// Package membershiptest is a network for the gossip of several nodes in one
// process: packets as internal/simnet carries them, with its weather and cuts, and
// streams that come about where no way is cut.
//
// Use it inside a testing/synctest bubble, in which minutes of gossip take
// milliseconds.
package membershiptest

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/internal/simnet"
)

// A Net joins hosts. Cut, Split and Heal are about packets and about streams that
// are dialled; streams that are there already are not cut.
type Net struct {
	*simnet.Net[packet]

	mu      sync.Mutex // guards the following
	hosts   map[string]*Host
	weather simnet.Weather
	rand    *rand.Rand
}

type packet struct {
	from    net.Addr
	payload []byte
}

// New makes a network; nothing is carried before Run.
func New(seed uint64, weather simnet.Weather) *Net {
	return &Net{
		Net: simnet.New[packet](seed, weather), hosts: map[string]*Host{},
		weather: weather, rand: rand.New(rand.NewPCG(seed, 0x676f73)),
	}
}

// SetWeather changes the weather for what is sent or dialled from now on.
func (n *Net) SetWeather(w simnet.Weather) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.weather = w
	n.Net.SetWeather(w)
}

// delay returns how long it takes until a stream is there and a question on it
// answered: twice there and back, and a second more for each loss.
func (n *Net) delay() time.Duration {
	n.mu.Lock()
	defer n.mu.Unlock()
	var d time.Duration
	for range 4 {
		d += n.weather.MinDelay
		if span := n.weather.MaxDelay - n.weather.MinDelay; span > 0 {
			d += time.Duration(n.rand.Int64N(int64(span)))
		}
		if n.weather.Loss < 1 && n.rand.Float64() < n.weather.Loss {
			d += time.Second
		}
	}
	return d
}

// Run carries packets until ctx ends.
func (n *Net) Run(ctx context.Context) { n.Net.Run(ctx) }

// A Host is one life of a process with a gossip address. It is the
// membership.Transport of the node that lives there.
type Host struct {
	net     *Net
	id      covey.NodeID
	addr    *net.UDPAddr
	packets chan *memberlist.Packet
	streams chan net.Conn
	dead    chan struct{}

	mu   sync.Mutex // guards the following
	open []net.Conn
}

// Host starts a process for a node at an IP address, in place of one that may be
// there still.
func (n *Net) Host(id covey.NodeID, ip string) *Host {
	h := &Host{
		net: n, id: id, addr: &net.UDPAddr{IP: net.ParseIP(ip).To4(), Port: 7946},
		packets: make(chan *memberlist.Packet, 1024), streams: make(chan net.Conn), dead: make(chan struct{}),
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if old := n.hosts[h.addr.String()]; old != nil {
		old.kill()
	}
	n.hosts[h.addr.String()] = h
	n.Join(id, h.receive)
	return h
}

func (n *Net) at(addr string) *Host {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.hosts[addr]
}

func (h *Host) receive(_ covey.NodeID, p packet) {
	select {
	case h.packets <- &memberlist.Packet{Buf: p.payload, From: p.from, Timestamp: time.Now()}:
	default: // as when the socket's queue is full
	}
}

// Kill ends the process without a word: packets to it vanish, streams break, and
// dialling it is refused at once. What runs on it is not stopped, but alone.
func (h *Host) Kill() {
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	if h.net.hosts[h.addr.String()] == h {
		delete(h.net.hosts, h.addr.String())
		h.net.Leave(h.id)
	}
	h.kill()
}

func (h *Host) kill() {
	h.mu.Lock()
	defer h.mu.Unlock()
	select {
	case <-h.dead:
		return
	default:
	}
	close(h.dead)
	for _, c := range h.open {
		c.Close()
	}
}

// hold has Kill close a connection.
func (h *Host) hold(c net.Conn) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.open = append(h.open, c)
	select {
	case <-h.dead:
		c.Close()
	default:
	}
}

// Addr returns the host's gossip address.
func (h *Host) Addr() string { return h.addr.String() }

// FinalAdvertiseAddr implements memberlist.Transport.
func (h *Host) FinalAdvertiseAddr(string, int) (net.IP, int, error) {
	return h.addr.IP, h.addr.Port, nil
}

// WriteTo implements memberlist.Transport.
func (h *Host) WriteTo(b []byte, addr string) (time.Time, error) {
	select {
	case <-h.dead:
		return time.Now(), net.ErrClosed
	default:
	}
	if to := h.net.at(addr); to != nil {
		h.net.Send(h.id, to.id, packet{h.addr, append([]byte(nil), b...)})
	}
	return time.Now(), nil
}

// PacketCh implements memberlist.Transport.
func (h *Host) PacketCh() <-chan *memberlist.Packet { return h.packets }

// StreamCh implements memberlist.Transport.
func (h *Host) StreamCh() <-chan net.Conn { return h.streams }

// DialTimeout implements memberlist.Transport.
func (h *Host) DialTimeout(addr string, timeout time.Duration) (net.Conn, error) {
	fail := func(err error) error { return &net.OpError{Op: "dial", Net: "tcp", Err: err} }
	to := h.net.at(addr)
	if to == nil && !h.isDead() {
		return nil, fail(syscall.ECONNREFUSED)
	}
	if h.isDead() || !h.net.Connected(h.id, to.id) || !h.net.Connected(to.id, h.id) {
		select {
		case <-time.After(timeout):
		case <-h.dead:
		}
		return nil, fail(os.ErrDeadlineExceeded)
	}
	if d := h.net.delay(); d > timeout {
		time.Sleep(timeout)
		return nil, fail(os.ErrDeadlineExceeded)
	} else {
		time.Sleep(d)
	}
	here, there := net.Pipe()
	h.hold(here)
	to.hold(there)
	if err := to.IngestStream(there); err != nil {
		here.Close()
		return nil, fail(syscall.ECONNREFUSED)
	}
	return here, nil
}

func (h *Host) isDead() bool {
	select {
	case <-h.dead:
		return true
	default:
		return false
	}
}

// IngestStream implements membership.Transport.
func (h *Host) IngestStream(c net.Conn) error {
	select {
	case h.streams <- c:
		return nil
	case <-h.dead:
		c.Close()
		return errors.New("host is dead")
	}
}

// Shutdown implements memberlist.Transport.
func (h *Host) Shutdown() error {
	h.Kill()
	return nil
}

// IP returns an address for the nth host.
func IP(n int) string { return "10.0." + strconv.Itoa(n>>8) + "." + strconv.Itoa(n&255) }
