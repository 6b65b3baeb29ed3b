package durabletest

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"
	"testing"

	"github.com/covey-mail/covey/internal/durable"
)

func create(t *testing.T, d *Disk, name string) durable.File {
	t.Helper()
	f, err := d.Open(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func write(t *testing.T, f durable.File, s string, off int64) {
	t.Helper()
	_, err := f.WriteAt([]byte(s), off)
	must(t, err)
}

func content(t *testing.T, d *Disk, name string) string {
	t.Helper()
	p, err := durable.ReadFile(d, name, 1<<20)
	if errors.Is(err, fs.ErrNotExist) {
		return "(none)"
	}
	must(t, err)
	return string(p)
}

// outcomes crashes copies of the disk with many seeds and returns what a file
// held afterwards.
func outcomes(t *testing.T, d *Disk, name string) map[string]int {
	t.Helper()
	got := map[string]int{}
	for seed := range uint64(200) {
		c := d.Clone()
		c.Crash(seed)
		got[content(t, c, name)]++
	}
	return got
}

func wantOutcomes(t *testing.T, got map[string]int, want ...string) {
	t.Helper()
	for _, w := range want {
		if got[w] == 0 {
			t.Errorf("never seen: %.40q…", w)
		}
		delete(got, w)
	}
	for g, n := range got {
		t.Errorf("seen %d times, must not be: %.40q…", n, g)
	}
}

func TestCrashNames(t *testing.T) {
	d := NewDisk()
	f := create(t, d, "/a")
	write(t, f, "x", 0)
	must(t, f.Sync())
	wantOutcomes(t, outcomes(t, d, "/a"), "(none)", "x")
	must(t, d.SyncDir("/"))
	wantOutcomes(t, outcomes(t, d, "/a"), "x")

	g := create(t, d, "/b")
	write(t, g, "y", 0)
	must(t, g.Sync())
	must(t, d.Rename("/b", "/a"))
	wantOutcomes(t, outcomes(t, d, "/a"), "x", "y")
	must(t, d.SyncDir("/"))
	wantOutcomes(t, outcomes(t, d, "/a"), "y")
	wantOutcomes(t, outcomes(t, d, "/b"), "(none)")

	must(t, d.Remove("/a"))
	wantOutcomes(t, outcomes(t, d, "/a"), "y", "(none)")
	must(t, d.SyncDir("/"))
	wantOutcomes(t, outcomes(t, d, "/a"), "(none)")
}

func TestCrashData(t *testing.T) {
	d := NewDisk()
	f := create(t, d, "/a")
	write(t, f, "aa", 0)
	must(t, f.Sync())
	must(t, d.SyncDir("/"))
	write(t, f, "bb", 0)
	write(t, f, "c", 0)
	// Sectors are whole, and an overwritten version may be what stayed.
	wantOutcomes(t, outcomes(t, d, "/a"), "aa", "bb", "cb")
	must(t, f.Sync())
	wantOutcomes(t, outcomes(t, d, "/a"), "cb")
	must(t, f.Truncate(1))
	wantOutcomes(t, outcomes(t, d, "/a"), "cb", "c", "c\x00")
}

func TestCrashTears(t *testing.T) {
	d := NewDisk()
	f := create(t, d, "/a")
	must(t, f.Allocate(3*Sector))
	must(t, f.Sync())
	must(t, d.SyncDir("/"))
	write(t, f, string(bytes.Repeat([]byte{'x'}, 3*Sector)), 0)
	var want []string
	for bits := range 8 {
		p := make([]byte, 3*Sector)
		for i := range p {
			if bits>>(i/Sector)&1 == 1 {
				p[i] = 'x'
			}
		}
		want = append(want, string(p))
	}
	wantOutcomes(t, outcomes(t, d, "/a"), want...)
	c := d.Clone()
	c.Crash(0)
	if got := content(t, c, "/a"); got != want[0] {
		t.Error("seed 0 does not lose all")
	}
	d.Crash(1)
	if got := content(t, d, "/a"); got != want[7] {
		t.Error("seed 1 does not keep all")
	}
	if _, err := f.WriteAt([]byte("z"), 0); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("a file opened before the crash: %v", err)
	}
}

func TestStopAfter(t *testing.T) {
	steps := func(d *Disk) error {
		f, err := d.Open("/a", os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return err
		}
		if _, err := f.WriteAt([]byte("x"), 0); err != nil {
			return err
		}
		if err := f.Sync(); err != nil {
			return err
		}
		return d.SyncDir("/")
	}
	for stop := range 4 {
		t.Run(fmt.Sprint(stop), func(t *testing.T) {
			d := NewDisk()
			d.StopAfter(stop)
			if err := steps(d); !errors.Is(err, ErrPower) {
				t.Fatalf("error %v, want a power cut", err)
			}
			for name, err := range map[string]error{"mkdir": d.MkdirAll("/m", 0o700), "remove": d.Remove("/a"), "sync": d.SyncDir("/")} {
				if !errors.Is(err, ErrPower) {
					t.Errorf("%s without power: %v", name, err)
				}
			}
			d.Crash(0)
			if got := content(t, d, "/a"); got != "(none)" {
				t.Errorf("after the crash: %q", got)
			}
			must(t, steps(d))
		})
	}
}

// What a failed Sync covered is never written, though reading shows it.
func TestFailedSync(t *testing.T) {
	d := NewDisk()
	f := create(t, d, "/a")
	must(t, d.SyncDir("/"))
	write(t, f, "aaaa", 0)
	d.Inject(Fault{Op: Sync, Err: syscall.EIO})
	if err := f.Sync(); !errors.Is(err, syscall.EIO) {
		t.Fatalf("sync: %v", err)
	}
	write(t, f, "b", 0)
	must(t, f.Sync())
	if got := content(t, d, "/a"); got != "baaa" {
		t.Errorf("before the crash: %q", got)
	}
	wantOutcomes(t, outcomes(t, d, "/a"), "b")
}

func TestFaults(t *testing.T) {
	d := NewDisk()
	f, g := create(t, d, "/a"), create(t, d, "/b")
	d.Inject(Fault{Op: Write, Match: "a", After: 1, Times: 2, Err: syscall.EIO, Short: 2})
	for i, want := range []error{nil, syscall.EIO, syscall.EIO, nil} {
		write(t, g, "fine", 0)
		n, err := f.WriteAt([]byte("12345"), 0)
		if !errors.Is(err, want) || (want != nil && n != 2) {
			t.Errorf("write %d: %d, %v; want %v", i, n, err, want)
		}
	}
	d.Inject(Fault{Op: Read, Times: -1, Err: syscall.EIO})
	for range 3 {
		if _, err := f.ReadAt(make([]byte, 1), 0); !errors.Is(err, syscall.EIO) {
			t.Errorf("read: %v", err)
		}
	}
	d.Heal()
	if got := content(t, d, "/a"); got != "12345" {
		t.Errorf("healed: %q", got)
	}
}

func TestFree(t *testing.T) {
	d := NewDisk()
	d.SetFree(10)
	f := create(t, d, "/a")
	if n, err := f.WriteAt(make([]byte, 12), 0); n != 10 || !durable.IsFull(err) {
		t.Errorf("write of 12 with room for 10: %d, %v", n, err)
	}
	write(t, f, "0123456789", 0) // within the file
	must(t, f.Truncate(4))
	if err := f.Allocate(11); !durable.IsFull(err) {
		t.Errorf("allocate: %v", err)
	}
	must(t, f.Allocate(10))
	must(t, d.Remove("/a"))
	g := create(t, d, "/b")
	must(t, g.Allocate(10))
}

func TestFlip(t *testing.T) {
	d := NewDisk()
	f := create(t, d, "/a")
	write(t, f, "abc", 0)
	must(t, f.Sync())
	must(t, d.SyncDir("/"))
	d.Flip("/a", 1, 'b'^'X')
	if got := content(t, d, "/a"); got != "aXc" {
		t.Errorf("got %q", got)
	}
	wantOutcomes(t, outcomes(t, d, "/a"), "aXc")
}

func TestReadDir(t *testing.T) {
	d := NewDisk()
	must(t, d.MkdirAll("/x/y", 0o700))
	create(t, d, "/x/b")
	create(t, d, "/x/a")
	list, err := d.ReadDir("/x")
	must(t, err)
	var got []string
	for _, e := range list {
		got = append(got, fmt.Sprint(e.Name(), e.IsDir()))
	}
	if want := "[afalse bfalse ytrue]"; fmt.Sprint(got) != want {
		t.Errorf("got %v, want %s", got, want)
	}
	for _, name := range []string{"/x/c", "/z/a"} {
		if _, err := d.Open(name, os.O_RDONLY, 0); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("open %s: %v", name, err)
		}
	}
	if _, err := d.Open("/z/a", os.O_RDWR|os.O_CREATE, 0o600); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("create in a folder that is not there: %v", err)
	}
	if _, err := d.Open("/x/a", os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600); !errors.Is(err, fs.ErrExist) {
		t.Errorf("create what is there: %v", err)
	}
}
