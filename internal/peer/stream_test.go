package peer

import (
	"bytes"
	"context"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/covey-mail/covey"
)

// echoConn is a service that writes the header, then what it reads.
func echoConn(_ covey.NodeID, header []byte, c net.Conn) {
	c.Write(header)
	io.Copy(c, c)
}

func TestStream(t *testing.T) {
	a, b, _ := pair(t)
	b.HandleConn("echo", echoConn)
	header := bytes.Repeat([]byte("h"), MaxHeader)
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() {
			c, err := a.Dial(t.Context(), b.id, "echo", header)
			if err != nil {
				t.Errorf("dial: %v", err)
				return
			}
			defer c.Close()
			body := bytes.Repeat([]byte("b"), 1<<20)
			wg.Go(func() {
				c.Write(body)
				c.(interface{ CloseWrite() error }).CloseWrite()
			})
			got, err := io.ReadAll(c)
			if err != nil || !bytes.Equal(got, append(header[:len(header):len(header)], body...)) {
				t.Errorf("got %d octets, %v", len(got), err)
			}
		})
	}
	wg.Wait()
	waitFor(t, "the streams' end", func() bool {
		return value(t, a.cfg.Metrics.streams) == 0 && value(t, b.cfg.Metrics.streams) == 0 && b.peer(a.id).streams.Load() == 0
	})
}

func TestStreamIsClosedWithItsHandler(t *testing.T) {
	a, b, _ := pair(t)
	b.HandleConn("short", func(_ covey.NodeID, h []byte, c net.Conn) { c.Write(h) })
	b.HandleConn("panic", func(covey.NodeID, []byte, net.Conn) { panic("at the stream") })
	for _, service := range []string{"short", "panic"} {
		c, err := a.Dial(t.Context(), b.id, service, []byte("hi"))
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(c)
		if err != nil || service == "short" && string(got) != "hi" {
			t.Errorf("%s: got %q, %v", service, got, err)
		}
		c.Close()
		if err := c.Close(); err != nil {
			t.Errorf("second close: %v", err)
		}
	}
}

func TestStreamRefused(t *testing.T) {
	a, b, _ := pair(t, func(c *Config) { c.Streams = 1 })
	b.HandleConn("echo", echoConn)
	_, err := a.Dial(t.Context(), b.id, "nobody", nil)
	wantKind(t, err, covey.Unavailable)
	if !strings.Contains(err.Error(), "nobody") {
		t.Errorf("%q does not name the service", err)
	}
	_, err = a.Dial(t.Context(), b.id, "echo", make([]byte, MaxHeader+1))
	wantKind(t, err, covey.TooBig)
	_, err = a.Dial(t.Context(), 77, "echo", nil)
	wantKind(t, err, covey.Unavailable)
	first, err := a.Dial(t.Context(), b.id, "echo", nil)
	if err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the first stream", func() bool { return b.peer(a.id).streams.Load() == 1 })
	_, err = a.Dial(t.Context(), b.id, "echo", nil)
	wantKind(t, err, covey.Unavailable)
	first.Close()
	waitFor(t, "its end", func() bool { return b.peer(a.id).streams.Load() == 0 })
	second, err := a.Dial(t.Context(), b.id, "echo", nil)
	if err != nil {
		t.Fatal(err)
	}
	second.Close()
}

func TestStreamsEndWithClose(t *testing.T) {
	a, b, _ := pair(t)
	began, ended := make(chan struct{}), make(chan struct{})
	b.HandleConn("echo", func(_ covey.NodeID, _ []byte, c net.Conn) {
		close(began)
		io.Copy(io.Discard, c)
		close(ended)
	})
	c, err := a.Dial(t.Context(), b.id, "echo", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	<-began
	b.Close()
	select {
	case <-ended:
	default:
		t.Error("Close did not wait for the handler")
	}
	if _, err := io.ReadAll(c); err == nil {
		t.Error("a cut stream looks like one that ended")
	}
}

// A session does not hang on a node whose cable is pulled, though TCP would not
// notice: its streams go when the control link does (F-18).
func TestStreamsEndWithTheSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b, pn, l := pipedPair(t)
		ended := make(chan struct{})
		b.HandleConn("echo", func(from covey.NodeID, header []byte, c net.Conn) {
			echoConn(from, header, c)
			close(ended)
		})
		old, err := a.Dial(t.Context(), b.id, "echo", nil)
		if err != nil {
			t.Fatal(err)
		}
		pass(time.Hour)
		if _, err := old.Write([]byte("x")); err != nil {
			t.Errorf("an idle stream was cut: %v", err)
		}
		if _, err := io.ReadFull(old, make([]byte, 1)); err != nil {
			t.Errorf("an idle stream was cut: %v", err)
		}
		l.stall()
		d := took(func() {
			if _, err := old.Read(make([]byte, 1)); err == nil || err == io.EOF {
				t.Errorf("got %v", err)
			}
		})
		if d > a.cfg.Silence+grace {
			t.Errorf("the session learned after %v", d)
		}
		old.Close()
		if d := took(func() { <-ended }); d > b.cfg.Silence+grace {
			t.Errorf("the other side learned %v later", d)
		}
		pn.setHole(b.addr, true)
		_, err = a.Dial(t.Context(), b.id, "echo", nil)
		wantKind(t, err, covey.Unavailable)
	})
}

func TestOutlived(t *testing.T) {
	now := time.Now()
	c := &conn{class: stream, remote: Remote{Node: 1}, born: now}
	tests := []struct {
		class class
		node  covey.NodeID
		heard time.Time
		want  bool
	}{
		{stream, 1, now.Add(1), true},
		{stream, 1, now.Add(-1), false}, // made when the link was silent already
		{stream, 2, now.Add(1), false},
		{control, 1, now.Add(1), false},
	}
	for _, test := range tests {
		c.class = test.class
		if got := c.outlived(test.heard, test.node); got != test.want {
			t.Errorf("%+v: got %v", test, got)
		}
	}
}

func TestDialGivesUpWithTheContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b, net, _ := pipedPair(t)
		net.setHole(b.addr, true)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second/2)
		defer cancel()
		d := took(func() {
			_, err := a.Dial(ctx, b.id, "echo", nil)
			wantKind(t, err, covey.Unavailable)
		})
		if d > time.Second/2 {
			t.Errorf("took %v", d)
		}
	})
}
