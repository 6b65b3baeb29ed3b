package directory

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/internal/durable"
	"github.com/covey-mail/covey/internal/durable/durabletest"
	"github.com/covey-mail/covey/internal/snapshot"
)

func openAt(t *testing.T, cfg Config) *State {
	t.Helper()
	s, err := OpenState(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// chunks returns all of a copy of s.
func chunks(t *testing.T, s *State) [][]byte {
	t.Helper()
	c, err := s.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if c.Index() != s.Applied() {
		t.Errorf("copy at %d, applied %d", c.Index(), s.Applied())
	}
	return rest(t, c)
}

func rest(t *testing.T, c snapshot.Snapshot) [][]byte {
	t.Helper()
	var list [][]byte
	for n := uint64(0); ; n++ {
		b, err := c.ReadChunk(n)
		if err == io.EOF {
			return list
		}
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, b)
	}
}

// stage has s take in a copy, and returns what Stage does, or the error before.
func stage(t *testing.T, s *State, list [][]byte) (snapshot.Restorer, uint64, error) {
	t.Helper()
	r, err := s.Restore()
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range list {
		if err := r.WriteChunk(b); err != nil {
			return r, 0, err
		}
	}
	index, err := r.Stage()
	return r, index, err
}

// TestRestore carries a directory to a node that has another one, and has both go
// on.
func TestRestore(t *testing.T) {
	const first, all = 3000, 4000
	cmds := history(all)
	dir := t.TempDir()
	a, b := openState(t, filepath.Join(t.TempDir(), "a")), openState(t, filepath.Join(dir, "b"))
	a.Apply(cmds[:first])
	b.Apply(cmds[:100])
	var unknown covey.Address
	for id := a.meta.nextAccount - 1; unknown == (covey.Address{}); id-- {
		if found, err := a.byID(id); err == nil && found != nil {
			unknown = found.Address
		}
	}
	before, _, err := b.lookup(unknown) // and kept in the cache
	if err != nil || before.kind != nothing {
		t.Fatalf("%v is %+v before, error %v", unknown, before, err)
	}
	var told Event
	b.watchers = append(b.watchers, func(e Event) { told |= e })
	list := chunks(t, a)
	want := dump(t, a)
	a.Apply(cmds[first:])
	r, index, err := stage(t, b, list)
	if err != nil || index != cmds[first-1].Index {
		t.Fatalf("staged at %d, error %v", index, err)
	}
	if _, err := b.Restore(); !errors.Is(err, covey.InUse) {
		t.Errorf("a second restorer: %v", err)
	}
	if err := b.Install(r, []byte("meta")); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, dump(t, b)); d != "" {
		t.Errorf("the copy differs (-want +got):\n%s", d)
	}
	if told != everything || string(b.Installed()) != "meta" {
		t.Errorf("watchers were told %b, installed is %q", told, b.Installed())
	}
	if now, _, err := b.lookup(unknown); err != nil || now.kind == nothing {
		t.Errorf("%v is %+v afterwards, error %v: the cache is of the old one", unknown, now, err)
	}
	b.Apply(cmds[first:])
	if d := cmp.Diff(dump(t, a), dump(t, b)); d != "" {
		t.Errorf("they differ later on (-want +got):\n%s", d)
	}
	for _, err := range b.Check(t.Context()) {
		t.Error(err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	b = openState(t, filepath.Join(dir, "b"))
	if string(b.Installed()) != "meta" {
		t.Errorf("after opening, installed is %q", b.Installed())
	}
	// From there to a third: the meta is not its.
	c := openState(t, filepath.Join(t.TempDir(), "c"))
	r, _, err = stage(t, c, chunks(t, b))
	if err == nil {
		err = c.Install(r, nil)
	}
	if err != nil || c.Installed() != nil {
		t.Errorf("a copy of the copy: error %v, installed %q", err, c.Installed())
	}
	onlyDatabases(t, dir)
}

func onlyDatabases(t *testing.T, dir string) {
	t.Helper()
	files, err := os.ReadDir(dir)
	if err != nil || slices.ContainsFunc(files, func(f os.DirEntry) bool { return strings.Contains(f.Name(), ".") }) {
		t.Errorf("left are %v, error %v", files, err)
	}
}

// B-04: what a peer sends is no directory, or not what it says.
func TestB04_RestoreRefuses(t *testing.T) {
	cmds := history(500)
	made := filepath.Join(t.TempDir(), "made")
	a := openState(t, made)
	a.Apply(cmds)
	good := chunks(t, a)
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	index, hash := a.Hash()
	dir := t.TempDir()
	b := openState(t, filepath.Join(dir, "b"))
	b.Apply(cmds[:10])
	want := dump(t, b)
	refused := func(t *testing.T, list [][]byte) {
		t.Helper()
		r, _, err := stage(t, b, list)
		if !errors.Is(err, covey.Corrupt) {
			t.Errorf("error %v, want covey.Corrupt", err)
		}
		if err := b.Install(r, nil); !errors.Is(err, covey.Invalid) {
			t.Errorf("installed: %v", err)
		}
		if err := r.Abort(); err != nil {
			t.Error(err)
		}
		onlyDatabases(t, dir)
		if d := cmp.Diff(want, dump(t, b)); d != "" {
			t.Errorf("the directory changed (-want +got):\n%s", d)
		}
	}
	flipped := bytes.Clone(good[0])
	flipped[5000] ^= 1
	t.Run("nothing", func(t *testing.T) { refused(t, nil) })
	t.Run("truncated", func(t *testing.T) { refused(t, [][]byte{good[0][:len(good[0])-1]}) })
	t.Run("flipped", func(t *testing.T) { refused(t, [][]byte{flipped}) })
	for _, tt := range []struct {
		name, sql string
		change    func(*snapshot.Header)
	}{
		{name: "trigger", sql: "CREATE TRIGGER bad AFTER UPDATE ON meta BEGIN DELETE FROM account; END"},
		{name: "view", sql: "CREATE VIEW more AS SELECT 1"},
		{name: "missing table", sql: "DROP TABLE removed"},
		{name: "format", sql: "PRAGMA user_version = 99"},
		{name: "no format", sql: "PRAGMA user_version = 0"},
		{name: "meta", sql: "DELETE FROM meta"},
		{name: "node", sql: "INSERT INTO node VALUES (5000, x'00', '', '', '', '', 1, 1, 0, 0, 0, 0, 0)"},
		{name: "voters", sql: "UPDATE shard SET voters = 'x'"},
		{name: "other index", change: func(h *snapshot.Header) { h.Index++ }},
		{name: "other hash", change: func(h *snapshot.Header) { h.Hash++ }},
		{name: "other group", change: func(h *snapshot.Header) { h.Group = 1 }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "copy")
			copyFile(t, made, path)
			conn, err := sqlite.OpenConn(path, sqlite.OpenReadWrite)
			if err == nil {
				err = errors.Join(sqlitex.ExecuteScript(conn, tt.sql, nil), conn.Close())
			}
			if err != nil {
				t.Fatal(err)
			}
			h := snapshot.Header{Index: index, Hash: hash}
			if tt.change != nil {
				tt.change(&h)
			}
			refused(t, forge(t, path, h))
		})
	}
	t.Run("no database", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "copy")
		if err := os.WriteFile(path, bytes.Repeat([]byte("not a database "), 1000), 0o600); err != nil {
			t.Fatal(err)
		}
		refused(t, forge(t, path, snapshot.Header{Index: index, Hash: hash}))
	})
	t.Run("behind", func(t *testing.T) {
		b.Apply(cmds[10:])
		b.Apply(history(501)[500:])
		r, _, err := stage(t, b, good)
		if err != nil {
			t.Fatal(err)
		}
		if err := b.Install(r, nil); !errors.Is(err, covey.Invalid) {
			t.Errorf("error %v", err)
		}
		if err := r.Abort(); err != nil {
			t.Error(err)
		}
	})
}

// forge returns the chunks of a file.
func forge(t *testing.T, path string, h snapshot.Header) [][]byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	h.Database = int64(len(data))
	file, err := snapshot.StartCopy(durabletest.NewDisk(), bytes.NewReader(data), h.Database, "/copy")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	s := snapshot.NewStream(h, file, nil)
	var list [][]byte
	for n := uint64(0); ; n++ {
		b, err := s.ReadChunk(n)
		if err != nil {
			return list
		}
		list = append(list, b)
	}
}

// TestInstallCrashed ends the process before each operation on files that
// restoring makes.
func TestInstallCrashed(t *testing.T) {
	cmds := history(1500)
	dir := t.TempDir()
	a, b := openState(t, filepath.Join(t.TempDir(), "a")), openState(t, filepath.Join(dir, "b"))
	a.Apply(cmds)
	b.Apply(cmds[:700])
	want := map[uint64]string{a.Applied(): dump(t, a), b.Applied(): dump(t, b)}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	var steps []string
	copies := map[string]string{}
	w := &durabletest.Watched{FS: durable.OS(), Before: func(op durabletest.Op, name string) {
		step := fmt.Sprintf("%d: %v %s", len(steps), op, filepath.Base(name))
		steps = append(steps, step)
		copies[step] = t.TempDir()
		if err := os.CopyFS(copies[step], os.DirFS(dir)); err != nil {
			t.Fatal(err)
		}
	}}
	b = openAt(t, Config{Path: filepath.Join(dir, "b"), FS: w})
	r, _, err := stage(t, b, chunks(t, a))
	if err == nil {
		err = b.Install(r, []byte("meta"))
	}
	if err != nil {
		t.Fatal(err)
	}
	w.Before(0, "end")
	for i, step := range steps {
		s := openState(t, filepath.Join(copies[step], "b"))
		isNew := s.Applied() == a.Applied()
		if text, ok := want[s.Applied()]; !ok || text != dump(t, s) || isNew != (string(s.Installed()) == "meta") {
			t.Errorf("%s: at %d with %q", step, s.Applied(), s.Installed())
		}
		if i == len(steps)-1 && !isNew {
			t.Errorf("%s: the old state is back", step)
		}
		onlyDatabases(t, copies[step])
	}
	if len(steps) < 10 {
		t.Errorf("only %v were interrupted", steps)
	}
}

// TestCheckpointWhileCopied makes checkpoints, and more of them than the log may
// be long for, while the file is being copied.
func TestCheckpointWhileCopied(t *testing.T) {
	cmds := history(9000)
	dir := t.TempDir()
	let := make(chan struct{})
	s := openAt(t, Config{Path: filepath.Join(dir, "a"), FS: &durabletest.Watched{FS: durable.OS(), Read: func(name string) {
		if filepath.Base(name) == "a" {
			<-let
		}
	}}})
	release := sync.OnceFunc(func() { close(let) })
	t.Cleanup(release) // or Close would wait for ever
	s.Apply(cmds[:1500])
	want := dump(t, s)
	c, err := s.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for i := 1500; i < len(cmds); i += 30 {
		s.Apply(cmds[i : i+30])
		if index, err := s.Checkpoint(); err != nil || index != s.Applied() {
			t.Fatalf("checkpoint at %d, error %v", index, err)
		}
	}
	if s.db.source.LogSize() <= logLimit {
		t.Fatalf("the log has %d bytes only", s.db.source.LogSize())
	}
	crashed := t.TempDir()
	for _, name := range []string{"a", "a-wal"} {
		copyFile(t, filepath.Join(dir, name), filepath.Join(crashed, name))
	}
	if again := openState(t, filepath.Join(crashed, "a")); again.Applied() != s.Applied() || dump(t, again) != dump(t, s) {
		t.Errorf("a crash leaves %d, though a checkpoint said %d", again.Applied(), s.Applied())
	}
	release()
	b := openState(t, filepath.Join(t.TempDir(), "b"))
	r, _, err := stage(t, b, rest(t, c))
	if err == nil {
		err = b.Install(r, nil)
	}
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, dump(t, b)); d != "" {
		t.Errorf("the copy is not of the moment when it was asked for (-want +got):\n%s", d)
	}
	if _, err := s.Checkpoint(); err != nil || s.db.source.LogSize() > 0 {
		t.Errorf("a checkpoint behind the copy leaves %d bytes of the log, error %v", s.db.source.LogSize(), err)
	}
}

// TestInstallWhileRead has readers at a directory while it is replaced.
func TestInstallWhileRead(t *testing.T) {
	cmds := history(2000)
	a, b := openState(t, filepath.Join(t.TempDir(), "a")), openState(t, filepath.Join(t.TempDir(), "b"))
	a.Apply(cmds)
	b.Apply(cmds[:1000])
	stop := make(chan struct{})
	var readers sync.WaitGroup
	for range 2 {
		readers.Go(func() {
			last := uint64(0)
			for {
				select {
				case <-stop:
					return
				default:
				}
				m, _ := b.view()
				if m.applied < last || m.applied != a.Applied() && m.applied != cmds[999].Index {
					t.Errorf("a reader is at %d after %d", m.applied, last)
				}
				last = m.applied
				if _, _, err := b.lookup(covey.Address{Local: "user0", Domain: "b.example"}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	r, _, err := stage(t, b, chunks(t, a))
	if err == nil {
		err = b.Install(r, nil)
	}
	if err != nil {
		t.Error(err)
	}
	close(stop)
	readers.Wait()
	if d := cmp.Diff(dump(t, a), dump(t, b)); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

// TestCloseEndsCopies closes a directory that is being copied and restored.
func TestCloseEndsCopies(t *testing.T) {
	dir := t.TempDir()
	s := openState(t, filepath.Join(dir, "a"))
	s.Apply(history(100))
	c, err := s.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	b, err := c.ReadChunk(0)
	if err != nil {
		t.Fatal(err)
	}
	r, err := s.Restore()
	if err == nil {
		err = r.WriteChunk(b)
	}
	if err == nil {
		err = s.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.ReadChunk(0); !errors.Is(err, covey.Unavailable) {
		t.Errorf("read: %v", err)
	}
	if err := r.WriteChunk(b); !errors.Is(err, covey.Unavailable) {
		t.Errorf("write: %v", err)
	}
	if err := errors.Join(c.Close(), r.Abort()); err != nil {
		t.Error(err)
	}
	if _, err := s.Snapshot(); !errors.Is(err, covey.Unavailable) {
		t.Errorf("a copy of a closed directory: %v", err)
	}
	if _, err := s.Restore(); !errors.Is(err, covey.Unavailable) {
		t.Errorf("restoring a closed directory: %v", err)
	}
	onlyDatabases(t, dir)
}
