package message

import (
	"bytes"
	"slices"
	"strconv"
	"strings"
)

// contentType takes Content-Type. What is none (RFC 2045 section 5.2) is
// text/plain. A media type for which there is no room makes the part opaque.
func (p *parser) contentType(n *node, value []byte) {
	l := &p.lex
	l.s, l.i = value, 0
	l.skip()
	media := l.until(";( \t")
	l.skip()
	if !validMedia(media) {
		n.part.Media = "text/plain"
		return
	}
	if n.part.Media = p.known(media, mediaTypes[:]); n.part.Media == "" {
		n.part.Media = opaque
	}
	params := p.params(l)
	for _, pr := range params {
		if b := strings.TrimRight(pr.Value, " \t"); pr.Name == "boundary" && len(b) <= maxBoundary {
			n.asked = b
		}
	}
	n.part.Params = p.chargeParams(params)
}

func validMedia(media []byte) bool {
	slash := bytes.IndexByte(media, '/')
	return slash > 0 && isToken(media[:slash]) && isToken(media[slash+1:]) && len(media) < 256
}

// isToken tells whether b is a token of RFC 2045 section 5.1.
func isToken(b []byte) bool {
	for _, c := range b {
		if c <= ' ' || c >= 0x7f || strings.IndexByte(`()<>@,;:\"/[]?=`, c) >= 0 {
			return false
		}
	}
	return len(b) > 0
}

// known returns b in lower case: one of list if it is there, else a string that
// is counted, empty if there is no room for it.
func (p *parser) known(b []byte, list []string) string {
	for i, c := range b {
		b[i] = lowerASCII(c)
	}
	for _, s := range list {
		if s == string(b) {
			return s
		}
	}
	return p.charge(string(b))
}

// token returns the first word of a field in lower case, empty if it is none.
func (p *parser) token(value []byte) string {
	l := lexer{s: value}
	l.skip()
	t := l.until("; \t(")
	if !isToken(t) || len(t) > 80 {
		return ""
	}
	return p.known(t, encodings[:])
}

// disposition takes Content-Disposition (RFC 2183).
func (p *parser) disposition(r *Rare, value []byte) {
	l := &p.lex
	l.s, l.i = value, 0
	l.skip()
	t := l.until("; \t(")
	l.skip()
	if !isToken(t) || len(t) > 80 {
		return
	}
	for i, c := range t {
		t[i] = lowerASCII(c)
	}
	if r.Disposition = p.charge(intern(t)); r.Disposition != "" {
		r.DispositionParams = p.chargeParams(p.params(l))
	}
}

// languages takes Content-Language (RFC 3282).
func (p *parser) languages(r *Rare, value []byte) {
	l := lexer{s: value}
	for l.skip(); l.i < len(l.s) && len(r.Language) < MaxParams; l.skip() {
		tag := l.until(", \t(")
		if isToken(tag) && len(tag) <= 80 {
			if s := p.charge(string(tag)); s != "" {
				r.Language = append(r.Language, s)
			}
		}
		l.skip()
		l.accept(',')
	}
}

// chargeParams returns the parameters for which there is room.
func (p *parser) chargeParams(ps []Param) []Param {
	for i, pr := range ps {
		if p.text < len(pr.Name)+len(pr.Value)+6 {
			p.sum.Flags |= Truncated
			ps = ps[:i:i]
			break
		}
		p.text -= len(pr.Name) + len(pr.Value) + 6
	}
	if len(ps) == 0 {
		return nil
	}
	return ps
}

// params reads "; name=value" up to the end, the first of each name, and joins
// segments.
func (p *parser) params(l *lexer) []Param {
	var ps []Param
	segments := false
	for l.i < len(l.s) {
		if l.skip(); !l.accept(';') {
			l.until(";") // what does not belong there
			continue
		}
		l.skip()
		name := bytes.TrimRight(l.until("=;("), " \t")
		l.skip()
		if !l.accept('=') {
			continue
		}
		l.skip()
		value := l.value()
		if !isToken(name) || len(name) > 80 {
			continue
		}
		for i, c := range name {
			name[i] = lowerASCII(c)
		}
		boundary := string(name) == "boundary"
		if len(ps) == MaxParams || p.text < len(name)+len(value) && !boundary {
			p.sum.Flags |= Truncated
			if len(ps) == MaxParams {
				break
			}
			continue
		}
		if len(value) > maxString {
			value = value[:maxString]
			p.sum.Flags |= Truncated
		}
		if !slices.ContainsFunc(ps, func(q Param) bool { return q.Name == string(name) }) {
			ps = append(ps, Param{Name: intern(name), Value: intern(cleanText(value))})
		}
		segments = segments || bytes.IndexByte(name, '*') > 0
	}
	if segments {
		ps = joinSegments(ps)
	}
	return ps
}

// joinSegments puts together the segments name*0, name*1* … (RFC 2231 section
// 3). If one of them is percent-encoded, all are and the name ends in *.
func joinSegments(ps []Param) []Param {
	var out []Param
	for _, pr := range ps {
		base, rest, ok := strings.Cut(pr.Name, "*")
		if !ok || rest == "" || base == "" { // name or name*
			out = append(out, pr)
			continue
		}
		if strings.TrimSuffix(rest, "*") != "0" || param(out, base+"*") != "" {
			continue // joined with its segment 0, or of no use
		}
		out = append(out, joinFrom(ps, base))
	}
	return out
}

// joinFrom joins the segments of one parameter.
func joinFrom(ps []Param, base string) Param {
	var segs []Param
	extended := false
	for i := range len(ps) {
		name := base + "*" + strconv.Itoa(i)
		s, star := segment(ps, name)
		if s == nil {
			break
		}
		extended = extended || star
		segs = append(segs, *s)
	}
	var b strings.Builder
	for i, s := range segs {
		switch {
		case !extended || strings.HasSuffix(s.Name, "*"):
			b.WriteString(s.Value)
		default:
			if i == 0 {
				b.WriteString("''")
			}
			percentEncode(&b, s.Value)
		}
	}
	if extended {
		base += "*"
	}
	value := b.String()
	if len(value) > maxString {
		value = strings.ToValidUTF8(value[:maxString], "")
	}
	return Param{Name: base, Value: value}
}

func segment(ps []Param, name string) (s *Param, star bool) {
	for i := range ps {
		if rest, ok := strings.CutPrefix(ps[i].Name, name); ok && (rest == "" || rest == "*") {
			return &ps[i], rest == "*"
		}
	}
	return nil, false
}

func percentEncode(b *strings.Builder, s string) {
	for i := 0; i < len(s); i++ {
		if c := s[i]; isToken([]byte{c}) && c != '%' && c != '\'' && c != '*' {
			b.WriteByte(c)
		} else {
			b.WriteByte('%')
			b.WriteByte("0123456789ABCDEF"[c>>4])
			b.WriteByte("0123456789ABCDEF"[c&15])
		}
	}
}

// A lexer walks over a structured field's value. It never goes back.
type lexer struct {
	s   []byte
	i   int
	buf []byte // for value; reused
}

// skip goes over white space and comments. It returns the text of the last
// comment, nil if there was none.
func (l *lexer) skip() (comment []byte) {
	for l.i < len(l.s) {
		switch l.s[l.i] {
		case ' ', '\t', '\r', '\n':
			l.i++
		case '(':
			comment = l.comment()
		default:
			return comment
		}
	}
	return comment
}

// comment goes over a comment and returns what is in it. One that is not closed
// goes to the end.
func (l *lexer) comment() []byte {
	start, depth := l.i+1, 0
	for ; l.i < len(l.s); l.i++ {
		switch l.s[l.i] {
		case '\\':
			l.i++
		case '(':
			depth++
		case ')':
			if depth--; depth == 0 {
				l.i++
				return l.s[start : l.i-1]
			}
		}
	}
	l.i = len(l.s)
	return l.s[min(start, len(l.s)):]
}

// accept goes over c if it is next.
func (l *lexer) accept(c byte) bool {
	if l.i < len(l.s) && l.s[l.i] == c {
		l.i++
		return true
	}
	return false
}

// until returns what comes before the first of the octets in stop, or the end.
func (l *lexer) until(stop string) []byte {
	start := l.i
	for l.i < len(l.s) && strings.IndexByte(stop, l.s[l.i]) < 0 {
		l.i++
	}
	return l.s[start:l.i]
}

// value returns a parameter's value, which is good until the next call. Unquoted,
// it ends at a semicolon or white space.
func (l *lexer) value() []byte {
	if l.i < len(l.s) && l.s[l.i] == '"' {
		l.buf = l.quoted(l.buf[:0])
		return l.buf
	}
	return l.until("; \t")
}

// quoted appends the content of the quoted string that is next to dst. One that
// is not closed goes to the end.
func (l *lexer) quoted(dst []byte) []byte {
	for l.i++; l.i < len(l.s); l.i++ {
		c := l.s[l.i]
		if c == '"' {
			l.i++
			return dst
		}
		if c == '\\' && l.i+1 < len(l.s) {
			l.i++
			c = l.s[l.i]
		}
		dst = append(dst, c)
	}
	return dst
}
