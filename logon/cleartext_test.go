package logon

import (
	"net"
	"testing"
)

func TestClearText(t *testing.T) {
	here, socket := &net.TCPAddr{IP: net.IPv6loopback}, &net.UnixAddr{Net: "unix"}
	there := &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1)}
	for policy, want := range map[ClearText][3]bool{
		ClearTextLoopback: {true, true, false}, ClearTextNever: {}, ClearTextAlways: {true, true, true},
	} {
		if got := [3]bool{policy.Allows(here), policy.Allows(socket), policy.Allows(there)}; got != want {
			t.Errorf("policy %d allows %v, want %v", policy, got, want)
		}
	}
}
