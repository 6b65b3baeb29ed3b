// Package serve stands between the kernel's listeners and the mail protocols:
// it decides who gets a connection, and how long one may be held without
// being used.
//
// A Listener caps connections in all and by address, tells those beyond the cap
// why in a few words, and waits when the process is out of descriptors instead
// of spinning or dying. A Conn, which lies below TLS, bounds each wait for the
// peer. The protocol libraries set deadlines of their own; those may shorten
// the bounds here and never lengthen them, so that no state of any library
// leaves a connection without one.
//
// It knows no protocol, except that TLS records start with an octet from 20 to
// 23 (RFC 8446 section 5.1).
package serve

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"
)

// A Config says what a Listener admits. The zero Config is usable.
type Config struct {
	Name string // in logs and metrics; "" takes the listener's address

	// Conns is the most connections open at a time; 0 means 4,096. Keep the sum
	// over all listeners well below RLIMIT_NOFILE: the process needs
	// descriptors of its own, and a connection that finds none cannot be told.
	Conns int

	// PerAddr is the most connections open at a time from one IPv4 address or
	// IPv6 /64; 0 means 50, below 0 no cap. Loopback and Unix sockets are not
	// counted, unless CapLocal is set.
	PerAddr  int
	CapLocal bool

	// Reserve slots of Conns are kept for loopback, Unix sockets and addresses
	// from which somebody logged in within the last hour (Conn.Trust), so that
	// users get in while strangers fill the rest. 0 means an eighth of Conns,
	// below 0 none; never more than half of Conns.
	Reserve int

	// Refusal is written to a connection over a cap before it is closed, such as
	// "421 4.7.0 …\r\n". Leave it empty where TLS comes first.
	Refusal []byte

	// TLSReply is the reply after which the peer must speak TLS, such as "220
	// 2.0.0 Ready to start TLS\r\n". When a write equals it, Conn.BeginTLS
	// follows by itself: for protocol libraries that upgrade a connection
	// without telling.
	TLSReply []byte

	Limits  Limits
	Logger  *slog.Logger // nil discards
	Metrics *Metrics     // nil counts into the void; may be shared by listeners
}

func (cfg Config) withDefaults(l net.Listener) Config {
	if cfg.Name == "" {
		cfg.Name = l.Addr().String()
	}
	if cfg.Conns <= 0 {
		cfg.Conns = 4096
	}
	if cfg.PerAddr == 0 {
		cfg.PerAddr = 50
	}
	if cfg.Reserve == 0 {
		cfg.Reserve = cfg.Conns / 8
	}
	cfg.Reserve = min(max(cfg.Reserve, 0), cfg.Conns/2)
	cfg.Limits = cfg.Limits.withDefaults()
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Metrics == nil {
		cfg.Metrics = NewMetrics()
	}
	return cfg
}

const (
	// maxRefusals bounds the connections that are being told that they are
	// refused; more are closed without a word.
	maxRefusals = 16
	// refusalTime is what a refused peer has to take its line.
	refusalTime = time.Second

	minAcceptDelay = 5 * time.Millisecond
	maxAcceptDelay = time.Second
)

// A Listener is a net.Listener whose connections are *Conn. Its methods may be
// called by several goroutines; one of them accepts.
type Listener struct {
	inner net.Listener
	cfg   Config

	closing  sync.Once
	done     chan struct{} // closed by Close
	refusing sync.WaitGroup

	mu       sync.Mutex // guards what follows
	closed   bool
	refusals int // being written, at most maxRefusals
	gate     gate
	open     map[*Conn]struct{}
	empty    chan struct{} // not nil while Shutdown waits: closed when open gets empty
}

// Wrap returns a Listener that takes its connections from l and owns it.
func Wrap(l net.Listener, cfg Config) *Listener {
	cfg = cfg.withDefaults(l)
	return &Listener{
		inner: l,
		cfg:   cfg,
		done:  make(chan struct{}),
		gate:  newGate(cfg),
		open:  make(map[*Conn]struct{}),
	}
}

// Accept waits for the next connection that is admitted, and returns it as a
// *Conn. It outlasts a lack of descriptors or memory. After Close the error is
// net.ErrClosed; any other error is one of the listener itself, and final.
func (l *Listener) Accept() (net.Conn, error) {
	var delay time.Duration
	for {
		c, err := l.inner.Accept()
		if err != nil {
			if delay, err = l.afterError(err, delay); err != nil {
				return nil, err
			}
			continue
		}
		delay = 0
		if conn, reason := l.admit(c); reason == "" {
			return conn, nil
		} else {
			l.refuse(c, reason)
		}
	}
}

// afterError waits before the next try and returns how long it waited, or says
// that there is none.
func (l *Listener) afterError(err error, delay time.Duration) (time.Duration, error) {
	select {
	case <-l.done:
		return 0, net.ErrClosed
	default:
	}
	if !passing(err) {
		return 0, fmt.Errorf("accept on %s: %w", l.cfg.Name, err)
	}
	l.cfg.Metrics.AcceptErrors.WithLabelValues(l.cfg.Name).Inc()
	if delay == 0 { // once for each row of errors
		l.cfg.Logger.Warn("accept fails, trying again", "listener", l.cfg.Name, "err", err)
	}
	delay = min(max(2*delay, minAcceptDelay), maxAcceptDelay)
	t := time.NewTimer(delay)
	defer t.Stop()
	select {
	case <-t.C:
		return delay, nil
	case <-l.done:
		return 0, net.ErrClosed
	}
}

// passing reports whether an error of accept(2) says something about the moment
// or about one connection, and not about the listener.
func passing(err error) bool {
	for _, e := range []syscall.Errno{
		syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM,
		syscall.ECONNABORTED, syscall.ECONNRESET, syscall.EPROTO, syscall.EPERM,
		syscall.ENETDOWN, syscall.ENETUNREACH, syscall.EHOSTDOWN, syscall.EHOSTUNREACH,
	} {
		if errors.Is(err, e) {
			return true
		}
	}
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}

// admit makes a Conn of c and counts it, or returns the reason against it.
func (l *Listener) admit(c net.Conn) (*Conn, string) {
	conn := newConn(l, c)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, "closing"
	}
	if reason := l.gate.enter(conn.remote, conn.born); reason != "" {
		return nil, reason
	}
	l.open[conn] = struct{}{}
	l.cfg.Metrics.Accepted.WithLabelValues(l.cfg.Name).Inc()
	l.cfg.Metrics.Open.WithLabelValues(l.cfg.Name).Inc()
	return conn, ""
}

// leave undoes admit.
func (l *Listener) leave(c *Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.open, c)
	l.gate.leave(c.remote)
	l.cfg.Metrics.Open.WithLabelValues(l.cfg.Name).Dec()
	if len(l.open) == 0 && l.empty != nil {
		close(l.empty)
		l.empty = nil
	}
}

// refuse tells c why it is not wanted, beside the accepting goroutine, so that a
// peer that does not read holds up nobody.
func (l *Listener) refuse(c net.Conn, reason string) {
	l.cfg.Metrics.Refused.WithLabelValues(l.cfg.Name, reason).Inc()
	l.cfg.Logger.Debug("connection refused", "listener", l.cfg.Name, "remote", c.RemoteAddr(), "reason", reason)
	if !l.startRefusal(c) {
		_ = c.Close() // the peer learns nothing either way
	}
}

// startRefusal starts a writer, unless there are too many or Close is waiting
// for the last of them.
func (l *Listener) startRefusal(c net.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed || len(l.cfg.Refusal) == 0 || l.refusals == maxRefusals {
		return false
	}
	l.refusals++
	l.refusing.Go(func() {
		_ = c.SetDeadline(time.Now().Add(refusalTime))
		_, _ = c.Write(l.cfg.Refusal)
		_ = c.Close()
		l.mu.Lock()
		defer l.mu.Unlock()
		l.refusals--
	})
	return true
}

// Addr returns the address listened on.
func (l *Listener) Addr() net.Addr { return l.inner.Addr() }

// Close stops accepting and waits for the last refusals to be written, at most
// a second. Connections accepted stay open. It may be called again, and returns
// the same.
func (l *Listener) Close() error {
	var err error
	l.closing.Do(func() {
		l.mu.Lock()
		l.closed = true
		l.mu.Unlock()
		close(l.done)
		if err = l.inner.Close(); err != nil {
			err = fmt.Errorf("close listener %s: %w", l.cfg.Name, err)
		}
	})
	l.refusing.Wait()
	return err
}

// Shutdown closes the listener and waits until the last of its connections is
// closed. When ctx ends first it closes the rest and returns ctx's error. It is
// called once.
func (l *Listener) Shutdown(ctx context.Context) error {
	err := l.Close()
	l.mu.Lock()
	if len(l.open) == 0 {
		l.mu.Unlock()
		return err
	}
	empty := make(chan struct{})
	l.empty = empty
	l.mu.Unlock()
	select {
	case <-empty:
		return err
	case <-ctx.Done():
		for _, c := range l.conns() {
			_ = c.Close()
		}
		return ctx.Err()
	}
}

func (l *Listener) conns() []*Conn {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := make([]*Conn, 0, len(l.open))
	for c := range l.open {
		all = append(all, c)
	}
	return all
}

func (l *Listener) trust(a netip.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.gate.trust(a, time.Now())
}
