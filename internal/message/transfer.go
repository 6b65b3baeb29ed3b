package message

import (
	"io"
)

// A transferDecoder undoes a content transfer encoding, piece by piece. It never
// fails: what is malformed is read over or kept as it is.
type transferDecoder interface {
	// decode appends the decoded form of src to dst.
	decode(dst, src []byte) []byte
	// end appends what is still due when there is no more.
	end(dst []byte) []byte
}

// newTransferDecoder returns the decoder for an encoding, nil with known true
// for one that is the identity.
func newTransferDecoder(encoding string) (d transferDecoder, known bool) {
	switch encoding {
	case "", "7bit", "8bit", "binary":
		return nil, true
	case "base64":
		return new(base64Decoder), true
	case "quoted-printable":
		return new(qpDecoder), true
	}
	return nil, false
}

// A base64Decoder ignores everything that is not in the alphabet (RFC 2045
// section 6.8). Padding ends a group; what follows starts another.
type base64Decoder struct {
	acc uint32
	n   int // characters in acc
}

func (d *base64Decoder) decode(dst, src []byte) []byte {
	for _, c := range src {
		v := base64Value(c)
		switch {
		case v < 64:
			d.acc = d.acc<<6 | uint32(v)
			if d.n++; d.n == 4 {
				dst = append(dst, byte(d.acc>>16), byte(d.acc>>8), byte(d.acc))
				d.acc, d.n = 0, 0
			}
		case c == '=':
			dst = d.end(dst)
		}
	}
	return dst
}

func (d *base64Decoder) end(dst []byte) []byte {
	switch d.n {
	case 2:
		dst = append(dst, byte(d.acc>>4))
	case 3:
		dst = append(dst, byte(d.acc>>10), byte(d.acc>>2))
	}
	d.acc, d.n = 0, 0
	return dst
}

// base64Value returns 64 for what is not in the alphabet.
func base64Value(c byte) byte {
	switch {
	case 'A' <= c && c <= 'Z':
		return c - 'A'
	case 'a' <= c && c <= 'z':
		return c - 'a' + 26
	case '0' <= c && c <= '9':
		return c - '0' + 52
	case c == '+':
		return 62
	case c == '/':
		return 63
	}
	return 64
}

// maxBlank is the most white space before a line end that is dropped.
const maxBlank = 1000

// A qpDecoder undoes quoted-printable (RFC 2045 section 6.7). An = that starts
// nothing known is kept.
type qpDecoder struct {
	held  []byte // = and what followed it, while it may yet become something
	blank []byte // white space that may come to stand before a line end
}

func (d *qpDecoder) decode(dst, src []byte) []byte {
	for _, c := range src {
		if len(d.held) > 0 {
			dst = d.escaped(dst, c)
			continue
		}
		switch {
		case (c == ' ' || c == '\t') && len(d.blank) < maxBlank:
			d.blank = append(d.blank, c)
			continue
		case c == '\r' || c == '\n':
			d.blank = d.blank[:0]
		case len(d.blank) > 0:
			dst = append(dst, d.blank...)
			d.blank = d.blank[:0]
		}
		if c == '=' {
			d.held = append(d.held, c)
			continue
		}
		dst = append(dst, c)
	}
	return dst
}

// escaped takes an octet behind an =.
func (d *qpDecoder) escaped(dst []byte, c byte) []byte {
	first := d.held[len(d.held)-1]
	blank := first == ' ' || first == '\t' || first == '='
	switch {
	case c == '\n': // soft line break, with CR or white space before it or not
		if len(d.held) == 1 || blank || first == '\r' {
			d.held = d.held[:0]
			return dst
		}
	case blank && (c == '\r' || c == ' ' || c == '\t') && len(d.held) < maxBlank:
		d.held = append(d.held, c)
		return dst
	case len(d.held) == 1 && hexValue(c) < 16:
		d.held = append(d.held, c)
		return dst
	case len(d.held) == 2 && hexValue(first) < 16 && hexValue(c) < 16:
		d.held = d.held[:0]
		return append(dst, hexValue(first)<<4|hexValue(c))
	}
	dst = append(dst, d.held...)
	d.held = d.held[:0]
	return d.decode(dst, []byte{c})
}

func (d *qpDecoder) end(dst []byte) []byte {
	if len(d.held) > 1 { // a lone = at the end is a soft line break
		dst = append(dst, d.held...)
	}
	d.held, d.blank = d.held[:0], d.blank[:0]
	return dst
}

// hexValue returns 16 for what is no hexadecimal digit.
func hexValue(c byte) byte {
	switch {
	case '0' <= c && c <= '9':
		return c - '0'
	case 'A' <= c && c <= 'F':
		return c - 'A' + 10
	case 'a' <= c && c <= 'f':
		return c - 'a' + 10
	}
	return 16
}

// A transferReader reads the decoded form of src.
type transferReader struct {
	src io.Reader
	dec transferDecoder
	in  [4096]byte
	out []byte // decoded and not yet read
	buf []byte // what out lies in
	err error
}

// newTransferReader returns src itself where there is nothing to undo.
func newTransferReader(src io.Reader, dec transferDecoder) io.Reader {
	if dec == nil {
		return src
	}
	return &transferReader{src: src, dec: dec}
}

// Read implements io.Reader.
func (t *transferReader) Read(p []byte) (int, error) {
	for len(t.out) == 0 && t.err == nil {
		n, err := t.src.Read(t.in[:])
		t.buf = t.dec.decode(t.buf[:0], t.in[:n])
		if err == io.EOF {
			t.buf = t.dec.end(t.buf)
		}
		t.out, t.err = t.buf, err
	}
	if len(t.out) == 0 && len(p) > 0 {
		return 0, t.err
	}
	n := copy(p, t.out)
	t.out = t.out[n:]
	return n, nil
}
