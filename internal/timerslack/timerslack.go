// Package timerslack lets the kernel wake a process less often, by letting timers be
// late: up to a millisecond where the system's default is 50 µs. Why a mail server
// wants that is in docs/decisions/020-timers-may-be-late.md. On other systems than
// Linux it does nothing.
package timerslack

import "time"

// Usual is what the kernel gives the first process, and with it all others unless
// somebody decides otherwise. Wide is what Widen makes of it.
const (
	Usual = 50 * time.Microsecond
	Wide  = time.Millisecond
)

// Widen lets all timers of the process be late by up to Wide. Threads have slacks of
// their own, and the thread that matters runs before any code of a program does, so
// Widen starts the program anew, under the same process id, with the same arguments
// and env, and does not return. It is called before anything else: what the process
// has begun is lost. It returns in the program started anew; where the slack is
// another than Usual, for then somebody has chosen it; and where the kernel refuses,
// with why, which costs nothing but speed.
func Widen(env []string) error { return widen(env) }

// Spare calls start, which starts a process from the calling thread as os/exec does,
// so that the process gets Usual, as if this one had it.
func Spare(start func() error) error { return spare(start) }
