package imapd

import (
	"math"
	"strings"

	"github.com/emersion/go-imap/v2"
)

// A fetchQuery is what FETCH asks for.
type fetchQuery struct {
	set numSet
	uid bool // UID FETCH

	uids, flags, date, size   bool
	envelope, structure, body bool // body: BODY without a section
	parts                     []fetchPart
}

// A fetchPart is a part of a message that FETCH asks for: its octets or, with
// BINARY.SIZE, how many they are.
type fetchPart struct {
	name   string                       // as the response has it
	body   *imap.FetchItemBodySection   // or
	binary *imap.FetchItemBinarySection // this
	count  bool
}

// A fetchParser reads the arguments of a FETCH.
type fetchParser struct {
	cursor
	q     *fetchQuery
	name  []byte // of the part being read, as the response has it
	picks int    // HEADER.FIELDS seen
}

// parseFetch is RFC 3501 section 6.4.5 with RFC 3516.
func parseFetch(cmd command) (*fetchQuery, *imap.Error) {
	p := fetchParser{cursor: cursor{s: cmd.args}, q: new(fetchQuery)}
	p.q.uid = cmd.name == "UID FETCH"
	p.q.uids = p.q.uid
	p.sp()
	p.q.set = p.set()
	p.sp()
	if p.peek() == '(' {
		n := 0
		p.list(maxItems, func() {
			p.item()
			n++
		})
		if n == 0 {
			p.want("an item to fetch")
		}
	} else if !p.macro() {
		p.item()
	}
	p.end()
	return p.q, p.err
}

// macro reads one of the three words that stand for a list.
func (p *fetchParser) macro() bool {
	name := strings.ToUpper(string(p.s))
	switch name {
	case "ALL", "FAST", "FULL":
	default:
		return false
	}
	p.q.flags, p.q.date, p.q.size = true, true, true
	p.q.envelope = name != "FAST"
	p.q.body = name == "FULL"
	p.s = nil
	return true
}

func isItem(b byte) bool { return isAtom(b) && b != '[' && b != '<' }

func (p *fetchParser) item() {
	switch name := strings.ToUpper(p.run("an item to fetch", isItem)); name {
	case "ENVELOPE":
		p.q.envelope = true
	case "FLAGS":
		p.q.flags = true
	case "INTERNALDATE":
		p.q.date = true
	case "RFC822.SIZE":
		p.q.size = true
	case "UID":
		p.q.uids = true
	case "BODYSTRUCTURE":
		p.q.structure = true
	case "RFC822", "RFC822.PEEK", "RFC822.HEADER", "RFC822.TEXT":
		p.rfc822(name)
	case "BODY":
		if p.peek() != '[' {
			p.q.body = true
			return
		}
		p.section(new(imap.FetchItemBodySection))
	case "BODY.PEEK":
		p.section(&imap.FetchItemBodySection{Peek: true})
	case "BINARY", "BINARY.PEEK":
		b := &imap.FetchItemBinarySection{Part: p.binary("BINARY"), Peek: name == "BINARY.PEEK"}
		b.Partial = p.partial()
		p.add(fetchPart{binary: b})
	case "BINARY.SIZE":
		p.add(fetchPart{binary: &imap.FetchItemBinarySection{Part: p.binary(name), Peek: true}, count: true})
	default:
		p.fail(bad("Unknown item to fetch"))
	}
}

// add takes in a part whose name has been read.
func (p *fetchParser) add(part fetchPart) {
	part.name = string(p.name)
	p.q.parts = append(p.q.parts, part)
}

// rfc822 reads one of the names from before BODY. RFC822.PEEK is in no RFC, but
// Outlook asks for it.
func (p *fetchParser) rfc822(name string) {
	b := new(imap.FetchItemBodySection)
	switch name {
	case "RFC822.PEEK":
		b.Peek, name = true, "RFC822"
	case "RFC822.HEADER":
		b.Peek, b.Specifier = true, imap.PartSpecifierHeader
	case "RFC822.TEXT":
		b.Specifier = imap.PartSpecifierText
	}
	p.name = append(p.name[:0], name...)
	p.add(fetchPart{body: b})
}

// part reads a section-part and reports whether a dot followed it.
func (p *fetchParser) part() (path []int, dot bool) {
	for p.peek() >= '0' && p.peek() <= '9' {
		n := p.nzNumber()
		path = append(path, int(n))
		p.name = appendNumber(p.name, n)
		if dot = p.accept('.'); !dot {
			break
		}
		p.name = append(p.name, '.')
	}
	return path, dot
}

// binary reads a section-binary.
func (p *fetchParser) binary(name string) []int {
	p.name = append(append(p.name[:0], name...), '[')
	p.expect('[')
	path, dot := p.part()
	if dot {
		p.want("a part number")
	}
	p.expect(']')
	p.name = append(p.name, ']')
	return path
}

// section reads a section and what may follow it.
func (p *fetchParser) section(b *imap.FetchItemBodySection) {
	p.name = append(p.name[:0], "BODY["...)
	p.expect('[')
	var dot bool
	b.Part, dot = p.part()
	if top := len(b.Part) == 0; dot || top && p.peek() != ']' {
		p.sectionText(b)
	}
	p.expect(']')
	p.name = append(p.name, ']')
	b.Partial = p.partial()
	p.add(fetchPart{body: b})
}

func (p *fetchParser) sectionText(b *imap.FetchItemBodySection) {
	name := strings.ToUpper(p.atom())
	p.name = append(p.name, name...)
	switch {
	case name == "HEADER" || name == "TEXT" || name == "MIME" && len(b.Part) > 0:
		b.Specifier = imap.PartSpecifier(name)
	case name == "HEADER.FIELDS":
		b.Specifier, b.HeaderFields = imap.PartSpecifierHeader, p.fields()
	case name == "HEADER.FIELDS.NOT":
		b.Specifier, b.HeaderFieldsNot = imap.PartSpecifierHeader, p.fields()
	default:
		p.fail(bad("Unknown section"))
	}
}

// fields reads a header-list.
func (p *fetchParser) fields() (list []string) {
	if p.picks++; p.picks > maxPicks {
		p.fail(no(imap.ResponseCodeLimit, "Too many header sections"))
	}
	p.sp()
	sep := " ("
	p.list(maxFields, func() {
		list = append(list, p.fieldName())
		p.name = appendQuoted(append(p.name, sep...), list[len(list)-1])
		sep = " "
	})
	p.name = append(p.name, ')')
	if len(list) == 0 {
		p.want("a field name")
	}
	return list
}

// partial reads <offset.size>, nil if there is none.
func (p *fetchParser) partial() *imap.SectionPartial {
	if !p.accept('<') {
		return nil
	}
	offset := p.number(math.MaxUint32)
	p.expect('.')
	size := p.nzNumber()
	p.expect('>')
	p.name = append(appendNumber(append(p.name, '<'), uint32(offset)), '>')
	return &imap.SectionPartial{Offset: offset, Size: int64(size)}
}

// fieldName reads the name of a header field.
func (c *cursor) fieldName() string {
	s := c.astring()
	if c.err == nil && !isFieldName(s) {
		c.fail(bad("Not a header field name"))
	}
	return s
}

func isFieldName(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] >= 0x7f || s[i] == ':' {
			return false
		}
	}
	return s != ""
}
