package imapd

import (
	"math"
	"strconv"

	"github.com/emersion/go-imap/v2"
)

// A cursor reads the arguments of a command from a frame's text. It is sticky:
// after the first fault all reads return zero values.
type cursor struct {
	s   []byte
	err *imap.Error
}

func (c *cursor) fail(err *imap.Error) {
	if c.err == nil {
		c.err = err
	}
	c.s = nil
}

func (c *cursor) want(what string) { c.fail(bad("Syntax error: expected " + what)) }

// peek returns the next octet, 0 at the end.
func (c *cursor) peek() byte {
	if len(c.s) == 0 {
		return 0
	}
	return c.s[0]
}

// accept takes b if it is next.
func (c *cursor) accept(b byte) bool {
	if c.peek() != b || len(c.s) == 0 {
		return false
	}
	c.s = c.s[1:]
	return true
}

func (c *cursor) expect(b byte) {
	if !c.accept(b) {
		c.want("'" + string(b) + "'")
	}
}

func (c *cursor) sp() {
	if !c.accept(' ') {
		c.want("a space")
	}
}

// end expects nothing more.
func (c *cursor) end() {
	if len(c.s) > 0 {
		c.want("end of line")
	}
}

// run takes the longest run of octets that ok likes.
func (c *cursor) run(what string, ok func(byte) bool) string {
	i := 0
	for i < len(c.s) && ok(c.s[i]) {
		i++
	}
	if i == 0 {
		c.want(what)
		return ""
	}
	s := string(c.s[:i])
	c.s = c.s[i:]
	return s
}

// isAtom is ATOM-CHAR of RFC 3501.
func isAtom(b byte) bool {
	switch b {
	case '(', ')', '{', '%', '*', '"', '\\', ']':
		return false
	}
	return b > ' ' && b < 0x7f
}

func isAString(b byte) bool { return isAtom(b) || b == ']' }

func isTag(b byte) bool { return isAtom(b) && b != '+' }

func isPattern(b byte) bool { return isAString(b) || b == '%' || b == '*' }

func (c *cursor) atom() string { return c.run("an atom", isAtom) }

func (c *cursor) astring() string {
	if c.peek() == '"' {
		return c.quoted()
	}
	return c.run("a string", isAString)
}

// quoted reads a quoted string or what was a literal.
func (c *cursor) quoted() string {
	if !c.accept('"') {
		c.want("a string")
		return ""
	}
	var out []byte
	for i := 0; i < len(c.s); i++ {
		b := c.s[i]
		if b == '"' {
			c.s = c.s[i+1:]
			return string(out)
		}
		if b == '\\' {
			if i++; i == len(c.s) || c.s[i] != '"' && c.s[i] != '\\' {
				break
			}
			b = c.s[i]
		}
		out = append(out, b)
	}
	c.want("a well-formed quoted string")
	return ""
}

// number reads a decimal of at most most, without sign.
func (c *cursor) number(most int64) int64 {
	s := c.run("a number", func(b byte) bool { return '0' <= b && b <= '9' })
	n, err := strconv.ParseInt(s, 10, 64)
	if c.err == nil && (err != nil || n > most) {
		c.fail(bad("Number out of range"))
		return 0
	}
	return n
}

// nzNumber reads a number from 1 to 4,294,967,295.
func (c *cursor) nzNumber() uint32 {
	n := c.number(math.MaxUint32)
	if c.err == nil && n == 0 {
		c.fail(bad("Number out of range"))
	}
	return uint32(n)
}

// list reads a parenthesised list of at most most items.
func (c *cursor) list(most int, item func()) {
	c.expect('(')
	if c.accept(')') {
		return
	}
	for n := 1; c.err == nil; n++ {
		if n > most {
			c.fail(no(imap.ResponseCodeLimit, "Too many items"))
			return
		}
		item()
		if c.accept(')') {
			return
		}
		c.sp()
	}
}
