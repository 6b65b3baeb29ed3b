package peer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/covey-mail/covey"
)

func TestCall(t *testing.T) {
	a, b, _ := pair(t)
	mustCall(t, a.Net, b.id, echoMethod, "hello")
	mustCall(t, a.Net, b.id, echoMethod, "")
	got, err := a.Call(t.Context(), b.id, echoMethod, []byte("a"), nil, []byte("bc"))
	if string(got) != "abc" || err != nil {
		t.Errorf("parts: got %q, %v", got, err)
	}
}

func TestCallsBothWays(t *testing.T) {
	a, b, _ := pair(t)
	a.Handle(echoMethod, echo)
	var wg sync.WaitGroup
	for _, dir := range []struct{ from, to *node }{{a, b}, {b, a}} {
		for i := range 50 {
			wg.Go(func() {
				for j := range 40 {
					want := bytes.Repeat([]byte{byte(i), byte(j)}, 1+i*j*10)
					got, err := dir.from.Call(t.Context(), dir.to.id, echoMethod, want)
					if err != nil || !bytes.Equal(got, want) {
						t.Errorf("%d octets: got %d, %v", len(want), len(got), err)
						return
					}
				}
			})
		}
	}
	wg.Wait()
}

func TestHandlerKnowsTheCaller(t *testing.T) {
	a, b, _ := pair(t)
	b.Handle(5, func(ctx context.Context, from covey.NodeID, _ []byte) ([]byte, error) {
		_, ok := ctx.Deadline()
		return fmt.Appendf(nil, "%s %v", from, ok), nil
	})
	got, err := a.Call(t.Context(), b.id, 5)
	if want := a.id.String() + " false"; string(got) != want || err != nil {
		t.Errorf("got %q, %v; want %q", got, err, want)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	got, err = a.Call(ctx, b.id, 5)
	if want := a.id.String() + " true"; string(got) != want || err != nil {
		t.Errorf("got %q, %v; want %q", got, err, want)
	}
}

func TestHandlersErrorTravels(t *testing.T) {
	a, b, _ := pair(t)
	long := string(bytes.Repeat([]byte("x"), 5000))
	for k := covey.Internal; k <= lastKind; k++ {
		b.Handle(10+Method(k), func(context.Context, covey.NodeID, []byte) ([]byte, error) {
			return nil, fmt.Errorf("wrapped: %w", covey.Errorf(k, "text of %d", k))
		})
		_, err := a.Call(t.Context(), b.id, 10+Method(k))
		if want := fmt.Sprintf("wrapped: text of %d", k); err == nil || covey.KindOf(err) != k || err.Error() != want {
			t.Errorf("kind %v: got %v of kind %v, want %q", k, err, covey.KindOf(err), want)
		}
	}
	b.Handle(failMethod, func(context.Context, covey.NodeID, []byte) ([]byte, error) { return nil, errors.New(long) })
	_, err := a.Call(t.Context(), b.id, failMethod)
	wantKind(t, err, covey.Internal)
	if n := len(err.Error()); n > maxErrorText+10 {
		t.Errorf("an error of %d octets arrived", n)
	}
}

// A kind that is added to package covey has to be added here.
func TestLastKind(t *testing.T) {
	if s := (lastKind + 1).String(); s != fmt.Sprintf("kind %d", lastKind+1) {
		t.Errorf("%q is a kind: set lastKind to it", s)
	}
	wantKind(t, parseError(uint8(lastKind)+1, []byte("of tomorrow")), covey.Internal)
	wantKind(t, parseError(uint8(lastKind), nil), lastKind)
}

func TestUnknownMethod(t *testing.T) {
	a, b, _ := pair(t)
	_, err := a.Call(t.Context(), b.id, 99)
	wantKind(t, err, covey.Unavailable)
}

func TestPanicOfAHandlerIsUnknown(t *testing.T) {
	a, b, _ := pair(t)
	b.Handle(failMethod, func(context.Context, covey.NodeID, []byte) ([]byte, error) { panic("at the disco") })
	_, err := a.Call(t.Context(), b.id, failMethod)
	wantKind(t, err, covey.Unknown)
	mustCall(t, a.Net, b.id, echoMethod, "the link lives")
	if value(t, b.cfg.Metrics.panics) != 1 || b.log.count("at the disco") == 0 {
		t.Error("nobody was told")
	}
}

func TestSizes(t *testing.T) {
	a, b, _ := pair(t)
	b.Handle(5, func(_ context.Context, _ covey.NodeID, req []byte) ([]byte, error) {
		return make([]byte, MaxPayload+1), nil
	})
	for _, size := range []int{1, headerSize, 16<<10 - 1, 16 << 10, bulkSize, bulkSize + 1, 1 << 20, MaxPayload} {
		want := bytes.Repeat([]byte{7}, size)
		got, err := a.Call(t.Context(), b.id, echoMethod, want)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%d octets: got %d, %v", size, len(got), err)
		}
	}
	_, err := a.Call(t.Context(), b.id, echoMethod, make([]byte, MaxPayload), []byte{1})
	wantKind(t, err, covey.TooBig)
	_, err = a.Call(t.Context(), b.id, 5)
	wantKind(t, err, covey.TooBig)
	mustCall(t, a.Net, b.id, echoMethod, "the link lives")
}

// What is large, or may be, does not go where heartbeats go.
func TestBulkHasALinkOfItsOwn(t *testing.T) {
	a, b, _ := pair(t)
	links := func() [2]bool {
		p := a.peer(b.id)
		p.mu.Lock()
		defer p.mu.Unlock()
		return [2]bool{p.links[control] != nil, p.links[bulk] != nil}
	}
	mustCall(t, a.Net, b.id, echoMethod, string(make([]byte, bulkSize)))
	if got := links(); got != [2]bool{true, false} {
		t.Errorf("after a small call: control, bulk %v", got)
	}
	mustCall(t, a.Net, b.id, echoMethod, string(make([]byte, bulkSize+1)))
	if got := links(); got != [2]bool{true, true} {
		t.Errorf("after a large call: control, bulk %v", got)
	}
	c, d, _ := pair(t)
	mustCall(t, c.Net, d.id, echoBulk, "small")
	a, b = c, d
	if got := links(); got != [2]bool{false, true} {
		t.Errorf("after a call by a bulk method: control, bulk %v", got)
	}
}

// waiter has b hold calls of waitMethod until the returned function is called.
func waiter(t *testing.T, b *node) (arrived chan struct{}, letGo func()) {
	t.Helper()
	arrived = make(chan struct{}, 10000)
	gate := make(chan struct{})
	b.Handle(waitMethod, func(ctx context.Context, _ covey.NodeID, req []byte) ([]byte, error) {
		arrived <- struct{}{}
		select {
		case <-gate:
			return req, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	})
	return arrived, sync.OnceFunc(func() { close(gate) })
}

func TestBrokenLinkIsUnknownAtOnce(t *testing.T) {
	a, b, p := proxied(t)
	arrived, _ := waiter(t, b)
	errs := make(chan error, 100)
	var wg sync.WaitGroup
	for range cap(errs) {
		wg.Go(func() {
			_, err := a.Call(t.Context(), b.id, waitMethod)
			errs <- err
		})
	}
	for range cap(errs) {
		<-arrived
	}
	p.cut()
	wg.Wait()
	for range cap(errs) {
		wantKind(t, <-errs, covey.Unknown)
	}
	waitFor(t, "a new link", func() bool {
		_, err := a.Call(t.Context(), b.id, echoMethod)
		return err == nil
	})
}

// The handler of a caller that is gone is told so.
func TestHandlersContextEndsWithTheLink(t *testing.T) {
	a, b, p := proxied(t)
	arrived, ended := make(chan struct{}), make(chan struct{})
	b.Handle(waitMethod, func(ctx context.Context, _ covey.NodeID, _ []byte) ([]byte, error) {
		close(arrived)
		<-ctx.Done()
		close(ended)
		return nil, ctx.Err()
	})
	var wg sync.WaitGroup
	wg.Go(func() {
		_, err := a.Call(t.Context(), b.id, waitMethod)
		if covey.KindOf(err) != covey.Unknown {
			t.Errorf("got %v", err)
		}
	})
	<-arrived
	p.cut()
	<-ended
	wg.Wait()
}

func TestContextEnds(t *testing.T) {
	a, b, _ := pair(t)
	arrived, letGo := waiter(t, b)
	defer letGo()
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		_, err := a.Call(ctx, b.id, waitMethod)
		if covey.KindOf(err) != covey.Unknown || !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled while handled: got %v of kind %v", err, covey.KindOf(err))
		}
	})
	<-arrived
	cancel()
	wg.Wait()
	_, err := a.Call(ctx, b.id, echoMethod)
	if covey.KindOf(err) != covey.Unavailable || !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled before: got %v of kind %v", err, covey.KindOf(err))
	}
	mustCall(t, a.Net, b.id, echoMethod, "the late answer disturbs nobody")
}

// What waits for the link to be made, or for others, was surely not handled.
func TestContextEndsBeforeTheRequestIsSent(t *testing.T) {
	a, b, p := proxied(t)
	var handled atomic.Int64
	b.Handle(waitMethod, func(context.Context, covey.NodeID, []byte) ([]byte, error) {
		handled.Add(1)
		return nil, nil
	})
	p.stall()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	_, err := a.Call(ctx, b.id, waitMethod)
	if covey.KindOf(err) != covey.Unavailable || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v of kind %v", err, covey.KindOf(err))
	}
	p.resume()
	waitFor(t, "the link", func() bool {
		_, err := a.Call(t.Context(), b.id, echoMethod)
		return err == nil
	})
	b.Close() // waits for handlers
	if n := handled.Load(); n != 0 {
		t.Errorf("a call that was surely not handled was, %d times", n)
	}
}

func TestQueueIsBounded(t *testing.T) {
	small := func(c *Config) { c.QueueBytes, c.Silence = 1, time.Minute }
	a, b, p := proxied(t, small)
	mustCall(t, a.Net, b.id, echoMethod, "up")
	p.stall()
	var full, posted atomic.Int64
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	// The kernels take some, then nothing moves any more.
	for full.Load() == 0 {
		wg.Go(func() {
			_, err := a.Call(ctx, b.id, echoMethod, make([]byte, bulkSize))
			if covey.KindOf(err) == covey.Unavailable && errors.Is(err, context.Canceled) {
				return // waited in the queue
			}
			if covey.KindOf(err) == covey.Unavailable {
				full.Add(1)
			}
		})
		a.Post(b.id, 1, make([]byte, 1<<20))
		posted.Add(1)
	}
	l := a.peer(b.id).inUse()[0]
	l.mu.Lock()
	bytes := l.bytes
	l.mu.Unlock()
	if bytes > a.cfg.QueueBytes {
		t.Errorf("%d octets wait, at most %d are allowed", bytes, a.cfg.QueueBytes)
	}
	cancel()
	wg.Wait()
	p.resume()
}

func TestHandlersAreBounded(t *testing.T) {
	few := func(c *Config) { c.Calls = 4 }
	a, b, _ := pair(t, few)
	arrived, letGo := waiter(t, b)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			if _, err := a.Call(t.Context(), b.id, waitMethod); err != nil {
				t.Errorf("one that was let in: %v", err)
			}
		})
		<-arrived
	}
	_, err := a.Call(t.Context(), b.id, waitMethod)
	wantKind(t, err, covey.Unavailable)
	// The bulk link has no places of its own.
	_, err = a.Call(t.Context(), b.id, echoBulk)
	wantKind(t, err, covey.Unavailable)
	if got := value(t, b.cfg.Metrics.turned); got != 2 {
		t.Errorf("%v turned away, want 2", got)
	}
	letGo()
	wg.Wait()
	waitFor(t, "places", func() bool { return b.peer(a.id).slots.calls.Load() == 0 })
	mustCall(t, a.Net, b.id, echoMethod, "room again")
}

func TestRequestsInHandAreBounded(t *testing.T) {
	a, b, _ := pair(t, func(c *Config) { c.CallBytes = MaxPayload })
	arrived, letGo := waiter(t, b)
	var wg sync.WaitGroup
	wg.Go(func() {
		if _, err := a.Call(t.Context(), b.id, waitMethod, make([]byte, MaxPayload)); err != nil {
			t.Errorf("the first: %v", err)
		}
	})
	<-arrived
	_, err := a.Call(t.Context(), b.id, echoMethod, []byte("x"))
	wantKind(t, err, covey.Unavailable)
	mustCall(t, a.Net, b.id, echoMethod, "")
	letGo()
	wg.Wait()
}

func TestSlots(t *testing.T) {
	s := slots{mostCalls: 2, mostBytes: 10}
	steps := []struct {
		size int
		want bool
	}{{6, true}, {5, false}, {4, true}, {0, false}}
	for i, step := range steps {
		if got := s.enter(step.size); got != step.want {
			t.Errorf("step %d: got %v, want %v", i, got, step.want)
		}
	}
	s.leave(6)
	s.leave(4)
	if s.calls.Load() != 0 || s.bytes.Load() != 0 {
		t.Errorf("left over: %d calls, %d octets", s.calls.Load(), s.bytes.Load())
	}
}

func TestCallsOfStrangersAndOurselves(t *testing.T) {
	a, b, r := pair(t)
	_, err := a.Call(t.Context(), 77, echoMethod)
	wantKind(t, err, covey.Unavailable)
	_, err = a.Call(t.Context(), a.id, echoMethod)
	wantKind(t, err, covey.Invalid)
	r.mu.Lock()
	delete(r.addrs, b.id)
	r.mu.Unlock()
	_, err = a.Call(t.Context(), b.id, echoMethod)
	wantKind(t, err, covey.Unavailable)
}

func TestPostsArriveInOrder(t *testing.T) {
	a, b, _ := pair(t)
	got := make(chan string, 5000)
	b.HandlePost(3, func(from covey.NodeID, payload []byte) { got <- from.String() + string(payload) })
	mustCall(t, a.Net, b.id, echoMethod, "up")
	for i := range cap(got) {
		a.Post(b.id, 3, fmt.Append(nil, i), nil, []byte("!"))
	}
	for i := range cap(got) {
		if g, want := <-got, fmt.Sprintf("%s%d!", a.id, i); g != want {
			t.Fatalf("post %d: got %q, want %q", i, g, want)
		}
	}
}

func TestPostsThatAreDropped(t *testing.T) {
	a, b, r := pair(t)
	dropped := func(why string) float64 { return value(t, a.dropped[why]) }
	a.Post(b.id, 1, make([]byte, MaxPayload), []byte{1})
	a.Post(77, 1)
	if dropped(droppedSize) != 1 || dropped(droppedNoLink) != 1 {
		t.Errorf("too large %v, to a stranger %v; want one each", dropped(droppedSize), dropped(droppedNoLink))
	}
	a.Post(b.id, 99, []byte("for nobody"))
	waitFor(t, "a post without a handler", func() bool { return value(t, b.dropped[droppedUnknown]) == 1 })
	// One that waits for a link that cannot be made.
	r.set(3, testPub(3), "127.0.0.1:1")
	a.Post(3, 1, []byte("x"))
	waitFor(t, "a post to nowhere", func() bool { return dropped(droppedNoLink)+dropped(droppedBroken) == 2 })
}
