package peer

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/internal/serve"
)

// A Net is a node's part of the links of its cluster. Its methods may be called
// by any goroutine. Use New.
//
// Handlers may be registered at any time; what arrives for one that is not there
// yet is answered Unavailable, or dropped. Each is registered once. A handler
// that panics is logged, and its caller is told Unknown.
type Net struct {
	cfg      Config
	ctx      context.Context // ends with Close
	cancel   context.CancelFunc
	wg       sync.WaitGroup // of all goroutines that start started
	identity atomic.Pointer[identity]
	stopping atomic.Bool // Shutdown has begun
	joining  atomic.Int64
	gate     *gate
	diary    *diary
	dropped  map[string]prometheus.Counter // by reason
	callsOK  prometheus.Counter

	posts    [256]atomic.Pointer[postHandler]
	methods  [256]atomic.Pointer[callHandler]
	joins    [256]atomic.Pointer[joinHandler]
	services sync.Map // of string to connHandler

	peersMu sync.RWMutex // guards peers
	peers   map[covey.NodeID]*peer

	mu        sync.Mutex // guards what follows
	closed    bool
	listeners map[*serve.Listener]struct{}
	conns     map[*conn]struct{} // whose other end has proved who it is
	gone      chan struct{}      // not nil while Shutdown waits: closed when conns gets empty
}

type (
	postHandler = func(from covey.NodeID, payload []byte)
	callHandler = func(ctx context.Context, from covey.NodeID, req []byte) ([]byte, error)
	joinHandler = func(ctx context.Context, from Remote, req []byte) ([]byte, error)
	connHandler = func(from covey.NodeID, header []byte, c net.Conn)
)

var errStopped = covey.Errorf(covey.Unavailable, "this node is stopping")

// New returns a Net that has no links and does nothing yet.
func New(cfg Config) (*Net, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	id, err := newIdentity(facts{cfg.Node, cfg.Cluster, cfg.Secrets, cfg.Stamp}, cfg.Key)
	if err != nil {
		return nil, err
	}
	n := &Net{
		cfg: cfg, gate: newGate(cfg.Strangers),
		diary:     &diary{log: cfg.Logger, last: map[netip.Addr]*entry{}},
		dropped:   map[string]prometheus.Counter{},
		peers:     map[covey.NodeID]*peer{},
		listeners: map[*serve.Listener]struct{}{},
		conns:     map[*conn]struct{}{},
	}
	n.identity.Store(id)
	n.callsOK = cfg.Metrics.calls.WithLabelValues("ok")
	n.ctx, n.cancel = context.WithCancel(context.Background())
	for _, why := range []string{droppedQueue, droppedNoLink, droppedBroken, droppedSize, droppedUnknown} {
		n.dropped[why] = cfg.Metrics.dropped.WithLabelValues(why)
	}
	return n, nil
}

// start runs f in a goroutine that Close waits for, unless Close was called.
func (n *Net) start(f func()) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return false
	}
	n.wg.Go(f)
	return true
}

// member returns what is known of a node, if it is a member of the cluster.
func (n *Net) member(id covey.NodeID) (*peer, error) {
	if n.stopping.Load() {
		return nil, errStopped
	}
	n.peersMu.RLock()
	p := n.peers[id]
	n.peersMu.RUnlock()
	if p != nil {
		return p, nil
	}
	if id == n.cfg.Node {
		return nil, covey.Errorf(covey.Invalid, "link of a node to itself")
	}
	if _, ok := n.cfg.Pin(id); !ok {
		return nil, covey.Errorf(covey.Unavailable, "node %s is not a member of the cluster", id)
	}
	return n.peer(id), nil
}

func (n *Net) peer(id covey.NodeID) *peer {
	n.peersMu.Lock()
	defer n.peersMu.Unlock()
	p := n.peers[id]
	if p == nil {
		p = &peer{n: n, id: id}
		p.slots.mostCalls, p.slots.mostBytes = int64(n.cfg.Calls), int64(n.cfg.CallBytes)
		n.peers[id] = p
	}
	return p
}

func (n *Net) allPeers() []*peer {
	n.peersMu.RLock()
	defer n.peersMu.RUnlock()
	return slices.Collect(maps.Values(n.peers))
}

// HandlePost registers the handler of a kind of posts. The posts of one peer come
// one at a time, in order, from the goroutine that reads its link: f must not
// block, or the peer counts as silent. It owns the payload.
func (n *Net) HandlePost(kind Kind, f func(from covey.NodeID, payload []byte)) {
	register(&n.posts[kind], "post", uint8(kind), f)
}

// Handle registers the handler of a method. Each call has a goroutine. f owns the
// request, and the reply it returns must not be changed any more. ctx ends when
// the caller does not wait any more, as far as that is known here, and at Close,
// which waits for f.
func (n *Net) Handle(m Method, f func(ctx context.Context, from covey.NodeID, req []byte) ([]byte, error)) {
	register(&n.methods[m], "method", uint8(m), f)
}

// HandleJoin registers the handler of a method of CallAddr. All that is known of
// the caller is that it has the cluster's secret and the key it shows: whether it
// may be the node that it says is for f to decide. It is none that Pin knows by
// another key, not this node, and in no other cluster. f is called as by Handle,
// at most 16 at a time, and has 30 seconds.
func (n *Net) HandleJoin(m Method, f func(ctx context.Context, from Remote, req []byte) ([]byte, error)) {
	register(&n.joins[m], "join method", uint8(m), f)
}

func register[F any](slot *atomic.Pointer[F], what string, number uint8, f F) {
	if !slot.CompareAndSwap(nil, &f) {
		panic(fmt.Sprintf("peer: %s %d has a handler", what, number))
	}
}

// HandleConn registers the handler of a service: the other end of Dial. f runs in
// a goroutine of its own; the connection is closed when it returns. Close breaks
// the connection and waits for f.
func (n *Net) HandleConn(service string, f func(from covey.NodeID, header []byte, c net.Conn)) {
	if _, taken := n.services.LoadOrStore(service, f); taken {
		panic(fmt.Sprintf("peer: service %q has a handler", service))
	}
}

// protect calls a handler and reports whether it returned.
func (n *Net) protect(what string, from covey.NodeID, f func()) (ok bool) {
	defer func() {
		if v := recover(); v != nil {
			n.cfg.Metrics.panics.Inc()
			n.cfg.Logger.Error("handler panicked", "handler", what, "peer", from, "panic", v, "stack", string(debug.Stack()))
		}
	}()
	f()
	return true
}

// check returns why a connection is not wanted, as things are now.
func (n *Net) check(c class, r Remote, ca []byte) error {
	id := n.identity.Load()
	pinned, isMember := n.cfg.Pin(r.Node)
	var none covey.ClusterID
	switch {
	case !id.believes(ca):
		return refuse(refusedCertificate, covey.Denied, "certificate of a cluster secret that is not valid any more")
	case r.Node == id.node:
		return refuse(refusedNode, covey.Denied, "%s is this node itself, or a copy of it", r.Node)
	case c == join && (r.Cluster == none || id.cluster == none):
		// Whoever is in no cluster yet may ask, and may be asked.
	case id.cluster == none:
		return refuse(refusedCluster, covey.Unavailable, "node %s is in no cluster yet", id.node)
	case r.Cluster != id.cluster:
		return refuse(refusedCluster, covey.Denied, "node %s is of cluster %s, node %s of %s", r.Node, r.Cluster, id.node, id.cluster)
	}
	switch {
	case isMember && !bytes.Equal(pinned, r.Key):
		return refuse(refusedPin, covey.Denied, "node %s is known by another key", r.Node)
	case !isMember && c != join:
		return refuse(refusedPin, covey.Denied, "node %s is not a member of the cluster", r.Node)
	}
	return nil
}

// admit counts a connection among those that Recheck looks after, if it is
// wanted. Then release undoes it.
func (n *Net) admit(c *conn) error {
	n.mu.Lock()
	if n.closed {
		n.mu.Unlock()
		return errStopped
	}
	n.conns[c] = struct{}{}
	n.mu.Unlock()
	// In this order: what changes after this check is seen by Recheck.
	err := n.check(c.class, c.remote, c.ca)
	if err == nil {
		err = n.believe(c.remote)
	}
	if err != nil {
		n.forget(c) // still open, for the reason to be told
	}
	return err
}

// believe returns why the disk of whoever is at the other end is not to be believed.
// That is asked once for each connection: its certificate does not follow the stamp.
func (n *Net) believe(r Remote) error {
	if n.cfg.Believe == nil {
		return nil
	}
	if err := n.cfg.Believe(r.Node, r.Stamp); err != nil {
		return &refusal{refusedDisk, err}
	}
	return nil
}

// release closes a connection and forgets it.
func (n *Net) release(c *conn) {
	_ = c.sock.Close() // there is nothing left to lose
	n.forget(c)
}

func (n *Net) forget(c *conn) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.conns, c)
	if len(n.conns) == 0 && n.gone != nil {
		close(n.gone)
		n.gone = nil
	}
}

func (n *Net) allConns() []*conn {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Collect(maps.Keys(n.conns))
}

// cutStreams breaks the streams of a node that is silent since then.
func (n *Net) cutStreams(id covey.NodeID, since time.Time) {
	for _, c := range n.allConns() {
		if c.outlived(since, id) {
			c.cut(errSilent)
		}
	}
}

// Recheck looks again whether the other end of each connection is still a member
// by its key, and cuts those that are not. It is called after anything changed
// that Pin says.
func (n *Net) Recheck() {
	for _, c := range n.allConns() {
		if err := n.check(c.class, c.remote, c.ca); err != nil {
			n.cfg.Logger.Warn("connection cut", "peer", c.remote.Node, "class", c.class.String(), "err", err)
			c.cut(err)
		}
	}
	for _, p := range n.allPeers() {
		if _, ok := n.cfg.Pin(p.id); ok {
			continue
		}
		n.peersMu.Lock()
		delete(n.peers, p.id)
		n.peersMu.Unlock()
		for _, l := range p.inUse() {
			l.end(covey.Errorf(covey.Unavailable, "node %s is not a member of the cluster any more", p.id))
		}
	}
}

// SetSecrets replaces the cluster's secrets. The certificate of this node comes
// from the first; those of others may come from any. Connections that come from
// another are cut, links are replaced when the calls on them are done.
func (n *Net) SetSecrets(secrets []Secret) error {
	return n.become(func(f *facts) error {
		f.secrets = secrets
		return nil
	})
}

// SetCluster says which cluster the node is in from now on. That is said once.
func (n *Net) SetCluster(cluster covey.ClusterID) error {
	return n.become(func(f *facts) error {
		if f.cluster != cluster && f.cluster != (covey.ClusterID{}) {
			return covey.Errorf(covey.Conflict, "node %s is in cluster %s", f.node, f.cluster)
		}
		f.cluster = cluster
		return nil
	})
}

// SetStamp says which stamp this node's disk has from now on. Connections made from
// now on show it; those that there are stay.
func (n *Net) SetStamp(stamp covey.DiskStamp) error {
	return n.show(func(f *facts) error {
		f.stamp = stamp
		return nil
	})
}

// show changes the identity that this node shows.
func (n *Net) show(change func(*facts) error) error {
	for {
		was := n.identity.Load()
		f := was.facts
		if err := change(&f); err != nil {
			return err
		}
		id, err := newIdentity(f, n.cfg.Key)
		if err != nil {
			return err
		}
		if n.identity.CompareAndSwap(was, id) {
			return nil
		}
	}
}

// become is show for a change that connections must not outlive.
func (n *Net) become(change func(*facts) error) error {
	if err := n.show(change); err != nil {
		return err
	}
	n.Recheck()
	for _, p := range n.allPeers() {
		for _, l := range p.inUse() {
			p.retire(l, nil)
		}
		for _, in := range p.accepted() {
			in.bye(byeRenewed)
		}
	}
	return nil
}

// Shutdown ends the Net in peace: calls and posts of this node are refused, calls
// of others are refused, what is under way is finished, and peers are told to
// call no more. When all connections are closed, or ctx has ended, it calls
// Close. The error is ctx's.
func (n *Net) Shutdown(ctx context.Context) error {
	n.stopping.Store(true)
	for _, l := range n.allListeners() {
		_ = l.Close() // Serve returns
	}
	for _, p := range n.allPeers() {
		for _, l := range p.inUse() {
			p.retire(l, nil)
		}
		for _, in := range p.accepted() {
			in.bye(byeStopping)
		}
	}
	n.mu.Lock()
	var gone chan struct{}
	if len(n.conns) > 0 && !n.closed {
		if n.gone == nil {
			n.gone = make(chan struct{})
		}
		gone = n.gone
	}
	n.mu.Unlock()
	var err error
	if gone != nil {
		select {
		case <-gone:
		case <-n.ctx.Done():
		case <-ctx.Done():
			err = ctx.Err()
		}
	}
	n.Close()
	return err
}

// Close breaks all connections and waits for everything that the Net started,
// handlers too. It may be called again.
func (n *Net) Close() {
	n.stopping.Store(true)
	n.mu.Lock()
	n.closed = true
	n.mu.Unlock()
	n.cancel()
	for _, l := range n.allListeners() {
		_ = l.Close()
	}
	for _, c := range n.allConns() {
		c.cut(errStopped)
	}
	n.wg.Wait()
}

func (n *Net) allListeners() []*serve.Listener {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Collect(maps.Keys(n.listeners))
}

// countCall counts the outcome of a call of ours.
func (n *Net) countCall(err error) {
	if err == nil {
		n.callsOK.Inc()
		return
	}
	n.cfg.Metrics.calls.WithLabelValues(covey.KindOf(err).String()).Inc()
}
