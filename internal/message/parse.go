package message

import (
	"bytes"
	"encoding/binary"
	"io"
)

// Sizes of the read buffer. A line that does not fit is taken in fragments.
const (
	minBuffer = 4 << 10
	maxBuffer = 16 << 10
)

// Parse reads a message to its end and returns its Summary. It fails only with
// an error of r. It keeps nothing of r.
func Parse(r io.Reader) (*Summary, error) { return new(Parser).Parse(r) }

// A Parser reads one message after the other with the same buffers. The zero
// Parser is ready; it is for one goroutine.
type Parser struct {
	p   parser
	buf []byte // input
}

// Parse is as the function Parse. The Summary shares nothing with the Parser.
func (r *Parser) Parse(src io.Reader) (*Summary, error) {
	r.p.begin()
	defer r.p.forget()
	if len(r.buf) < maxBuffer {
		size := maxBuffer
		if l, ok := src.(interface{ Len() int }); ok {
			size = max(minBuffer, min(maxBuffer, l.Len()+1)) // one more, to meet the end without another round
		}
		if size > len(r.buf) {
			r.buf = make([]byte, size)
		}
	}
	if err := r.p.read(src, r.buf); err != nil {
		return nil, err
	}
	r.p.finish()
	return r.p.sum, nil
}

// A parser takes a message line by line.
type parser struct {
	sum   *Summary
	open  []node // parts begun and not ended, outermost first
	live  int    // how many of them have a delimiter to look for
	field field
	lex   lexer // these two are for the field at hand; here for their buffers
	scan  addressScanner

	off int64 // of the line or fragment at hand
	eol int64 // octets of the line end just before off; 0 at the start and within a line
	len int64 // octets of the line before off, if within one

	text      int // octets that strings may still take
	room      int // octets that the numbers of parts may still take
	parts     int
	addresses int
	preview   preview
}

// begin readies p for a message. Of the one before it keeps the buffers alone.
func (p *parser) begin() {
	*p = parser{
		sum:     &Summary{Root: &Part{}},
		open:    p.open[:0],
		field:   field{value: p.field.value[:0]},
		lex:     lexer{buf: p.lex.buf[:0]},
		scan:    p.scan,
		preview: preview{raw: p.preview.raw[:0]},
		text:    MaxText,
		room:    MaxEncoded - MaxText - 16<<10, // the rest: one-off fields, and parts open when it is used up
		parts:   1,
	}
	p.push(node{part: p.sum.Root, env: &p.sum.Header})
}

// forget lets go of what belongs to the message that was parsed, and of buffers
// that only a strange one needs.
func (p *parser) forget() {
	clear(p.open[:cap(p.open)])
	p.sum, p.preview.part = nil, nil
	if cap(p.field.value) > maxBuffer {
		*p = parser{}
	}
}

// read takes r to its end, by way of buf.
func (p *parser) read(r io.Reader, buf []byte) error {
	n, idle := 0, 0
	for {
		m, err := r.Read(buf[n:])
		n += m
		if err != nil && err != io.EOF {
			return err
		}
		if idle++; m > 0 {
			idle = 0
		} else if err == nil && idle >= 100 {
			return io.ErrNoProgress
		}
		used := p.consume(buf[:n], err == io.EOF, n == len(buf))
		n = copy(buf, buf[used:n])
		if err == io.EOF {
			return nil
		}
	}
}

// consume takes whole lines of b, and what is left if that is the last of the
// message or fills the buffer. It returns how many octets it took.
func (p *parser) consume(b []byte, last, full bool) int {
	used := 0
	for used < len(b) {
		if n := p.skim(b[used:]); n > 0 {
			used += n
			continue
		}
		i := bytes.IndexByte(b[used:], '\n')
		if i >= 0 {
			p.line(b[used:used+i+1], true)
			used += i + 1
			continue
		}
		rest := b[used:]
		switch {
		case last:
			p.line(rest, true)
			return len(b)
		case used == 0 && full:
			if rest[len(rest)-1] == '\r' { // may belong to a line end
				rest = rest[:len(rest)-1]
			}
			p.line(rest, false)
			used += len(rest)
		}
		return used
	}
	return used
}

// skim takes lines at the start of b of which only the number, the length and the
// octets matter: those of a body whose preview is complete, up to one that may be a
// delimiter. It returns how many octets it took, and does what line would have.
func (p *parser) skim(b []byte) int {
	if p.len > 0 || p.top().inHeader || !p.preview.over(p.top().part) {
		return 0
	}
	end := bytes.LastIndexByte(b, '\n') + 1
	if p.live > 0 {
		if bytes.HasPrefix(b, []byte("--")) {
			return 0
		}
		if i := bytes.Index(b[:end], []byte("\n--")); i >= 0 {
			end = i + 1
		}
	}
	if end == 0 {
		return 0
	}
	b = b[:end]
	ends := 0 // of lines with CR LF
	lines, longest := 0, 0
	for rest := b; len(rest) > 0; lines++ {
		n := bytes.IndexByte(rest, '\n')
		if p.eol = 1; n > 0 && rest[n-1] == '\r' {
			p.eol = 2
			ends++
		}
		longest = max(longest, n+1-int(p.eol))
		rest = rest[n+1:]
	}
	f := &p.sum.Flags
	if ends < lines {
		*f |= BareLF
	}
	if bytes.Count(b, []byte{'\r'}) > ends {
		*f |= BareCR
	}
	p.inspectOctets(b)
	p.off += int64(end)
	p.sum.LongestLine = max(p.sum.LongestLine, int64(longest))
	p.sum.Lines += int64(lines)
	return end
}

// line takes a line with its end, or the last line without one (whole), or a
// fragment of a line that another follows.
func (p *parser) line(b []byte, whole bool) {
	text, eol := cutEOL(b)
	p.inspect(text, eol)
	start := p.len == 0
	switch {
	case start && whole && p.live > 0 && len(text) > 2 && text[0] == '-' && text[1] == '-' && p.delimiter(text, len(b)):
	case p.top().inHeader:
		p.headerLine(text, eol, start)
	default:
		p.preview.add(p.top().part, b)
	}
	p.off += int64(len(b))
	p.len += int64(len(text))
	p.sum.LongestLine = max(p.sum.LongestLine, p.len)
	p.eol = eol
	if eol > 0 {
		p.sum.Lines++
		p.len = 0
	}
}

// cutEOL splits off a line's end and tells its length: 0, 1 or 2.
func cutEOL(b []byte) (text []byte, eol int64) {
	n := len(b)
	if n == 0 || b[n-1] != '\n' {
		return b, 0
	}
	if n > 1 && b[n-2] == '\r' {
		return b[:n-2], 2
	}
	return b[:n-1], 1
}

// inspect sets the flags that a line of text calls for.
func (p *parser) inspect(text []byte, eol int64) {
	f := &p.sum.Flags
	if eol == 1 {
		*f |= BareLF
	}
	if bytes.IndexByte(text, '\r') >= 0 {
		*f |= BareCR
	}
	p.inspectOctets(text)
}

// inspectOctets sets the flags that octets call for wherever they stand.
func (p *parser) inspectOctets(b []byte) {
	f := &p.sum.Flags
	if bytes.IndexByte(b, 0) >= 0 {
		*f |= HasNUL
	}
	if !hasEightBit(b) {
		return
	}
	if p.top().inHeader {
		*f |= EightBitHeader
	} else {
		*f |= EightBitBody
	}
}

func hasEightBit(b []byte) bool {
	for len(b) >= 8 {
		if binary.LittleEndian.Uint64(b)&0x8080808080808080 != 0 {
			return true
		}
		b = b[8:]
	}
	for _, c := range b {
		if c >= 0x80 {
			return true
		}
	}
	return false
}

// finish ends every open part at the end of the message.
func (p *parser) finish() {
	p.eol = 0
	p.closeAbove(-1)
	p.sum.Size = p.off
	p.sum.Preview = p.preview.text()
}
