package bench

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/covey-mail/covey"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func withSink(t *testing.T, cfg Config) Config {
	t.Helper()
	full, err := cfg.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	s, err := startSink(full)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.close)
	cfg.Addr = s.addr()
	return cfg
}

func mustRun(t *testing.T, cfg Config) *Result {
	t.Helper()
	res, err := Run(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	return res
}

func TestEveryProtocolAgainstTheSink(t *testing.T) {
	for _, p := range []Protocol{SMTP, LMTP, POP3, IMAP} {
		for _, security := range []Security{None, StartTLS, Implicit} {
			t.Run(string(p)+"/"+string(security), func(t *testing.T) {
				cfg := withSink(t, Config{
					Protocol: p, Addr: "sink", TLS: security, Conns: 3, Count: 20, Users: 5, Size: 3000, PerSession: 4, Delete: true, Discard: 2,
				})
				for _, cfg.Pipeline = range []bool{false, true} {
					res := mustRun(t, cfg)
					if res.Done != 20 || res.Failed != 0 || res.Short != 0 {
						t.Fatalf("done %d, failed %v, %d short; want 20 done", res.Done, res.Failures, res.Short)
					}
					if l := res.Latency; res.Err() != nil || l.P50 <= 0 || l.P50 > l.P99 || l.P99 > l.Max {
						t.Errorf("latency %+v, error %v", l, res.Err())
					}
					bodies := map[Protocol]float64{SMTP: 1, LMTP: 1, POP3: 4, IMAP: 4}[p]
					got := res.MiBRate * (1 << 20) * res.Seconds
					if want := 20 * 3000 * bodies; got < want-1 || got > want*1.01 {
						t.Errorf("%.0f bytes of messages, want %.0f", got, want)
					}
				}
			})
		}
	}
}

func TestOpenLoopAgainstTheSink(t *testing.T) {
	res := mustRun(t, withSink(t, Config{Protocol: SMTP, Addr: "sink", Rate: 1000, Count: 100}))
	if res.Done != 100 || res.Conns != 1000 || res.OpenRate != 1000 {
		t.Errorf("%+v, want 100 done with at most 1,000 connections", res)
	}
}

func TestCeilingIsMeasured(t *testing.T) {
	var phases sync.Map
	cfg := withSink(t, Config{
		Protocol: POP3, Addr: "sink", Conns: 2, Count: 5, Ceiling: 50 * time.Millisecond,
		Progress: func(p Progress) { phases.Store(p.Phase, true) }, ProgressEvery: time.Millisecond,
	})
	res := mustRun(t, cfg)
	if res.Ceiling <= 0 || res.Done != 5 {
		t.Errorf("ceiling %v, %d done", res.Ceiling, res.Done)
	}
	if _, ok := phases.Load("ceiling"); !ok {
		t.Error("no progress was told while the ceiling was measured")
	}
}

func TestUnixSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	s := &sink{cfg: Config{Protocol: LMTP}, listener: l, conns: make(map[net.Conn]struct{})}
	s.serving.Go(s.accept)
	defer s.close()
	if res := mustRun(t, Config{Protocol: LMTP, Addr: "unix:" + path, Conns: 2, Count: 6}); res.Done != 6 {
		t.Errorf("%d done, failures %v; want 6", res.Done, res.Failures)
	}
}

func TestConfigRefusesNonsense(t *testing.T) {
	good := Config{Protocol: SMTP, Addr: "127.0.0.1:1", Count: 1}
	for name, spoil := range map[string]func(*Config){
		"protocol":      func(c *Config) { c.Protocol = "nntp" },
		"no address":    func(c *Config) { c.Addr = "" },
		"no end":        func(c *Config) { c.Count = 0 },
		"keep":          func(c *Config) { c.Keep = "all" },
		"tls":           func(c *Config) { c.TLS = "maybe" },
		"conns":         func(c *Config) { c.Conns = -1 },
		"rate":          func(c *Config) { c.Rate = -1 },
		"users":         func(c *Config) { c.Users = -1 },
		"size":          func(c *Config) { c.Size = -1 },
		"one name":      func(c *Config) { c.Users, c.UserPattern = 2, "user@example.org" },
		"two numbers":   func(c *Config) { c.UserPattern = "%d%d@example.org" },
		"other verb":    func(c *Config) { c.UserPattern = "%s@example.org" },
		"padded":        func(c *Config) { c.UserPattern = "%5d@example.org" },
		"line end":      func(c *Config) { c.UserPattern = "a\r\nb%d@example.org" },
		"password":      func(c *Config) { c.Password = "a\nb" },
		"auth":          func(c *Config) { c.Protocol, c.Auth = LMTP, true },
		"sender":        func(c *Config) { c.From = "a@example.net>\r\nDATA" },
		"verify url":    func(c *Config) { c.Verify = "http://localhost" },
		"verify no url": func(c *Config) { c.Verify = "imap" },
		"verify reader": func(c *Config) { c.Protocol, c.Verify = IMAP, "imap://127.0.0.1:1" },
	} {
		cfg := good
		spoil(&cfg)
		if _, err := Run(t.Context(), cfg); !errors.Is(err, covey.Invalid) {
			t.Errorf("%s: error %v, want Invalid", name, err)
		}
	}
	good.PID = 1 << 30
	if _, err := Run(t.Context(), good); !errors.Is(err, covey.NotFound) {
		t.Errorf("process that is not there: %v, want NotFound", err)
	}
}

func TestNothingDoneIsAnError(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	res := mustRun(t, Config{Protocol: SMTP, Addr: addr, Conns: 1, Count: 2})
	if err := res.Err(); err == nil || !strings.Contains(err.Error(), "connection refused: does the server run") {
		t.Errorf("error %v, want what to do about a refused connection", err)
	}
}

func TestInterruptedRunReports(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	cfg := withSink(t, Config{Protocol: SMTP, Addr: "sink", Conns: 2, Duration: time.Hour, ProgressEvery: time.Millisecond})
	cfg.Progress = func(p Progress) {
		if p.Done > 10 {
			cancel()
		}
	}
	res, err := Run(ctx, cfg)
	if err != nil || res.Done <= 10 {
		t.Errorf("got %+v, %v; want what was done so far", res, err)
	}
}

func TestTable(t *testing.T) {
	res := &Result{
		Protocol: SMTP, Addr: "host:25", Conns: 64, OpenRate: 500, Seconds: 2, Done: 1000, Failed: 3, Rate: 500, MiBRate: 3.9,
		Failures: []FailureClass{{"RCPT: 550 no", 3, 12.5, "do something"}}, Waited: 4, Overflow: 5, Short: 6,
		Latency: Latency{1, 2, 3, 4, 5}, Accept: Latency{0.5, 1, 1.5, 2, 2.5}, Server: &ServerUse{CPUMicros: 100, CPUs: 0.05, Written: -1, Resident: 1 << 20},
		Ceiling: 600, Generator: 0.5, Limited: "because", Verify: &Verified{Acknowledged: 1000, Lost: 1, Unread: 2, Why: "closed"},
	}
	var b strings.Builder
	if err := res.WriteTable(&b); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"open loop, 500/s planned", "3 × RCPT: 550 no", "do something", "p99.9 4.00", "end of DATA to reply  p50 0.50", "100.0 µs an operation", "not known: /proc/PID/io",
		"600.0/s against a discarding sink", "the generator was the limit: because", "1 lost", "2 mailboxes could not be read: closed",
		"4 operations for a free connection", "5 operations never began", "6 sessions found fewer",
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("the table lacks %q:\n%s", want, b.String())
		}
	}
	if err := res.Err(); err == nil {
		t.Error("a result with a lost message is no error")
	}
}
