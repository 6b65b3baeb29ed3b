package node

import (
	"errors"
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/covey-mail/covey/internal/durable"
	"github.com/covey-mail/covey/node/admin"
)

// faultyFS is the real file system; the log's syncs fail when it is told so.
type faultyFS struct {
	durable.FS
	broken atomic.Bool
}

// Open implements durable.FS.
func (f *faultyFS) Open(name string, flag int, perm os.FileMode) (durable.File, error) {
	file, err := f.FS.Open(name, flag, perm)
	if err == nil && filepath.Base(filepath.Dir(name)) == "log" {
		file = faultyFile{file, f}
	}
	return file, err
}

type faultyFile struct {
	durable.File
	fs *faultyFS
}

// Sync implements durable.File.
func (f faultyFile) Sync() error {
	if f.fs.broken.Load() {
		return syscall.EIO
	}
	return f.File.Sync()
}

// F-17, F-16: after a failed fsync nothing is acknowledged, the node says that it
// failed, and Stop says why. What was acknowledged before is there again.
func TestF17_FailedSyncEndsTheNode(t *testing.T) {
	disk := &faultyFS{FS: durable.OS()}
	cfg := config(t.TempDir())
	n, err := StartOn(t.Context(), cfg, System{FS: disk, Free: durable.Free})
	if err != nil {
		t.Fatal(err)
	}
	addUsers(t, n)
	send(t, n, "acknowledged")
	disk.broken.Store(true)
	d := dial(t, n, "smtp")
	d.expect("220 ")
	d.say("EHLO client.example.net", "250 ", "MAIL FROM:<carol@example.net>", "250", "RCPT TO:<alice@example.org>", "250", "DATA", "354")
	d.say("Subject: lost\r\n\r\nx\r\n.", "4")
	select {
	case <-n.Failed():
	case <-time.After(10 * time.Second):
		t.Fatal("the node does not say that it failed")
	}
	if status, _ := get(t, n, "/readyz"); status != 503 {
		t.Errorf("/readyz of a failed node: %d, want 503", status)
	}
	// The engine has closed the states; what an operator asks gets an answer still.
	s := call[admin.Status](t, n, admin.NodeStatus, admin.Empty{})
	if s.Ready || s.Shards[1].Stopped == "" {
		t.Errorf("status says ready %v, shard 1 stopped %q", s.Ready, s.Shards[1].Stopped)
	}
	if res := call[admin.CheckResult](t, n, admin.NodeCheck, admin.Empty{}); len(res.Problems) == 0 {
		t.Error("a check of a stopped engine finds nothing wrong")
	}
	for _, op := range []string{admin.UserShow, admin.UserRemove} {
		if _, err := try[any](t, n, op, admin.Name{Name: "alice@example.org"}); err == nil {
			t.Errorf("%s on a stopped engine succeeds", op)
		}
	}
	if _, err := try[any](t, n, admin.UserList, admin.Page{}); err == nil {
		t.Error("user.list on a stopped engine succeeds")
	}
	disk.broken.Store(false) // the kernel forgets; the node must not
	if err := n.Stop(); !errors.Is(err, syscall.EIO) {
		t.Errorf("stop: got %v, want the reason", err)
	}

	n = run(t, cfg)
	if got := messages(t, n); got < 1 {
		t.Errorf("%d messages after a restart, want what was acknowledged", got)
	}
}

// A start on a disk that fails ends, with the reason and with all closed.
func TestStartOnAFailingDisk(t *testing.T) {
	disk := &faultyFS{FS: durable.OS()}
	disk.broken.Store(true)
	_, err := StartOn(t.Context(), config(t.TempDir()), System{FS: disk, Free: durable.Free})
	if !errors.Is(err, syscall.EIO) {
		t.Errorf("got %v, want the disk's error", err)
	}
	_, err = StartOn(t.Context(), config(t.TempDir()), System{FS: durable.OS(), Free: func(string) (int64, error) { return 0, syscall.EIO }})
	if !errors.Is(err, syscall.EIO) {
		t.Errorf("without free space: got %v, want the disk's error", err)
	}
}
