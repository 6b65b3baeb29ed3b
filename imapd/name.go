package imapd

import (
	"encoding/base64"
	"strings"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/emersion/go-imap/v2"
	"golang.org/x/text/unicode/norm"

	"github.com/covey-mail/covey/storage"
)

// delimiter stands between the levels of a mailbox name.
const delimiter = '/'

// mutf7 is the alphabet of modified UTF-7 (RFC 3501 section 5.1.3).
var mutf7 = base64.NewEncoding("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+,").
	WithPadding(base64.NoPadding).Strict()

// decodeName undoes modified UTF-7. ok is false for any other spelling than the
// one that encodeName gives.
func decodeName(wire string) (name string, ok bool) {
	if len(wire) > 8*storage.MaxNameLength {
		return "", false
	}
	var b strings.Builder
	for rest := wire; rest != ""; {
		i := strings.IndexByte(rest, '&')
		if i < 0 {
			i = len(rest)
		}
		b.WriteString(rest[:i])
		if rest = rest[i:]; rest == "" {
			break
		}
		coded, after, found := strings.Cut(rest[1:], "-")
		if !found || !decodeShift(&b, coded) {
			return "", false
		}
		rest = after
	}
	name = b.String()
	return name, encodeName(name) == wire
}

// decodeShift decodes what stands between & and -.
func decodeShift(b *strings.Builder, coded string) bool {
	if coded == "" {
		b.WriteByte('&')
		return true
	}
	raw, err := mutf7.DecodeString(coded)
	if err != nil || len(raw)%2 != 0 {
		return false
	}
	units := make([]uint16, len(raw)/2)
	for i := range units {
		units[i] = uint16(raw[2*i])<<8 | uint16(raw[2*i+1])
	}
	for _, r := range utf16.Decode(units) {
		b.WriteRune(r)
	}
	return true
}

// encodeName encodes UTF-8 as modified UTF-7.
func encodeName(name string) string {
	var b strings.Builder
	var shifted []byte
	flush := func() {
		if shifted != nil {
			b.WriteString("&" + mutf7.EncodeToString(shifted) + "-")
			shifted = nil
		}
	}
	for _, r := range name {
		if r < ' ' || r > '~' {
			for _, u := range utf16.Encode([]rune{r}) {
				shifted = append(shifted, byte(u>>8), byte(u))
			}
			continue
		}
		flush()
		b.WriteRune(r)
		if r == '&' {
			b.WriteByte('-')
		}
	}
	flush()
	return b.String()
}

// canonicalName returns the form of a mailbox name under which it is kept:
// storage.CleanName of its NFC, so that the composed and the decomposed spelling
// are one mailbox (RFC 5198). ok is false for a name that no mailbox can have
// over IMAP.
func canonicalName(name string) (string, bool) {
	if !utf8.ValidString(name) || strings.ContainsFunc(name, forbidden) {
		return "", false
	}
	name = norm.NFC.String(name)
	for level := range strings.SplitSeq(name, string(delimiter)) {
		if level == "." || level == ".." {
			return "", false
		}
	}
	name, err := storage.CleanName(name)
	return name, err == nil
}

// forbidden reports whether r may not be in a name: it would break a line or make
// two names look the same (RFC 5198 section 2, RFC 9051 section 5.1). The joiners
// U+200C and U+200D carry meaning in some scripts and stay.
func forbidden(r rune) bool {
	switch {
	case r < ' ', r >= 0x7f && r <= 0x9f: // controls
	case r == 0x200b, r == 0x200e, r == 0x200f, r == 0x2060, r == 0xfeff: // invisible
	case r >= 0x2028 && r <= 0x202e, r >= 0x2066 && r <= 0x2069: // line ends, overrides
	case r == utf8.RuneError:
	case r == '%', r == '*': // wildcards of LIST
	default:
		return false
	}
	return true
}

// mailbox reads the name of a mailbox.
func (c *cursor) mailbox() string { return c.name("") }

// newMailbox reads the name of a mailbox to be made. The delimiter at its end says
// that it is to have children, which every mailbox may (RFC 3501 section 6.3.3).
func (c *cursor) newMailbox() string { return c.name(string(delimiter)) }

func (c *cursor) name(suffix string) string {
	wire := c.astring()
	if c.err != nil {
		return ""
	}
	name, ok := decodeName(wire)
	if ok {
		name, ok = canonicalName(strings.TrimSuffix(name, suffix))
	}
	if !ok {
		c.fail(no(imap.ResponseCodeCannot, "Not a mailbox name"))
	}
	return name
}

// pattern reads a list-mailbox or a reference: any text that could be part of
// a name, with wildcards.
func (c *cursor) pattern() string {
	var wire string
	if c.peek() == '"' {
		wire = c.quoted()
	} else {
		wire = c.run("a mailbox pattern", isPattern)
	}
	if c.err != nil {
		return ""
	}
	name, ok := decodeName(wire)
	if !ok || strings.ContainsFunc(name, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		c.fail(no(imap.ResponseCodeCannot, "Not a mailbox pattern"))
	}
	return norm.NFC.String(name)
}
