package bench

import (
	"bufio"
	"context"
	"net"
	"strings"
	"sync"
	"testing"
	"time"
)

// several starts sinks and returns their addresses as one, and how many connections
// each has now.
func several(t *testing.T, n int, cfg Config) (addr string, sinks []*sink) {
	t.Helper()
	cfg.Addr = "sink"
	cfg, err := cfg.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	var addrs []string
	for range n {
		s, err := startSink(cfg)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(s.close)
		sinks, addrs = append(sinks, s), append(addrs, s.addr())
	}
	return strings.Join(addrs, ","), sinks
}

func TestConnectionsGoRound(t *testing.T) {
	addr, sinks := several(t, 3, Config{Protocol: SMTP, Count: 1})
	to := []*target{newTarget(Config{Addr: addr}, 0), newTarget(Config{Addr: addr}, 1), newTarget(Config{Addr: addr}, 5)}
	for i, want := range [][]int{{0, 1, 2, 0}, {1, 2, 0, 1}, {2, 0, 1, 2}} {
		for _, w := range want {
			c, at, err := to[i].connect(t.Context(), time.Second)
			if err != nil {
				t.Fatal(err)
			}
			c.Close()
			if at != sinks[w].addr() {
				t.Errorf("worker %d is connected to %s, want %s", i, at, sinks[w].addr())
			}
		}
	}
}

// Nobody notices an address that nothing listens on; what was on it goes on at the
// others.
func TestDeadAddressIsPassedOver(t *testing.T) {
	for _, p := range []Protocol{SMTP, POP3, IMAP} {
		addr, sinks := several(t, 3, Config{Protocol: p, Count: 1})
		sinks[1].close()
		res := mustRun(t, Config{Protocol: p, Addr: addr, Conns: 6, Count: 60, PerSession: 2})
		if res.Done != 60 || res.Failed != 0 {
			t.Errorf("%s: %d done, failures %v; want 60 and none", p, res.Done, res.Failures)
		}
		for _, s := range sinks {
			s.close()
		}
		if res := mustRun(t, Config{Protocol: p, Addr: addr, Conns: 1, Count: 1}); res.Failed != 1 {
			t.Errorf("%s: with all of them dead %d done, failures %v", p, res.Done, res.Failures)
		}
	}
}

// A kept connection that breaks costs one operation.
func TestBrokenConnectionGoesOnElsewhere(t *testing.T) {
	dying, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() { // one connection, and half a message of it
		c, err := dying.Accept()
		if err != nil {
			return
		}
		dying.Close()
		play(c, []string{"220 hi\r\n", "250 ok\r\n", "250 ok\r\n", "250 ok\r\n", "354 go\r\n", "close"})
	})
	t.Cleanup(func() { dying.Close(); serving.Wait() })
	addr, _ := several(t, 1, Config{Protocol: SMTP, Count: 1})
	res := mustRun(t, Config{Protocol: SMTP, Addr: dying.Addr().String() + "," + addr, Conns: 1, Count: 20})
	if res.Done != 19 || res.Failed != 1 || !strings.HasPrefix(res.Failures[0].What, "end of DATA: the server") {
		t.Errorf("%d done, failures %v; want 19 and the one that broke", res.Done, res.Failures)
	}
}

// A refused connection to the last address is no reason to try for ever.
func TestConnectEndsWithTheRun(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if c, _, err := newTarget(Config{Addr: "127.0.0.1:1,127.0.0.1:1"}, 0).connect(ctx, time.Second); err == nil {
		c.Close()
		t.Error("connected")
	}
}

func TestOneEmptyAddress(t *testing.T) {
	if _, err := Run(t.Context(), Config{Protocol: SMTP, Addr: "127.0.0.1:1,", Count: 1}); err == nil || !strings.Contains(err.Error(), "is empty") {
		t.Errorf("error %v", err)
	}
}

// The reply to RCPT is what a refusal is measured by, not that to RSET.
func TestRefusalsAreMeasuredUntilTheReply(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	const late = 300 * time.Millisecond
	var serving sync.WaitGroup
	serving.Go(func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		reply := func(s string) { _, _ = c.Write([]byte(s)) }
		reply("220 hi\r\n")
		for lines := bufio.NewScanner(c); lines.Scan(); {
			switch strings.ToUpper(lines.Text())[:4] {
			case "RCPT":
				reply("451 4.3.0 not now\r\n")
			case "RSET":
				<-time.After(late)
				reply("250 ok\r\n")
			default:
				reply("250 ok\r\n")
			}
		}
	})
	t.Cleanup(func() { l.Close(); serving.Wait() })
	res := mustRun(t, Config{Protocol: SMTP, Addr: l.Addr().String(), Conns: 1, Count: 2})
	if res.Failed != 2 || res.Refused.Max <= 0 || res.Refused.Max >= float64(late.Milliseconds()) {
		t.Errorf("%d failed, refused after %+v; want two, without the wait of RSET", res.Failed, res.Refused)
	}
}
