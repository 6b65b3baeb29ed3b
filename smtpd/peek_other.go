//go:build !unix

package smtpd

import "net"

// talksFirst is known on Unix only.
func talksFirst(net.Conn) bool { return false }
