package serve

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// pipe returns an admitted connection and its peer's end.
func pipe(t *testing.T, cfg Config) (*Conn, net.Conn) {
	t.Helper()
	s := newScript()
	l := Wrap(s, cfg)
	server, client := from("192.0.2.1")
	s.next <- server
	c, err := l.Accept()
	if err != nil {
		t.Fatalf("accept: %v", err)
	}
	t.Cleanup(func() { c.Close(); client.Close(); l.Close() })
	return c.(*Conn), client
}

// trickle writes one octet each period until the other side closes.
func trickle(w io.Writer, period time.Duration, n int) {
	block := make([]byte, n)
	for {
		if _, err := w.Write(block); err != nil {
			return
		}
		<-time.After(period)
	}
}

// S-42: silence, trickling commands and trickling bodies all end.
func TestS42_SlowClientIsEnded(t *testing.T) {
	tests := []struct {
		name   string
		limits Limits
		body   bool
		period time.Duration // 0: silence
		octets int
		want   Expired
		after  time.Duration
		within time.Duration
	}{
		{name: "silence", want: ExpiredIdle, after: 5 * time.Minute},
		{name: "one octet in ten seconds", limits: Limits{Session: 30 * time.Minute}, period: 10 * time.Second, octets: 1,
			want: ExpiredSession, after: 30 * time.Minute},
		// 300 s, and 100/256 of what passes: t = 300/(1-100/256).
		{name: "100 octets per second in a body", body: true, period: time.Second, octets: 100,
			want: ExpiredRate, after: 492 * time.Second, within: 2 * time.Second},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, client := pipe(t, Config{Name: "x", Limits: tt.limits})
				if tt.body {
					c.BeginBody()
				}
				var wg sync.WaitGroup
				if tt.period > 0 {
					wg.Go(func() { trickle(client, tt.period, tt.octets) })
				}
				start := time.Now()
				_, err := io.Copy(io.Discard, readerOnly{c})
				if !errors.Is(err, tt.want) || !errors.Is(err, os.ErrDeadlineExceeded) {
					t.Errorf("got %v, want %v", err, tt.want)
				}
				if d := time.Since(start); d < tt.after || d > tt.after+tt.within {
					t.Errorf("ended after %v, want %v", d, tt.after)
				}
				if _, again := c.Read(make([]byte, 1)); again != err {
					t.Errorf("next read: got %v, want %v again", again, err)
				}
				if got := value(t, c.l.cfg.Metrics.Expired.WithLabelValues("x", string(tt.want))); got != 1 {
					t.Errorf("counted %v expired, want 1", got)
				}
				// What ends the session can still be said, but is not waited for.
				start = time.Now()
				if _, err := c.Write([]byte("421 4.4.2 bye\r\n")); !errors.Is(err, os.ErrDeadlineExceeded) {
					t.Errorf("write to a peer that does not read: %v", err)
				}
				if d := time.Since(start); d != refusalTime {
					t.Errorf("the last line took %v, want %v", d, refusalTime)
				}
				c.Close()
				wg.Wait()
			})
		})
	}
}

type readerOnly struct{ io.Reader }

func TestBodyRateCountsOnlyWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, client := pipe(t, Config{Limits: Limits{Idle: time.Minute, MinRate: 1000}})
		c.BeginBody()
		var wg sync.WaitGroup
		wg.Go(func() { trickle(client, 0, 10) })
		for range 100 {
			if _, err := c.Read(make([]byte, 10)); err != nil {
				t.Fatalf("a server that is slow itself blames the client: %v", err)
			}
			<-time.After(10 * time.Second)
		}
		c.EndBody()
		c.Close()
		wg.Wait()
	})
}

func TestCallersDeadlinesShortenOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _ := pipe(t, Config{Limits: Limits{Idle: time.Minute}})
		read := func() (time.Duration, error) {
			start := time.Now()
			_, err := c.Read(make([]byte, 1))
			return time.Since(start), err
		}
		if err := c.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
		var expired Expired
		if d, err := read(); d != 10*time.Second || !errors.Is(err, os.ErrDeadlineExceeded) || errors.As(err, &expired) {
			t.Errorf("with an earlier deadline: %v after %v", err, d)
		}
		// A deadline that comes while the read waits, as a shutdown sets it.
		if err := c.SetReadDeadline(time.Time{}); err != nil {
			t.Fatal(err)
		}
		time.AfterFunc(5*time.Second, func() { c.SetReadDeadline(time.Now()) })
		if d, err := read(); d != 5*time.Second || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("interrupted: %v after %v", err, d)
		}
		if err := c.SetReadDeadline(time.Time{}); err != nil {
			t.Fatal(err)
		}
		time.AfterFunc(5*time.Second, func() { c.SetDeadline(time.Now().Add(24 * time.Hour)) })
		if d, err := read(); d != time.Minute || !errors.Is(err, ExpiredIdle) {
			t.Errorf("with a later deadline: %v after %v, want the idle limit", err, d)
		}
	})
}

func TestWriteIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _ := pipe(t, Config{Limits: Limits{Write: 2 * time.Minute}})
		if err := c.SetWriteDeadline(time.Now().Add(time.Hour)); err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		if _, err := c.Write([]byte("x")); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("got %v, want a timeout", err)
		}
		if d := time.Since(start); d != 2*time.Minute {
			t.Errorf("took %v, want 2m", d)
		}
	})
}

func TestRenewReplacesLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _ := pipe(t, Config{Limits: Limits{Idle: time.Minute, Session: 2 * time.Minute}})
		c.Renew(Limits{Idle: 30 * time.Minute})
		start := time.Now()
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, ExpiredIdle) || time.Since(start) != 30*time.Minute {
			t.Errorf("%v after %v, want idle after 30m", err, time.Since(start))
		}
	})
}

// S-24: a ClientHello is awaited for thirty seconds in all.
func TestS24_SilenceInsteadOfClientHello(t *testing.T) {
	for _, period := range []time.Duration{0, time.Second} {
		synctest.Test(t, func(t *testing.T) {
			c, client := pipe(t, Config{})
			c.BeginTLS()
			var wg sync.WaitGroup
			if period > 0 { // the start of a record of 16 KiB
				wg.Go(func() {
					client.Write([]byte{22, 3, 1, 0x40, 0})
					trickle(client, period, 1)
				})
			}
			start := time.Now()
			err := tls.Server(c, serverTLS(t)).Handshake()
			if !errors.Is(err, ExpiredHello) || time.Since(start) != helloTime {
				t.Errorf("octets each %v: %v after %v, want %v after %v", period, err, time.Since(start), ExpiredHello, helloTime)
			}
			c.Close()
			wg.Wait()
		})
	}
}

// S-24: a failed handshake is the end.
func TestS24_NoPlainTextAfterAFailedHandshake(t *testing.T) {
	const ready = "220 2.0.0 Ready to start TLS\r\n"
	synctest.Test(t, func(t *testing.T) {
		c, client := pipe(t, Config{TLSReply: []byte(ready)})
		var wg sync.WaitGroup
		wg.Go(func() {
			// What go-smtp does.
			io.WriteString(c, ready)
			if err := tls.Server(c, serverTLS(t)).Handshake(); err == nil {
				t.Error("garbage passed for a handshake")
			}
			if _, err := io.WriteString(c, "550 5.0.0 Handshake error\r\n"); !errors.Is(err, errPlain) {
				t.Errorf("plain text after the failure: %v, want %v", err, errPlain)
			}
		})
		r := bufio.NewReader(client)
		if line, err := r.ReadString('\n'); line != ready {
			t.Fatalf("got %q, %v", line, err)
		}
		wg.Go(func() { io.WriteString(client, "EHLO garbage instead of a ClientHello\r\n") })
		rest, _ := io.ReadAll(r)
		if len(rest) > 0 && rest[0] != 21 { // an alert record at most
			t.Errorf("got %q after the failed handshake", rest)
		}
		wg.Wait()
	})
}

func TestTLSListener(t *testing.T) {
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := Wrap(inner, Config{})
	tl := TLS(l, serverTLS(t))
	var wg sync.WaitGroup
	wg.Go(func() {
		c, err := tl.Accept()
		if err != nil {
			t.Errorf("accept: %v", err)
			return
		}
		defer c.Close()
		if _, ok := c.(*tls.Conn); !ok {
			t.Errorf("accepted a %T, want a *tls.Conn", c)
		}
		if got := From(c).Remote().String(); got != "127.0.0.1" || !From(c).Local() {
			t.Errorf("remote %q, local %v", got, From(c).Local())
		}
		if _, err := io.Copy(c, c); err != nil {
			t.Errorf("echo: %v", err)
		}
	})
	c, err := tls.Dial("tcp", l.Addr().String(), &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(c, "hello")
	c.CloseWrite()
	if got, err := io.ReadAll(c); string(got) != "hello" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
	c.Close()
	wg.Wait()
	if err := tl.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
	if _, err := tl.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("accept after close: %v", err)
	}
}

func TestFrom(t *testing.T) {
	c, _ := pipe(t, Config{})
	if From(c) != c || From(tls.Server(c, nil)) != c {
		t.Error("the Conn is not found")
	}
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	if got := From(tls.Server(a, nil)); got != nil {
		t.Errorf("got %v for a connection without one", got)
	}
}

func TestUnsentSeesWhatThePeerDidNotTake(t *testing.T) {
	for _, network := range []string{"tcp", "unix"} {
		t.Run(network, func(t *testing.T) {
			addr := "127.0.0.1:0"
			if network == "unix" {
				addr = filepath.Join(t.TempDir(), "s")
			}
			inner, err := net.Listen(network, addr)
			if err != nil {
				t.Fatal(err)
			}
			l := Wrap(inner, Config{})
			defer l.Close()
			client, err := net.Dial(network, l.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer client.Close()
			nc, err := l.Accept()
			if err != nil {
				t.Fatal(err)
			}
			defer nc.Close()
			c := From(nc)
			if n, err := c.Unsent(); n != 0 || err != nil {
				t.Fatalf("fresh connection: %d, %v", n, err)
			}
			// Fill the peer's window until nothing moves any more.
			block := make([]byte, 1<<20)
			n := 0
			for full := false; !full; {
				c.SetWriteDeadline(time.Now().Add(100 * time.Millisecond))
				wrote, err := c.Write(block)
				n += wrote
				full = errors.Is(err, os.ErrDeadlineExceeded) && n > 0
			}
			if left, err := c.Unsent(); left <= 0 || err != nil {
				t.Errorf("with a full window: %d, %v; want octets left", left, err)
			}
			if _, err := io.CopyN(io.Discard, client, int64(n)); err != nil {
				t.Fatal(err)
			}
			waitFor(t, func() bool { left, err := c.Unsent(); return left == 0 && err == nil })
		})
	}
}

func waitFor(t *testing.T, cond func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	limit := time.After(10 * time.Second)
	for !cond() {
		select {
		case <-tick.C:
		case <-limit:
			t.Fatal("waited ten seconds in vain")
		}
	}
}

func serverTLS(t *testing.T) *tls.Config {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
}

// A countingConn counts how often its deadlines are set.
type countingConn struct {
	net.Conn
	reads, writes int
}

func (c *countingConn) SetReadDeadline(t time.Time) error {
	c.reads++
	return c.Conn.SetReadDeadline(t)
}

func (c *countingConn) SetWriteDeadline(t time.Time) error {
	c.writes++
	return c.Conn.SetWriteDeadline(t)
}

// Deadlines are moved now and then, not at each call, and run out on time.
func TestDeadlinesAreMovedSeldom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScript()
		l := Wrap(s, Config{Limits: Limits{Idle: time.Minute, Write: time.Minute}})
		server, client := from("192.0.2.1")
		below := &countingConn{Conn: server}
		s.next <- below
		c, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		wg.Go(func() { io.Copy(client, client) }) // echoes
		const calls = 120
		block := make([]byte, 1)
		for range calls {
			if err := c.SetDeadline(time.Now().Add(time.Hour)); err != nil {
				t.Fatal(err)
			}
			if _, err := c.Write(block); err != nil {
				t.Fatal(err)
			}
			if _, err := c.Read(block); err != nil {
				t.Fatal(err)
			}
			<-time.After(time.Second)
		}
		// Two minutes with a limit of one: each half minute, and at the start.
		if most := 6; below.reads > most || below.writes > most {
			t.Errorf("in %d calls deadlines were set %d and %d times, want at most %d", calls, below.reads, below.writes, most)
		}
		start := time.Now()
		if _, err := c.Read(block); !errors.Is(err, ExpiredIdle) {
			t.Errorf("silence: %v, want %v", err, ExpiredIdle)
		}
		if d := time.Since(start); d != time.Minute {
			t.Errorf("ended after %v, want a minute", d)
		}
		c.Close()
		client.Close()
		l.Close()
		wg.Wait()
	})
}
