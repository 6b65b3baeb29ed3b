package imapd

import (
	"math"
	"strings"

	"github.com/emersion/go-imap/v2"
)

// fetch is RFC 3501 section 6.4.5 with RFC 3516.
func (r *rewriter) fetch() {
	r.setArg()
	r.space()
	if r.peek() == '(' {
		n := 0
		r.items(maxItems, func() {
			r.fetchItem()
			n++
		})
		if n == 0 && r.err == nil {
			r.want("an item to fetch")
		}
		return
	}
	switch s := strings.ToUpper(string(r.s)); s {
	case "ALL", "FAST", "FULL":
		r.put(s)
		r.s = nil
	default:
		r.fetchItem()
	}
}

func isItem(b byte) bool { return isAtom(b) && b != '[' && b != '<' }

func (r *rewriter) fetchItem() {
	name := strings.ToUpper(r.run("an item to fetch", isItem))
	r.put(name)
	switch name {
	case "ENVELOPE", "FLAGS", "INTERNALDATE", "RFC822", "RFC822.PEEK", "RFC822.HEADER", "RFC822.SIZE",
		"RFC822.TEXT", "BODYSTRUCTURE", "UID":
	case "BODY":
		if r.peek() == '[' {
			r.section()
			r.partial()
		}
	case "BODY.PEEK":
		r.section()
		r.partial()
	case "BINARY", "BINARY.PEEK":
		r.binarySection()
		r.partial()
	case "BINARY.SIZE":
		r.binarySection()
	default:
		if r.err == nil {
			r.fail(bad("Unknown item to fetch"))
		}
	}
}

// part rewrites a section-part and reports whether a dot followed it.
func (r *rewriter) part() (dot bool) {
	for r.peek() >= '0' && r.peek() <= '9' {
		r.out = appendSetNumber(r.out, r.nzNumber())
		if dot = r.accept('.'); !dot {
			return false
		}
		r.put(".")
	}
	return dot
}

func (r *rewriter) binarySection() {
	r.expect('[')
	r.put("[")
	if r.part() {
		r.want("a part number")
	}
	r.expect(']')
	r.put("]")
}

// section rewrites a section.
func (r *rewriter) section() {
	r.expect('[')
	r.put("[")
	before := len(r.out)
	dot := r.part()
	top := len(r.out) == before
	if dot || top && r.peek() != ']' {
		r.sectionText(top)
	}
	r.expect(']')
	r.put("]")
}

func (r *rewriter) sectionText(top bool) {
	name := strings.ToUpper(r.atom())
	r.put(name)
	switch name {
	case "HEADER", "TEXT":
	case "HEADER.FIELDS", "HEADER.FIELDS.NOT":
		if r.picks++; r.picks > maxPicks {
			r.fail(no(imap.ResponseCodeLimit, "Too many header sections"))
		}
		r.space()
		n := 0
		r.items(maxFields, func() {
			r.out = appendQuoted(r.out, r.fieldName())
			n++
		})
		if n == 0 && r.err == nil {
			r.want("a field name")
		}
	case "MIME":
		if !top {
			return
		}
		fallthrough
	default:
		if r.err == nil {
			r.fail(bad("Unknown section"))
		}
	}
}

// fieldName reads the name of a header field.
func (r *rewriter) fieldName() string {
	s := r.astring()
	if r.err == nil && !isFieldName(s) {
		r.fail(bad("Not a header field name"))
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

// partial rewrites <offset.size>.
func (r *rewriter) partial() {
	if !r.accept('<') {
		return
	}
	offset := r.number(math.MaxUint32)
	r.expect('.')
	size := r.nzNumber()
	r.expect('>')
	r.put("<")
	r.out = appendNumber(r.out, uint32(offset))
	r.put(".")
	r.out = appendNumber(r.out, size)
	r.put(">")
}
