package logon

import "net"

// A ClearText says from where a peer may log in without TLS. The zero value is
// from this host.
type ClearText uint8

// The policies.
const (
	ClearTextLoopback ClearText = iota // as Dovecot: what never leaves the host needs no TLS
	ClearTextNever
	ClearTextAlways
)

// Allows reports whether credentials of a peer at that address may travel without
// TLS.
func (p ClearText) Allows(peer net.Addr) bool {
	switch p {
	case ClearTextAlways:
		return true
	case ClearTextLoopback:
		return local(peer)
	}
	return false
}

// local reports whether a peer is on this host.
func local(peer net.Addr) bool {
	switch a := peer.(type) {
	case *net.TCPAddr:
		return a.IP.IsLoopback()
	case *net.UnixAddr:
		return true
	}
	return false
}
