package peer

import (
	"encoding/binary"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

// number returns the i-th of many addresses.
func number(i int) netip.Addr {
	return netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, uint32(i)+10<<24)))
}

func TestGate(t *testing.T) {
	g := newGate(8)
	enter := func(a netip.Addr) (n int) {
		for g.enter(a) {
			n++
		}
		return n
	}
	if n := enter(addr("192.0.2.1")); n != 4 {
		t.Errorf("a stranger got %d of 8 places, want 4", n)
	}
	if g.enter(addr("192.0.2.2")) {
		t.Error("strangers got more than half")
	}
	g.know(addr("192.0.2.3"))
	if n := enter(addr("192.0.2.3")); n != 4 {
		t.Errorf("a member's address got %d places, want 4", n)
	}
	g.know(addr("192.0.2.4"))
	if g.enter(addr("192.0.2.4")) {
		t.Error("a ninth got in")
	}
	for range 4 {
		g.leave(addr("192.0.2.1"))
		g.leave(addr("192.0.2.3"))
	}
	if g.open != 0 || len(g.from) != 0 {
		t.Errorf("left: %d, %v", g.open, g.from)
	}
	for i := range 10 * maxBlocks {
		g.know(number(i))
	}
	if len(g.known) > maxBlocks {
		t.Errorf("%d addresses are known", len(g.known))
	}
}

func TestBlock(t *testing.T) {
	for in, want := range map[string]string{
		"192.0.2.1": "192.0.2.1", "::ffff:192.0.2.1": "192.0.2.1", "2001:db8::1": "2001:db8::", "2001:db8::ff:2": "2001:db8::",
		"fe80::1%eth0": "fe80::",
	} {
		if got := block(addr(in)); got != addr(want) {
			t.Errorf("%s: got %s, want %s", in, got, want)
		}
	}
	if got := block(netip.Addr{}); got.IsValid() {
		t.Errorf("no address: got %s", got)
	}
}

// A scanner does not fill the log, from one address or from many.
func TestDiary(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := &syncBuffer{}
		d := &diary{log: slog.New(slog.NewTextHandler(log, nil)), last: map[netip.Addr]*entry{}}
		long := errors.New(strings.Repeat("x", 5000))
		for range 1000 {
			d.note(addr("192.0.2.1"), "tls", long)
		}
		pass(quiet)
		d.note(addr("192.0.2.1"), "tls", long)
		if n := log.count("connection refused"); n != 2 {
			t.Errorf("%d lines, want 2", n)
		}
		if !strings.Contains(log.String(), "unreported=999") || len(log.String()) > 2000 {
			t.Errorf("log:\n%s", log)
		}
		for i := range 10 * maxBlocks {
			d.note(number(i), "tls", long)
		}
		if n := log.count("connection refused"); n > maxBlocks+3 {
			t.Errorf("%d lines for a scan from everywhere", n)
		}
		if len(d.last) > maxBlocks+1 {
			t.Errorf("%d addresses are remembered", len(d.last))
		}
		pass(quiet)
		d.note(addr("2001:db8::1"), "tls", long)
		if len(d.last) > 2 || log.count("2001:db8::1") != 1 {
			t.Errorf("%d addresses are remembered, %d lines for a new one", len(d.last), log.count("2001:db8::1"))
		}
	})
}

// pausedConn times out some times before it has something to read.
type pausedConn struct {
	net.Conn
	timeouts int
}

func (c *pausedConn) SetReadDeadline(time.Time) error { return nil }

func (c *pausedConn) Read(p []byte) (int, error) {
	if c.timeouts > 0 {
		c.timeouts--
		return 0, os.ErrDeadlineExceeded
	}
	return copy(p, "x"), nil
}

// A process that was paused hears what waits in its kernel before it calls the
// other side silent.
func TestPauseOfOurOwn(t *testing.T) {
	for timeouts, want := range map[int]error{0: nil, 1: nil, 2: errSilent} {
		s := &socket{Conn: &pausedConn{timeouts: timeouts}, metrics: NewMetrics(), silence: time.Second, began: time.Now()}
		if _, err := s.Read(make([]byte, 10)); !errors.Is(err, want) {
			t.Errorf("%d timeouts: got %v, want %v", timeouts, err, want)
		}
	}
}
