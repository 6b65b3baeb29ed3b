package peer

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/covey-mail/covey"
)

// A peer is what a Net knows of another node. Locks are taken in the order
// peer.mu, Net.mu, sender.mu.
type peer struct {
	n       *Net
	id      covey.NodeID
	slots   slots        // of its calls
	streams atomic.Int64 // that it opened

	mu       sync.Mutex // guards what follows
	links    [bulk + 1]*link
	inbound  [bulk + 1][]*inbound // the newest last
	failures int                  // in a row
	retryAt  time.Time            // no link is made before
	reason   error                // of the last failure
}

// link returns the link of that class. If there is none it begins to make one,
// unless the peer is known to be out of reach.
func (p *peer) link(c class) (*link, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if l := p.links[c]; l != nil {
		return l, nil
	}
	if time.Now().Before(p.retryAt) {
		return nil, unreachable(p.id, p.reason)
	}
	l := newLink(p, c)
	if !p.n.start(l.run) {
		l.cancel()
		return nil, errStopped
	}
	p.links[c] = l
	return l, nil
}

// down takes a link out of use. since is when it was up, zero if never.
func (p *peer) down(l *link, since time.Time, why error) {
	p.mu.Lock()
	if p.links[l.class] != l {
		p.mu.Unlock()
		return // it was replaced
	}
	p.links[l.class] = nil
	before := p.failures
	if !since.IsZero() && time.Since(since) >= steady && !silent(why) {
		p.failures, p.retryAt = 0, time.Time{}
	} else {
		p.failLocked(why)
	}
	p.mu.Unlock()
	p.log(l.class, since, why, before)
}

// log says that a link broke, or that one could not be made, the latter once in a
// row of failures, of which the first counts for nothing: the other end may have
// joined, or started, that moment.
func (p *peer) log(c class, since time.Time, why error, failures int) {
	log := p.n.cfg.Logger.With("peer", p.id, "class", c.String(), "err", clip(why.Error()))
	switch {
	case p.n.ctx.Err() != nil: // we are closing
	case !since.IsZero():
		log.Warn("link down", "after", time.Since(since).Round(time.Millisecond))
	case failures == 1:
		log.Warn("link cannot be made, trying on")
	default:
		log.Debug("link cannot be made", "failures", failures+1)
	}
}

func (p *peer) failLocked(why error) {
	p.failures++
	p.reason = why
	p.retryAt = time.Now().Add(backoff(p.failures))
}

// backoff returns how long to wait after so many failures: between half and all
// of a time that doubles.
func backoff(failures int) time.Duration {
	d := minBackoff << min(failures-1, 16)
	d = min(d, maxBackoff)
	return d/2 + rand.N(d/2)
}

// reached notes that a link was made.
func (p *peer) reached(l *link) {
	p.n.cfg.Logger.Info("link up", "peer", p.id, "class", l.class.String())
}

// heard notes that the peer made a connection to us: it is there.
func (p *peer) heard() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.failures, p.retryAt = 0, time.Time{}
}

func (p *peer) failing() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.failures > 0
}

func (p *peer) lastReason() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.reason
}

// retire replaces a link, if it is in use. With a reason, the peer does not want
// to be called for the moment.
func (p *peer) retire(l *link, why error) {
	p.mu.Lock()
	if p.links[l.class] == l {
		p.links[l.class] = nil
		if why != nil {
			p.failLocked(why)
		}
	}
	p.mu.Unlock()
	l.retire()
}

// inUse returns the links in use.
func (p *peer) inUse() (links []*link) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, l := range p.links {
		if l != nil {
			links = append(links, l)
		}
	}
	return links
}

// accepted returns the links that the peer dialled.
func (p *peer) accepted() (links []*inbound) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, in := range p.inbound {
		links = append(links, in...)
	}
	return links
}

// A Kind says what a post is about.
type Kind uint8

// A Method says what a call is about. From FirstBulk on it travels on the bulk
// link, as any does whose request is longer than 64 KiB: it is for those whose
// answers are long, or that may wait.
type Method uint8

// FirstBulk is the first Method that always travels on the bulk link.
const FirstBulk Method = 128

// bulkSize is the length of the longest request on a control link.
const bulkSize = 64 << 10

func size(parts [][]byte) int {
	n := 0
	for _, p := range parts {
		n += len(p)
	}
	return n
}

// Post sends a one-way message, its parts joined. It does not block. The message
// is dropped if the peer is not reachable or too much waits for it, and lost if
// the link breaks. Messages arrive in the order in which Post was called, as long
// as one link lasts. The parts must not be changed any more, by anyone.
func (n *Net) Post(to covey.NodeID, kind Kind, parts ...[]byte) {
	if why := n.post(to, kind, parts); why != "" {
		n.dropped[why].Inc()
	}
}

func (n *Net) post(to covey.NodeID, kind Kind, parts [][]byte) (dropped string) {
	length := size(parts)
	if length > MaxPayload {
		return droppedSize
	}
	p, err := n.member(to)
	if err != nil {
		return droppedNoLink
	}
	l, err := p.link(control)
	if err != nil {
		return droppedNoLink
	}
	err = l.post(outgoing{header: header{size: uint32(length), typ: framePost, code: uint8(kind)}, body: parts})
	switch {
	case errors.Is(err, errQueueFull):
		return droppedQueue
	case err != nil:
		return droppedNoLink
	}
	return ""
}

// Call asks a peer and waits for the answer, which the caller then owns. The
// request is its parts joined; they must not be changed any more, by anyone, not
// even when Call has returned. Any number of calls may wait at a time.
//
// The error is Unavailable if the peer has surely not handled the call, Unknown
// if it may have: the link broke, or ctx ended, after the request was on its way.
// When ctx ended, errors.Is finds its error too. Any other error is the handler's
// own: its kind, and up to 1 KiB of its text; it may be Unavailable or Unknown as
// well.
func (n *Net) Call(ctx context.Context, to covey.NodeID, m Method, parts ...[]byte) ([]byte, error) {
	reply, err := n.call(ctx, to, m, parts)
	n.countCall(err)
	return reply, err
}

func (n *Net) call(ctx context.Context, to covey.NodeID, m Method, parts [][]byte) ([]byte, error) {
	length := size(parts)
	if length > MaxPayload {
		return nil, covey.Errorf(covey.TooBig, "call of node %s with %d octets, at most %d are allowed", to, length, MaxPayload)
	}
	if err := ctx.Err(); err != nil {
		return nil, covey.Errorf(covey.Unavailable, "call of node %s: %w", to, err)
	}
	p, err := n.member(to)
	if err != nil {
		return nil, err
	}
	o := outgoing{header: header{size: uint32(length), typ: frameCall, code: uint8(m)}, body: parts}
	if deadline, ok := ctx.Deadline(); ok {
		o.millis = millisUntil(deadline)
	}
	class := control
	if m >= FirstBulk || length > bulkSize {
		class = bulk
	}
	c := &call{done: make(chan struct{})}
	l, id, err := p.begin(class, c, o)
	if err != nil {
		return nil, err
	}
	select {
	case <-c.done:
	case <-ctx.Done():
		l.abandon(id, c, ctx.Err())
	}
	return c.reply, c.err
}

// begin puts a call on its way. A link that broke a moment ago costs a second
// try.
func (p *peer) begin(class class, c *call, o outgoing) (l *link, id uint64, err error) {
	for range 2 {
		if l, err = p.link(class); err != nil {
			return nil, 0, err
		}
		if id, err = l.begin(c, o); err == nil {
			return l, id, nil
		}
		if !errors.Is(err, errLinkDown) {
			break
		}
	}
	return nil, 0, unreachable(p.id, err)
}
