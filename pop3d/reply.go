package pop3d

import (
	"errors"
	"fmt"

	"github.com/covey-mail/covey"
)

// A refusal is a negative reply, as a handler decided it.
type refusal struct {
	code  string // response code without brackets (RFC 2449 section 8, RFC 3206); "" for none
	text  string
	fault bool // the client broke the protocol: counted against maxFaults
	end   bool // the session ends with it
}

// Error implements error.
func (r *refusal) Error() string { return r.text }

// fault refuses what no client should send.
func fault(text string) error { return &refusal{text: text, fault: true} }

// An ending is the error of a session that ends without another reply. Its text
// is the reason in the session's log line.
type ending string

// Error implements error.
func (e ending) Error() string { return string(e) }

// refusalOf is the one place where errors of services become replies. Their text
// stays here.
func refusalOf(err error) *refusal {
	var r *refusal
	if errors.As(err, &r) {
		return r
	}
	switch covey.KindOf(err) {
	case covey.Denied:
		return &refusal{code: "AUTH", text: "authentication failed"}
	case covey.Limit:
		return &refusal{code: "LOGIN-DELAY", text: "too many failed log-ins, try again later", end: true}
	case covey.InUse:
		return &refusal{code: "IN-USE", text: "maildrop is locked by another session"}
	case covey.NotFound:
		return &refusal{text: "no such message"}
	case covey.Invalid:
		return &refusal{text: "malformed request", fault: true}
	case covey.Corrupt:
		return &refusal{code: "SYS/PERM", text: "message is damaged"}
	default:
		return &refusal{code: "SYS/TEMP", text: "temporary failure, try again later"}
	}
}

// ok writes a positive reply, a single line or the first of several.
func (s *session) ok(format string, args ...any) {
	// Write errors are sticky in bufio and seen by the next flush.
	_, _ = s.w.WriteString("+OK ")
	_, _ = fmt.Fprintf(s.w, format, args...)
	_, _ = s.w.WriteString("\r\n")
}

// dot ends a reply of several lines.
func (s *session) dot() { _, _ = s.w.WriteString(".\r\n") }

// refuse writes a negative reply.
func (s *session) refuse(r *refusal) {
	_, _ = s.w.WriteString("-ERR ")
	if r.code != "" {
		_, _ = s.w.WriteString("[" + r.code + "] ")
	}
	_, _ = s.w.WriteString(r.text + "\r\n")
}
