// Package pop3d serves INBOX over POP3: RFC 1939 with CAPA, response codes and
// PIPELINING (RFC 2449, 3206), STLS (RFC 2595) and SASL (RFC 5034). APOP and
// UTF8 (RFC 6856) are not offered.
//
// A maildrop is INBOX as it was at log-in. It is locked against other POP3
// sessions and not against IMAP: a message that IMAP removed meanwhile keeps its
// number and answers -ERR. Messages with \Deleted are listed like all others.
// The unique-id of a message is its mailbox's UIDVALIDITY, a dot and its UID, so
// it is never given to another message.
//
// What DELE marked goes in one command at QUIT; a session that ends in any other
// way removes nothing (RFC 1939 sections 3 and 6).
//
// Limits: 255 octets a command line, 4,096 an AUTH line; 10 faulty commands and
// 5 failed log-ins a session. A session holds the UIDs of its maildrop as runs,
// one bit a message once DELE was used, and two buffers of 4 KiB; a message is
// sent in pieces, whatever its size.
package pop3d

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"runtime/debug"
	"sync"
	"time"

	"github.com/emersion/go-sasl"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/directory"
	"github.com/covey-mail/covey/internal/handoff"
	"github.com/covey-mail/covey/internal/serve"
	"github.com/covey-mail/covey/logon"
	"github.com/covey-mail/covey/mailbox"
)

// Logon checks who somebody is. Its methods may block for a while after a
// failure; ctx ends that. Errors: covey.Denied (whatever was wrong, with nothing
// to tell an unknown account from a wrong password), covey.Limit (too many
// failures: the session ends), covey.Unavailable.
type Logon interface {
	// Mechanisms returns the SASL mechanisms to offer.
	Mechanisms(c logon.Conn) []string

	// SASL starts an exchange; done is called once, before the Next that ends
	// it with success returns. A mechanism that is not offered is
	// covey.NotFound or covey.Invalid.
	SASL(ctx context.Context, c logon.Conn, mech string, done func(directory.Account)) (sasl.Server, error)

	// Password checks a user name and password.
	Password(ctx context.Context, c logon.Conn, user, password string) (directory.Account, error)

	// Allowed returns covey.Denied once an account that has logged in is removed or
	// disabled. It does not block.
	Allowed(ctx context.Context, a directory.Account) error
}

// Mail finds an account's mailboxes; *mailbox.Service is one.
type Mail interface {
	Account(id covey.AccountID, shard covey.ShardID, quota int64) *mailbox.Account
}

// Config is what a Server needs. Logon and Mail are required.
type Config struct {
	Hostname string // in the greeting; "" means "localhost"
	Logon    Logon
	Mail     Mail
	Homes    handoff.Homes // where sessions run; nil: all of them here

	TLS       *tls.Config     // for STLS; nil: not offered
	ClearText logon.ClearText // from where passwords may travel in clear text

	// Idle is the longest time between two command lines, at least and by default
	// 10 minutes (RFC 1939 section 3).
	Idle time.Duration
	// LoginTime is the longest time from connecting to logging in; 10 minutes.
	LoginTime time.Duration

	Logger  *slog.Logger // nil discards
	Metrics *Metrics     // nil counts into the void
}

func (cfg Config) validate() (Config, error) {
	if cfg.Logon == nil || cfg.Mail == nil {
		return cfg, errors.New("pop3d: Logon and Mail are required")
	}
	const least = 10 * time.Minute
	if cfg.Idle == 0 {
		cfg.Idle = least
	}
	if cfg.Idle < least {
		return cfg, fmt.Errorf("pop3d: idle time %v is below the %v of RFC 1939", cfg.Idle, least)
	}
	if cfg.LoginTime <= 0 {
		cfg.LoginTime = least
	}
	if cfg.Hostname == "" {
		cfg.Hostname = "localhost"
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	cfg.Logger = cfg.Logger.With("component", "pop3")
	if cfg.Metrics == nil {
		cfg.Metrics = NewMetrics()
	}
	return cfg, nil
}

// A Server runs POP3 sessions. Its methods may be called concurrently.
type Server struct {
	cfg     Config
	buffers sync.Pool          // *[]byte of bufferSize, for sending messages
	readers sync.Pool          // *bufio.Reader of maxAuthLine
	writers sync.Pool          // *bufio.Writer of replyBuffer
	senders sync.Pool          // *bufio.Writer of sendBuffer
	ctx     context.Context    // of all sessions; ends with Close
	cancel  context.CancelFunc // ends ctx
	stop    chan struct{}      // closed by Shutdown and Close
	running sync.WaitGroup     // sessions

	mu        sync.Mutex // guards the following fields
	stopping  bool
	listeners map[net.Listener]struct{}
	sessions  map[*session]covey.ShardID // 0: not logged in, or elsewhere
	relays    map[*handoff.Relay]struct{}
}

// bufferSize is the piece in which messages are read and sent.
const bufferSize = 32 << 10

// New returns a Server. It does no I/O and starts nothing.
func New(cfg Config) (*Server, error) {
	cfg, err := cfg.validate()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	return &Server{
		cfg: cfg, ctx: ctx, cancel: cancel,
		buffers:   sync.Pool{New: func() any { b := make([]byte, bufferSize); return &b }},
		readers:   sync.Pool{New: func() any { return bufio.NewReaderSize(nil, maxAuthLine) }},
		writers:   sync.Pool{New: func() any { return bufio.NewWriterSize(nil, replyBuffer) }},
		senders:   sync.Pool{New: func() any { return bufio.NewWriterSize(nil, sendBuffer) }},
		stop:      make(chan struct{}),
		listeners: make(map[net.Listener]struct{}),
		sessions:  make(map[*session]covey.ShardID),
		relays:    make(map[*handoff.Relay]struct{}),
	}, nil
}

// Refusal is what serve.Config.Refusal should be for a listener of a Server
// without TLS.
func Refusal() []byte { return []byte("-ERR [SYS/TEMP] too many connections, try again later\r\n") }

// Serve runs a session on each connection of l until Shutdown, Close or an error
// of l, and owns l. l is a *serve.Listener or made by serve.TLS of one. It may be
// called for several listeners. After Shutdown or Close it returns nil.
func (s *Server) Serve(l net.Listener) error {
	if !s.addListener(l) {
		return l.Close()
	}
	for {
		c, err := l.Accept()
		if err != nil {
			select {
			case <-s.stop:
				return nil
			default:
				return fmt.Errorf("serve POP3: %w", err)
			}
		}
		raw := serve.From(c)
		if raw == nil {
			_ = c.Close()
			return fmt.Errorf("serve POP3: connection is a %T, want one of package serve", c)
		}
		s.start(newSession(s, c, raw))
	}
}

func (s *Server) addListener(l net.Listener) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopping {
		return false
	}
	s.listeners[l] = struct{}{}
	return true
}

// start runs a session in its own goroutine, counted before Shutdown can miss
// it.
func (s *Server) start(ss *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopping {
		_ = ss.conn.Close()
		return
	}
	s.sessions[ss] = 0
	s.running.Go(func() {
		s.run(ss)
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.sessions, ss)
	})
}

// run is one connection from accept to close, and the boundary beyond which a
// panic of it does not go.
func (s *Server) run(ss *session) {
	defer ss.finish()
	defer func() {
		if p := recover(); p != nil {
			s.cfg.Metrics.Panics.Inc()
			ss.reason = "panic"
			ss.log().Error("session panicked", "panic", p, "stack", string(debug.Stack()))
		}
	}()
	ss.reason = ss.serve(s.ctx)
}

// Shutdown stops accepting, ends sessions between two commands and waits for
// those in a command. When ctx ends first it does what Close does and returns
// ctx's error.
func (s *Server) Shutdown(ctx context.Context) error {
	err := s.halt()
	done := make(chan struct{})
	go func() { // ends with the sessions, which Close below ends at the latest
		defer close(done)
		s.running.Wait()
	}()
	select {
	case <-done:
		s.cancel()
		return err
	case <-ctx.Done():
		_ = s.Close() // nothing that halt did not say
		<-done
		return ctx.Err()
	}
}

// halt stops accepting and wakes sessions that wait for a command.
func (s *Server) halt() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopping {
		return nil
	}
	s.stopping = true
	close(s.stop)
	var errs []error
	for l := range s.listeners {
		errs = append(errs, l.Close())
	}
	for r := range s.relays {
		r.Stop() // before its session is woken: it must know why
	}
	for ss := range s.sessions {
		_ = ss.raw.SetReadDeadline(time.Unix(1, 0))
	}
	return errors.Join(errs...)
}

// Close ends everything at once and waits for it: connections are closed, what
// is under way is cancelled. It may be called again, also beside Shutdown.
func (s *Server) Close() error {
	err := s.halt()
	s.cancel()
	s.mu.Lock()
	for ss := range s.sessions {
		_ = ss.raw.Close() // not the TLS layer, which would wait to say goodbye
	}
	for r := range s.relays {
		r.Abort()
	}
	s.mu.Unlock()
	s.running.Wait()
	return err
}
