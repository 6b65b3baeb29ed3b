package node

import (
	"context"
	"net"
	"sync"
	"time"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/imapd"
	"github.com/covey-mail/covey/internal/handoff"
	"github.com/covey-mail/covey/pop3d"
)

// homes implements handoff.Homes: a session runs on the node that leads its
// account's shard.
type homes struct{ n *Node }

// homeTime bounds how long a log-in waits for its home node; the routes give up
// on a shard without a leader sooner.
const homeTime = 5 * time.Second

// Home implements handoff.Homes.
func (h homes) Home(ctx context.Context, service string, l handoff.Login) (net.Conn, error) {
	if leader, _ := h.n.table.Known(l.Shard); leader == h.n.folder.id {
		return nil, nil // nothing to wait for
	}
	ctx, cancel := context.WithTimeout(ctx, homeTime)
	defer cancel()
	leader, err := h.n.table.Leader(ctx, l.Shard)
	if err != nil || leader == h.n.folder.id {
		return nil, err
	}
	if h.n.links.Net == nil {
		return nil, covey.Errorf(covey.Unavailable, "shard %d is led by node %s, and this node has no links", l.Shard, leader)
	}
	c, err := h.n.links.Dial(ctx, leader, service, l.Encode())
	if err != nil {
		return nil, covey.Errorf(covey.Unavailable, "session at node %s: %w", leader, err)
	}
	return c, handoff.Await(ctx, c)
}

// serveSessions has sessions that other nodes let in run here.
func (n *Node) serveSessions() {
	if n.links.Net == nil {
		return
	}
	n.links.HandleConn(imapd.Service, n.session(n.fronts.imap.Resume))
	n.links.HandleConn(pop3d.Service, n.session(n.fronts.pop3.Resume))
}

// session is the handler of one service. It holds the stream until the session
// has closed it.
func (n *Node) session(resume func(net.Conn, handoff.Login)) func(covey.NodeID, []byte, net.Conn) {
	return func(_ covey.NodeID, header []byte, c net.Conn) {
		l, err := handoff.Decode(header)
		if err == nil {
			if leader, _ := n.table.Known(l.Shard); leader != n.folder.id {
				err = covey.Errorf(covey.Unavailable, "node %s does not lead shard %d", n.folder.id, l.Shard)
			}
		}
		if err != nil {
			_ = handoff.Refuse(c, err) // the front may be gone
			return
		}
		held := &held{Conn: c, closed: make(chan struct{})}
		resume(held, l)
		<-held.closed
	}
}

// held is a connection that tells when it is closed.
type held struct {
	net.Conn
	once   sync.Once
	closed chan struct{}
}

// Close implements net.Conn.
func (h *held) Close() error {
	err := h.Conn.Close()
	h.once.Do(func() { close(h.closed) })
	return err
}
