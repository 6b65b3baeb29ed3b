package message

import (
	"bytes"
	"io"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/covey-mail/covey"
)

// Limits of a search.
const (
	MaxNeedle = 1 << 10  // octets of what is searched for
	MaxSearch = 32 << 20 // octets of one message that a search for it reads
)

// A Needle is a text to search for, whatever its case. It may be used by several
// goroutines.
type Needle struct {
	text []byte   // folded
	fail []uint16 // fail[i]: the longest start of text that ends at i, and is not all of text[:i+1]
}

// NewNeedle returns the Needle for a text in UTF-8. One of more than MaxNeedle
// octets is covey.TooBig. The empty Needle is in everything.
func NewNeedle(text string) (*Needle, error) {
	if len(text) > MaxNeedle {
		return nil, covey.Errorf(covey.TooBig, "search for %d octets, most are %d", len(text), MaxNeedle)
	}
	n := &Needle{}
	for _, r := range text {
		n.text = utf8.AppendRune(n.text, foldRune(r))
	}
	n.fail = make([]uint16, len(n.text))
	k := uint16(0)
	for i := 1; i < len(n.text); i++ {
		k = n.step(k, n.text[i])
		n.fail[i] = k
	}
	return n, nil
}

// step returns how much of the needle is found when c follows on its first k
// octets (Knuth, Morris and Pratt).
func (n *Needle) step(k uint16, c byte) uint16 {
	for k > 0 && n.text[k] != c {
		k = n.fail[k-1]
	}
	if n.text[k] == c {
		k++
	}
	return k
}

// foldRune maps characters that differ in case alone to one of them.
func foldRune(r rune) rune {
	if r < utf8.RuneSelf {
		return rune(lowerASCII(byte(r)))
	}
	return unicode.ToLower(unicode.ToUpper(r))
}

// A matcher is fed text and knows when the needle was in it.
type matcher struct {
	n     *Needle
	k     uint16
	split []byte // start of a character that goes on in the next piece
}

func (n *Needle) matcher() *matcher { return &matcher{n: n} }

// feed takes the next piece of a text and reports whether the needle was found.
func (m *matcher) feed(b []byte) bool {
	if len(m.n.text) == 0 {
		return true
	}
	if len(m.split) > 0 {
		b = append(m.split, b...)
		m.split = nil
	}
	for i := 0; i < len(b); {
		if b[i] < utf8.RuneSelf {
			if m.octet(lowerASCII(b[i])) {
				return true
			}
			i++
			continue
		}
		if !utf8.FullRune(b[i:]) {
			m.split = append([]byte(nil), b[i:]...)
			break
		}
		r, size := utf8.DecodeRune(b[i:])
		i += size
		var enc [utf8.UTFMax]byte
		for _, c := range enc[:utf8.EncodeRune(enc[:], foldRune(r))] {
			if m.octet(c) {
				return true
			}
		}
	}
	return false
}

func (m *matcher) octet(c byte) bool {
	m.k = m.n.step(m.k, c)
	return int(m.k) == len(m.n.text)
}

// In reports whether the needle is in s.
func (n *Needle) In(s string) bool { return n.matcher().feed([]byte(s)) }

func (n *Needle) inReader(r io.Reader) (bool, error) {
	m := n.matcher()
	buf := make([]byte, 8<<10)
	for {
		k, err := r.Read(buf)
		if m.feed(buf[:k]) {
			return true, nil
		}
		if err == io.EOF {
			return false, nil
		}
		if err != nil {
			return false, err
		}
	}
}

// A Source gives a message's bytes to a search that cannot do without.
type Source struct {
	Prefix int                         // octets of the prefix
	Open   func() (io.ReaderAt, error) // prefix and what the Summary describes; called only if needed
}

// MatchHeader reports whether the message has a header field of that name with
// the needle in its value, encoded words undone. Envelope fields are looked up
// in the Summary; for others, and where the Summary does not have all, at most
// MaxHeader octets of the header are read. Errors are those of src.
func (s *Summary) MatchHeader(src Source, name string, n *Needle) (bool, error) {
	if found, known := s.matchEnvelope(name, n); known {
		return found, nil
	}
	r, err := src.Open()
	if err != nil {
		return false, err
	}
	return s.matchFields(r, int64(src.Prefix), s.Root, func(field, value []byte) bool {
		return strings.EqualFold(string(field), name) && n.In(decodeText(string(value)))
	})
}

// matchEnvelope looks a field up in the Summary. It is not known there if it is
// no envelope field, perhaps cut, or perhaps there but empty.
func (s *Summary) matchEnvelope(name string, n *Needle) (found, known bool) {
	if s.Flags&Truncated != 0 {
		return false, false
	}
	e := &s.Header
	var text string
	var list []Address
	switch lookupField([]byte(name)) {
	case subjectField:
		text = e.Subject
	case dateField:
		text = e.Date
	case inReplyToField:
		text = e.InReplyTo
	case messageIDField:
		text = e.MessageID
	case fromField:
		list = e.From
	case senderField:
		list = e.Sender
	case replyToField:
		list = e.ReplyTo
	case toField:
		list = e.To
	case ccField:
		list = e.Cc
	case bccField:
		list = e.Bcc
	default:
		return false, false
	}
	if len(n.text) == 0 && text == "" && len(list) == 0 {
		return false, false
	}
	if list != nil {
		return n.In(addressText(list)), true
	}
	return n.In(decodeText(text)), true
}

// addressText returns a list as a header field has it, names decoded.
func addressText(list []Address) string {
	var b strings.Builder
	for i, a := range list {
		if i > 0 {
			b.WriteString(", ")
		}
		if a.Name != "" {
			b.WriteString(decodeText(a.Name))
			b.WriteByte(' ')
		}
		b.WriteString("<" + a.Mailbox + "@" + a.Host + ">")
	}
	return b.String()
}

// matchFields calls match for each field of a part's header until it returns
// true. Values are unfolded and cut at 64 KiB.
func (s *Summary) matchFields(r io.ReaderAt, prefix int64, part *Part, match func(name, value []byte) bool) (bool, error) {
	b, err := readHeader(r, s.header(part, prefix), prefix)
	if err != nil {
		return false, err
	}
	var name, value []byte
	for len(b) > 0 {
		line := b
		if i := bytes.IndexByte(b, '\n'); i >= 0 {
			line = b[:i+1]
		}
		b = b[len(line):]
		text, _ := cutEOL(line)
		if len(text) > 0 && (text[0] == ' ' || text[0] == '\t') {
			if len(value)+len(text) <= maxField {
				value = append(value, text...)
			}
			continue
		}
		if len(name) > 0 && match(name, value) {
			return true, nil
		}
		var v []byte
		if name, v, _ = splitField(text); name != nil {
			value = append(value[:0], v[:min(len(v), maxField)]...)
		}
	}
	return len(name) > 0 && match(name, value), nil
}

// MatchBody reports whether the needle is in the message's text: its text parts,
// decoded, and the headers of messages in it. What is not text is not looked at,
// nor is what comes after MaxSearch octets. Errors are those of src.
func (s *Summary) MatchBody(src Source, n *Needle) (bool, error) {
	return s.match(src, n, false)
}

// MatchText is MatchBody, and the message's own header is looked at too.
func (s *Summary) MatchText(src Source, n *Needle) (bool, error) {
	return s.match(src, n, true)
}

func (s *Summary) match(src Source, n *Needle, header bool) (bool, error) {
	if len(n.text) == 0 {
		return true, nil
	}
	r, err := src.Open()
	if err != nil {
		return false, err
	}
	t := textSearch{s: s, r: r, prefix: int64(src.Prefix), n: n, left: MaxSearch}
	if header {
		if found, err := t.header(s.Root); found || err != nil {
			return found, err
		}
	}
	return t.part(s.Root)
}

// A textSearch goes through a message's parts.
type textSearch struct {
	s      *Summary
	r      io.ReaderAt
	prefix int64
	n      *Needle
	left   int64 // octets that may yet be read
}

func (t *textSearch) header(part *Part) (bool, error) {
	if t.left -= part.HeaderSize; t.left < 0 {
		return false, nil
	}
	return t.s.matchFields(t.r, t.prefix, part, func(name, value []byte) bool {
		return t.n.In(string(name) + ": " + decodeText(string(value)))
	})
}

func (t *textSearch) part(part *Part) (bool, error) {
	switch {
	case part.Message != nil:
		if found, err := t.header(part.Message.Root); found || err != nil {
			return found, err
		}
		return t.part(part.Message.Root)
	case strings.HasPrefix(part.Media, "text/"):
		return t.text(part)
	}
	for _, c := range part.Parts {
		if found, err := t.part(c); found || err != nil || t.left <= 0 {
			return found, err
		}
	}
	return false, nil
}

func (t *textSearch) text(part *Part) (bool, error) {
	start := t.prefix + part.BodyOffset()
	size := min(part.BodySize, t.left)
	t.left -= size
	dec, _ := newTransferDecoder(part.Encoding) // not known: as it stands
	r := newTransferReader(exactly(t.r, span{start, start + size}), dec)
	return t.n.inReader(charsetReader(param(part.Params, "charset"), r))
}
