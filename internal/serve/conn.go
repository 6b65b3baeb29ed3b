package serve

import (
	"bytes"
	"errors"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/covey-mail/covey/internal/sockio"
)

// Limits bound how long a connection may be held. A zero field takes the
// default.
type Limits struct {
	Idle    time.Duration // longest wait for the next octet; 5 minutes
	Session time.Duration // from accept to close; 0 means no cap
	Write   time.Duration // longest time for one write; 5 minutes
	MinRate int           // octets per second while in a body (BeginBody); 256, below 0 none
}

func (l Limits) withDefaults() Limits {
	if l.Idle <= 0 {
		l.Idle = 5 * time.Minute // RFC 5321 section 4.5.3.2.7
	}
	if l.Write <= 0 {
		l.Write = 5 * time.Minute
	}
	if l.MinRate == 0 {
		l.MinRate = 256
	}
	return l
}

// helloTime is what a peer has to say its TLS ClientHello.
const helloTime = 30 * time.Second

// An Expired is the error of a connection that overstepped a limit of this
// package, and names the limit. It is a timeout in the sense of net.Error, and
// it is lasting: every later read returns it again, so that no library takes
// the rest of a broken command for a new one.
type Expired string

// The limits.
const (
	ExpiredIdle    Expired = "idle"
	ExpiredSession Expired = "session"
	ExpiredRate    Expired = "rate"
	ExpiredHello   Expired = "hello"
)

// Error implements error.
func (e Expired) Error() string { return "connection over its " + string(e) + " limit" }

// Timeout implements net.Error.
func (e Expired) Timeout() bool { return true }

// Temporary implements net.Error. It is false: crypto/tls goes on after a
// temporary error.
func (e Expired) Temporary() bool { return false }

// Is makes an Expired equal to os.ErrDeadlineExceeded.
func (e Expired) Is(target error) bool { return target == os.ErrDeadlineExceeded }

// errPlain is the error of a write that would have been plain text after
// BeginTLS.
var errPlain = errors.New("plain text after the start of TLS")

// tlsState says how far a connection is on the way to TLS.
type tlsState uint8

const (
	tlsNone  tlsState = iota
	tlsHello          // BeginTLS was called, the ClientHello is awaited
	tlsOn             // a ServerHello was written
)

// A Conn is an accepted connection. It is a net.Conn like the one it wraps, but
// for the limits; one goroutine reads and one writes at a time.
type Conn struct {
	net.Conn
	l      *Listener
	raw    syscall.RawConn // of Conn; nil if it has none
	remote netip.Addr
	born   time.Time
	leave  sync.Once

	mu       sync.Mutex // guards what follows
	limits   Limits
	expired  Expired // not empty: lasting
	tls      tlsState
	helloBy  time.Time // if tlsHello
	read     deadline
	write    deadline
	inBody   bool
	bodySize int64         // octets read since BeginBody
	waited   time.Duration // spent in Read since BeginBody
}

// A deadline is when a Read or a Write has to end. Moving the runtime's timer costs
// more than a short read, so one that runs out too soon is left alone, and moved
// when it has run out.
type deadline struct {
	by    time.Time // the limit of the call under way or last; zero before the first
	asked time.Time // by the caller; zero for none
	set   time.Time // what the connection below has; zero for none
}

// due returns when the call under way has to end.
func (d *deadline) due() time.Time { return earlier(d.by, d.asked) }

// lenient reports whether what is set will do: it is not late, and not so early that
// it would run out all the time.
func (d *deadline) lenient(now time.Time) bool {
	due := d.due()
	return !d.set.IsZero() && !d.set.After(due) && 2*d.set.Sub(now) > due.Sub(now)
}

// put sets the deadline of the connection below.
func (d *deadline) put(set func(time.Time) error) error {
	d.set = d.due()
	return set(d.set)
}

// ask notes a caller's deadline, and has the connection below end a call under way
// in time for it. Before the first call there is nothing to set: that call does.
func (d *deadline) ask(t time.Time, set func(time.Time) error) error {
	d.asked = t
	if d.by.IsZero() || d.lenient(time.Now()) {
		return nil
	}
	return d.put(set)
}

func newConn(l *Listener, c net.Conn) *Conn {
	c = sockio.Wrap(c)
	conn := &Conn{Conn: c, l: l, remote: remoteAddr(c), born: time.Now(), limits: l.cfg.Limits}
	if sc, ok := c.(syscall.Conn); ok {
		conn.raw, _ = sc.SyscallConn() // nil if it failed: the connection is closed
	}
	return conn
}

func remoteAddr(c net.Conn) netip.Addr {
	a, ok := c.RemoteAddr().(*net.TCPAddr)
	if !ok {
		return netip.Addr{}
	}
	return a.AddrPort().Addr().Unmap()
}

// From returns the Conn that c is or that lies below it (TLS), nil if there is
// none.
func From(c net.Conn) *Conn {
	for {
		switch t := c.(type) {
		case *Conn:
			return t
		case interface{ NetConn() net.Conn }:
			c = t.NetConn()
		default:
			return nil
		}
	}
}

// Remote returns the peer's address, IPv4 ones unmapped; the zero Addr for a
// Unix socket.
func (c *Conn) Remote() netip.Addr { return c.remote }

// Local reports whether the peer is on this host: loopback or a Unix socket.
func (c *Conn) Local() bool { return local(c.remote) }

// Trust says that somebody logged in over the connection: see Config.Reserve.
func (c *Conn) Trust() { c.l.trust(c.remote) }

// Renew replaces the limits, as after a log-in; Session still counts from
// accept. A Read under way keeps its bound.
func (c *Conn) Renew(l Limits) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.limits = l.withDefaults()
}

// BeginBody says that the peer is sending a message: until EndBody it has to
// keep up Limits.MinRate, on average and beyond one Limits.Idle. Only time spent
// waiting for it counts.
func (c *Conn) BeginBody() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.inBody, c.bodySize, c.waited = true, 0, 0
}

// EndBody ends what BeginBody began. Without one it does nothing.
func (c *Conn) EndBody() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.inBody = false
}

// BeginTLS says that the peer must speak TLS from here on: its ClientHello has
// to come within 30 seconds, and a write that is not a TLS record fails and
// closes the connection, so that a failed handshake is never followed by plain
// text.
func (c *Conn) BeginTLS() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.tls == tlsNone {
		c.tls, c.helloBy = tlsHello, time.Now().Add(helloTime)
	}
}

// Read reads from the peer. Past a limit its error is an Expired.
func (c *Conn) Read(p []byte) (int, error) {
	start := time.Now()
	limit, err := c.beforeRead(start)
	if err != nil {
		return 0, err
	}
	for {
		n, err := c.Conn.Read(p)
		if n > 0 || !errors.Is(err, os.ErrDeadlineExceeded) || !c.tooSoon(&c.read, c.Conn.SetReadDeadline) {
			return n, c.afterRead(start, limit, n, err)
		}
	}
}

// tooSoon reports whether a deadline that has run out was not due yet, and sets it
// to when it is.
func (c *Conn) tooSoon(d *deadline, set func(time.Time) error) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Now().Before(d.due()) && d.put(set) == nil
}

// beforeRead sets the deadline of the next read and returns the limit that it
// stands for.
func (c *Conn) beforeRead(now time.Time) (Expired, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.expired != "" {
		return "", c.expired
	}
	limit := ExpiredIdle
	c.read.by = now.Add(c.limits.Idle)
	sooner := func(t time.Time, e Expired) {
		if t.Before(c.read.by) {
			c.read.by, limit = t, e
		}
	}
	if c.limits.Session > 0 {
		sooner(c.born.Add(c.limits.Session), ExpiredSession)
	}
	if c.tls == tlsHello {
		sooner(c.helloBy, ExpiredHello)
	}
	if c.inBody && c.limits.MinRate > 0 {
		sooner(now.Add(c.slackLocked()), ExpiredRate)
	}
	if c.read.lenient(now) {
		return limit, nil
	}
	return limit, c.read.put(c.Conn.SetReadDeadline)
}

// slackLocked returns how long the sender of a body may still keep us waiting.
func (c *Conn) slackLocked() time.Duration {
	rate := int64(c.limits.MinRate)
	earned := time.Duration(c.bodySize/rate)*time.Second + time.Duration(c.bodySize%rate)*time.Second/time.Duration(rate)
	return c.limits.Idle + earned - c.waited
}

// afterRead accounts for a read and turns a timeout of ours into an Expired.
func (c *Conn) afterRead(start time.Time, limit Expired, n int, err error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	if c.inBody {
		c.bodySize += int64(n)
		c.waited += now.Sub(start)
	}
	if errors.Is(err, os.ErrDeadlineExceeded) && !now.Before(c.read.by) {
		return c.expireLocked(limit)
	}
	return err
}

func (c *Conn) expireLocked(limit Expired) error {
	if c.expired == "" {
		c.expired = limit
		c.l.cfg.Metrics.Expired.WithLabelValues(c.l.cfg.Name, string(limit)).Inc()
	}
	return c.expired
}

// Write writes to the peer, all of p within Limits.Write. After a Read failed
// with an Expired it still works, so that a last line can say why.
func (c *Conn) Write(p []byte) (int, error) {
	if err := c.beforeWrite(p, time.Now()); err != nil {
		if errors.Is(err, errPlain) {
			_ = c.Close()
		}
		return 0, err
	}
	for n := 0; ; {
		m, err := c.Conn.Write(p[n:])
		n += m
		if !errors.Is(err, os.ErrDeadlineExceeded) || !c.tooSoon(&c.write, c.Conn.SetWriteDeadline) {
			return n, err
		}
	}
}

func (c *Conn) beforeWrite(p []byte, now time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.watchTLSLocked(p, now); err != nil {
		return err
	}
	c.write.by = now.Add(c.limits.Write)
	if c.limits.Session > 0 && c.expired == "" {
		c.write.by = earlier(c.write.by, c.born.Add(c.limits.Session))
	}
	if c.expired != "" {
		c.write.by = now.Add(refusalTime)
	}
	if c.write.lenient(now) {
		return nil
	}
	return c.write.put(c.Conn.SetWriteDeadline)
}

// watchTLSLocked follows the way to TLS by what is written: crypto/tls writes
// whole records, and its first handshake record answers a good ClientHello.
func (c *Conn) watchTLSLocked(p []byte, now time.Time) error {
	const changeCipherSpec, handshake, applicationData = 20, 22, 23
	if len(p) == 0 {
		return nil
	}
	switch {
	case c.tls == tlsNone:
		if r := c.l.cfg.TLSReply; len(r) > 0 && bytes.Equal(p, r) {
			c.tls, c.helloBy = tlsHello, now.Add(helloTime)
		}
	case p[0] < changeCipherSpec || p[0] > applicationData:
		return errPlain
	case c.tls == tlsHello && p[0] == handshake:
		c.tls = tlsOn
	}
	return nil
}

// earlier returns the earlier of a limit and a caller's deadline, which may be
// zero.
func earlier(limit, asked time.Time) time.Time {
	if !asked.IsZero() && asked.Before(limit) {
		return asked
	}
	return limit
}

// SetDeadline implements net.Conn; see SetReadDeadline.
func (c *Conn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

// SetReadDeadline implements net.Conn: it can make a Read end before its limit,
// not after.
func (c *Conn) SetReadDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.read.ask(t, c.Conn.SetReadDeadline)
}

// SetWriteDeadline implements net.Conn: it can make a Write end before its
// limit, not after.
func (c *Conn) SetWriteDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.write.ask(t, c.Conn.SetWriteDeadline)
}

// Close closes the connection and gives its slot back. It may be called by
// several goroutines and again; later calls return net.ErrClosed.
func (c *Conn) Close() error {
	err := c.Conn.Close()
	c.leave.Do(func() { c.l.leave(c) })
	return err
}
