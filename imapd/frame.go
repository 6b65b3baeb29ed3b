package imapd

import (
	"bufio"
	"bytes"
	"errors"
	"io"

	"github.com/emersion/go-imap/v2"
)

// limits bound one command.
type limits struct {
	line     int   // octets outside literals
	literal  int64 // octets of one literal
	literals int   // how many
	octets   int64 // of all literals together
	depth    int   // of parentheses
}

// keepBuffer is the most octets that a scanner holds between commands.
const keepBuffer = 1024

// A scanner cuts a stream into commands (RFC 3501 section 9, "command"). A
// literal ends a line with {n} or {n+} outside quotes, whatever stands before
// it, so that its octets are never taken for a command.
type scanner struct {
	br  *bufio.Reader
	max limits

	// more asks the peer for a synchronising literal.
	more func() error

	// message reports whether a literal that follows text is a message, which is
	// then left in the stream. Nil: none is.
	message func(text []byte) bool

	buf []byte
}

// A frame is one command as it was sent, each literal turned into a quoted
// string that may hold any octet.
type frame struct {
	text    []byte      // valid until the next frame
	message *literal    // a message that follows text in the stream
	err     *imap.Error // why it is refused
	fatal   bool        // where the next command starts is not known
}

// A literal is the announcement of one.
type literal struct {
	size    int64
	nonSync bool // {n+}: the peer sends it without being asked
	binary  bool // ~{n} (RFC 3516)
}

// next reads one command. The error is that of the connection.
func (s *scanner) next() (frame, error) {
	if cap(s.buf) > keepBuffer {
		s.buf = nil
	}
	return s.rest()
}

// rest reads what is left of a command, such as what follows a message.
func (s *scanner) rest() (frame, error) {
	s.buf = s.buf[:0]
	c := cut{max: s.max}
	for {
		part, err := s.line(s.max.line - c.line)
		if errors.Is(err, errTooLong) {
			return frame{text: s.buf, err: bad("Command line too long"), fatal: true}, nil
		} else if err != nil {
			return frame{}, err
		}
		lit := c.scan(part)
		s.buf = s.buf[:len(s.buf)-c.spec]
		if lit == nil || c.fatal {
			return frame{text: s.buf, err: c.err, fatal: c.fatal}, nil
		}
		if c.err == nil && s.message != nil && s.message(s.buf) {
			return frame{text: s.buf, message: lit}, nil
		}
		c.admit(lit)
		if c.fatal || c.err != nil && !lit.nonSync {
			return frame{text: s.buf, err: c.err, fatal: c.fatal}, nil
		}
		if err := s.literal(lit); err != nil {
			return frame{}, err
		}
	}
}

var errTooLong = errors.New("line too long")

// line appends the next line to buf and returns it, without its end.
func (s *scanner) line(most int) ([]byte, error) {
	start := len(s.buf)
	for {
		b, err := s.br.ReadSlice('\n')
		if len(s.buf)-start+len(b) > most+2 {
			return nil, errTooLong
		}
		s.buf = append(s.buf, b...)
		if errors.Is(err, bufio.ErrBufferFull) {
			continue
		} else if err != nil {
			return nil, midCommand(err, len(s.buf) > 0)
		}
		end := len(s.buf) - 1
		if end > start && s.buf[end-1] == '\r' {
			end--
		}
		s.buf = s.buf[:end]
		return s.buf[start:], nil
	}
}

// midCommand tells the end of the stream from one within a command.
func midCommand(err error, begun bool) error {
	if begun && errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// literal reads a literal that was admitted, and appends it as a quoted string.
func (s *scanner) literal(lit *literal) error {
	if !lit.nonSync {
		if err := s.more(); err != nil {
			return err
		}
	}
	b := make([]byte, lit.size)
	if _, err := io.ReadFull(s.br, b); err != nil {
		return midCommand(err, true)
	}
	s.buf = appendQuoted(s.buf, b)
	return nil
}

// appendQuoted appends s as a quoted string.
func appendQuoted[T string | []byte](b []byte, s T) []byte {
	b = append(b, '"')
	for i := range len(s) {
		if s[i] == '"' || s[i] == '\\' {
			b = append(b, '\\')
		}
		b = append(b, s[i])
	}
	return append(b, '"')
}

// A cut is what is known of the command being read.
type cut struct {
	max      limits
	line     int
	literals int
	octets   int64
	depth    int
	err      *imap.Error // the first refusal
	fatal    bool
	spec     int // length of the last literal's announcement
}

func (c *cut) refuse(err *imap.Error) {
	if c.err == nil {
		c.err = err
	}
}

// scan goes over one line of the command and returns the literal that it ends
// with, the announcement of which is its last spec octets.
func (c *cut) scan(part []byte) *literal {
	c.line += len(part)
	c.spec = 0
	if c.quotes(part) {
		// Whether a literal follows is in doubt, so nothing after it is sure.
		c.refuse(bad("Unterminated quoted string"))
		c.fatal = bytes.HasSuffix(part, []byte("}"))
		return nil
	}
	if !bytes.HasSuffix(part, []byte("}")) {
		return nil
	}
	open := bytes.LastIndexByte(part, '{')
	var lit *literal
	if open >= 0 {
		lit = parseLiteral(part[open+1 : len(part)-1])
	}
	if lit == nil {
		c.refuse(bad("Malformed literal"))
		c.fatal = bytes.HasSuffix(part, []byte("+}"))
		return nil
	}
	if open > 0 && part[open-1] == '~' {
		lit.binary = true
		open--
	}
	c.spec = len(part) - open
	return lit
}

// quotes checks the characters of a line and reports whether it ends within
// quotes.
func (c *cut) quotes(part []byte) bool {
	quoted, escaped := false, false
	for _, b := range part {
		switch {
		case b >= 0x80:
			c.refuse(bad("8-bit data is allowed in literals only"))
		case b == 0 || b == '\r':
			c.refuse(bad("Stray control character"))
		case escaped:
			escaped = false
		case quoted && b == '\\':
			escaped = true
		case b == '"':
			quoted = !quoted
		case quoted:
		case b == '(':
			if c.depth++; c.depth > c.max.depth {
				c.refuse(bad("Parentheses nested too deeply"))
			}
		case b == ')':
			c.depth--
		}
	}
	return quoted
}

// parseLiteral reads what stands between { and }; nil if it is not the one
// spelling of a size.
func parseLiteral(b []byte) *literal {
	digits, nonSync := bytes.CutSuffix(b, []byte("+"))
	if len(digits) == 0 || len(digits) > 12 || digits[0] == '0' && len(digits) > 1 {
		return nil
	}
	var n int64
	for _, d := range digits {
		if d < '0' || d > '9' {
			return nil
		}
		n = 10*n + int64(d-'0')
	}
	return &literal{size: n, nonSync: nonSync}
}

// admit counts a literal that is to be held in memory and refuses it beyond the
// limits. One that is refused and comes all the same cannot be skipped: it may
// be of any length.
func (c *cut) admit(lit *literal) {
	c.literals++
	over := true
	switch {
	case lit.size > c.max.literal:
		c.refuse(no(imap.ResponseCodeTooBig, "Literal too big for this command"))
	case c.literals > c.max.literals || c.octets+lit.size > c.max.octets:
		c.refuse(no(imap.ResponseCodeLimit, "Too many literals"))
	default:
		over = false
	}
	c.octets += lit.size
	c.fatal = over && lit.nonSync
	if lit.binary {
		c.refuse(bad("Binary literal out of place"))
	}
}
