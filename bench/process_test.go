package bench

import (
	"errors"
	"os"
	"testing"
	"testing/fstest"
	"time"

	"github.com/covey-mail/covey"
)

func stat(parent, utime, stime, cutime, cstime, rss string) *fstest.MapFile {
	return &fstest.MapFile{Data: []byte("9 (a) b (c) S " + parent + " 1 1 0 -1 4194560 1 2 3 4 " + utime + " " + stime + " " + cutime + " " + cstime +
		" 20 0 4 0 100 1000000 " + rss + " 184 1 1")}
}

func written(n string) *fstest.MapFile {
	return &fstest.MapFile{Data: []byte("rchar: 5\nwrite_bytes: " + n + "\ncancelled_write_bytes: 1\n")}
}

func TestUsageOfAProcessAndItsChildren(t *testing.T) {
	proc := fstest.MapFS{
		"1/stat":    stat("0", "1000", "0", "0", "0", "1"),
		"10/stat":   stat("1", "1", "2", "3", "4", "10"),
		"10/io":     written("100"),
		"11/stat":   stat("10", "5", "5", "0", "0", "20"),
		"11/io":     written("23"),
		"12/stat":   stat("11", "7", "0", "0", "0", "30"),
		"12/io":     written("0"),
		"13/stat":   stat("1", "900", "0", "0", "0", "1"),
		"14/stat":   {Data: []byte("garbage")},
		"self/stat": {Data: []byte("no number")},
	}
	got, err := readUsage(proc, 10)
	want := usage{cpu: 270 * time.Millisecond, written: 123, resident: int64(60 * os.Getpagesize())}
	if err != nil || got != want {
		t.Errorf("got %+v, %v; want %+v", got, err, want)
	}
	delete(proc, "12/io")
	if got, err = readUsage(proc, 10); err != nil || got.written != -1 {
		t.Errorf("with an io file that may not be read: %+v, %v; want -1 written", got, err)
	}
	if _, err = readUsage(proc, 99); !errors.Is(err, covey.NotFound) {
		t.Errorf("a process that is not there: %v, want NotFound", err)
	}
}

func TestOwnUsage(t *testing.T) {
	if _, err := os.Stat("/proc/self/stat"); err != nil {
		t.Skip("no /proc")
	}
	got, err := readUsage(procFS(), os.Getpid())
	if err != nil || got.resident < 1<<20 {
		t.Errorf("own usage %+v, %v; want some memory", got, err)
	}
}

func TestLimitedByTheGenerator(t *testing.T) {
	for _, tt := range []struct {
		r    Result
		want bool
	}{
		{Result{Rate: 81, Ceiling: 100}, true},
		{Result{Rate: 79, Ceiling: 100, Generator: 0.5}, false},
		{Result{Rate: 1000}, false},
		{Result{Rate: 10, Ceiling: 100, Generator: 0.95}, true},
	} {
		if got := limited(&tt.r); (got != "") != tt.want {
			t.Errorf("%+v: limited %q, want %v", tt.r, got, tt.want)
		}
	}
}

func TestServerUsePerOperation(t *testing.T) {
	got := serverUse(usage{time.Second, 1000, 500}, usage{3 * time.Second, 5000, 700}, 100, 4*time.Second)
	want := ServerUse{CPUMicros: 20_000, CPUs: 0.5, Written: 40, Resident: 700, ResidentPerOp: 2}
	if *got != want {
		t.Errorf("got %+v, want %+v", *got, want)
	}
	if got := serverUse(usage{written: -1}, usage{written: 5}, 0, time.Second); got.Written != -1 {
		t.Errorf("written %v where it could not be read, want -1", got.Written)
	}
}
