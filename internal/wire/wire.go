// Package wire reads and writes the binary encodings that Covey keeps on disk
// and sends between nodes: unsigned varints, length-prefixed byte strings and
// fixed-width numbers, little endian.
//
// A Reader is sticky: after the first fault every further read returns zero
// values, and Err tells what was wrong. No length from the input is trusted: a
// byte string can never be longer than what is left, and a count is checked
// against what is left before anything is allocated for it.
package wire

import (
	"encoding/binary"

	"github.com/covey-mail/covey"
)

// AppendUint appends v as an unsigned varint of 1 to 10 octets.
func AppendUint(b []byte, v uint64) []byte { return binary.AppendUvarint(b, v) }

// AppendInt appends v zigzag-encoded.
func AppendInt(b []byte, v int64) []byte { return binary.AppendVarint(b, v) }

// AppendBytes appends the length of p and p.
func AppendBytes[T string | []byte](b []byte, p T) []byte {
	return append(binary.AppendUvarint(b, uint64(len(p))), p...)
}

// AppendBool appends one octet, 0 or 1.
func AppendBool(b []byte, v bool) []byte {
	if v {
		return append(b, 1)
	}
	return append(b, 0)
}

// A Reader takes values from the front of a byte slice. The zero Reader is
// empty. It is not safe for concurrent use.
type Reader struct {
	buf []byte
	err error
}

// NewReader returns a Reader of b. Byte strings it returns alias b.
func NewReader(b []byte) *Reader { return &Reader{buf: b} }

// Err returns the first fault, nil while all reads were good.
func (r *Reader) Err() error { return r.err }

// Len returns how many octets are left, zero after a fault.
func (r *Reader) Len() int { return len(r.buf) }

func (r *Reader) fail(what string) {
	if r.err == nil {
		r.err = covey.Errorf(covey.Corrupt, "malformed encoding: %s", what)
	}
	r.buf = nil
}

// Fail records a fault that the caller found in a value it read.
func (r *Reader) Fail(what string) { r.fail(what) }

// Uint reads an unsigned varint.
func (r *Reader) Uint() uint64 {
	v, n := binary.Uvarint(r.buf)
	if n <= 0 {
		r.fail("varint")
		return 0
	}
	r.buf = r.buf[n:]
	return v
}

// Int reads a zigzag varint.
func (r *Reader) Int() int64 {
	v, n := binary.Varint(r.buf)
	if n <= 0 {
		r.fail("varint")
		return 0
	}
	r.buf = r.buf[n:]
	return v
}

// Byte reads one octet.
func (r *Reader) Byte() byte {
	if len(r.buf) == 0 {
		r.fail("octet")
		return 0
	}
	c := r.buf[0]
	r.buf = r.buf[1:]
	return c
}

// Bool reads one octet that must be 0 or 1.
func (r *Reader) Bool() bool {
	c := r.Byte()
	if c > 1 {
		r.fail("boolean")
	}
	return c == 1
}

// Bytes reads a length-prefixed byte string. It aliases the input; nil if empty.
func (r *Reader) Bytes() []byte {
	n := r.Uint()
	if n > uint64(len(r.buf)) {
		r.fail("length beyond the end")
		return nil
	}
	if n == 0 {
		return nil
	}
	p := r.buf[:n:n]
	r.buf = r.buf[n:]
	return p
}

// String reads a length-prefixed byte string and copies it.
func (r *Reader) String() string { return string(r.Bytes()) }

// Raw reads the next n octets without a prefix. They alias the input.
func (r *Reader) Raw(n int) []byte {
	if n < 0 || n > len(r.buf) {
		r.fail("length beyond the end")
		return nil
	}
	p := r.buf[:n:n]
	r.buf = r.buf[n:]
	return p
}

// Uint32 reads four octets, little endian.
func (r *Reader) Uint32() uint32 {
	if p := r.Raw(4); p != nil {
		return binary.LittleEndian.Uint32(p)
	}
	return 0
}

// Uint64 reads eight octets, little endian.
func (r *Reader) Uint64() uint64 {
	if p := r.Raw(8); p != nil {
		return binary.LittleEndian.Uint64(p)
	}
	return 0
}

// Count reads the number of elements of a list whose elements take at least min
// octets each (min ≥ 1), so that a caller may allocate for it.
func (r *Reader) Count(min int) int {
	n := r.Uint()
	if n > uint64(len(r.buf)/min) {
		r.fail("count beyond the end")
		return 0
	}
	return int(n)
}

// End records a fault unless everything was read, and returns Err.
func (r *Reader) End() error {
	if r.err == nil && len(r.buf) > 0 {
		r.fail("octets left over")
	}
	return r.err
}
