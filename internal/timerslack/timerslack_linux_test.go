package timerslack

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
)

// role has the test binary be a program of its own.
const role = "TIMERSLACK_TEST"

func TestMain(m *testing.M) {
	switch os.Getenv(role) {
	case "widen":
		err := Widen(os.Environ())
		fmt.Println(os.Getpid(), err, os.Getenv(started) != "", strings.Join(os.Args[1:], " "), slacks())
	case "spared":
		fmt.Println(slacks())
	default:
		os.Exit(m.Run())
	}
}

// slacks returns the slack of each thread of the process.
func slacks() []time.Duration {
	tasks, _ := filepath.Glob("/proc/self/task/*")
	var all []time.Duration
	for _, t := range tasks {
		text, _ := os.ReadFile(filepath.Join("/proc", filepath.Base(t), "timerslack_ns"))
		d, _ := time.ParseDuration(strings.TrimSpace(string(text)) + "ns")
		all = append(all, d)
	}
	return all
}

// run starts the test binary in a role and returns what it printed and its process id.
func run(t *testing.T, as string, start func(*exec.Cmd) error, args ...string) (string, int) {
	t.Helper()
	if len(slacks()) == 0 || slacks()[0] == 0 {
		t.Skip("the slack of threads cannot be seen here")
	}
	cmd := exec.Command(os.Args[0], args...)
	cmd.Env = append(os.Environ(), role+"="+as)
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, os.Stderr
	if err := start(cmd); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(out.String()), cmd.Process.Pid
}

// every reports whether a list of slacks, as printed, has only d.
func every(list string, d time.Duration) bool {
	list = strings.Trim(list, "[]")
	return list != "" && strings.Trim(strings.ReplaceAll(list, d.String(), ""), " ") == ""
}

func TestWidenStartsTheProgramAnew(t *testing.T) {
	out, pid := run(t, "widen", func(c *exec.Cmd) error { return Spare(c.Start) }, "serve", "--data", "d")
	rest, ok := strings.CutPrefix(out, fmt.Sprintf("%d <nil> false serve --data d ", pid))
	if !ok || !every(rest, Wide) {
		t.Errorf("printed %q; want process %d, its arguments and slacks of %v", out, pid, Wide)
	}
}

func TestWidenLeavesWhatWasChosen(t *testing.T) {
	const chosen = 300 * time.Microsecond
	out, pid := run(t, "widen", func(c *exec.Cmd) error {
		return Spare(func() error {
			if err := set(chosen); err != nil {
				return err
			}
			return c.Start()
		})
	})
	rest, ok := strings.CutPrefix(out, fmt.Sprintf("%d <nil> false  ", pid))
	if !ok || !every(rest, chosen) {
		t.Errorf("printed %q; want slacks of %v", out, chosen)
	}
}

func TestSpareIsForTheProcessStarted(t *testing.T) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := set(Wide); err != nil {
		t.Skip(err)
	}
	defer func() { _ = set(Usual) }()
	out, _ := run(t, "spared", func(c *exec.Cmd) error { return Spare(c.Start) })
	if !every(out, Usual) {
		t.Errorf("printed %q, want slacks of %v", out, Usual)
	}
	if d, err := get(); err != nil || d != Wide {
		t.Errorf("left with %v (%v), want %v", d, err, Wide)
	}
}
