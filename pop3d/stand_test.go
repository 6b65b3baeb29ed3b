package pop3d

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/emersion/go-sasl"
	"github.com/xdg-go/scram"
	"go.uber.org/goleak"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/directory"
	"github.com/covey-mail/covey/internal/serve"
	"github.com/covey-mail/covey/logon"
	"github.com/covey-mail/covey/mailbox"
	"github.com/covey-mail/covey/mailbox/mailboxtest"
	"github.com/covey-mail/covey/storage"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// Accounts that every stand has; carol's shard does not exist.
var (
	alice = directory.Account{ID: 1, Shard: 1, Address: covey.Address{Local: "alice", Domain: "example.org"}}
	carol = directory.Account{ID: 3, Shard: 9, Address: covey.Address{Local: "carol", Domain: "example.org"}}
)

const secret = "open sesame"

var (
	_ Logon = (*logon.Service)(nil)
	_ Mail  = (*mailbox.Service)(nil)
)

// fakeLogon knows a few users, all with the same password, and answers at once.
type fakeLogon struct {
	users map[string]directory.Account
	limit int // log-ins that fail before covey.Limit; 0: never

	mu     sync.Mutex // guards what follows
	failed int
	barred bool // nobody may go on
}

func (f *fakeLogon) Allowed(context.Context, directory.Account) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.barred {
		return covey.Errorf(covey.Denied, "account was disabled")
	}
	return nil
}

// bar shuts everybody out.
func (f *fakeLogon) bar() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.barred = true
}

func (f *fakeLogon) Mechanisms(c logon.Conn) []string {
	if !c.Secure {
		return nil
	}
	return []string{"PLAIN", "SCRAM-SHA-256"}
}

func (f *fakeLogon) Password(_ context.Context, c logon.Conn, user, pass string) (directory.Account, error) {
	a, known := f.users[user]
	if user == "panic" {
		panic("a fault of ours")
	}
	if c.Secure && known && pass == secret {
		return a, nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.failed++; f.limit > 0 && f.failed > f.limit {
		return directory.Account{}, covey.Errorf(covey.Limit, "too many failures of %s", user)
	}
	return directory.Account{}, covey.Errorf(covey.Denied, "user name or password is wrong")
}

func (f *fakeLogon) SASL(ctx context.Context, c logon.Conn, mech string, done func(directory.Account)) (sasl.Server, error) {
	switch mech {
	case "PLAIN":
		return sasl.NewPlainServer(func(_, user, pass string) error {
			a, err := f.Password(ctx, c, user, pass)
			if err == nil {
				done(a)
			}
			return err
		}), nil
	case "SCRAM-SHA-256":
		server, err := scram.SHA256.NewServer(scramKeys)
		return &scramServer{conv: server.NewConversation(), done: func() { done(f.users["alice"]) }}, err
	}
	return nil, covey.Errorf(covey.NotFound, "no mechanism %q", mech)
}

func scramKeys(string) (scram.StoredCredentials, error) {
	c, err := scram.SHA256.NewClient("alice", secret, "")
	if err != nil {
		return scram.StoredCredentials{}, err
	}
	return c.GetStoredCredentialsWithError(scram.KeyFactors{Salt: "salt", Iters: 4096})
}

// scramServer gives the server's signature together with success, as some
// mechanisms do.
type scramServer struct {
	conv *scram.ServerConversation
	done func()
}

func (s *scramServer) Next(response []byte) ([]byte, bool, error) {
	if response == nil {
		return nil, false, nil
	}
	answer, err := s.conv.Step(string(response))
	if err != nil {
		return nil, false, covey.Errorf(covey.Denied, "scram: %w", err)
	}
	if s.conv.Valid() {
		s.done()
	}
	return []byte(answer), s.conv.Valid(), nil
}

// A stand is a server on loopback over mail in memory.
type stand struct {
	*Server
	home  *Server // where sessions run; the same, but for throughAnother
	mail  *mailboxtest.Cluster
	logon *fakeLogon
	addr  string
	tls   *tls.Config // for clients
	log   *lockedBuffer
	sent  uint64
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// newStand starts a server; set may change its configuration first.
func newStand(t testing.TB, set func(*Config)) *stand {
	t.Helper()
	s := standWithout(t, set)
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.addr = inner.Addr().String()
	s.serveOn(t, serve.Wrap(inner, serve.Config{Refusal: Refusal()}))
	return s
}

// standWithout is a stand without a listener.
func standWithout(t testing.TB, set func(*Config)) *stand {
	t.Helper()
	s := &stand{
		mail:  mailboxtest.New(t, 2),
		logon: &fakeLogon{users: map[string]directory.Account{"alice": alice, "carol": carol}},
		log:   new(lockedBuffer),
	}
	server, client := testTLS(t)
	s.tls = client
	cfg := Config{
		Hostname: "mail.example.org", Logon: s.logon, Mail: s.mail.Service, TLS: server,
		Logger: slog.New(slog.NewTextHandler(s.log, nil)),
	}
	if set != nil {
		set(&cfg)
	}
	var err error
	if s.Server, err = New(cfg); err != nil {
		t.Fatal(err)
	}
	s.home = s.Server
	if throughAnother(t) && cfg.Homes == nil {
		t.Cleanup(func() {
			if err := s.home.Close(); err != nil {
				t.Errorf("close home: %v", err)
			}
		})
		cfg.Homes = &homes{t: t, home: s.home}
		if s.Server, err = New(cfg); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

// serveOn serves l until the test ends.
func (s *stand) serveOn(t testing.TB, l net.Listener) {
	t.Helper()
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := s.Serve(l); err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
		wg.Wait()
	})
}

// deliver puts messages into alice's INBOX.
func (s *stand) deliver(t testing.TB, messages ...string) {
	t.Helper()
	for _, m := range messages {
		s.sent++
		d := storage.Deliver{
			ID:         covey.DeliveryID{Node: 7, Boot: 1, Seq: s.sent},
			Time:       s.mail.Now(),
			Recipients: []storage.Recipient{{Account: alice.ID, Mailbox: storage.Inbox}},
			Body:       storage.Body{Inline: []byte(m), Size: int64(len(m))},
		}
		binary.LittleEndian.PutUint64(d.Hash[:], s.sent)
		if _, err := s.mail.Propose(t.Context(), alice.Shard, d); err != nil {
			t.Fatalf("deliver: %v", err)
		}
	}
}

// expunge removes alice's messages from first to last as IMAP would.
func (s *stand) expunge(t testing.TB, first, last covey.UID) {
	t.Helper()
	v, err := s.mail.Service.Account(alice.ID, alice.Shard, 0).Open(t.Context(), storage.Inbox)
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	if _, err := v.Remove(t.Context(), []storage.UIDRange{{First: first, Last: last}}); err != nil {
		t.Fatalf("expunge: %v", err)
	}
}

// count returns how many messages alice has.
func (s *stand) count(t testing.TB) uint32 {
	t.Helper()
	m, err := s.mail.Service.Account(alice.ID, alice.Shard, 0).Status(t.Context(), storage.Inbox)
	if err != nil {
		t.Fatal(err)
	}
	return m.Messages
}

// A client is the other end of a session.
type client struct {
	net.Conn
	r *bufio.Reader
}

func newClient(c net.Conn) *client {
	return &client{Conn: c, r: bufio.NewReaderSize(c, 64<<10)}
}

// dial connects; the greeting is still to be read.
func (s *stand) dial(t testing.TB) *client {
	t.Helper()
	c, err := net.Dial("tcp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return newClient(c)
}

const loginScript = `
	< +OK mail.example.org POP3 ready
	> USER alice
	< +OK send PASS
	> PASS ` + secret + `
	< +OK …`

// login connects and logs alice in.
func (s *stand) login(t testing.TB) *client {
	t.Helper()
	c := s.dial(t)
	c.talk(t, loginScript)
	return c
}

// talk plays a dialogue: "> line" is sent with CRLF, "< line" must be received; …
// at the end of a line stands for anything. "< EOF" is the end of the
// connection.
func (c *client) talk(t testing.TB, script string) {
	t.Helper()
	for line := range strings.Lines(script) {
		line = strings.Trim(line, "\t\n")
		switch {
		case line == "":
		case strings.HasPrefix(line, "> "):
			c.send(t, line[2:]+"\r\n")
		case line == "< EOF":
			if rest, err := io.ReadAll(c.r); len(rest) > 0 || errors.Is(err, context.DeadlineExceeded) {
				t.Fatalf("got %q, %v; want the end", rest, err)
			}
		case strings.HasPrefix(line, "< "):
			got := c.line(t)
			want, prefix := strings.CutSuffix(line[2:], "…")
			if got != want && !(prefix && strings.HasPrefix(got, want)) {
				t.Fatalf("got %q, want %q", got, line[2:])
			}
		default:
			t.Fatalf("bad script line %q", line)
		}
	}
}

func (c *client) send(t testing.TB, raw string) {
	t.Helper()
	if _, err := io.WriteString(c, raw); err != nil {
		t.Fatalf("send %.40q: %v", raw, err)
	}
}

// line returns the next line without its CRLF, which it must have.
func (c *client) line(t testing.TB) string {
	t.Helper()
	got, err := c.r.ReadString('\n')
	if err != nil || !strings.HasSuffix(got, "\r\n") {
		t.Fatalf("got %q, %v; want a line", got, err)
	}
	return strings.TrimSuffix(got, "\r\n")
}

// body returns the lines of a reply up to its dot, unstuffed and joined by CRLF.
func (c *client) body(t testing.TB) string {
	t.Helper()
	var b strings.Builder
	for {
		line := c.line(t)
		if line == "." {
			return b.String()
		}
		b.WriteString(strings.TrimPrefix(line, "."))
		b.WriteString("\r\n")
	}
}

// command sends a line, wants +OK, and returns the lines that follow.
func (c *client) command(t testing.TB, line string) string {
	t.Helper()
	c.talk(t, "> "+line+"\n< +OK …")
	return c.body(t)
}

// A wire is a listener whose connections come from where the test says, without
// the kernel, so that it can be used in a synctest bubble.
type wire struct {
	next chan net.Conn
	done chan struct{}
}

func newWire() *wire { return &wire{next: make(chan net.Conn), done: make(chan struct{})} }

func (w *wire) Accept() (net.Conn, error) {
	select {
	case c := <-w.next:
		return c, nil
	case <-w.done:
		return nil, net.ErrClosed
	}
}

func (w *wire) Close() error   { close(w.done); return nil }
func (w *wire) Addr() net.Addr { return &net.TCPAddr{} }

type pipeEnd struct {
	net.Conn
	remote net.Addr
}

func (p pipeEnd) RemoteAddr() net.Addr { return p.remote }

// dialFrom connects from an address.
func (w *wire) dialFrom(t testing.TB, addr string) *client {
	t.Helper()
	server, conn := net.Pipe()
	t.Cleanup(func() { conn.Close() })
	w.next <- pipeEnd{server, net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(addr), 4711))}
	return newClient(conn)
}

func waitFor(t *testing.T, what string, cond func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	limit := time.After(10 * time.Second)
	for !cond() {
		select {
		case <-tick.C:
		case <-limit:
			t.Fatalf("waited ten seconds for %s", what)
		}
	}
}

func testTLS(t testing.TB) (server, client *tls.Config) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"mail.example.org"}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}},
		&tls.Config{InsecureSkipVerify: true}
}
