package logon

import (
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/covey-mail/covey"
)

// three returns services that hear of each other what travels as it does between
// nodes.
func three(t *testing.T) (nodes [3]*Service) {
	t.Helper()
	for i := range nodes {
		nodes[i], _, _ = open(t, Config{Delay: -1, Tell: func(n News) {
			heard, err := ParseNews(AppendNews(nil, []News{n}))
			if err != nil {
				t.Fatal(err)
			}
			for j := range nodes {
				if j != i {
					nodes[j].Hear(heard)
				}
			}
		}})
	}
	return nodes
}

// S-31: eleven failures in a minute from one address, spread over three nodes: the
// eleventh is refused, wherever it comes; other addresses are not touched.
func TestS31_OneAddressAtThreeNodes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nodes := three(t)
		for i := range 10 {
			if _, err := nodes[i%3].Password(t.Context(), from("192.0.2.1"), fmt.Sprintf("user%d", i), "wrong"); !errors.Is(err, covey.Denied) {
				t.Fatalf("failure %d: %v, want denied", i+1, err)
			}
		}
		for i, s := range nodes {
			if _, err := s.Password(t.Context(), from("192.0.2.1"), "alice", "secret"); !errors.Is(err, covey.Limit) {
				t.Errorf("eleventh try, at node %d: %v, want limit", i, err)
			}
			if _, err := s.Password(t.Context(), from("192.0.2.2"), "alice", "secret"); err != nil {
				t.Errorf("from another address, at node %d: %v", i, err)
			}
		}
		wait(time.Minute)
		if _, err := nodes[1].Password(t.Context(), from("192.0.2.1"), "alice", "secret"); err != nil {
			t.Errorf("a minute later: %v", err)
		}
	})
}

// S-31: a hundred failures of strangers on one account, spread over three nodes,
// lock it for strangers at all of them, but not for an address that logged in to
// it before, at whichever.
func TestS31_OneAccountAtThreeNodes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nodes := three(t)
		if _, err := nodes[0].Password(t.Context(), from("198.51.100.1"), "alice", "secret"); err != nil {
			t.Fatal(err)
		}
		for i := range 100 {
			at := from(fmt.Sprintf("203.0.113.%d", i))
			if _, err := nodes[i%3].Password(t.Context(), at, "alice", "wrong"); !errors.Is(err, covey.Denied) {
				t.Fatalf("failure %d: %v, want denied", i+1, err)
			}
		}
		for i, s := range nodes {
			if _, err := s.Password(t.Context(), from("192.0.2.9"), "alice", "secret"); !errors.Is(err, covey.Limit) {
				t.Errorf("a stranger at node %d: %v, want limit", i, err)
			}
			if _, err := s.Password(t.Context(), from("198.51.100.1"), "alice", "secret"); err != nil {
				t.Errorf("a known address at node %d: %v", i, err)
			}
		}
	})
}

// What is known is told again after a while, for nodes that started meanwhile, and
// not with each log-in.
func TestKnownIsToldAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		told := 0
		s, _, _ := open(t, Config{Delay: -1, Tell: func(n News) {
			if !n.Right || n.User != "alice@example.org" || n.From != netip.MustParsePrefix("192.0.2.1/32") {
				t.Errorf("told %+v", n)
			}
			told++
		}})
		for _, step := range []struct {
			after time.Duration
			told  int
		}{{0, 1}, {time.Minute, 1}, {tellAgain - time.Minute, 2}, {time.Second, 2}} {
			wait(step.after)
			if _, err := s.Password(t.Context(), from("192.0.2.1"), "alice", "secret"); err != nil {
				t.Fatal(err)
			}
			if told != step.told {
				t.Errorf("after %v more: told %d times, want %d", step.after, told, step.told)
			}
		}
	})
}

func FuzzParseNews(f *testing.F) {
	f.Add(AppendNews(nil, nil))
	f.Add(AppendNews(nil, []News{
		{From: netip.MustParsePrefix("192.0.2.1/32"), User: "alice@example.org"},
		{From: netip.MustParsePrefix("2001:db8::/64"), User: "bob@example.org", Right: true},
		{User: "nobody"},
	}))
	f.Add([]byte{newsVersion, 0xff, 0xff, 0xff, 0xff, 0x0f})
	f.Fuzz(func(t *testing.T, b []byte) {
		news, err := ParseNews(b)
		if err != nil {
			return
		}
		again, err := ParseNews(AppendNews(nil, news))
		if d := cmp.Diff(news, again, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); d != "" || err != nil {
			t.Errorf("%v, -first +second:\n%s", err, d)
		}
		for _, n := range news {
			if len(n.User) > MaxNewsUser || n.From.IsValid() && n.From != origin(n.From.Addr()) {
				t.Errorf("let through: %+v", n)
			}
		}
	})
}
