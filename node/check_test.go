package node

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/covey-mail/covey/node/admin"
	"github.com/covey-mail/covey/storage/seglog"
)

// flip changes a byte of the log wherever the text is.
func flip(t *testing.T, n *Node, text string) {
	t.Helper()
	files, err := filepath.Glob(n.folder.path("log", "*.log"))
	if err != nil {
		t.Fatal(err)
	}
	found := false
	for _, name := range files {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		f, err := os.OpenFile(name, os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		for at := 0; ; at++ {
			i := bytes.Index(b[at:], []byte(text))
			if i < 0 {
				break
			}
			found, at = true, at+i
			if _, err := f.WriteAt([]byte{b[at] ^ 1}, int64(at)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if !found {
		t.Fatalf("%q is in none of %v", text, files)
	}
}

func TestCheck(t *testing.T) {
	cfg := config(t.TempDir())
	n := withUsers(t, cfg)
	send(t, n, "one")
	send(t, n, "two")
	clean := func(what string, res admin.CheckResult) {
		t.Helper()
		if len(res.Problems) != 0 || res.Shards != 2 || res.LiveBytes == 0 {
			t.Errorf("%s: %+v, want two shards with bytes and no problem", what, res)
		}
	}
	found := func(what, want string, res admin.CheckResult) {
		t.Helper()
		if len(res.Problems) == 0 || !strings.Contains(strings.Join(res.Problems, "\n"), want) {
			t.Errorf("%s: %q, want a problem with %q", what, res.Problems, want)
		}
	}
	offline := func() admin.CheckResult {
		t.Helper()
		res, err := Check(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		return res
	}
	running := func() admin.CheckResult { return call[admin.CheckResult](t, n, admin.NodeCheck, admin.Empty{}) }

	clean("running", running())
	if _, err := Check(t.Context(), cfg); !errors.Is(err, ErrLocked) {
		t.Errorf("Check beside a node: got %v, want ErrLocked", err)
	}
	flip(t, n, "body of one")
	found("running, flipped byte", "shard ", running())
	if err := n.Stop(); err != nil {
		t.Fatal(err)
	}
	found("at rest, flipped byte", "log: ", offline())
	flip(t, n, "cody of one") // back: 'b'^1 is 'c'
	clean("at rest, mended", offline())

	for name, where := range map[string]string{n.folder.path("directory.db"): "directory: ", n.folder.shardPath(2): "shard 2: "} {
		saved, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		writeFile(t, strings.Repeat("not a database ", 1000), name)
		found("damaged database", where, offline())
		if _, err := Start(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("start on a damaged database: got %v, want an error that names %s", err, name)
		}
		writeFile(t, string(saved), name)
	}
	clean("databases restored", offline())
}

// A database that is gone is damage, unless the log still has all of it.
func TestCheckMissesADatabase(t *testing.T) {
	cfg := config(t.TempDir())
	n := withUsers(t, cfg)
	send(t, n, "one")
	shard := call[admin.User](t, n, admin.UserShow, admin.Name{Name: "alice@example.org"}).Shard
	if err := n.Stop(); err != nil {
		t.Fatal(err)
	}
	path := n.folder.shardPath(shard)
	for _, suffix := range []string{"", "-wal"} {
		if err := os.Remove(path + suffix); err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
	}
	if res, err := Check(t.Context(), cfg); err != nil || len(res.Problems) != 0 {
		t.Errorf("the log has all: got %+v, %v; want no problem", res, err)
	}
	if _, err := os.Stat(path); err == nil {
		t.Error("the check made a database")
	}
	again := run(t, cfg)
	if got := messages(t, again); got != 1 {
		t.Errorf("%d messages after a start without the database, want 1", got)
	}

	log, err := seglog.Open(seglog.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	index, term := uint64(9), uint64(1)
	var b seglog.Batch
	b.Snapshot(shard, &raftpb.SnapshotMetadata{Index: &index, Term: &term, ConfState: &raftpb.ConfState{Voters: []uint64{1}}})
	if err := log.Write(&b, true); err != nil {
		t.Fatal(err)
	}
	c := checker{ctx: t.Context()}
	if c.present("shard", filepath.Join(t.TempDir(), "0001.db"), log.Group(shard)) || len(c.res.Problems) != 1 {
		t.Errorf("the log begins later: got %q, want one problem", c.res.Problems)
	}
}

// A log that lost records is damage though each record that is left is sound,
// and though no message was in them.
func TestCheckMissesRecords(t *testing.T) {
	cfg := config(t.TempDir())
	n := withUsers(t, cfg)
	if err := n.Stop(); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(n.folder.path("log", "*.log"))
	if err != nil || len(files) == 0 {
		t.Fatalf("log %v, error %v", files, err)
	}
	for _, name := range files {
		if err := os.Remove(name); err != nil {
			t.Fatal(err)
		}
	}
	res, err := Check(t.Context(), cfg)
	if err != nil || len(res.Problems) == 0 || !strings.Contains(res.Problems[0], "directory: ") {
		t.Errorf("without its log: got %+v, %v; want a problem of the directory", res, err)
	}
	if again, err := Start(t.Context(), cfg); err == nil {
		t.Error("a node starts without its log")
		again.Stop()
	}
}
