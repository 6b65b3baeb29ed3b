package bench

import (
	"bufio"
	"context"
	"crypto/tls"
	"net"
	"strings"
	"sync"
	"time"
)

// Buffers of a connection. What is written leaves at a flush, so that an 8 KiB
// message and its final dot are one write. A line longer than the read buffer is
// refused where a protocol has no longer ones.
const (
	readBuffer  = 8 << 10
	writeBuffer = 16 << 10
)

// hurry is what operations under way get when the run is interrupted.
const hurry = 2 * time.Second

// A conn is a connection with one deadline for each operation. Its owner uses it
// from one goroutine; only the deadline is moved from others.
type conn struct {
	net net.Conn
	r   *bufio.Reader
	w   *bufio.Writer

	release func() bool // stops watching the run's context

	mu      sync.Mutex // guards hurried, and orders deadlines
	hurried bool
}

// dial opens a connection, with TLS from the start if cfg says so. The operation
// that needs it has cfg.Timeout from now on.
func dial(ctx context.Context, cfg *Config) (*conn, error) {
	network, addr := "tcp", cfg.Addr
	if path, ok := strings.CutPrefix(addr, "unix:"); ok {
		network, addr = "unix", path
	}
	d := net.Dialer{Timeout: cfg.Timeout}
	n, err := d.DialContext(ctx, network, addr)
	if err != nil {
		return nil, broken("connect", err)
	}
	c := &conn{net: n}
	c.use(n)
	c.release = context.AfterFunc(ctx, c.interrupt)
	c.arm(cfg.Timeout)
	if cfg.TLS == Implicit {
		if err := c.startTLS(cfg.Addr); err != nil {
			c.close()
			return nil, err
		}
	}
	return c, nil
}

func (c *conn) use(n net.Conn) {
	c.r, c.w = bufio.NewReaderSize(n, readBuffer), bufio.NewWriterSize(n, writeBuffer)
}

// startTLS encrypts the connection. What was read ahead in the clear is lost, as
// it must be.
func (c *conn) startTLS(addr string) error {
	host, _, _ := net.SplitHostPort(addr)
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

// close closes the connection at once.
func (c *conn) close() {
	c.release()
	_ = c.net.Close()
}

// send writes the parts and flushes. Errors of the buffer stick, so the flush
// reports them all.
func (c *conn) send(parts ...string) error {
	for _, p := range parts {
		_, _ = c.w.WriteString(p)
	}
	return c.w.Flush()
}
