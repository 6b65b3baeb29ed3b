package imapd

import (
	"errors"

	"github.com/emersion/go-imap/v2"

	"github.com/covey-mail/covey"
)

func bad(text string) *imap.Error {
	return &imap.Error{Type: imap.StatusResponseTypeBad, Text: text}
}

func no(code imap.ResponseCode, text string) *imap.Error {
	return &imap.Error{Type: imap.StatusResponseTypeNo, Code: code, Text: text}
}

// reply maps an error to what the client is told (RFC 5530). The error's own
// text never goes out: it is for the log.
func reply(err error) *imap.Error {
	var e *imap.Error
	if errors.As(err, &e) {
		return e
	}
	switch covey.KindOf(err) {
	case covey.Invalid:
		return no(imap.ResponseCodeCannot, "Not possible")
	case covey.NotFound:
		return no(imap.ResponseCodeNonExistent, "No such mailbox")
	case covey.Exists:
		return no(imap.ResponseCodeAlreadyExists, "Mailbox exists already")
	case covey.Denied:
		return no(imap.ResponseCodeCannot, "Not allowed")
	case covey.OverQuota:
		return no(imap.ResponseCodeOverQuota, "Quota exceeded")
	case covey.TooBig, covey.Loop:
		return no(imap.ResponseCodeTooBig, "Too big")
	case covey.Limit:
		return no(imap.ResponseCodeLimit, "Limit exceeded")
	case covey.InUse, covey.Conflict:
		return no(imap.ResponseCodeInUse, "In use, try again")
	case covey.Unavailable, covey.Unknown:
		return no(imap.ResponseCodeUnavailable, "Temporarily unavailable, try again later")
	case covey.DiskFull:
		return no(imap.ResponseCodeUnavailable, "No room for new messages, try again later")
	}
	return no(imap.ResponseCodeServerBug, "Internal error")
}

// replyTo is reply for commands that put messages into a mailbox: one that is
// not there may be created (RFC 3501 section 6.3.11).
func replyTo(err error) *imap.Error {
	if errors.Is(err, covey.NotFound) {
		return no(imap.ResponseCodeTryCreate, "No such mailbox")
	}
	return reply(err)
}

// status returns a status response line.
func status(tag string, e *imap.Error) []byte {
	if tag == "" {
		tag = "*"
	}
	b := append([]byte(tag), ' ')
	b = append(b, e.Type...)
	if e.Code != "" {
		b = append(b, " ["...)
		b = append(b, e.Code...)
		b = append(b, ']')
	}
	b = append(b, ' ')
	b = append(b, e.Text...)
	return append(b, "\r\n"...)
}
