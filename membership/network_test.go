package membership

import (
	"bytes"
	"encoding/binary"
	"io"
	"log/slog"
	"net"
	"testing"
	"time"

	"github.com/covey-mail/covey"
)

// loopback starts a node on 127.0.0.1 that probes often, and ends it after the
// test.
func loopback(t *testing.T, id covey.NodeID, edit ...func(*Config)) *Gossip {
	t.Helper()
	cfg := Config{
		Self:   Member{ID: id, Peer: "127.0.0.1:7947"},
		Keys:   [][]byte{key(1)},
		Bind:   "127.0.0.1:0",
		Timing: Timing{Probe: 100 * time.Millisecond, ProbeTimeout: 50 * time.Millisecond, Rejoin: 200 * time.Millisecond},
	}
	for _, e := range edit {
		e(&cfg)
	}
	g, err := Start(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { g.Close() })
	return g
}

func addr(g *Gossip) string {
	m, _ := g.Member(g.cfg.Self.ID)
	return m.Gossip
}

// eventually waits for what real sockets and clocks bring about.
func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for by := time.Now().Add(time.Minute); !cond(); <-tick.C {
		if time.Now().After(by) {
			t.Fatalf("it never happens that %s", what)
		}
	}
}

func TestOverSockets(t *testing.T) {
	a := loopback(t, 1)
	known := func(c *Config) { c.Seeds = func() []string { return []string{addr(a)} } }
	b := loopback(t, 2, known)
	c := loopback(t, 3, known)
	nodes := []*Gossip{a, b, c}
	for _, g := range nodes {
		eventually(t, "all are together", func() bool { return g.living() == 3 })
	}
	a.Announce([]Leader{{1, 1, 1, true}})
	for _, g := range nodes {
		eventually(t, "all know who leads", func() bool { return g.Leaders()[1].Node == 1 })
	}
	c.Close()
	for _, g := range nodes[:2] {
		eventually(t, "it is dead", func() bool { m, _ := g.Member(3); return m.State == Dead })
	}
	again := loopback(t, 3, known, func(cfg *Config) { cfg.Bind = addr(c) })
	nodes[2] = again
	for _, g := range nodes {
		eventually(t, "it is back", func() bool { return g.living() == 3 })
	}
	if err := b.Leave(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it has left", func() bool { m, _ := a.Member(2); return m.State == Left })
}

// TestC01_C05_ForeignPackets: what is no gossip of this cluster is counted by what
// is wrong with it, and has no other effect.
func TestC01_C05_ForeignPackets(t *testing.T) {
	logged := &lines{}
	g := loopback(t, 1, func(c *Config) { c.Logger = slog.New(slog.NewTextHandler(logged, nil)) })
	own := []byte(newFrame(g.cfg.label()))
	with := func(rest ...byte) []byte { return append(bytes.Clone(own), rest...) }
	tests := []struct {
		name, reason string
		packet       []byte
	}{
		{"nothing of ours", refusedLabel, []byte("GET / HTTP/1.0\r\n\r\n")},
		{"plaintext gossip", refusedLabel, []byte{0, 1, 2, 3}},
		{"label cut off", refusedLabel, own[:20]},
		{"another label", refusedLabel, append(newFrame("00000000000000000000000000000009"), make([]byte, 100)...)},
		{"label and nothing", refusedForm, own},
		{"too short for a tag", refusedForm, with(append([]byte{cipher}, make([]byte, 28)...)...)},
		{"encryption that pads", refusedForm, with(make([]byte, 100)...)},
		{"encryption of the future", refusedForm, with(append([]byte{2}, make([]byte, 100)...)...)},
		{"no key fits", refusedDecrypt, with(append([]byte{cipher}, make([]byte, 1000)...)...)},
		{"large", refusedDecrypt, with(append([]byte{cipher}, make([]byte, 60000)...)...)},
	}
	c, err := net.Dial("udp", addr(g))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for _, tt := range tests {
		before := refused(t, g, tt.reason)
		for range 20 {
			if _, err := c.Write(tt.packet); err != nil {
				t.Fatal(err)
			}
		}
		eventually(t, tt.name+" is refused", func() bool { return refused(t, g, tt.reason) > before })
	}
	if len(g.Members()) != 1 {
		t.Errorf("members %v", g.Members())
	}
	// One line for each reason, whatever came.
	if got := logged.count("level=WARN"); got > 3 {
		t.Errorf("%d lines logged:\n%s", got, logged.text.String())
	}
	b := loopback(t, 2, func(c *Config) { c.Seeds = func() []string { return []string{addr(g)} } })
	eventually(t, "gossip goes on", func() bool { return g.living() == 2 && b.living() == 2 })
}

// TestC01_ForeignStreams is the same of streams.
func TestC01_ForeignStreams(t *testing.T) {
	g := loopback(t, 1)
	own := []byte(newFrame(g.cfg.label()))
	with := func(mark byte, size uint32, version byte) []byte {
		b := append(bytes.Clone(own), mark)
		return append(binary.BigEndian.AppendUint32(b, size), version)
	}
	tests := []struct {
		name, reason string
		begin        []byte
	}{
		{"HTTP", refusedLabel, []byte("GET / HTTP/1.0\r\nHost: somewhere.example\r\n\r\n")},
		{"another label", refusedLabel, append(newFrame("00000000000000000000000000000009"), make([]byte, 100)...)},
		{"cut off", refusedForm, own[:20]},
		{"not encrypted", refusedForm, with(6, 100, cipher)},
		{"encryption that pads", refusedForm, with(streamMark, 100, 0)},
		{"of no plaintext", refusedForm, with(streamMark, cipherExtra, cipher)},
		{"20 MB", refusedForm, with(streamMark, 20<<20, cipher)},
		{"no key fits", refusedDecrypt, append(with(streamMark, 100, cipher), make([]byte, 99)...)},
	}
	for _, tt := range tests {
		before := refused(t, g, tt.reason)
		c, err := net.Dial("tcp", addr(g))
		if err != nil {
			t.Fatal(err)
		}
		// It may be refused, and closed, before all is written.
		_, _ = c.Write(tt.begin)
		_ = c.(*net.TCPConn).CloseWrite()
		_, _ = io.Copy(io.Discard, c) // until it is closed
		c.Close()
		eventually(t, tt.name+" is refused", func() bool { return refused(t, g, tt.reason) > before })
	}
}

// TestC03_HalfOpenStreams: streams that say nothing take no more room than is
// allowed, and gossip goes on beside them.
func TestC03_HalfOpenStreams(t *testing.T) {
	g := loopback(t, 1)
	for range maxStreams + 10 {
		c, err := net.Dial("tcp", addr(g))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	eventually(t, "the rest is refused", func() bool { return refused(t, g, refusedStreams) >= 10 })
	g.SetLoad(Load{Sessions: 1})
	eventually(t, "gossip goes on", func() bool { m, _ := g.Member(1); return m.Load.Sessions == 1 })
}

// TestRoomForItself: streams of others leave room for the observer's.
func TestRoomForItself(t *testing.T) {
	n, err := listen("127.0.0.1:0", "", newFrame("x"), func(string, net.Addr) {})
	if err != nil {
		t.Fatal(err)
	}
	n.start()
	defer n.Shutdown()
	for range maxStreams {
		c, err := net.Dial("tcp", n.advertise.String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		s := <-n.StreamCh()
		defer s.Close()
	}
	here, there := net.Pipe()
	defer here.Close()
	taken := make(chan net.Conn, 1)
	go func() { taken <- <-n.StreamCh() }()
	if err := n.IngestStream(there); err != nil {
		t.Fatal(err)
	}
	s := <-taken
	if s.RemoteAddr() != there.RemoteAddr() {
		t.Errorf("another stream: %v", s.RemoteAddr())
	}
	s.Close()
}

// TestHostileReply: a seed that is no node of ours cannot do more than refuse.
func TestHostileReply(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = c.Write([]byte{streamMark, 0, 0, 0, 100, 0, 1, 1, 1, 1, 1, 1})
			c.Close()
		}
	}()
	g := loopback(t, 1, func(c *Config) { c.Seeds = func() []string { return []string{l.Addr().String()} } })
	eventually(t, "its reply is refused", func() bool { return refused(t, g, refusedForm) > 0 })
	l.Close()
	<-done
}

func TestAdvertise(t *testing.T) {
	refuse := func(string, net.Addr) {}
	tests := []struct{ bind, advertise, want string }{
		{"127.0.0.1:0", "", "127.0.0.1"},
		{"127.0.0.1:0", "192.0.2.1:77", "192.0.2.1:77"},
		{"127.0.0.1:0", "192.0.2.1:0", "192.0.2.1"},
		{":0", "192.0.2.1:77", "192.0.2.1:77"},
		{"localhost:0", "", "127.0.0.1"},
	}
	for _, tt := range tests {
		n, err := listen(tt.bind, tt.advertise, newFrame("x"), refuse)
		if err != nil {
			t.Errorf("%v: %v", tt, err)
			continue
		}
		n.start()
		if got := n.advertise; got.String() != tt.want && got.Addr().String() != tt.want || got.Port() == 0 {
			t.Errorf("%v: %s", tt, got)
		}
		_ = n.Shutdown()
	}
	for _, tt := range tests[:3] {
		for _, bad := range [][2]string{{":0", ""}, {"0.0.0.0:0", ""}, {tt.bind, "nonsense"}, {tt.bind, "0.0.0.0:1"}, {"nonsense", ""}} {
			if _, err := listen(bad[0], bad[1], newFrame("x"), refuse); covey.KindOf(err) != covey.Invalid {
				t.Errorf("%v: %v, want Invalid", bad, err)
			}
		}
	}
}

func TestPortTaken(t *testing.T) {
	g := loopback(t, 1)
	cfg := g.cfg
	cfg.Bind = addr(g)
	if _, err := Start(cfg); covey.KindOf(err) != covey.Unavailable {
		t.Errorf("Start: %v, want Unavailable", err)
	}
}
