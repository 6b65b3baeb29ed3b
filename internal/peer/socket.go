package peer

import (
	"crypto/ed25519"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/covey-mail/covey"
)

const (
	// chunk is about what one write to the kernel carries.
	chunk = 64 << 10
	// grace is what a silent peer gets on top: it is we who may have been paused,
	// with what it sent waiting in the kernel.
	grace = 100 * time.Millisecond
)

// errSilent is why a link breaks over which nothing came.
var errSilent = errors.New("nothing heard from the node")

// silent reports whether err says that the other side answers nothing at all,
// unlike one whose kernel closes the connection.
func silent(err error) bool {
	return errors.Is(err, errSilent) || errors.Is(err, syscall.ETIMEDOUT)
}

// errNoNotice is why a connection ends whose other end did not say so by TLS: it
// may have been cut anywhere. crypto/tls by itself would call this io.EOF between
// records.
var errNoNotice = errors.New("connection closed without notice")

// A socket is a connection below TLS. It counts octets; for a link it also
// gathers the records of TLS into few writes, and fails when it is silent for
// too long.
type socket struct {
	net.Conn
	closer  io.Closer // of Conn and of what counts it
	metrics *Metrics

	silence time.Duration // 0: however long; set by link, before its goroutines start
	began   time.Time     // likewise
	rolled  time.Time     // when the read deadline was set; the reader's
	heard   atomic.Int64  // nanoseconds from began to the last octet

	mu       sync.Mutex // guards what follows
	gathers  bool
	gathered []byte
}

// link makes s the socket of a link.
func (s *socket) link(silence time.Duration) error {
	s.silence = silence
	s.began = time.Now()
	s.mu.Lock()
	s.gathers = true
	s.gathered = make([]byte, 0, chunk+2<<10)
	s.mu.Unlock()
	tune(s.Conn, silence)
	return s.SetDeadline(time.Time{})
}

// Read implements net.Conn.
func (s *socket) Read(p []byte) (int, error) {
	if s.silence == 0 {
		n, err := s.Conn.Read(p)
		s.metrics.received.Add(float64(n))
		return n, noEOF(err)
	}
	// Not at each read: a little early is good enough.
	now := time.Now()
	if now.Sub(s.rolled) > s.silence/16 {
		s.rolled = now
		if err := s.SetReadDeadline(now.Add(s.silence)); err != nil {
			return 0, err
		}
	}
	n, err := s.Conn.Read(p)
	if n == 0 && errors.Is(err, os.ErrDeadlineExceeded) {
		s.rolled = time.Time{}
		if err := s.SetReadDeadline(time.Now().Add(grace)); err != nil {
			return 0, err
		}
		n, err = s.Conn.Read(p)
	}
	if n > 0 {
		s.heard.Store(int64(time.Since(s.began)))
		s.metrics.received.Add(float64(n))
	} else if errors.Is(err, os.ErrDeadlineExceeded) {
		err = fmt.Errorf("%w for %s", errSilent, s.silence)
	}
	return n, noEOF(err)
}

func noEOF(err error) error {
	if err == io.EOF {
		return errNoNotice
	}
	return err
}

// Write implements net.Conn. TLS calls it for each record.
func (s *socket) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.gathers {
		n, err := s.Conn.Write(p)
		s.metrics.sent.Add(float64(n))
		return n, err
	}
	if len(s.gathered)+len(p) > cap(s.gathered) {
		if err := s.flushLocked(); err != nil {
			return 0, err
		}
	}
	s.gathered = append(s.gathered, p...)
	return len(p), nil
}

// lastHeard returns when the last octet of a link came.
func (s *socket) lastHeard() time.Time { return s.began.Add(time.Duration(s.heard.Load())) }

// flush sends what was gathered.
func (s *socket) flush() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.flushLocked()
}

func (s *socket) flushLocked() error {
	if len(s.gathered) == 0 {
		return nil
	}
	n, err := s.Conn.Write(s.gathered)
	s.metrics.sent.Add(float64(n))
	s.gathered = s.gathered[:0]
	return err
}

// Close implements net.Conn. It sends nothing: whoever ends a link by it does
// not wait for a peer that does not read.
func (s *socket) Close() error { return s.closer.Close() }

// remoteAddr returns the other side's address, the zero Addr if it has no IP.
func (s *socket) remoteAddr() netip.Addr {
	a, ok := s.RemoteAddr().(*net.TCPAddr)
	if !ok {
		return netip.Addr{}
	}
	return a.AddrPort().Addr().Unmap()
}

// A conn is a connection whose other end has proved who it is.
type conn struct {
	*tls.Conn
	sock   *socket
	class  class
	shown  *identity // what the other end saw of us
	remote Remote
	ca     ed25519.PublicKey // that vouches for remote
	born   time.Time
	why    atomic.Pointer[error] // it was cut, for this reason
}

// cut closes the connection under whoever uses it.
func (c *conn) cut(why error) {
	c.why.CompareAndSwap(nil, &why)
	_ = c.sock.Close() // whoever uses it sees that
}

// cause returns why the connection was cut, or else err.
func (c *conn) cause(err error) error {
	if why := c.why.Load(); why != nil {
		return *why
	}
	return err
}

// outlived reports whether the connection was there when the peer was last heard
// on a link: then it fell silent with it.
func (c *conn) outlived(heard time.Time, node covey.NodeID) bool {
	return c.class == stream && c.remote.Node == node && c.born.Before(heard)
}
