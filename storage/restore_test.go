package storage_test

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/internal/durable/durabletest"
	"github.com/covey-mail/covey/internal/snapshot"
	"github.com/covey-mail/covey/storage"
	"github.com/covey-mail/covey/storage/seglog"
	"github.com/covey-mail/covey/storage/storagetest"
)

// TestRestore carries a shard of some 12,000 messages from one node to another
// while the first goes on, and both compact their logs.
func TestRestore(t *testing.T) {
	n := 5000 // commands, most of which bring three messages
	if testing.Short() {
		n = 1000
	}
	r := rand.New(rand.NewPCG(1, 2))
	a, b := newMachine(t), newMachine(t)
	for i := range n {
		a.load(r, i)
	}
	// What the other had before goes.
	for i := range 200 {
		b.load(rand.New(rand.NewPCG(3, uint64(i))), i)
	}
	for id := covey.AccountID(2); id <= many; id++ {
		b.propose(1, storage.DropAccount{Account: id})
	}
	before := b.log.Segments()
	from, to := a.take(), b.restore()
	want := look(t, a.states[1], a.log)
	index, hash := a.states[1].Hash()
	if from.Index() != index {
		t.Fatalf("the copy is at %d, applied is %d", from.Index(), index)
	}
	step, chunks := n, 0
	carry(t, from, to, func() {
		for range 20 {
			a.load(r, step)
			step++
		}
		if chunks++; chunks%2 > 0 {
			return
		}
		for _, m := range []*machine{a, b} {
			if err := m.c.Pass(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	})
	if err := from.Close(); err != nil {
		t.Error(err)
	}
	if now := b.log.Segments(); now[0].Number == before[0].Number {
		t.Error("the receiver removed no segment meanwhile: nothing was tested")
	}
	if got := b.install(to, "meta"); got != index {
		t.Errorf("staged at %d, want %d", got, index)
	}
	if i, h := b.states[1].Hash(); i != index || h != hash {
		t.Errorf("hash is %d/%x, want %d/%x", i, h, index, hash)
	}
	b.sound()
	if d := cmp.Diff(want, look(t, b.states[1], b.log)); d != "" {
		t.Errorf("the copy differs (-want +got):\n%s", d)
	}
	// Both go on the same way, and give back the room.
	b.follow(a)
	for _, m := range []*machine{a, b} {
		if err := m.c.Pass(t.Context()); err != nil {
			t.Fatal(err)
		}
		m.sound()
		m.left()
	}
	if d := cmp.Diff(look(t, a.states[1], a.log), look(t, b.states[1], b.log)); d != "" {
		t.Errorf("they differ later on (-want +got):\n%s", d)
	}
	if i, h := a.states[1].Hash(); !sameHash(b.states[1], i, h) {
		t.Errorf("hash at %d differs", i)
	}
	at := (index + a.last[1]) / 2 // both were there when it was the latest
	if h, ok := a.states[1].HashAt(at); !ok || !hashWas(b.states[1], at, h) {
		t.Errorf("hash at %d differs, or is not known: %v", at, ok)
	}
	if got := b.states[1].Installed(); string(got) != "meta" {
		t.Errorf("installed is %q", got)
	}
	// And from the copy another one.
	c := newMachine(t)
	again := c.restore()
	carry(t, b.take(), again, nil)
	c.install(again, "")
	if got := c.states[1].Installed(); got != nil {
		t.Errorf("the meta of another replica came along: %q", got)
	}
	c.sound()
}

func sameHash(s storage.State, index, hash uint64) bool {
	i, h := s.Hash()
	return i == index && h == hash
}

func hashWas(s storage.State, index, hash uint64) bool {
	h, ok := s.HashAt(index)
	return ok && h == hash
}

// TestSnapshotResumes reads chunks again, in any order, while bodies are deleted
// and moved: the same bytes come.
func TestSnapshotResumes(t *testing.T) {
	m := newMachine(t)
	r := rand.New(rand.NewPCG(5, 6))
	for i := range 3000 {
		m.load(r, i)
	}
	s := m.take()
	var chunks [][]byte
	for n := uint64(0); ; n++ {
		b, err := s.ReadChunk(n)
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		chunks = append(chunks, b)
	}
	if len(chunks) < 3 {
		t.Fatalf("only %d chunks", len(chunks))
	}
	for a := covey.AccountID(1); a <= many; a++ {
		m.propose(1, storage.DropAccount{Account: a})
	}
	before := m.log.Segments()
	if err := m.c.Pass(t.Context()); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		for _, n := range r.Perm(len(chunks)) {
			b, err := s.ReadChunk(uint64(n))
			if err != nil || !bytes.Equal(b, chunks[n]) {
				t.Fatalf("chunk %d differs, error %v", n, err)
			}
		}
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if _, err := s.ReadChunk(0); !errors.Is(err, covey.Unavailable) {
		t.Errorf("read after Close: %v", err)
	}
	if err := m.c.Pass(t.Context()); err != nil {
		t.Fatal(err)
	}
	if after := m.log.Segments(); len(after) > len(before)/2 {
		t.Errorf("%d segments before, %d after all was dropped and the copy closed", len(before), len(after))
	}
	m.left()
}

// A chunk that is damaged on the way, or missing, ends the restoring: nothing is
// left of it, and the state that is there goes on.
func TestRestoreRefuses(t *testing.T) {
	a, b := newMachine(t), newMachine(t)
	for i := range 500 {
		a.load(rand.New(rand.NewPCG(9, uint64(i))), i)
	}
	b.load(rand.New(rand.NewPCG(1, 1)), 1)
	var chunks [][]byte
	s := a.take()
	for n := uint64(0); ; n++ {
		c, err := s.ReadChunk(n)
		if err != nil {
			break
		}
		chunks = append(chunks, c)
	}
	last := len(chunks) - 1
	for name, list := range map[string][][]byte{
		"nothing":   nil,
		"truncated": chunks[:last],
		"cut off":   append(chunks[:last:last], chunks[last][:len(chunks[last])-1]),
		"flipped":   append(chunks[:1:1], flip(chunks[1])),
		"first":     {flip(chunks[0])},
		"reordered": {chunks[1], chunks[0]},
	} {
		t.Run(name, func(t *testing.T) {
			r := b.restore()
			if _, err := b.states[1].Restore(); !errors.Is(err, covey.InUse) {
				t.Errorf("a second one: %v", err)
			}
			var err error
			for _, c := range list {
				if err = r.WriteChunk(c); err != nil {
					break
				}
			}
			if err == nil {
				_, err = r.Stage()
			}
			if !errors.Is(err, covey.Corrupt) {
				t.Errorf("error %v, want covey.Corrupt", err)
			}
			if _, err := r.Stage(); err == nil {
				t.Error("it can be staged all the same")
			}
			if err := b.states[1].Install(r, nil); !errors.Is(err, covey.Invalid) {
				t.Errorf("installed: %v", err)
			}
			for range 2 {
				if err := r.Abort(); err != nil {
					t.Error(err)
				}
			}
			if err := r.WriteChunk(chunks[0]); !errors.Is(err, covey.Unavailable) {
				t.Errorf("a chunk after the end: %v", err)
			}
			b.left()
			b.sound()
			b.load(rand.New(rand.NewPCG(1, 1)), int(b.last[1])+1000)
			if err := b.c.Pass(t.Context()); err != nil {
				t.Fatal(err)
			}
		})
	}
	t.Run("other shard", func(t *testing.T) {
		r, err := b.states[2].Restore()
		if err != nil {
			t.Fatal(err)
		}
		defer r.Abort()
		if err := r.WriteChunk(chunks[0]); !errors.Is(err, covey.Corrupt) {
			t.Errorf("error %v", err)
		}
	})
	t.Run("behind", func(t *testing.T) {
		for b.last[1] <= s.Index() {
			b.load(rand.New(rand.NewPCG(1, b.last[1])), int(b.last[1])+5000)
		}
		r := b.restore()
		carry(t, s, r, nil)
		if _, err := r.Stage(); err != nil {
			t.Fatal(err)
		}
		if err := b.states[1].Install(r, nil); !errors.Is(err, covey.Invalid) {
			t.Errorf("error %v", err)
		}
		if err := r.Abort(); err != nil {
			t.Error(err)
		}
		b.left()
		b.sound()
	})
}

func flip(b []byte) []byte {
	b = bytes.Clone(b)
	b[len(b)/2] ^= 1
	return b
}

// TestSnapshotEnds ends a copy that is under way by closing the state, and
// refuses more than a few at a time.
func TestSnapshotEnds(t *testing.T) {
	m := newMachine(t)
	var open []snapshot.Snapshot
	for i := range 5 {
		m.load(rand.New(rand.NewPCG(1, uint64(i))), i)
		s, err := m.states[1].Snapshot()
		if err != nil {
			if i < 4 || !errors.Is(err, covey.Limit) {
				t.Errorf("copy %d: %v", i, err)
			}
			break
		}
		if _, err := s.ReadChunk(0); err != nil {
			t.Fatal(err)
		}
		// So that the next is not the same one.
		for n := uint64(0); err == nil; n++ {
			_, err = s.ReadChunk(n)
		}
		open = append(open, s)
	}
	r := m.restore()
	if err := r.WriteChunk(mustChunk(t, open[0])); err != nil {
		t.Fatal(err)
	}
	if err := m.states[1].Close(); err != nil {
		t.Fatal(err)
	}
	for _, s := range open {
		if _, err := s.ReadChunk(0); !errors.Is(err, covey.Unavailable) {
			t.Errorf("read of a copy whose state was closed: %v", err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
	if err := r.Abort(); err != nil {
		t.Error(err)
	}
	m.left()
	for _, s := range m.log.Segments() {
		if s.Held {
			t.Errorf("segment %d is still held", s.Number)
		}
	}
	if _, err := m.states[1].Snapshot(); !errors.Is(err, covey.Unavailable) {
		t.Errorf("copy of a closed state: %v", err)
	}
	if _, err := m.states[1].Restore(); !errors.Is(err, covey.Unavailable) {
		t.Errorf("restoring a closed state: %v", err)
	}
}

func mustChunk(t testing.TB, s snapshot.Snapshot) []byte {
	t.Helper()
	b, err := s.ReadChunk(0)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// A state in memory has nothing that could be copied.
func TestSnapshotOfMemory(t *testing.T) {
	s := storage.OpenMemory(storage.Config{})
	if _, err := s.Snapshot(); !errors.Is(err, covey.Invalid) {
		t.Errorf("snapshot: %v", err)
	}
	if _, err := s.Restore(); !errors.Is(err, covey.Invalid) {
		t.Errorf("restore: %v", err)
	}
	if err := s.Install(nil, nil); !errors.Is(err, covey.Invalid) {
		t.Errorf("install: %v", err)
	}
	if s.Installed() != nil {
		t.Error("something is installed")
	}
}

// openRestored opens a state that was restored from a copy of an empty one, and
// holds it to the suite.
func openRestored(t testing.TB, cfg storage.Config) storage.State {
	t.Helper()
	log, err := seglog.Open(seglog.Config{Dir: "/log", FS: durabletest.NewDisk()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { log.Close() })
	cfg.Log = log
	from := cfg
	from.Path = filepath.Join(t.TempDir(), "from")
	a, b := openSQLite(t, from), openSQLite(t, cfg)
	defer a.Close()
	if b.Applied() > 0 {
		return b
	}
	s, err := a.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	r, err := b.Restore()
	if err != nil {
		t.Fatal(err)
	}
	carry(t, s, r, nil)
	if _, err := r.Stage(); err != nil {
		t.Fatal(err)
	}
	if err := b.Install(r, []byte("meta")); err != nil {
		t.Fatal(err)
	}
	return b
}

func TestSQLiteRestored(t *testing.T) {
	storagetest.RunReopen(t, openRestored)
}
