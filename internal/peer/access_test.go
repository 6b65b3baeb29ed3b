package peer

import (
	"bytes"
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/covey-mail/covey"
)

func newProxyListener(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// outsider returns a Net that does not listen, made from the config of node 1.
func outsider(t *testing.T, r *roster, change func(*Config)) *Net {
	t.Helper()
	cfg, _ := testConfig(1, r)
	change(&cfg)
	n, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.Close)
	return n
}

// Whoever lacks one of the four (secret, cluster, membership, key) gets nothing
// through, in either direction, and the log says which (C-02, C-03, C-05).
func TestWhoIsRefused(t *testing.T) {
	tests := []struct {
		name   string
		change func(*Config)
		reason string
	}{
		{"other secret", func(c *Config) { c.Secrets = []Secret{testSecret(9)} }, refusedTLS},
		{"other cluster", func(c *Config) { c.Cluster = covey.ClusterID{9} }, refusedTLS},
		{"no cluster", func(c *Config) { c.Cluster = covey.ClusterID{} }, refusedTLS},
		{"key of another", func(c *Config) { c.Key = testKey(3) }, refusedPin},
		{"not a member", func(c *Config) { c.Node, c.Key = 99, testKey(99) }, refusedPin},
		{"ourselves", func(c *Config) { c.Node, c.Key = 2, testKey(2) }, refusedTLS},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			r := newRoster()
			r.set(1, testPub(1), "")
			b := start(t, 2, r)
			got := make(chan struct{}, 1)
			b.HandlePost(1, func(covey.NodeID, []byte) { got <- struct{}{} })
			b.Handle(echoMethod, echo)
			b.HandleConn("s", func(_ covey.NodeID, _ []byte, c net.Conn) { got <- struct{}{} })
			n := outsider(t, r.clone(), test.change)
			if n.cfg.Node != 2 {
				_, err := n.Call(t.Context(), 2, echoMethod)
				wantKind(t, err, covey.Unavailable)
				n.Post(2, 1)
			}
			for _, class := range []class{control, bulk, stream} {
				c, err := n.reach(t.Context(), 2, hello{class: class, service: "s"})
				if err == nil {
					n.release(c)
					t.Errorf("%s: let in", class)
				} else if test.reason == refusedPin && covey.KindOf(err) != covey.Denied { // who knows the secret is told
					t.Errorf("%s: %v, want Denied", class, err)
				}
			}
			waitFor(t, "the refusal", func() bool { return b.log.count("reason="+test.reason) > 0 })
			if len(got) > 0 {
				t.Error("a handler was called")
			}
		})
	}
}

// C-04: a node whose disk is older than what it told before reaches nobody, and is
// reached by nobody. One that moves on is not cut off meanwhile.
func TestC04_DiskPutBack(t *testing.T) {
	stamp := func(count uint64) covey.DiskStamp { return covey.DiskStamp{Count: count, Mark: 7 * count} }
	r := newRoster()
	b := start(t, 2, r)
	b.Handle(echoMethod, echo)
	a := start(t, 1, r, func(c *Config) { c.Stamp = stamp(5) })
	a.Handle(echoMethod, echo)
	call := func(from *Net, to covey.NodeID) error {
		_, err := from.Call(t.Context(), to, echoMethod)
		return err
	}
	for _, now := range []uint64{5, 6} {
		if err := a.SetStamp(stamp(now)); err != nil {
			t.Fatal(err)
		}
		r.stamp(1, stamp(now))
		if err := call(a.Net, 2); err != nil {
			t.Errorf("stamp %d: %v", now, err)
		}
		c, err := a.reach(t.Context(), 2, hello{class: bulk})
		if err != nil {
			t.Fatalf("a new connection with stamp %d: %v", now, err)
		}
		a.release(c)
	}
	if n := a.log.count("link down") + b.log.count("connection cut"); n > 0 {
		t.Errorf("%d links were lost", n)
	}
	a.Close()

	behind := start(t, 1, r, func(c *Config) { c.Stamp = stamp(5) })
	behind.Handle(echoMethod, echo)
	wantKind(t, call(behind.Net, 2), covey.Unavailable)
	for _, class := range []class{control, bulk, stream, join} {
		c, err := behind.reach(t.Context(), 2, hello{class: class, service: "s"})
		if err == nil {
			behind.release(c)
		}
		if covey.KindOf(err) != covey.Denied || !strings.Contains(err.Error(), "is old") {
			t.Errorf("%s: %v, want Denied and why", class, err)
		}
	}
	wantKind(t, call(b.Net, 1), covey.Unavailable)
	if b.log.count("reason=disk") == 0 {
		t.Error("node 2 does not say why")
	}
}

// The same with diallers that do not check whom they talk to, so that it is the
// acceptor that refuses (C-03, C-05).
func TestAcceptorRefuses(t *testing.T) {
	ours := []Secret{testSecret(1)}
	issue := func(node covey.NodeID, cluster covey.ClusterID, secrets []Secret, change func(*x509.Certificate)) tls.Certificate {
		leaf := leafTemplate(node, cluster)
		change(leaf)
		ca, err := newCA(secrets[0].caKey())
		if err != nil {
			t.Fatal(err)
		}
		der, err := x509.CreateCertificate(nil, leaf, ca, testPub(node), secrets[0].caKey())
		if err != nil {
			t.Fatal(err)
		}
		return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: testKey(node)}
	}
	same := func(*x509.Certificate) {}
	good := issue(1, testCluster, ours, same)
	twice := good
	twice.Certificate = [][]byte{good.Certificate[0], good.Certificate[0]}
	tests := []struct {
		name   string
		cert   *tls.Certificate
		reason string // "" is let in
	}{
		{"good", &good, ""},
		{"none", nil, refusedTLS},
		{"two", &twice, refusedCertificate},
		{"of a foreign CA", new(issue(1, testCluster, []Secret{testSecret(2)}, same)), refusedCertificate},
		{"of another cluster", new(issue(1, covey.ClusterID{7}, ours, same)), refusedCluster},
		{"of no cluster", new(issue(1, covey.ClusterID{}, ours, same)), refusedCluster},
		{"of a stranger", new(issue(5, testCluster, ours, same)), refusedPin},
		{"of the node itself", new(issue(2, testCluster, ours, same)), refusedNode},
		{"of node 1 with another key", func() *tls.Certificate {
			ca, _ := newCA(ours[0].caKey())
			der, err := x509.CreateCertificate(nil, leafTemplate(1, testCluster), ca, testPub(4), ours[0].caKey())
			if err != nil {
				t.Fatal(err)
			}
			return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: testKey(4)}
		}(), refusedPin},
		{"expired", new(issue(1, testCluster, ours, func(c *x509.Certificate) {
			c.NotAfter = time.Now().Add(-time.Minute)
		})), refusedCertificate},
		{"of tomorrow", new(issue(1, testCluster, ours, func(c *x509.Certificate) {
			c.NotBefore = time.Now().Add(24 * time.Hour)
		})), refusedCertificate},
		{"for clients only", new(issue(1, testCluster, ours, func(c *x509.Certificate) {
			c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
		})), refusedCertificate},
		{"for a host", new(issue(1, testCluster, ours, func(c *x509.Certificate) {
			c.URIs, c.DNSNames = nil, []string{"localhost"}
		})), refusedCertificate},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			r := newRoster()
			r.set(1, testPub(1), "")
			b := start(t, 2, r)
			cfg := &tls.Config{InsecureSkipVerify: true, NextProtos: []string{protocol}}
			if test.cert != nil {
				cfg.Certificates = []tls.Certificate{*test.cert}
			}
			err := knock(b.addr, cfg)
			if test.reason == "" {
				if err != nil {
					t.Errorf("refused: %v", err)
				}
				return
			}
			if err == nil {
				t.Error("let in")
			}
			waitFor(t, "the refusal", func() bool { return b.log.count("reason="+test.reason) == 1 })
			if n := value(t, b.cfg.Metrics.refused.WithLabelValues(test.reason)); n != 1 {
				t.Errorf("%v refusals were counted", n)
			}
		})
	}
}

// knock dials, says that it wants a control link, and returns the answer.
func knock(addr string, cfg *tls.Config) error {
	c, err := tls.Dial("tcp", addr, cfg)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := (hello{class: control}).write(c); err != nil {
		return err
	}
	return readAnswer(&conn{Conn: c})
}

// A later version that has given this one up is told so, and so are we.
func TestOtherVersions(t *testing.T) {
	r := newRoster()
	r.set(1, testPub(1), "")
	b := start(t, 2, r)
	cert := outsider(t, r, func(*Config) {}).identity.Load().cert
	for _, protocols := range [][]string{{"covey/2"}, {"h2", "http/1.1"}, nil} {
		err := knock(b.addr, &tls.Config{InsecureSkipVerify: true, NextProtos: protocols, Certificates: []tls.Certificate{cert}})
		if err == nil {
			t.Errorf("%v: let in", protocols)
		}
	}
	err := knock(b.addr, &tls.Config{
		InsecureSkipVerify: true, NextProtos: []string{"covey/2", protocol}, Certificates: []tls.Certificate{cert},
	})
	if err != nil {
		t.Errorf("one that speaks both: %v", err)
	}
	err = knock(b.addr, &tls.Config{
		InsecureSkipVerify: true, NextProtos: []string{protocol}, Certificates: []tls.Certificate{cert}, MaxVersion: tls.VersionTLS12,
	})
	if err == nil {
		t.Error("TLS 1.2 was let in")
	}
}

// Garbage has no effect, and members get in beside it (C-03).
func TestGarbage(t *testing.T) {
	a, b, _ := pair(t)
	inputs := map[string][]byte{
		"nothing":      nil,
		"zeros":        make([]byte, 100),
		"http":         []byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"),
		"long record":  {22, 3, 1, 255, 255},
		"long hello":   append([]byte{22, 3, 1, 64, 0, 1, 255, 255, 255}, make([]byte, 16<<10)...),
		"plain frames": header{size: 1 << 31, typ: frameHello, code: 1}.append(nil),
	}
	for name, input := range inputs {
		c, err := net.Dial("tcp", b.addr)
		if err != nil {
			t.Fatal(err)
		}
		c.Write(input)
		c.(*net.TCPConn).CloseWrite()
		io.Copy(io.Discard, c)
		c.Close()
		mustCall(t, a.Net, b.id, echoMethod, name)
	}
	if _, err := http.Get("http://" + b.addr + "/metrics"); err == nil {
		t.Error("HTTP was answered")
	}
	http.DefaultClient.CloseIdleConnections()
	// One address: one line.
	if n := b.log.count("connection refused"); n != 1 {
		t.Errorf("%d lines for one address", n)
	}
}

// A member that speaks nonsense loses its link, and the node nothing (C-03).
func TestNonsenseOfAMember(t *testing.T) {
	r := newRoster()
	r.set(1, testPub(1), "")
	b := start(t, 2, r)
	n := outsider(t, r, func(*Config) {})
	long := binary.LittleEndian.AppendUint32(nil, 1<<31)
	for name, input := range map[string][]byte{
		"length 2^31":   append(long, make([]byte, 16)...),
		"type 0":        make([]byte, headerSize),
		"type 200":      header{typ: 200}.append(nil),
		"a reply":       header{typ: frameReply}.append(nil),
		"a bye":         header{typ: frameBye}.append(nil),
		"another hello": header{typ: frameHello, code: 1}.append(nil),
		"reserved":      bytes.Replace(header{typ: framePing}.append(nil), []byte{5, 0, 0, 0}, []byte{5, 0, 1, 0}, 1),
	} {
		c, err := n.reach(t.Context(), 2, hello{class: control})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		c.Write(input)
		rd := frameReader{r: c, max: MaxPayload}
		for err == nil {
			_, _, err = rd.next()
		}
		n.release(c)
	}
	b.Handle(echoMethod, echo)
	waitFor(t, "a link that works", func() bool {
		_, err := n.Call(t.Context(), 2, echoMethod)
		return err == nil
	})
	for _, h := range []hello{{class: 0}, {class: 9}, {class: stream, service: "none"}} {
		if c, err := n.reach(t.Context(), 2, h); err == nil {
			n.release(c)
			t.Errorf("hello for %s was taken", h.class)
		}
	}
}

// Half-open handshakes cost a bounded number of goroutines, time out, and leave
// room for members (C-03).
func TestHalfOpenHandshakes(t *testing.T) {
	a, b, _ := pair(t, func(c *Config) { c.Strangers = 8 })
	mustCall(t, a.Net, b.id, echoMethod, "a member came from here")
	before := runtime.NumGoroutine()
	var conns []net.Conn
	defer func() {
		for _, c := range conns {
			c.Close()
		}
	}()
	for range 300 {
		c, err := net.Dial("tcp", b.addr)
		if err != nil {
			t.Fatal(err)
		}
		conns = append(conns, c)
	}
	busy := func() float64 { return value(t, b.cfg.Metrics.refused.WithLabelValues(refusedBusy)) }
	waitFor(t, "refusals", func() bool { return busy() == 300-4 })
	if n := runtime.NumGoroutine() - before; n > 4*3+10 {
		t.Errorf("%d goroutines more for 300 connections, with room for 4", n)
	}
	mustCall(t, a.Net, b.id, echoMethod, "links that are up do not care")
	for _, c := range conns {
		c.Close()
	}
	waitFor(t, "room again", func() bool {
		b.gate.mu.Lock()
		defer b.gate.mu.Unlock()
		return b.gate.open == 0 && len(b.gate.from) == 0
	})
	mustCall(t, a.Net, b.id, echoBulk, "a new link")
	if n := b.log.count("connection refused"); n != 1 {
		t.Errorf("%d lines in the log for one address", n)
	}
}

// A member that is removed is cut off at once, and stays so; one whose key
// changed likewise.
func TestRecheck(t *testing.T) {
	for _, change := range []func(*roster){
		func(r *roster) { r.remove(1) },
		func(r *roster) { r.set(1, testPub(5), "") },
	} {
		r := newRoster()
		b := start(t, 2, r)
		rb := r.clone() // what 1 believes does not change
		a := start(t, 1, rb)
		r.set(1, testPub(1), a.addr)
		b.Handle(echoMethod, echo)
		a.Handle(echoMethod, echo)
		arrived, _ := waiter(t, b)
		began, ended := make(chan struct{}), make(chan struct{})
		b.HandleConn("s", func(_ covey.NodeID, _ []byte, c net.Conn) {
			close(began)
			io.Copy(io.Discard, c)
			close(ended)
		})
		mustCall(t, a.Net, 2, echoMethod, "in")
		mustCall(t, b.Net, 1, echoMethod, "out")
		s, err := a.Dial(t.Context(), 2, "s", nil)
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		wg.Go(func() {
			_, err := a.Call(t.Context(), 2, waitMethod)
			if covey.KindOf(err) != covey.Unknown {
				t.Errorf("a call under way: %v", err)
			}
		})
		<-arrived
		<-began
		b.Recheck() // nothing has changed
		mustCall(t, a.Net, 2, echoMethod, "still in")

		change(r)
		b.Recheck()
		<-ended
		s.Close()
		wg.Wait()
		for range 3 {
			_, err = a.Call(t.Context(), 2, echoMethod)
			wantKind(t, err, covey.Unavailable)
		}
		_, err = b.Call(t.Context(), 1, echoMethod)
		wantKind(t, err, covey.Unavailable)
		waitFor(t, "the last connection", func() bool { return len(b.allConns()) == 0 })
	}
}

// A secret is replaced while the cluster works: no call fails on the way, and at
// the end the old one opens nothing.
func TestRotation(t *testing.T) {
	r := newRoster()
	nodes := []*node{start(t, 1, r), start(t, 2, r), start(t, 3, r)}
	for _, n := range nodes {
		n.Handle(echoMethod, echo)
		n.Handle(echoBulk, echo)
	}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for _, from := range nodes {
		for _, to := range nodes {
			if from == to {
				continue
			}
			wg.Go(func() {
				for i := 0; ; i++ {
					select {
					case <-stop:
						return
					default:
					}
					m := []Method{echoMethod, echoBulk}[i%2]
					if _, err := from.Call(t.Context(), to.id, m, []byte("x")); err != nil {
						t.Errorf("from %s to %s: %v", from.id, to.id, err)
						return
					}
				}
			})
		}
	}
	older, newer := testSecret(1), testSecret(2)
	for _, secrets := range [][]Secret{{older, newer}, {newer, older}} {
		for _, n := range nodes {
			if err := n.SetSecrets(secrets); err != nil {
				t.Fatal(err)
			}
		}
	}
	close(stop)
	wg.Wait()
	// Links that were replaced end in a moment.
	oldKey := older.caKey().Public().(ed25519.PublicKey)
	waitFor(t, "links under the new secret", func() bool {
		for _, n := range nodes {
			for _, c := range n.allConns() {
				if bytes.Equal(c.ca, oldKey) {
					return false
				}
			}
		}
		return true
	})
	for _, n := range nodes {
		if err := n.SetSecrets([]Secret{newer}); err != nil {
			t.Fatal(err)
		}
	}
	n := outsider(t, r, func(*Config) {})
	if c, err := n.reach(t.Context(), 2, hello{class: control}); err == nil {
		n.release(c)
		t.Error("the old secret still opens the door")
	}
	mustCall(t, nodes[0].Net, 2, echoMethod, "the new one does")
}

// A stolen secret that is taken out of use cuts who still comes by it.
func TestSecretOutOfUseIsCut(t *testing.T) {
	a, b, _ := pair(t)
	mustCall(t, a.Net, b.id, echoMethod, "in")
	if err := b.SetSecrets([]Secret{testSecret(2)}); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the cut", func() bool { return len(b.allConns()) == 0 && len(a.allConns()) == 0 })
	_, err := a.Call(t.Context(), b.id, echoMethod)
	wantKind(t, err, covey.Unavailable)
	for _, bad := range [][]Secret{nil, {{}}, {testSecret(1), testSecret(1)}, {testSecret(1), testSecret(2), testSecret(3)}} {
		wantKind(t, b.SetSecrets(bad), covey.Invalid)
	}
}

func TestConfigIsChecked(t *testing.T) {
	for name, change := range map[string]func(*Config){
		"node":    func(c *Config) { c.Node = 0 },
		"key":     func(c *Config) { c.Key = nil },
		"pin":     func(c *Config) { c.Pin = nil },
		"addr":    func(c *Config) { c.Addr = nil },
		"secrets": func(c *Config) { c.Secrets = nil },
	} {
		cfg, _ := testConfig(1, newRoster())
		change(&cfg)
		if _, err := New(cfg); covey.KindOf(errOr(err)) != covey.Invalid {
			t.Errorf("without %s: %v", name, err)
		}
	}
}

// errOr returns err, an Internal error instead of none.
func errOr(err error) error {
	if err == nil {
		return covey.Errorf(covey.Internal, "none")
	}
	return err
}
