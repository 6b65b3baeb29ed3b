package peer

import (
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/internal/serve"
)

// Serve accepts connections on the peer port until Close or Shutdown, and then
// returns nil. It closes l.
func (n *Net) Serve(l net.Listener) error {
	sl := serve.Wrap(l, serve.Config{
		// What is open is bounded by whose it is: Strangers, Streams, links.
		Name: "peer", Conns: 1 << 20, PerAddr: -1, Reserve: -1,
		Logger: n.cfg.Logger, Metrics: n.cfg.Acceptance,
	})
	n.mu.Lock()
	if n.closed || n.stopping.Load() {
		n.mu.Unlock()
		return sl.Close()
	}
	n.listeners[sl] = struct{}{}
	n.mu.Unlock()
	defer func() {
		_ = sl.Close()
		n.mu.Lock()
		defer n.mu.Unlock()
		delete(n.listeners, sl)
	}()
	for {
		c, err := sl.Accept()
		if err != nil {
			if n.stopping.Load() {
				return nil
			}
			return fmt.Errorf("serve peers: %w", err)
		}
		n.accept(serve.From(c))
	}
}

// A keptAlive is a TCP connection, or one around it.
type keptAlive interface {
	SetKeepAliveConfig(net.KeepAliveConfig) error
}

// accept has a connection served, if there is room for another stranger.
func (n *Net) accept(c *serve.Conn) {
	// Below the limits of package serve: ours differ with what a connection is for.
	sock := &socket{Conn: c.Conn, closer: c, metrics: n.cfg.Metrics}
	if t, ok := c.Conn.(keptAlive); ok {
		_ = t.SetKeepAliveConfig(keepAlive) // pings find dead peers without it
	}
	from := block(sock.remoteAddr())
	if !n.gate.enter(from) {
		n.refused(sock.remoteAddr(), refuse(refusedBusy, covey.Unavailable, "too many connections that have not proved who they are"))
		_ = sock.Close()
		return
	}
	started := n.start(func() {
		stop := context.AfterFunc(n.ctx, func() { _ = sock.Close() })
		defer stop()
		defer sock.Close()
		c, h, err := n.welcome(sock)
		n.gate.leave(from)
		if err != nil {
			n.refused(sock.remoteAddr(), err)
			return
		}
		n.gate.know(from)
		n.serve(c, h)
		n.release(c)
	})
	if !started {
		n.gate.leave(from)
		_ = sock.Close()
	}
}

func (n *Net) refused(addr netip.Addr, err error) {
	if n.ctx.Err() != nil {
		return
	}
	reason := reasonOf(err, refusedHello)
	n.cfg.Metrics.refused.WithLabelValues(reason).Inc()
	n.diary.note(addr, reason, err)
}

// welcome finds out who is at the other end of a connection and what for. It
// tells one that has proved to know the secret why it is not wanted; others it
// tells nothing.
func (n *Net) welcome(sock *socket) (*conn, hello, error) {
	if err := sock.SetDeadline(time.Now().Add(welcomeTime)); err != nil {
		return nil, hello{}, err
	}
	c := &conn{sock: sock, shown: n.identity.Load(), born: time.Now()}
	c.Conn = tls.Server(sock, n.tls(c.shown, func(r Remote, ca ed25519.PublicKey) error {
		c.remote, c.ca = r, ca
		return nil
	}))
	if err := c.Handshake(); err != nil {
		return nil, hello{}, &refusal{reasonOf(err, refusedTLS), fmt.Errorf("TLS handshake: %w", err)}
	}
	c.remote.Addr = sock.RemoteAddr().String()
	h, err := readHello(c)
	if err != nil {
		return nil, hello{}, &refusal{refusedHello, fmt.Errorf("hello of node %s: %w", c.remote.Node, err)}
	}
	c.class = h.class
	err = n.admit(c)
	if err == nil {
		if err = n.prepare(c, h); err == nil {
			err = writeFrame(c, header{typ: frameReply}, nil)
		}
		if err == nil {
			return c, h, sock.SetDeadline(time.Time{})
		}
		defer n.release(c)
	}
	head, text := errorFrame(0, err)
	_ = writeFrame(c, head, text) // the peer may be gone, the line in our log is not
	return nil, hello{}, err
}

// prepare checks that there is somebody to serve a connection.
func (n *Net) prepare(c *conn, h hello) error {
	if n.stopping.Load() {
		return refuse(refusedStopping, covey.Unavailable, "node %s is stopping", n.cfg.Node)
	}
	switch h.class {
	case stream:
		if _, ok := n.services.Load(h.service); !ok {
			return refuse(refusedService, covey.Unavailable, "no service %.64q at node %s", h.service, n.cfg.Node)
		}
		if p := n.peer(c.remote.Node); p.streams.Load() >= int64(n.cfg.Streams) {
			return refuse(refusedService, covey.Unavailable, "node %s has %d streams here already", c.remote.Node, n.cfg.Streams)
		}
	case join:
		if n.joining.Load() >= maxJoins {
			return refuse(refusedService, covey.Unavailable, "node %s is busy with others that join", n.cfg.Node)
		}
	}
	return nil
}

// serve works on a connection until it ends.
func (n *Net) serve(c *conn, h hello) {
	switch h.class {
	case stream:
		n.serveStream(c, h)
	case join:
		n.serveJoin(c)
	default:
		n.serveLink(c)
	}
}

// reach dials a member.
func (n *Net) reach(ctx context.Context, to covey.NodeID, h hello) (*conn, error) {
	ctx, cancel := context.WithTimeout(ctx, n.cfg.DialTimeout)
	defer cancel()
	if _, ok := n.cfg.Pin(to); !ok {
		return nil, errors.New("not a member of the cluster")
	}
	addr, ok := n.cfg.Addr(to)
	if !ok {
		return nil, errors.New("its address is not known")
	}
	c, err := n.dial(ctx, &dialling{addr: addr, want: to, hello: h})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", addr, err)
	}
	return c, nil
}

// A dialling is a connection in the making.
type dialling struct {
	addr   string
	want   covey.NodeID // who has to answer; 0: anyone
	hello  hello
	remote Remote // who answers, once that is known
}

// dial makes a connection, to release. ctx has a deadline.
func (n *Net) dial(ctx context.Context, d *dialling) (*conn, error) {
	raw, err := n.cfg.Dial(ctx, d.addr)
	if err != nil {
		return nil, err
	}
	sock := &socket{Conn: raw, closer: raw, metrics: n.cfg.Metrics}
	// The deadline of ctx may pass, or ctx end, at any point.
	stop := context.AfterFunc(ctx, func() { _ = sock.SetDeadline(time.Unix(1, 0)) })
	c, err := n.introduce(sock, d)
	if !stop() && err == nil {
		n.release(c)
		err = ctx.Err()
	}
	if err != nil {
		_ = sock.Close()
		if ctx.Err() != nil {
			err = fmt.Errorf("%w (%w)", err, ctx.Err())
		}
		return nil, err
	}
	return c, nil
}

// introduce proves to each side who the other is, and says what for.
func (n *Net) introduce(sock *socket, d *dialling) (*conn, error) {
	c := &conn{sock: sock, shown: n.identity.Load(), class: d.hello.class, born: time.Now()}
	c.Conn = tls.Client(sock, n.tls(c.shown, func(r Remote, ca ed25519.PublicKey) error {
		r.Addr = d.addr
		c.remote, c.ca, d.remote = r, ca, r
		if d.want != 0 && r.Node != d.want {
			return refuse(refusedNode, covey.Denied, "node %s answers, not %s", r.Node, d.want)
		}
		return n.check(c.class, r, ca)
	}))
	if err := c.Handshake(); err != nil {
		return nil, fmt.Errorf("TLS handshake: %w", err)
	}
	err := d.hello.write(c)
	if err == nil {
		err = readAnswer(c)
	}
	if err != nil {
		var op *net.OpError
		if errors.As(err, &op) && op.Op == "remote error" {
			err = fmt.Errorf("it refuses our certificate, its log says why: %w", err)
		}
		return nil, err
	}
	return c, n.admit(c)
}

// readAnswer reads the answer to a hello.
func readAnswer(c *conn) error {
	h, payload, err := (&frameReader{r: c, max: maxErrorText + 16}).next()
	switch {
	case err != nil:
		return err
	case h.typ == frameReply:
		return nil
	case h.typ == frameError:
		return parseError(h.code, payload)
	}
	return covey.Errorf(covey.Corrupt, "frame of type %d in answer to a hello", h.typ)
}
