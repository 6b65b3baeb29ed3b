package seglog

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/internal/durable/durabletest"
)

func TestAppliedMovesFirst(t *testing.T) {
	for _, tt := range []struct {
		keep  int64
		size  int
		tell  []uint64
		first uint64
	}{
		{-1, 100, []uint64{10}, 11},
		{-1, 100, []uint64{10, 5}, 11},  // never back
		{-1, 100, []uint64{99}, 41},     // not beyond the last
		{4 << 10, 100, []uint64{10}, 7}, // tiny entries count 1 KiB
		{4 << 10, 100, []uint64{1, 2, 30}, 27},
		{4 << 10, 2008, []uint64{20}, 19}, // 2,048 octets each with their header
		{4<<10 - 1, 2008, []uint64{20}, 20},
		{0, 2000, []uint64{40}, 1},
	} {
		t.Run(fmt.Sprint(tt.keep, tt.tell), func(t *testing.T) {
			_, cfg := memory()
			cfg.Keep = tt.keep
			l := openTest(t, cfg)
			mustWrite(t, l, func(b *Batch) { b.Append(1, entries(1, 1, 40, tt.size)) })
			for _, index := range tt.tell {
				l.Applied(1, index)
			}
			if first, _ := l.Group(1).FirstIndex(); first != tt.first {
				t.Errorf("first entry %d, want %d", first, tt.first)
			}
		})
	}
}

// The entries of a group without other members are of no use to anybody once they
// are applied.
func TestAppliedKeepsForOthers(t *testing.T) {
	for _, tt := range []struct {
		name  string
		conf  *raftpb.ConfState
		first uint64
	}{
		{"alone", &raftpb.ConfState{Voters: []uint64{1}}, 11},
		{"with a learner", &raftpb.ConfState{Voters: []uint64{1}, Learners: []uint64{2}}, 7},
		{"three", &raftpb.ConfState{Voters: []uint64{1, 2, 3}}, 7},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, cfg := memory()
			cfg.Keep = 4 << 10
			l := openTest(t, cfg)
			mustWrite(t, l, func(b *Batch) {
				b.Append(1, entries(1, 1, 40, 100))
				b.ConfState(1, tt.conf, 1)
			})
			l.Applied(1, 10)
			if first, _ := l.Group(1).FirstIndex(); first != tt.first {
				t.Errorf("first entry %d, want %d", first, tt.first)
			}
		})
	}
}

// A group that leaves frees its segments and keeps its vote; what it wrote before
// does not come back, also when it starts anew.
func TestLeave(t *testing.T) {
	_, cfg := memory()
	cfg.SegmentSize = 4 << 10
	l, _ := many(t, cfg, 60)
	mustWrite(t, l, func(b *Batch) {
		b.Append(2, entries(3, 1, 2, 500))
		b.ConfState(1, &raftpb.ConfState{Voters: []uint64{1, 2}}, 60)
		b.HardState(1, &raftpb.HardState{Term: new(uint64(5)), Vote: new(uint64(2)), Commit: new(uint64(60))})
	})
	mustWrite(t, l, func(b *Batch) {
		b.HardState(1, &raftpb.HardState{Term: new(uint64(6)), Vote: new(uint64(1)), Commit: new(uint64(60))})
		b.Leave(1, &raftpb.HardState{Term: new(uint64(7)), Vote: new(uint64(2)), Commit: new(uint64(60))}, 60, 1)
	})
	gone := func(l *Log) {
		t.Helper()
		g := l.Group(1)
		hs, cs, _ := g.InitialState()
		if !g.Empty() || len(cs.GetVoters()) != 0 || hs.GetTerm() != 7 || hs.GetVote() != 2 || hs.GetCommit() != 0 {
			t.Errorf("Empty = %t, members %v, hard state %v", g.Empty(), cs, hs)
		}
		last, _ := g.LastIndex()
		if term, err := g.Term(60); last != 60 || term != 1 || err != nil {
			t.Errorf("the last entry was %d of term %d (%v)", last, term, err)
		}
		wantEntries(t, l, 1, nil)
	}
	gone(l)
	for _, s := range l.Segments()[:3] {
		if s.Needed {
			t.Errorf("segment %d is still needed", s.Number)
		}
	}
	if err := l.Remove(2); err != nil {
		t.Error(err)
	}
	l = reopen(t, l, cfg)
	gone(l)
	mustWrite(t, l, func(b *Batch) { // into another segment, whose header says that the group left
		b.Append(2, entries(3, 3, 15, 500))
	})
	l = reopen(t, l, cfg)
	gone(l)
	conf := &raftpb.ConfState{Voters: []uint64{1, 2, 3}}
	mustWrite(t, l, func(b *Batch) {
		b.Snapshot(1, &raftpb.SnapshotMetadata{Index: new(uint64(30)), Term: new(uint64(6)), ConfState: conf})
		b.Append(1, entries(8, 31, 33, 500))
	})
	l = reopen(t, l, cfg)
	wantEntries(t, l, 1, entries(8, 31, 33, 500))
	if l.Group(1).Empty() {
		t.Error("a group that came back is said to be empty")
	}
}

func reopen(t *testing.T, l *Log, cfg Config) *Log {
	t.Helper()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	return openTest(t, cfg)
}

// many writes n entries of group 1, one a batch, into segments of 4 KiB.
func many(t *testing.T, cfg Config, n uint64) (*Log, []*raftpb.Entry) {
	t.Helper()
	l := openTest(t, cfg)
	all := entries(1, 1, n, 500)
	for _, e := range all {
		mustWrite(t, l, func(b *Batch) { b.Append(1, []*raftpb.Entry{e}) })
	}
	return l, all
}

func TestRemove(t *testing.T) {
	disk, cfg := memory()
	cfg.SegmentSize, cfg.Keep = 4<<10, 1<<20
	l, all := many(t, cfg, 60)
	infos := l.Segments()
	if len(infos) < 6 {
		t.Fatalf("only %d segments", len(infos))
	}
	newest := infos[len(infos)-1].Number
	if err := l.Remove(1); !errors.Is(err, covey.InUse) {
		t.Errorf("with entries that are not applied: %v", err)
	}
	l.Applied(1, 60)
	for _, tt := range []struct {
		number uint64
		want   error
	}{{newest, covey.InUse}, {newest + 1, covey.NotFound}, {0, covey.NotFound}, {1, nil}, {1, covey.NotFound}, {3, nil}} {
		if err := l.Remove(tt.number); !errors.Is(err, tt.want) {
			t.Errorf("remove %d: %v, want %v", tt.number, err, tt.want)
		}
	}
	place, err := l.Place(1, 60)
	if err != nil {
		t.Fatal(err)
	}
	place.Segment, place.Length = 3, 1
	if err := l.Read(place, make([]byte, 1)); !errors.Is(err, covey.NotFound) {
		t.Errorf("read from a segment that is gone: %v", err)
	}
	first, _ := l.Group(1).FirstIndex()
	if from, to := l.Group(1).within(4); from+1 != first || to <= from {
		t.Errorf("first entry %d, but segment 4 holds %d to %d", first, from+1, to)
	}
	disk.Crash(0)
	l = openTest(t, cfg)
	wantEntries(t, l, 1, all[first-1:])
	if _, err := disk.Stat("/log/" + segmentName(3)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a removed segment came back: %v", err)
	}
	if faults := Check(cfg); faults != nil {
		t.Error(faults)
	}
}

// F-11: a crash at any moment of Remove leaves a log that opens, with all that
// is not applied.
func TestF11_CrashInRemove(t *testing.T) {
	base, cfg := memory()
	cfg.SegmentSize, cfg.Keep = 4<<10, 1<<20
	l, all := many(t, cfg, 30)
	l.Close()
	for stop := 0; ; stop++ {
		done := false
		for seed := range uint64(10) {
			disk := base.Clone()
			cfg.FS = disk
			l := openTest(t, cfg)
			l.Applied(1, 20)
			disk.StopAfter(stop)
			done = l.Remove(2) == nil
			disk.Crash(seed)
			l, err := Open(cfg)
			if err != nil {
				t.Fatalf("F-11/ stop %d seed %d: %v", stop, seed, err)
			}
			first, _ := l.Group(1).FirstIndex()
			if first > 21 {
				t.Fatalf("F-11/ stop %d seed %d: first entry %d, but 21 is not applied", stop, seed, first)
			}
			wantEntries(t, l, 1, all[first-1:])
			l.Close()
		}
		if done {
			return
		}
	}
}

// A needed segment that is not there is damage, not an empty log.
func TestMissingSegment(t *testing.T) {
	disk, cfg := memory()
	cfg.SegmentSize = 4 << 10
	l, _ := many(t, cfg, 60)
	l.Close()
	for _, n := range []uint64{1, 3} {
		d := disk.Clone()
		cfg.FS = d
		if err := d.Remove(filepath.Join(cfg.Dir, segmentName(n))); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(cfg); !errors.Is(err, covey.Corrupt) {
			t.Errorf("without segment %d: %v, want covey.Corrupt", n, err)
		}
	}
}

// A log that ends before what was applied shows it by its last index.
func TestLostEnd(t *testing.T) {
	disk, cfg := memory()
	l := openTest(t, cfg)
	small(t, l)
	applied, _ := l.Group(1).LastIndex()
	start := l.active.start
	l.Close()
	f, err := disk.Open("/log/"+segmentName(1), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(start + 300); err != nil {
		t.Fatal(err)
	}
	l = openTest(t, cfg)
	if last, _ := l.Group(1).LastIndex(); last >= applied {
		t.Errorf("last entry %d, though the file lost some of %d", last, applied)
	}
	l.Applied(1, applied) // must not move the first entry beyond the last
	if first, _ := l.Group(1).FirstIndex(); first != 1 {
		t.Errorf("first entry %d", first)
	}
}

func TestCopyBodies(t *testing.T) {
	disk, cfg := memory()
	cfg.SegmentSize, cfg.Keep = 4<<10, -1
	l, all := many(t, cfg, 40)
	var from []Extent
	for i := uint64(1); i <= 40; i += 3 {
		e, err := l.Place(1, i)
		if err != nil {
			t.Fatal(err)
		}
		// Part of a command, as a body is.
		e.Offset, e.Length = e.Offset+3, e.Length-10
		e.Sum = crc32.Checksum(all[i-1].Data[3:][:e.Length], castagnoli)
		from = append(from, e)
	}
	to, err := l.CopyBodies(from)
	if err != nil {
		t.Fatal(err)
	}
	l.Applied(1, 40)
	for _, s := range l.Segments() {
		if s.Sealed && s.Number < to[0].Segment {
			if err := l.Remove(s.Number); err != nil {
				t.Fatal(err)
			}
		}
	}
	disk.Crash(0)
	l = openTest(t, cfg)
	for i, e := range to {
		p := make([]byte, e.Length)
		if err := l.Read(e, p); err != nil {
			t.Fatal(err)
		}
		if want := all[3*i].Data[3:][:e.Length]; string(p) != string(want) || e.Sum != from[i].Sum {
			t.Errorf("copy %d differs", i)
		}
	}
	wrong := to[0]
	wrong.Sum++
	if _, err := l.CopyBodies([]Extent{to[1], wrong}); !errors.Is(err, covey.Corrupt) {
		t.Errorf("copy of damaged bytes: %v, want covey.Corrupt", err)
	}
	wrong.Offset = 1 << 30
	if err := l.Read(wrong, make([]byte, wrong.Length)); !errors.Is(err, covey.Corrupt) {
		t.Errorf("read beyond the end: %v", err)
	}
	if err := l.Read(to[0], make([]byte, 1)); !errors.Is(err, covey.Invalid) {
		t.Errorf("read into a short buffer: %v", err)
	}
}

// A suffix that was cut off does not come back when the segment with the entry
// that cut it off is removed before the one that holds it.
func TestCutOffStaysAway(t *testing.T) {
	disk, cfg := memory()
	cfg.SegmentSize, cfg.Keep = 4<<10, -1
	l, all := many(t, cfg, 3)
	mustWrite(t, l, func(b *Batch) { b.Append(2, entries(1, 1, 5, 900)) }) // the next segment
	mustWrite(t, l, func(b *Batch) { b.Append(1, entries(2, 2, 2, 10)) })
	mustWrite(t, l, func(b *Batch) { b.Append(2, entries(1, 6, 9, 900)) })
	mustWrite(t, l, func(b *Batch) { b.Append(2, entries(1, 10, 13, 900)) })
	l.Applied(1, 2)
	l.Applied(2, 13)
	from, to := l.Group(1).within(1)
	if from < to || len(all) != 3 {
		t.Fatalf("segment 1 holds live entries %d to %d", from+1, to)
	}
	if err := l.Remove(2); err != nil {
		t.Fatal(err)
	}
	disk.Crash(0)
	l = openTest(t, cfg)
	if last, _ := l.Group(1).LastIndex(); last != 2 {
		t.Errorf("last entry %d, want 2", last)
	}
	mustWrite(t, l, func(b *Batch) { b.Append(1, entries(3, 3, 3, 10)) })
	wantEntries(t, l, 1, entries(3, 3, 3, 10))
}

// What a start shows is on stable storage, though only the process was killed
// after a Write without sync.
func TestKilledThenPowerCut(t *testing.T) {
	disk, cfg := memory()
	l := openTest(t, cfg)
	var b Batch
	b.Append(1, entries(1, 1, 5, 300))
	if err := l.Write(&b, false); err != nil {
		t.Fatal(err)
	}
	wantEntries(t, openTest(t, cfg), 1, entries(1, 1, 5, 300))
	disk.Crash(0)
	wantEntries(t, openTest(t, cfg), 1, entries(1, 1, 5, 300))
}

// A damaged footer is made up for by the records.
func TestDamagedFooter(t *testing.T) {
	disk, cfg := memory()
	cfg.SegmentSize = 4 << 10
	l, all := many(t, cfg, 40)
	s := *l.segments[2]
	l.Close()
	for off := s.end; off < s.size; off++ {
		d := disk.Clone()
		cfg.FS = d
		d.Flip(filepath.Join(cfg.Dir, segmentName(3)), off, 0x40)
		l, err := Open(cfg)
		if err != nil {
			t.Fatalf("flip at %d of the footer [%d, %d): %v", off, s.end, s.size, err)
		}
		wantEntries(t, l, 1, all)
		l.Close()
	}
}

// More segments than may be open at a time can all be read.
func TestManySegments(t *testing.T) {
	_, cfg := memory()
	cfg.SegmentSize, cfg.CacheBytes = 4<<10, -1
	l, all := many(t, cfg, maxOpen*8)
	if n := len(l.Segments()); n < maxOpen+10 {
		t.Fatalf("only %d segments", n)
	}
	for range 2 {
		wantEntries(t, l, 1, all)
		if n := len(l.files.opened); n > maxOpen {
			t.Errorf("%d segments are open, want at most %d", n, maxOpen)
		}
		l.Close()
		l = openTest(t, cfg)
	}
}

// An unfinished segment is removed, and other files are left alone.
func TestStrayFiles(t *testing.T) {
	disk, cfg := memory()
	l := openTest(t, cfg)
	small(t, l)
	l.Close()
	stray := segmentName(2) + newSuffix
	for _, name := range []string{stray, "README", "0.log"} {
		if _, err := disk.Open(filepath.Join(cfg.Dir, name), os.O_RDWR|os.O_CREATE, 0); err != nil {
			t.Fatal(err)
		}
	}
	openTest(t, cfg)
	list, err := disk.ReadDir(cfg.Dir)
	if err != nil || len(list) != 3 {
		t.Errorf("folder has %v, %v", list, err)
	}
}

func TestConfig(t *testing.T) {
	disk := durabletest.NewDisk()
	for _, cfg := range []Config{{FS: disk}, {FS: disk, Dir: "/a", SegmentSize: 100}, {FS: disk, Dir: "/a", SegmentSize: 2 << 30}} {
		if _, err := Open(cfg); !errors.Is(err, covey.Invalid) {
			t.Errorf("%+v: %v, want covey.Invalid", cfg, err)
		}
	}
}

func TestClose(t *testing.T) {
	_, cfg := memory()
	l := openTest(t, cfg)
	small(t, l)
	for range 2 {
		if err := l.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	}
	var b Batch
	b.Append(1, entries(1, 7, 7, 1))
	if err := l.Write(&b, true); !errors.Is(err, covey.Unavailable) {
		t.Errorf("write after Close: %v", err)
	}
	select {
	case <-l.Failed():
		t.Error("Close counts as a fault")
	default:
	}
	// Opening and closing does not make the log grow.
	l = openTest(t, cfg)
	end := l.active.end
	l.Close()
	if l = openTest(t, cfg); l.active.end != end {
		t.Errorf("records end at %d, before at %d", l.active.end, end)
	}
}
