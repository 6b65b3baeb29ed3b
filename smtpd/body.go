package smtpd

import (
	"bufio"
	"bytes"
	"io"

	"github.com/covey-mail/covey"
)

// Faults of message data. Each carries the reply that names it.
var (
	errBareNewline = covey.Errorf(covey.Invalid, "message data: %w", replyBareNewline)
	errNUL         = covey.Errorf(covey.Invalid, "message data: %w", replyNUL)
	errTooBig      = covey.Errorf(covey.TooBig, "message data: %w", replyTooBig)

	// errRunaway is a message so much too big that its end is not waited for.
	errRunaway = covey.Errorf(covey.TooBig, "message data without end: %w", replyTooBig)
	// errAborted is a message that its sender gave up between two chunks.
	errAborted = covey.Errorf(covey.Unavailable, "message data: given up by the sender")
)

// errLost is a connection that ended, or failed, inside a message.
func errLost(err error) error {
	if err == io.EOF {
		err = io.ErrUnexpectedEOF // or else half a message would be a whole one
	}
	return covey.Errorf(covey.Unavailable, "message data: %w", err)
}

// A framing knows where a message ends.
type framing interface {
	// next returns more of the message, at least one octet, valid until the next
	// read from the connection; io.EOF at the end of the message, and no io.EOF
	// before.
	next() ([]byte, error)
}

// A body is the data of one message: what the framing yields, refused as a whole
// if it holds a bare CR or LF (RFC 5321 section 2.3.8), NUL, or too much. It
// implements io.Reader; a fault is the error of every read from then on, and
// finish still finds the end.
type body struct {
	frame framing
	limit int64 // octets that are taken
	drain int64 // octets that are waited through

	size  int64  // octets seen, stuffed dots not counted
	rest  []byte // of the last next, not read yet
	cr    bool   // the last octet seen was CR
	fault error  // the first one
	ended bool   // the framing is through, or broken
}

// Read implements io.Reader.
func (b *body) Read(p []byte) (int, error) {
	if len(b.rest) == 0 && !b.ended && b.fault == nil {
		b.fetch()
	}
	if b.fault != nil {
		return 0, b.fault
	}
	if len(b.rest) == 0 && b.ended {
		return 0, io.EOF
	}
	n := copy(p, b.rest)
	b.rest = b.rest[n:]
	return n, nil
}

// finish reads on to the end of the message, so that what follows is taken for
// commands again and nothing else is. It returns the fault of the data, nil if
// there is none.
func (b *body) finish() error {
	for !b.ended {
		b.fetch()
	}
	b.rest = nil
	return b.fault
}

// fetch gets the next part of the message into rest.
func (b *body) fetch() {
	p, err := b.frame.next()
	b.rest = p
	b.size += int64(len(p))
	switch {
	case err == io.EOF:
		b.ended = true
		if b.cr {
			b.blame(errBareNewline)
		}
		return
	case err != nil:
		b.ended, b.fault = true, err
		return
	case b.size > b.drain:
		b.ended, b.fault = true, errRunaway
		return
	case b.size > b.limit:
		b.blame(errTooBig)
	}
	b.blame(b.check(p))
}

func (b *body) blame(err error) {
	if b.fault == nil {
		b.fault = err
	}
}

// check looks for octets that may not be in a message, across calls. p is not
// empty.
func (b *body) check(p []byte) error {
	if bytes.IndexByte(p, 0) >= 0 {
		return errNUL
	}
	if b.cr && p[0] != '\n' {
		return errBareNewline
	}
	ends := 0 // CR LF
	last := p[len(p)-1]
	for rest, cr := p, b.cr; len(rest) > 0; ends++ {
		i := bytes.IndexByte(rest, '\n')
		if i < 0 {
			break
		}
		if i > 0 {
			cr = rest[i-1] == '\r'
		}
		if !cr {
			return errBareNewline
		}
		rest, cr = rest[i+1:], false
	}
	// With each LF behind a CR, there is a bare CR if there are more of them.
	crs := bytes.Count(p, []byte{'\r'})
	if b.cr {
		crs++
	}
	if b.cr = last == '\r'; b.cr {
		crs--
	}
	if crs != ends {
		return errBareNewline
	}
	return nil
}

// window returns what is in the buffer, at least one octet.
func window(in *bufio.Reader) ([]byte, error) {
	if _, err := in.Peek(1); err != nil {
		return nil, errLost(err)
	}
	return in.Peek(in.Buffered())
}

// dotFraming is the data of DATA: it ends with <CRLF>.<CRLF> and nothing else,
// and a dot at the start of a line is doubled (RFC 5321 section 4.5.2).
type dotFraming struct {
	in   *bufio.Reader
	tail [3]byte // the last octets returned
}

func newDotFraming(in *bufio.Reader) *dotFraming {
	return &dotFraming{in: in, tail: [3]byte{0, '\r', '\n'}}
}

// next implements framing.
func (f *dotFraming) next() ([]byte, error) {
	for {
		w, err := window(f.in)
		if err != nil {
			return nil, err
		}
		if w[0] != '.' || !f.atLineStart() {
			return f.take(w), nil
		}
		if w, err = f.in.Peek(3); err != nil {
			return nil, errLost(err)
		}
		if string(w) == ".\r\n" {
			f.discard(3)
			return nil, io.EOF
		}
		f.discard(1)
		f.tail = [3]byte{0, 0, '.'}
	}
}

// take returns what precedes the next dot that may start a line.
func (f *dotFraming) take(w []byte) []byte {
	if i := bytes.Index(w, []byte("\n.")); i >= 0 {
		w = w[:i+1]
	}
	f.discard(len(w))
	for _, c := range w[max(0, len(w)-3):] {
		f.tail = [3]byte{f.tail[1], f.tail[2], c}
	}
	return w
}

// atLineStart reports whether a whole CRLF was just passed. After CR CR LF it was
// not: that some hosts see a line end there and others do not is what smuggling
// lives on, and the message is refused anyway.
func (f *dotFraming) atLineStart() bool {
	return f.tail[0] != '\r' && f.tail[1] == '\r' && f.tail[2] == '\n'
}

// discard drops n octets that are in the buffer, which stay valid.
func (f *dotFraming) discard(n int) {
	if _, err := f.in.Discard(n); err != nil {
		panic("smtpd: discarded more than was in the buffer")
	}
}

// chunkFraming is the data of BDAT: chunks of announced size, the last one marked
// (RFC 3030).
type chunkFraming struct {
	in   *bufio.Reader
	left int64
	last bool
	more func() (chunk, error) // answers a chunk and awaits the next one's BDAT
}

// next implements framing.
func (f *chunkFraming) next() ([]byte, error) {
	for f.left == 0 {
		if f.last {
			return nil, io.EOF
		}
		c, err := f.more()
		if err != nil {
			return nil, err
		}
		f.left, f.last = c.size, c.last
	}
	w, err := window(f.in)
	if err != nil {
		return nil, err
	}
	w = w[:min(int64(len(w)), f.left)]
	f.left -= int64(len(w))
	if _, err := f.in.Discard(len(w)); err != nil {
		return nil, errLost(err)
	}
	return w, nil
}
