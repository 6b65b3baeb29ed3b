package directory

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"zombiezen.com/go/sqlite"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/storage/seglog"
)

func openState(t *testing.T, path string) *State {
	t.Helper()
	s, err := OpenState(Config{Path: path, CacheRows: 100})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// history is a long run of commands, the Nth of which has index 3N: other entries
// of the log come between.
func history(n int) []seglog.Command {
	at := time.Unix(1_700_000_000, 0)
	cmds := []Command{
		Found{Cluster: covey.ClusterID{1}, Shards: 3}, AddDomain{Name: "a.example", Time: at}, AddDomain{Name: "b.example", Time: at},
	}
	addr := func(i int) covey.Address {
		return covey.Address{Local: fmt.Sprintf("user%d", i), Domain: []string{"a.example", "b.example", "c.example"}[i%3]}
	}
	for i := 0; len(cmds) < n; i++ {
		switch i % 6 {
		case 0, 1:
			cmds = append(cmds, AddAccounts{Time: at, Accounts: []NewAccount{{Address: addr(i), Hash: "{SSHA}TUAWaBXvNE7O36NutGSJo/XIE0HMC7+c"}, {Address: addr(i + 1), Quota: DefaultQuota}}})
		case 2:
			cmds = append(cmds, SetAlias{Address: addr(i * 1000), Targets: []covey.Address{addr(i - 2), addr(i - 1)}})
		case 3:
			cmds = append(cmds, SetPassword{Account: covey.AccountID(i / 4), Hash: "{SSHA.B64}UZoVFjlUuqMXb9iB5g3PCRwAwmPuK4Ii", Verifier: "v"})
		case 4:
			cmds = append(cmds, RemoveAccount{Address: addr(i - 4 - i%12/5), Time: at}, SetSettings{Quota: ptr(int64(i))})
		case 5:
			cmds = append(cmds, SetAlias{Address: addr((i - 3) * 1000), Targets: []covey.Address{addr(i - 4)}, Mode: ReplaceAlias}, Dropped{Account: covey.AccountID(i / 2)})
			cmds = append(cmds, clusterHistory(i/6)...)
		}
	}
	var out []seglog.Command
	for i, c := range cmds[:n] {
		out = append(out, seglog.Command{Index: uint64(i+1) * 3, Data: Encode(c)})
	}
	return out
}

// clusterHistory makes a map of two nodes at first, and then with each round n
// lets one more come, hold a shard, and go.
func clusterHistory(n int) []Command {
	at := time.Unix(1_700_000_000+int64(n), 0)
	info := NodeInfo{Peer: fmt.Sprintf("192.0.2.1:%d", 1+n), Version: fmt.Sprint(n), Level: Level}
	add := func(id covey.NodeID) Command {
		return AddNode{ID: id, Key: bytes.Repeat([]byte{byte(id)}, 32), NodeInfo: info, Time: at}
	}
	if n == 0 {
		everywhere := []covey.NodeID{1, 2}
		return []Command{add(1), add(2), SetShardMap{Changes: map[covey.ShardID][]covey.NodeID{0: everywhere, 1: everywhere, 2: everywhere, 3: everywhere}}}
	}
	id, shard, epoch := covey.NodeID(100+n), covey.ShardID(n%4), uint64(2*n-1)
	return []Command{
		add(id), SetShardMap{Expected: epoch, Changes: map[covey.ShardID][]covey.NodeID{shard: {1, id}}},
		RemoveNode{ID: id, Time: at}, SetNodeState{ID: id, State: Draining, Time: at},
		SetShardMap{Expected: epoch + 1, Changes: map[covey.ShardID][]covey.NodeID{shard: {2, 1}}},
		RemoveNode{ID: id, ReplacedBy: 1, Time: at}, UpdateNode{ID: 2, NodeInfo: info, Time: at},
		SetSettings{Replicas: ptr(3), RebuildAfter: ptr(time.Duration(n) * time.Second)},
	}
}

// dump returns every row of every table.
func dump(t *testing.T, s *State) string {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.commitLocked(); err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, table := range []string{"meta", "domain", "account", "alias", "removed", "node", "shard"} {
		fmt.Fprintln(&b, table)
		err := s.db.query("SELECT * FROM "+table, nil, func(q *sqlite.Stmt) error {
			for i := range q.ColumnCount() {
				fmt.Fprintf(&b, "\t%s", q.ColumnText(i))
			}
			fmt.Fprintln(&b)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return b.String()
}

func TestStateIsAFunctionOfItsCommands(t *testing.T) {
	cmds := history(4000)
	one, many := openState(t, filepath.Join(t.TempDir(), "a")), openState(t, filepath.Join(t.TempDir(), "b"))
	results := many.Apply(cmds)
	for i, c := range cmds {
		got := one.Apply([]seglog.Command{c})
		if i%500 == 0 {
			if _, err := one.Checkpoint(); err != nil {
				t.Fatal(err)
			}
		}
		if a, b := fmt.Sprint(results[i]), fmt.Sprint(got[0]); a != b {
			t.Fatalf("command %d: result %s alone, %s in a batch", c.Index, b, a)
		}
	}
	if diff := cmp.Diff(dump(t, many), dump(t, one)); diff != "" {
		t.Errorf("databases differ (-batch +single):\n%s", diff)
	}
	if removed := len(one.cluster.known) - len(one.cluster.members); removed < 50 || one.cluster.epoch < 100 {
		t.Errorf("the history removed %d nodes only, and came to epoch %d", removed, one.cluster.epoch)
	}
	if one.meta.accounts < 100 || one.meta.unverified < 30 || strings.Count(dump(t, one), "\n") < 500 {
		t.Errorf("the history made %d accounts only", one.meta.accounts)
	}
	for _, err := range one.Check(t.Context()) {
		t.Error(err)
	}
}

// The running hash tells at which command replicas went apart, is kept by the
// database, and depends on what commands did.
func TestHash(t *testing.T) {
	cmds := history(300)
	path := filepath.Join(t.TempDir(), "a")
	a, b := openState(t, path), openState(t, filepath.Join(t.TempDir(), "b"))
	a.Apply(cmds[:100])
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	a = openState(t, path)
	a.Apply(cmds[100:])
	b.Apply(cmds[:200])
	b.change(func(m *meta) { m.nextAccount++ }) // as a fault of the program would
	b.Apply(cmds[200:])
	for _, i := range []int{100, 150, 199, 200, 299} {
		at := cmds[i].Index
		x, ok := a.HashAt(at)
		y, also := b.HashAt(at)
		if !ok || !also || x == 0 || (x == y) != (i < 200) {
			t.Errorf("hashes at command %d are %x, %v and %x, %v", i, x, ok, y, also)
		}
	}
	if index, hash := a.Hash(); index != cmds[299].Index || hash == 0 {
		t.Errorf("at %d with hash %x", index, hash)
	}
	if h, ok := a.HashAt(cmds[50].Index); ok {
		t.Errorf("after opening at command 99, the hash at 50 is known: %x", h)
	}
}

// A process that dies loses what was not committed, and gets it again from the
// log.
func TestReplayAfterCrash(t *testing.T) {
	const applied, committed = 2500, 2000
	cmds := history(applied)
	dir := t.TempDir()
	s := openState(t, filepath.Join(dir, "directory.db"))
	s.Apply(cmds)
	crashed := t.TempDir()
	for _, name := range []string{"directory.db", "directory.db-wal"} {
		copyFile(t, filepath.Join(dir, name), filepath.Join(crashed, name))
	}
	again := openState(t, filepath.Join(crashed, "directory.db"))
	if got, want := again.Applied(), cmds[committed-1].Index; got != want {
		t.Fatalf("Applied after a crash = %d, want %d", got, want)
	}
	again.Apply(cmds[committed:])
	if diff := cmp.Diff(dump(t, s), dump(t, again)); diff != "" {
		t.Errorf("after replay (-before +after):\n%s", diff)
	}
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	r, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	w, err := os.Create(to)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if _, err := io.Copy(w, r); err != nil {
		t.Fatal(err)
	}
}

// What Checkpoint covers is in the database file itself, without the WAL.
func TestCheckpointNeedsNoWAL(t *testing.T) {
	cmds := history(10)
	dir := t.TempDir()
	s := openState(t, filepath.Join(dir, "directory.db"))
	s.Apply(cmds)
	index, err := s.Checkpoint()
	if err != nil || index != cmds[9].Index {
		t.Fatalf("Checkpoint = %d, %v; want %d", index, err, cmds[9].Index)
	}
	to := filepath.Join(t.TempDir(), "directory.db")
	copyFile(t, filepath.Join(dir, "directory.db"), to)
	again := openState(t, to)
	if got := again.Applied(); got != index {
		t.Errorf("Applied = %d, want %d", got, index)
	}
	if diff := cmp.Diff(dump(t, s), dump(t, again)); diff != "" {
		t.Errorf("(-before +after):\n%s", diff)
	}
}

func TestFilesArePrivate(t *testing.T) {
	dir := t.TempDir()
	s := openState(t, filepath.Join(dir, "directory.db"))
	s.Apply(history(5))
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(files) != 2 {
		t.Errorf("files %v, want database and WAL", files)
	}
	for _, f := range files {
		if info, err := f.Info(); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: mode %v, %v; want 0600", f.Name(), info.Mode(), err)
		}
	}
	if other, err := OpenState(Config{Path: filepath.Join(dir, "directory.db")}); err == nil {
		other.Close()
		t.Error("the database was opened twice")
	}
}

// mustPanic returns what f panics with.
func mustPanic(t *testing.T, f func()) (text string) {
	t.Helper()
	defer func() {
		v := recover()
		if v == nil {
			t.Error("no panic")
		}
		text = fmt.Sprint(v)
	}()
	f()
	return ""
}

// After a command that cannot be applied nothing more is, and nothing is kept of
// the transaction it was in.
func TestFaultStopsTheState(t *testing.T) {
	path := filepath.Join(t.TempDir(), "directory.db")
	s := openState(t, path)
	good := history(5)
	s.Apply(good[:3])
	if _, err := s.Checkpoint(); err != nil {
		t.Fatal(err)
	}
	s.Apply(good[3:4])
	text := mustPanic(t, func() { s.Apply([]seglog.Command{{Index: 100, Data: []byte{9, 9}}}) })
	if !strings.Contains(text, "version 9") {
		t.Errorf("panic %q does not say why", text)
	}
	mustPanic(t, func() { s.Apply(good[4:5]) })
	if _, err := s.Checkpoint(); err == nil {
		t.Error("Checkpoint after a fault succeeded")
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if got, want := openState(t, path).Applied(), good[2].Index; got != want {
		t.Errorf("Applied after reopening = %d, want %d", got, want)
	}
}

// A disk without room costs no command, whether a command or a look-up meets it.
func TestF21_RecoverFromAFullDisk(t *testing.T) {
	cmds := history(1200)
	want := openState(t, filepath.Join(t.TempDir(), "d"))
	want.Apply(cmds)
	for name, meet := range map[string]func(*State, []seglog.Command) error{
		"command": func(s *State, rest []seglog.Command) error {
			s.db.exec("PRAGMA max_page_count = 1")
			var err error
			for i := 0; i < len(rest) && err == nil; i++ {
				err = panicked(func() { s.Apply(rest[i : i+1]) })
			}
			return err
		},
		"look-up": func(s *State, rest []seglog.Command) error {
			// SQLite rolls back when it has to write a page to read another.
			if err := s.db.exec("ROLLBACK"); err != nil {
				return err
			}
			return panicked(func() { s.Apply(rest[:1]) })
		},
		"checkpoint": func(s *State, rest []seglog.Command) error {
			if err := s.db.exec("ROLLBACK"); err != nil {
				return err
			}
			_, err := s.Checkpoint()
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := openState(t, filepath.Join(t.TempDir(), "d"))
			s.Apply(cmds[:20])
			if _, err := s.Checkpoint(); err != nil {
				t.Fatal(err)
			}
			s.Apply(cmds[20:25])
			if err := meet(s, cmds[25:]); !errors.Is(err, covey.DiskFull) {
				t.Fatalf("error %v, want covey.DiskFull", err)
			}
			err := s.Recover(func(after uint64, apply func([]seglog.Command) []any) error {
				if after != cmds[19].Index {
					t.Errorf("replay after %d, want %d", after, cmds[19].Index)
				}
				apply(cmds[20:])
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := s.Checkpoint(); err != nil {
				t.Error(err)
			}
			if diff := cmp.Diff(dump(t, want), dump(t, s)); diff != "" {
				t.Error(diff)
			}
			if diff := cmp.Diff(want.meta, s.meta, cmp.AllowUnexported(meta{})); diff != "" {
				t.Error(diff)
			}
			if diff := cmp.Diff(want.cluster, s.cluster, cmp.AllowUnexported(cluster{})); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// panicked returns the error that f panics with.
func panicked(f func()) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = v.(error)
		}
	}()
	f()
	return nil
}

func TestRecoverFails(t *testing.T) {
	s := openState(t, filepath.Join(t.TempDir(), "d"))
	s.Apply(history(10))
	gone := errors.New("entry is gone")
	if err := s.Recover(func(uint64, func([]seglog.Command) []any) error { return gone }); !errors.Is(err, gone) {
		t.Errorf("error %v, want %v", err, gone)
	}
	if err := panicked(func() { s.Apply(history(11)[10:]) }); !errors.Is(err, gone) {
		t.Errorf("a state that lacks commands goes on: %v", err)
	}
}

func TestApplyRefusesWhatWasApplied(t *testing.T) {
	s := openState(t, filepath.Join(t.TempDir(), "directory.db"))
	cmds := history(5)
	s.Apply(cmds)
	mustPanic(t, func() { s.Apply(cmds[4:]) })
}

func TestOpenRefusesAnotherFormat(t *testing.T) {
	path := filepath.Join(t.TempDir(), "directory.db")
	s := openState(t, path)
	if err := s.db.exec("PRAGMA user_version = 99"); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenState(Config{Path: path}); err == nil || !strings.Contains(err.Error(), "format 99") {
		t.Errorf("OpenState = %v, want an error that names format 99", err)
	}
}

func TestCheckFinds(t *testing.T) {
	for _, tt := range []struct{ name, damage, want string }{
		{"orphan", "DELETE FROM domain WHERE name = 'a.example'", "account 1 should not be there"},
		{"count", "UPDATE domain SET accounts = 77", "counted were 77"},
		{"shard", "UPDATE account SET shard = 9 WHERE id = 1", "there is no shard 9"},
		{"id", "UPDATE account SET id = 99999 WHERE id = 1", "id is not below the next one"},
		{"hash", "UPDATE account SET hash = 'x' WHERE id = 1", "account 1: its password hash cannot be read"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := openState(t, filepath.Join(t.TempDir(), "directory.db"))
			s.Apply(history(6))
			s.mu.Lock()
			err := s.db.exec(tt.damage)
			s.mu.Unlock()
			if err != nil {
				t.Fatal(err)
			}
			if found := fmt.Sprint(s.Check(t.Context())); !strings.Contains(found, tt.want) {
				t.Errorf("Check = %s, want %q among it", found, tt.want)
			}
		})
	}
}
