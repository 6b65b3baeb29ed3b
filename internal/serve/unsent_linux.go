package serve

import (
	"errors"
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

// Here reports whether the peer is still connected, has not ended its side, and
// acknowledges what is sent to it. It does not block and may be called after Close.
func (c *Conn) Here() bool {
	if c.raw == nil {
		return false
	}
	here := false
	err := c.raw.Control(func(fd uintptr) {
		if info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO); err == nil {
			// What is merely not acknowledged yet is on its way: an answer may be
			// delayed, but not for as long as until it is sent again (RFC 6298).
			here = info.State == unix.BPF_TCP_ESTABLISHED && info.Retransmits == 0
			return
		}
		// Another kind of stream: it has ended if there is nothing to read, at once.
		var b [1]byte
		n, _, err := unix.Recvfrom(int(fd), b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
		here = n > 0 || errors.Is(err, unix.EAGAIN)
	})
	return err == nil && here
}
