package peer

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"time"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/internal/wire"
)

// MaxPayload is the length in octets of the longest post, request or reply.
const MaxPayload = 16 << 20

// MaxHeader is the length in octets of the longest header of a stream.
const MaxHeader = 64 << 10

const (
	headerSize   = 20
	maxService   = 64
	maxHello     = MaxHeader + 1<<10
	maxJoin      = 1 << 20 // request of a node that joins
	maxErrorText = 1 << 10
)

// A frameType is the fifth octet of a frame.
type frameType uint8

const (
	framePost frameType = 1 + iota
	frameCall
	frameReply
	frameError
	framePing
	framePong
	frameHello
	frameBye
	lastFrameType = frameBye
)

// Why an acceptor wants no more calls on a link.
const (
	byeStopping uint8 = iota
	byeRenewed
)

// A header is the fixed part of a frame. See the package comment.
type header struct {
	size   uint32
	typ    frameType
	code   uint8
	id     uint64
	millis uint32
}

func (h header) append(b []byte) []byte {
	b = binary.LittleEndian.AppendUint32(b, h.size)
	b = append(b, byte(h.typ), h.code, 0, 0)
	b = binary.LittleEndian.AppendUint64(b, h.id)
	return binary.LittleEndian.AppendUint32(b, h.millis)
}

func parseHeader(b *[headerSize]byte) header {
	return header{
		size:   binary.LittleEndian.Uint32(b[0:]),
		typ:    frameType(b[4]),
		code:   b[5],
		id:     binary.LittleEndian.Uint64(b[8:]),
		millis: binary.LittleEndian.Uint32(b[16:]),
	}
}

// timeout returns how long the caller of a call waits, 0 for no limit.
func (h header) timeout() time.Duration { return time.Duration(h.millis) * time.Millisecond }

// millisUntil is the inverse, for a deadline; at least one, so that what is over
// soon is not endless.
func millisUntil(deadline time.Time) uint32 {
	ms := time.Until(deadline).Milliseconds()
	return uint32(min(max(ms, 1), math.MaxUint32))
}

// A frameReader reads frames. It trusts no length beyond max.
type frameReader struct {
	r   io.Reader
	max uint32
	buf [headerSize]byte
}

// next returns the next frame. The payload has memory of its own; it is nil if
// empty. The error is io.EOF only between frames.
func (f *frameReader) next() (header, []byte, error) {
	if _, err := io.ReadFull(f.r, f.buf[:]); err != nil {
		return header{}, nil, err
	}
	h := parseHeader(&f.buf)
	switch {
	case h.typ == 0 || h.typ > lastFrameType:
		return header{}, nil, covey.Errorf(covey.Corrupt, "frame of unknown type %d", h.typ)
	case f.buf[6] != 0 || f.buf[7] != 0:
		return header{}, nil, covey.Errorf(covey.Corrupt, "frame with reserved octets %d, %d", f.buf[6], f.buf[7])
	case h.size > f.max:
		return header{}, nil, covey.Errorf(covey.TooBig, "frame of %d octets, at most %d are allowed", h.size, f.max)
	case h.size == 0:
		return h, nil, nil
	}
	payload := make([]byte, h.size)
	if _, err := io.ReadFull(f.r, payload); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return header{}, nil, err
	}
	return h, payload, nil
}

// writeFrame writes one frame, where no sender is at work yet.
func writeFrame(w io.Writer, h header, payload []byte) error {
	h.size = uint32(len(payload))
	b := h.append(make([]byte, 0, headerSize+len(payload)))
	_, err := w.Write(append(b, payload...))
	return err
}

// A class is what a connection is for.
type class uint8

const (
	control class = 1 + iota
	bulk
	stream
	join
)

// String returns the word that logs and metrics carry.
func (c class) String() string {
	switch c {
	case control:
		return "control"
	case bulk:
		return "bulk"
	case stream:
		return "stream"
	case join:
		return "join"
	}
	return fmt.Sprintf("class %d", uint8(c))
}

// A hello is the first frame of a connection.
type hello struct {
	class   class
	service string // of a stream
	header  []byte // likewise
}

func (h hello) write(w io.Writer) error {
	var payload []byte
	if h.class == stream {
		payload = wire.AppendBytes(payload, h.service)
		payload = wire.AppendBytes(payload, h.header)
	}
	return writeFrame(w, header{typ: frameHello, code: uint8(h.class)}, payload)
}

// readHello reads what hello.write wrote, and no octet more.
func readHello(r io.Reader) (hello, error) {
	h, payload, err := (&frameReader{r: r, max: maxHello}).next()
	if err != nil {
		return hello{}, err
	}
	if h.typ != frameHello {
		return hello{}, covey.Errorf(covey.Corrupt, "first frame is of type %d, want a hello", h.typ)
	}
	return parseHello(h.code, payload)
}

func parseHello(code uint8, payload []byte) (hello, error) {
	h := hello{class: class(code)}
	switch h.class {
	case control, bulk, join:
		if len(payload) > 0 {
			return hello{}, covey.Errorf(covey.Corrupt, "hello for %s with %d octets", h.class, len(payload))
		}
		return h, nil
	case stream:
	default:
		return hello{}, covey.Errorf(covey.Invalid, "hello for unknown %s", h.class)
	}
	r := wire.NewReader(payload)
	h.service = r.String()
	h.header = r.Bytes()
	if err := r.End(); err != nil {
		return hello{}, fmt.Errorf("hello: %w", err)
	}
	if len(h.service) > maxService || len(h.header) > MaxHeader {
		return hello{}, covey.Errorf(covey.TooBig, "hello: service of %d, header of %d octets", len(h.service), len(h.header))
	}
	return h, nil
}

// lastKind is the last kind of error that this version knows.
const lastKind = covey.Loop

// errorFrame returns header and payload that carry err to the other side.
func errorFrame(id uint64, err error) (header, []byte) {
	text := err.Error()
	if len(text) > maxErrorText {
		text = text[:maxErrorText] + "…"
	}
	return header{typ: frameError, code: uint8(covey.KindOf(err)), id: id}, []byte(text)
}

// parseError is the inverse of errorFrame. A kind of a later version is Internal:
// that is temporary, as long as nobody knows better.
func parseError(code uint8, text []byte) error {
	kind := covey.Kind(code)
	if kind > lastKind {
		kind = covey.Internal
	}
	if len(text) > maxErrorText+len("…") {
		text = text[:maxErrorText]
	}
	return &covey.Error{Kind: kind, Err: errors.New(string(text))}
}
