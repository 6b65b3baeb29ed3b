package imapd

import (
	"bytes"
	"io"
	"time"

	"github.com/emersion/go-imap/v2"
)

// Write takes what go-imap writes. Its greeting is not for the peer, which has
// had one.
func (g *guard) Write(p []byte) (int, error) {
	g.wmu.Lock()
	defer g.wmu.Unlock()
	n := len(p)
	if g.mute {
		return n, nil
	}
	if !g.greeted {
		end := bytes.IndexByte(p, '\n') + 1
		if end == 0 {
			return n, nil
		}
		g.greeted, p = true, p[end:]
	}
	if g.out == nil && len(p) > 0 {
		g.out = g.s.buffer()
	}
	for len(p) > 0 {
		k := min(len(p), flushSize-len(g.out))
		g.out = append(g.out, p[:k]...)
		p = p[k:]
		if len(g.out) < flushSize {
			break
		}
		if err := g.writeLocked(); err != nil {
			return 0, err
		}
	}
	if g.direct {
		return n, g.flushLocked()
	}
	return n, nil
}

// say writes a line of the guard's own, and all before it, at once.
func (g *guard) say(line string) error {
	g.wmu.Lock()
	defer g.wmu.Unlock()
	if g.out == nil {
		g.out = g.s.buffer()
	}
	g.out = append(g.out, line...)
	return g.flushLocked()
}

func (g *guard) flush() error {
	g.wmu.Lock()
	defer g.wmu.Unlock()
	return g.flushLocked()
}

// flushLocked writes all there is and gives the buffer back.
func (g *guard) flushLocked() error {
	if g.out == nil {
		return nil
	}
	err := g.writeLocked()
	g.s.release(g.out)
	g.out = nil
	return err
}

func (g *guard) writeLocked() error {
	if len(g.out) == 0 {
		return nil
	}
	if err := g.Conn.SetWriteDeadline(time.Now().Add(g.patience)); err != nil {
		return err
	}
	n, err := g.Conn.Write(g.out)
	g.written += int64(n)
	g.out = g.out[:0]
	return err
}

func (g *guard) setDirect(on bool) {
	g.wmu.Lock()
	defer g.wmu.Unlock()
	g.direct = on
}

// bye says BYE and lets go-imap see the end of the stream.
func (g *guard) bye(e *imap.Error) error {
	g.ended = true
	if err := g.farewell(e); err != nil {
		return err
	}
	return io.EOF
}

// farewell says BYE, after which go-imap has no more to say, though it may try.
func (g *guard) farewell(e *imap.Error) error {
	defer g.silence()
	return g.say(string(status("", &imap.Error{Type: imap.StatusResponseTypeBye, Code: e.Code, Text: e.Text})))
}

// silence keeps from the peer what go-imap still has to say.
func (g *guard) silence() {
	g.wmu.Lock()
	defer g.wmu.Unlock()
	g.mute = true
}
