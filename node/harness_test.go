package node

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/textproto"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/covey-mail/covey/internal/durable"
	"github.com/covey-mail/covey/node/admin"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// config is a small node on free ports of loopback.
func config(dir string) Config {
	cfg := DefaultConfig(dir, 0)
	cfg.Node.Hostname = "mail.example.org"
	cfg.Cluster.Shards = 2
	cfg.Limits.DiskReserve = 1 << 20
	l := &cfg.Listen
	for _, list := range []*[]string{
		&l.SMTP, &l.Submission, &l.Submissions, &l.IMAP, &l.IMAPS, &l.POP3, &l.POP3S, &l.Metrics,
	} {
		*list = []string{"127.0.0.1:0"}
	}
	l.LMTP = []string{"unix:" + dir + "/lmtp.sock"}
	l.Peer, l.Gossip = []string{"127.0.0.1:0"}, []string{"127.0.0.1:0"}
	return cfg
}

// onlySMTP turns every listener off but one.
func onlySMTP(cfg Config) Config {
	cfg.Listen = ListenConfig{SMTP: []string{"127.0.0.1:0"}}
	return cfg
}

func realSystem() System { return System{FS: durable.OS(), Free: durable.Free} }

// run starts a node that is stopped when the test ends; the stop must succeed.
func run(t *testing.T, cfg Config) *Node {
	t.Helper()
	return runOn(t, cfg, realSystem())
}

func runOn(t *testing.T, cfg Config, sys System) *Node {
	t.Helper()
	n, err := StartOn(t.Context(), cfg, sys)
	if err != nil {
		t.Fatalf("start: %v", err)
	}
	t.Cleanup(func() {
		if err := n.Stop(); err != nil {
			t.Errorf("stop: %v", err)
		}
	})
	return n
}

// withUsers runs a node with alice and bob of example.org, password "secret".
func withUsers(t *testing.T, cfg Config) *Node {
	t.Helper()
	n := run(t, cfg)
	addUsers(t, n)
	return n
}

func addUsers(t *testing.T, n *Node) {
	t.Helper()
	call[admin.Done](t, n, admin.DomainAdd, admin.Name{Name: "example.org"})
	for _, name := range []string{"alice", "bob"} {
		password := "secret"
		call[admin.User](t, n, admin.UserAdd, admin.UserRequest{Address: name + "@example.org", Password: &password})
	}
}

// call runs an operation through the admin socket; it must succeed.
func call[Resp any](t *testing.T, n *Node, op string, req any) Resp {
	t.Helper()
	resp, err := try[Resp](t, n, op, req)
	if err != nil {
		t.Fatalf("%s: %v", op, err)
	}
	return resp
}

func try[Resp any](t *testing.T, n *Node, op string, req any) (Resp, error) {
	t.Helper()
	c := admin.NewClient(n.cfg.Node.Data)
	defer c.Close()
	return admin.Call[Resp](t.Context(), c, op, req)
}

// addr is where a service listens.
func addr(t *testing.T, n *Node, service string) (network, address string) {
	t.Helper()
	for _, l := range n.Listening() {
		if l.Service == service {
			if path, ok := strings.CutPrefix(l.Address, "unix:"); ok {
				return "unix", path
			}
			return "tcp", l.Address
		}
	}
	t.Fatalf("nothing listens for %s: %v", service, n.Listening())
	return "", ""
}

// A dialogue is one connection to a node.
type dialogue struct {
	t    *testing.T
	conn net.Conn
	*textproto.Reader
}

func dial(t *testing.T, n *Node, service string) *dialogue {
	t.Helper()
	network, address := addr(t, n, service)
	conn, err := net.DialTimeout(network, address, 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if service == "imaps" || service == "pop3s" || service == "submissions" {
		conn = tls.Client(conn, &tls.Config{InsecureSkipVerify: true})
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	return &dialogue{t, conn, textproto.NewReader(bufio.NewReader(conn))}
}

// expect reads lines up to one that begins with prefix and returns all of them.
func (d *dialogue) expect(prefix string) string {
	d.t.Helper()
	var all strings.Builder
	for {
		line, err := d.ReadLine()
		if err != nil {
			d.t.Fatalf("want %q: %v after\n%s", prefix, err, all.String())
		}
		all.WriteString(line + "\n")
		if strings.HasPrefix(line, prefix) {
			return all.String()
		}
		// The last line of an SMTP or POP3 reply, or an IMAP tag, of another kind.
		if len(line) > 3 && (line[3] == ' ' && line[0] >= '2' && line[0] <= '5' || strings.HasPrefix(line, "-ERR") || line[0] == 'a') {
			d.t.Fatalf("got %q, want %q", line, prefix)
		}
	}
}

// say writes lines and expects a reply to each: line, prefix, line, prefix …
func (d *dialogue) say(pairs ...string) string {
	d.t.Helper()
	last := ""
	for i := 0; i < len(pairs); i += 2 {
		if _, err := fmt.Fprintf(d.conn, "%s\r\n", pairs[i]); err != nil {
			d.t.Fatalf("say %q: %v", pairs[i], err)
		}
		last = d.expect(pairs[i+1])
	}
	return last
}

// send delivers a message to alice by SMTP.
func send(t *testing.T, n *Node, subject string) {
	t.Helper()
	d := dial(t, n, "smtp")
	d.expect("220 ")
	d.say("EHLO client.example.net", "250 ", "MAIL FROM:<carol@example.net>", "250", "RCPT TO:<alice@example.org>", "250",
		"DATA", "354", "Subject: "+subject+"\r\n\r\nbody of "+subject+"\r\n.", "250", "QUIT", "221")
}

// pop logs alice in to POP3.
func pop(t *testing.T, n *Node) *dialogue {
	t.Helper()
	d := dial(t, n, "pop3")
	d.expect("+OK")
	d.say("USER alice@example.org", "+OK", "PASS secret", "+OK")
	return d
}

// imap logs alice in to IMAP and selects INBOX.
func imap(t *testing.T, n *Node, service string) *dialogue {
	t.Helper()
	d := dial(t, n, service)
	d.expect("* OK")
	d.say("a1 LOGIN alice@example.org secret", "a1 OK", "a2 SELECT INBOX", "a2 OK")
	return d
}

// messages is how many messages alice has, as her shard counts them.
func messages(t *testing.T, n *Node) int64 {
	t.Helper()
	return call[admin.User](t, n, admin.UserShow, admin.Name{Name: "alice@example.org"}).Messages
}

// get asks the metrics listener.
func get(t *testing.T, n *Node, path string) (status int, body string) {
	t.Helper()
	_, address := addr(t, n, "metrics")
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+address+path, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	tr := &http.Transport{DisableKeepAlives: true}
	resp, err := tr.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

// waitFor waits until cond holds.
func waitFor(t *testing.T, what string, cond func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !cond() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

// logBuffer gathers what a node logs.
type logBuffer struct {
	mu sync.Mutex // guards b
	b  bytes.Buffer
}

// Write implements io.Writer.
func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func (l *logBuffer) logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

func writeFile(t *testing.T, content string, elem ...string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(elem...), []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}
