package imapd

import (
	"math"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/emersion/go-imap/v2"

	"github.com/covey-mail/covey"
)

// Limits of a search program.
const (
	maxSearchDepth = 100
	maxSearchKeys  = 2000
)

// A search is a SEARCH command. go-imap gets to see only what is to be returned:
// its own parser drops SMALLER when LARGER or a date follows, and answers a wrong
// number with a server error.
type search struct {
	saveOnly bool // RETURN (SAVE) and nothing else: no untagged response (RFC 5182 section 2.1)
	save     bool
	key      searchKey
}

// A searchOp says what a searchKey asks for.
type searchOp uint8

const (
	opAnd     searchOp = iota // of kids; of none: all messages
	opOr                      // of kids
	opNot                     // of the one kid
	opNone                    // matches nothing: \Recent, which no message ever has here
	opSeq                     // set
	opUID                     // set
	opFlags                   // system
	opKeyword                 // text
	opSince                   // date: internal date, that day or later
	opBefore                  // date
	opSentSince
	opSentBefore
	opLarger  // size
	opSmaller // size
	opHeader  // field, text
	opBody    // text
	opText    // text
)

// A searchKey is a search-key of RFC 3501 section 6.4.4.
type searchKey struct {
	op     searchOp
	kids   []searchKey
	set    numSet
	system covey.SystemFlags
	field  string
	text   string
	date   time.Time // midnight UTC of the day
	size   int64
}

// searchArg reads the arguments of SEARCH and leaves ALL in their place.
func (r *rewriter) searchArg() {
	p := searchParser{cursor: &r.cursor}
	s := &search{}
	r.sp()
	if p.word("RETURN") {
		r.put(" RETURN ")
		r.sp()
		r.searchReturn(s)
		r.sp()
	}
	if p.word("CHARSET") {
		r.sp()
		p.charset(r.astring())
		r.sp()
	}
	s.key = p.program()
	r.put(" ALL")
	r.search = s
}

// searchReturn is search-return-opts of RFC 4731 and RFC 5182.
func (r *rewriter) searchReturn(s *search) {
	others := 0
	n := 0
	r.items(maxItems, func() {
		if r.keyword("MIN", "MAX", "ALL", "COUNT", "SAVE") == "SAVE" {
			s.save = true
		} else {
			others++
		}
		n++
	})
	s.saveOnly = s.save && others == 0
}

// A searchParser counts what a program is made of.
type searchParser struct {
	*cursor
	keys  int
	depth int
}

// word takes a word and nothing that only begins with it.
func (p *searchParser) word(w string) bool {
	if len(p.s) > len(w) && strings.EqualFold(string(p.s[:len(w)]), w) && p.s[len(w)] == ' ' {
		p.s = p.s[len(w):]
		return true
	}
	return false
}

func (p *searchParser) charset(name string) {
	switch strings.ToUpper(name) {
	case "UTF-8", "US-ASCII":
	default:
		if p.err == nil {
			p.fail(badCharset())
		}
	}
}

func badCharset() *imap.Error { return no("BADCHARSET (UTF-8)", "Only UTF-8 is understood") }

// program reads keys to the end of the line, all of which must hold.
func (p *searchParser) program() searchKey {
	k := searchKey{op: opAnd, kids: []searchKey{p.key()}}
	for p.peek() == ' ' {
		p.sp()
		k.kids = append(k.kids, p.key())
	}
	return k
}

// key reads one key.
func (p *searchParser) key() searchKey {
	p.keys++
	p.depth++
	defer func() { p.depth-- }()
	switch {
	case p.err != nil:
		return searchKey{}
	case p.keys > maxSearchKeys:
		p.fail(no(imap.ResponseCodeLimit, "Too many search keys"))
		return searchKey{}
	case p.depth > maxSearchDepth:
		p.fail(bad("Search keys nested too deeply"))
		return searchKey{}
	case p.peek() == '(':
		k := searchKey{op: opAnd}
		p.list(math.MaxInt, func() { k.kids = append(k.kids, p.key()) })
		if len(k.kids) == 0 && p.err == nil {
			p.want("a search key")
		}
		return k
	case p.peek() == '$' || p.peek() == '*' || p.peek() >= '0' && p.peek() <= '9':
		return searchKey{op: opSeq, set: p.set()}
	}
	return p.named(strings.ToUpper(p.run("a search key", isAtom)))
}

// named reads the arguments of a key with a name.
func (p *searchParser) named(name string) searchKey {
	if system := systemFlag(imap.Flag("\\" + name)); system != 0 {
		return searchKey{op: opFlags, system: system}
	}
	if un, ok := strings.CutPrefix(name, "UN"); ok {
		if system := systemFlag(imap.Flag("\\" + un)); system != 0 {
			return not(searchKey{op: opFlags, system: system})
		}
	}
	switch name {
	case "ALL":
		return searchKey{op: opAnd}
	case "RECENT", "NEW":
		return searchKey{op: opNone}
	case "OLD":
		return searchKey{op: opAnd}
	}
	if p.sp(); p.err != nil {
		return searchKey{}
	}
	switch name {
	case "NOT":
		return not(p.key())
	case "OR":
		k := searchKey{op: opOr, kids: []searchKey{p.key()}}
		p.sp()
		k.kids = append(k.kids, p.key())
		return k
	case "UID":
		return searchKey{op: opUID, set: p.set()}
	case "KEYWORD":
		return searchKey{op: opKeyword, text: p.atom()}
	case "UNKEYWORD":
		return not(searchKey{op: opKeyword, text: p.atom()})
	case "LARGER":
		return searchKey{op: opLarger, size: p.number(math.MaxInt64)}
	case "SMALLER":
		return searchKey{op: opSmaller, size: p.number(math.MaxInt64)}
	}
	if k, ok := p.textKey(name); ok {
		return k
	}
	return p.dateKey(name)
}

func not(k searchKey) searchKey { return searchKey{op: opNot, kids: []searchKey{k}} }

// textKey reads a key that looks for text.
func (p *searchParser) textKey(name string) (searchKey, bool) {
	k := searchKey{op: opHeader, field: name}
	switch name {
	case "BCC", "CC", "FROM", "SUBJECT", "TO":
	case "HEADER":
		if k.field = p.astring(); p.err == nil && !isFieldName(k.field) {
			p.fail(bad("Not a header field name"))
		}
		p.sp()
	case "BODY":
		k.op = opBody
	case "TEXT":
		k.op = opText
	default:
		return k, false
	}
	if k.text = p.astring(); p.err == nil && !utf8.ValidString(k.text) {
		p.fail(badCharset())
	}
	return k, true
}

// dateKey reads a key that compares a date.
func (p *searchParser) dateKey(name string) searchKey {
	since, before := opSince, opBefore
	short, sent := strings.CutPrefix(name, "SENT")
	if sent {
		since, before = opSentSince, opSentBefore
	}
	var k searchKey
	switch short {
	case "SINCE":
		k = searchKey{op: since, date: p.date()}
	case "BEFORE":
		k = searchKey{op: before, date: p.date()}
	case "ON":
		day := p.date()
		k = searchKey{op: opAnd, kids: []searchKey{
			{op: since, date: day}, {op: before, date: day.AddDate(0, 0, 1)},
		}}
	default:
		if p.err == nil {
			p.fail(bad("Unknown search key"))
		}
	}
	return k
}

// date reads a date, quoted or not.
func (p *searchParser) date() time.Time {
	s := p.astring()
	t, err := time.Parse("2-Jan-2006", s)
	if p.err == nil && (err != nil || t.Year() < 1) {
		p.fail(bad("Malformed date"))
	}
	return t
}
