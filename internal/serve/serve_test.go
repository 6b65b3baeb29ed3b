package serve

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A script is a net.Listener that plays what it is given.
type script struct {
	next chan any // error or net.Conn
	done chan struct{}
}

func newScript() *script { return &script{next: make(chan any, 64), done: make(chan struct{})} }

func (s *script) Accept() (net.Conn, error) {
	select {
	case v := <-s.next:
		if err, ok := v.(error); ok {
			return nil, err
		}
		return v.(net.Conn), nil
	case <-s.done:
		return nil, net.ErrClosed
	}
}

func (s *script) Close() error   { close(s.done); return nil }
func (s *script) Addr() net.Addr { return &net.TCPAddr{} }

// A peer is the server's end of a pipe with a remote address.
type peer struct {
	net.Conn
	addr net.Addr
}

func (p peer) RemoteAddr() net.Addr { return p.addr }

// from returns both ends of a pipe; the server's says that it comes from addr.
func from(addr string) (server, client net.Conn) {
	s, c := net.Pipe()
	return peer{s, net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(addr), 4711))}, c
}

// F-22: without descriptors, accepting waits and goes on.
func TestF22_AcceptBacksOffAndRecovers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScript()
		l := Wrap(s, Config{Name: "smtp"})
		emfile := &net.OpError{Op: "accept", Err: os.NewSyscallError("accept4", syscall.EMFILE)}
		accept := func(errs int) time.Duration {
			t.Helper()
			for range errs {
				s.next <- emfile
			}
			server, client := from("192.0.2.1")
			defer client.Close()
			s.next <- server
			start := time.Now()
			c, err := l.Accept()
			if err != nil {
				t.Fatalf("accept after %d errors: %v", errs, err)
			}
			defer c.Close()
			return time.Since(start)
		}
		// 5, 10, … 640 ms, then a second each.
		if got, want := accept(10), 1275*time.Millisecond+2*time.Second; got != want {
			t.Errorf("ten errors took %v, want %v", got, want)
		}
		if got, want := accept(1), 5*time.Millisecond; got != want {
			t.Errorf("after a success the delay was %v, want %v again", got, want)
		}
		if got := value(t, l.cfg.Metrics.AcceptErrors.WithLabelValues("smtp")); got != 11 {
			t.Errorf("counted %v accept errors, want 11", got)
		}

		s.next <- emfile
		failed := make(chan error)
		go func() {
			_, err := l.Accept()
			failed <- err
		}()
		synctest.Wait() // in the back-off
		if err := l.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
		if err := <-failed; !errors.Is(err, net.ErrClosed) {
			t.Errorf("accept while closing: got %v, want net.ErrClosed", err)
		}
		if err := l.Close(); err != nil {
			t.Errorf("second close: %v", err)
		}
	})
}

func TestAcceptReturnsAFaultOfTheListener(t *testing.T) {
	s := newScript()
	l := Wrap(s, Config{})
	defer l.Close()
	s.next <- syscall.EINVAL
	if _, err := l.Accept(); !errors.Is(err, syscall.EINVAL) {
		t.Errorf("got %v, want EINVAL", err)
	}
}

// S-43: caps in all and by address, and slots kept for known peers.
func TestS43_RefusedPastTheCaps(t *testing.T) {
	const refusal = "421 4.7.0 too many connections\r\n"
	s := newScript()
	l := Wrap(s, Config{Name: "mx", Conns: 6, PerAddr: 2, Reserve: 1, Refusal: []byte(refusal)})
	defer l.Close()
	accepted := make(chan net.Conn)
	go func() {
		defer close(accepted)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			accepted <- c
		}
	}()
	admitted := func(addr string) net.Conn {
		t.Helper()
		server, client := from(addr)
		t.Cleanup(func() { client.Close() })
		s.next <- server
		return <-accepted
	}
	refused := func(addr string) {
		t.Helper()
		server, client := from(addr)
		s.next <- server
		got, err := io.ReadAll(client)
		if err != nil || string(got) != refusal {
			t.Errorf("%s: got %q, %v; want the refusal and the end", addr, got, err)
		}
	}

	first := admitted("192.0.2.1")
	admitted("::ffff:192.0.2.1") // the same host
	refused("192.0.2.1")
	admitted("2001:db8::1")
	admitted("2001:db8::ffff:2")
	refused("2001:db8::3") // the same /64
	admitted("2001:db8:0:1::1")
	refused("192.0.2.9") // only the reserve is left
	From(first).Trust()
	if err := first.Close(); err != nil {
		t.Fatalf("close: %v", err)
	}
	_ = first.Close() // gives one slot back, not two
	admitted("192.0.2.77")
	refused("192.0.2.78")
	last := admitted("192.0.2.1") // somebody logged in from there
	refused("192.0.2.1")          // full
	refused("127.0.0.1")          // full for everybody
	last.Close()
	admitted("127.0.0.1")

	refusedBy := func(reason string) float64 {
		return value(t, l.cfg.Metrics.Refused.WithLabelValues("mx", reason))
	}
	if by, total := refusedBy("address"), refusedBy("total"); by != 2 || total != 4 {
		t.Errorf("counted %v refused by address and %v in total, want 2 and 4", by, total)
	}
	if got := value(t, l.cfg.Metrics.Open.WithLabelValues("mx")); got != 6 {
		t.Errorf("counted %v open, want 6", got)
	}
	l.Close()
	for range accepted {
	}
}

// S-43: peers that do not read their refusal hold up nobody.
func TestS43_RefusalsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScript()
		l := Wrap(s, Config{Conns: 1, Reserve: -1, Refusal: []byte("421 no\r\n")})
		server, client := from("192.0.2.1")
		s.next <- server
		if _, err := l.Accept(); err != nil {
			t.Fatal(err)
		}
		go l.Accept()
		var clients []net.Conn // none of which reads
		for range maxRefusals + 3 {
			server, c := from("192.0.2.2")
			s.next <- server
			clients = append(clients, c)
		}
		synctest.Wait()
		closed := 0
		for _, c := range clients {
			if err := c.SetReadDeadline(time.Now()); err != nil { // closed by its peer
				closed++
			}
		}
		if closed != 3 {
			t.Errorf("%d connections closed at once, want the 3 beyond the writers", closed)
		}
		start := time.Now()
		l.Close()
		if d := time.Since(start); d > refusalTime {
			t.Errorf("close took %v, want at most %v", d, refusalTime)
		}
		client.Close()
	})
}

func TestGateForgetsTrustWithinItsBound(t *testing.T) {
	g := newGate(Config{Conns: 8, Reserve: 4, PerAddr: 8})
	now := time.Unix(1e9, 0)
	for i := range maxTrusted + 500 {
		g.trust(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), now)
	}
	if len(g.trusted) > maxTrusted {
		t.Errorf("%d addresses trusted, want at most %d", len(g.trusted), maxTrusted)
	}
	a := netip.MustParseAddr("192.0.2.1")
	g.trust(a, now)
	for range 4 {
		g.enter(netip.MustParseAddr("198.51.100.1"), now)
	}
	if got := g.enter(a, now.Add(trustFor)); got != "" {
		t.Errorf("a trusted address is refused: %s", got)
	}
	if got := g.enter(a, now.Add(trustFor+1)); got != "total" {
		t.Errorf("an address whose trust has ended: got %q, want total", got)
	}
	if g.enter(netip.Addr{}, now) != "" {
		t.Error("a Unix socket may not use the reserve")
	}
}

func TestGateCapsLocalOnlyIfTold(t *testing.T) {
	for _, tt := range []struct {
		capLocal bool
		want     string
	}{{false, ""}, {true, "address"}} {
		g := newGate(Config{Conns: 8, PerAddr: 1, CapLocal: tt.capLocal})
		for _, a := range []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("::1"), {}} {
			g.enter(a, time.Time{})
			if got := g.enter(a, time.Time{}); got != tt.want {
				t.Errorf("CapLocal %v, second from %v: got %q, want %q", tt.capLocal, a, got, tt.want)
			}
			g.leave(a)
			if tt.want == "" {
				g.leave(a)
			}
		}
		if len(g.from) != 0 || g.open != 0 {
			t.Errorf("after all left: %d open, %d addresses", g.open, len(g.from))
		}
	}
}

func TestShutdownWaitsThenCloses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, tt := range []struct {
			name  string
			leave time.Duration // when the connection ends by itself
			want  error
			took  time.Duration
		}{
			{"ends by itself", 3 * time.Second, nil, 3 * time.Second},
			{"is closed", time.Hour, context.DeadlineExceeded, 10 * time.Second},
		} {
			s := newScript()
			l := Wrap(s, Config{})
			server, client := from("192.0.2.1")
			s.next <- server
			c, err := l.Accept()
			if err != nil {
				t.Fatal(err)
			}
			timer := time.AfterFunc(tt.leave, func() { c.Close() })
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			start := time.Now()
			if err := l.Shutdown(ctx); !errors.Is(err, tt.want) {
				t.Errorf("%s: got %v, want %v", tt.name, err, tt.want)
			}
			if d := time.Since(start); d != tt.took {
				t.Errorf("%s: took %v, want %v", tt.name, d, tt.took)
			}
			if _, err := client.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
				t.Errorf("%s: client reads %v, want the end", tt.name, err)
			}
			timer.Stop()
			cancel()
		}
	})
}

func value(t *testing.T, m prometheus.Metric) float64 {
	t.Helper()
	var out dto.Metric
	if err := m.Write(&out); err != nil {
		t.Fatal(err)
	}
	return out.GetCounter().GetValue() + out.GetGauge().GetValue()
}
