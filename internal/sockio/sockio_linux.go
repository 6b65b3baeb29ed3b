//go:build !race

package sockio

import (
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"unsafe"
)

// A conn is a TCP connection with reads and writes of its own. What it has beyond
// those, as CloseWrite, is TCP's.
type conn struct {
	*net.TCPConn
	raw syscall.RawConn

	// Of the call under way; functions made once, for each call would make them anew.
	in, out   transfer
	read, put func(fd uintptr) bool
}

// A transfer is one read or write.
type transfer struct {
	p   []byte
	n   int
	err syscall.Errno
}

func wrap(c net.Conn) net.Conn {
	t, ok := c.(*net.TCPConn)
	if !ok {
		return c
	}
	raw, err := t.SyscallConn()
	if err != nil {
		return c // closed; it says so itself
	}
	d := &conn{TCPConn: t, raw: raw}
	d.read = func(fd uintptr) bool { return d.in.once(syscall.SYS_READ, fd) }
	d.put = func(fd uintptr) bool {
		for d.out.n < len(d.out.p) && d.out.err == 0 {
			if !d.out.once(syscall.SYS_WRITE, fd) {
				return false
			}
		}
		return true
	}
	return d
}

// once moves what it can, and reports false if it has to wait for that.
func (t *transfer) once(call, fd uintptr) bool {
	for {
		rest := t.p[t.n:]
		n, _, err := syscall.RawSyscall(call, fd, uintptr(unsafe.Pointer(unsafe.SliceData(rest))), uintptr(len(rest)))
		switch err {
		case 0:
			t.n += int(n)
		case syscall.EINTR:
			continue
		case syscall.EAGAIN:
			return false
		default:
			t.err = err
		}
		return true
	}
}

// Read implements net.Conn.
func (c *conn) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return c.TCPConn.Read(p)
	}
	c.in = transfer{p: p[:min(len(p), longest)]}
	err := c.raw.Read(c.read)
	n, failed := c.in.n, c.in.err
	c.in.p = nil
	switch {
	case err != nil || failed != 0:
		return 0, c.fault("read", err, failed)
	case n == 0:
		return 0, io.EOF
	}
	return n, nil
}

// Write implements net.Conn.
func (c *conn) Write(p []byte) (int, error) {
	if len(p) > longest {
		return c.TCPConn.Write(p)
	}
	c.out = transfer{p: p}
	err := c.raw.Write(c.put)
	n, failed := c.out.n, c.out.err
	c.out.p = nil
	if err != nil || failed != 0 {
		return n, c.fault("write", err, failed)
	}
	return n, nil
}

// fault returns an error as package net has them: of the wait for the connection, or
// of the call.
func (c *conn) fault(call string, err error, failed syscall.Errno) error {
	if failed != 0 {
		err = os.NewSyscallError(call, failed)
	}
	var op *net.OpError
	if errors.As(err, &op) {
		err = op.Err
	}
	return &net.OpError{Op: call, Net: "tcp", Source: c.LocalAddr(), Addr: c.RemoteAddr(), Err: err}
}
