package serve

import (
	"fmt"
	"syscall"

	"golang.org/x/sys/unix"
)

// Unsent returns how many octets written to the connection the peer's kernel
// has not acknowledged; 0 means that everything reached it. It does not block.
func (c *Conn) Unsent() (int, error) {
	sc, ok := c.Conn.(syscall.Conn)
	if !ok {
		return 0, fmt.Errorf("unsent octets of %T: no descriptor", c.Conn)
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return 0, fmt.Errorf("unsent octets: %w", err)
	}
	var n int
	var ioErr error
	if err := raw.Control(func(fd uintptr) { n, ioErr = unix.IoctlGetInt(int(fd), unix.SIOCOUTQ) }); err != nil {
		return 0, fmt.Errorf("unsent octets: %w", err)
	}
	if ioErr != nil {
		return 0, fmt.Errorf("unsent octets: SIOCOUTQ: %w", ioErr)
	}
	return n, nil
}
