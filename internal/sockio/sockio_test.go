package sockio

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// pair returns both ends of a TCP connection, the first wrapped.
func pair(t *testing.T) (net.Conn, *net.TCPConn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	peer, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(); peer.Close() })
	return Wrap(c), peer.(*net.TCPConn)
}

// What is written comes out at the other end, whatever the sizes, and more than the
// kernel takes at once.
func TestAllIsMoved(t *testing.T) {
	for _, size := range []int{0, 1, 512, longest, longest + 1, 20 << 20} {
		for _, step := range []int{1 << 10, longest, 1 << 20} {
			c, peer := pair(t)
			want := bytes.Repeat([]byte("0123456789abcdef\n"), size/17+1)[:size]
			var wg sync.WaitGroup
			wg.Go(func() {
				for rest := want; len(rest) > 0; {
					n, err := c.Write(rest[:min(step, len(rest))])
					if err != nil || n != min(step, len(rest)) {
						t.Errorf("write: %d, %v", n, err)
						break
					}
					rest = rest[n:]
				}
				if err := c.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
					t.Error(err)
				}
			})
			// Back again, so that the wrapped end reads too.
			wg.Go(func() {
				if _, err := io.Copy(peer, io.TeeReader(peer, io.Discard)); err != nil {
					t.Error(err)
				}
				_ = peer.CloseWrite()
			})
			got, err := io.ReadAll(struct{ io.Reader }{c})
			wg.Wait()
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("size %d in steps of %d: read %d octets, %v", size, step, len(got), err)
			}
		}
	}
}

// Errors are those that package net has.
func TestErrorsAreAsInNet(t *testing.T) {
	t.Run("deadline", func(t *testing.T) {
		c, _ := pair(t)
		_ = c.SetDeadline(time.Now().Add(-time.Second))
		_, err := c.Read(make([]byte, 1))
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("read: %v", err)
		}
		var op *net.OpError
		if !errors.As(err, &op) || !op.Timeout() || op.Op != "read" || op.Addr.String() != c.RemoteAddr().String() {
			t.Errorf("read: %#v", err)
		}
		if _, err := c.Write([]byte("x")); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("write: %v", err)
		}
	})
	t.Run("deadline moved while it waits", func(t *testing.T) {
		c, _ := pair(t)
		time.AfterFunc(10*time.Millisecond, func() { _ = c.SetReadDeadline(time.Unix(1, 0)) })
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("read: %v", err)
		}
		_ = c.SetReadDeadline(time.Time{})
	})
	t.Run("closed", func(t *testing.T) {
		c, _ := pair(t)
		time.AfterFunc(10*time.Millisecond, func() { c.Close() })
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
			t.Errorf("read: %v", err)
		}
		if _, err := c.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
			t.Errorf("write: %v", err)
		}
	})
	t.Run("reset", func(t *testing.T) {
		c, peer := pair(t)
		_ = peer.SetLinger(0)
		peer.Close()
		_, err := c.Read(make([]byte, 1))
		if !errors.Is(err, syscall.ECONNRESET) || !strings.Contains(err.Error(), "read tcp ") {
			t.Errorf("read: %v", err)
		}
		if _, err := c.Write([]byte("x")); !errors.Is(err, syscall.EPIPE) {
			t.Errorf("write: %v", err)
		}
	})
	t.Run("end", func(t *testing.T) {
		c, peer := pair(t)
		peer.Close()
		if n, err := c.Read(make([]byte, 1)); n != 0 || err != io.EOF {
			t.Errorf("read: %d, %v", n, err)
		}
		if n, err := c.Read(nil); n != 0 || err != nil {
			t.Errorf("read of nothing: %d, %v", n, err)
		}
	})
	t.Run("a write that gets on in part", func(t *testing.T) {
		c, _ := pair(t)
		_ = c.SetWriteDeadline(time.Now().Add(200 * time.Millisecond))
		sent, block := 0, make([]byte, longest)
		for {
			n, err := c.Write(block)
			sent += n
			if err != nil {
				if !errors.Is(err, os.ErrDeadlineExceeded) || sent == 0 {
					t.Errorf("%d octets, then %v", sent, err)
				}
				return
			}
		}
	})
}

// What is no TCP connection stays as it is.
func TestOthersStay(t *testing.T) {
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	if Wrap(a) != a {
		t.Error("a pipe was wrapped")
	}
}

// A connection costs no allocation for what is moved over it.
func BenchmarkEcho(b *testing.B) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	dialled, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		b.Fatal(err)
	}
	accepted, err := l.Accept()
	if err != nil {
		b.Fatal(err)
	}
	near, far := Wrap(dialled), Wrap(accepted)
	var wg sync.WaitGroup
	wg.Go(func() {
		buf := make([]byte, 64)
		for {
			n, err := far.Read(buf)
			if err != nil {
				return
			}
			if _, err := far.Write(buf[:n]); err != nil {
				return
			}
		}
	})
	buf := make([]byte, 64)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := near.Write(buf[:20]); err != nil {
			b.Fatal(err)
		}
		if _, err := near.Read(buf); err != nil {
			b.Fatal(err)
		}
	}
	near.Close()
	wg.Wait()
	far.Close()
}
