package smtpd

import (
	"strconv"
	"strings"

	"github.com/emersion/go-smtp"

	"github.com/covey-mail/covey"
)

// maxPath is the limit of RFC 5321 section 4.5.3.1.3, brackets included.
const maxPath = 256

// mailArgs are the arguments of MAIL.
type mailArgs struct {
	from covey.Address // zero for <>
	path string        // from, as it stands in a path
	size int64         // declared; 0 if not
	utf8 bool          // SMTPUTF8 was given
}

// cutPath splits the argument of MAIL or RCPT behind its keyword ("FROM:",
// "TO:") into what stands between the angle brackets and the parameters. It is
// linear in the length of arg.
func cutPath(arg, keyword string) (path, params string, ok bool) {
	if len(arg) < len(keyword) || !strings.EqualFold(arg[:len(keyword)], keyword) {
		return "", "", false
	}
	// A space behind the colon is not in the grammar and common.
	arg = strings.TrimLeft(arg[len(keyword):], " ")
	if !strings.HasPrefix(arg, "<") {
		return "", "", false
	}
	end := closingBracket(arg)
	if end < 0 || end+1 > maxPath {
		return "", "", false
	}
	path, params = arg[1:end], arg[end+1:]
	if params != "" && params[0] != ' ' {
		return "", "", false
	}
	return path, params, true
}

// closingBracket returns the index of the first > outside of quotes, -1 if
// there is none.
func closingBracket(s string) int {
	quoted := false
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '"':
			quoted = !quoted
		case '\\':
			if quoted {
				i++
			}
		case '>':
			if !quoted {
				return i
			}
		}
	}
	return -1
}

// parsePath parses what stands between the brackets of a path other than <>. A
// source route is checked and dropped (RFC 5321 appendix C).
func parsePath(s string) (covey.Address, error) {
	if strings.HasPrefix(s, "@") {
		route, rest, ok := strings.Cut(s, ":")
		if !ok {
			return covey.Address{}, covey.Errorf(covey.Invalid, "source route without a mailbox")
		}
		for hop := range strings.SplitSeq(route, ",") {
			domain, ok := strings.CutPrefix(hop, "@")
			if _, err := covey.ParseDomain(domain); !ok || err != nil {
				return covey.Address{}, covey.Errorf(covey.Invalid, "bad hop in a source route")
			}
		}
		s = rest
	}
	return covey.ParseAddress(s)
}

// ascii reports whether s has no octet above 127.
func ascii(s string) bool {
	for i := 0; i < len(s); i++ {
		if s[i] >= 0x80 {
			return false
		}
	}
	return true
}

// parseParams splits the parameters of MAIL or RCPT and hands each to take, its
// keyword in upper case. It refuses those that are malformed or come twice.
func parseParams(s string, take func(key, value string, hasValue bool) *smtp.SMTPError) *smtp.SMTPError {
	var seen []string
	for field := range strings.FieldsSeq(s) {
		key, value, hasValue := strings.Cut(field, "=")
		key = strings.ToUpper(key)
		if !isKeyword(key) || hasValue && (value == "" || strings.Contains(value, "=")) {
			return replyBadParam
		}
		for _, k := range seen {
			if k == key {
				return replyBadParam
			}
		}
		if err := take(key, value, hasValue); err != nil {
			return err
		}
		seen = append(seen, key) // at most the parameters we know
	}
	return nil
}

func isKeyword(s string) bool {
	for i := 0; i < len(s); i++ {
		c := s[i]
		if !('A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' && i > 0) {
			return false
		}
	}
	return s != ""
}

// parseMail parses the argument of MAIL. authParam says that AUTH= may be there;
// RFC 4954 section 5 lets a server that trusts nobody ignore its value.
func parseMail(arg string, limit int64, authParam bool) (mailArgs, *smtp.SMTPError) {
	var m mailArgs
	path, params, ok := cutPath(arg, "FROM:")
	if !ok {
		return m, replyBadSender
	}
	if path != "" {
		from, err := parsePath(path)
		if err != nil {
			return m, replyBadSender
		}
		m.from, m.path = from, from.String()
	}
	bad := parseParams(params, func(key, value string, hasValue bool) *smtp.SMTPError {
		switch {
		case key == "SIZE" && hasValue:
			n, err := strconv.ParseUint(value, 10, 64)
			if err != nil {
				return replyBadParam
			}
			if n > uint64(limit) {
				return replyTooBig
			}
			m.size = int64(n)
		case key == "BODY" && hasValue:
			if v := strings.ToUpper(value); v != "7BIT" && v != "8BITMIME" {
				return replyBadParam
			}
		case key == "SMTPUTF8" && !hasValue:
			m.utf8 = true
		case key == "AUTH" && hasValue && authParam:
		case key == "SIZE" || key == "BODY" || key == "SMTPUTF8":
			return replyBadParam
		default:
			return replyUnknownParam
		}
		return nil
	})
	if bad == nil && !m.utf8 && !ascii(path) {
		bad = replyNeedUTF8
	}
	return m, bad
}

// parseRcpt parses the argument of RCPT. utf8 says that MAIL had SMTPUTF8.
// <postmaster> alone may lack a domain (RFC 5321 section 4.1.1.3).
func parseRcpt(arg string, utf8 bool) (covey.Address, *smtp.SMTPError) {
	path, params, ok := cutPath(arg, "TO:")
	if !ok {
		return covey.Address{}, replyBadRecipient
	}
	to := covey.Address{Local: path}
	if !strings.EqualFold(path, "postmaster") {
		var err error
		if to, err = parsePath(path); err != nil {
			return covey.Address{}, replyBadRecipient
		}
	}
	bad := parseParams(params, func(key, _ string, _ bool) *smtp.SMTPError {
		switch key {
		case "SIZE", "BODY", "SMTPUTF8", "AUTH": // of MAIL
			return replyBadRecipient
		}
		return replyUnknownParam
	})
	if bad == nil && !utf8 && !ascii(path) {
		bad = replyNeedUTF8
	}
	return to, bad
}

// parseHello checks the argument of EHLO, HELO and LHLO: one domain or address
// literal in ASCII (RFC 6531 section 3.7.1), with a final dot tolerated.
func parseHello(arg string) (string, bool) {
	name, err := covey.ParseDomain(strings.TrimSuffix(arg, "."))
	return name, err == nil && ascii(name)
}

// A chunk is the announcement of BDAT.
type chunk struct {
	size int64
	last bool
}

// parseChunk parses the argument of BDAT (RFC 3030 section 2). A size over limit
// makes tooBig true.
func parseChunk(arg string, limit int64) (c chunk, tooBig, ok bool) {
	number, last, hasLast := strings.Cut(arg, " ")
	if hasLast && !strings.EqualFold(strings.TrimLeft(last, " "), "LAST") {
		return c, false, false
	}
	for i := 0; i < len(number); i++ {
		if number[i] < '0' || number[i] > '9' {
			return c, false, false
		}
	}
	if number == "" {
		return c, false, false
	}
	n, err := strconv.ParseUint(number, 10, 63)
	if err != nil || n > uint64(limit) {
		return c, true, true
	}
	return chunk{size: int64(n), last: hasLast}, false, true
}

// pathText returns an address as it stands in a path.
func pathText(a covey.Address) string {
	if a.Domain == "" {
		return a.Local
	}
	return a.String()
}
