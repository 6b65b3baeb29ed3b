package durable

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// datasync is fdatasync: it skips the journal commit that only the time of
// modification would need. The size counts as data.
func datasync(f *os.File) error {
	return control(f, "fdatasync", func(fd int) error { return unix.Fdatasync(fd) })
}

func allocate(f *os.File, from, to int64) error {
	err := control(f, "fallocate", func(fd int) error { return unix.Fallocate(fd, 0, from, to-from) })
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS) {
		return f.Truncate(to)
	}
	if err != nil {
		// A file system may have taken part of the range before it was full.
		return errors.Join(err, f.Truncate(from))
	}
	return nil
}

// control runs a system call on f's descriptor, again for as long as a signal
// interrupts it.
func control(f *os.File, name string, call func(fd int) error) error {
	conn, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	err = conn.Control(func(fd uintptr) {
		for {
			if inner = call(int(fd)); !errors.Is(inner, unix.EINTR) {
				return
			}
		}
	})
	if err != nil { // the file is closed; the error is one that nobody can test for
		return &os.PathError{Op: name, Path: f.Name(), Err: os.ErrClosed}
	}
	if inner != nil {
		return &os.PathError{Op: name, Path: f.Name(), Err: inner}
	}
	return nil
}
