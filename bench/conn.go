package bench

import (
	"bufio"
	"context"
	"crypto/tls"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/covey-mail/covey/internal/sockio"
)

// Buffers of a connection. What is written leaves at a flush, so that an 8 KiB
// message and its final dot are one write, and one read where a server sends it. A
// line longer than the read buffer is refused where a protocol has no longer ones.
const (
	readBuffer  = 16 << 10
	writeBuffer = 16 << 10
)

// hurry is what operations under way get when the run is interrupted.
const hurry = 2 * time.Second

// A conn is a connection with one deadline for each operation. Its owner uses it
// from one goroutine; only the deadline is moved from others.
type conn struct {
	net  net.Conn
	addr string // that it leads to
	r    *bufio.Reader
	w    *bufio.Writer

	release func() bool // stops watching the run's context

	mu      sync.Mutex // guards hurried, and orders deadlines
	hurried bool
}

// A target is where the connections of one worker go: to the addresses in turn.
type target struct {
	addrs []string
	next  int // the address of the next connection
}

// newTarget has each worker begin with another address.
func newTarget(cfg Config, worker int) *target {
	addrs := cfg.addrs()
	return &target{addrs, worker % len(addrs)}
}

// patience is how long an address is waited for where there are others.
const patience = 2 * time.Second

// connect connects to the next address that lets it, and fails if none does.
func (t *target) connect(ctx context.Context, timeout time.Duration) (n net.Conn, addr string, err error) {
	if len(t.addrs) > 1 {
		timeout = min(timeout, patience)
	}
	d := net.Dialer{Timeout: timeout, KeepAlive: -1} // every operation has its deadline
	for range t.addrs {
		network := "tcp"
		addr = t.addrs[t.next]
		t.next = (t.next + 1) % len(t.addrs)
		if path, ok := strings.CutPrefix(addr, "unix:"); ok {
			network, addr = "unix", path
		}
		if n, err = d.DialContext(ctx, network, addr); err == nil || ctx.Err() != nil {
			break
		}
	}
	if err != nil {
		return nil, addr, err
	}
	return sockio.Wrap(n), addr, nil
}

// dial opens a connection, with TLS from the start if cfg says so. The operation
// that needs it has cfg.Timeout from now on.
func dial(ctx context.Context, cfg *Config, to *target) (*conn, error) {
	n, addr, err := to.connect(ctx, cfg.Timeout)
	if err != nil {
		return nil, broken("connect", err)
	}
	c := &conn{net: n, addr: addr}
	c.use(n)
	c.release = context.AfterFunc(ctx, c.interrupt)
	c.arm(cfg.Timeout)
	if cfg.TLS == Implicit {
		if err := c.startTLS(); err != nil {
			c.close()
			return nil, err
		}
	}
	return c, nil
}

// Buffers outlive connections: what a session costs the generator comes off what
// the server has left.
var (
	readers = sync.Pool{New: func() any { return bufio.NewReaderSize(nil, readBuffer) }}
	writers = sync.Pool{New: func() any { return bufio.NewWriterSize(nil, writeBuffer) }}
)

func (c *conn) use(n net.Conn) {
	if c.r == nil {
		c.r, c.w = readers.Get().(*bufio.Reader), writers.Get().(*bufio.Writer)
	}
	c.r.Reset(n)
	c.w.Reset(n)
}

// startTLS encrypts the connection. What was read ahead in the clear is lost, as
// it must be.
func (c *conn) startTLS() error {
	host, _, _ := net.SplitHostPort(c.addr)
	t := tls.Client(c.net, &tls.Config{ServerName: host, InsecureSkipVerify: true})
	if err := t.Handshake(); err != nil {
		return broken("TLS handshake", err)
	}
	c.mu.Lock()
	c.net = t
	c.mu.Unlock()
	c.use(t)
	return nil
}

// arm gives the next operation its time.
func (c *conn) arm(timeout time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.hurried {
		_ = c.net.SetDeadline(time.Now().Add(timeout)) // a closed connection says so at the next read
	}
}

func (c *conn) interrupt() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.hurried = true
	_ = c.net.SetDeadline(time.Now().Add(hurry))
}

// close closes the connection at once. Nothing that was read from it may be looked
// at afterwards.
func (c *conn) close() {
	c.release()
	_ = c.net.Close()
	c.r.Reset(nil)
	c.w.Reset(nil)
	readers.Put(c.r)
	writers.Put(c.w)
	c.r, c.w = nil, nil
}

// send writes the parts and flushes. Errors of the buffer stick, so the flush
// reports them all.
func (c *conn) send(parts ...string) error {
	for _, p := range parts {
		_, _ = c.w.WriteString(p)
	}
	return c.w.Flush()
}
