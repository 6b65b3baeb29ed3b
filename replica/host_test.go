package replica

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/internal/durable"
	"github.com/covey-mail/covey/storage/seglog"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A single is one node with groups 0, 1, … of which it is the only voter.
type single struct {
	t        *testing.T
	fs       durable.FS
	dir      string
	log      *seglog.Log
	host     *Host
	machines []*recorder
	cancel   context.CancelFunc
	ended    chan error
}

// startSingle opens a log and starts a host on it, inside a synctest bubble, and
// waits until it leads its groups.
func startSingle(t *testing.T, fs durable.FS, dir string, cfg Config, machines ...*recorder) *single {
	t.Helper()
	s := newSingle(t, fs, dir, cfg, machines...)
	s.run()
	return s
}

// newSingle is startSingle as far as before Run.
func newSingle(t *testing.T, fs durable.FS, dir string, cfg Config, machines ...*recorder) *single {
	t.Helper()
	s := &single{t: t, fs: fs, dir: dir, machines: machines, ended: make(chan error, 1)}
	s.open()
	cfg.Node, cfg.Log = 1, s.log
	s.host = newHost(t, cfg)
	for i, m := range machines {
		m.read = s.log.Read
		if err := s.host.Add(covey.ShardID(i), m, []covey.NodeID{1}); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

// run calls Run and waits until everything has come to rest.
func (s *single) run() {
	ctx, cancel := context.WithCancel(s.t.Context())
	s.cancel = cancel
	go func() { s.ended <- s.host.Run(ctx) }()
	synctest.Wait()
}

func (s *single) open() {
	s.t.Helper()
	log, err := seglog.Open(seglog.Config{Dir: s.dir, FS: s.fs, SegmentSize: 1 << 20})
	if err != nil {
		s.t.Fatal(err)
	}
	s.log = log
}

func newHost(t *testing.T, cfg Config) *Host {
	t.Helper()
	h, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// stop ends the host and returns what Run returned.
func (s *single) stop() error {
	s.cancel()
	err := <-s.ended
	if closeErr := s.log.Close(); err == nil && closeErr != nil {
		s.t.Errorf("close log: %v", closeErr)
	}
	for i, m := range s.machines {
		if m.fault != nil {
			s.t.Errorf("group %d: %v", i, m.fault)
		}
		if m.closed != 1 {
			s.t.Errorf("group %d: closed %d times", i, m.closed)
		}
	}
	return err
}

func (s *single) mustStop() {
	s.t.Helper()
	if err := s.stop(); err != nil {
		s.t.Errorf("Run: %v", err)
	}
}

func (s *single) propose(id covey.ShardID, command string) error {
	s.t.Helper()
	got, err := s.host.Propose(s.t.Context(), id, []byte(command))
	if err == nil && got != result(command) {
		s.t.Errorf("Propose(%.40q) = %v", command, got)
	}
	return err
}

func (s *single) mustPropose(id covey.ShardID, commands ...string) {
	s.t.Helper()
	for _, c := range commands {
		if err := s.propose(id, c); err != nil {
			s.t.Fatalf("Propose(%.40q): %v", c, err)
		}
	}
}

func wantKind(t *testing.T, what string, err error, want covey.Kind) {
	t.Helper()
	if err == nil || covey.KindOf(err) != want {
		t.Errorf("%s: %v, want %v", what, err, want)
	}
}

func wantCommands(t *testing.T, m *recorder, want ...string) {
	t.Helper()
	if diff := cmp.Diff(want, m.now().Commands); diff != "" {
		t.Errorf("applied (-want +got):\n%s", diff)
	}
}

func TestAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		a, b := &recorder{}, &recorder{}
		s := startSingle(t, durable.OS(), t.TempDir(), Config{}, a, b)
		s.mustPropose(0, "one", "two")
		s.mustPropose(1, "three")
		if err := s.host.ReadIndex(t.Context(), 0); err != nil {
			t.Error(err)
		}
		if waited := time.Since(began); waited != 0 {
			t.Errorf("a group of one waited %v for a clock", waited)
		}
		wantCommands(t, a, "one", "two")
		wantCommands(t, b, "three")
		status := s.host.Status()
		want := []Status{
			{Group: 0, Leader: 1, Term: 2, Applied: 4, Committed: 4, Last: 4, Voters: []covey.NodeID{1}, Learners: []covey.NodeID{}},
			{Group: 1, Leader: 1, Term: 2, Applied: 3, Committed: 3, Last: 3, Voters: []covey.NodeID{1}, Learners: []covey.NodeID{}},
		}
		if diff := cmp.Diff(want, status); diff != "" {
			t.Errorf("Status (-want +got):\n%s", diff)
		}
		s.mustStop()
		if diff := cmp.Diff(a.chain, a.durable); diff != "" {
			t.Errorf("checkpoint at stop (-applied +durable):\n%s", diff)
		}
	})
}

// Commands above the last checkpoint are applied again at start, those below it
// are not, and a read that follows sees them all.
func TestRestart(t *testing.T) {
	for _, clean := range []bool{true, false} {
		t.Run(fmt.Sprintf("clean=%t", clean), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				dir := t.TempDir()
				m := &recorder{}
				s := startSingle(t, durable.OS(), dir, Config{}, m)
				s.mustPropose(0, "one", "two")
				if err := s.host.Checkpoint(t.Context(), 0); err != nil {
					t.Fatal(err)
				}
				s.mustPropose(0, "three")
				before := m.now()
				next := m.restarted()
				s.mustStop()
				if clean {
					next = m.restarted()
				}
				s = startSingle(t, durable.OS(), dir, Config{}, next)
				if err := s.host.ReadIndex(t.Context(), 0); err != nil {
					t.Error(err)
				}
				if diff := cmp.Diff(before, next.now()); diff != "" {
					t.Errorf("after restart (-before +after):\n%s", diff)
				}
				s.mustPropose(0, "four")
				wantCommands(t, next, "one", "two", "three", "four")
				s.mustStop()
			})
		})
	}
}

func TestRefusedArguments(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := startSingle(t, durable.OS(), t.TempDir(), Config{}, &recorder{})
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		_, err := s.host.Propose(ended, 0, []byte("x"))
		wantKind(t, "ended context", err, covey.Unavailable)
		wantKind(t, "empty command", s.propose(0, ""), covey.Invalid)
		wantKind(t, "unknown group", s.propose(7, "x"), covey.NotFound)
		wantKind(t, "read of unknown group", s.host.ReadIndex(t.Context(), 7), covey.NotFound)
		wantKind(t, "checkpoint of unknown group", s.host.Checkpoint(t.Context(), 7), covey.NotFound)
		wantKind(t, "long command", s.propose(0, string(make([]byte, MaxCommand+1))), covey.TooBig)
		wantKind(t, "second Run", s.host.Run(t.Context()), covey.Invalid)
		s.mustPropose(0, string(make([]byte, MaxCommand)))
		s.mustStop()
		wantKind(t, "after stop", s.propose(0, "x"), covey.Unavailable)
		wantKind(t, "read after stop", s.host.ReadIndex(t.Context(), 0), covey.Unavailable)
		wantKind(t, "checkpoint after stop", s.host.Checkpoint(t.Context(), 0), covey.Unavailable)
	})
}

func TestConfigRefused(t *testing.T) {
	log, err := seglog.Open(seglog.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	for name, cfg := range map[string]Config{
		"no node":        {Log: log},
		"reserved node":  {Node: ^covey.NodeID(0), Log: log},
		"no log":         {Node: 1},
		"short election": {Node: 1, Log: log, ElectionTicks: 2, HeartbeatTicks: 2},
		"negative bound": {Node: 1, Log: log, MaxReads: -1},
	} {
		_, err := New(cfg)
		wantKind(t, name, err, covey.Invalid)
	}
	h := newHost(t, Config{Node: 1, Log: log})
	wantKind(t, "no voters", h.Add(1, &recorder{}, []covey.NodeID{}), covey.Invalid)
	wantKind(t, "voter twice", h.Add(1, &recorder{}, []covey.NodeID{1, 1}), covey.Invalid)
	wantKind(t, "voter zero", h.Add(1, &recorder{}, []covey.NodeID{0}), covey.Invalid)
	if err := h.Add(1, &recorder{}, []covey.NodeID{1}); err != nil {
		t.Error(err)
	}
	wantKind(t, "added twice", h.Add(1, &recorder{}, []covey.NodeID{1}), covey.Exists)
}

// A node whose log lost records that it vouched for must not vote on what is
// left.
func TestDamagedLogIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		s := startSingle(t, durable.OS(), dir, Config{}, &recorder{})
		s.mustPropose(0, "one")
		s.mustStop()
		s.open()
		defer s.log.Close()
		h := newHost(t, Config{Node: 1, Log: s.log})
		ahead := &recorder{chain: chain{Index: 4}}
		wantKind(t, "log behind the state", h.Add(0, ahead, []covey.NodeID{1}), covey.Corrupt)
		wantKind(t, "empty log behind a state", h.Add(1, ahead, []covey.NodeID{1}), covey.Corrupt)
	})
}

// A cancelled proposal may be applied all the same, and leaves nothing behind.
func TestCancelledPropose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &recorder{gate: make(chan struct{})}
		s := startSingle(t, durable.OS(), t.TempDir(), Config{}, m)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := s.host.Propose(ctx, 0, []byte("late"))
		wantKind(t, "cancelled", err, covey.Unknown)
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v does not tell why", err)
		}
		if g := s.host.groups[0]; len(g.waiting) != 0 || g.waitingBytes != 0 {
			t.Errorf("%d proposals of %d octets still wait", len(g.waiting), g.waitingBytes)
		}
		close(m.gate)
		s.mustPropose(0, "next")
		wantCommands(t, m, "late", "next")
		s.mustStop()
	})
}

func TestBounds(t *testing.T) {
	tests := []struct {
		name string
		cfg  Config
	}{
		{"count", Config{MaxProposals: 2}},
		{"bytes", Config{MaxProposalBytes: 2 * (frameSize + 2)}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := &recorder{gate: make(chan struct{})}
				s := startSingle(t, durable.OS(), t.TempDir(), test.cfg, m)
				var wg sync.WaitGroup
				for i := range 2 {
					wg.Go(func() { s.mustPropose(0, fmt.Sprintf("p%d", i)) })
				}
				synctest.Wait()
				wantKind(t, "one too many", s.propose(0, "p2"), covey.Unavailable)
				if got := metric(t, s.host, "refusals_total", refusedQueue); got != 1 {
					t.Errorf("%v refusals counted", got)
				}
				close(m.gate)
				wg.Wait()
				s.mustPropose(0, "p3")
				if got := metric(t, s.host, "waiting_proposals"); got != 0 {
					t.Errorf("%v proposals counted as waiting", got)
				}
				s.mustStop()
			})
		})
	}
}

// What the state machine has not applied is bounded in bytes, and a read waits
// for what was committed before it.
func TestApplyQueueIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &recorder{gate: make(chan struct{})}
		s := startSingle(t, durable.OS(), t.TempDir(), Config{MaxApplyBytes: 100}, m)
		var wg sync.WaitGroup
		for i := range 20 {
			wg.Go(func() { s.mustPropose(0, fmt.Sprintf("command %d of many", i)) })
		}
		synctest.Wait()
		if got := metric(t, s.host, "apply_queue_entries"); got > 4 {
			t.Errorf("%v entries queue, want what fits into 100 octets", got)
		}
		read := make(chan error, 1)
		go func() { read <- s.host.ReadIndex(t.Context(), 0) }()
		synctest.Wait()
		select {
		case err := <-read:
			t.Errorf("ReadIndex returned early: %v", err)
		default:
		}
		close(m.gate)
		if err := <-read; err != nil {
			t.Error(err)
		}
		if got := len(m.now().Commands); got != 20 {
			t.Errorf("after the read, %d commands are applied", got)
		}
		wg.Wait()
		s.mustStop()
	})
}

func TestF45_PoisonStopsOneGroup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		bad, good := &recorder{panicOn: "poison"}, &recorder{}
		s := startSingle(t, durable.OS(), dir, Config{}, bad, good)
		s.mustPropose(0, "fine")
		wantKind(t, "poison", s.propose(0, "poison"), covey.Internal)
		synctest.Wait()
		wantKind(t, "after poison", s.propose(0, "more"), covey.Unavailable)
		wantKind(t, "read after poison", s.host.ReadIndex(t.Context(), 0), covey.Unavailable)
		wantKind(t, "checkpoint after poison", s.host.Checkpoint(t.Context(), 0), covey.Unavailable)
		s.mustPropose(1, "others go on")
		if status := s.host.Status(); status[0].Fault == nil || status[0].Leader != 0 || status[1].Fault != nil {
			t.Errorf("Status = %+v", status)
		}
		s.mustStop()
		if bad.checks != 0 {
			t.Error("a state that cannot be trusted was checkpointed")
		}

		// At the next start it stops again, and the node starts all the same.
		again := &recorder{panicOn: "poison"}
		s = startSingle(t, durable.OS(), dir, Config{}, again, good.restarted())
		wantCommands(t, again, "fine")
		s.mustPropose(1, "still")
		if status := s.host.Status(); status[0].Fault == nil {
			t.Error("the fault is forgotten")
		}
		s.mustStop()
	})
}

// Each group is checkpointed once in an interval in which it applied something,
// and no two at the same time.
func TestCheckpointsInTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		machines := []*recorder{{}, {}, {}, {}}
		s := startSingle(t, durable.OS(), t.TempDir(), Config{CheckpointEvery: 8 * time.Second}, machines...)
		checks := func() (n []int) {
			for _, m := range machines {
				m.mu.Lock()
				n = append(n, m.checks)
				m.mu.Unlock()
			}
			return n
		}
		var seen [][]int
		for second := range 17 {
			if second == 0 || second == 9 {
				s.mustPropose(0, fmt.Sprint("a", second))
				s.mustPropose(1, fmt.Sprint("b", second))
				s.mustPropose(3, fmt.Sprint("d", second))
			}
			advance(t, time.Second)
			seen = append(seen, checks())
		}
		want := [][]int{
			{0, 0, 0, 0}, {1, 0, 0, 0}, {1, 0, 0, 0}, {1, 1, 0, 0}, {1, 1, 0, 0}, {1, 1, 0, 0}, {1, 1, 0, 0}, {1, 1, 0, 1}, {1, 1, 0, 1},
			{2, 1, 0, 1}, {2, 1, 0, 1}, {2, 2, 0, 1}, {2, 2, 0, 1}, {2, 2, 0, 1}, {2, 2, 0, 1}, {2, 2, 0, 2}, {2, 2, 0, 2},
		}
		if diff := cmp.Diff(want, seen); diff != "" {
			t.Errorf("checkpoints by second (-want +got):\n%s", diff)
		}
		s.mustStop()
	})
}

func TestCheckpointAfterBytes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &recorder{}
		s := startSingle(t, durable.OS(), t.TempDir(), Config{CheckpointBytes: 1000}, m)
		s.mustPropose(0, string(make([]byte, 900)))
		advance(t, time.Second)
		if m.checks != 0 {
			t.Errorf("%d checkpoints after 900 octets", m.checks)
		}
		s.mustPropose(0, string(make([]byte, 100)))
		advance(t, time.Second)
		if m.checks != 1 {
			t.Errorf("%d checkpoints after 1,000 octets", m.checks)
		}
		s.mustStop()
	})
}

// A checkpoint that fails is repeated, and costs the group nothing else.
func TestCheckpointFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &recorder{checkErr: covey.Errorf(covey.DiskFull, "no room")}
		s := startSingle(t, durable.OS(), t.TempDir(), Config{CheckpointEvery: 2 * time.Second}, m)
		s.mustPropose(0, "one")
		wantKind(t, "checkpoint", s.host.Checkpoint(t.Context(), 0), covey.DiskFull)
		advance(t, 7*time.Second)
		if m.checks != 4 {
			t.Errorf("%d tries in 7 s, want 4", m.checks)
		}
		s.mustPropose(0, "two")
		wantKind(t, "Run", s.stop(), covey.DiskFull)
		if got := metric(t, s.host, "checkpoints_total", "failed"); got != 5 {
			t.Errorf("%v failures counted, want 5", got)
		}
	})
}

// A state machine that finds no room for what it applied goes on from the log,
// and whoever waits gets the result.
func TestF21_NoRoomForTheState(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &recorder{}
		s := startSingle(t, durable.OS(), t.TempDir(), Config{}, m)
		s.mustPropose(0, "one", "two")
		if err := s.host.Checkpoint(t.Context(), 0); err != nil {
			t.Fatal(err)
		}
		s.mustPropose(0, "three", "four")
		m.full = true
		s.mustPropose(0, "five", "six")
		if m.recovered != 1 {
			t.Errorf("recovered %d times when it applied, want once", m.recovered)
		}
		m.full = true
		wantKind(t, "checkpoint", s.host.Checkpoint(t.Context(), 0), covey.DiskFull)
		if m.recovered != 2 {
			t.Errorf("recovered %d times after a checkpoint, want twice", m.recovered)
		}
		want := []string{"one", "two", "three", "four", "five", "six"}
		if diff := cmp.Diff(want, m.now().Commands); diff != "" {
			t.Error(diff)
		}
		s.mustPropose(0, "seven")
		s.mustStop()
	})
}

// A recovery that fails stops the group.
func TestRecoverFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &recorder{full: true, recoverErr: errors.New("no file")}
		s := startSingle(t, durable.OS(), t.TempDir(), Config{}, m)
		wantKind(t, "propose", s.propose(0, "one"), covey.Internal)
		if fault := s.host.Status()[0].Fault; !errors.Is(fault, m.recoverErr) {
			t.Errorf("fault %v, want %v", fault, m.recoverErr)
		}
		s.mustStop()
	})
}

// metric returns a counter or gauge, or how many observations a histogram has.
func metric(t *testing.T, h *Host, name string, labels ...string) float64 {
	t.Helper()
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(h.metrics.Collectors()...)
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != "covey_replica_"+name {
			continue
		}
		for _, m := range f.GetMetric() {
			var values []string
			for _, l := range m.GetLabel() {
				values = append(values, l.GetValue())
			}
			if slices.Equal(values, labels) {
				return m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
			}
		}
	}
	return 0
}

// advance lets virtual time pass and everything it sets off come to rest.
func advance(t *testing.T, d time.Duration) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	<-ctx.Done()
	synctest.Wait()
}
