package membership

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/covey-mail/covey"
)

// A Transport is memberlist's, into which a stream that was not dialled can be
// put.
type Transport interface {
	memberlist.Transport

	// IngestStream has the connection appear in StreamCh.
	IngestStream(net.Conn) error
}

const (
	maxStreams  = 64
	maxDatagram = 64 << 10
	socketQueue = 2 << 20 // octets of datagrams that wait in the kernel
)

// network is gossip over UDP and TCP on one port. Other than memberlist's own, it
// looks at what lies open in front of the ciphertext before anything else does,
// bounds the streams, and when shut down waits for all of them.
type network struct {
	frame     frame
	refuse    func(reason string, from net.Addr)
	advertise netip.AddrPort
	udp       *net.UDPConn
	tcp       *net.TCPListener

	packets chan *memberlist.Packet
	streams chan net.Conn

	ctx     context.Context // ends with Shutdown
	cancel  context.CancelFunc
	running sync.WaitGroup // listeners, and streams until they are closed

	mu     sync.Mutex // guards the following
	open   map[*stream]bool
	closed bool
}

// listen opens the sockets; nothing is read before start.
func listen(bind, advertise string, f frame, refuse func(string, net.Addr)) (*network, error) {
	n := &network{
		frame: f, refuse: refuse,
		packets: make(chan *memberlist.Packet), streams: make(chan net.Conn),
		open: map[*stream]bool{},
	}
	at, err := net.ResolveTCPAddr("tcp", bind)
	if err != nil {
		return nil, covey.Errorf(covey.Invalid, "gossip address: %w", err)
	}
	// The kernel chooses a port that is free for TCP, which it may not be for UDP.
	for try := 0; ; try++ {
		err = n.bind(*at)
		if err == nil {
			break
		}
		if at.Port != 0 || try == 10 {
			return nil, err
		}
	}
	if n.advertise, err = n.choose(advertise); err != nil {
		n.udp.Close()
		n.tcp.Close()
		return nil, err
	}
	_ = n.udp.SetReadBuffer(socketQueue) // the kernel may allow less
	n.ctx, n.cancel = context.WithCancel(context.Background())
	return n, nil
}

func (n *network) bind(at net.TCPAddr) (err error) {
	if n.tcp, err = net.ListenTCP("tcp", &at); err != nil {
		return covey.Errorf(covey.Unavailable, "gossip: %w", err)
	}
	at.Port = n.tcp.Addr().(*net.TCPAddr).Port
	if n.udp, err = net.ListenUDP("udp", &net.UDPAddr{IP: at.IP, Port: at.Port, Zone: at.Zone}); err != nil {
		n.tcp.Close()
		return covey.Errorf(covey.Unavailable, "gossip: %w", err)
	}
	return nil
}

// choose returns the address that others are told.
func (n *network) choose(advertise string) (netip.AddrPort, error) {
	bound := n.tcp.Addr().(*net.TCPAddr).AddrPort()
	at := bound
	if advertise != "" {
		a, err := net.ResolveTCPAddr("tcp", advertise)
		if err != nil {
			return at, covey.Errorf(covey.Invalid, "gossip address to advertise: %w", err)
		}
		at = a.AddrPort()
		if at.Port() == 0 {
			at = netip.AddrPortFrom(at.Addr(), bound.Port())
		}
	}
	at = netip.AddrPortFrom(at.Addr().Unmap(), at.Port())
	if !at.Addr().IsValid() || at.Addr().IsUnspecified() {
		return at, covey.Errorf(covey.Invalid, "gossip listens on all addresses: say which one to advertise")
	}
	return at, nil
}

func (n *network) start() {
	n.running.Go(n.receive)
	n.running.Go(n.accept)
}

func (n *network) receive() {
	buf := make([]byte, maxDatagram)
	for {
		size, from, err := n.udp.ReadFromUDPAddrPort(buf)
		at := time.Now()
		if err != nil {
			if errors.Is(err, net.ErrClosed) || !n.pause(10*time.Millisecond) {
				return
			}
			continue
		}
		addr := net.UDPAddrFromAddrPort(from)
		if reason := n.frame.checkPacket(buf[:size]); reason != "" {
			n.refuse(reason, addr)
			continue
		}
		p := &memberlist.Packet{Buf: append([]byte(nil), buf[:size]...), From: addr, Timestamp: at}
		select {
		case n.packets <- p:
		case <-n.ctx.Done():
			return
		}
	}
}

func (n *network) accept() {
	for wait := time.Duration(0); ; {
		c, err := n.tcp.AcceptTCP()
		if err != nil {
			wait = min(max(2*wait, 5*time.Millisecond), time.Second)
			if errors.Is(err, net.ErrClosed) || !n.pause(wait) {
				return
			}
			continue
		}
		wait = 0
		_ = n.serve(newStream(c, n.frame.inbound(), func(reason string) { n.refuse(reason, c.RemoteAddr()) }), maxStreams)
	}
}

// pause waits, and reports false if the network is shut down meanwhile.
func (n *network) pause(d time.Duration) bool {
	select {
	case <-n.ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// IngestStream implements Transport. The stream is from this node itself; there
// is always room for a few of them.
func (n *network) IngestStream(c net.Conn) error {
	return n.serve(newStream(c, nil, nil), maxStreams+4)
}

// serve hands a stream to memberlist, or closes it if that many are open.
func (n *network) serve(s *stream, most int) error {
	n.mu.Lock()
	if n.closed || len(n.open) >= most {
		full := !n.closed
		n.mu.Unlock()
		s.Conn.Close()
		if full {
			n.refuse(refusedStreams, s.RemoteAddr())
		}
		return covey.Errorf(covey.Limit, "gossip: no room for a stream")
	}
	n.open[s] = true
	n.running.Add(1)
	s.closed = func() {
		n.mu.Lock()
		delete(n.open, s)
		n.mu.Unlock()
		n.running.Done()
	}
	n.mu.Unlock()
	select {
	case n.streams <- s:
		return nil
	case <-n.ctx.Done():
		s.Close()
		return net.ErrClosed
	}
}

// FinalAdvertiseAddr implements memberlist.Transport.
func (n *network) FinalAdvertiseAddr(string, int) (net.IP, int, error) {
	return n.advertise.Addr().AsSlice(), int(n.advertise.Port()), nil
}

// WriteTo implements memberlist.Transport.
func (n *network) WriteTo(b []byte, addr string) (time.Time, error) {
	to, err := netip.ParseAddrPort(addr)
	if err != nil {
		return time.Time{}, err
	}
	_, err = n.udp.WriteToUDPAddrPort(b, to)
	return time.Now(), err
}

// PacketCh implements memberlist.Transport.
func (n *network) PacketCh() <-chan *memberlist.Packet { return n.packets }

// DialTimeout implements memberlist.Transport.
func (n *network) DialTimeout(addr string, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(n.ctx, timeout)
	defer cancel()
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	s := newStream(c, n.frame.reply(), func(reason string) { n.refuse(reason, c.RemoteAddr()) })
	stop := context.AfterFunc(n.ctx, func() { c.Close() })
	s.closed = func() { stop() }
	return s, nil
}

// StreamCh implements memberlist.Transport.
func (n *network) StreamCh() <-chan net.Conn { return n.streams }

// Shutdown implements memberlist.Transport. It closes everything and waits for
// whoever serves a stream.
func (n *network) Shutdown() error {
	n.cancel()
	n.udp.Close()
	n.tcp.Close()
	n.mu.Lock()
	n.closed = true
	var open []*stream
	for s := range n.open {
		open = append(open, s)
	}
	n.mu.Unlock()
	for _, s := range open {
		s.Conn.Close() // whoever serves it closes s
	}
	n.running.Wait()
	return nil
}
