package peer

import (
	"context"
	"net"
	"sync"

	"github.com/covey-mail/covey"
)

// Dial opens a connection of its own to a service of a peer, for as long as both
// sides like; the handler there gets the header, of at most MaxHeader octets. The
// error is Unavailable if the handler was surely not called. ctx bounds the
// opening only.
//
// The connection has CloseWrite. It is cut by Close, by Recheck, and when the
// peer falls silent.
func (n *Net) Dial(ctx context.Context, to covey.NodeID, service string, header []byte) (net.Conn, error) {
	if len(service) > maxService || len(header) > MaxHeader {
		return nil, covey.Errorf(covey.TooBig, "dial node %s: service of %d, header of %d octets", to, len(service), len(header))
	}
	p, err := n.member(to)
	if err != nil {
		return nil, err
	}
	// The control link knows whether the peer is there, and notices if it goes.
	l, err := p.link(control)
	if err != nil {
		return nil, err
	}
	if err := l.await(ctx); err != nil {
		return nil, notOpened(ctx, to.String(), err)
	}
	c, err := n.reach(ctx, to, hello{class: stream, service: service, header: header})
	if err != nil {
		return nil, notOpened(ctx, to.String(), err)
	}
	return n.newStream(c, nil)
}

// notOpened is the error of a connection that was not made. It has no other kind
// than Unavailable in it, whatever the other side said.
func notOpened(ctx context.Context, to string, why error) error {
	if err := ctx.Err(); err != nil {
		return covey.Errorf(covey.Unavailable, "connect to %s: %v: %w", to, why, err)
	}
	return covey.Errorf(covey.Unavailable, "connect to %s: %v", to, why)
}

// A streamConn is a conn in the hands of somebody else.
type streamConn struct {
	*conn
	n     *Net
	once  sync.Once
	close func() // what else to do
	err   error
}

func (n *Net) newStream(c *conn, closed func()) (*streamConn, error) {
	if err := c.sock.SetDeadline(noDeadline); err != nil {
		n.release(c)
		return nil, covey.Errorf(covey.Unavailable, "open stream: %w", err)
	}
	n.cfg.Metrics.streams.Inc()
	return &streamConn{conn: c, n: n, close: closed}, nil
}

// Close tells the other side and closes the connection. It may be called again.
func (s *streamConn) Close() error {
	s.once.Do(func() {
		s.err = s.conn.Close()
		s.n.release(s.conn)
		s.n.cfg.Metrics.streams.Dec()
		if s.close != nil {
			s.close()
		}
	})
	return s.err
}

// serveStream has a stream handled.
func (n *Net) serveStream(c *conn, h hello) {
	f, ok := n.services.Load(h.service)
	if !ok {
		return
	}
	p := n.peer(c.remote.Node)
	p.heard()
	p.streams.Add(1)
	s, err := n.newStream(c, func() { p.streams.Add(-1) })
	if err != nil {
		p.streams.Add(-1)
		return
	}
	defer s.Close()
	n.protect("stream", p.id, func() { f.(connHandler)(p.id, h.header, s) })
}
