package message

import (
	"strings"

	"github.com/covey-mail/covey"
)

// What stands for the missing half of an address, as in Dovecot.
const (
	missingMailbox = "MISSING_MAILBOX"
	missingHost    = "MISSING_DOMAIN"
)

// From returns the addresses of all From fields, and whether they read the same
// to everyone: one field, each element a plain address, nothing that could be
// taken for another one. A caller that checks who may write as whom refuses a
// message whose From is not clear.
func (s *Summary) From() (authors []covey.Address, clear bool) {
	clear = s.FromFields == 1 && s.Flags&UnclearFrom == 0
	for _, a := range s.Header.From {
		addr, err := a.address()
		if err != nil {
			clear = false
			continue
		}
		authors = append(authors, addr)
	}
	return authors, clear && len(authors) > 0
}

// address returns the mailbox address, covey.Invalid for what is none.
func (a *Address) address() (covey.Address, error) {
	if a.Mailbox == "" || a.Host == "" || len(a.Mailbox) > covey.MaxLocalPart {
		return covey.Address{}, covey.Errorf(covey.Invalid, "no address")
	}
	domain, err := covey.ParseDomain(a.Host)
	if err != nil {
		return covey.Address{}, err
	}
	return covey.Address{Local: a.Mailbox, Domain: domain}, nil
}

// A rawAddress is an Address as the scanner finds it. Its slices are valid until
// the scanner goes on.
type rawAddress struct{ name, mailbox, host []byte }

// size returns the most octets that keeping the address takes.
func (a rawAddress) size() int {
	return 3*(min(len(a.name), maxString)+min(len(a.mailbox), maxString)+min(len(a.host), maxString)) + 12
}

// scanAddresses calls emit for each element of an address list (RFC 5322 section
// 3.4), until it returns false. It reads on over whatever is wrong; doubtful
// tells that something was, or that it could be read in another way. It is
// linear in the length of value.
func scanAddresses(value []byte, emit func(rawAddress) bool) (doubtful bool) {
	var s addressScanner
	return s.scan(value, emit)
}

// scan does what scanAddresses does, with the buffers of the scan before.
func (s *addressScanner) scan(value []byte, emit func(rawAddress) bool) (doubtful bool) {
	s.l.s, s.l.i, s.emit = value, 0, emit
	s.stopped, s.inGroup, s.doubtful = false, false, false
	for s.l.i < len(value) && !s.stopped {
		s.element()
	}
	if s.inGroup { // closed even where the caller stopped in it
		s.emit(rawAddress{})
	}
	return s.doubtful
}

type addressScanner struct {
	l        lexer
	emit     func(rawAddress) bool
	stopped  bool
	inGroup  bool
	doubtful bool
	words    []byte // phrase or local part before the address
	local    []byte
	domain   []byte
	gap      bool // white space stood before the word that comes next
	comment  []byte
}

func (s *addressScanner) send(a rawAddress) {
	if !s.stopped && !s.emit(a) {
		s.stopped = true
	}
}

// cfws goes over white space and comments.
func (s *addressScanner) cfws() {
	before := s.l.i
	if c := s.l.skip(); c != nil {
		s.comment = c
	}
	s.gap = s.gap || s.l.i > before
}

// element takes what stands up to the next comma, semicolon or colon.
func (s *addressScanner) element() {
	s.words, s.local, s.domain = s.words[:0], s.local[:0], s.domain[:0]
	s.comment, s.gap = nil, false
	bare, angle := false, false // user@host, <user@host>
	for {
		s.cfws()
		if s.l.i >= len(s.l.s) {
			break
		}
		c := s.l.s[s.l.i]
		switch {
		case c == ',' || c == ';':
			s.l.i++
			s.endElement(bare, angle)
			s.endGroup(c)
			return
		case c == ':' && !s.inGroup && !bare && !angle:
			s.l.i++
			s.inGroup, s.doubtful = true, true
			s.send(rawAddress{mailbox: s.groupName()})
			return
		case c == '<':
			s.doubtful = s.doubtful || bare || angle
			if bare { // an address as display name
				s.words = append(append(append(s.words[:0], s.local...), '@'), s.domain...)
			}
			bare, angle = false, true
			s.angle()
		case c == '@' && !bare && !angle:
			s.l.i++
			bare = true
			s.local = append(s.local[:0], s.words...)
			s.domain = s.domainText(s.domain[:0])
		default:
			s.doubtful = s.doubtful || bare || angle // words behind an address
			s.word(c)
		}
	}
	s.endElement(bare, angle)
}

// groupName returns the name of a group, which may not be empty: to IMAP that is
// its end.
func (s *addressScanner) groupName() []byte {
	if len(s.words) == 0 {
		return []byte("unnamed")
	}
	return s.words
}

// endElement sends the address that the element held, if any.
func (s *addressScanner) endElement(bare, angle bool) {
	a := rawAddress{name: s.words, mailbox: s.local, host: s.domain}
	switch {
	case bare:
		a.name = s.comment
	case !angle && len(s.words) > 0: // a local part alone
		a.name, a.mailbox = s.comment, s.words
	case !angle:
		return
	case len(a.name) == 0:
		a.name = s.comment
	}
	if len(a.mailbox) == 0 {
		a.mailbox = []byte(missingMailbox)
		s.doubtful = true
	}
	if len(a.host) == 0 {
		a.host = []byte(missingHost)
		s.doubtful = true
	}
	s.send(a)
}

func (s *addressScanner) endGroup(c byte) {
	if c == ';' {
		s.doubtful = true
		if s.inGroup {
			s.inGroup = false
			s.send(rawAddress{})
		}
	}
}

// word takes a quoted string, an atom, or an octet that has no place here.
func (s *addressScanner) word(c byte) {
	if s.gap && len(s.words) > 0 {
		s.words = append(s.words, ' ')
	}
	s.gap = false
	if c == '"' {
		s.words = s.l.quoted(s.words)
		return
	}
	before := len(s.words)
	s.words = append(s.words, s.l.until(" \t\r\n(<>,;:@\"")...)
	if len(s.words) == before {
		s.doubtful = true
		s.l.i++
	}
}

// angle takes <route:local@domain>.
func (s *addressScanner) angle() {
	s.l.i++
	s.local, s.domain = s.local[:0], s.domain[:0]
	s.l.skip()
	for s.l.i < len(s.l.s) && s.l.s[s.l.i] == '@' { // obsolete route
		s.doubtful = true
		s.l.until(",:>")
		if s.l.accept('>') {
			return
		}
		s.l.i++
		s.l.skip()
	}
	for s.l.i < len(s.l.s) {
		switch c := s.l.s[s.l.i]; c {
		case '"':
			s.local = s.l.quoted(s.local)
		case '@':
			s.doubtful = s.doubtful || len(s.domain) > 0
			s.l.i++
			s.domain = s.domainText(s.domain[:0])
		case '>':
			s.l.i++
			return
		case ' ', '\t', '\r', '\n', '(':
			s.l.skip()
		default:
			s.strayInAngle(c)
		}
	}
	s.doubtful = true
}

// strayInAngle takes local part characters, or what has no place there.
func (s *addressScanner) strayInAngle(c byte) {
	if len(s.domain) > 0 || strings.IndexByte("<,;:)", c) >= 0 {
		s.doubtful = true
		s.l.i++
		return
	}
	s.local = append(s.local, s.l.until(" \t\r\n(<>,;:@\")")...)
}

// domainText appends a domain or address literal to dst.
func (s *addressScanner) domainText(dst []byte) []byte {
	for s.l.i < len(s.l.s) {
		s.cfws()
		if s.l.i >= len(s.l.s) || strings.IndexByte("<>,;:@\")", s.l.s[s.l.i]) >= 0 {
			break
		}
		if s.gap && len(dst) > 0 && dst[len(dst)-1] != '.' && s.l.s[s.l.i] != '.' {
			break // "user@host word"
		}
		s.gap = false
		if s.l.s[s.l.i] == '[' {
			dst = append(dst, s.l.until("]")...)
			if s.l.accept(']') {
				dst = append(dst, ']')
			}
			continue
		}
		dst = append(dst, s.l.until(" \t\r\n(<>,;:@\"[)")...)
	}
	return dst
}
