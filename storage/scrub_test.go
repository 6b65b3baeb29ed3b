package storage_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/internal/durable/durabletest"
	"github.com/covey-mail/covey/storage"
)

// scrubber returns a scrubber of m that gets parts of shard 1 from another
// machine, what it reports, and what it logs.
func (m *machine) scrubber(from *machine, every time.Duration) (*storage.Scrubber, *storage.ScrubberMetrics, *bytes.Buffer) {
	m.t.Helper()
	metrics, out := storage.NewScrubberMetrics(), new(bytes.Buffer)
	s, err := storage.NewScrubber(storage.ScrubberConfig{
		Log: m.log, Every: every, Metrics: metrics, Logger: slog.New(slog.NewTextHandler(out, nil)),
		Shards: func() map[covey.ShardID]storage.State {
			return map[covey.ShardID]storage.State{1: m.states[1], 2: m.states[2]}
		},
		Fetch: func(_ context.Context, shard covey.ShardID, p storage.Part) ([]byte, error) {
			return storage.ReadPart(from.states[shard], from.log, p.Body, p.N)
		},
	})
	if err != nil {
		m.t.Fatal(err)
	}
	return s, metrics, out
}

// run runs a scrubber for a time and waits for its end.
func run(t *testing.T, s *storage.Scrubber, d time.Duration) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	s.Run(ctx)
}

func count(c prometheus.Counter) float64 {
	var d dto.Metric
	_ = c.Write(&d) // of a counter it does not fail
	return d.GetCounter().GetValue()
}

// TestScrub has the scrubber find damage that nobody reads, and repair it; and
// say so when no replica has what is needed.
func TestScrub(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b, id := pair(t)
		b.damage(b.extents(id)[1])
		s, m, out := b.scrubber(a, time.Hour)
		run(t, s, time.Minute)
		b.verifyRepaired()
		if got := count(m.Repaired); got != 1 || count(m.Failed) != 0 {
			t.Errorf("%v repaired, %v not; log:\n%s", got, count(m.Failed), out)
		}
		if !strings.Contains(out.String(), "repaired") {
			t.Errorf("the log does not tell: %s", out)
		}
		// Both have lost the same part.
		b.damage(b.extents(id)[0])
		a.damage(a.extents(id)[0])
		out.Reset()
		run(t, s, time.Minute)
		if got := b.damaged(); len(got) != 1 || got[0] != id || count(m.Failed) != 1 {
			t.Errorf("damaged are %v, failed %v", got, count(m.Failed))
		}
		if !strings.Contains(out.String(), "could not be repaired") {
			t.Errorf("the log does not tell: %s", out)
		}
		if got := count(m.Passes); got != 2 {
			t.Errorf("%v passes, want 2", got)
		}
	})
}

// The scrubber reads no faster than it may, all in the time that it is given, and
// goes on to what it is told of meanwhile.
func TestScrubPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := startMachine(t, durabletest.NewDisk(), t.TempDir()), startMachine(t, durabletest.NewDisk(), t.TempDir())
		defer a.close()
		defer b.close()
		const size, bodies = 64 << 10, 64 // 4 MiB
		a.deliver(bodies, size)
		b.deliver(bodies, size)
		s, m, _ := b.scrubber(a, 8*time.Second) // 512 KiB a second
		read := func() int { return int(count(m.Read)) }
		b.damage(b.extents(bodies)[0]) // the last that a pass comes to
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { s.Run(ctx) })
		<-time.After(2 * time.Second)
		if got := read(); got < 900<<10 || got > 1200<<10 {
			t.Errorf("%d bytes were read in two seconds, want 1 MiB", got)
		}
		s.Suspect(1, bodies)
		synctest.Wait()
		if got := count(m.Repaired); got != 1 {
			t.Errorf("%v bodies are repaired while the pass is at another", got)
		}
		<-time.After(6500 * time.Millisecond)
		if got := read(); got < bodies*size || count(m.Passes) != 1 {
			t.Errorf("%d bytes were read in all, %v passes", got, count(m.Passes))
		}
		cancel()
		running.Wait()
		b.verifyRepaired()
	})
}

// Readers who meet the same damage at once have it repaired once, and no more
// than a few bodies are repaired at a time.
func TestRepairForReaders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b, id := pair(t)
		b.damage(b.extents(id)[0])
		let := make(chan struct{})
		var asked atomic.Int64
		s, err := storage.NewScrubber(storage.ScrubberConfig{
			Log: b.log, Shards: func() map[covey.ShardID]storage.State { return map[covey.ShardID]storage.State{1: b.states[1]} },
			Fetch: func(_ context.Context, _ covey.ShardID, p storage.Part) ([]byte, error) {
				asked.Add(1)
				<-let
				return storage.ReadPart(a.states[1], a.log, p.Body, p.N)
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		var readers sync.WaitGroup
		for range 5 {
			readers.Go(func() {
				if err := s.Repair(t.Context(), 1, id); err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		short, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := s.Repair(short, 1, id); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a reader in a hurry got %v", err)
		}
		close(let)
		readers.Wait()
		if got := asked.Load(); got != 1 {
			t.Errorf("%d parts were fetched", got)
		}
		b.verifyRepaired()
		if err := s.Repair(t.Context(), 9, id); !errors.Is(err, covey.NotFound) {
			t.Errorf("a shard that is not here: %v", err)
		}
		if err := s.Repair(t.Context(), 1, 1<<40); !errors.Is(err, covey.NotFound) {
			t.Errorf("a body that is not there: %v", err)
		}
	})
}

func TestRepairsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := startMachine(t, durabletest.NewDisk(), t.TempDir())
		defer b.close()
		b.deliver(20, 100)
		ctx, cancel := context.WithCancel(t.Context())
		s, err := storage.NewScrubber(storage.ScrubberConfig{
			Log: b.log, Shards: func() map[covey.ShardID]storage.State { return map[covey.ShardID]storage.State{1: b.states[1]} },
			Fetch: func(ctx context.Context, _ covey.ShardID, _ storage.Part) ([]byte, error) {
				<-ctx.Done()
				return nil, ctx.Err()
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		var readers sync.WaitGroup
		var refused atomic.Int64
		for id := covey.BodyID(1); id <= 20; id++ {
			b.damage(b.extents(id)[0])
			readers.Go(func() {
				switch err := s.Repair(ctx, 1, id); {
				case errors.Is(err, covey.Limit):
					refused.Add(1)
				case !errors.Is(err, context.Canceled):
					t.Errorf("body %d: %v", id, err)
				}
			})
		}
		synctest.Wait()
		cancel()
		readers.Wait()
		if got := refused.Load(); got != 4 {
			t.Errorf("%d of 20 were refused", got)
		}
	})
}

// deliver brings n messages of so many octets to shard 1 of a new machine: the
// bodies 1 to n.
func (m *machine) deliver(n, size int) {
	m.t.Helper()
	for i := range n {
		m.propose(1, storage.Deliver{
			ID: covey.DeliveryID{Node: 7, Seq: uint64(i)}, Time: noon, Recipients: []storage.Recipient{{Account: 1, Mailbox: "INBOX"}},
			Body: storage.Body{Inline: text(i, size), Size: int64(size)},
		})
	}
}

func TestScrubberConfig(t *testing.T) {
	if s, err := storage.NewScrubber(storage.ScrubberConfig{}); !errors.Is(err, covey.Invalid) {
		t.Errorf("NewScrubber of nothing: %v, %v", s, err)
	}
}
