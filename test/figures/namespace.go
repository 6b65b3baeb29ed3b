package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"

	"golang.org/x/sys/unix"
)

// ownNetwork says, in the environment, that this process has a network namespace to
// itself, or that it shall do without.
const ownNetwork = "COVEY_FIGURES_NETWORK"

// isolated runs what args say in a process with a network namespace of its own, and
// reports whether it did. On the host's loopback each small packet also pays for the
// host's firewall and its connection tracking: a fifth of a POP3 session here, the
// same for every server, and another on each machine. It needs root.
func isolated(ctx context.Context, o options, args []string) (bool, error) {
	if os.Getenv(ownNetwork) != "" || os.Geteuid() != 0 {
		return false, nil
	}
	if err := fetch(ctx, o, args[0]); err != nil {
		return true, err
	}
	self, err := os.Executable()
	if err != nil {
		return false, err
	}
	cmd := exec.CommandContext(ctx, self, args...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.Env = append(os.Environ(), ownNetwork+"=alone")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	// In a process group of its own, so that an interrupt reaches it once: by Cancel.
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET, Setpgid: true, Pdeathsig: syscall.SIGTERM}
	if err := cmd.Start(); err != nil {
		fmt.Fprintf(os.Stderr, "no network namespace (%v): the host's firewall counts in\n", err)
		return false, nil
	}
	if cmd.Wait() != nil {
		return true, errSaid
	}
	return true, nil
}

// errSaid is an error that the process in the namespace has told.
var errSaid = errors.New("it failed")

// fetch gets what only the host's network can bring: modules, and smtp-sink.
func fetch(ctx context.Context, o options, name string) error {
	b, err := newBuild(o)
	if err != nil {
		return err
	}
	if name == "peers" {
		_, _, _ = findSMTPSink(ctx, o.prefix) // who needs it says what is wrong
	}
	return b.remove()
}

// openNetwork makes the loopback of a new namespace usable.
func openNetwork() error {
	if os.Getenv(ownNetwork) != "alone" {
		return nil
	}
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	lo.SetUint16(unix.IFF_UP)
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(s)
	if err := unix.IoctlIfreq(s, unix.SIOCSIFFLAGS, lo); err != nil {
		return fmt.Errorf("loopback of the network namespace: %w", err)
	}
	return nil
}

// network says over what servers and generator speak.
func network() string {
	if os.Getenv(ownNetwork) == "alone" {
		return "loopback of a network namespace"
	}
	return "loopback of the host"
}
