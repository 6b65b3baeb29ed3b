package replica

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/storage/seglog"
)

// A sink is a state machine that costs nothing.
type sink struct{ applied uint64 }

func (s *sink) Applied() uint64 { return 0 }
func (s *sink) Apply(commands []seglog.Command) []any {
	s.applied = commands[len(commands)-1].Index
	return make([]any, len(commands))
}
func (s *sink) Checkpoint() (uint64, error) { return s.applied, nil }
func (s *sink) Recover(Replay) error        { return nil }
func (s *sink) Close() error                { return nil }

// BenchmarkPropose has 64 callers at a time propose 8 KiB to groups of one voter
// on a real disk. syncs/op tells how well they share the disk.
func BenchmarkPropose(b *testing.B) {
	for _, groups := range []int{1, 16} {
		b.Run(fmt.Sprintf("groups=%d", groups), func(b *testing.B) { benchmarkPropose(b, groups) })
	}
}

func benchmarkPropose(b *testing.B, groups int) {
	log, err := seglog.Open(seglog.Config{Dir: b.TempDir()})
	if err != nil {
		b.Fatal(err)
	}
	defer log.Close()
	h, err := New(Config{Node: 1, Log: log})
	if err != nil {
		b.Fatal(err)
	}
	for id := range covey.ShardID(groups) {
		if err := h.Add(id, &sink{}, []covey.NodeID{1}); err != nil {
			b.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(b.Context())
	var host sync.WaitGroup
	host.Go(func() {
		if err := h.Run(ctx); err != nil {
			b.Error(err)
		}
	})
	defer host.Wait()
	defer cancel()

	command := make([]byte, 8<<10)
	b.SetBytes(int64(len(command)))
	var next atomic.Int64
	var callers sync.WaitGroup
	b.ResetTimer()
	for range 64 {
		callers.Go(func() {
			for i := next.Add(1); i <= int64(b.N); i = next.Add(1) {
				if _, err := h.Propose(ctx, covey.ShardID(i%int64(groups)), command); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	callers.Wait()
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "commits/s")
}
