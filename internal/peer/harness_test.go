package peer

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"maps"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"go.uber.org/goleak"

	"github.com/covey-mail/covey"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var testCluster = covey.ClusterID{1, 2, 3, 4}

func testSecret(b byte) (s Secret) {
	for i := range s {
		s[i] = b
	}
	return s
}

func testKey(id covey.NodeID) ed25519.PrivateKey {
	seed := make([]byte, ed25519.SeedSize)
	binary.LittleEndian.PutUint64(seed, uint64(id))
	return ed25519.NewKeyFromSeed(seed)
}

func testPub(id covey.NodeID) ed25519.PublicKey { return testKey(id).Public().(ed25519.PublicKey) }

// A roster stands in for the directory.
type roster struct {
	mu     sync.Mutex
	pins   map[covey.NodeID]ed25519.PublicKey
	addrs  map[covey.NodeID]string
	stamps map[covey.NodeID]covey.DiskStamp
}

func newRoster() *roster {
	return &roster{pins: map[covey.NodeID]ed25519.PublicKey{}, addrs: map[covey.NodeID]string{}, stamps: map[covey.NodeID]covey.DiskStamp{}}
}

func (r *roster) pin(id covey.NodeID) (ed25519.PublicKey, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	k, ok := r.pins[id]
	return k, ok
}

func (r *roster) addr(id covey.NodeID) (string, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	a, ok := r.addrs[id]
	return a, ok
}

func (r *roster) stamp(id covey.NodeID, s covey.DiskStamp) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stamps[id] = s
}

func (r *roster) believe(id covey.NodeID, has covey.DiskStamp) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !has.Follows(r.stamps[id]) {
		return covey.Errorf(covey.Denied, "disk of node %s is old", id)
	}
	return nil
}

func (r *roster) set(id covey.NodeID, key ed25519.PublicKey, addr string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.pins[id], r.addrs[id] = key, addr
}

func (r *roster) remove(id covey.NodeID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.pins, id)
}

func (r *roster) clone() *roster {
	r.mu.Lock()
	defer r.mu.Unlock()
	return &roster{pins: maps.Clone(r.pins), addrs: maps.Clone(r.addrs), stamps: maps.Clone(r.stamps)}
}

// A node is a Net that listens.
type node struct {
	*Net
	id   covey.NodeID
	addr string
	log  *syncBuffer
}

// syncBuffer collects a log.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func (s *syncBuffer) count(sub string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return bytes.Count(s.b.Bytes(), []byte(sub))
}

func testConfig(id covey.NodeID, r *roster) (Config, *syncBuffer) {
	log := &syncBuffer{}
	return Config{
		Node: id, Cluster: testCluster, Key: testKey(id), Secrets: []Secret{testSecret(1)},
		Pin: r.pin, Addr: r.addr, Believe: r.believe, Metrics: NewMetrics(),
		Logger: slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}, log
}

// start starts a node on loopback and enters it in the roster.
func start(t testing.TB, id covey.NodeID, r *roster, change ...func(*Config)) *node {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r.set(id, testPub(id), l.Addr().String())
	return startOn(t, l, id, r, change...)
}

func startOn(t testing.TB, l net.Listener, id covey.NodeID, r *roster, change ...func(*Config)) *node {
	t.Helper()
	cfg, log := testConfig(id, r)
	for _, c := range change {
		c(&cfg)
	}
	n, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() {
		if err := n.Serve(l); err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	t.Cleanup(func() {
		n.Close()
		serving.Wait()
		if t.Failed() {
			t.Logf("log of node %s:\n%s", id, log)
		}
	})
	return &node{Net: n, id: id, addr: l.Addr().String(), log: log}
}

const (
	echoMethod Method = 1
	echoBulk          = FirstBulk + 1
	waitMethod Method = 2 // answers when told
	failMethod Method = 3
)

func echo(_ context.Context, _ covey.NodeID, req []byte) ([]byte, error) { return req, nil }

// pair starts two nodes, of which the second echoes.
func pair(t testing.TB, change ...func(*Config)) (a, b *node, r *roster) {
	t.Helper()
	r = newRoster()
	a, b = start(t, 1, r, change...), start(t, 2, r, change...)
	b.Handle(echoMethod, echo)
	b.Handle(echoBulk, echo)
	return a, b, r
}

// waitFor waits for what happens in other goroutines.
func waitFor(t testing.TB, what string, cond func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	limit := time.After(20 * time.Second)
	for !cond() {
		select {
		case <-tick.C:
		case <-limit:
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

func wantKind(t testing.TB, err error, want covey.Kind) {
	t.Helper()
	if err == nil || covey.KindOf(err) != want {
		t.Fatalf("got error %v, want kind %q", err, want)
	}
}

func mustCall(t testing.TB, n *Net, to covey.NodeID, m Method, req string) {
	t.Helper()
	got, err := n.Call(t.Context(), to, m, []byte(req))
	if err != nil || string(got) != req {
		t.Fatalf("call of %s: got %.40q, %v; want %.40q", to, got, err, req)
	}
}

// value adds up a metric's values over its labels.
func value(t testing.TB, c prometheus.Collector) (sum float64) {
	t.Helper()
	ch := make(chan prometheus.Metric, 100)
	c.Collect(ch)
	close(ch)
	for m := range ch {
		var d dto.Metric
		if err := m.Write(&d); err != nil {
			t.Fatal(err)
		}
		sum += d.GetCounter().GetValue() + d.GetGauge().GetValue() + float64(d.GetHistogram().GetSampleCount())
	}
	return sum
}

// A proxy forwards TCP connections, until it is told to do worse.
type proxy struct {
	l      net.Listener
	target string
	wg     sync.WaitGroup

	mu      sync.Mutex // guards what follows
	conns   []net.Conn
	stalled chan struct{} // not nil: nothing passes until it is closed
	dialled int
}

func newProxy(t testing.TB, target string) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{l: l, target: target}
	p.wg.Go(p.serve)
	t.Cleanup(func() {
		l.Close()
		p.resume()
		p.cut()
		p.wg.Wait()
	})
	return p
}

func (p *proxy) serve() {
	for {
		in, err := p.l.Accept()
		if err != nil {
			return
		}
		out, err := net.Dial("tcp", p.target)
		if err != nil {
			in.Close()
			continue
		}
		p.mu.Lock()
		p.conns = append(p.conns, in, out)
		p.dialled++
		p.mu.Unlock()
		p.wg.Go(func() { p.copy(out, in) })
		p.wg.Go(func() { p.copy(in, out) })
	}
}

func (p *proxy) copy(dst, src net.Conn) {
	defer dst.Close()
	buf := make([]byte, 64<<10)
	for {
		n, err := src.Read(buf)
		p.mu.Lock()
		gate := p.stalled
		p.mu.Unlock()
		if gate != nil {
			<-gate
		}
		if n > 0 {
			if _, err := dst.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// stall has nothing pass any more.
func (p *proxy) stall() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stalled == nil {
		p.stalled = make(chan struct{})
	}
}

func (p *proxy) resume() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stalled != nil {
		close(p.stalled)
		p.stalled = nil
	}
}

// cut breaks all connections.
func (p *proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.conns {
		c.Close()
	}
	p.conns = nil
}

// proxied starts two nodes of which the first reaches the second through a proxy
// only.
func proxied(t testing.TB, change ...func(*Config)) (a, b *node, p *proxy) {
	t.Helper()
	r := newRoster()
	b = start(t, 2, r, change...)
	p = newProxy(t, b.addr)
	ra := r.clone()
	ra.set(2, testPub(2), p.l.Addr().String())
	a = start(t, 1, ra, change...)
	pub, _ := ra.pin(1)
	r.set(1, pub, a.addr)
	b.Handle(echoMethod, echo)
	b.Handle(echoBulk, echo)
	return a, b, p
}

// A pipeNet is a network of net.Pipes, for tests that own the time.
type pipeNet struct {
	mu    sync.Mutex // guards what follows
	ports map[string]*pipeListener
	hole  map[string]bool // dialling it takes for ever
	dials int
}

func newPipeNet() *pipeNet {
	return &pipeNet{ports: map[string]*pipeListener{}, hole: map[string]bool{}}
}

func (p *pipeNet) dial(ctx context.Context, addr string) (net.Conn, error) {
	p.mu.Lock()
	l, hole := p.ports[addr], p.hole[addr]
	p.dials++
	p.mu.Unlock()
	if hole {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	if l == nil {
		return nil, errors.New("connection refused")
	}
	ours, theirs := net.Pipe()
	c := &pipeConn{Conn: ours, stalled: make(chan struct{}), gone: make(chan struct{})}
	l.mu.Lock()
	l.conns = append(l.conns, c)
	l.mu.Unlock()
	select {
	case l.ch <- theirs:
		return c, nil
	case <-l.done:
		return nil, errors.New("connection refused")
	}
}

func (p *pipeNet) setHole(addr string, on bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.hole[addr] = on
}

func (p *pipeNet) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.dials
}

func (p *pipeNet) listen(addr string) *pipeListener {
	l := &pipeListener{addr: addr, ch: make(chan net.Conn), done: make(chan struct{}), net: p}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ports[addr] = l
	return l
}

type pipeListener struct {
	net  *pipeNet
	addr string
	ch   chan net.Conn
	once sync.Once
	done chan struct{}

	mu    sync.Mutex
	conns []*pipeConn // of the diallers
}

// stall has what is dialled so far fall silent, in both directions.
func (l *pipeListener) stall() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range l.conns {
		c.stall.Do(func() { close(c.stalled) })
	}
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.ch:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error {
	l.once.Do(func() {
		close(l.done)
		l.net.mu.Lock()
		defer l.net.mu.Unlock()
		if l.net.ports[l.addr] == l {
			delete(l.net.ports, l.addr)
		}
	})
	return nil
}

type pipeAddr string

func (a pipeAddr) Network() string { return "pipe" }
func (a pipeAddr) String() string  { return string(a) }

func (l *pipeListener) Addr() net.Addr { return pipeAddr(l.addr) }

// A pipeConn is the dialler's end of a pipe. Stalled, it takes writes as a kernel
// does and delivers nothing; what arrives meanwhile is lost.
type pipeConn struct {
	net.Conn
	stall   sync.Once
	stalled chan struct{}
	hang    sync.Once
	gone    chan struct{} // closed by Close

	mu       sync.Mutex
	deadline time.Time // for reading
}

func (c *pipeConn) SetReadDeadline(t time.Time) error {
	c.mu.Lock()
	c.deadline = t
	c.mu.Unlock()
	if err := c.Conn.SetReadDeadline(t); !c.isStalled() {
		return err
	}
	return nil // the other end may be closed, of which we know nothing
}

func (c *pipeConn) SetDeadline(t time.Time) error {
	c.mu.Lock()
	c.deadline = t
	c.mu.Unlock()
	return c.Conn.SetDeadline(t)
}

// silence lasts until the deadline.
func (c *pipeConn) silence() error {
	c.mu.Lock()
	d := c.deadline
	c.mu.Unlock()
	var due <-chan time.Time
	if !d.IsZero() {
		due = time.After(time.Until(d))
	}
	select {
	case <-due:
		return os.ErrDeadlineExceeded
	case <-c.gone:
		return net.ErrClosed
	}
}

func (c *pipeConn) isStalled() bool {
	select {
	case <-c.stalled:
		return true
	default:
		return false
	}
}

func (c *pipeConn) Read(p []byte) (int, error) {
	for {
		n, err := c.Conn.Read(p)
		switch {
		case !c.isStalled():
			return n, err
		case err == io.EOF: // not that the cable would tell
			return 0, c.silence()
		case err != nil:
			return 0, err
		}
	}
}

func (c *pipeConn) Write(p []byte) (int, error) {
	if c.isStalled() {
		return len(p), nil
	}
	return c.Conn.Write(p)
}

// Close hides the end from the other side if the connection is stalled.
func (c *pipeConn) Close() error {
	c.hang.Do(func() { close(c.gone) })
	if c.isStalled() {
		return c.Conn.SetDeadline(time.Unix(1, 0))
	}
	return c.Conn.Close()
}

// startPiped starts a node on a pipeNet.
func startPiped(t *testing.T, id covey.NodeID, r *roster, p *pipeNet) (*node, *pipeListener) {
	t.Helper()
	l := p.listen(id.String())
	r.set(id, testPub(id), id.String())
	return startOn(t, l, id, r, func(c *Config) { c.Dial = p.dial }), l
}
