package smtpd

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/emersion/go-smtp"

	"github.com/covey-mail/covey/delivery"
	"github.com/covey-mail/covey/internal/serve"
)

const (
	maxCommand  = 2048
	maxSASL     = 12288 // RFC 4954 section 4
	inputBuffer = 16 << 10
	// maxSkip is how much of a bad line is read in search of its end.
	maxSkip = 16 << 20
	// lingerTime and lingerBytes bound how long a peer that was sent away may go
	// on sending, so that its kernel does not drop our last words with a reset.
	lingerTime  = 200 * time.Millisecond
	lingerBytes = 1 << 20
	// recordHandshake is the first octet of TLS (RFC 8446 section 5.1).
	recordHandshake = 22
)

// A conn is the guard: the net.Conn that go-smtp talks to, between it and the
// connection. go-smtp reads only when it has answered what it read before, so a
// Read is where the next command is due, and replies are collected until then:
// pipelined commands are answered in one write.
//
// One goroutine uses a conn at a time, go-smtp's; drain and abort may be called
// by others.
type conn struct {
	srv  *Server
	kind Kind
	id   string
	born time.Time
	raw  *serve.Conn
	net  net.Conn // raw, or TLS above it
	in   *bufio.Reader
	out  *bufio.Writer
	s    *session

	ctx    context.Context // ends with the connection
	cancel context.CancelFunc

	started bool
	closed  bool
	secure  bool   // TLS is on
	next    []byte // input that go-smtp has not read yet
	again   string // a command line to be taken once more
	mute    bool   // go-smtp's replies go nowhere, until it reads a command
	midline bool   // go-smtp's last write did not end a line
	sasl    bool   // the next line belongs to AUTH
	dead    bool   // nothing is read any more
	linger  bool
	reason  string // why the session ended; "" for QUIT or the peer's close
	errors  int    // since the last message taken
	idle    int    // likewise
	refused int    // in all

	here func() bool // raw.Here

	// unheard are receipts whose positive reply was written and perhaps not
	// received.
	unheard []delivery.Receipt
}

// Read implements net.Conn for go-smtp: it returns one command line. What go-smtp
// does not hear of, whole transactions above all, is done meanwhile.
func (c *conn) Read(p []byte) (n int, err error) {
	defer func() {
		if v := recover(); v != nil {
			c.srv.log.Error("panic", "session", c.id, "panic", fmt.Sprint(v), "stack", string(debug.Stack()))
			c.bye(replyFault, "panic")
			n, err = 0, io.EOF
		}
	}()
	if c.closed {
		return 0, net.ErrClosed
	}
	if len(c.next) == 0 {
		c.mute = false
		line := c.command()
		if line == "" {
			return 0, io.EOF
		}
		c.next = []byte(line)
	}
	n = copy(p, c.next)
	c.next = c.next[n:]
	return n, nil
}

// command returns the next line that go-smtp should see, "" when there is no
// more.
func (c *conn) command() string {
	if !c.started {
		c.started = true
		c.start()
	}
	for !c.dead {
		if c.enough() {
			return ""
		}
		line, ok := c.line()
		if !ok {
			if c.sasl && !c.dead {
				return c.cancelAuth(nil)
			}
			continue
		}
		if c.sasl {
			return c.saslLine(line)
		}
		if forward := c.s.command(line); forward != "" {
			return forward + "\r\n"
		}
	}
	return ""
}

// enough ends a session between two commands: for the server's shutdown outside
// of a transaction, or when the peer had its share of tries.
func (c *conn) enough() bool {
	switch {
	case c.srv.draining.Load() && c.s.tx == nil:
		c.bye(replyShutdown, "shutdown")
	case c.errors >= c.srv.cfg.MaxErrors:
		c.bye(replyErrors, "errors")
	case c.idle >= c.srv.cfg.MaxIdle:
		c.bye(replyIdling, "idle commands")
	}
	return c.dead
}

// start does what comes before the first command: TLS where it comes first, and
// the look at who calls.
func (c *conn) start() {
	switch {
	case c.kind == LMTP && !c.srv.trusts(c.raw.Remote()):
		c.unsay()
		c.bye(replyStranger, "stranger")
	case c.kind == Submissions:
		c.handshake()
	case talksFirst(c.raw.Conn):
		c.unsay()
		c.bye(replySync, "spoke before the greeting")
		c.linger = true
	default:
		if b, err := c.in.Peek(1); err == nil && b[0] == recordHandshake {
			c.end("TLS where SMTP comes first")
		}
	}
}

// unsay drops replies not sent yet.
func (c *conn) unsay() { c.out.Reset(output{c}) }

// handshake turns the connection to TLS. What was sent in clear must have been
// flushed. After a failure nothing is written: serve's Conn sees to it that no
// plain text follows.
func (c *conn) handshake() {
	c.raw.BeginTLS()
	t := tls.Server(c.raw, c.srv.cfg.TLS)
	if err := t.HandshakeContext(c.ctx); err != nil {
		c.unsay()
		c.end("tls: " + err.Error())
		return
	}
	c.net, c.secure = t, true
}

// line returns the next line without its end. When it is bad it was answered and
// skipped, or the connection is dead, and ok is false.
func (c *conn) line() (line string, ok bool) {
	if line, c.again = c.again, ""; line != "" {
		return line, true
	}
	b, err := c.in.ReadSlice('\n')
	if err != nil && err != bufio.ErrBufferFull {
		return "", false // receive saw to it
	}
	ended := bytes.HasSuffix(b, []byte("\r\n"))
	switch limit := c.lineLimit(b); {
	case len(b) > limit && c.sasl:
		c.reply(replyLongSASL)
	case len(b) > limit:
		c.reply(replyLongLine)
	case !ended || !printable(b[:len(b)-2]):
		c.reply(replyBadLine)
	default:
		return strings.TrimRight(string(b[:len(b)-2]), " \t"), true
	}
	if !ended {
		c.skip(b[len(b)-1])
	}
	return "", false
}

func (c *conn) lineLimit(b []byte) int {
	if c.sasl || len(b) > 5 && strings.EqualFold(string(b[:5]), "AUTH ") {
		return maxSASL
	}
	return maxCommand
}

// skip reads on to the end of a bad line, which is CRLF whatever else is in it:
// what follows a bare CR or LF is not another command.
func (c *conn) skip(last byte) {
	for n := 0; n < maxSkip; {
		b, err := c.in.ReadSlice('\n')
		if err != nil && err != bufio.ErrBufferFull {
			return
		}
		n += len(b)
		if err == nil && (len(b) > 1 && b[len(b)-2] == '\r' || len(b) == 1 && last == '\r') {
			return
		}
		last = b[len(b)-1]
	}
	c.end("line without end")
	c.linger = true
}

// printable reports whether a line is UTF-8 without control characters other
// than tab.
func printable(b []byte) bool {
	for _, x := range b {
		if x < ' ' && x != '\t' || x == 0x7f {
			return false
		}
	}
	return utf8.Valid(b)
}

// receive is where all input comes from, through c.in. What was replied is sent
// before a wait, and what arrives after it shows that the peer goes on.
func (c *conn) receive(p []byte) (int, error) {
	if c.dead {
		return 0, io.EOF
	}
	if err := c.out.Flush(); err != nil {
		c.end("write: " + err.Error())
		return 0, io.EOF
	}
	for {
		n, err := c.net.Read(p)
		if n > 0 {
			c.settle()
			return n, nil
		}
		if err == nil {
			continue
		}
		if err = c.interrupted(err); err != nil {
			return 0, err
		}
	}
}

// input makes receive an io.Reader.
type input struct{ c *conn }

// Read implements io.Reader.
func (i input) Read(p []byte) (int, error) { return i.c.receive(p) }

// output writes to what the connection is at the time.
type output struct{ c *conn }

// Write implements io.Writer.
func (o output) Write(p []byte) (int, error) { return o.c.net.Write(p) }

// interrupted decides what a failed read means. nil: read on.
func (c *conn) interrupted(err error) error {
	var expired serve.Expired
	switch {
	case errors.As(err, &expired):
		c.bye(replyTimeout, "timeout: "+string(expired))
	case errors.Is(err, os.ErrDeadlineExceeded):
		if !c.srv.draining.Load() {
			c.bye(replyTimeout, "timeout")
			break
		}
		// drain woke us. Within a transaction the peer may go on.
		if c.s.tx != nil {
			return c.raw.SetReadDeadline(time.Time{})
		}
		c.bye(replyShutdown, "shutdown")
	case err == io.EOF:
		c.end("")
	default:
		c.end("read: " + err.Error())
	}
	return io.EOF
}

// settle confirms receipts once the peer's kernel has everything that was
// written.
func (c *conn) settle() {
	if len(c.unheard) == 0 {
		return
	}
	if n, err := c.raw.Unsent(); err != nil || n > 0 {
		return
	}
	for _, r := range c.unheard {
		c.srv.svc.Delivery.Confirm(r)
	}
	c.unheard = c.unheard[:0]
}

// reply answers in go-smtp's place.
func (c *conn) reply(r *smtp.SMTPError) {
	c.count(r.Code)
	b := strconv.AppendInt(c.out.AvailableBuffer(), int64(r.Code), 10)
	for i, n := range r.EnhancedCode {
		b = strconv.AppendInt(append(b, " .."[i]), int64(n), 10)
	}
	b = append(append(append(b, ' '), r.Message...), "\r\n"...)
	_, _ = c.out.Write(b) // an error stays in c.out
}

// bye answers and ends the session.
func (c *conn) bye(r *smtp.SMTPError, reason string) {
	if !c.dead {
		c.reply(r)
	}
	c.end(reason)
}

// end ends the session: nothing more is read, and go-smtp will close.
func (c *conn) end(reason string) {
	if !c.dead {
		c.dead, c.reason = true, reason
	}
}

// count notes a reply. Of refused recipients a peer may have as many as of idle
// commands: a list has some that are gone.
func (c *conn) count(code int) {
	if code < 400 {
		return
	}
	c.refused++
	c.srv.cfg.Metrics.Refused.WithLabelValues(c.kind.String(), string(rune('0'+code/100))).Inc()
	switch {
	case code < 500:
	case c.s.verb == "RCPT":
		c.idle++
	default:
		c.errors++
	}
}

// Write implements net.Conn for go-smtp, which writes one line of a reply at a
// time.
func (c *conn) Write(p []byte) (int, error) {
	if c.closed {
		return 0, net.ErrClosed
	}
	silent := c.mute || c.dead
	if !c.midline {
		c.watch(p)
	}
	c.midline = !bytes.HasSuffix(p, []byte("\n"))
	if silent {
		return len(p), nil
	}
	if c.s.verb == "EHLO" && c.offersTLS() && bytes.HasPrefix(p, []byte("250-PIPELINING")) {
		_, _ = c.out.WriteString("250-STARTTLS\r\n") // an error stays in c.out
	}
	if _, err := c.out.Write(p); err != nil {
		c.end("write: " + err.Error())
		return 0, err
	}
	return len(p), nil
}

// watch looks at the start of a reply line of go-smtp.
func (c *conn) watch(p []byte) {
	if len(p) < 4 || p[3] != ' ' {
		return
	}
	code := int(p[0]-'0')*100 + int(p[1]-'0')*10 + int(p[2]-'0')
	c.sasl = code == 334
	if c.mute || c.dead {
		return
	}
	c.count(code)
	if code == 421 {
		c.end("refused")
	}
}

func (c *conn) offersTLS() bool { return !c.secure && c.kind != LMTP && c.srv.cfg.TLS != nil }

// Close implements net.Conn: it sends what is left to say. Later calls do
// nothing.
func (c *conn) Close() error {
	if c.closed {
		return net.ErrClosed
	}
	c.closed = true
	c.cancel()
	for _, r := range c.unheard {
		c.srv.svc.Delivery.Lost(r)
	}
	flushed := c.out.Flush() == nil
	if c.linger && flushed {
		c.hearOut()
	}
	err := c.net.Close()
	if c.secure {
		_ = c.raw.Close() // again, in case TLS could not say its goodbye
	}
	c.srv.leave(c)
	c.s.logEnd()
	return err
}

// hearOut reads what the peer still sends.
func (c *conn) hearOut() {
	if w, ok := c.raw.Conn.(interface{ CloseWrite() error }); ok && !c.secure {
		_ = w.CloseWrite()
	}
	_ = c.raw.SetReadDeadline(time.Now().Add(lingerTime))
	_, _ = io.CopyN(io.Discard, c.net, lingerBytes)
}

// drain wakes a conn that waits for its peer, for shutdown.
func (c *conn) drain() { _ = c.raw.SetReadDeadline(time.Unix(1, 0)) }

// abort ends a conn whatever it does.
func (c *conn) abort() {
	c.cancel()
	_ = c.raw.Close()
}

// Deadlines are serve's affair.

// SetDeadline implements net.Conn and does nothing.
func (c *conn) SetDeadline(time.Time) error { return nil }

// SetReadDeadline implements net.Conn and does nothing.
func (c *conn) SetReadDeadline(time.Time) error { return nil }

// SetWriteDeadline implements net.Conn and does nothing.
func (c *conn) SetWriteDeadline(time.Time) error { return nil }

// LocalAddr implements net.Conn.
func (c *conn) LocalAddr() net.Addr { return c.raw.LocalAddr() }

// RemoteAddr implements net.Conn.
func (c *conn) RemoteAddr() net.Addr { return c.raw.RemoteAddr() }

// remote returns the peer's address as a log shows it.
func remote(a netip.Addr) string {
	if !a.IsValid() {
		return "local"
	}
	return a.String()
}
