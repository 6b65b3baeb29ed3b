package seglog

import (
	"bytes"
	"errors"
	"hash/crc32"
	"slices"
	"testing"

	"github.com/covey-mail/covey"
)

func TestHold(t *testing.T) {
	_, cfg := memory()
	cfg.SegmentSize, cfg.Keep = 4<<10, -1
	l, _ := many(t, cfg, 60)
	l.Applied(1, 60)
	one := l.Hold(1, 2, 2)
	two := l.Hold(2)
	wantHeld := func(want ...uint64) {
		t.Helper()
		var got []uint64
		for _, s := range l.Segments() {
			if s.Held {
				got = append(got, s.Number)
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("segments %v are held, want %v", got, want)
		}
	}
	wantHeld(1, 2)
	for n, want := range map[uint64]error{1: covey.InUse, 2: covey.InUse, 3: nil} {
		if err := l.Remove(n); !errors.Is(err, want) {
			t.Errorf("remove segment %d: %v, want %v", n, err, want)
		}
	}
	one.Release()
	one.Release()
	wantHeld(2)
	for n, want := range map[uint64]error{1: nil, 2: covey.InUse} {
		if err := l.Remove(n); !errors.Is(err, want) {
			t.Errorf("remove segment %d: %v, want %v", n, err, want)
		}
	}
	l.Hold(1, 99).Release() // neither is there
	two.Release()
	wantHeld()
	if err := l.Remove(2); err != nil {
		t.Error(err)
	}
	if len(l.held) != 0 {
		t.Errorf("counts are left: %v", l.held)
	}
}

// A held segment keeps the entries that are there for followers.
func TestHoldKeepsEntries(t *testing.T) {
	_, cfg := memory()
	cfg.SegmentSize, cfg.Keep = 4<<10, 1<<20
	l, all := many(t, cfg, 30)
	l.Applied(1, 30)
	h := l.Hold(1)
	defer h.Release()
	if err := l.Remove(1); !errors.Is(err, covey.InUse) {
		t.Fatal(err)
	}
	wantEntries(t, l, 1, all)
}

func TestAppendBodies(t *testing.T) {
	disk, cfg := memory()
	cfg.SegmentSize, cfg.Keep = 64<<10, -1
	l := openTest(t, cfg)
	h := l.Hold()
	var bodies [][]byte
	for i := range 40 {
		bodies = append(bodies, bytes.Repeat([]byte{byte(i)}, 1<<(i%20)))
	}
	bodies = append(bodies, nil)
	places, err := h.Append(bodies)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Write(&Batch{}, Synced); err != nil {
		t.Fatal(err)
	}
	newest := places[len(places)-1].Segment
	if newest < 3 {
		t.Fatalf("all went into %d segments", newest)
	}
	for n := uint64(1); n <= newest; n++ {
		if err := l.Remove(n); !errors.Is(err, covey.InUse) {
			t.Errorf("remove segment %d: %v", n, err)
		}
	}
	check := func() {
		t.Helper()
		for i, e := range places {
			p := make([]byte, e.Length)
			if err := l.Read(e, p); err != nil || !bytes.Equal(p, bodies[i]) || e.Sum != crc32.Checksum(p, castagnoli) {
				t.Errorf("body %d at %+v differs, error %v", i, e, err)
			}
		}
	}
	check()
	h.Release()
	if _, err := h.Append(bodies[:1]); !errors.Is(err, covey.Invalid) {
		t.Errorf("append after the release: %v", err)
	}
	if err := l.Remove(1); err != nil {
		t.Error(err)
	}
	disk.Crash(0)
	if l, err = Open(cfg); err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	bodies, places = bodies[len(bodies)-3:], places[len(places)-3:]
	check()
	if faults := Check(cfg); faults != nil {
		t.Error(faults)
	}
}

// A disk that fills up in the middle leaves a log that goes on.
func TestAppendBodiesDiskFull(t *testing.T) {
	disk, cfg := memory()
	cfg.SegmentSize = 64 << 10
	l := openTest(t, cfg)
	h := l.Hold()
	disk.SetFree(256 << 10)
	many := make([][]byte, 64)
	for i := range many {
		many[i] = make([]byte, 32<<10)
	}
	if _, err := h.Append(many); !errors.Is(err, covey.DiskFull) {
		t.Fatalf("error %v, want covey.DiskFull", err)
	}
	h.Release()
	for _, s := range l.Segments() {
		if s.Sealed {
			if err := l.Remove(s.Number); err != nil {
				t.Error(err)
			}
		}
	}
	if l.Err() != nil {
		t.Error(l.Err())
	}
	mustWrite(t, l, func(b *Batch) { b.Append(1, entries(1, 1, 3, 100)) })
}
