package covey

import (
	"net/netip"
	"strings"
	"unicode/utf8"
)

// Limits of RFC 5321 section 4.5.3.1, in octets.
const (
	MaxLocalPart = 64
	MaxDomain    = 255
)

// An Address is a mailbox address, local part and domain, unquoted. The local
// part is kept as the peer wrote it; Key folds it for look-up.
type Address struct {
	Local  string
	Domain string // lower case; a name or an address literal in brackets
}

// ParseAddress parses local@domain as typed by people and configuration: a
// dot-atom or quoted local part (RFC 5321 section 4.1.2, RFC 6531 for UTF-8) and
// a domain. Source routes, comments and angle brackets are refused.
func ParseAddress(s string) (Address, error) {
	at := strings.LastIndexByte(s, '@')
	if at < 1 || len(s) > MaxLocalPart+MaxDomain+3 {
		return Address{}, Errorf(Invalid, "address %q: want local@domain", clip(s))
	}
	local, err := parseLocal(s[:at])
	if err != nil {
		return Address{}, err
	}
	domain, err := ParseDomain(s[at+1:])
	if err != nil {
		return Address{}, err
	}
	return Address{Local: local, Domain: domain}, nil
}

// ParseDomain folds a domain name to lower case and checks its form: letters,
// digits, hyphens, underscores and UTF-8 in labels of 1 to 63 octets, or an
// address literal.
func ParseDomain(s string) (string, error) {
	if strings.HasPrefix(s, "[") {
		return parseLiteral(s)
	}
	if s == "" || len(s) > MaxDomain || !utf8.ValidString(s) {
		return "", Errorf(Invalid, "domain %q: want 1 to %d octets", clip(s), MaxDomain)
	}
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return "", Errorf(Invalid, "domain %q: bad label %q", clip(s), clip(label))
		}
		for i := 0; i < len(label); i++ {
			if c := label[i]; c < utf8.RuneSelf && !isAlnum(c) && c != '-' && c != '_' {
				return "", Errorf(Invalid, "domain %q: bad character %q", clip(s), c)
			}
		}
	}
	return strings.ToLower(s), nil
}

// parseLiteral checks an address literal (RFC 5321 section 4.1.3). A zone, which
// may be any text, is no part of one.
func parseLiteral(s string) (string, error) {
	inner, ok := strings.CutSuffix(s[1:], "]")
	ip := inner
	if len(ip) > 5 && strings.EqualFold(ip[:5], "IPv6:") {
		ip = ip[5:]
	}
	if a, err := netip.ParseAddr(ip); !ok || err != nil || a.Zone() != "" {
		return "", Errorf(Invalid, "domain %q: bad address literal", clip(s))
	}
	return strings.ToLower(s), nil
}

// parseLocal unquotes and checks a local part.
func parseLocal(s string) (string, error) {
	bad := func() error { // built only when needed: this is on the path of every message
		return Errorf(Invalid, "local part %q is not a dot-atom or quoted string of at most %d octets", clip(s), MaxLocalPart)
	}
	if strings.HasPrefix(s, `"`) {
		var ok bool
		if s, ok = unquote(s); !ok || s == "" || len(s) > MaxLocalPart {
			return "", bad()
		}
		return s, nil
	}
	if len(s) > MaxLocalPart || !utf8.ValidString(s) {
		return "", bad()
	}
	for atom := range strings.SplitSeq(s, ".") {
		if atom == "" {
			return "", bad()
		}
		for i := 0; i < len(atom); i++ {
			if c := atom[i]; c < utf8.RuneSelf && !isAlnum(c) && strings.IndexByte("!#$%&'*+-/=?^_`{|}~", c) < 0 {
				return "", bad()
			}
		}
	}
	return s, nil
}

// unquote undoes a Quoted-string; ok is false where s is not a whole one of
// printable characters.
func unquote(s string) (string, bool) {
	if len(s) < 2 || s[len(s)-1] != '"' || !utf8.ValidString(s) {
		return "", false
	}
	var b strings.Builder
	body := s[1 : len(s)-1]
	for i := 0; i < len(body); i++ {
		c := body[i]
		if c == '"' {
			return "", false
		}
		if c == '\\' {
			if i++; i == len(body) {
				return "", false
			}
			c = body[i]
		}
		if c < ' ' || c == 0x7f {
			return "", false
		}
		b.WriteByte(c)
	}
	return b.String(), true
}

func isAlnum(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
}

// IsZero reports whether a is the null reverse-path <>.
func (a Address) IsZero() bool { return a == Address{} }

// String returns the address as it is written in a path, quoting the local part
// where it must be. The null address is empty.
func (a Address) String() string {
	if a.IsZero() {
		return ""
	}
	if l, err := parseLocal(a.Local); err == nil && l == a.Local {
		return a.Local + "@" + a.Domain
	}
	quoted := strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(a.Local)
	return `"` + quoted + `"@` + a.Domain
}

// Key returns the form under which accounts and aliases are looked up: both
// parts in lower case.
func (a Address) Key() Address {
	return Address{Local: strings.ToLower(a.Local), Domain: strings.ToLower(a.Domain)}
}

// Base splits off the detail of a subaddress (RFC 5233): user+detail becomes
// user and "detail". Without a plus, or with one at the start, detail is empty.
func (a Address) Base() (base Address, detail string) {
	if i := strings.IndexByte(a.Local, '+'); i > 0 {
		return Address{Local: a.Local[:i], Domain: a.Domain}, a.Local[i+1:]
	}
	return a, ""
}
