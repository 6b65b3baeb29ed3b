package peer

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/covey-mail/covey"
)

// An inbound is a link that a peer dialled, for what it sends to us and our
// answers.
type inbound struct {
	n        *Net
	p        *peer
	c        *conn
	ctx      context.Context // of the calls; ends with the link
	cancel   context.CancelFunc
	once     sync.Once // end
	handlers sync.WaitGroup
	sender
}

// serveLink works on a link until it breaks and all its calls are handled.
func (n *Net) serveLink(c *conn) {
	in := &inbound{n: n, p: n.peer(c.remote.Node), c: c}
	in.sender.init(n.cfg.QueueBytes)
	in.ctx, in.cancel = context.WithCancel(n.ctx)
	if err := c.sock.link(n.cfg.Silence); err != nil {
		in.cancel()
		return
	}
	in.p.heard()
	in.p.join(in)
	defer in.p.part(in)
	// Shutdown, or a change of our certificate, may have been too early to see it.
	if n.stopping.Load() {
		in.bye(byeStopping)
	} else if c.shown != n.identity.Load() {
		in.bye(byeRenewed)
	}
	gauge := n.cfg.Metrics.links.WithLabelValues(c.class.String(), "peer")
	gauge.Inc()
	defer gauge.Dec()

	var writing sync.WaitGroup
	writing.Go(func() { in.end(in.write(c, n.cfg.Silence/beats, in.ticked)) })
	in.end(in.read())
	writing.Wait()
	in.handlers.Wait()
	in.drop()
}

// join notes a link of the peer. It cuts the oldest if there are too many.
func (p *peer) join(in *inbound) {
	p.mu.Lock()
	defer p.mu.Unlock()
	links := append(p.inbound[in.c.class], in)
	if len(links) > maxInbound {
		links[0].c.cut(errRetired)
		links = links[1:]
	}
	p.inbound[in.c.class] = links
}

// part undoes join.
func (p *peer) part(in *inbound) {
	p.mu.Lock()
	defer p.mu.Unlock()
	links := p.inbound[in.c.class]
	for i, other := range links {
		if other == in {
			p.inbound[in.c.class] = append(links[:i:i], links[i+1:]...)
			return
		}
	}
}

// end breaks the link.
func (in *inbound) end(why error) {
	in.once.Do(func() {
		in.stop(why)
		in.cancel()
		_ = in.c.sock.Close()
		if silent(why) {
			in.n.cutStreams(in.p.id, in.c.sock.lastHeard())
		}
	})
}

// bye asks the peer to make no more calls and to close the link.
func (in *inbound) bye(why uint8) {
	// One that is full of answers nobody reads, or broken, is cut soon anyway.
	_ = in.put(outgoing{header: header{typ: frameBye, code: why}})
}

// ticked is called by the writer every so often: without a sign of life a peer
// with a long queue for us would hear nothing before we got to its ping.
func (in *inbound) ticked() error {
	_ = in.put(outgoing{header: header{typ: framePong}}) // a full queue is a sign too
	return nil
}

func (in *inbound) read() error {
	r := frameReader{r: bufio.NewReaderSize(in.c, 16<<10), max: MaxPayload}
	for {
		h, payload, err := r.next()
		if err != nil {
			return err
		}
		switch h.typ {
		case framePost:
			err = in.post(h, payload)
		case frameCall:
			err = in.call(h, payload)
		case framePing:
			err = in.put(outgoing{header: header{typ: framePong, id: h.id}})
		default:
			err = covey.Errorf(covey.Corrupt, "frame of type %d from the dialler of a link", h.typ)
		}
		if err != nil {
			return err
		}
	}
}

func (in *inbound) post(h header, payload []byte) error {
	f := in.n.posts[h.code].Load()
	if f == nil || in.c.class != control {
		in.n.dropped[droppedUnknown].Inc()
		return nil
	}
	if !in.n.protect("post", in.p.id, func() { (*f)(in.p.id, payload) }) {
		return errors.New("the handler of a post panicked")
	}
	return nil
}

// call has a call handled beside the reader, or refuses it.
func (in *inbound) call(h header, req []byte) error {
	f := in.n.methods[h.code].Load()
	switch {
	case in.n.stopping.Load():
		return in.turnAway(h, "node %s is stopping", in.n.cfg.Node)
	case f == nil:
		return in.turnAway(h, "node %s does not know method %d", in.n.cfg.Node, h.code)
	case !in.p.slots.enter(len(req)):
		in.n.cfg.Metrics.turned.Inc()
		return in.turnAway(h, "node %s has too many calls of node %s to handle", in.n.cfg.Node, in.p.id)
	}
	in.handlers.Go(func() { in.answer(h.id, len(req), in.handle(*f, h, req)) })
	return nil
}

// turnAway answers a call that is not handled. Answers of this kind are not
// bounded by slots: a peer that does not read them has its link cut.
func (in *inbound) turnAway(h header, format string, args ...any) error {
	head, text := errorFrame(h.id, fmt.Errorf(format, args...))
	head.code = uint8(covey.Unavailable)
	head.size = uint32(len(text))
	return in.put(outgoing{header: head, body: [][]byte{text}})
}

// A result is what a handler returned.
type result struct {
	reply []byte
	err   error
}

func (in *inbound) handle(f callHandler, h header, req []byte) (r result) {
	ctx := in.ctx
	if wait := h.timeout(); wait > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, wait)
		defer cancel()
	}
	if !in.n.protect("call", in.p.id, func() { r.reply, r.err = f(ctx, in.p.id, req) }) {
		r = result{err: covey.Errorf(covey.Unknown, "the handler at node %s panicked", in.n.cfg.Node)}
	}
	return checkLength(r)
}

// checkLength replaces a reply that cannot be sent. The call was handled all the
// same.
func checkLength(r result) result {
	if len(r.reply) > MaxPayload {
		return result{err: covey.Errorf(covey.TooBig, "reply of %d octets, at most %d are allowed", len(r.reply), MaxPayload)}
	}
	return r
}

// answer sends the answer to a call. Its slot is free when it is sent.
func (in *inbound) answer(id uint64, held int, r result) {
	head, payload := header{typ: frameReply, id: id}, r.reply
	if r.err != nil {
		head, payload = errorFrame(id, r.err)
	}
	head.size = uint32(len(payload))
	o := outgoing{header: head, body: [][]byte{payload}, slot: &in.p.slots, held: held}
	if err := in.put(o); err != nil { // the link broke: the caller knows
		in.p.slots.leave(held)
	}
}
