package seglog

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"slices"

	"github.com/covey-mail/covey/internal/durable"
)

// errEnd says that the records end where the scan is.
var errEnd = errors.New("end of records")

// A scanner reads the records of a segment in order, through a window that moves
// over the file.
type scanner struct {
	file   durable.File
	salt   uint64
	off    int64 // of the next record
	size   int64 // of the file
	buf    []byte
	bufOff int64
}

const scanWindow = 1 << 20

func newScanner(f durable.File, salt uint64, from int64) (*scanner, error) {
	size, err := f.Size()
	if err != nil {
		return nil, err
	}
	return &scanner{file: f, salt: salt, off: from, size: size}, nil
}

// window returns up to n bytes at off, fewer only at the end of the file. They
// are valid until the next call.
func (s *scanner) window(off int64, n int) ([]byte, error) {
	n = int(min(int64(n), max(s.size-off, 0)))
	if off < s.bufOff || off+int64(n) > s.bufOff+int64(len(s.buf)) {
		m := min(max(int64(n), scanWindow), s.size-off)
		if int64(cap(s.buf)) < m {
			s.buf = make([]byte, m)
		}
		s.buf, s.bufOff = s.buf[:m], off
		if err := readFull(s.file, s.buf, off); err != nil {
			s.buf = s.buf[:0]
			return nil, err
		}
	}
	return s.buf[off-s.bufOff:][:n], nil
}

// head decodes the header of the record at off without moving. It returns
// errEnd, an errNoRecord, or an error of the disk.
func (s *scanner) head() (record, error) {
	p, err := s.window(s.off, recordHeader)
	if err != nil {
		return record{}, err
	}
	if allZero(p) {
		return record{}, errEnd
	}
	r, err := parseRecord(p, s.salt, s.off)
	if err != nil {
		return record{}, err
	}
	if s.off+r.size() > s.size {
		return record{}, errShort
	}
	return r, nil
}

// next is head, checks the payload as well, and moves behind the record. The
// payload of a small record other than an entry or a body copy is returned, nil
// otherwise. With errBody the record is returned as well, and nothing moved.
func (s *scanner) next() (record, []byte, error) {
	r, err := s.head()
	if err != nil {
		return record{}, nil, err
	}
	var payload []byte
	var sum uint32
	for at, left := s.off+recordHeader, int64(r.length); left > 0; {
		p, err := s.window(at, int(min(left, scanWindow)))
		if err != nil {
			return record{}, nil, err
		}
		if int64(len(p)) == int64(r.length) && r.kind != kindEntry && r.kind != kindBodyCopy {
			payload = p
		}
		sum = crc32.Update(sum, castagnoli, p)
		at, left = at+int64(len(p)), left-int64(len(p))
	}
	if payload != nil {
		payload = slices.Clone(payload) // what follows may move the window
	}
	filler, err := s.window(s.off+recordHeader+int64(r.length), int(r.size()-recordHeader-int64(r.length)))
	if err != nil {
		return record{}, nil, err
	}
	if sum != r.sum || !allZero(filler) {
		return r, nil, errBody
	}
	s.off += r.size()
	return r, payload, nil
}

// promised looks behind off, where a scan stopped, for a record which states
// that bytes behind off were on stable storage. It returns the furthest such
// offset, and whether there is nothing but zeros.
func (s *scanner) promised(off int64) (furthest int64, zeros bool, err error) {
	zeros = true
	for at := off; at < s.size; {
		p, err := s.window(at, scanWindow)
		if err != nil {
			return 0, false, err
		}
		for i := 0; i < len(p); i += align {
			if allZero(p[i:min(i+align, len(p))]) {
				continue
			}
			zeros = false
			// Only the window's last records cannot be looked at whole; they are
			// when the next window begins with them.
			if i+recordHeader > len(p) {
				continue
			}
			furthest = max(furthest, s.promise(p[i:i+recordHeader], at+int64(i)))
		}
		if at+int64(len(p)) >= s.size {
			break
		}
		at += int64(len(p)) - recordHeader
	}
	return furthest, zeros, nil
}

// promise returns up to where the record at p says that the segment was synced.
func (s *scanner) promise(p []byte, off int64) int64 {
	if binary.LittleEndian.Uint16(p[14:]) != recordMark {
		return 0
	}
	r, err := parseRecord(p, s.salt, off)
	if err != nil {
		return 0
	}
	switch r.kind {
	case kindBatch, kindTrailer:
		return min(int64(r.index), off)
	case kindFooter:
		return off
	}
	return 0
}

func allZero(p []byte) bool {
	for len(p) >= 8 {
		if binary.LittleEndian.Uint64(p) != 0 {
			return false
		}
		p = p[8:]
	}
	for _, c := range p {
		if c != 0 {
			return false
		}
	}
	return true
}

// isDiskError reports whether err came from reading, and not from what was read.
func isDiskError(err error) bool {
	var bad errNoRecord
	return err != nil && !errors.Is(err, errEnd) && !errors.As(err, &bad) && !errors.Is(err, io.ErrUnexpectedEOF)
}
