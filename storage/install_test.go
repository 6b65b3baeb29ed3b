package storage_test

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/internal/durable"
	"github.com/covey-mail/covey/internal/durable/durabletest"
	"github.com/covey-mail/covey/storage"
)

// TestInstallWhileRead has readers at the state while it is replaced: each sees
// the old one or the new one.
func TestInstallWhileRead(t *testing.T) {
	a, b := newMachine(t), newMachine(t)
	r := rand.New(rand.NewPCG(7, 7))
	for i := range 300 {
		a.load(r, i)
	}
	b.follow(a)
	for i := range 300 {
		a.load(r, 1000+i)
	}
	picture := func(m *machine) string {
		mb, uids, unseen, err := m.states[1].View(1, 1)
		return fmt.Sprint(mb, uids, unseen, err)
	}
	want := []string{picture(b), picture(a)}
	stop := make(chan struct{})
	var readers sync.WaitGroup
	for range 3 {
		readers.Go(func() {
			last := 0
			for {
				select {
				case <-stop:
					return
				default:
				}
				i := slices.Index(want, picture(b))
				if i < last {
					t.Errorf("a reader saw state %d after %d of: old, new", i, last)
				}
				last = i
				err := b.states[1].Messages(t.Context(), storage.Query{Mailbox: 1}, func(m *storage.Message) error {
					extents, err := b.states[1].Body(m.Body)
					if err != nil {
						return err
					}
					return b.log.Read(extents[0], make([]byte, extents[0].Length))
				})
				if err != nil && !errors.Is(err, covey.NotFound) {
					t.Errorf("a reader got %v", err)
				}
			}
		})
	}
	to := b.restore()
	carry(t, a.take(), to, nil)
	b.install(to, "x")
	if err := b.c.Pass(t.Context()); err != nil {
		t.Error(err)
	}
	close(stop)
	readers.Wait()
	if got := picture(b); got != want[1] {
		t.Errorf("at the end %s, want %s", got, want[1])
	}
	b.sound()
}

// TestInstallCrashed ends the process before each operation on files that
// restoring makes, and opens what is there: the old state, or the new one, with
// what was installed.
func TestInstallCrashed(t *testing.T) {
	a, b := newMachine(t), newMachine(t)
	r := rand.New(rand.NewPCG(7, 7))
	for i := range 100 {
		a.load(r, i)
	}
	b.follow(a)
	oldIndex, oldHash := b.states[1].Hash()
	if _, err := b.states[1].Checkpoint(); err != nil {
		t.Fatal(err)
	}
	for i := range 100 {
		a.load(r, 1000+i)
	}
	index, hash := a.states[1].Hash()
	if err := b.states[1].Close(); err != nil {
		t.Fatal(err)
	}
	dirs := map[string]string{}
	var names []string
	w := &durabletest.Watched{FS: durable.OS(), Before: func(op durabletest.Op, name string) {
		step := fmt.Sprintf("%d: %v %s", len(names), op, filepath.Base(name))
		names = append(names, step)
		dirs[step] = copyFiles(t, b.dir)
	}}
	cfg := storage.Config{Shard: 1, Path: filepath.Join(b.dir, "shard1"), Log: b.log, FS: w}
	s, err := storage.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	b.states[1] = s
	to := b.restore()
	carry(t, a.take(), to, nil)
	if _, err := to.Stage(); err != nil {
		t.Fatal(err)
	}
	if err := s.Install(to, []byte("meta")); err != nil {
		t.Fatal(err)
	}
	w.Before(0, "end")
	for i, step := range names {
		cfg := storage.Config{Shard: 1, Path: filepath.Join(dirs[step], "shard1"), Log: b.log}
		s, err := storage.Open(cfg)
		if err != nil {
			t.Errorf("%s: %v", step, err)
			continue
		}
		switch gotIndex, gotHash := s.Hash(); {
		case gotIndex == index && gotHash == hash && string(s.Installed()) == "meta":
		case gotIndex == oldIndex && gotHash == oldHash && s.Installed() == nil && i < len(names)-1:
		default:
			t.Errorf("%s: at %d with hash %x and %q", step, gotIndex, gotHash, s.Installed())
		}
		for _, err := range append(s.Check(t.Context()), storage.CheckBodies(t.Context(), s, b.log)...) {
			t.Errorf("%s: %v", step, err)
		}
		if err := s.Close(); err != nil {
			t.Errorf("%s: %v", step, err)
		}
		if list, err := os.ReadDir(dirs[step]); err != nil || slices.ContainsFunc(list, func(f fs.DirEntry) bool { return strings.Contains(f.Name(), ".") }) {
			t.Errorf("%s: left are %v, %v", step, list, err)
		}
	}
	if len(names) < 12 {
		t.Errorf("only %v were interrupted", names)
	}
}

// TestCheckpointWhileCopied makes checkpoints while the database file is being
// copied: they are durable, and are not part of the copy.
func TestCheckpointWhileCopied(t *testing.T) {
	a, b := newMachine(t), newMachine(t)
	if err := a.states[1].Close(); err != nil {
		t.Fatal(err)
	}
	let := make(chan struct{})
	w := &durabletest.Watched{FS: durable.OS(), Read: func(name string) {
		if strings.HasSuffix(name, "shard1") {
			<-let
		}
	}}
	s, err := storage.Open(storage.Config{Shard: 1, Path: filepath.Join(a.dir, "shard1"), Log: a.log, FS: w})
	if err != nil {
		t.Fatal(err)
	}
	a.states[1] = s
	release := sync.OnceFunc(func() { close(let) })
	t.Cleanup(release) // or Close would wait for ever
	r := rand.New(rand.NewPCG(7, 7))
	for i := range 2000 {
		a.load(r, i)
	}
	from := a.take()
	index, hash := s.Hash()
	for i := range 3000 {
		a.load(r, 2000+i)
		if i%500 == 0 {
			if got, err := s.Checkpoint(); err != nil || got != s.Applied() {
				t.Fatalf("checkpoint at %d, applied %d, error %v", got, s.Applied(), err)
			}
		}
	}
	if _, err := s.Checkpoint(); err != nil {
		t.Fatal(err)
	}
	// Whoever asks now gets the same one.
	if other := a.take(); other.Index() != index {
		t.Errorf("another copy is at %d while the one at %d is made", other.Index(), index)
	}
	crashed, err := storage.Open(storage.Config{Shard: 1, Path: filepath.Join(copyFiles(t, a.dir), "shard1"), Log: a.log})
	if err != nil {
		t.Fatal(err)
	}
	if now, h := s.Hash(); !sameHash(crashed, now, h) {
		t.Errorf("a crash leaves %d, though a checkpoint said %d", crashed.Applied(), now)
	}
	for _, err := range append(crashed.Check(t.Context()), storage.CheckBodies(t.Context(), crashed, a.log)...) {
		t.Error(err)
	}
	crashed.Close()
	before, err := os.Stat(filepath.Join(a.dir, "shard1"))
	if err != nil {
		t.Fatal(err)
	}
	release()
	to := b.restore()
	carry(t, from, to, nil)
	b.install(to, "")
	if !sameHash(b.states[1], index, hash) {
		t.Error("the copy is not of the moment when it was asked for")
	}
	b.sound()
	if _, err := s.Checkpoint(); err != nil {
		t.Fatal(err)
	}
	if after, err := os.Stat(filepath.Join(a.dir, "shard1")); err != nil || after.Size() <= before.Size() {
		t.Errorf("a checkpoint behind the copy writes nothing, error %v", err)
	}
}
