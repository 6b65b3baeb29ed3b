package serve

import (
	"crypto/tls"
	"net"
)

// TLS returns a listener for a port on which TLS comes first. Its connections
// are *tls.Conn over *Conn; the handshake is done by their first Read, Write or
// Handshake, in the goroutine of the connection, and starts under the bounds of
// BeginTLS. Closing either listener closes both.
func TLS(l *Listener, config *tls.Config) net.Listener {
	return &tlsListener{Listener: l, config: config}
}

type tlsListener struct {
	*Listener
	config *tls.Config
}

// Accept returns a *tls.Conn.
func (l *tlsListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	From(c).BeginTLS()
	return tls.Server(c, l.config), nil
}
