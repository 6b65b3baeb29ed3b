package logon

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/directory/directorytest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// wait lets the bubble's time pass.
func wait(d time.Duration) { <-time.After(d) }

// S-31: eleven failures in a minute from one address, each delayed, the eleventh
// refused whatever the password; other addresses are not touched, and the minute
// passes.
func TestS31_FailuresOfOneAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _, _ := open(t, Config{Delay: time.Second})
		last := time.Duration(0)
		begin := time.Now()
		for i := range 10 {
			start := time.Now()
			_, err := s.Password(t.Context(), from("192.0.2.1"), fmt.Sprintf("user%d", i), "wrong")
			if !errors.Is(err, covey.Denied) {
				t.Fatalf("failure %d: %v, want denied", i+1, err)
			}
			took := time.Since(start)
			if took < time.Second || took > 5*time.Second || took < last {
				t.Errorf("failure %d answered after %v, the one before after %v", i+1, took, last)
			}
			last = took
		}
		start := time.Now()
		if _, err := s.Password(t.Context(), from("192.0.2.1"), "alice", "secret"); !errors.Is(err, covey.Limit) {
			t.Errorf("eleventh try: %v, want limit", err)
		}
		if took := time.Since(start); took != time.Second {
			t.Errorf("refused after %v, want 1 s", took)
		}
		if _, err := s.Password(t.Context(), from("192.0.2.2"), "alice", "secret"); err != nil {
			t.Errorf("from another address: %v", err)
		}
		wait(time.Until(begin.Add(61 * time.Second)))
		if _, err := s.Password(t.Context(), from("192.0.2.1"), "alice", "secret"); err != nil {
			t.Errorf("a minute after the first failure: %v", err)
		}
	})
}

// S-31: a /64 of IPv6 is one address, and so are an IPv4 address and its mapping.
func TestS31_Origins(t *testing.T) {
	for _, tt := range []struct {
		a, b string
		same bool
	}{
		{"192.0.2.1", "192.0.2.1", true},
		{"192.0.2.1", "192.0.2.2", false},
		{"192.0.2.1", "::ffff:192.0.2.1", true},
		{"2001:db8::1", "2001:db8::ffff:1", true},
		{"2001:db8::1", "2001:db8:0:1::1", false},
		{"fe80::1%eth0", "fe80::2%eth1", true},
	} {
		a, b := origin(netip.MustParseAddr(tt.a)), origin(netip.MustParseAddr(tt.b))
		if (a == b) != tt.same {
			t.Errorf("origins %v and %v of %s and %s, want same: %v", a, b, tt.a, tt.b, tt.same)
		}
	}
	if a := origin(netip.Addr{}); a.IsValid() {
		t.Errorf("origin of no address: %v", a)
	}
}

// strangers fail a hundred times a day on one account, from however many
// addresses; where its owner logged in before, the owner still does.
func TestR19_StrangersOnOneAccount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _, _ := open(t, Config{Delay: -1})
		owner := from("198.51.100.7")
		if _, err := s.Password(t.Context(), owner, "alice", "secret"); err != nil {
			t.Fatal(err)
		}
		denied, limited := 0, 0
		for i := range 150 {
			_, err := s.Password(t.Context(), from(fmt.Sprintf("192.0.2.%d", i)), "alice", "wrong")
			switch {
			case errors.Is(err, covey.Denied):
				denied++
			case errors.Is(err, covey.Limit):
				limited++
			}
		}
		if denied != 100 || limited != 50 {
			t.Errorf("150 strangers: %d denied, %d refused; want 100 and 50", denied, limited)
		}
		if _, err := s.Password(t.Context(), owner, "alice", "secret"); err != nil {
			t.Errorf("the owner from a known address: %v", err)
		}
		if _, err := s.Password(t.Context(), from("203.0.113.9"), "alice", "secret"); !errors.Is(err, covey.Limit) {
			t.Errorf("one more stranger: %v, want limit", err)
		}
		wait(24 * time.Hour)
		if _, err := s.Password(t.Context(), from("203.0.113.9"), "alice", "secret"); err != nil {
			t.Errorf("a day later: %v", err)
		}
	})
}

// neighbours behind one address who guess do not lock out who logged in
// from there; who is known may guess no more often than others.
func TestR19_KnownClientBehindABadAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _, _ := open(t, Config{Delay: -1})
		c := from("192.0.2.1")
		if _, err := s.Password(t.Context(), c, "alice", "secret"); err != nil {
			t.Fatal(err)
		}
		for range 20 {
			s.Password(t.Context(), c, "bob", "wrong")
		}
		if _, err := s.Password(t.Context(), c, "bob", "wrong"); !errors.Is(err, covey.Limit) {
			t.Errorf("the neighbour: %v, want limit", err)
		}
		if _, err := s.Password(t.Context(), c, "alice", "secret"); err != nil {
			t.Errorf("the known client: %v", err)
		}
		for i := range 10 {
			if _, err := s.Password(t.Context(), c, "alice", "wrong"); !errors.Is(err, covey.Denied) {
				t.Fatalf("guess %d of the known client: %v", i+1, err)
			}
		}
		if _, err := s.Password(t.Context(), c, "alice", "secret"); !errors.Is(err, covey.Limit) {
			t.Errorf("after ten guesses: %v, want limit", err)
		}
	})
}

// many at once guess no more often than one after the other, and many who
// know their passwords are only made to wait.
func TestR19_ManyAtOnce(t *testing.T) {
	s, dir, _ := open(t, Config{Delay: -1})
	var users []string
	for i := range 40 {
		users = append(users, fmt.Sprintf("u%d@example.org", i))
		directorytest.Add(t, dir, users[i], secretHash)
	}
	all := func(pass string) map[covey.Kind]int {
		var mu sync.Mutex
		outcomes := make(map[covey.Kind]int)
		var wg sync.WaitGroup
		for _, u := range users {
			wg.Go(func() {
				kind := covey.Exists // stands for success
				if _, err := s.Password(t.Context(), from("192.0.2.1"), u, pass); err != nil {
					kind = covey.KindOf(err)
				}
				mu.Lock()
				defer mu.Unlock()
				outcomes[kind]++
			})
		}
		wg.Wait()
		return outcomes
	}
	if got := all("secret"); got[covey.Exists] != len(users) {
		t.Errorf("40 right log-ins at once: %v", got)
	}
	s.limits = newLimits(10, 100, 1000)
	if got := all("wrong"); got[covey.Denied] != 10 || got[covey.Limit] != 30 {
		t.Errorf("40 guesses at once: %v, want 10 denied and 30 refused", got)
	}
}

// A wait for others ends with its context, and so does a delay.
func TestWaitsEndWithContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLimits(1, 100, 10)
		addr := netip.MustParseAddr("192.0.2.1")
		first, err := l.begin(t.Context(), addr, "alice", time.Now)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := l.begin(ctx, addr, "alice", time.Now); !errors.Is(err, covey.Unavailable) {
			t.Errorf("begin beside a try: %v, want unavailable", err)
		}
		l.cancel(first)
		if _, err := l.begin(t.Context(), addr, "alice", time.Now); err != nil {
			t.Errorf("begin after cancel: %v", err)
		}
		s, _, _ := open(t, Config{Delay: time.Hour, MaxDelay: time.Hour})
		ctx, cancel = context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start := time.Now()
		if _, err := s.Password(ctx, from("192.0.2.1"), "alice", "wrong"); !errors.Is(err, covey.Denied) || time.Since(start) != time.Second {
			t.Errorf("failure whose client leaves: %v after %v", err, time.Since(start))
		}
	})
}

func TestTablesAreBounded(t *testing.T) {
	const entries = 100
	l := newLimits(10, 100, entries)
	for i := range 1000 {
		addr := netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})
		x, err := l.begin(t.Context(), addr, fmt.Sprint(i), time.Now)
		if err != nil {
			t.Fatal(err)
		}
		if i%2 == 0 {
			l.succeed(x, time.Now())
		} else {
			l.fail(x, time.Now())
		}
	}
	if l.addrs.Len() > entries || l.accounts.Len() > entries || l.known.Len() > entries {
		t.Errorf("tables hold %d, %d and %d entries", l.addrs.Len(), l.accounts.Len(), l.known.Len())
	}
}
