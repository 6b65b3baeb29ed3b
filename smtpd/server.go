package smtpd

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/emersion/go-smtp"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/internal/serve"
)

// A Server serves any number of listeners of any kind. Its methods may be called
// by several goroutines.
type Server struct {
	cfg Config
	svc Services
	log *slog.Logger

	ctx      context.Context // of all sessions
	cancel   context.CancelFunc
	draining atomic.Bool
	serving  sync.WaitGroup // calls of Serve
	gone     chan struct{}  // closed when nothing runs any more
	inputs   sync.Pool      // *bufio.Reader of inputBuffer octets

	mu        sync.Mutex // guards what follows
	closed    bool
	endpoints []*endpoint
	conns     map[*conn]struct{}
}

// An endpoint is one listener and the go-smtp server for it.
type endpoint struct {
	srv  *Server
	kind Kind
	l    net.Listener
	smtp *smtp.Server
}

// New returns a Server. It does no I/O.
func New(cfg Config, svc Services) (*Server, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	if svc.Delivery == nil {
		return nil, covey.Errorf(covey.Invalid, "smtpd without delivery")
	}
	s := &Server{
		cfg: cfg, svc: svc, log: cfg.Logger.With("component", "smtpd"),
		conns: make(map[*conn]struct{}), gone: make(chan struct{}),
	}
	s.inputs.New = func() any { return bufio.NewReaderSize(nil, inputBuffer) }
	s.ctx, s.cancel = context.WithCancel(context.Background())
	return s, nil
}

// drain is how much of a message is read in search of its end.
func (s *Server) drain() int64 { return s.cfg.MaxMessageBytes + s.cfg.MaxMessageBytes/2 }

// trusts reports whether a peer may speak LMTP.
func (s *Server) trusts(a netip.Addr) bool {
	if !a.IsValid() || a.IsLoopback() {
		return true
	}
	for _, p := range s.cfg.TrustedLMTP {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// Serve accepts connections from l, which it owns from then on, until Shutdown or
// Close; then it returns nil. LMTP on port 25 is refused (RFC 2033 section 5), as
// is a kind for which the Config lacks TLS or the Services what it needs.
func (s *Server) Serve(k Kind, l net.Listener) error {
	e, err := s.open(k, l)
	if err != nil {
		return errors.Join(err, l.Close())
	}
	defer s.serving.Done()
	if err := e.smtp.Serve(e); err != nil && !s.draining.Load() {
		return fmt.Errorf("serve %s on %s: %w", k, l.Addr(), err)
	}
	return nil
}

// open makes an endpoint of l and counts it in serving.
func (s *Server) open(k Kind, l net.Listener) (*endpoint, error) {
	if err := s.admits(k, l.Addr()); err != nil {
		return nil, err
	}
	e := &endpoint{srv: s, kind: k, l: serve.Wrap(l, s.listenerConfig(k))}
	e.smtp = smtp.NewServer(smtp.BackendFunc(newSession))
	e.smtp.Domain = s.cfg.Hostname
	e.smtp.LMTP = k == LMTP
	e.smtp.MaxMessageBytes = s.cfg.MaxMessageBytes
	e.smtp.MaxRecipients = s.cfg.MaxRecipients
	e.smtp.MaxLineLength = 0        // the guard bounds lines, and go-smtp would count data
	e.smtp.AllowInsecureAuth = true // session.mayAuth decides: go-smtp does not see TLS
	e.smtp.EnableSMTPUTF8 = true
	e.smtp.ErrorLog = errorLog{s.log}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, covey.Errorf(covey.Unavailable, "serve %s: server is shut down", k)
	}
	s.endpoints = append(s.endpoints, e)
	s.serving.Add(1)
	return e, nil
}

func (s *Server) admits(k Kind, a net.Addr) error {
	tcp, _ := a.(*net.TCPAddr)
	switch {
	case k >= numKinds:
		return covey.Errorf(covey.Invalid, "serve: no such kind of listener: %d", k)
	case k == LMTP && tcp != nil && tcp.Port == 25:
		return covey.Errorf(covey.Invalid, "serve lmtp on %s: port 25 is for SMTP (RFC 2033 section 5)", a)
	case k == Submissions && s.cfg.TLS == nil:
		return covey.Errorf(covey.Invalid, "serve %s: no TLS certificate", k)
	case k.submits() && (s.svc.Directory == nil || s.svc.Logon == nil):
		return covey.Errorf(covey.Invalid, "serve %s: no directory or logon", k)
	}
	return nil
}

func (s *Server) listenerConfig(k Kind) serve.Config {
	c := s.cfg.Listeners[k]
	c.Name = k.String()
	if k != Submissions {
		c.Refusal = []byte("421 4.7.0 " + s.cfg.Hostname + " Too many connections; try again later\r\n")
	}
	setDefault(&c.Limits.Session, defaultSession)
	c.Logger, c.Metrics = s.cfg.Logger, s.cfg.ServeMetrics
	return c
}

// Accept implements net.Listener for go-smtp.
func (e *endpoint) Accept() (net.Conn, error) {
	for {
		c, err := e.l.Accept()
		if err != nil {
			return nil, err
		}
		if g := e.srv.enter(e.kind, serve.From(c)); g != nil {
			return g, nil
		}
		_ = c.Close()
	}
}

// Close implements net.Listener.
func (e *endpoint) Close() error { return e.l.Close() }

// Addr implements net.Listener.
func (e *endpoint) Addr() net.Addr { return e.l.Addr() }

// enter makes the guard of a connection, nil if the server is closed.
func (s *Server) enter(k Kind, raw *serve.Conn) *conn {
	c := &conn{srv: s, kind: k, id: randomID(), born: s.cfg.Now(), raw: raw, net: raw}
	c.s, c.here = &session{c: c}, raw.Here
	c.ctx, c.cancel = context.WithCancel(s.ctx)
	c.in = s.inputs.Get().(*bufio.Reader)
	c.in.Reset(input{c})
	c.out = bufio.NewWriter(output{c})
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		c.cancel()
		return nil
	}
	s.conns[c] = struct{}{}
	return c
}

// leave undoes enter. The guard does not read any more.
func (s *Server) leave(c *conn) {
	c.in.Reset(nil)
	s.inputs.Put(c.in)
	c.in = nil
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
}

// newSession is go-smtp's way to a conn's session.
func newSession(c *smtp.Conn) (smtp.Session, error) {
	g, ok := c.Conn().(*conn)
	if !ok {
		return nil, errors.New("smtpd: connection without a guard")
	}
	return g.s, nil
}

// Shutdown stops accepting, tells sessions outside of a transaction 421 4.3.2,
// and waits for the others to end theirs. When ctx ends first the rest are cut,
// and its error is returned. It returns when nothing of the Server runs any more.
// It may be called again, and by several goroutines.
func (s *Server) Shutdown(ctx context.Context) error {
	err := s.stopAccepting()
	s.each((*conn).drain)
	select {
	case <-s.gone:
	case <-ctx.Done():
		err = ctx.Err()
		s.each((*conn).abort)
		<-s.gone
	}
	s.cancel()
	return err
}

// Close cuts all sessions and waits until nothing of the Server runs any more.
func (s *Server) Close() error {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := s.Shutdown(ctx); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// stopAccepting closes the listeners, once. From then on no connection is added,
// and gone is closed when the last one is through.
func (s *Server) stopAccepting() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	s.draining.Store(true)
	s.mu.Unlock()
	var err error
	for _, e := range s.endpoints { // not appended to any more
		err = errors.Join(err, e.Close())
	}
	go func() { // every call of Shutdown waits for it
		defer close(s.gone)
		s.serving.Wait()
		for _, e := range s.endpoints {
			_ = e.smtp.Shutdown(context.Background()) // closes the listener again
		}
	}()
	return err
}

// each calls f for all connections.
func (s *Server) each(f func(*conn)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		f(c)
	}
}

// errorLog takes what go-smtp has to say beside its replies: panics, and reads
// that failed.
type errorLog struct{ log *slog.Logger }

// Printf implements smtp.Logger.
func (l errorLog) Printf(format string, v ...any) {
	l.log.Error("smtp library", "msg", clip(fmt.Sprintf(format, v...)))
}

// Println implements smtp.Logger.
func (l errorLog) Println(v ...any) {
	l.log.Error("smtp library", "msg", clip(strings.TrimSpace(fmt.Sprintln(v...))))
}
