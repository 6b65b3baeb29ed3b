package pop3d

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"strings"

	"github.com/covey-mail/covey/mailbox"
)

func (s *session) retr(ctx context.Context, arg string) error {
	n, err := s.number(arg)
	if err != nil {
		return err
	}
	c, err := s.open(ctx, n)
	if err != nil {
		return err
	}
	if err := s.send("RETR", c, allLines); err != nil {
		return err
	}
	s.retrieved++
	s.octets += c.Size()
	s.srv.cfg.Metrics.Retrieved.Inc()
	s.srv.cfg.Metrics.Octets.Add(float64(c.Size()))
	return nil
}

func (s *session) top(ctx context.Context, arg string) error {
	first, second, _ := strings.Cut(arg, " ")
	n, err := s.number(first)
	if err != nil {
		return err
	}
	lines, err := parseNumber(second)
	if err != nil {
		return err
	}
	c, err := s.open(ctx, n)
	if err != nil {
		return err
	}
	return s.send("TOP", c, int64(lines))
}

// sendBuffer lets a message of the usual 8 KiB leave in one write. Sessions that
// retrieve nothing, or have not logged in, do with replyBuffer.
const (
	sendBuffer  = 16 << 10
	replyBuffer = 4 << 10
)

// widen gives the session's writer room for a message.
func (s *session) widen() error {
	if s.w.Size() >= sendBuffer {
		return nil
	}
	if err := s.w.Flush(); err != nil {
		return ending("connection lost")
	}
	s.putWriter()
	s.w = s.srv.senders.Get().(*bufio.Writer)
	s.w.Reset(s.conn)
	return nil
}

// putWriter gives the session's writer back.
func (s *session) putWriter() {
	s.w.Reset(nil)
	if s.w.Size() >= sendBuffer {
		s.srv.senders.Put(s.w)
	} else {
		s.srv.writers.Put(s.w)
	}
	s.w = nil
}

// letGo gives the session's buffers back. Nothing is read or written after it.
func (s *session) letGo() {
	s.putWriter()
	s.r.Reset(nil)
	s.srv.readers.Put(s.r)
	s.r = nil
}

// open finds the bytes of message n. It waits for nobody.
func (s *session) open(ctx context.Context, n uint32) (*mailbox.Content, error) {
	m, err := s.drop.message(ctx, n)
	if err != nil {
		return nil, err
	}
	return s.drop.view.Content(ctx, m)
}

// send writes a message, or its header and the first lines of its body, as a
// reply of several lines. The first piece is read before anything is said: most
// messages have no other, and one that is damaged can be refused.
func (s *session) send(verb string, c *mailbox.Content, lines int64) error {
	held := s.srv.buffers.Get().(*[]byte)
	defer s.srv.buffers.Put(held)
	buf := *held
	n, err := c.ReadAt(buf[:min(int64(len(buf)), c.Size())], 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if err := s.widen(); err != nil {
		return err
	}
	s.ok("%d octets", c.Size())
	st := newStuffer(s.w, lines)
	for off := int64(0); ; {
		if st.write(buf[:n]) {
			break
		}
		if off += int64(n); off >= c.Size() {
			break
		}
		if n, err = c.ReadAt(buf[:min(int64(len(buf)), c.Size()-off)], off); err != nil && !errors.Is(err, io.EOF) {
			return s.abort(verb, err)
		}
		// A client that is gone is not worth reading the rest for.
		if err := s.w.Flush(); err != nil {
			return ending("connection lost")
		}
	}
	st.close()
	return nil
}

// allLines as a number of body lines sends the whole message.
const allLines = -1

// A stuffer writes a message as lines of a POP3 reply: a line that begins with a
// dot gets a second one (RFC 1939 section 3), a bare LF becomes CRLF so that what
// a client takes for a line is one for both sides, and the last line gets an end.
// A bare CR stays.
type stuffer struct {
	w     *bufio.Writer
	lines int64 // of the body, still to be sent; below 0 all
	body  bool  // past the header
	start bool  // at the start of a line
	empty bool  // nothing in the line yet but perhaps a CR
	cr    bool  // the last octet was a CR
}

func newStuffer(w *bufio.Writer, lines int64) *stuffer {
	return &stuffer{w: w, lines: lines, start: true, empty: true}
}

// write takes the next piece of the message and reports whether nothing more is
// wanted. What needs no change is written in one go. Errors are sticky in w.
func (st *stuffer) write(p []byte) (enough bool) {
	from := 0 // what lies before it is written
	insert := func(at int, c byte) {
		_, _ = st.w.Write(p[from:at])
		_ = st.w.WriteByte(c)
		from = at
	}
	at := 0
	for at < len(p) && !st.enough() {
		if st.start && p[at] == '.' {
			insert(at, '.')
		}
		end := bytes.IndexByte(p[at:], '\n')
		if end < 0 {
			st.part(p[at:])
			at = len(p)
			break
		}
		end += at
		st.part(p[at:end])
		if !st.cr {
			insert(end, '\r')
		}
		st.endLine()
		at = end + 1
	}
	_, _ = st.w.Write(p[from:at])
	return st.enough()
}

// enough reports whether all lines that are wanted are written.
func (st *stuffer) enough() bool { return st.body && st.lines == 0 }

// part takes note of octets of one line.
func (st *stuffer) part(p []byte) {
	if len(p) == 0 {
		return
	}
	st.cr = p[len(p)-1] == '\r'
	st.empty = st.start && len(p) == 1 && st.cr
	st.start = false
}

// endLine takes note of a line's end.
func (st *stuffer) endLine() {
	if st.body && st.lines > 0 {
		st.lines--
	}
	st.body = st.body || st.empty
	st.start, st.empty, st.cr = true, true, false
}

// close ends the last line and the reply.
func (st *stuffer) close() {
	switch {
	case st.start:
	case st.cr:
		_ = st.w.WriteByte('\n')
	default:
		_, _ = st.w.WriteString("\r\n")
	}
	_, _ = st.w.WriteString(".\r\n")
}
