package peer

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/covey-mail/covey"
)

// pipedPair starts two nodes in a bubble; the listener is the second's.
func pipedPair(t *testing.T) (a, b *node, net *pipeNet, l *pipeListener) {
	t.Helper()
	r := newRoster()
	net = newPipeNet()
	a, _ = startPiped(t, 1, r, net)
	b, l = startPiped(t, 2, r, net)
	b.Handle(echoMethod, echo)
	b.Handle(echoBulk, echo)
	return a, b, net, l
}

// took returns how long f takes.
func took(f func()) time.Duration {
	start := time.Now()
	f()
	return time.Since(start)
}

// pass lets time pass in a bubble.
func pass(d time.Duration) { <-time.After(d) }

// A peer whose cable is pulled costs a call no more than the silence allowed, and
// the next ones next to nothing (F-18).
func TestSilentPeerBreaksTheLink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b, net, l := pipedPair(t)
		mustCall(t, a.Net, b.id, echoMethod, "up")
		mustCall(t, a.Net, b.id, echoBulk, "up")
		l.stall()
		net.setHole(b.addr, true)
		var wg sync.WaitGroup
		for _, m := range []Method{echoMethod, echoBulk} {
			wg.Go(func() {
				var err error
				d := took(func() { _, err = a.Call(t.Context(), b.id, m) })
				if covey.KindOf(errOr(err)) != covey.Unknown || d > a.cfg.Silence+grace {
					t.Errorf("method %d: %v after %v; want unknown after %v at most", m, err, d, a.cfg.Silence+grace)
				}
			})
		}
		wg.Wait()
		for range 100 {
			var err error
			d := took(func() { _, err = a.Call(t.Context(), b.id, echoMethod) })
			if covey.KindOf(err) != covey.Unavailable || d > patience {
				t.Fatalf("known to be gone: %v after %v; want unavailable after %v at most", err, d, patience)
			}
			pass(70 * time.Millisecond)
		}
		// Neither side keeps anything.
		pass(5 * time.Second)
		if n := len(b.peer(a.id).accepted()); n != 0 {
			t.Errorf("%d links are left at the silent side", n)
		}
	})
}

// A link on which nothing is asked stays up: there are signs of life.
func TestIdleLinkStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b, net, _ := pipedPair(t)
		mustCall(t, a.Net, b.id, echoMethod, "up")
		before := net.count()
		pass(time.Hour)
		mustCall(t, a.Net, b.id, echoMethod, "still up")
		if n := net.count() - before; n != 0 {
			t.Errorf("%d links were made in an idle hour", n)
		}
		if n := value(t, a.cfg.Metrics.roundTrip); n < 3600 {
			t.Errorf("%v pings were answered in an hour", n)
		}
	})
}

// Nobody waits longer than the dial timeout for a host that does not answer, and
// while it is known not to, hardly at all.
func TestHostThatDoesNotAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b, net, _ := pipedPair(t)
		net.setHole(b.addr, true)
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() {
				var err error
				d := took(func() { _, err = a.Call(t.Context(), b.id, echoMethod) })
				if covey.KindOf(err) != covey.Unavailable || d > a.cfg.DialTimeout {
					t.Errorf("first calls: %v after %v", err, d)
				}
			})
		}
		wg.Wait()
		var slowest time.Duration
		for range 200 {
			slowest = max(slowest, took(func() {
				_, err := a.Call(t.Context(), b.id, echoMethod)
				wantKind(t, err, covey.Unavailable)
			}))
			pass(50 * time.Millisecond)
		}
		if slowest > patience {
			t.Errorf("a call waited %v for a host known not to answer", slowest)
		}
		if n := net.count(); n > 10 {
			t.Errorf("%d dials in about 12 s", n)
		}
		net.setHole(b.addr, false)
		pass(a.cfg.DialTimeout + maxBackoff)
		mustCall(t, a.Net, b.id, echoMethod, "back")
	})
}

// A host that refuses is asked again soon, then less and less often.
func TestBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRoster()
		net := newPipeNet()
		a, _ := startPiped(t, 1, r, net)
		r.set(2, testPub(2), "nowhere")
		for range 6000 {
			d := took(func() {
				_, err := a.Call(t.Context(), 2, echoMethod)
				wantKind(t, err, covey.Unavailable)
			})
			if d != 0 {
				t.Fatalf("a refusal took %v", d)
			}
			pass(10 * time.Millisecond)
		}
		// A minute: some while doubling, then one in 1 to 2 s.
		if n := net.count(); n < 25 || n > 75 {
			t.Errorf("%d dials in a minute, want between 25 and 75", n)
		}
		b, _ := startPiped(t, 2, r, net)
		b.Handle(echoMethod, echo)
		pass(maxBackoff)
		mustCall(t, a.Net, 2, echoMethod, "there it is")
	})
}

func TestBackoffTimes(t *testing.T) {
	for failures, most := range map[int]time.Duration{1: minBackoff, 2: 2 * minBackoff, 7: maxBackoff, 1000: maxBackoff} {
		for range 100 {
			if d := backoff(failures); d < most/2 || d >= most {
				t.Errorf("after %d failures: %v, want from %v to %v", failures, d, most/2, most)
			}
		}
	}
}

// A peer that dials us is there: we do not wait until our own next try.
func TestInboundLinkEndsTheBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b, net, _ := pipedPair(t)
		a.Handle(echoMethod, echo)
		net.setHole(b.addr, true)
		for range 20 {
			_, err := a.Call(t.Context(), b.id, echoMethod)
			wantKind(t, err, covey.Unavailable)
			pass(3 * time.Second)
		}
		_, err := a.Call(t.Context(), b.id, echoMethod)
		wantKind(t, err, covey.Unavailable)
		net.setHole(b.addr, false)
		pass(a.cfg.DialTimeout)
		mustCall(t, b.Net, a.id, echoMethod, "I am back")
		mustCall(t, a.Net, b.id, echoMethod, "so I hear")
	})
}

// A dead peer costs neither goroutines nor memory that grow.
func TestDeadPeerCostsLittle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b, net, _ := pipedPair(t)
		net.setHole(b.addr, true)
		var wg sync.WaitGroup
		for range 100 {
			for range 10 {
				a.Post(b.id, 1, make([]byte, 1000))
				wg.Go(func() {
					ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
					defer cancel()
					_, err := a.Call(ctx, b.id, echoBulk)
					if covey.KindOf(err) != covey.Unavailable {
						t.Errorf("got %v", err)
					}
				})
			}
			pass(100 * time.Millisecond)
			p := a.peer(b.id)
			for _, l := range p.inUse() {
				l.mu.Lock()
				if l.bytes > 22*10*1200 || len(l.pending) > 100 {
					t.Errorf("%d octets and %d calls wait", l.bytes, len(l.pending))
				}
				l.mu.Unlock()
			}
		}
		wg.Wait()
		pass(a.cfg.DialTimeout + time.Millisecond)
		if n := len(a.peer(b.id).inUse()); n != 0 {
			t.Errorf("%d links to a dead peer", n)
		}
		if got := value(t, a.cfg.Metrics.dropped); got != 1000 {
			t.Errorf("%v posts were counted as dropped, want all 1,000", got)
		}
	})
}

func TestCloseFailsWhatWaits(t *testing.T) {
	a, b, _ := pair(t)
	arrived, _ := waiter(t, b)
	var wg sync.WaitGroup
	wg.Go(func() {
		_, err := a.Call(t.Context(), b.id, waitMethod)
		if covey.KindOf(err) != covey.Unknown {
			t.Errorf("got %v", err)
		}
	})
	<-arrived
	a.Close()
	a.Close()
	wg.Wait()
	_, err := a.Call(t.Context(), b.id, echoMethod)
	wantKind(t, err, covey.Unavailable)
	_, err = a.Dial(t.Context(), b.id, "x", nil)
	wantKind(t, err, covey.Unavailable)
	_, _, err = a.CallAddr(t.Context(), b.addr, 1, nil)
	wantKind(t, err, covey.Unavailable)
	a.Post(b.id, 1)
	if err := a.Serve(newProxyListener(t)); err != nil {
		t.Errorf("serve after close: %v", err)
	}
}

// A node that stops in peace breaks no call: what it has begun it answers, what
// comes later was surely not handled.
func TestShutdownBreaksNothing(t *testing.T) {
	a, b, _ := pair(t)
	arrived, letGo := waiter(t, b)
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			if got, err := a.Call(t.Context(), b.id, waitMethod, []byte("x")); err != nil || string(got) != "x" {
				t.Errorf("a call under way: %q, %v", got, err)
			}
		})
		<-arrived
	}
	var unknown sync.Once
	for range 4 {
		wg.Go(func() {
			for {
				_, err := a.Call(t.Context(), b.id, echoMethod)
				if err == nil {
					continue
				}
				if covey.KindOf(err) != covey.Unavailable {
					unknown.Do(func() { t.Errorf("a call while it stops: %v", err) })
				}
				return
			}
		})
	}
	done := make(chan error, 1)
	wg.Go(func() { done <- b.Shutdown(t.Context()) })
	waitFor(t, "the bye", func() bool { return len(a.peer(b.id).inUse()) == 0 })
	select {
	case err := <-done:
		t.Errorf("shut down (%v) with calls being handled", err)
	default:
	}
	letGo()
	if err := <-done; err != nil {
		t.Errorf("shutdown: %v", err)
	}
	wg.Wait()
}

// What was posted just before goes out: the word that hands over leadership.
func TestShutdownSendsWhatWaits(t *testing.T) {
	a, b, _ := pair(t)
	got := make(chan struct{}, 1000)
	b.HandlePost(1, func(covey.NodeID, []byte) { got <- struct{}{} })
	mustCall(t, a.Net, b.id, echoMethod, "up")
	for range cap(got) {
		a.Post(b.id, 1, make([]byte, 1000))
	}
	if err := a.Shutdown(t.Context()); err != nil {
		t.Errorf("shutdown: %v", err)
	}
	for range cap(got) {
		<-got
	}
}

func TestShutdownGivesUp(t *testing.T) {
	a, b, _ := pair(t)
	arrived, _ := waiter(t, b)
	var wg sync.WaitGroup
	wg.Go(func() {
		_, err := a.Call(t.Context(), b.id, waitMethod)
		if covey.KindOf(err) != covey.Unknown {
			t.Errorf("got %v", err)
		}
	})
	<-arrived
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := b.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	wg.Wait()
}

// A peer that opens link after link has a few of a class at most.
func TestInboundLinksAreBounded(t *testing.T) {
	_, b, r := pair(t)
	cfg, _ := testConfig(1, r)
	rogue, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer rogue.Close()
	var conns []*conn
	for range 10 {
		c, err := rogue.reach(t.Context(), b.id, hello{class: control})
		if err != nil {
			t.Fatal(err)
		}
		defer rogue.release(c)
		conns = append(conns, c)
	}
	for _, c := range conns[:10-maxInbound] {
		r := frameReader{r: c, max: MaxPayload}
		for err = nil; err == nil; _, _, err = r.next() {
		}
	}
	if n := len(b.peer(1).accepted()); n > maxInbound {
		t.Errorf("%d links, want at most %d", n, maxInbound)
	}
}
