package logon

import (
	"errors"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

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
