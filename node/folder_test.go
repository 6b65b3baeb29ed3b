package node

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/internal/durable"
)

// A stamp follows those before it, and is on the disk when it is given.
func TestStampsFollow(t *testing.T) {
	dir := t.TempDir()
	f, err := openFolder(durable.OS(), dir)
	if err != nil {
		t.Fatal(err)
	}
	if f.stamp() != (covey.DiskStamp{}) {
		t.Errorf("a new disk has the stamp %+v", f.stamp())
	}
	was := f.stamp()
	for _, after := range []uint64{0, 0, 7, 3} {
		got, err := f.restamp(after)
		if err != nil {
			t.Fatal(err)
		}
		if !got.Follows(was) || was.Follows(got) || got.Count <= after || got != f.stamp() {
			t.Errorf("after %+v and %d comes %+v", was, after, got)
		}
		was = got
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := openFolder(durable.OS(), dir)
	if err != nil {
		t.Fatal(err)
	}
	if again.stamp() != was {
		t.Errorf("opened again: %+v, want %+v", again.stamp(), was)
	}
	if err := again.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestFolderKeepsItsIdentity(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b")
	f, err := openFolder(durable.OS(), dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.found(7), f.countBoot(), f.Close()); err != nil {
		t.Fatal(err)
	}
	again, err := openFolder(durable.OS(), dir)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if again.id != f.id || !reflect.DeepEqual(again.self, f.self) || again.self.Shards != 7 || again.self.Boot != 1 {
		t.Errorf("got %+v, want %+v with boot 1", again.self, f.self)
	}
	if st, err := os.Stat(dir); err != nil || st.Mode().Perm() != 0o700 {
		t.Errorf("data folder: mode %v, %v; want 0700", st.Mode(), err)
	}
	for _, name := range []string{"node.toml", "lock"} {
		if st, err := os.Stat(again.path(name)); err != nil || st.Mode().Perm() != 0o600 {
			t.Errorf("%s: mode %v, %v; want 0600", name, st.Mode(), err)
		}
	}
}

func TestDamagedIdentityIsRefused(t *testing.T) {
	const whole = "version = 1\nnode = \"00000000000000a1\"\ncluster = \"00112233445566778899aabbccddeeff\"\nshards = 4\nboot = 1\n"
	for _, tt := range []struct {
		name, content string
		kind          covey.Kind
		say           string
	}{
		{"cut short", whole[:20], covey.Corrupt, "restore it from a copy"},
		{"empty", "", covey.Invalid, "layout version 0"},
		{"newer", strings.Replace(whole, "version = 1", "version = 99", 1), covey.Invalid, "use the program version that made it"},
		{"no node id", strings.Replace(whole, "00000000000000a1", "a node", 1), covey.Corrupt, "restore it from a copy"},
		{"no shards", strings.Replace(whole, "shards = 4", "shards = 0", 1), covey.Corrupt, "restore it from a copy"},
		{"too many shards", strings.Replace(whole, "shards = 4", "shards = 4000000000", 1), covey.Corrupt, "restore it from a copy"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			writeFile(t, tt.content, dir, "node.toml")
			for _, open := range []func() (*folder, error){
				func() (*folder, error) { return openFolder(durable.OS(), dir) },
				func() (*folder, error) { return openOldFolder(durable.OS(), dir) },
			} {
				_, err := open()
				if covey.KindOf(cmpErr(err)) != tt.kind || !strings.Contains(err.Error(), tt.say) {
					t.Errorf("got %v, want %v that says %q", err, tt.kind, tt.say)
				}
			}
			if b, err := os.ReadFile(filepath.Join(dir, "node.toml")); string(b) != tt.content {
				t.Errorf("the file was changed to %q, %v", b, err)
			}
		})
	}
	t.Run("whole", func(t *testing.T) {
		dir := t.TempDir()
		writeFile(t, whole, dir, "node.toml")
		f, err := openOldFolder(durable.OS(), dir)
		if err != nil {
			t.Fatal(err)
		}
		f.Close()
	})
}

// cmpErr keeps KindOf from a nil error, so that a test says what it got.
func cmpErr(err error) error {
	if err == nil {
		return errors.New("no error")
	}
	return err
}

func TestLogWithoutIdentityIsRefused(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "log"), 0o700); err != nil {
		t.Fatal(err)
	}
	_, err := Start(t.Context(), onlySMTP(config(dir)))
	if !errors.Is(err, covey.Corrupt) || !strings.Contains(err.Error(), "restore the file from a copy") {
		t.Errorf("start: got %v", err)
	}
	if _, err := Check(t.Context(), config(dir)); !errors.Is(err, covey.Corrupt) {
		t.Errorf("check: got %v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, "node.toml")); err == nil {
		t.Error("the folder got a new identity")
	}
}

func TestOldFolderIsNotMade(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "none")
	if _, err := openOldFolder(durable.OS(), dir); !errors.Is(err, covey.NotFound) {
		t.Errorf("got %v, want NotFound", err)
	}
	if _, err := os.Stat(dir); err == nil {
		t.Error("the folder was made")
	}
}

func TestFolderOfAnotherCluster(t *testing.T) {
	cfg := onlySMTP(config(t.TempDir()))
	n := run(t, cfg)
	if err := n.Stop(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(cfg.Node.Data, "node.toml")
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	other := strings.Replace(string(b), n.folder.self.Cluster, "00112233445566778899aabbccddeeff", 1)
	writeFile(t, other, path)
	if _, err := Start(t.Context(), cfg); !errors.Is(err, covey.Corrupt) || !strings.Contains(err.Error(), "another cluster") {
		t.Errorf("got %v, want Corrupt", err)
	}
	writeFile(t, strings.Replace(string(b), n.folder.self.Cluster, "xyz", 1), path)
	if _, err := Start(t.Context(), cfg); !errors.Is(err, covey.Corrupt) {
		t.Errorf("bad cluster id: got %v, want Corrupt", err)
	}
}

// FuzzIdentity reads any octets as node.toml.
func FuzzIdentity(f *testing.F) {
	f.Add([]byte("version = 1\nnode = \"00000000000000a1\"\ncluster = \"00112233445566778899aabbccddeeff\"\nshards = 4\nboot = 1\n"))
	f.Add([]byte("version = 1\nshards = -1\nboot = 18446744073709551615\n"))
	f.Add([]byte("version = 1\nnode = \"ffffffffffffffff\"\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		dir := t.TempDir()
		writeFile(t, string(b), dir, "node.toml")
		opened, err := openOldFolder(durable.OS(), dir)
		if err != nil {
			return
		}
		defer opened.Close()
		if opened.id == 0 || opened.self.Cluster != "" && opened.self.Shards < 1 || opened.self.Shards > maxShards {
			t.Errorf("%q is taken for node %s with %d shards", b, opened.id, opened.self.Shards)
		}
	})
}
