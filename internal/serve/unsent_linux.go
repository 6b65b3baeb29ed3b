package serve

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// Unsent returns how many octets written to the connection the peer's kernel
// has not acknowledged; 0 means that everything reached it. It does not block.
func (c *Conn) Unsent() (int, error) {
	if c.raw == nil {
		return 0, fmt.Errorf("unsent octets of %T: no descriptor", c.Conn)
	}
	var n int
	var ioErr error
	if err := c.raw.Control(func(fd uintptr) { n, ioErr = unix.IoctlGetInt(int(fd), unix.SIOCOUTQ) }); err != nil {
		return 0, fmt.Errorf("unsent octets: %w", err)
	}
	if ioErr != nil {
		return 0, fmt.Errorf("unsent octets: SIOCOUTQ: %w", ioErr)
	}
	return n, nil
}
