// Package sockio reads and writes TCP connections by system calls that the
// scheduler of the Go runtime does not hear of. Sockets do not block, so that a call
// takes microseconds; yet the runtime prepares for each to take long, and where
// sends to loopback take more than 20 µs its monitor thread takes the processor
// from them, again and again. What that cost, and what this costs instead, is in
// docs/decisions/019-sockets-past-the-scheduler.md.
package sockio

import "net"

// longest is the most octets that go past the scheduler at once: copying them must
// not hold up whoever waits for all goroutines to stop, as the collector does.
const longest = 64 << 10

// Wrap returns a connection that does what c does. One goroutine at a time may read
// from it, and one write. Only TCP connections gain, and on Linux; others are
// returned as they are.
func Wrap(c net.Conn) net.Conn { return wrap(c) }
