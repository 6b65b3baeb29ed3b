package snapshot

import (
	"encoding/binary"
	"hash/crc32"

	"github.com/covey-mail/covey"
)

// A Sink takes in what a stream holds, in the order of the methods. None keeps
// the bytes it is given. An error ends the stream.
type Sink interface {
	// Begin is told what will come. It decides whether that is welcome.
	Begin(Header) error

	// Database takes the next bytes of the database, at least one.
	Database(p []byte) error

	// Piece takes the next piece, 1 to PieceSize bytes.
	Piece(c Condition, p []byte) error
}

// A Receiver puts chunks together again. Its input is checked in every length
// before anything is kept of it; it holds one piece at a time. It is for one
// goroutine at a time.
type Receiver struct {
	sink   Sink
	err    error  // the first fault; nothing is taken after it
	id     uint64 // of the copy, as its first chunk has it
	n      uint64 // of the next chunk
	head   Header
	begun  bool
	size   int64  // of the stream; known once it has begun
	done   int64  // bytes taken
	sum    uint32 // of the database so far
	pieces int64  // taken
	bytes  int64  // of them
	buf    []byte // the start of what is not whole yet: header, piece or end
}

// NewReceiver returns a Receiver that gives what comes to sink.
func NewReceiver(sink Sink) *Receiver { return &Receiver{sink: sink} }

// WriteChunk takes the next chunk. What is no chunk of the copy begun, or not
// the next, is covey.Corrupt.
func (r *Receiver) WriteChunk(b []byte) error {
	if r.err == nil {
		r.err = r.take(b)
	}
	return r.err
}

func (r *Receiver) take(b []byte) error {
	p, id, n, err := parseChunk(b)
	if err != nil {
		return err
	}
	if n == 0 && r.n == 0 {
		r.id = id
	}
	if id != r.id || n != r.n {
		return covey.Errorf(covey.Corrupt, "chunk %d of copy %x, want chunk %d of copy %x", n, id, r.n, r.id)
	}
	r.n++
	if !r.begun {
		if len(p) < headerSize {
			return covey.Errorf(covey.Corrupt, "first chunk of %d octets", len(p))
		}
		if err := r.begin(p[:headerSize]); err != nil {
			return err
		}
		p = p[headerSize:]
		r.done = headerSize
	}
	if want := min(payloadSize, r.size-int64(n)*payloadSize); int64(len(b)-chunkHeader) != want {
		return covey.Errorf(covey.Corrupt, "chunk %d of %d octets, want %d", n, len(b)-chunkHeader, want)
	}
	return r.parts(p)
}

func (r *Receiver) begin(b []byte) error {
	h, err := parseHeader(b)
	if err != nil {
		return err
	}
	r.head, r.size, r.begun = h, h.Size(), true
	return r.sink.Begin(h)
}

// parts takes what follows the header.
func (r *Receiver) parts(p []byte) error {
	r.done += int64(len(p))
	if left := headerSize + r.head.Database - (r.done - int64(len(p))); left > 0 && len(p) > 0 {
		part := p[:min(int64(len(p)), left)]
		r.sum = crc32.Update(r.sum, castagnoli, part)
		if err := r.sink.Database(part); err != nil {
			return err
		}
		p = p[len(part):]
	}
	for len(p) > 0 {
		n, err := r.piece(p)
		if err != nil {
			return err
		}
		p = p[n:]
	}
	return nil
}

// piece takes as much of p as belongs to one piece, or to the end, and says how
// much that is.
func (r *Receiver) piece(p []byte) (int, error) {
	taken := 0
	if n := pieceHeader - len(r.buf); n > 0 {
		taken = min(n, len(p))
		r.buf = append(r.buf, p[:taken]...)
		if len(r.buf) < pieceHeader {
			return taken, nil
		}
		if r.pieces == r.head.Pieces {
			return taken, r.end()
		}
		if err := r.beginPiece(); err != nil {
			return 0, err
		}
	}
	whole := pieceHeader + int(binary.LittleEndian.Uint32(r.buf[1:]))
	n := min(whole-len(r.buf), len(p)-taken)
	r.buf = append(r.buf, p[taken:taken+n]...)
	taken += n
	if len(r.buf) < whole {
		return taken, nil
	}
	err := r.sink.Piece(Condition(r.buf[0]), r.buf[pieceHeader:])
	r.buf = r.buf[:0]
	return taken, err
}

// beginPiece checks the header of a piece, which is in buf.
func (r *Receiver) beginPiece() error {
	c, n := Condition(r.buf[0]), int64(binary.LittleEndian.Uint32(r.buf[1:]))
	if c != Sound && c != Damaged || n == 0 || n > PieceSize || n > r.head.PieceBytes-r.bytes {
		return covey.Errorf(covey.Corrupt, "piece %d of type %d, %d octets", r.pieces, c, n)
	}
	r.pieces++
	r.bytes += n
	return nil
}

// end checks what ends the stream, which is in buf.
func (r *Receiver) end() error {
	if r.buf[0] != endMark || r.bytes != r.head.PieceBytes || r.done != r.size {
		return covey.Errorf(covey.Corrupt, "%d octets of pieces, want %d", r.bytes, r.head.PieceBytes)
	}
	if sum := binary.LittleEndian.Uint32(r.buf[1:]); sum != r.sum {
		return covey.Errorf(covey.Corrupt, "database does not match its checksum")
	}
	return nil
}

// End returns covey.Corrupt unless all of the stream has come and was sound, or
// the error that ended it.
func (r *Receiver) End() error {
	if r.err == nil && (!r.begun || r.done != r.size) {
		r.err = covey.Errorf(covey.Corrupt, "copy is cut off after %d octets of %d", r.done, r.size)
	}
	return r.err
}
