package smtpd

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/covey-mail/covey/logon"
)

// patience is how long a test waits for what must happen.
const patience = 10 * time.Second

// A rig is a Server with its fakes.
type rig struct {
	t     testing.TB
	srv   *Server
	mail  *mailroom
	door  *doorman
	log   *syncBuffer
	wg    sync.WaitGroup
	addrs map[Kind]net.Addr
}

// newRig starts a Server with a listener on loopback for each kind asked for
// later. change may alter the Config.
func newRig(t testing.TB, change ...func(*Config)) *rig {
	t.Helper()
	r := &rig{t: t, mail: newMailroom(), door: new(doorman), log: new(syncBuffer), addrs: make(map[Kind]net.Addr)}
	cfg := Config{
		Hostname: "mx.example.org", MaxMessageBytes: 100_000, ClearText: logon.ClearTextNever,
		TLS:    &tls.Config{Certificates: []tls.Certificate{testCert()}},
		Logger: slog.New(slog.NewTextHandler(r.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	for _, f := range change {
		f(&cfg)
	}
	var err error
	if r.srv, err = New(cfg, Services{Delivery: r.mail, Directory: owners{}, Logon: r.door}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.srv.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
		r.wg.Wait()
	})
	return r
}

func (r *rig) listen(k Kind) net.Addr {
	r.t.Helper()
	if a := r.addrs[k]; a != nil {
		return a
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		r.t.Fatal(err)
	}
	r.serve(k, l)
	return l.Addr()
}

func (r *rig) serve(k Kind, l net.Listener) {
	r.addrs[k] = l.Addr()
	r.wg.Go(func() {
		if err := r.srv.Serve(k, l); err != nil {
			r.t.Errorf("serve: %v", err)
		}
	})
}

// dial connects to a listener of kind k.
func (r *rig) dial(k Kind) *client {
	r.t.Helper()
	a := r.listen(k)
	c, err := net.Dial(a.Network(), a.String())
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { c.Close() })
	return newClient(r.t, c)
}

// A client is the peer of a dialogue.
type client struct {
	t testing.TB
	net.Conn
	in *bufio.Reader
}

func newClient(t testing.TB, c net.Conn) *client {
	_ = c.SetDeadline(time.Now().Add(patience))
	return &client{t: t, Conn: c, in: bufio.NewReader(c)}
}

func (c *client) send(s string) {
	c.t.Helper()
	if _, err := io.WriteString(c, s); err != nil {
		c.t.Logf("send %.60q: %v", s, err) // what the peer closed, the reply tells
	}
}

// write is send without a copy.
func (c *client) write(p []byte) { _, _ = c.Write(p) }

// reply reads a whole reply; "" means that the connection was closed.
func (c *client) reply() string {
	c.t.Helper()
	var all strings.Builder
	for {
		line, err := c.in.ReadString('\n')
		if err != nil {
			if ne, ok := err.(net.Error); ok && ne.Timeout() {
				c.t.Fatalf("no reply after %q", all.String())
			}
			return ""
		}
		if len(line) < 6 || !strings.HasSuffix(line, "\r\n") || line[3] != ' ' && line[3] != '-' {
			c.t.Fatalf("malformed reply line %q", line)
		}
		all.WriteString(line)
		if line[3] == ' ' {
			return all.String()
		}
	}
}

// last is the last line of a reply.
func last(reply string) string {
	reply = strings.TrimSuffix(reply, "\r\n")
	return reply[strings.LastIndexByte(reply, '\n')+1:]
}

// expect reads a reply and checks that its last line starts with one of the
// prefixes.
func (c *client) expect(prefixes ...string) string {
	c.t.Helper()
	got := c.reply()
	for _, p := range prefixes {
		if strings.HasPrefix(last(got), p) && got != "" {
			return got
		}
	}
	c.t.Fatalf("got reply %q, want %q", got, prefixes)
	return ""
}

// expectClosed checks that nothing comes any more.
func (c *client) expectClosed() {
	c.t.Helper()
	if got, err := c.in.ReadString('\n'); err == nil || got != "" {
		c.t.Fatalf("got %q, %v, want the end", got, err)
	} else if ne, ok := err.(net.Error); ok && ne.Timeout() {
		c.t.Fatal("still open")
	}
}

// startTLS goes on in TLS, after a 220.
func (c *client) startTLS() {
	c.t.Helper()
	t := tls.Client(c.Conn, &tls.Config{InsecureSkipVerify: true})
	if err := t.Handshake(); err != nil {
		c.t.Fatal(err)
	}
	c.Conn, c.in = t, bufio.NewReader(t)
}

// run plays a dialogue, a line at a time:
//
//	> text        is sent, with CRLF
//	= "text"      is sent as it is, in Go's notation
//	< 250 2.1     starts the last line of the next reply; alternatives with |
//	<EOF          the server closes
//	STARTTLS      the client turns to TLS
//	# text        is for the reader
func (c *client) run(script string) {
	c.t.Helper()
	for line := range strings.SplitSeq(script, "\n") {
		line = strings.TrimLeft(line, "\t ")
		op, arg, _ := strings.Cut(line, " ")
		switch op {
		case "", "#":
		case ">":
			c.send(arg + "\r\n")
		case "=":
			raw, err := strconv.Unquote(arg)
			if err != nil {
				c.t.Fatalf("script %s: %v", line, err)
			}
			c.send(raw)
		case "<":
			got := c.reply()
			ok := false
			for p := range strings.SplitSeq(arg, "|") {
				ok = ok || got != "" && strings.HasPrefix(last(got), p)
			}
			if !ok {
				c.t.Fatalf("got %q, want %s", got, arg)
			}
		case "<EOF":
			c.expectClosed()
		case "STARTTLS":
			c.startTLS()
		default:
			c.t.Fatalf("script: %q", line)
		}
	}
}

const hello = "< 220\n> EHLO client.example\n< 250\n"
const hellolmtp = "< 220\n> LHLO client.example\n< 250\n"

// opening starts a transaction up to the last RCPT.
const opening = "> MAIL FROM:<sender@remote.example>\n< 250\n> RCPT TO:<bob@example.org>\n< 250\n"

// ready opens a session of kind k, logged in where that is needed.
func (r *rig) ready(k Kind) *client {
	r.t.Helper()
	if k == Submissions {
		a := r.listen(k)
		raw, err := tls.Dial("tcp", a.String(), &tls.Config{InsecureSkipVerify: true})
		if err != nil {
			r.t.Fatal(err)
		}
		r.t.Cleanup(func() { raw.Close() })
		c := newClient(r.t, raw)
		c.run(hello)
		return c
	}
	c := r.dial(k)
	switch k {
	case LMTP:
		c.run(hellolmtp)
	case Submission:
		c.run(hello + "> STARTTLS\n< 220\nSTARTTLS\n> EHLO client.example\n< 250\n")
	default:
		c.run(hello)
	}
	return c
}

// plainIR is alice's PLAIN response.
const plainIR = "AGFsaWNlQGV4YW1wbGUub3JnAHNlc2FtZQ=="

func (r *rig) loggedIn(k Kind) *client {
	r.t.Helper()
	c := r.ready(k)
	c.run("> AUTH PLAIN " + plainIR + "\n< 235")
	return c
}

// waitFor polls until cond holds.
func waitFor(t testing.TB, what string, cond func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for !cond() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("still waiting: %s", what)
		}
	}
}

// syncBuffer is a bytes.Buffer for several goroutines.
type syncBuffer struct {
	mu sync.Mutex // guards b
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// row is a dialogue with a server of one kind.
type row struct {
	name   string
	kind   Kind
	script string
	mail   int // messages taken
}

// play runs rows, each with a session of its own.
func play(t *testing.T, rows []row, change ...func(*Config)) {
	t.Helper()
	for i, x := range rows {
		t.Run(fmt.Sprintf("%s#%d", x.name, i), func(t *testing.T) {
			r := newRig(t, change...)
			r.ready(x.kind).run(x.script)
			if got := len(r.mail.messages()); got != x.mail {
				t.Errorf("%d messages taken, want %d", got, x.mail)
			}
		})
	}
}
