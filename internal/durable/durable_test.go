package durable_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/internal/durable"
	"github.com/covey-mail/covey/internal/durable/durabletest"
)

func TestWriteFile(t *testing.T) {
	dir := t.TempDir()
	for _, tt := range []struct {
		name string
		fs   durable.FS
		dir  string
	}{{"os", durable.OS(), dir}, {"memory", durabletest.NewDisk(), "/"}} {
		t.Run(tt.name, func(t *testing.T) {
			name := filepath.Join(tt.dir, "a")
			for _, want := range []string{"one", "a longer two", ""} {
				if err := durable.WriteFile(tt.fs, name, []byte(want), 0o600); err != nil {
					t.Fatal(err)
				}
				got, err := durable.ReadFile(tt.fs, name, 100)
				if err != nil || string(got) != want {
					t.Errorf("read %q, %v, want %q", got, err, want)
				}
			}
			list, err := tt.fs.ReadDir(tt.dir)
			if err != nil || len(list) != 1 || list[0].Name() != "a" {
				t.Errorf("folder has %v, %v; want a alone", list, err)
			}
		})
	}
}

func TestReadFileLimit(t *testing.T) {
	disk := durabletest.NewDisk()
	if err := durable.WriteFile(disk, "/a", make([]byte, 11), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := durable.ReadFile(disk, "/a", 10); !errors.Is(err, covey.TooBig) {
		t.Errorf("11 octets with a limit of 10: %v, want covey.TooBig", err)
	}
	if _, err := durable.ReadFile(disk, "/b", 10); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file that is not there: %v", err)
	}
}

// A crash at any operation leaves the old content or the new, and the new once
// WriteFile has returned.
func TestWriteFileCrash(t *testing.T) {
	before, after := bytes.Repeat([]byte("old"), 1000), bytes.Repeat([]byte("new!"), 900)
	for stop := 0; ; stop++ {
		var done bool
		for seed := uint64(0); seed < 40; seed++ {
			disk := durabletest.NewDisk()
			if err := durable.WriteFile(disk, "/a", before, 0o600); err != nil {
				t.Fatal(err)
			}
			disk.StopAfter(stop)
			err := durable.WriteFile(disk, "/a", after, 0o600)
			done = err == nil
			disk.Crash(seed)
			got, rerr := durable.ReadFile(disk, "/a", 1<<20)
			if rerr != nil {
				t.Fatalf("stop %d seed %d: %v", stop, seed, rerr)
			}
			if !bytes.Equal(got, after) && (done || !bytes.Equal(got, before)) {
				t.Fatalf("stop %d seed %d: neither old nor new content, or old after success", stop, seed)
			}
		}
		if done {
			if stop < 4 {
				t.Errorf("only %d operations can fail: temp, sync, rename and sync of the folder were expected", stop)
			}
			return
		}
	}
}

func TestWriteFileFaults(t *testing.T) {
	for _, op := range []durabletest.Op{durabletest.Open, durabletest.Write, durabletest.Sync, durabletest.Rename, durabletest.SyncDir} {
		t.Run(fmt.Sprint(op), func(t *testing.T) {
			disk := durabletest.NewDisk()
			if err := durable.WriteFile(disk, "/a", []byte("old"), 0o600); err != nil {
				t.Fatal(err)
			}
			disk.Inject(durabletest.Fault{Op: op, Err: syscall.EIO})
			if err := durable.WriteFile(disk, "/a", []byte("new"), 0o600); !errors.Is(err, syscall.EIO) {
				t.Fatalf("error %v, want EIO", err)
			}
			disk.Crash(0)
			got, err := durable.ReadFile(disk, "/a", 100)
			if err != nil || string(got) != "old" {
				t.Errorf("after the fault and a crash: %q, %v", got, err)
			}
		})
	}
}

func TestIsFull(t *testing.T) {
	for _, tt := range []struct {
		err  error
		want bool
	}{
		{nil, false}, {syscall.EIO, false}, {io.EOF, false}, {io.ErrShortWrite, true},
		{&fs.PathError{Err: syscall.ENOSPC}, true}, {fmt.Errorf("write: %w", syscall.EDQUOT), true},
	} {
		if got := durable.IsFull(tt.err); got != tt.want {
			t.Errorf("IsFull(%v) = %t", tt.err, got)
		}
	}
}

func TestOSFile(t *testing.T) {
	name := filepath.Join(t.TempDir(), "x", "y", "f")
	if err := durable.OS().MkdirAll(filepath.Dir(name), 0o700); err != nil {
		t.Fatal(err)
	}
	f, err := durable.OS().Open(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct {
		what string
		do   func() error
		want string
	}{
		{"allocate", func() error { return f.Allocate(4) }, "\x00\x00\x00\x00"},
		{"write", func() error { _, err := f.WriteAt([]byte("abc"), 2); return err }, "\x00\x00abc"},
		{"allocate less", func() error { return f.Allocate(1) }, "\x00\x00abc"},
		{"sync", f.Sync, "\x00\x00abc"},
		{"truncate", func() error { return f.Truncate(3) }, "\x00\x00a"},
		{"allocate more", func() error { return f.Allocate(5) }, "\x00\x00a\x00\x00"},
	} {
		if err := step.do(); err != nil {
			t.Fatalf("%s: %v", step.what, err)
		}
		got, err := durable.ReadFile(durable.OS(), name, 100)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(step.want, string(got)); diff != "" {
			t.Errorf("%s: %s", step.what, diff)
		}
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
	if err := f.Sync(); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("sync after close: %v", err)
	}
}

func TestReserve(t *testing.T) {
	const size = 1 << 20
	disk := durabletest.NewDisk()
	disk.SetFree(size + 10)
	r := durable.NewReserve(disk, "/reserve", size)
	if err := r.Hold(); err != nil || !r.Held() {
		t.Fatalf("hold: %v", err)
	}
	if err := durable.WriteFile(disk, "/a", make([]byte, 100), 0o600); !durable.IsFull(err) {
		t.Errorf("write beside the reserve: %v, want a full disk", err)
	}
	if err := r.Release(); err != nil || r.Held() {
		t.Fatalf("release: %v", err)
	}
	if err := durable.WriteFile(disk, "/a", make([]byte, 100), 0o600); err != nil {
		t.Errorf("write after the release: %v", err)
	}
	if err := r.Hold(); !errors.Is(err, covey.DiskFull) || r.Held() {
		t.Errorf("hold without room: %v, want covey.DiskFull", err)
	}
	if _, err := disk.Stat("/reserve"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a reserve that could not be made is still there: %v", err)
	}
	if err := disk.Remove("/a"); err != nil {
		t.Fatal(err)
	}
	if err := r.Hold(); err != nil {
		t.Error(err)
	}
}

func TestReserveTakesDisk(t *testing.T) {
	name := filepath.Join(t.TempDir(), "reserve")
	if err := durable.NewReserve(durable.OS(), name, 1<<20).Hold(); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(name)
	if err != nil {
		t.Fatal(err)
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok || info.Size() != 1<<20 {
		t.Fatalf("reserve of %d bytes, %T", info.Size(), info.Sys())
	}
	if st.Blocks*512 < 1<<20 {
		t.Skipf("this file system does not allocate: %d blocks", st.Blocks)
	}
	if n, err := durable.Free(filepath.Dir(name)); err != nil || n <= 0 {
		t.Errorf("free space %d, %v", n, err)
	}
}
