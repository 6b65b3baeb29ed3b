package seglog

import (
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/covey-mail/covey"
)

// A Group answers as raft's own memory storage does.
func TestStorageLikeRafts(t *testing.T) {
	for _, cacheBytes := range []int64{-1, 2 << 10, 0} {
		t.Run(fmt.Sprint(cacheBytes), func(t *testing.T) {
			_, cfg := memory()
			cfg.CacheBytes, cfg.Keep = cacheBytes, -1
			l := openTest(t, cfg)
			want := raft.NewMemoryStorage()
			batches := [][]*raftpb.Entry{entries(1, 1, 20, 100), entries(2, 15, 30, 2000), entries(2, 31, 31, 0), entries(3, 30, 40, 500)}
			for _, ents := range batches {
				mustWrite(t, l, func(b *Batch) { b.Append(5, ents) })
				if err := want.Append(ents); err != nil {
					t.Fatal(err)
				}
			}
			compareStorage(t, l.Group(5), want)
			l.Applied(5, 12)
			if err := want.Compact(12); err != nil {
				t.Fatal(err)
			}
			compareStorage(t, l.Group(5), want)

			meta := &raftpb.SnapshotMetadata{Index: new(uint64(60)), Term: new(uint64(4)), ConfState: &raftpb.ConfState{Voters: []uint64{1, 2}}}
			mustWrite(t, l, func(b *Batch) {
				b.Snapshot(5, meta)
				b.Append(5, entries(4, 61, 63, 10))
			})
			if err := want.ApplySnapshot(&raftpb.Snapshot{Metadata: meta}); err != nil {
				t.Fatal(err)
			}
			if err := want.Append(entries(4, 61, 63, 10)); err != nil {
				t.Fatal(err)
			}
			compareStorage(t, l.Group(5), want)
			l.Close()
			compareStorage(t, openTest(t, cfg).Group(5), want)
		})
	}
}

func compareStorage(t *testing.T, got *Group, want raft.Storage) {
	t.Helper()
	f, _ := got.FirstIndex()
	l, _ := got.LastIndex()
	wf, _ := want.FirstIndex()
	wl, _ := want.LastIndex()
	if f != wf || l != wl {
		t.Fatalf("entries %d to %d, want %d to %d", f, l, wf, wl)
	}
	for i := wf - min(wf, 2); i <= wl+2; i++ {
		gt, gerr := got.Term(i)
		wt, werr := want.Term(i)
		if gt != wt || !errors.Is(gerr, werr) {
			t.Errorf("term of %d: %d, %v; want %d, %v", i, gt, gerr, wt, werr)
		}
	}
	for _, size := range []uint64{0, 300, 3000, 1 << 40} {
		for lo := wf - 1; lo <= wl; lo++ {
			for _, hi := range []uint64{lo + 1, wl + 1} {
				ge, gerr := got.Entries(lo, hi, size)
				we, werr := want.Entries(lo, hi, size)
				if !errors.Is(gerr, werr) || (len(ge) == 0) != (len(we) == 0) {
					t.Fatalf("entries [%d, %d): %d, %v; want %d, %v", lo, hi, len(ge), gerr, len(we), werr)
				}
				// An entry read back says its type and may be two octets longer.
				n := 0
				for i, e := range ge {
					n += proto.Size(e)
					if i >= len(we) {
						t.Fatalf("entries [%d, %d) up to %d octets: %d, want %d", lo, hi, size, len(ge), len(we))
					}
					if err := sameEntry(e, we[i]); err != nil {
						t.Fatal(err)
					}
				}
				if uint64(n) > size && len(ge) > 1 || len(we)-len(ge) > 1 {
					t.Errorf("entries [%d, %d) up to %d octets: %d with %d octets, want %d", lo, hi, size, len(ge), n, len(we))
				}
			}
		}
	}
}

// What cannot follow is refused, and nothing of it is there.
func TestWriteRefuses(t *testing.T) {
	_, cfg := memory()
	l := openTest(t, cfg)
	mustWrite(t, l, func(b *Batch) {
		b.Snapshot(1, &raftpb.SnapshotMetadata{Index: new(uint64(10)), Term: new(uint64(2))})
		b.Append(1, entries(2, 11, 13, 10))
	})
	for _, tt := range []struct {
		name string
		fill func(b *Batch)
		want covey.Kind
	}{
		{"gap", func(b *Batch) { b.Append(1, entries(2, 15, 15, 1)) }, covey.Invalid},
		{"below the first", func(b *Batch) { b.Append(1, entries(2, 10, 10, 1)) }, covey.Invalid},
		{"gap within a batch", func(b *Batch) { b.Append(1, entries(2, 12, 12, 1)); b.Append(1, entries(2, 14, 14, 1)) }, covey.Invalid},
		{"gap in a second group", func(b *Batch) { b.Append(1, entries(2, 14, 14, 1)); b.Append(2, entries(2, 2, 2, 1)) }, covey.Invalid},
		{"old snapshot", func(b *Batch) { b.Snapshot(1, &raftpb.SnapshotMetadata{Index: new(uint64(9))}) }, covey.Invalid},
		{"members without number", func(b *Batch) { b.ConfState(1, &raftpb.ConfState{Voters: make([]uint64, maxConf)}, 13) }, covey.TooBig},
	} {
		var b Batch
		tt.fill(&b)
		if err := l.Write(&b, true); covey.KindOf(err) != tt.want {
			t.Errorf("%s: %v, want %v", tt.name, err, tt.want)
		}
	}
	wantEntries(t, l, 1, entries(2, 11, 13, 10))
	wantEntries(t, l, 2, nil)
	if err := l.Err(); err != nil {
		t.Error(err)
	}
}

// A follower's suffix that the leader replaced does not come back.
func TestTruncationSurvives(t *testing.T) {
	_, cfg := memory()
	cfg.SegmentSize = 4 << 10
	l := openTest(t, cfg)
	mustWrite(t, l, func(b *Batch) { b.Append(1, entries(1, 1, 100, 100)) })
	mustWrite(t, l, func(b *Batch) { b.Append(1, entries(2, 51, 52, 100)) })
	want := append(entries(1, 1, 50, 100), entries(2, 51, 52, 100)...)
	for range 3 {
		wantEntries(t, l, 1, want)
		if _, err := l.Group(1).Term(53); !errors.Is(err, raft.ErrUnavailable) {
			t.Errorf("term of what was cut off: %v", err)
		}
		l.Close()
		l = openTest(t, cfg)
	}
}

// A batch serves again after Reset, and after Write refused it.
func TestBatchReuse(t *testing.T) {
	_, cfg := memory()
	l := openTest(t, cfg)
	var b Batch
	var want []*raftpb.Entry
	for i := uint64(1); i <= 5; i++ {
		if !b.Empty() || b.Bytes() != 0 {
			t.Fatalf("after Reset: empty %t, %d bytes", b.Empty(), b.Bytes())
		}
		b.HardState(1, &raftpb.HardState{Term: new(i)})
		b.Append(1, entries(i, i, i, 50))
		if b.Empty() || b.Bytes() < 50 {
			t.Fatalf("filled: empty %t, %d bytes", b.Empty(), b.Bytes())
		}
		want = append(want, entries(i, i, i, 50)...)
		if err := l.Write(&b, i%2 == 0); err != nil {
			t.Fatal(err)
		}
		b.Reset()
	}
	wantEntries(t, l, 1, want)
	if err := l.Write(&b, true); err != nil {
		t.Errorf("empty batch: %v", err)
	}
}

// Hard states follow the entries of their batch, whatever the order of the calls.
func TestHardStateLast(t *testing.T) {
	var b Batch
	b.HardState(1, &raftpb.HardState{Commit: new(uint64(1))})
	b.Append(1, entries(1, 1, 1, 5))
	b.ConfState(1, &raftpb.ConfState{Voters: []uint64{1}}, 1)
	b.Append(2, entries(1, 1, 1, 5))
	b.seal()
	var got []kind
	for i := range b.changes {
		got = append(got, b.changes[i].kind)
	}
	if diff := cmp.Diff([]kind{kindEntry, kindEntry, kindHardState, kindConfState}, got); diff != "" {
		t.Error(diff)
	}
}

func TestSnapshots(t *testing.T) {
	_, cfg := memory()
	g := openTest(t, cfg).Group(1)
	if _, err := g.Snapshot(); !errors.Is(err, raft.ErrSnapshotTemporarilyUnavailable) {
		t.Errorf("without a source: %v", err)
	}
	want := &raftpb.Snapshot{Data: []byte("x")}
	g.SetSnapshots(func() (*raftpb.Snapshot, error) { return want, nil })
	if got, err := g.Snapshot(); got != want || err != nil {
		t.Errorf("with a source: %v, %v", got, err)
	}
}

// Readers run beside the writer, while segments come and go.
func TestConcurrentReaders(t *testing.T) {
	cfg := Config{Dir: t.TempDir(), SegmentSize: 16 << 10, CacheBytes: 4 << 10, Keep: 4 << 10}
	l := openTest(t, cfg)
	done := make(chan struct{})
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				readSome(t, l)
			}
		})
	}
	var b Batch
	for i := uint64(1); i <= 150; i++ {
		b.Reset()
		b.Append(1, entries(1, i, i, 700))
		b.HardState(1, &raftpb.HardState{Term: new(uint64(1)), Commit: new(i)})
		if err := l.Write(&b, i%10 == 0); err != nil {
			t.Fatal(err)
		}
		l.Applied(1, i)
		for _, s := range l.Segments() {
			if s.Sealed && !s.Needed {
				if err := l.Remove(s.Number); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	close(done)
	wg.Wait()
}

// readSome reads what a group has, which may be gone by the time it is read.
func readSome(t *testing.T, l *Log) {
	g := l.Group(1)
	first, _ := g.FirstIndex()
	last, _ := g.LastIndex()
	if last < first {
		return
	}
	ents, err := g.Entries(first, last+1, 1<<20)
	if err != nil && !errors.Is(err, raft.ErrCompacted) && !errors.Is(err, covey.NotFound) {
		t.Errorf("entries: %v", err)
	}
	for i, e := range ents {
		if err := sameEntry(e, entry(1, first+uint64(i), 700)); err != nil {
			t.Error(err)
		}
	}
	e, err := l.Place(1, last)
	if err != nil {
		if !errors.Is(err, raft.ErrCompacted) {
			t.Errorf("place: %v", err)
		}
		return
	}
	if err := l.Read(e, make([]byte, e.Length)); err != nil && !errors.Is(err, covey.NotFound) {
		t.Errorf("read: %v", err)
	}
}

// Entries that are read keep what was read in memory, so that what lies between
// them must not be most of it.
func TestReadsAreMostlyTheGroupsOwn(t *testing.T) {
	at := func(offset, length uint32) slot { return slot{segment: 1, offset: offset, length: length} }
	const kib = 1 << 10
	other, cached, back := at(2*kib, kib), at(2*kib, kib), at(0, kib)
	other.segment, cached.ent = 2, new(raftpb.Entry)
	for name, tt := range map[string]struct {
		slots []slot
		want  int
	}{
		"one":               {[]slot{at(kib, kib)}, 1},
		"side by side":      {[]slot{at(kib, kib), at(2*kib+recordHeader, kib), at(3*kib+2*recordHeader, kib)}, 3},
		"half of it others": {[]slot{at(kib, kib), at(3*kib, kib)}, 2},
		"more than half":    {[]slot{at(kib, kib), at(5*kib, kib)}, 1},
		"from then on":      {[]slot{at(kib, 2*kib), at(4*kib, kib), at(12*kib, kib)}, 2},
		"another segment":   {[]slot{at(kib, kib), other}, 1},
		"in memory":         {[]slot{at(kib, kib), cached}, 1},
		"behind it":         {[]slot{at(kib, kib), back}, 1},
		"too much at once":  {[]slot{at(kib, maxRead-2*kib), at(kib+maxRead, 2*kib)}, 1},
		"longer than that":  {[]slot{at(kib, 2*maxRead), at(2*kib+2*maxRead, kib)}, 1},
	} {
		if got := run(tt.slots); got != tt.want {
			t.Errorf("%s: %d in one read, want %d", name, got, tt.want)
		}
	}
}
