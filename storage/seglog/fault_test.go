package seglog

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"syscall"
	"testing"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/internal/durable"
	"github.com/covey-mail/covey/internal/durable/durabletest"
)

func memory() (*durabletest.Disk, Config) {
	disk := durabletest.NewDisk()
	return disk, Config{Dir: "/log", FS: disk, SegmentSize: 16 << 10}
}

// small writes three batches to a new log in memory and returns where each ends
// in the only segment.
func small(t *testing.T, l *Log) (ends []int64) {
	t.Helper()
	for i := uint64(1); i <= 3; i++ {
		mustWrite(t, l, func(b *Batch) {
			b.Append(1, entries(1, 2*i-1, 2*i, 75))
			b.Append(2, entries(i, i, i, 10))
			b.HardState(1, &raftpb.HardState{Term: new(uint64(1)), Vote: new(uint64(2)), Commit: new(2 * i)})
			b.ConfState(2, &raftpb.ConfState{Voters: []uint64{1, i}}, i)
		})
		ends = append(ends, l.active.end)
	}
	return ends
}

// prefixes returns the models after each record of small.
func prefixes() []model {
	m := model{}
	list := []model{m.clone()}
	for i := uint64(1); i <= 3; i++ {
		var b Batch
		b.Append(1, entries(1, 2*i-1, 2*i, 75))
		b.Append(2, entries(i, i, i, 10))
		b.HardState(1, &raftpb.HardState{Term: new(uint64(1)), Vote: new(uint64(2)), Commit: new(2 * i)})
		b.ConfState(2, &raftpb.ConfState{Voters: []uint64{1, i}}, i)
		for _, c := range steps(&b) {
			m.apply(&c)
			list = append(list, m.clone())
		}
	}
	return list
}

// image returns the bytes of the only segment of a log written by small and
// closed without a mark, and where its batches end.
func image(t *testing.T) (data []byte, start int64, ends []int64) {
	t.Helper()
	disk, cfg := memory()
	l := openTest(t, cfg)
	ends = small(t, l)
	data, err := durable.ReadFile(disk, "/log/"+segmentName(1), 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	return data, l.active.start, ends
}

// revive opens a log whose only segment holds data.
func revive(t *testing.T, data []byte) (*Log, Config, error) {
	t.Helper()
	disk, cfg := memory()
	if err := disk.MkdirAll(cfg.Dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := durable.WriteFile(disk, filepath.Join(cfg.Dir, segmentName(1)), data, 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := Open(cfg)
	return l, cfg, err
}

// matchPrefix returns which of the models the log equals, -1 if none.
func matchPrefix(l *Log, models []model) int {
	for i, m := range models {
		if m.match(l) == nil {
			return i
		}
	}
	return -1
}

// F-13: the file ends at any octet, or the octets from there on are zero or
// stale. What is left is the records that are whole, the log goes on behind
// them, and a second start finds the same.
func TestF13_TornTailAtEveryOctet(t *testing.T) {
	data, start, ends := image(t)
	models := prefixes()
	for _, tt := range []struct {
		name string
		from int64 // the tail begins here or later
		tail func(cut int64) []byte
	}{
		{"F-13/truncated", start, func(cut int64) []byte { return data[:cut] }},
		{"F-13/zeros", ends[1], func(cut int64) []byte { return append(bytes.Clone(data[:cut]), make([]byte, int64(len(data))-cut)...) }},
		{"F-13/stale", ends[1], func(cut int64) []byte {
			return append(bytes.Clone(data[:cut]), bytes.Repeat([]byte("stale!!!"), 100)...)
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			least := 0
			for cut := tt.from; cut <= ends[2]; cut++ {
				l, cfg, err := revive(t, tt.tail(cut))
				if err != nil {
					t.Fatalf("cut at %d: %v", cut, err)
				}
				n := matchPrefix(l, models)
				if n < least {
					t.Fatalf("cut at %d: state %d, want one from %d on", cut, n, least)
				}
				least = n
				mustWrite(t, l, func(b *Batch) { b.Append(3, entries(9, 1, 2, 30)) })
				l.Close()
				l = openTest(t, cfg)
				wantEntries(t, l, 3, entries(9, 1, 2, 30))
				models[n][3] = &modelGroup{ents: entries(9, 1, 2, 30)}
				if err := models[n].match(l); err != nil {
					t.Fatalf("cut at %d: opened again: %v", cut, err)
				}
				delete(models[n], 3)
				l.Close()
			}
			if least != len(models)-1 {
				t.Errorf("the whole file gives state %d, want the last, %d", least, len(models)-1)
			}
		})
	}
}

// F-14: a flipped bit in what a later batch says was on stable storage is
// covey.Corrupt; behind that it is a torn tail, and never a changed entry.
func TestF14_FlippedBitEverywhere(t *testing.T) {
	data, _, ends := image(t)
	models := prefixes()
	for off := range ends[2] {
		flipped := bytes.Clone(data)
		flipped[off] ^= 1 << (off % 8)
		l, cfg, err := revive(t, flipped)
		if off < ends[1] {
			if !errors.Is(err, covey.Corrupt) {
				t.Fatalf("F-14/ flip at %d, synced up to %d: %v, want covey.Corrupt", off, ends[1], err)
			}
			if len(Check(cfg)) == 0 {
				t.Fatalf("F-14/ flip at %d: Check finds nothing", off)
			}
			continue
		}
		if err != nil {
			t.Fatalf("F-14/ flip at %d, in the last batch: %v", off, err)
		}
		if matchPrefix(l, models) < 0 {
			t.Fatalf("F-14/ flip at %d: the log holds what was never written", off)
		}
		l.Close()
	}
}

// F-14: in a sealed segment, what Verify, Entries and Read return is right or
// covey.Corrupt, and Check sees every flip in the records.
func TestF14_SealedSegment(t *testing.T) {
	disk, cfg := memory()
	cfg.CacheBytes = -1
	cfg.SegmentSize = 4 << 10
	l := openTest(t, cfg)
	all := entries(1, 1, 60, 200)
	for _, e := range all {
		mustWrite(t, l, func(b *Batch) { b.Append(1, []*raftpb.Entry{e}) })
	}
	if n := len(l.Segments()); n < 3 {
		t.Fatalf("only %d segments", n)
	}
	size := l.segments[0].size
	l.Close()
	name := filepath.Join(cfg.Dir, segmentName(1))
	caught := 0
	for off := int64(0); off < size; off += 7 {
		d := disk.Clone()
		cfg.FS = d
		d.Flip(name, off, 0x10)
		l, err := Open(cfg)
		faults := Check(cfg)
		if len(faults) == 0 {
			t.Fatalf("F-14/ flip at %d of %d: Check finds nothing", off, size)
		}
		if err != nil {
			if !errors.Is(err, covey.Corrupt) {
				t.Fatalf("F-14/ flip at %d: %v", off, err)
			}
			caught++
			continue
		}
		if l.Verify(1, 1) != nil {
			caught++
		}
		first, _ := l.Group(1).FirstIndex()
		for i, want := range all {
			got, err := l.Group(1).Entries(first+uint64(i), first+uint64(i)+1, 1)
			if err != nil && !errors.Is(err, covey.Corrupt) {
				t.Fatalf("F-14/ flip at %d: entry %d: %v", off, i+1, err)
			}
			if err == nil && sameEntry(got[0], want) != nil {
				t.Fatalf("F-14/ flip at %d: wrong bytes served for entry %d", off, i+1)
			}
		}
		l.Close()
	}
	if caught == 0 {
		t.Error("no flip was caught by Open or Verify")
	}
}

// F-16, F-17: after one failed fsync nothing is acknowledged any more, though
// the disk works again; what the failed one covered was not acknowledged.
func TestF16_FailedSync(t *testing.T) {
	for _, tt := range []struct {
		name  string
		fault durabletest.Fault
	}{
		{"F-16/fsync fails once", durabletest.Fault{Op: durabletest.Sync, Err: syscall.EIO}},
		{"F-17/fsync fails for ever", durabletest.Fault{Op: durabletest.Sync, Err: syscall.EIO, Times: -1}},
		{"F-17/write fails once", durabletest.Fault{Op: durabletest.Write, Err: syscall.EIO}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			disk, cfg := memory()
			l := openTest(t, cfg)
			mustWrite(t, l, func(b *Batch) { b.Append(1, entries(1, 1, 3, 100)) })
			select {
			case <-l.Failed():
				t.Fatal("failed before any fault")
			default:
			}
			disk.Inject(tt.fault)
			var b Batch
			b.Append(1, entries(1, 4, 5, 100))
			first := l.Write(&b, true)
			if !errors.Is(first, syscall.EIO) || covey.KindOf(first) != covey.Internal {
				t.Fatalf("write: %v, want EIO of kind Internal", first)
			}
			<-l.Failed()
			wantEntries(t, l, 1, entries(1, 1, 3, 100)) // reading goes on
			for range 2 {
				if err := l.Write(&b, true); !errors.Is(err, syscall.EIO) {
					t.Errorf("write after the fault: %v, want the first error", err)
				}
			}
			if _, err := l.CopyBodies(nil); !errors.Is(err, syscall.EIO) {
				t.Errorf("copy after the fault: %v", err)
			}
			if err := l.Remove(1); !errors.Is(err, syscall.EIO) {
				t.Errorf("remove after the fault: %v", err)
			}
			if err := l.Close(); err != nil {
				t.Errorf("close: %v", err)
			}
			disk.Crash(0)
			wantEntries(t, openTest(t, cfg), 1, entries(1, 1, 3, 100))
		})
	}
}

// F-18: a write that takes any number of octets and then finds no room leaves
// nothing behind, not even after a crash, and may be tried again.
func TestF18_ShortWrite(t *testing.T) {
	for step, cause := range []error{syscall.ENOSPC, syscall.EDQUOT, io.ErrShortWrite} {
		for short := 0; short < 600; short += 1 + 16*step {
			disk, cfg := memory()
			l := openTest(t, cfg)
			mustWrite(t, l, func(b *Batch) { b.Append(1, entries(1, 1, 3, 100)) })
			disk.Inject(durabletest.Fault{Op: durabletest.Write, Err: cause, Short: short})
			var b Batch
			b.Append(1, entries(2, 3, 5, 150))
			b.HardState(1, &raftpb.HardState{Term: new(uint64(2)), Commit: new(uint64(1))})
			if err := l.Write(&b, true); !errors.Is(err, covey.DiskFull) {
				t.Fatalf("F-18/ %v after %d octets: %v, want covey.DiskFull", cause, short, err)
			}
			wantEntries(t, l, 1, entries(1, 1, 3, 100))
			c := disk.Clone()
			c.Crash(uint64(short))
			ccfg := cfg
			ccfg.FS = c
			wantEntries(t, openTest(t, ccfg), 1, entries(1, 1, 3, 100))

			if err := l.Write(&b, true); err != nil {
				t.Fatalf("F-18/ again: %v", err)
			}
			disk.Crash(0)
			l = openTest(t, cfg)
			wantEntries(t, l, 1, append(entries(1, 1, 2, 100), entries(2, 3, 5, 150)...))
			if l.Err() != nil {
				t.Errorf("F-18/ log is closed: %v", l.Err())
			}
		}
	}
}

// F-18, F-20: the disk is full when a segment is sealed, begun or extended.
func TestF18_FullDisk(t *testing.T) {
	for free := int64(0); free < 40<<10; free += 1021 {
		t.Run(fmt.Sprintf("F-18/%d bytes", free), func(t *testing.T) {
			disk, cfg := memory()
			l := openTest(t, cfg)
			disk.SetFree(free)
			var want []*raftpb.Entry
			refused := 0
			for i := uint64(1); i <= 40; {
				var b Batch
				b.Append(1, entries(1, i, i, 3000))
				err := l.Write(&b, true)
				switch {
				case err == nil:
					want = append(want, entries(1, i, i, 3000)...)
					i++
				case !errors.Is(err, covey.DiskFull):
					t.Fatalf("entry %d: %v", i, err)
				default:
					if refused++; refused == 2 {
						disk.SetFree(-1) // somebody made room
					}
				}
				if l.Err() != nil {
					t.Fatalf("closed by a full disk: %v", l.Err())
				}
			}
			if refused == 0 {
				t.Error("the disk never was full")
			}
			disk.Crash(0)
			if faults := Check(cfg); faults != nil {
				t.Error(faults)
			}
			wantEntries(t, openTest(t, cfg), 1, want)
		})
	}
}

// F-22: no file descriptor is left when a segment is begun, for its file or for
// the folder. Clients may have taken them all, and give them back.
func TestF22_NoDescriptor(t *testing.T) {
	for _, op := range []durabletest.Op{durabletest.Open, durabletest.SyncDir} {
		disk, cfg := memory()
		l := openTest(t, cfg)
		var want []*raftpb.Entry
		refused := 0
		for i := uint64(1); i < 20; {
			if refused == 0 && i == 5 { // the next segment is not begun yet
				for range 4 {
					disk.Inject(durabletest.Fault{Op: op, Err: syscall.EMFILE})
				}
			}
			var b Batch
			b.Append(1, entries(1, i, i, 3000))
			switch err := l.Write(&b, true); {
			case err == nil:
				want = append(want, entries(1, i, i, 3000)...)
				i++
			case !errors.Is(err, covey.DiskFull):
				t.Fatalf("%v: entry %d: %v", op, i, err)
			default:
				if refused++; refused > 5 {
					t.Fatalf("%v: entry %d is refused for ever: %v", op, i, err)
				}
			}
			if l.Err() != nil {
				t.Fatalf("%v: closed for want of a descriptor: %v", op, l.Err())
			}
		}
		if refused == 0 {
			t.Errorf("%v never failed", op)
		}
		disk.Crash(0)
		wantEntries(t, openTest(t, cfg), 1, want)
	}
}

// A start needs no room.
func TestF21_OpenOnFullDisk(t *testing.T) {
	disk, cfg := memory()
	l := openTest(t, cfg)
	small(t, l)
	disk.Crash(0)
	disk.SetFree(0)
	l = openTest(t, cfg)
	if n := matchPrefix(l, prefixes()); n != len(prefixes())-1 {
		t.Errorf("F-21/ state %d", n)
	}
}
