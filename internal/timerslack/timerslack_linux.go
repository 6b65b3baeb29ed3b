package timerslack

import (
	"fmt"
	"os"
	"runtime"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// started tells the program started anew that it was, should the slack get lost on
// the way.
const started = "_COVEY_TIMERSLACK"

func widen(env []string) error {
	if slices.Contains(env, started+"=1") {
		return os.Unsetenv(started)
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if was, err := get(); err != nil || was != Usual {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	if err := set(Wide); err != nil {
		return err
	}
	err = syscall.Exec(self, os.Args, append(slices.Clip(env), started+"=1"))
	_ = set(Usual) // as it was
	return fmt.Errorf("start %s anew: %w", self, err)
}

func spare(start func() error) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	was, err := get()
	if err != nil {
		return start() // there is no slack here
	}
	if err := set(Usual); err != nil {
		return err
	}
	err = start()
	_ = set(was) // what it was cannot be refused
	return err
}

// get returns the slack of the calling thread.
func get() (time.Duration, error) {
	ns, err := unix.PrctlRetInt(unix.PR_GET_TIMERSLACK, 0, 0, 0, 0)
	if err != nil {
		return 0, fmt.Errorf("get timer slack: %w", err)
	}
	return time.Duration(ns), nil
}

// set sets the slack of the calling thread, which those it starts inherit.
func set(d time.Duration) error {
	if err := unix.Prctl(unix.PR_SET_TIMERSLACK, uintptr(d), 0, 0, 0); err != nil {
		return fmt.Errorf("set timer slack: %w", err)
	}
	return nil
}
