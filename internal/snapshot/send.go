package snapshot

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/covey-mail/covey"
)

// A Stream cuts a copy into chunks. It is for one goroutine at a time.
type Stream struct {
	id       uint64
	size     int64
	head     []byte
	database *FileCopy
	at       [3]int64    // where database, pieces and end begin
	pieces   io.ReaderAt // nil: there are none
}

// NewStream returns the stream of a database that is being copied, and the
// pieces behind it with their headers. It takes possession of neither.
func NewStream(h Header, database *FileCopy, pieces io.ReaderAt) *Stream {
	var id [8]byte
	rand.Read(id[:]) // never fails
	s := &Stream{
		id: binary.LittleEndian.Uint64(id[:]), size: h.Size(), head: h.encode(), database: database, pieces: pieces,
	}
	s.at = [3]int64{headerSize, headerSize + h.Database, s.size - endSize}
	return s
}

// ReadChunk returns chunk n as Snapshot.ReadChunk does.
func (s *Stream) ReadChunk(n uint64) ([]byte, error) {
	if n > uint64(s.size)/payloadSize || int64(n)*payloadSize >= s.size {
		return nil, io.EOF
	}
	from := int64(n) * payloadSize
	b := make([]byte, chunkHeader+min(payloadSize, s.size-from))
	for p := b[chunkHeader:]; len(p) > 0; {
		k, err := s.readAt(p, from)
		if err != nil {
			return nil, fmt.Errorf("chunk %d of the copy: %w", n, err)
		}
		p, from = p[k:], from+int64(k)
	}
	signChunk(b, s.id, n)
	return b, nil
}

// readAt reads as much as one part of the stream has at off.
func (s *Stream) readAt(p []byte, off int64) (int, error) {
	switch {
	case off < s.at[0]:
		return copy(p, s.head[off:]), nil
	case off < s.at[1]:
		return s.part(s.database, p, off-s.at[0], s.at[1]-off)
	case off < s.at[2]:
		return s.part(s.pieces, p, off-s.at[1], s.at[2]-off)
	}
	sum, err := s.database.Sum()
	if err != nil {
		return 0, err
	}
	return copy(p, appendEnd(nil, sum)[off-s.at[2]:]), nil
}

// part fills p from a part of which left bytes are to come.
func (s *Stream) part(r io.ReaderAt, p []byte, off, left int64) (int, error) {
	p = p[:min(int64(len(p)), left)]
	n, err := r.ReadAt(p, off)
	if n == len(p) {
		return n, nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = covey.Errorf(covey.Internal, "%d octets are missing", left-int64(n))
	}
	return 0, err
}
