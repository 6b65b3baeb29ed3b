package peer

import (
	"context"
	"fmt"
	"time"

	"github.com/covey-mail/covey"
)

var noDeadline time.Time

// CallAddr asks whoever answers at an address (host:port) and knows the cluster's
// secret, whether it is a member or not: for a node that joins. The request is at
// most 1 MiB long. It takes no longer than ctx, and at most 30 seconds.
//
// The errors are those of Call. The Remote is whoever answered, even with an
// error, if the certificate said as much; else it is zero. A node that reaches
// itself is told Unavailable, and finds its own id there.
func (n *Net) CallAddr(ctx context.Context, addr string, m Method, req []byte) ([]byte, Remote, error) {
	if len(req) > maxJoin {
		return nil, Remote{}, covey.Errorf(covey.TooBig, "call of %s with %d octets, at most %d are allowed", addr, len(req), maxJoin)
	}
	if n.stopping.Load() {
		return nil, Remote{}, errStopped
	}
	ctx, cancel := context.WithTimeout(ctx, joinTime)
	defer cancel()
	dctx, dcancel := context.WithTimeout(ctx, n.cfg.DialTimeout)
	defer dcancel()
	d := dialling{addr: addr, hello: hello{class: join}}
	c, err := n.dial(dctx, &d)
	if err != nil {
		return nil, d.remote, notOpened(ctx, addr, err)
	}
	defer n.release(c)
	reply, err := n.ask(ctx, c, m, req)
	return reply, d.remote, err
}

func (n *Net) ask(ctx context.Context, c *conn, m Method, req []byte) ([]byte, error) {
	unknown := func(err error) error {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return covey.Errorf(covey.Unknown, "call of %s: no answer: %w", c.remote.Addr, c.cause(err))
	}
	stop := context.AfterFunc(ctx, func() { _ = c.sock.Close() })
	defer stop()
	deadline, _ := ctx.Deadline() // CallAddr set one
	if err := c.sock.SetDeadline(deadline); err != nil {
		return nil, covey.Errorf(covey.Unavailable, "call of %s: %w", c.remote.Addr, err)
	}
	if err := writeFrame(c, header{typ: frameCall, code: uint8(m), millis: millisUntil(deadline)}, req); err != nil {
		return nil, unknown(err)
	}
	h, payload, err := (&frameReader{r: c, max: MaxPayload}).next()
	switch {
	case err != nil:
		return nil, unknown(err)
	case h.typ == frameReply:
		return payload, nil
	case h.typ == frameError:
		return nil, parseError(h.code, payload)
	}
	return nil, unknown(fmt.Errorf("frame of type %d", h.typ))
}

// serveJoin answers the one call of a connection.
func (n *Net) serveJoin(c *conn) {
	n.joining.Add(1)
	defer n.joining.Add(-1)
	if err := c.sock.SetDeadline(time.Now().Add(welcomeTime)); err != nil {
		return
	}
	h, req, err := (&frameReader{r: c, max: maxJoin}).next()
	if err == nil && h.typ != frameCall {
		err = covey.Errorf(covey.Corrupt, "frame of type %d, want a call", h.typ)
	}
	if err != nil {
		n.refused(c.sock.remoteAddr(), &refusal{refusedHello, fmt.Errorf("node %s, to join: %w", c.remote.Node, err)})
		return
	}
	wait := joinTime
	if h.timeout() > 0 {
		wait = min(wait, h.timeout())
	}
	r := n.handleJoin(c, h, wait, req)
	head, payload := header{typ: frameReply}, r.reply
	if r.err != nil {
		head, payload = errorFrame(0, r.err)
	}
	if err := c.sock.SetDeadline(time.Now().Add(welcomeTime)); err != nil {
		return
	}
	if err := writeFrame(c, head, payload); err != nil {
		n.cfg.Logger.Warn("answer to a joining node not sent", "peer", c.remote.Node, "remote", c.remote.Addr, "err", clip(err.Error()))
		return
	}
	_ = c.Close() // says to the peer that this was all
}

func (n *Net) handleJoin(c *conn, h header, wait time.Duration, req []byte) (r result) {
	f := n.joins[h.code].Load()
	if f == nil {
		return result{err: covey.Errorf(covey.Unavailable, "node %s does not know join method %d", n.cfg.Node, h.code)}
	}
	ctx, cancel := context.WithTimeout(n.ctx, wait)
	defer cancel()
	if !n.protect("join", c.remote.Node, func() { r.reply, r.err = (*f)(ctx, c.remote, req) }) {
		return result{err: covey.Errorf(covey.Unknown, "the handler at node %s panicked", n.cfg.Node)}
	}
	return checkLength(r)
}
