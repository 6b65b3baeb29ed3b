//go:build unix

package smtpd

import (
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// talksFirst reports whether the peer has sent something already. It does not
// wait and takes nothing from the connection.
func talksFirst(c net.Conn) bool {
	sc, ok := c.(syscall.Conn)
	if !ok {
		return false
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return false
	}
	n := 0
	var b [1]byte
	_ = raw.Control(func(fd uintptr) {
		n, _, _ = unix.Recvfrom(int(fd), b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
	})
	return n > 0
}
