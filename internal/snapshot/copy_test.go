package snapshot

import (
	"bytes"
	"errors"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/internal/durable"
	"github.com/covey-mail/covey/internal/durable/durabletest"
)

// A gate is a file whose bytes are let through step by step.
type gate struct {
	data []byte
	let  chan struct{}
}

func (g gate) ReadAt(p []byte, off int64) (int, error) {
	<-g.let
	return copy(p, g.data[off:]), nil
}

func TestFileCopy(t *testing.T) {
	disk := durabletest.NewDisk()
	data := noise(3*copyStep + 100)
	g := gate{data, make(chan struct{})}
	c, err := StartCopy(disk, g, int64(len(data)), "/a.copy1")
	if err != nil {
		t.Fatal(err)
	}
	g.let <- struct{}{}
	p := make([]byte, 1000)
	if n, err := c.ReadAt(p, copyStep-1000); n != 1000 || err != nil || !bytes.Equal(p, data[copyStep-1000:copyStep]) {
		t.Errorf("read %d octets while the rest was not there, error %v", n, err)
	}
	if !c.Copying() {
		t.Error("it is said to be done")
	}
	read := make(chan error)
	go func() {
		_, err := c.ReadAt(make([]byte, 50), 3*copyStep)
		read <- err
	}()
	for range 3 {
		g.let <- struct{}{}
	}
	if err := <-read; err != nil {
		t.Errorf("read of bytes that were yet to come: %v", err)
	}
	if sum, err := c.Sum(); err != nil || sum != crc32.Checksum(data, castagnoli) {
		t.Errorf("sum %x, error %v", sum, err)
	}
	c.Stop() // too late to matter
	if n, err := c.ReadAt(p, int64(len(data))-10); n != 10 || err != io.EOF {
		t.Errorf("read %d octets at the end, error %v", n, err)
	}
	if got, err := durable.ReadFile(disk, c.Name(), 1<<30); err != nil || !bytes.Equal(got, data) {
		t.Errorf("the copy has %d octets, error %v", len(got), err)
	}
	for range 2 {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
	if _, err := c.ReadAt(p, 0); !errors.Is(err, covey.Unavailable) {
		t.Errorf("read after Close: %v", err)
	}
	if _, err := disk.Stat("/a.copy1"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the file is still there: %v", err)
	}
}

func TestFileCopyStopped(t *testing.T) {
	disk := durabletest.NewDisk()
	g := gate{noise(2 * copyStep), make(chan struct{})}
	c, err := StartCopy(disk, g, int64(len(g.data)), "/a.copy1")
	if err != nil {
		t.Fatal(err)
	}
	g.let <- struct{}{}
	if _, err := c.ReadAt(make([]byte, 10), 0); err != nil {
		t.Fatal(err)
	}
	close(g.let)
	c.Stop()
	if c.Copying() {
		t.Error("it goes on")
	}
	if _, err := c.Sum(); c.have < c.size && !errors.Is(err, covey.Unavailable) {
		t.Errorf("sum of a copy that was ended: %v", err)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}

func TestFileCopyFaults(t *testing.T) {
	for _, tt := range []struct {
		name  string
		spoil func(*durabletest.Disk)
		size  int64
		kind  covey.Kind
	}{
		{"full disk", func(d *durabletest.Disk) { d.SetFree(copyStep) }, 2 * copyStep, covey.DiskFull},
		{"fault of the disk", func(d *durabletest.Disk) {
			d.Inject(durabletest.Fault{Op: durabletest.Write, Err: syscall.EIO})
		}, 2 * copyStep, covey.Internal},
		{"fsync fails", func(d *durabletest.Disk) {
			d.Inject(durabletest.Fault{Op: durabletest.Sync, Err: syscall.EIO})
		}, copySync + copyStep, covey.Internal},
		{"file is too short", func(*durabletest.Disk) {}, copySync + 2*copyStep, covey.Internal},
	} {
		t.Run(tt.name, func(t *testing.T) {
			disk := durabletest.NewDisk()
			tt.spoil(disk)
			c, err := StartCopy(disk, bytes.NewReader(make([]byte, copySync+copyStep)), tt.size, "/a.copy1")
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if _, err := c.Sum(); err == nil || covey.KindOf(err) != tt.kind {
				t.Errorf("error %v, want kind %q", err, tt.kind)
			}
			if _, err := c.ReadAt(make([]byte, 1), tt.size-1); err == nil {
				t.Error("bytes that are not there can be read")
			}
		})
	}
}

// A copy does not begin to take the room that mail needs.
func TestFileCopyLeavesRoom(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.copy1")
	free, err := durable.Free(filepath.Dir(path))
	if err != nil {
		t.Skip(err)
	}
	allocated := false
	w := &durabletest.Watched{FS: durable.OS(), Before: func(op durabletest.Op, _ string) {
		allocated = allocated || op == durabletest.Allocate
	}}
	c, err := StartCopy(w, bytes.NewReader(nil), free+1, path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Sum(); !errors.Is(err, covey.DiskFull) || allocated {
		t.Errorf("error %v, begun: %v", err, allocated)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}

// TestInstallCrash cuts the power at each operation of an install: what Tidy then
// shows is the old database with its log, or the new one without, and the new one
// once Commit has returned.
func TestInstallCrash(t *testing.T) {
	write := func(disk *durabletest.Disk, name, text string) {
		if err := durable.WriteFile(disk, "/s/"+name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	read := func(disk *durabletest.Disk, name string) string {
		b, err := durable.ReadFile(disk, "/s/"+name, 100)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
		return string(b)
	}
	const path = "/s/a.db"
	for stop := 0; ; stop++ {
		done := false
		for seed := range uint64(60) {
			disk := durabletest.NewDisk()
			if err := disk.MkdirAll("/s", 0o700); err != nil {
				t.Fatal(err)
			}
			write(disk, "a.db", "old")
			write(disk, "a.db-wal", "log of old")
			write(disk, "a.db-shm", "index of old")
			write(disk, "a.db.restore", "new")
			disk.StopAfter(stop)
			committed := Commit(disk, path) == nil
			if committed {
				done = Finish(disk, path) == nil
			}
			disk.Crash(seed)
			// The start after the crash is cut off as well, some of the time.
			disk.StopAfter(int(seed % 8))
			again := Tidy(disk, path)
			disk.Crash(seed + 1)
			if err := Tidy(disk, path); err != nil {
				t.Fatalf("stop %d seed %d: %v", stop, seed, err)
			}
			switch db, wal := read(disk, "a.db"), read(disk, "a.db-wal"); {
			case db == "new" && wal == "" && read(disk, "a.db-shm") == "":
			case db == "old" && wal == "log of old" && !committed:
			default:
				t.Fatalf("stop %d seed %d: database %q with log %q; committed %v, first start: %v", stop, seed, db, wal, committed, again)
			}
			list, err := disk.ReadDir("/s")
			if err != nil || len(list) > 3 {
				t.Fatalf("stop %d seed %d: left are %v, %v", stop, seed, list, err)
			}
		}
		if done {
			if stop < 8 {
				t.Errorf("only %d operations can be cut off: two renames, three removals and three syncs were expected", stop)
			}
			return
		}
	}
}

func TestTidy(t *testing.T) {
	disk := durabletest.NewDisk()
	for _, name := range []string{
		"/a.db", "/a.db-wal", "/a.db.copy1", "/a.db.copy12", "/a.db.restore", "/a.db.restore-wal", "/a.db2", "/b.db.restore",
	} {
		if err := durable.WriteFile(disk, name, []byte(name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := Tidy(disk, "/a.db"); err != nil {
		t.Fatal(err)
	}
	list, err := disk.ReadDir("/")
	if err != nil {
		t.Fatal(err)
	}
	var left []string
	for _, f := range list {
		left = append(left, f.Name())
	}
	if want := []string{"a.db", "a.db-wal", "a.db2", "b.db.restore"}; !slices.Equal(left, want) {
		t.Errorf("left are %v, want %v", left, want)
	}
	if err := Tidy(disk, "/nowhere/a.db"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("without a folder: %v", err)
	}
	if err := DropStaged(disk, "/b.db"); err != nil {
		t.Error(err)
	}
	if _, err := disk.Stat("/b.db.restore"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("what was staged is still there: %v", err)
	}
	// A folder that cannot be read is no reason to remove a write-ahead log.
	disk.Inject(durabletest.Fault{Op: durabletest.Remove, Err: syscall.EIO})
	if err := Finish(disk, "/a.db"); err != nil {
		t.Error(err)
	}
}
