package seglog

import (
	"fmt"
	"testing"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/covey-mail/covey"
)

// renumber gives entries new indexes without touching their data.
func renumber(ents []*raftpb.Entry, from uint64) []*raftpb.Entry {
	list := make([]*raftpb.Entry, len(ents))
	for i, e := range ents {
		list[i] = &raftpb.Entry{Term: e.Term, Index: new(from + uint64(i)), Data: e.Data}
	}
	return list
}

// BenchmarkWrite writes batches of 64 entries of 8 KiB for 16 groups, with one
// fsync each or with none.
func BenchmarkWrite(b *testing.B) {
	for _, sync := range []bool{true, false} {
		b.Run(fmt.Sprintf("sync=%t", sync), func(b *testing.B) {
			l, err := Open(Config{Dir: b.TempDir(), Keep: -1})
			if err != nil {
				b.Fatal(err)
			}
			defer l.Close()
			ents := entries(1, 1, 4, 8<<10)
			var batch Batch
			index := uint64(1)
			b.SetBytes(64 * 8 << 10)
			b.ReportAllocs()
			for b.Loop() {
				batch.Reset()
				b.StopTimer()
				next := renumber(ents, index)
				b.StartTimer()
				for g := range covey.ShardID(16) {
					batch.Append(g, next)
					batch.HardState(g, &raftpb.HardState{Term: ents[0].Term, Vote: ents[0].Term, Commit: next[0].Index})
				}
				if err := l.Write(&batch, Durability(sync)); err != nil {
					b.Fatal(err)
				}
				index += 4
				for g := range covey.ShardID(16) {
					l.Applied(g, index-1)
				}
				b.StopTimer()
				clean(b, l)
				b.StartTimer()
			}
		})
	}
}

// clean keeps the benchmark's disk use bounded.
func clean(b *testing.B, l *Log) {
	infos := l.Segments()
	if len(infos) < 6 {
		return
	}
	for _, s := range infos[:2] {
		if err := l.Remove(s.Number); err != nil {
			b.Fatal(err)
		}
	}
}

// fill writes n entries to each of 16 groups, of which all but the last 100 are
// applied.
func fill(tb testing.TB, cfg Config, n uint64, size int) {
	tb.Helper()
	l, err := Open(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	ents := entries(1, 1, 16, size)
	var batch Batch
	for from := uint64(1); from <= n; from += 16 {
		batch.Reset()
		for g := range covey.ShardID(16) {
			batch.Append(g, renumber(ents, from))
		}
		if err := l.Write(&batch, false); err != nil {
			tb.Fatal(err)
		}
		for g := range covey.ShardID(16) {
			l.Applied(g, max(from, 101)-100)
		}
	}
	if err := l.Close(); err != nil {
		tb.Fatal(err)
	}
}

// BenchmarkOpen opens a log of 160,000 messages.
func BenchmarkOpen(b *testing.B) {
	cfg := Config{Dir: b.TempDir()}
	fill(b, cfg, 10_000, 1<<10)
	b.ReportAllocs()
	for b.Loop() {
		l, err := Open(cfg)
		if err != nil {
			b.Fatal(err)
		}
		l.Close()
	}
}

// A start does not read the whole log: only the newest segment and the footers
// of those with entries that are still kept.
func TestOpenReadsLittle(t *testing.T) {
	cfg := Config{Dir: t.TempDir(), SegmentSize: 256 << 10, Keep: 512 << 10}
	fill(t, cfg, 1600, 1<<10)
	start := time.Now()
	l := openTest(t, cfg)
	t.Logf("%d segments opened in %v", len(l.Segments()), time.Since(start))
	slots := 0
	for _, id := range l.Groups() {
		slots += len(l.Group(id).slots)
	}
	// Per group: 512 KiB of applied entries, 100 that are not applied, one batch,
	// and what was applied since the newest segment's header told the first.
	if most := 16 * (512 + 100 + 16 + 16); slots > most {
		t.Errorf("%d entries in memory, want at most %d of %d", slots, most, 16*1600)
	}
}
