package peer

import (
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// tune has the kernel give up on a link's peer that acknowledges nothing.
// Whatever fails here, pings do the same a little later.
func tune(c net.Conn, silence time.Duration) {
	t, ok := c.(syscall.Conn)
	if !ok {
		return
	}
	raw, err := t.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) {
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(silence.Milliseconds()))
	})
}
