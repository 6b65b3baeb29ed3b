package pop3d

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/directory"
	"github.com/covey-mail/covey/internal/handoff"
	"github.com/covey-mail/covey/internal/serve"
	"github.com/covey-mail/covey/logon"
)

const (
	maxLine     = 255      // octets of a command line with its CRLF (RFC 2449 section 4)
	maxAuthLine = 4096     // of an AUTH line and of a SASL response; size of the read buffer
	maxSkip     = 64 << 10 // of a longer line that are read past
	maxFaults   = 10       // commands against the protocol before the session is ended
	maxFailures = 5        // failed log-ins before that
	// commandTime bounds what a command waits for a service; sending a message is
	// bounded by the connection instead.
	commandTime = time.Minute
	// handshakeTime bounds a TLS handshake.
	handshakeTime = 30 * time.Second
)

// A session is one connection. It belongs to the goroutine that runs it.
type session struct {
	srv  *Server
	id   string
	raw  link     // below TLS
	conn net.Conn // raw, or TLS over it
	r    *bufio.Reader
	w    *bufio.Writer
	tls  bool

	user string    // that USER gave, until PASS
	drop *maildrop // nil: AUTHORIZATION state

	account directory.Account // who logged in
	resumed *handoff.Login    // by whom the front on another node let it in; nil: this is the front
	moved   atomic.Bool       // another node leads the shard now

	// for limits and the log line
	begun     time.Time
	reason    string // why it ended
	commands  int
	faults    int
	failures  int // of log-in
	retrieved int
	octets    int64
	removed   uint32
}

// A link is the connection to the peer, below TLS; *serve.Conn is one.
type link interface {
	net.Conn
	Remote() netip.Addr
	Trust()
	Renew(serve.Limits)
	BeginTLS()
}

func newSession(srv *Server, c net.Conn, raw link) *session {
	id := rand.Text()[:16]
	_, isTLS := c.(*tls.Conn)
	s := &session{
		srv: srv, id: id, raw: raw, conn: c, tls: isTLS, begun: time.Now(),
		r: srv.readers.Get().(*bufio.Reader), w: srv.writers.Get().(*bufio.Writer),
	}
	s.r.Reset(c)
	s.w.Reset(c)
	return s
}

// log returns the logger for what is to be told of the session besides its line.
func (s *session) log() *slog.Logger {
	return s.srv.cfg.Logger.With("session", s.id, "remote", s.raw.Remote())
}

// limits are those of the connection; command lines have a deadline besides,
// which octets that trickle in do not move.
func (s *session) limits(session time.Duration) serve.Limits {
	return serve.Limits{Idle: s.srv.cfg.Idle, Session: session}
}

// finish lets go of all that the session holds, leaving the maildrop as it is,
// and writes its line.
func (s *session) finish() {
	s.leave()
	_ = s.conn.Close() // there is nobody left to tell
	s.letGo()
	s.srv.cfg.Logger.LogAttrs(context.Background(), slog.LevelInfo, "session",
		slog.String("session", s.id), slog.Any("remote", s.raw.Remote()), slog.String("reason", s.reason),
		slog.String("account", s.account.Address.String()), slog.Bool("tls", s.tls), slog.Int("commands", s.commands),
		slog.Int("failures", s.failures), slog.Int("retrieved", s.retrieved), slog.Int64("octets", s.octets),
		slog.Uint64("removed", uint64(s.removed)), slog.Duration("took", time.Since(s.begun).Round(time.Millisecond)))
}

// leave closes the maildrop, if one is open.
func (s *session) leave() {
	if s.drop != nil {
		s.drop.close()
		s.drop = nil
	}
}

// serve runs the session and returns why it ended.
func (s *session) serve(ctx context.Context) string {
	if s.resumed != nil {
		if reason := s.resume(ctx); reason != "" {
			return reason
		}
		return s.converse(ctx)
	}
	s.raw.Renew(s.limits(s.srv.cfg.LoginTime))
	if tc, ok := s.conn.(*tls.Conn); ok {
		if err := handshake(ctx, tc); err != nil {
			return "tls"
		}
	}
	s.ok("%s POP3 ready", s.srv.cfg.Hostname)
	return s.converse(ctx)
}

// converse takes commands until the session is to end.
func (s *session) converse(ctx context.Context) string {
	for {
		line, err := s.readLine()
		verb := "other"
		if err == nil {
			verb, err = s.command(ctx, line)
		}
		if reason := s.answer(verb, err); reason != "" {
			return reason
		}
	}
}

func handshake(ctx context.Context, c *tls.Conn) error {
	ctx, cancel := context.WithTimeout(ctx, handshakeTime)
	defer cancel()
	if err := c.HandshakeContext(ctx); err != nil {
		return fmt.Errorf("tls handshake: %w", err)
	}
	return nil
}

// answer writes the reply to a command that did not write its own, counts it, and
// returns why the session is to end, "" if it goes on.
func (s *session) answer(verb string, err error) string {
	if err == nil {
		s.srv.cfg.Metrics.done(verb)
		return ""
	}
	var end ending
	if errors.As(err, &end) {
		s.srv.cfg.Metrics.done(verb)
		_ = s.w.Flush() // the connection is closed whether it works or not
		return string(end)
	}
	r := refusalOf(err)
	s.srv.cfg.Metrics.Commands.WithLabelValues(verb, result(r)).Inc()
	if r.code == "SYS/TEMP" || r.code == "SYS/PERM" {
		s.log().Warn("command not carried out", "command", verb, "err", err)
	}
	s.refuse(r)
	if r.fault {
		s.faults++
	}
	if r.end || s.faults >= maxFaults || s.failures >= maxFailures {
		_ = s.w.Flush()
		return "refused: " + r.text
	}
	return ""
}

// result is the metric's label for a refusal.
func result(r *refusal) string {
	switch {
	case r.code != "":
		return r.code
	case r.fault:
		return "fault"
	default:
		return "refused"
	}
}

// readLine returns the next line without its CRLF, valid until the next call. A
// refusal answers a line that is none; an ending, that there is no more.
func (s *session) readLine() ([]byte, error) {
	if err := s.beforeRead(); err != nil {
		return nil, err
	}
	line, err := s.r.ReadSlice('\n')
	switch {
	case errors.Is(err, bufio.ErrBufferFull):
		return nil, s.skipLine()
	case err != nil:
		return nil, s.readError(err)
	case !bytes.HasSuffix(line, []byte("\r\n")):
		return nil, fault("lines end with CRLF")
	case bytes.IndexByte(line, 0) >= 0:
		return nil, fault("NUL in line")
	}
	return line[:len(line)-2], nil
}

// skipLine reads past a line longer than the buffer, so that the session stays in
// step; one that does not end within reason ends the session.
func (s *session) skipLine() error {
	for range maxSkip / maxAuthLine {
		_, err := s.r.ReadSlice('\n')
		if err == nil {
			return fault("line too long")
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			return s.readError(err)
		}
	}
	return &refusal{text: "line too long", fault: true, end: true}
}

// beforeRead sends what is to be sent unless the next line is here already
// (pipelining), and sets the line's deadline.
func (s *session) beforeRead() error {
	if err := s.stopped(); err != nil {
		return err
	}
	buffered, _ := s.r.Peek(s.r.Buffered())
	if bytes.IndexByte(buffered, '\n') >= 0 {
		return nil
	}
	if err := s.w.Flush(); err != nil {
		return ending("connection lost")
	}
	if err := s.conn.SetReadDeadline(time.Now().Add(s.srv.cfg.Idle)); err != nil {
		return ending("connection lost")
	}
	// After setting the deadline, as halt closes stop before it sets its own: one
	// of the two is seen.
	return s.stopped()
}

// stopped returns the refusal that ends the session if the server is to stop, or
// the maildrop has moved.
func (s *session) stopped() error {
	select {
	case <-s.srv.stop:
		return &refusal{code: "SYS/TEMP", text: "shutting down", end: true}
	default:
	}
	if s.moved.Load() {
		return &refusal{code: "SYS/TEMP", text: "maildrop is served by another node now, log in again", end: true}
	}
	return nil
}

// readError says how a session goes on that cannot be read from. One that was
// idle for too long ends without a word (RFC 1939 section 3).
func (s *session) readError(err error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		if stop := s.stopped(); stop != nil {
			return stop
		}
		return ending("timeout")
	}
	if errors.Is(err, io.EOF) {
		return ending("closed by client")
	}
	return ending("connection lost")
}

// command carries out a line and returns the command's name for the metrics.
func (s *session) command(ctx context.Context, line []byte) (string, error) {
	verb, arg, _ := strings.Cut(string(line), " ")
	verb = strings.ToUpper(verb)
	if len(line)+2 > maxLine && verb != "AUTH" {
		return "other", fault("line too long")
	}
	s.commands++
	if s.drop != nil && errors.Is(s.srv.cfg.Logon.Allowed(ctx, s.account), covey.Denied) {
		return "other", &refusal{code: "AUTH", text: "account is not served any more", end: true}
	}
	err := s.dispatch(ctx, verb, arg)
	if errors.Is(err, errUnknown) {
		verb, err = "other", fault("unknown command")
	}
	return verb, err
}

var errUnknown = errors.New("unknown command")

// dispatch finds the handler of a command in the session's state.
func (s *session) dispatch(ctx context.Context, verb, arg string) error {
	switch verb {
	case "CAPA":
		return s.capa(arg)
	case "QUIT":
		return s.quit(ctx, arg)
	case "USER", "PASS", "AUTH", "STLS":
		if s.drop != nil {
			return fault("already logged in")
		}
		return s.authorization(ctx, verb, arg)
	case "STAT", "LIST", "UIDL", "RETR", "TOP", "DELE", "RSET", "NOOP":
		if s.drop == nil {
			return fault("log in first")
		}
		return s.transaction(ctx, verb, strings.TrimRight(arg, " "))
	}
	return errUnknown
}

// capa lists what the session can do in its state (RFC 2449 section 5).
func (s *session) capa(arg string) error {
	if arg != "" {
		return fault("CAPA takes no argument")
	}
	s.ok("capabilities follow")
	// EXPIRE NEVER: nothing is removed but by the user.
	_, _ = s.w.WriteString("TOP\r\nUIDL\r\nRESP-CODES\r\nAUTH-RESP-CODE\r\nPIPELINING\r\nEXPIRE NEVER\r\nIMPLEMENTATION Covey\r\n")
	if s.drop == nil {
		if s.canSTLS() {
			_, _ = s.w.WriteString("STLS\r\n")
		}
		if s.secure() {
			_, _ = s.w.WriteString("USER\r\n")
			if m := s.srv.cfg.Logon.Mechanisms(s.peer()); len(m) > 0 {
				_, _ = s.w.WriteString("SASL " + strings.Join(m, " ") + "\r\n")
			}
		}
	}
	s.dot()
	return nil
}

// secure reports whether a password may be sent over the connection.
func (s *session) secure() bool { return s.tls || s.srv.cfg.ClearText.Allows(s.raw.RemoteAddr()) }

// peer is what logon knows of the connection.
func (s *session) peer() logon.Conn {
	return logon.Conn{Remote: s.raw.Remote(), Protocol: "pop3", Session: s.id, Secure: s.secure()}
}
