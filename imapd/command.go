package imapd

import (
	"bytes"
	"math"
	"strings"
	"time"

	"github.com/emersion/go-imap/v2"

	"github.com/covey-mail/covey"
)

// Limits of what one command may name.
const (
	maxTag     = 128
	maxItems   = 100      // of a FETCH, STATUS or LIST
	maxFields  = 256      // of a HEADER.FIELDS
	maxPicks   = 10       // HEADER.FIELDS in a FETCH, each of which may hold a whole header in memory
	maxForward = 48 << 10 // go-imap loses its place beyond 50 KiB
)

// A command is a frame taken apart.
type command struct {
	tag  string // empty: it had none that can be answered
	name string // upper case, with the second word after UID
	args []byte // what follows, with the space before it; valid until the next frame
}

// parseCommand takes the tag and the name off a frame's text.
func parseCommand(text []byte) (command, *imap.Error) {
	tag, rest, _ := bytes.Cut(text, []byte(" "))
	if len(tag) == 0 || len(tag) > maxTag || bytes.ContainsFunc(tag, func(r rune) bool { return r > 0x7f || !isTag(byte(r)) }) {
		return command{}, bad("Missing or malformed tag")
	}
	cmd := command{tag: string(tag)}
	cmd.name, rest = word(rest)
	if cmd.name == "UID" {
		var sub string
		sub, rest = word(bytes.TrimPrefix(rest, []byte(" ")))
		cmd.name += " " + sub
	}
	if cmd.name == "" {
		return cmd, bad("Missing command")
	}
	cmd.args = rest
	return cmd, nil
}

// word takes a command word, of letters only, off the front of b.
func word(b []byte) (string, []byte) {
	i := 0
	for i < len(b) && i < 16 && (b[i]|0x20 >= 'a' && b[i]|0x20 <= 'z') {
		i++
	}
	return strings.ToUpper(string(b[:i])), b[i:]
}

// A rewriter reads a command's arguments and writes them as go-imap is to see
// them: one line, every string quoted, nothing that it does not parse as meant.
type rewriter struct {
	cursor
	out    []byte
	search *search // of a SEARCH, which go-imap does not get to see
}

// rewrite returns the line for go-imap, without its end. A message that follows
// is announced by the caller.
func rewrite(cmd command) (*rewriter, *imap.Error) {
	r := &rewriter{cursor: cursor{s: cmd.args}}
	r.out = append(append(append(r.out, cmd.tag...), ' '), cmd.name...)
	if !r.arguments(cmd.name) {
		return nil, bad("Unknown command")
	}
	if cmd.name != "APPEND" {
		r.end()
	}
	if r.err == nil && len(r.out) > maxForward {
		r.fail(bad("Command too long"))
	}
	return r, r.err
}

// arguments reports whether name is a command that go-imap is to do.
func (r *rewriter) arguments(name string) bool {
	switch name {
	case "NOOP", "CHECK", "LOGOUT", "CLOSE", "UNSELECT", "EXPUNGE", "NAMESPACE", "IDLE":
	case "SELECT", "EXAMINE", "DELETE", "SUBSCRIBE", "UNSUBSCRIBE":
		r.mailboxArg()
	case "CREATE":
		r.create()
	case "RENAME":
		r.mailboxArg()
		r.space()
		r.putName(r.newMailbox())
	case "LIST":
		r.list()
	case "LSUB":
		r.space()
		r.putName(r.pattern())
		r.space()
		r.putName(r.pattern())
	case "STATUS":
		r.mailboxArg()
		r.space()
		r.statusItems()
	case "APPEND":
		r.append()
	case "COPY", "UID COPY", "MOVE", "UID MOVE":
		r.setArg()
		r.mailboxArg()
	case "UID EXPUNGE":
		r.setArg()
	case "SEARCH", "UID SEARCH":
		r.searchArg()
	default:
		return false
	}
	return true
}

func (r *rewriter) put(s string) { r.out = append(r.out, s...) }

func (r *rewriter) space() {
	r.sp()
	r.put(" ")
}

// putName writes a name as go-imap reads it: UTF-8 with & escaped.
func (r *rewriter) putName(name string) {
	r.out = appendQuoted(r.out, strings.ReplaceAll(name, "&", "&-"))
}

func (r *rewriter) mailboxArg() {
	r.space()
	r.putName(r.mailbox())
}

func (r *rewriter) setArg() {
	r.space()
	r.out = r.set().append(r.out)
}

// items rewrites a parenthesised list.
func (r *rewriter) items(most int, item func()) {
	r.put("(")
	n := 0
	r.cursor.list(most, func() {
		if n++; n > 1 {
			r.put(" ")
		}
		item()
	})
	r.put(")")
}

// keyword reads an atom and writes it in upper case, if it is one of those
// allowed.
func (r *rewriter) keyword(allowed ...string) string {
	s := strings.ToUpper(r.atom())
	for _, a := range allowed {
		if s == a {
			r.put(s)
			return s
		}
	}
	if r.err == nil {
		r.fail(bad("Unknown item"))
	}
	return ""
}

// create is RFC 3501 section 6.3.3 with RFC 6154 section 3.
func (r *rewriter) create() {
	r.space()
	r.putName(r.newMailbox())
	if r.peek() != ' ' {
		return
	}
	r.space()
	r.expect('(')
	r.put("(")
	r.keyword("USE")
	r.space()
	r.items(8, func() {
		r.expect('\\')
		r.put("\\" + r.atom())
	})
	r.expect(')')
	r.put(")")
}

// list is RFC 5258 section 6 with RFC 5819 and RFC 6154.
func (r *rewriter) list() {
	r.space()
	if r.peek() == '(' {
		r.items(maxItems, func() { r.keyword("SUBSCRIBED", "REMOTE", "RECURSIVEMATCH", "SPECIAL-USE") })
		r.space()
	}
	r.putName(r.pattern())
	r.space()
	if r.peek() == '(' {
		r.items(maxItems, func() { r.putName(r.pattern()) })
	} else {
		r.putName(r.pattern())
	}
	if r.peek() != ' ' {
		return
	}
	r.space()
	r.keyword("RETURN")
	r.space()
	r.items(maxItems, func() {
		if r.keyword("SUBSCRIBED", "CHILDREN", "SPECIAL-USE", "STATUS") == "STATUS" {
			r.space()
			r.statusItems()
		}
	})
}

func (r *rewriter) statusItems() {
	n := 0
	r.items(maxItems, func() {
		r.keyword("MESSAGES", "RECENT", "UIDNEXT", "UIDVALIDITY", "UNSEEN", "DELETED", "SIZE", "APPENDLIMIT")
		n++
	})
	if n == 0 && r.err == nil {
		r.want("a status item")
	}
}

// dateTimeLayout is date-time of RFC 3501.
const dateTimeLayout = "_2-Jan-2006 15:04:05 -0700"

// appendDateTime appends a time as dateTimeLayout has it, for which package time
// takes several times as long.
func appendDateTime(b []byte, t time.Time) []byte {
	year, month, day := t.Date()
	if year < 0 || year > 9999 {
		return t.AppendFormat(b, dateTimeLayout)
	}
	two := func(n int) { b = append(b, byte('0'+n/10), byte('0'+n%10)) }
	two(day)
	if day < 10 {
		b[len(b)-2] = ' '
	}
	b = append(append(append(b, '-'), month.String()[:3]...), '-')
	two(year / 100)
	two(year % 100)
	hour, minute, second := t.Clock()
	b = append(b, ' ')
	two(hour)
	b = append(b, ':')
	two(minute)
	b = append(b, ':')
	two(second)
	_, east := t.Zone()
	sign, zone := byte('+'), east/60
	if zone < 0 {
		sign, zone = '-', -zone
	}
	b = append(b, ' ', sign)
	two(zone / 60)
	two(zone % 60)
	return b
}

// append reads what stands before the message.
func (r *rewriter) append() {
	r.mailboxArg()
	r.space()
	if r.peek() == '(' {
		r.put("(")
		for i, f := range r.flags() {
			r.put(" "[:min(i, 1)] + string(f))
		}
		r.put(") ")
		r.sp()
	}
	if r.peek() == '"' {
		s := r.quoted()
		t, err := time.Parse(dateTimeLayout, s)
		if r.err == nil && (err != nil || t.Year() < 1) {
			r.fail(bad("Malformed date"))
		}
		r.out = appendQuoted(r.out, t.Format(dateTimeLayout))
		r.space()
	}
}

// flags reads flags in parentheses.
func (c *cursor) flags() (list []imap.Flag) {
	c.list(math.MaxInt, func() { list = append(list, c.flag(len(list))) })
	return list
}

// flag reads a flag that comes after n others.
func (c *cursor) flag(n int) imap.Flag {
	if n == covey.MaxKeywords+5 {
		c.fail(no(imap.ResponseCodeLimit, "Too many flags"))
	}
	system := c.accept('\\')
	name := c.atom()
	if len(name) > covey.MaxKeywordLength {
		c.fail(no(imap.ResponseCodeLimit, "Flag too long"))
	}
	if system {
		name = "\\" + name
		if c.err == nil && systemFlag(imap.Flag(name)) == 0 {
			c.fail(bad("Not a flag that can be set"))
		}
	}
	return imap.Flag(name)
}

// systemFlag returns the bit of a system flag, 0 if it is none.
func systemFlag(f imap.Flag) covey.SystemFlags {
	switch strings.ToLower(string(f)) {
	case "\\seen":
		return covey.Seen
	case "\\answered":
		return covey.Answered
	case "\\flagged":
		return covey.Flagged
	case "\\deleted":
		return covey.Deleted
	case "\\draft":
		return covey.Draft
	}
	return 0
}
