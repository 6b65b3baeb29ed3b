package imapd

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"github.com/emersion/go-imap/v2"
	"github.com/emersion/go-imap/v2/imapserver"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/internal/handoff"
	"github.com/covey-mail/covey/internal/serve"
)

// A Server serves IMAP on any number of listeners. Its methods may be called
// concurrently.
type Server struct {
	cfg     Config
	imap    *imapserver.Server
	queue   *handover
	buffers sync.Pool      // of *[]byte
	conns   sync.WaitGroup // fronts and sessions; added to under mu before stopping, or by one of them
	own     sync.WaitGroup // the server's own goroutines

	mu        sync.Mutex // guards what follows
	started   bool       // go-imap's server
	stopping  bool
	listeners map[net.Listener]struct{}
	fronts    map[*front]struct{}
	guards    map[*guard]struct{}
	relays    map[*handoff.Relay]struct{}
	sessions  map[covey.AccountID]int
}

// New returns a Server, or what is wrong with cfg. It starts nothing.
func New(cfg Config) (*Server, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	s := &Server{
		cfg:       cfg,
		queue:     newHandover(),
		listeners: make(map[net.Listener]struct{}),
		fronts:    make(map[*front]struct{}),
		guards:    make(map[*guard]struct{}),
		relays:    make(map[*handoff.Relay]struct{}),
		sessions:  make(map[covey.AccountID]int),
	}
	s.imap = imapserver.New(&imapserver.Options{
		NewSession:   s.newSession,
		Caps:         imapCaps(),
		Logger:       libraryLog{cfg.Logger},
		InsecureAuth: true, // who may log in is the login front's affair
	})
	return s, nil
}

// imapCaps switches on what go-imap's server is to do; the client sees the
// guard's list.
func imapCaps() imap.CapSet {
	caps := make(imap.CapSet)
	for _, c := range []imap.Cap{
		imap.CapIMAP4rev1, imap.CapLiteralPlus, imap.CapNamespace, imap.CapUIDPlus, imap.CapESearch,
		imap.CapSearchRes, imap.CapListExtended, imap.CapListStatus, imap.CapMove, imap.CapStatusSize,
		imap.CapBinary, imap.CapChildren, imap.CapSpecialUse, imap.CapCreateSpecialUse,
	} {
		caps[c] = struct{}{}
	}
	return caps
}

// libraryLog takes what go-imap has to say.
type libraryLog struct{ log *slog.Logger }

// Printf implements imapserver.Logger.
func (l libraryLog) Printf(format string, args ...any) {
	level := slog.LevelDebug
	if strings.HasPrefix(format, "panic") {
		level = slog.LevelError
	}
	l.log.Log(context.Background(), level, "go-imap: "+fmt.Sprintf(format, args...))
}

// Serve accepts connections from l, which it closes, until Shutdown or Close; it
// then returns nil. A listener of implicit TLS gives *tls.Conn.
func (s *Server) Serve(l net.Listener) error {
	if !s.listen(l) {
		return errors.Join(net.ErrClosed, l.Close())
	}
	for {
		conn, err := l.Accept()
		if err == nil {
			s.accept(conn)
			continue
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.listeners, l)
		if s.stopping {
			return nil
		}
		return fmt.Errorf("accept imap connection: %w", err)
	}
}

// listen registers a listener.
func (s *Server) listen(l net.Listener) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopping {
		return false
	}
	s.startLocked()
	s.listeners[l] = struct{}{}
	return true
}

// startLocked starts go-imap if it is not running. s.mu is held.
func (s *Server) startLocked() {
	if !s.started {
		s.started = true
		s.own.Go(func() { _ = s.imap.Serve(s.queue) }) // ends without error when queue closes
	}
}

// accept starts the login front of a connection.
func (s *Server) accept(conn net.Conn) {
	f := newFront(s, conn)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopping {
		_ = conn.Close() // never greeted
		return
	}
	_ = conn.SetReadDeadline(time.Now().Add(s.cfg.LoginTime)) // a closed connection shows at the read
	s.fronts[f] = struct{}{}
	s.conns.Go(func() { s.greet(f) })
}

// greet does the login front of a connection and hands it on.
func (s *Server) greet(f *front) {
	defer s.forget(f)
	var l *login
	if t, ok := f.conn.(*tls.Conn); !ok || t.HandshakeContext(f.ctx) == nil {
		l = f.run()
	}
	if l == nil {
		_ = f.conn.Close() // nothing left to say to it
		return
	}
	if l.home != nil {
		s.relay(f.conn, *l)
		return
	}
	s.handOver(f.conn, *l)
}

// forget ends a front, also one that panicked.
func (s *Server) forget(f *front) {
	if v := recover(); v != nil {
		s.cfg.Logger.Error("panic in login front", "session", f.id, "panic", v, "stack", string(debug.Stack()))
		_ = f.raw.Close() // nothing sensible left to say
	}
	f.cancel()
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.fronts, f)
}

// handOver gives a connection that is logged in, here or on another node, to
// go-imap, behind a guard.
func (s *Server) handOver(conn net.Conn, l login) {
	if c := serve.From(conn); c != nil {
		c.Trust()
		c.Renew(serve.Limits{Idle: s.cfg.IdleTime + time.Minute, Write: s.cfg.WriteTime + time.Minute})
	}
	g := newGuard(s, conn, l)
	g.session = newSession(g)
	s.conns.Add(1) // undone by ended
	s.cfg.Metrics.Sessions.Inc()
	s.mu.Lock()
	s.guards[g] = struct{}{}
	stopping := s.stopping
	s.mu.Unlock()
	if stopping {
		g.stop()
	}
	if !s.queue.push(g) {
		_ = g.Close() // as above
	}
}

// newSession is called by go-imap for each connection of the queue.
func (s *Server) newSession(conn *imapserver.Conn) (imapserver.Session, *imapserver.GreetingData, error) {
	g, ok := conn.NetConn().(*guard)
	if !ok {
		return nil, nil, errors.New("connection without a guard")
	}
	return g.session, &imapserver.GreetingData{PreAuth: true}, nil
}

// ended is called once for each guard, when its session is over.
func (s *Server) ended(g *guard) {
	s.mu.Lock()
	delete(s.guards, g)
	s.mu.Unlock()
	s.leave(g.login.Account.ID)
	s.cfg.Metrics.Sessions.Dec()
	s.cfg.Logger.Info("imap session", "session", g.login.Session, "account", g.login.Account.Address.String(),
		"remote", g.login.Remote, "tls", g.login.TLS, "mechanism", g.login.Mechanism,
		"commands", g.count, "written", g.written, "duration", time.Since(g.since).Round(time.Millisecond))
	s.conns.Done()
}

// enter counts a session of an account, or refuses it with covey.InUse.
func (s *Server) enter(id covey.AccountID) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopping {
		return covey.Errorf(covey.Unavailable, "server is stopping")
	}
	if s.sessions[id] >= s.cfg.PerUser {
		s.cfg.Metrics.Refused.WithLabelValues("sessions").Inc()
		return covey.Errorf(covey.InUse, "account has %d sessions", s.sessions[id])
	}
	s.sessions[id]++
	return nil
}

// leave undoes enter.
func (s *Server) leave(id covey.AccountID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sessions[id]--; s.sessions[id] == 0 {
		delete(s.sessions, id)
	}
}

func (s *Server) isStopping() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stopping
}

// Shutdown stops accepting, tells each session BYE once the command it is doing
// is done, and waits until all have ended. When ctx ends first it closes the rest
// and returns ctx's error.
func (s *Server) Shutdown(ctx context.Context) error {
	s.begin()
	idle := make(chan struct{})
	s.own.Go(func() {
		s.conns.Wait()
		close(idle)
	})
	var err error
	select {
	case <-idle:
	case <-ctx.Done():
		err = ctx.Err()
	}
	return errors.Join(err, s.Close())
}

// begin stops accepting and asks everybody to leave.
func (s *Server) begin() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stopping = true
	for l := range s.listeners {
		_ = l.Close() // Serve notices
	}
	for r := range s.relays {
		r.Stop() // before its front is woken: it must know why
	}
	for f := range s.fronts {
		f.cancel()
		_ = f.raw.SetReadDeadline(time.Unix(1, 0)) // as in accept
	}
	for g := range s.guards {
		g.stop()
	}
}

// Close closes all listeners and connections and waits for their goroutines. It
// may be called again and during Shutdown.
func (s *Server) Close() error {
	s.begin()
	s.mu.Lock()
	for f := range s.fronts {
		_ = f.raw.Close() // its goroutine notices
	}
	for g := range s.guards {
		g.abort()
	}
	for r := range s.relays {
		r.Abort()
	}
	s.mu.Unlock()
	s.conns.Wait()
	s.queue.close()
	s.own.Wait()
	return nil
}

// buffer returns an empty buffer for flushSize octets.
func (s *Server) buffer() []byte {
	if b, ok := s.buffers.Get().(*[]byte); ok {
		return (*b)[:0]
	}
	return make([]byte, 0, flushSize)
}

func (s *Server) release(b []byte) {
	if cap(b) <= 2*flushSize {
		s.buffers.Put(&b)
	}
}

// A handover is the listener from which go-imap gets its connections.
type handover struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func newHandover() *handover {
	return &handover{conns: make(chan net.Conn), done: make(chan struct{})}
}

func (h *handover) push(c net.Conn) bool {
	select {
	case h.conns <- c:
		return true
	case <-h.done:
		return false
	}
}

func (h *handover) close() { h.once.Do(func() { close(h.done) }) }

// Accept implements net.Listener.
func (h *handover) Accept() (net.Conn, error) {
	select {
	case c := <-h.conns:
		return c, nil
	case <-h.done:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (h *handover) Close() error {
	h.close()
	return nil
}

// Addr implements net.Listener.
func (h *handover) Addr() net.Addr { return &net.UnixAddr{Name: "handover", Net: "unix"} }
