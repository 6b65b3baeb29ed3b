package bench

import (
	"context"
	"errors"
	"io"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// A fakeSession does what the test says.
type fakeSession struct {
	operate func(ctx context.Context, op *operation) error
}

func (s fakeSession) do(ctx context.Context, op *operation) error { return s.operate(ctx, op) }
func (fakeSession) rest()                                         {}
func (fakeSession) close()                                        {}

func fakeLoad(operate func(ctx context.Context, op *operation) error) *load {
	return &load{
		users: newUsers(Config{Users: 1}), rec: newRecorder(nil, nil),
		open: func(int) session { return fakeSession{operate} },
	}
}

func takes(d time.Duration) func(context.Context, *operation) error {
	return func(context.Context, *operation) error { <-time.After(d); return nil }
}

func TestClosedLoop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := fakeLoad(takes(10 * time.Millisecond))
		l.conns, l.duration = 4, time.Second
		l.run(t.Context())
		// At the last moment each may begin one more.
		if done, failed := l.rec.counts(); done < 400 || done > 404 || failed != 0 {
			t.Errorf("4 workers did %d operations of 10 ms in 1 s, %d failed; want 400, 0", done, failed)
		}
	})
}

func TestClosedLoopCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		seen := make(chan int64, 100)
		l := fakeLoad(func(_ context.Context, op *operation) error { seen <- op.n; return nil })
		l.conns, l.count = 3, 50
		l.run(t.Context())
		numbers := make(map[int64]bool)
		for range len(seen) {
			numbers[<-seen] = true
		}
		if len(numbers) != 50 || !numbers[0] || !numbers[49] {
			t.Errorf("operations %v, want 0 to 49 once each", numbers)
		}
	})
}

func TestPaceHoldsAClosedLoop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tokens := make(chan struct{}, 10)
		for range cap(tokens) {
			tokens <- struct{}{}
		}
		l := fakeLoad(takes(time.Millisecond))
		l.conns, l.duration = 4, time.Second
		l.pace = func(ctx context.Context) error {
			select {
			case <-tokens:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		l.run(t.Context())
		if done, failed := l.rec.counts(); done != 10 || failed != 0 {
			t.Errorf("%d done, %d failed; want 10, 0", done, failed)
		}
	})
}

// A worker whose connections break must not fill the run with failures.
func TestClosedLoopBacksOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := fakeLoad(func(context.Context, *operation) error { return broken("connect", io.EOF) })
		l.conns, l.duration = 1, 10*time.Second
		l.run(t.Context())
		if _, failed := l.rec.counts(); failed < 5 || failed > 30 {
			t.Errorf("%d failures in 10 s, want a few", failed)
		}
	})
}

// One stall of the server delays all that was planned meanwhile by what is left
// of it. A closed loop would see one slow operation.
func TestOpenLoopCountsFromThePlan(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const stall = time.Second
		begin := time.Now()
		l := fakeLoad(func(context.Context, *operation) error {
			<-time.After(max(stall-time.Since(begin), 0))
			return nil
		})
		l.conns, l.rate, l.duration = 1, 100, 2*time.Second
		l.run(t.Context())
		h := &l.rec.latency
		if h.n != 200 {
			t.Fatalf("%d operations in 2 s at 100/s", h.n)
		}
		// The first half waited 1 s, 0.99 s, 0.98 s ...
		for q, want := range map[float64]time.Duration{1: stall, 0.75: stall / 2, 0.5: 0} {
			if got := h.quantile(q); got < want || got > want+20*time.Millisecond {
				t.Errorf("quantile %v is %v, want %v", q, got, want)
			}
		}
		if l.rec.queued != 100 && l.rec.queued != 99 {
			t.Errorf("%d operations waited, want those of the stall", l.rec.queued)
		}
	})
}

// What a message waited before its end was sent is latency, but not the server's
// at the end of DATA.
func TestAcceptLatencyCountsFromTheEndOfTheMessage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := fakeLoad(func(_ context.Context, op *operation) error {
			<-time.After(300 * time.Millisecond)
			op.handed = time.Now()
			<-time.After(20 * time.Millisecond)
			return nil
		})
		l.conns, l.count = 2, 10
		l.run(t.Context())
		var res Result
		res.take(l.rec, time.Second)
		if res.Latency.P50 != 320 || res.Accept.P50 != 20 || res.Accept.Max != 20 {
			t.Errorf("latency %+v, from the end of the message %+v; want 320 and 20 ms", res.Latency, res.Accept)
		}
	})
}

// With workers to spare, slow operations delay no arrival.
func TestOpenLoopMakesWorkersAsNeeded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := fakeLoad(takes(500 * time.Millisecond))
		var opened atomic.Int64
		inner := l.open
		l.open = func(w int) session { opened.Add(1); return inner(w) }
		l.conns, l.rate, l.count = 1000, 100, 300
		l.run(t.Context())
		if got := l.rec.latency.max; got != 500*time.Millisecond {
			t.Errorf("the slowest took %v, want 500ms", got)
		}
		if n := opened.Load(); n < 50 || n > 52 || l.rec.queued != 0 {
			t.Errorf("%d workers, %d arrivals waited; want 50, 0", n, l.rec.queued)
		}
	})
}

func TestOpenLoopOverflows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := fakeLoad(func(ctx context.Context, _ *operation) error { <-ctx.Done(); return ctx.Err() })
		l.conns, l.rate, l.duration = 2, 100_000, time.Second
		begin := time.Now()
		l.run(t.Context())
		if took := time.Since(begin); took != time.Second+drain {
			t.Errorf("the run took %v", took)
		}
		done, failed := l.rec.counts()
		if done != 0 || failed != 2 || l.rec.overflow != 100_000-2 {
			t.Errorf("%d done, %d failed, %d overflow; want 0, 2 and the rest", done, failed, l.rec.overflow)
		}
	})
}

func TestInterruptEndsLoad(t *testing.T) {
	for name, rate := range map[string]float64{"closed": 0, "open": 50} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				l := fakeLoad(takes(10 * time.Millisecond))
				l.conns, l.rate, l.duration = 2, rate, time.Hour
				time.AfterFunc(time.Second, cancel)
				begin := time.Now()
				l.run(ctx)
				if took := time.Since(begin); took > 1100*time.Millisecond {
					t.Errorf("the run went on until %v", took)
				}
				if done, _ := l.rec.counts(); done == 0 {
					t.Error("nothing was recorded")
				}
			})
		})
	}
}

func TestProgress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var told []Progress
		cfg := Config{ProgressEvery: time.Second, Duration: 5 * time.Second, Progress: func(p Progress) { told = append(told, p) }}
		done := int64(0)
		w := startWatch(cfg, "load", func() (int64, int64) { done += 10; return done, 1 })
		time.AfterFunc(3500*time.Millisecond, w.stop)
		w.done.Wait()
		if len(told) != 3 {
			t.Fatalf("%d reports in 3.5 s", len(told))
		}
		want := Progress{"load", 3 * time.Second, 5 * time.Second, 30, 1, 10}
		if told[2] != want {
			t.Errorf("got %+v, want %+v", told[2], want)
		}
	})
}

func TestUsersComeInTurn(t *testing.T) {
	for _, count := range []int{1, 2, 3, 64, 97, 1000} {
		u := newUsers(Config{Users: count, Seed: 5, UserPattern: "u%03d@x"})
		for round := range int64(2) {
			seen := make(map[int]bool)
			for n := range int64(count) {
				seen[u.of(round*int64(count)+n)] = true
			}
			if len(seen) != count {
				t.Errorf("round of %d users met %d", count, len(seen))
			}
		}
	}
	a, b := newUsers(Config{Users: 1000, Seed: 1}), newUsers(Config{Users: 1000, Seed: 1})
	for n := range int64(10) {
		if a.of(n) != b.of(n) {
			t.Error("the same seed gives another order")
		}
	}
}

func TestLogins(t *testing.T) {
	for password, want := range map[string]string{"": "u007", "pw": "pw", "secret%d": "secret7"} {
		u := newUsers(Config{Users: 10, UserPattern: "u%03d@x", Password: password})
		name, got := u.login(7)
		if name != "u007@x" || got != want {
			t.Errorf("password pattern %q: %q, %q; want u007@x, %q", password, name, got, want)
		}
	}
}

func TestFailureClasses(t *testing.T) {
	c := make(classes)
	c.add(refused("RCPT", "550 5.1.1 no such user here queue 1"), time.Millisecond)
	c.add(refused("RCPT", "550 5.1.1 no such user here queue 2"), 3*time.Millisecond)
	c.add(broken("connect", context.DeadlineExceeded), time.Second)
	c.add(errors.New("odd\x1b[31m"), 0)
	want := []FailureClass{
		{"RCPT: 550 5.1.1 no such user here", 2, 3, hint("RCPT: 55")},
		{"connect: timeout", 1, 1000, hint("timeout")},
		{"odd?[31m", 1, 0, ""},
	}
	got := c.list()
	if len(got) != len(want) {
		t.Fatalf("got %+v, want %+v", got, want)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("got %+v, want %+v", got[i], want[i])
		}
	}
	for i := range 100 {
		c.add(refused("DATA", "451 "+string(rune('a'+i%26))+string(rune('a'+i/26))), 0)
	}
	if len(c) > maxClasses+1 || c[otherClass].count == 0 {
		t.Errorf("%d classes, %d others; want at most %d and some", len(c), c[otherClass].count, maxClasses+1)
	}
}
