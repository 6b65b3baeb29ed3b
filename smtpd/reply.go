package smtpd

import (
	"context"
	"errors"

	"github.com/emersion/go-smtp"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/directory"
)

// A stage is the command whose outcome an error is.
type stage uint8

const (
	atMail stage = iota
	atRcpt
	atData
	atAuth
)

func newReply(code int, class, subject, detail int, text string) *smtp.SMTPError {
	return &smtp.SMTPError{Code: code, EnhancedCode: smtp.EnhancedCode{class, subject, detail}, Message: text}
}

// Replies to what goes well, and to what needs no error. None is changed after this.
var (
	replyMail         = newReply(250, 2, 1, 0, "Sender taken")
	replyRcpt         = newReply(250, 2, 1, 5, "Recipient taken")
	replyBadLine      = newReply(500, 5, 5, 2, "Bad line: want one command, ended by CR LF, without control characters")
	replyLongLine     = newReply(500, 5, 5, 2, "Command too long")
	replyLongSASL     = newReply(500, 5, 5, 6, "Authentication exchange line is too long")
	replyUnknown      = newReply(500, 5, 5, 1, "Command unrecognized")
	replyNotHere      = newReply(500, 5, 5, 1, "Not on this listener")
	replyNoCommand    = newReply(502, 5, 5, 1, "Command not implemented")
	replyForbidden    = newReply(550, 5, 7, 0, "Not from you")
	replyBadHello     = newReply(501, 5, 5, 4, "Want one domain or address literal")
	replyNoArgs       = newReply(501, 5, 5, 4, "No arguments allowed")
	replyBadArgs      = newReply(501, 5, 5, 4, "Bad arguments")
	replyBadParam     = newReply(501, 5, 5, 4, "Bad parameter")
	replyUnknownParam = newReply(555, 5, 5, 4, "Parameter unknown")
	replyBadSender    = newReply(501, 5, 1, 7, "Bad sender address: want FROM:<user@domain>")
	replyBadRecipient = newReply(501, 5, 1, 3, "Bad recipient address: want TO:<user@domain>")
	replyNeedUTF8     = newReply(553, 5, 6, 7, "Address needs SMTPUTF8")
	replyHelloFirst   = newReply(503, 5, 5, 1, "Introduce yourself first")
	replyMailFirst    = newReply(503, 5, 5, 1, "MAIL first")
	replyNested       = newReply(503, 5, 5, 1, "In a transaction already")
	replyNoRecipient  = newReply(503, 5, 5, 1, "No valid recipients")
	replyInChunks     = newReply(503, 5, 5, 1, "BDAT or RSET expected")
	replyManyRcpts    = newReply(452, 4, 5, 3, "Too many recipients; send the rest in another transaction")
	replyAuthFirst    = newReply(530, 5, 7, 0, "Log in first")
	replyNoAuthHere   = newReply(502, 5, 5, 1, "No log-in on this listener")
	replyClearAuth    = newReply(538, 5, 7, 11, "Encryption required: STARTTLS first")
	replyAuthTwice    = newReply(503, 5, 5, 1, "Logged in already")
	replyNoMechanism  = newReply(504, 5, 5, 4, "Mechanism not offered")
	replyBadBase64    = newReply(501, 5, 5, 2, "Bad base64")
	replyNoTLS        = newReply(502, 5, 5, 1, "No TLS here")
	replyTLSTwice     = newReply(503, 5, 5, 1, "In TLS already")
	replyTLSReady     = newReply(220, 2, 0, 0, "Ready to start TLS")
	replyTLSNotNow    = newReply(503, 5, 5, 1, "STARTTLS not allowed now")
	replyChunk        = newReply(250, 2, 0, 0, "Chunk taken")
	replyNothingDone  = newReply(250, 2, 0, 0, "Nothing done")
	replyTooBig       = newReply(552, 5, 3, 4, "Message too big")
	replyBareNewline  = newReply(550, 5, 5, 2, "Bare CR or LF received: lines end with CR LF")
	replyNUL          = newReply(554, 5, 6, 0, "NUL octet received")
	replyNotOwned     = newReply(553, 5, 7, 1, "Sender is not yours")
	replyFromNotOwned = newReply(550, 5, 7, 1, "Address in From: is not yours")
	replyBadFrom      = newReply(550, 5, 6, 0, "Cannot read who the message is from: want one From: field with addresses")
	replyBigHeader    = newReply(552, 5, 3, 4, "Message header too big")

	// With these the session ends.
	replySync     = newReply(554, 5, 5, 0, "SMTP protocol synchronization: wait for the reply")
	replyNotSMTP  = newReply(554, 5, 5, 0, "This is not that protocol")
	replyStranger = newReply(554, 5, 7, 1, "LMTP is not for you")
	replyErrors   = newReply(421, 4, 7, 0, "Too many errors")
	replyIdling   = newReply(421, 4, 7, 0, "Too many commands without a message")
	replyTimeout  = newReply(421, 4, 4, 2, "Timeout")
	replyShutdown = newReply(421, 4, 3, 2, "Shutting down")
	replyFault    = newReply(421, 4, 3, 0, "Internal error")
)

// replyTo maps an error of a service to what the peer is told: by its Kind, never
// by its text. It is the only place that does.
func replyTo(st stage, k Kind, err error) *smtp.SMTPError {
	var told *smtp.SMTPError
	if errors.As(err, &told) {
		return told
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return newReply(451, 4, 3, 0, "Cannot be done now; try again later")
	}
	if errors.Is(err, directory.ErrNoDomain) {
		return newReply(451, 4, 3, 5, "This server takes no mail yet")
	}
	switch covey.KindOf(err) {
	case covey.NotFound:
		return newReply(550, 5, 1, 1, "No such user here")
	case covey.Denied:
		return denied(st, k)
	case covey.Invalid:
		return invalid(st)
	case covey.OverQuota:
		return newReply(452, 4, 2, 2, "Mailbox is full")
	case covey.DiskFull:
		return newReply(452, 4, 3, 1, "No room for mail now; try again later")
	case covey.TooBig:
		return replyTooBig
	case covey.Limit:
		if st == atAuth {
			return newReply(421, 4, 7, 0, "Too many failed log-ins")
		}
		return newReply(452, 4, 5, 3, "Too much at once; try again later")
	case covey.Loop:
		return newReply(554, 5, 4, 6, "Mail is going round in a loop")
	case covey.Unavailable, covey.Unknown, covey.InUse:
		if st == atAuth {
			return newReply(454, 4, 7, 0, "Cannot log you in now; try again later")
		}
		return newReply(451, 4, 3, 0, "Cannot be done now; try again later")
	}
	if st == atAuth {
		return newReply(454, 4, 7, 0, "Internal error; try again later")
	}
	return newReply(451, 4, 3, 0, "Internal error; try again later")
}

func denied(st stage, k Kind) *smtp.SMTPError {
	switch {
	case st == atAuth:
		return newReply(535, 5, 7, 8, "Wrong name or password")
	case st == atRcpt && k.submits():
		return newReply(550, 5, 7, 1, "This server does not send mail to other domains")
	case st == atRcpt:
		return newReply(550, 5, 7, 1, "Relaying denied: not a domain of ours")
	}
	return newReply(550, 5, 7, 1, "Not allowed")
}

func invalid(st stage) *smtp.SMTPError {
	switch st {
	case atMail:
		return replyBadSender
	case atRcpt:
		return replyBadRecipient
	case atAuth:
		return replyBadBase64
	}
	return newReply(554, 5, 6, 0, "Message not acceptable")
}
