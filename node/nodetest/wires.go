package nodetest

import (
	"context"
	"net"
	"os"
	"sync"
	"time"
)

// wires are the connections between peer ports. Where a way is cut nothing gets
// through and nobody is told, as with a pulled cable; what was under way arrives
// when the way is open again, as TCP has it.
type wires struct {
	mu   sync.Mutex // guards what follows
	at   map[string]int
	cuts map[way]bool
	turn chan struct{} // closed when cuts change
}

// A way leads from one node to another, by their numbers.
type way struct{ from, to int }

func newWires() *wires {
	return &wires{at: make(map[string]int), cuts: make(map[way]bool), turn: make(chan struct{})}
}

// place says at which address a node's peer port is.
func (w *wires) place(node int, addr string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.at[addr] = node
}

// set cuts ways, or opens them.
func (w *wires) set(cut bool, ways ...way) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, v := range ways {
		w.cuts[v] = cut
	}
	close(w.turn)
	w.turn = make(chan struct{})
}

func (w *wires) heal() {
	w.mu.Lock()
	defer w.mu.Unlock()
	clear(w.cuts)
	close(w.turn)
	w.turn = make(chan struct{})
}

// look reports whether a way is cut, and what is closed when that may change.
func (w *wires) look(v way) (cut bool, turn <-chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.cuts[v], w.turn
}

// dial is node.System.Dial of a node.
func (w *wires) dial(from int) func(context.Context, string) (net.Conn, error) {
	return func(ctx context.Context, addr string) (net.Conn, error) {
		w.mu.Lock()
		to, known := w.at[addr]
		w.mu.Unlock()
		there := way{from, to}
		for known {
			cut, turn := w.look(there)
			if !cut {
				break
			}
			select {
			case <-turn:
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}
		c, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
		if err != nil || !known {
			return c, err
		}
		return &wire{Conn: c, net: w, out: there, in: way{to, from}, closed: make(chan struct{})}, nil
	}
}

// A wire is a connection that stands still while its ways are cut.
type wire struct {
	net.Conn
	net     *wires
	out, in way

	once   sync.Once
	closed chan struct{}

	mu          sync.Mutex // guards what follows
	read, write time.Time  // deadlines
}

// Read implements net.Conn.
func (w *wire) Read(p []byte) (int, error) {
	n, err := w.Conn.Read(p)
	if err := w.pass(w.in, func() time.Time { return w.read }); err != nil {
		return 0, err // what was read is lost with the connection: a deadline ends a link
	}
	return n, err
}

// Write implements net.Conn.
func (w *wire) Write(p []byte) (int, error) {
	if err := w.pass(w.out, func() time.Time { return w.write }); err != nil {
		return 0, err
	}
	return w.Conn.Write(p)
}

// pass waits while a way is cut.
func (w *wire) pass(v way, deadline func() time.Time) error {
	for {
		cut, turn := w.net.look(v)
		if !cut {
			return nil
		}
		w.mu.Lock()
		by := deadline()
		w.mu.Unlock()
		// A deadline may be set meanwhile: look again now and then.
		wait := 50 * time.Millisecond
		if !by.IsZero() {
			if wait = min(wait, time.Until(by)); wait <= 0 {
				return os.ErrDeadlineExceeded
			}
		}
		again := time.NewTimer(wait)
		select {
		case <-turn:
		case <-again.C:
		case <-w.closed:
			again.Stop()
			return net.ErrClosed
		}
		again.Stop()
	}
}

// Close implements net.Conn.
func (w *wire) Close() error {
	w.once.Do(func() { close(w.closed) })
	return w.Conn.Close()
}

// SetDeadline implements net.Conn.
func (w *wire) SetDeadline(t time.Time) error {
	w.mu.Lock()
	w.read, w.write = t, t
	w.mu.Unlock()
	return w.Conn.SetDeadline(t)
}

// SetReadDeadline implements net.Conn.
func (w *wire) SetReadDeadline(t time.Time) error {
	w.mu.Lock()
	w.read = t
	w.mu.Unlock()
	return w.Conn.SetReadDeadline(t)
}

// SetWriteDeadline implements net.Conn.
func (w *wire) SetWriteDeadline(t time.Time) error {
	w.mu.Lock()
	w.write = t
	w.mu.Unlock()
	return w.Conn.SetWriteDeadline(t)
}
