package imapd

import (
	"bytes"
	"errors"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/covey-mail/covey/internal/serve"
)

// A logBuffer is a log that may be read while it is written.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

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

func TestOneLinePerSession(t *testing.T) {
	var log logBuffer
	metrics := NewMetrics()
	r := start(t, func(_ *rig, cfg *Config) {
		cfg.Logger = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
		cfg.Metrics = metrics
	})
	c := r.dial(t)
	c.startTLS()
	c.ok("LOGIN alice secret")
	c.ok("SELECT INBOX")
	if got := value(t, metrics.Sessions); got != 1 {
		t.Errorf("%v sessions", got)
	}
	c.want("BAD", "FROB")
	c.ok("LOGOUT")
	c.closed()
	ended(t, r.server)
	// The line is written after the session is taken off the lists.
	if err := r.server.Close(); err != nil {
		t.Fatal(err)
	}
	got := log.String()
	if strings.Count(got, "\n") != 1 || strings.Contains(got, "secret") {
		t.Errorf("log:\n%s", got)
	}
	for _, part := range []string{"account=alice@example.org", "tls=true", "mechanism=LOGIN", "commands=3", "remote=127.0.0.1", "session="} {
		if !strings.Contains(got, part) {
			t.Errorf("no %s in %s", part, got)
		}
	}
	for c, want := range map[prometheus.Metric]float64{
		metrics.Sessions: 0, metrics.Logins.WithLabelValues("ok"): 1, metrics.Commands.WithLabelValues("SELECT"): 1, metrics.Refused.WithLabelValues("bad"): 1,
	} {
		if got := value(t, c); got != want {
			t.Errorf("got %v, want %v", got, want)
		}
	}
	reg := prometheus.NewPedanticRegistry()
	for _, c := range metrics.Collectors() {
		if err := reg.Register(c); err != nil {
			t.Error(err)
		}
	}
}

// value returns what a gauge or a counter stands at.
func value(t *testing.T, m prometheus.Metric) float64 {
	t.Helper()
	var out dto.Metric
	if err := m.Write(&out); err != nil {
		t.Fatal(err)
	}
	return out.GetGauge().GetValue() + out.GetCounter().GetValue()
}

// TestBehindServe has the listener that the node uses below.
func TestBehindServe(t *testing.T) {
	r := start(t, func(_ *rig, cfg *Config) { cfg.AppendLimit = 1 << 20 })
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := serve.Wrap(inner, serve.Config{Limits: serve.Limits{Idle: 500 * time.Millisecond}})
	served := make(chan error, 1)
	go func() { served <- r.server.Serve(l) }()
	conn, err := net.Dial("tcp", inner.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	c := newClient(t, conn)
	c.line()
	c.startTLS()
	c.ok("LOGIN alice secret")
	c.append("INBOX", repeat("x", 1<<20))
	c.ok("SELECT INBOX")
	// After login the limits are the session's own.
	late := time.NewTimer(700 * time.Millisecond)
	<-late.C
	if got := c.ok("FETCH 1 BODY.PEEK[]"); !contained(got, "{1048576}") {
		t.Errorf("got %.100q", got)
	}
	c.ok("LOGOUT")
	if err := r.server.Close(); err != nil {
		t.Error(err)
	}
	if err := <-served; err != nil {
		t.Error(err)
	}
}

func TestConfigIsChecked(t *testing.T) {
	good := Config{Logons: newUsers(0), Mailboxes: neverOpened{}}
	for name, change := range map[string]func(*Config){
		"no logons": func(c *Config) { c.Logons = nil }, "no mailboxes": func(c *Config) { c.Mailboxes = nil },
		"negative limit": func(c *Config) { c.AppendLimit = -1 }, "limit beyond IMAP": func(c *Config) { c.AppendLimit = 1 << 33 },
		"negative time": func(c *Config) { c.IdleTime = -1 }, "negative sessions": func(c *Config) { c.PerUser = -1 },
	} {
		cfg := good
		change(&cfg)
		if _, err := New(cfg); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if _, err := New(good); err != nil {
		t.Error(err)
	}
}

func TestServeAfterClose(t *testing.T) {
	r := start(t, nil)
	r.dial(t) // Serve is running
	for range 2 {
		if err := r.server.Close(); err != nil {
			t.Error(err)
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := r.server.Serve(l); !errors.Is(err, net.ErrClosed) {
		t.Errorf("got %v", err)
	}
}

// TestTwoServersInOneProcess: nothing of one is the other's.
func TestTwoServersInOneProcess(t *testing.T) {
	a, b := start(t, nil), start(t, nil)
	a.login(t, "alice").append("INBOX", testMessage)
	if got := b.login(t, "alice").ok("STATUS INBOX (MESSAGES)"); !contained(got, "(MESSAGES 0)") {
		t.Errorf("got %q", got)
	}
}
