package imapd

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/emersion/go-sasl"
	"go.uber.org/goleak"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/directory"
	"github.com/covey-mail/covey/logon"
	"github.com/covey-mail/covey/mailbox"
	"github.com/covey-mail/covey/mailbox/mailboxtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// users are Logons with fixed passwords: everybody's is "secret".
type users struct {
	mu       sync.Mutex
	accounts map[string]directory.Account
	err      error // what Password returns instead, if not nil
	tries    []string
}

func newUsers(quota int64, names ...string) *users {
	u := &users{accounts: make(map[string]directory.Account)}
	for i, n := range names {
		u.accounts[n] = directory.Account{
			ID: covey.AccountID(i + 1), Shard: 1, Quota: quota,
			Address: covey.Address{Local: n, Domain: "example.org"},
		}
	}
	return u
}

func (u *users) Mechanisms(logon.Conn) []string { return []string{"PLAIN", "STEPS"} }

func (u *users) Password(_ context.Context, _ logon.Conn, user, password string) (directory.Account, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.tries = append(u.tries, user)
	if u.err != nil {
		return directory.Account{}, u.err
	}
	a, ok := u.accounts[user]
	if !ok || password != "secret" {
		return directory.Account{}, covey.Errorf(covey.Denied, "wrong user name or password")
	}
	return a, nil
}

func (u *users) Allowed(_ context.Context, a directory.Account) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if now, ok := u.accounts[a.Address.Local]; !ok || now.Disabled {
		return covey.Errorf(covey.Denied, "removed or disabled")
	}
	return nil
}

// disable switches an account's log-in off.
func (u *users) disable(name string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	a := u.accounts[name]
	a.Disabled = true
	u.accounts[name] = a
}

func (u *users) attempts() int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return len(u.tries)
}

func (u *users) SASL(ctx context.Context, c logon.Conn, mech string, done func(directory.Account)) (sasl.Server, error) {
	login := func(_, user, password string) error {
		a, err := u.Password(ctx, c, user, password)
		if err == nil {
			done(a)
		}
		return err
	}
	if mech == "STEPS" {
		return &steps{login: login}, nil
	}
	return sasl.NewPlainServer(login), nil
}

// steps asks for the user name and the password in turn, and has a last word of
// its own, as SCRAM has.
type steps struct {
	login func(_, user, password string) error
	n     int
	user  string
}

func (s *steps) Next(response []byte) ([]byte, bool, error) {
	s.n++
	switch s.n {
	case 1:
		return []byte("user?"), false, nil
	case 2:
		s.user = string(response)
		return []byte("password?"), false, nil
	case 3:
		return []byte("welcome"), true, s.login("", s.user, string(response))
	}
	return nil, false, errors.New("too many responses")
}

// A rig is a running server with accounts alice and bob.
type rig struct {
	*mailboxtest.Cluster
	users  *users
	server *Server
	addr   string
	tls    *tls.Config
}

// start runs a server until the test ends. change may alter its configuration.
func start(t testing.TB, change func(*rig, *Config)) *rig {
	t.Helper()
	r := &rig{Cluster: mailboxtest.New(t, 1), tls: testTLS(t)}
	r.users = newUsers(0, "alice", "bob")
	cfg := Config{
		Logons: r.users, Mailboxes: r.Service, Hostname: "mail.example.org", TLS: r.tls,
		Logger: slog.New(slog.NewTextHandler(testLog{t}, &slog.HandlerOptions{Level: slog.LevelWarn})),
	}
	if change != nil {
		change(r, &cfg)
	}
	var err error
	if r.server, err = New(cfg); err != nil {
		t.Fatal(err)
	}
	door := r.server
	if throughAnother(t) && cfg.Homes == nil {
		t.Cleanup(func() {
			if err := r.server.Close(); err != nil {
				t.Errorf("close home: %v", err)
			}
		})
		cfg.Homes = &homes{t: t, home: r.server}
		if door, err = New(cfg); err != nil {
			t.Fatal(err)
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r.addr = l.Addr().String()
	served := make(chan error, 1)
	go func() { served <- door.Serve(l) }()
	t.Cleanup(func() {
		if err := door.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
		if err := <-served; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	return r
}

type testLog struct{ t testing.TB }

func (l testLog) Write(p []byte) (int, error) {
	l.t.Log(strings.TrimSpace(string(p)))
	return len(p), nil
}

func testTLS(t testing.TB) *tls.Config {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	cert := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"localhost"}}
	der, err := x509.CreateCertificate(rand.Reader, cert, cert, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
}

// account returns a user's mailboxes, past IMAP.
func (r *rig) account(name string) *mailbox.Account {
	a := r.users.accounts[name]
	return r.Service.Account(a.ID, a.Shard, a.Quota)
}

// deliver puts a message into a mailbox, past IMAP.
func (r *rig) deliver(t testing.TB, user, box, msg string) covey.UID {
	t.Helper()
	placed, err := r.account(user).Append(t.Context(), box, mailbox.AppendMessage{}, strings.NewReader(msg))
	if err != nil {
		t.Fatal(err)
	}
	return placed.UID
}

const testMessage = "From: Alice <alice@example.org>\r\nTo: bob@example.net\r\nSubject: hello world\r\n" +
	"Date: Fri, 2 Jan 2026 10:00:00 +0100\r\nMessage-ID: <1@example.org>\r\n\r\nThe quick brown fox.\r\n"

// A client speaks IMAP and notices every octet.
type client struct {
	t    testing.TB
	conn net.Conn
	br   *bufio.Reader
	tag  int
}

// dial connects and takes the greeting.
func (r *rig) dial(t testing.TB) *client {
	t.Helper()
	conn, err := net.Dial("tcp", r.addr)
	if err != nil {
		t.Fatal(err)
	}
	c := newClient(t, conn)
	if got := c.line(); !strings.HasPrefix(got, "* OK [CAPABILITY IMAP4rev1 ") {
		t.Fatalf("greeting %q", got)
	}
	return c
}

func newClient(t testing.TB, conn net.Conn) *client {
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	return &client{t: t, conn: conn, br: bufio.NewReader(conn)}
}

// login connects and logs in.
func (r *rig) login(t testing.TB, user string) *client {
	t.Helper()
	c := r.dial(t)
	c.ok("LOGIN %s secret", user)
	return c
}

// selected logs in and selects INBOX.
func (r *rig) selected(t testing.TB, user string) *client {
	t.Helper()
	c := r.login(t, user)
	c.ok("SELECT INBOX")
	return c
}

func (c *client) send(s string) {
	c.t.Helper()
	if _, err := io.WriteString(c.conn, s); err != nil {
		c.t.Fatalf("send: %v", err)
	}
}

// read returns the next response, literals in it as they come.
func (c *client) read() (string, error) {
	var b strings.Builder
	for {
		line, err := c.br.ReadString('\n')
		b.WriteString(line)
		if err != nil {
			return b.String(), err
		}
		text, ok := strings.CutSuffix(line, "\r\n")
		if !ok {
			return b.String(), fmt.Errorf("line %q does not end in CRLF", line)
		}
		open := strings.LastIndexByte(text, '{')
		if open < 0 || !strings.HasSuffix(text, "}") {
			return strings.TrimSuffix(b.String(), "\r\n"), nil
		}
		lit := parseLiteral([]byte(text[open+1 : len(text)-1]))
		if lit == nil {
			return b.String(), fmt.Errorf("bad literal in %q", line)
		}
		if _, err := io.CopyN(&b, c.br, lit.size); err != nil {
			return b.String(), err
		}
	}
}

func (c *client) line() string {
	c.t.Helper()
	s, err := c.read()
	if err != nil {
		c.t.Fatalf("read: %v after %q", err, s)
	}
	return s
}

// until reads to the tagged response and returns what came before.
func (c *client) until(tag string) (untagged []string, tagged string) {
	c.t.Helper()
	for {
		s := c.line()
		if strings.HasPrefix(s, tag+" ") {
			return untagged, strings.TrimPrefix(s, tag+" ")
		}
		untagged = append(untagged, s)
	}
}

// cmd sends a command and returns the responses to it.
func (c *client) cmd(format string, args ...any) (untagged []string, tagged string) {
	c.t.Helper()
	c.tag++
	tag := fmt.Sprintf("a%d", c.tag)
	c.send(tag + " " + fmt.Sprintf(format, args...) + "\r\n")
	return c.until(tag)
}

// ok is cmd for a command that must succeed.
func (c *client) ok(format string, args ...any) []string {
	c.t.Helper()
	untagged, tagged := c.cmd(format, args...)
	if !strings.HasPrefix(tagged, "OK") {
		c.t.Fatalf("%.200s: %s", fmt.Sprintf(format, args...), tagged)
	}
	return untagged
}

// want sends a command whose tagged response must begin with prefix.
func (c *client) want(prefix, format string, args ...any) []string {
	c.t.Helper()
	untagged, tagged := c.cmd(format, args...)
	if !strings.HasPrefix(tagged, prefix) {
		c.t.Errorf("%.200s: got %q, want %q", fmt.Sprintf(format, args...), tagged, prefix)
	}
	return untagged
}

// append stores a message with a non-synchronising literal.
func (c *client) append(box, msg string) string {
	c.t.Helper()
	_, tagged := c.cmd("APPEND %s {%d+}\r\n%s", box, len(msg), msg)
	if !strings.HasPrefix(tagged, "OK") {
		c.t.Fatalf("APPEND: %s", tagged)
	}
	return tagged
}

// bye expects a last line with prefix and then the end.
func (c *client) bye(prefix string) {
	c.t.Helper()
	if got := c.line(); !strings.HasPrefix(got, prefix) {
		c.t.Fatalf("got %q, want %q", got, prefix)
	}
	c.closed()
}

// closed expects the end of the stream.
func (c *client) closed() {
	c.t.Helper()
	if rest, err := io.ReadAll(c.br); len(rest) > 0 {
		c.t.Fatalf("got %q (%v), want the end", rest, err)
	}
}

func contained(lines []string, part string) bool {
	for _, l := range lines {
		if strings.Contains(l, part) {
			return true
		}
	}
	return false
}

// startTLS switches to TLS.
func (c *client) startTLS() {
	c.t.Helper()
	c.ok("STARTTLS")
	conn := tls.Client(c.conn, &tls.Config{InsecureSkipVerify: true})
	if err := conn.Handshake(); err != nil {
		c.t.Fatal(err)
	}
	c.conn, c.br = conn, bufio.NewReader(conn)
}

func repeat(s string, n int) string { return string(bytes.Repeat([]byte(s), n)) }
