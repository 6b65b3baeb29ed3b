package logon

import (
	"bytes"
	"errors"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/directory"
	"github.com/covey-mail/covey/directory/directorytest"
)

// secretHash is {SSHA} of "secret", as doveadm makes it: cheap to verify.
const secretHash = "{SSHA}OC76xgPyh87jKnXdYKPimTVjW9Rb+ZHA"

// open returns a Service over a directory of one domain, example.org, with
// alice@example.org, whose password is "secret".
func open(t *testing.T, cfg Config) (*Service, *directory.Service, *directorytest.Proposer) {
	t.Helper()
	dir, proposer := directorytest.Open(t)
	directorytest.Add(t, dir, "alice@example.org", secretHash)
	cfg.Directory = dir
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return s, dir, proposer
}

func from(addr string) Conn {
	return Conn{Remote: netip.MustParseAddr(addr), Protocol: "imap", Session: "s1", Secure: true}
}

func TestPasswordTakesNames(t *testing.T) {
	s, dir, _ := open(t, Config{Delay: -1})
	for _, tt := range []struct {
		user, pass string
		want       error
	}{
		{"alice@example.org", "secret", nil},
		{"Alice@EXAMPLE.org", "secret", nil},
		{"alice", "secret", nil},
		{"ALICE", "secret", nil},
		{"alice", "Secret", covey.Denied},
		{"alice", "", covey.Denied},
		{"alice", "secret\x00", covey.Denied},
		{"alice+x@example.org", "secret", covey.Denied},
		{"bob", "secret", covey.Denied},
		{"", "secret", covey.Denied},
		{"alice\x00", "secret", covey.Denied},
	} {
		got, err := s.Password(t.Context(), from("192.0.2.1"), tt.user, tt.pass)
		if !errors.Is(err, tt.want) {
			t.Errorf("Password(%q, %q) = %v, want %v", tt.user, tt.pass, err, tt.want)
		}
		if err == nil && got.Address.String() != "alice@example.org" {
			t.Errorf("Password(%q, %q) = account %v", tt.user, tt.pass, got)
		}
	}
	directorytest.Add(t, dir, "zoe@second.example", "")
	if _, err := s.Password(t.Context(), from("192.0.2.1"), "alice", "secret"); !errors.Is(err, covey.Denied) {
		t.Errorf("bare name with two domains: %v, want denied", err)
	}
}

// S-27, P-02, I-14, R-18: whatever is wrong, the answer is the same and comes at
// the same time after the try.
func TestR18_FailuresLookAlike(t *testing.T) {
	for _, tt := range []struct{ name, user, pass string }{
		{"S-27/wrong password", "alice", "wrong"},
		{"S-27/unknown user", "nobody", "wrong"},
		{"S-27/disabled user", "carol", "secret"},
		{"P-02/no password set", "dave", "secret"},
		{"I-14/foreign domain", "alice@elsewhere.example", "secret"},
		{"R-18/not an address", "@@", "secret"},
		{"R-18/too long", "alice", string(make([]byte, 2000))},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, dir, _ := open(t, Config{})
				directorytest.Add(t, dir, "carol@example.org", secretHash)
				directorytest.Add(t, dir, "dave@example.org", "")
				disabled := true
				if err := dir.SetAccount(t.Context(), covey.Address{Local: "carol", Domain: "example.org"}, nil, &disabled); err != nil {
					t.Fatal(err)
				}
				start := time.Now()
				_, err := s.Password(t.Context(), from("192.0.2.1"), tt.user, tt.pass)
				if took := time.Since(start); took != time.Second {
					t.Errorf("answer after %v, want 1 s", took)
				}
				if diff := cmp.Diff(denied().Error(), err.Error()); diff != "" || !errors.Is(err, covey.Denied) {
					t.Errorf("error (-want +got):\n%s", diff)
				}
			})
		})
	}
}

// I-14: without a quorum nobody is let in or turned away.
func TestI14_NoQuorum(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _, proposer := open(t, Config{})
		proposer.Fail(covey.Errorf(covey.Unavailable, "no quorum"))
		for _, pass := range []string{"secret", "wrong"} {
			start := time.Now()
			if _, err := s.Password(t.Context(), from("192.0.2.1"), "alice", pass); !errors.Is(err, covey.Unavailable) {
				t.Errorf("password %q: %v, want unavailable", pass, err)
			}
			if took := time.Since(start); took > 2*time.Second {
				t.Errorf("answered after %v", took)
			}
		}
	})
}

// fromMemory returns how many log-ins needed no hashing.
func fromMemory(t *testing.T, s *Service) float64 {
	t.Helper()
	var m dto.Metric
	if err := s.metrics.cached.Write(&m); err != nil {
		t.Fatal(err)
	}
	return m.GetCounter().GetValue()
}

// A right password is not hashed again for ten minutes, unless it is changed, and
// a wrong one is never taken from memory.
func TestVerifiedCredentials(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, dir, _ := open(t, Config{Delay: -1})
		alice := covey.Address{Local: "alice", Domain: "example.org"}
		tries := func(pass string, want error, cached float64) {
			t.Helper()
			before := fromMemory(t, s)
			if _, err := s.Password(t.Context(), from("192.0.2.1"), "alice", pass); !errors.Is(err, want) {
				t.Errorf("password %q: %v, want %v", pass, err, want)
			}
			if got := fromMemory(t, s) - before; got != cached {
				t.Errorf("password %q: %v from memory, want %v", pass, got, cached)
			}
		}
		tries("secret", nil, 0)
		tries("secret", nil, 1)
		tries("wrong", covey.Denied, 0)
		wait(verifiedFor - 1)
		tries("secret", nil, 1)
		wait(1)
		tries("secret", nil, 0)
		if err := dir.SetPassword(t.Context(), alice, "other"); err != nil {
			t.Fatal(err)
		}
		tries("secret", covey.Denied, 0)
		tries("other", nil, 0)
		tries("other", nil, 1)
		disabled := true
		if err := dir.SetAccount(t.Context(), alice, nil, &disabled); err != nil {
			t.Fatal(err)
		}
		tries("other", covey.Denied, 0)
	})
}

func TestMetricsRegister(t *testing.T) {
	s, dir, _ := open(t, Config{})
	r := prometheus.NewPedanticRegistry()
	for _, c := range append(s.Metrics().Collectors(), dir.Metrics().Collectors()...) {
		if err := r.Register(c); err != nil {
			t.Error(err)
		}
	}
	found, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range found {
		if m.GetName() == "covey_directory_accounts" && m.GetMetric()[0].GetGauge().GetValue() != 1 {
			t.Errorf("%v, want one account", m)
		}
	}
}

// One line per failure says who, whence and why, in few octets, and never the
// password.
func TestLogLines(t *testing.T) {
	var out bytes.Buffer
	s, _, _ := open(t, Config{Delay: -1, Logger: slog.New(slog.NewTextHandler(&out, nil))})
	user := "alice\r\nlevel=ERROR " + strings.Repeat("x", 200)
	if _, err := s.Password(t.Context(), from("192.0.2.1"), user, "hunter2"); err == nil {
		t.Fatal("let in")
	}
	if _, err := s.Password(t.Context(), from("192.0.2.1"), "alice", "hunter2"); err == nil {
		t.Fatal("let in")
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(lines) != 2 {
		t.Fatalf("%d lines:\n%s", len(lines), out.String())
	}
	for _, line := range lines {
		for _, want := range []string{"remote=192.0.2.1", "protocol=imap", "session=s1", "outcome=denied", "alice"} {
			if !strings.Contains(line, want) {
				t.Errorf("no %s in %s", want, line)
			}
		}
		if strings.Contains(line, "hunter2") || len(line) > 400 {
			t.Errorf("%d octets: %s", len(line), line)
		}
	}
	if !strings.Contains(lines[1], `reason="wrong password"`) {
		t.Errorf("no reason in %s", lines[1])
	}
}

// I-31: what happens to an account shows to those who are logged in.
func TestI31_Allowed(t *testing.T) {
	s, dir, _ := open(t, Config{Delay: -1})
	a, err := s.Password(t.Context(), from("192.0.2.1"), "alice", "secret")
	if err != nil {
		t.Fatal(err)
	}
	disable, enable := true, false
	for _, step := range []struct {
		name string
		do   func() error
		want error
	}{
		{"at first", func() error { return nil }, nil},
		{"disabled", func() error { return dir.SetAccount(t.Context(), a.Address, nil, &disable) }, covey.Denied},
		{"enabled", func() error { return dir.SetAccount(t.Context(), a.Address, nil, &enable) }, nil},
		{"removed", func() error { _, err := dir.RemoveAccount(t.Context(), a.Address); return err }, covey.Denied},
		{"made again", func() error { directorytest.Add(t, dir, "alice@example.org", secretHash); return nil }, covey.Denied},
	} {
		if err := step.do(); err != nil {
			t.Fatalf("%s: %v", step.name, err)
		}
		if err := s.Allowed(t.Context(), a); !errors.Is(err, step.want) {
			t.Errorf("%s: Allowed = %v, want %v", step.name, err, step.want)
		}
	}
}
