package message

import (
	"bytes"
	"io"
	"strings"

	"github.com/emersion/go-imap/v2"

	"github.com/covey-mail/covey"
)

// Section returns what BODY[section]<partial> asks for, and its size. r reads
// the message as its owner sees it: prefix octets of header lines, then what the
// Summary describes. A section that does not exist is empty, and so is a partial
// beyond the end. Only HEADER.FIELDS reads at once, at most MaxHeader octets
// behind the prefix; all else is read as the caller reads. The Reader that is
// returned gives size octets, or the error of r.
func (s *Summary) Section(r io.ReaderAt, prefix int, item *imap.FetchItemBodySection) (io.Reader, int64, error) {
	w := s.section(int64(prefix), item)
	if item.Specifier == imap.PartSpecifierHeader && len(item.HeaderFields)+len(item.HeaderFieldsNot) > 0 {
		b, err := filterHeader(r, w, int64(prefix), item)
		if err != nil {
			return nil, 0, err
		}
		p := cutPartial(span{0, int64(len(b))}, item.Partial)
		return bytes.NewReader(b[p.start:p.end]), p.end - p.start, nil
	}
	w = cutPartial(w, item.Partial)
	return exactly(r, w), w.end - w.start, nil
}

// Whole returns what BODY[]<partial> asks for of a message of size octets, prefix
// included. No Summary is needed for it; see Section for the rest.
func Whole(r io.ReaderAt, size int64, partial *imap.SectionPartial) (io.Reader, int64) {
	w := cutPartial(span{0, size}, partial)
	return exactly(r, w), w.end - w.start
}

// section returns where a section lies, header fields not yet picked.
func (s *Summary) section(prefix int64, item *imap.FetchItemBodySection) span {
	part := s.find(item.Part)
	if part == nil {
		return span{}
	}
	switch item.Specifier {
	case imap.PartSpecifierNone:
		if len(item.Part) == 0 {
			return span{0, prefix + s.Size}
		}
	case imap.PartSpecifierMIME:
		if len(item.Part) == 0 {
			return span{}
		}
		return s.header(part, prefix)
	default: // HEADER or TEXT, of a message
		if len(item.Part) > 0 {
			if part.Message == nil {
				return span{}
			}
			part = part.Message.Root
		}
		if item.Specifier == imap.PartSpecifierHeader {
			return s.header(part, prefix)
		}
	}
	return span{prefix + part.BodyOffset(), prefix + part.end()}
}

// header returns where a part's header lies. The message's own starts with the
// prefix.
func (s *Summary) header(part *Part, prefix int64) span {
	if part == s.Root {
		return span{0, prefix + part.HeaderSize}
	}
	return span{prefix + part.HeaderOffset, prefix + part.BodyOffset()}
}

// find follows a part number (RFC 9051 section 6.4.5): into the parts of a
// multipart, through the message in a message part; part 1 of a message that is
// no multipart is its body. It returns nil if there is no such part.
func (s *Summary) find(path []int) *Part {
	part, isRoot := s.Root, true
	for _, n := range path {
		if !isRoot && part.Message != nil {
			part, isRoot = part.Message.Root, true
		}
		switch {
		case len(part.Parts) > 0:
			if n < 1 || n > len(part.Parts) {
				return nil
			}
			part = part.Parts[n-1]
		case !isRoot || n != 1:
			return nil
		}
		isRoot = false
	}
	return part
}

// cutPartial returns the part of w that a partial asks for. The numbers of the
// partial may be anything.
func cutPartial(w span, p *imap.SectionPartial) span {
	if p == nil {
		return w
	}
	size := w.end - w.start
	off := max(0, min(p.Offset, size))
	n := max(0, min(p.Size, size-off))
	return span{w.start + off, w.start + off + n}
}

// exactly reads a span, and fails if r ends before it.
func exactly(r io.ReaderAt, w span) io.Reader {
	n := w.end - w.start
	if n <= 0 {
		return strings.NewReader("")
	}
	return &exactReader{r: io.NewSectionReader(r, w.start, n), left: n}
}

type exactReader struct {
	r    io.Reader
	left int64
}

// Read implements io.Reader.
func (e *exactReader) Read(p []byte) (int, error) {
	n, err := e.r.Read(p)
	e.left -= int64(n)
	if err == io.EOF && e.left > 0 {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// filterHeader reads the header in w and keeps the fields that item names, or
// does not name, and the empty line.
func filterHeader(r io.ReaderAt, w span, prefix int64, item *imap.FetchItemBodySection) ([]byte, error) {
	b, err := readHeader(r, w, prefix)
	if err != nil {
		return nil, err
	}
	list, want := item.HeaderFields, true
	if len(list) == 0 {
		list, want = item.HeaderFieldsNot, false
	}
	names := make(map[string]bool, len(list))
	for _, n := range list {
		names[strings.ToLower(n)] = true
	}
	out := b[:0]
	keep := false
	var low []byte
	for len(b) > 0 {
		line := b
		if i := bytes.IndexByte(b, '\n'); i >= 0 {
			line = b[:i+1]
		}
		b = b[len(line):]
		text, _ := cutEOL(line)
		switch {
		case len(text) == 0:
			keep = true
		case text[0] == ' ' || text[0] == '\t':
		default:
			name, _, ok := splitField(text)
			low = append(low[:0], name...)
			for i, c := range low {
				low[i] = lowerASCII(c)
			}
			keep = ok && names[string(low)] == want
		}
		if keep {
			out = append(out, line...)
		}
	}
	return out, nil
}

// readHeader reads the header in w, at most MaxHeader octets behind the prefix.
func readHeader(r io.ReaderAt, w span, prefix int64) ([]byte, error) {
	b := make([]byte, min(w.end-w.start, MaxHeader+prefix))
	if _, err := io.ReadFull(exactly(r, span{w.start, w.start + int64(len(b))}), b); err != nil && len(b) > 0 {
		return nil, err
	}
	return b, nil
}

// Binary returns what BINARY[part]<partial> asks for (RFC 3516), and its size:
// the part's body with its transfer encoding undone. To know the size, it reads
// an encoded part to its end. A transfer encoding that is not known is
// covey.Invalid, which is [UNKNOWN-CTE] to IMAP. See Section for the rest.
func (s *Summary) Binary(r io.ReaderAt, prefix int, item *imap.FetchItemBinarySection) (io.Reader, int64, error) {
	w, encoding := s.binary(int64(prefix), item.Part)
	dec, known := newTransferDecoder(encoding)
	if !known {
		return nil, 0, covey.Errorf(covey.Invalid, "part has transfer encoding %.80q", encoding)
	}
	if dec == nil {
		w = cutPartial(w, item.Partial)
		return exactly(r, w), w.end - w.start, nil
	}
	size, err := io.Copy(io.Discard, newTransferReader(exactly(r, w), dec))
	if err != nil {
		return nil, 0, err
	}
	p := cutPartial(span{0, size}, item.Partial)
	dec, _ = newTransferDecoder(encoding)
	decoded := newTransferReader(exactly(r, w), dec)
	if _, err := io.CopyN(io.Discard, decoded, p.start); err != nil {
		return nil, 0, err
	}
	return io.LimitReader(decoded, p.end-p.start), p.end - p.start, nil
}

// BinarySize returns what BINARY.SIZE[part] asks for; see Binary.
func (s *Summary) BinarySize(r io.ReaderAt, prefix int, part []int) (int64, error) {
	_, size, err := s.Binary(r, prefix, &imap.FetchItemBinarySection{Part: part, Partial: &imap.SectionPartial{Offset: 0, Size: 1 << 62}})
	return size, err
}

// binary returns where a part's body lies and how it is encoded. The message as
// a whole and a multipart have no encoding of their own (RFC 2045 section 6.4).
func (s *Summary) binary(prefix int64, path []int) (w span, encoding string) {
	part := s.find(path)
	switch {
	case part == nil:
		return span{}, ""
	case len(path) == 0:
		return span{0, prefix + s.Size}, ""
	case len(part.Parts) == 0:
		encoding = part.Encoding
	}
	return span{prefix + part.BodyOffset(), prefix + part.end()}, encoding
}
