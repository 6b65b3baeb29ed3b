package smtpd

import (
	"encoding/base64"
	"strings"

	"github.com/emersion/go-smtp"
)

// command takes a command line. It answers it, or returns the line that go-smtp
// is to answer.
func (s *session) command(line string) (forward string) {
	verb, arg, _ := strings.Cut(line, " ")
	s.verb, arg = strings.ToUpper(verb), strings.TrimLeft(arg, " ")
	if s.foreign(line) {
		return ""
	}
	s.lines++
	if s.mustWait() && s.c.in.Buffered() > 0 {
		s.c.bye(replySync, "did not wait for the reply to "+s.verb)
		s.c.linger = true
		return ""
	}
	forward, answer := s.dispatch(arg)
	if answer != nil && !s.c.dead {
		s.c.reply(answer)
		return ""
	}
	return forward
}

// foreign ends the session of a peer that speaks another protocol, perhaps
// because a browser was made to.
func (s *session) foreign(line string) bool {
	switch s.verb {
	case "GET", "POST", "HEAD", "PUT", "DELETE", "CONNECT", "OPTIONS", "PATCH", "TRACE":
	case "PROXY": // of the PROXY protocol, version 1; version 2 starts with an empty line
	case "":
		if s.lines > 0 {
			return false
		}
	default:
		if !strings.HasPrefix(line, "SSH-") {
			return false
		}
	}
	s.c.bye(replyNotSMTP, "another protocol")
	s.c.linger = true
	return true
}

// mustWait reports whether the command is one that its sender has to await the
// reply of before it sends more (RFC 2920 section 3.1, RFC 3207 section 4.1).
func (s *session) mustWait() bool {
	switch s.verb {
	case "EHLO", "HELO", "LHLO", "DATA", "VRFY", "EXPN", "NOOP", "AUTH", "STARTTLS":
		return true
	}
	return false
}

// dispatch has one case for each command. It returns the line for go-smtp, or the
// answer, or neither if the command was answered.
func (s *session) dispatch(arg string) (forward string, answer *smtp.SMTPError) {
	switch s.verb {
	case "EHLO", "HELO", "LHLO":
		return s.hello(arg)
	case "MAIL":
		return s.mail(arg)
	case "RCPT":
		return s.rcpt(arg)
	case "DATA":
		return s.data(arg)
	case "BDAT":
		return s.bdat(arg)
	case "AUTH":
		return s.auth(arg)
	case "STARTTLS":
		return "", s.startTLS(arg)
	case "RSET":
		s.c.idle++
		return bare(s.verb, arg)
	case "QUIT":
		return bare(s.verb, arg)
	case "NOOP", "VRFY":
		s.c.idle++
		return s.verb, nil // the argument says nothing
	case "EXPN", "HELP", "TURN", "ETRN":
		return "", replyNoCommand
	case "XCLIENT", "XFORWARD":
		return "", replyForbidden
	}
	return "", replyUnknown
}

// bare forwards a command that has no argument.
func bare(verb, arg string) (string, *smtp.SMTPError) {
	if arg != "" {
		return "", replyNoArgs
	}
	return verb, nil
}

func (s *session) hello(arg string) (string, *smtp.SMTPError) {
	if (s.verb == "LHLO") != (s.c.kind == LMTP) {
		return "", replyNotHere
	}
	name, ok := parseHello(arg)
	if !ok {
		return "", replyBadHello
	}
	s.c.idle++
	s.helo, s.extended = name, s.verb != "HELO"
	return s.verb + " " + name, nil
}

func (s *session) mail(arg string) (forward string, answer *smtp.SMTPError) {
	switch {
	case s.helo == "":
		return "", replyHelloFirst
	case s.tx != nil:
		return "", replyNested
	case s.c.kind.submits() && s.user == nil:
		return "", replyAuthFirst
	}
	m, bad := parseMail(arg, s.c.srv.cfg.MaxMessageBytes, s.c.kind.submits())
	if bad != nil {
		return "", bad
	}
	return "", s.begin(m)
}

func (s *session) rcpt(arg string) (string, *smtp.SMTPError) {
	if s.tx == nil {
		return "", replyMailFirst
	}
	to, bad := parseRcpt(arg, s.tx.utf8)
	if bad != nil {
		return "", bad
	}
	if len(s.tx.told) >= s.c.srv.cfg.MaxRecipients {
		return "", replyManyRcpts
	}
	return "", s.recipient(to)
}

func (s *session) data(arg string) (string, *smtp.SMTPError) {
	switch {
	case arg != "":
		return "", replyNoArgs
	case s.tx == nil:
		return "", replyMailFirst
	case len(s.tx.rcpts) == 0:
		return "", replyNoRecipient
	}
	_, _ = s.c.out.WriteString("354 Go ahead. End your data with <CR><LF>.<CR><LF>\r\n") // an error stays in c.out
	s.message(newDotFraming(s.c.in))
	return "", nil
}

// bdat takes a message in chunks. Without a transaction the chunk is read and dropped, since its sender
// does not wait for the reply.
func (s *session) bdat(arg string) (string, *smtp.SMTPError) {
	ch, bad := s.chunk(arg)
	if bad != nil || s.c.dead {
		return "", bad
	}
	if s.tx != nil && len(s.tx.rcpts) > 0 {
		s.message(s.newChunks(ch))
		return "", nil
	}
	if !s.dropChunk(ch) {
		return "", nil
	}
	if s.tx == nil {
		return "", replyMailFirst
	}
	if s.c.kind == LMTP && ch.last {
		s.tx = nil
		return "", nil // a reply for each recipient, of which there are none (RFC 2033 section 4.3)
	}
	return "", replyNoRecipient
}

// chunk parses the argument of BDAT. A chunk that is too big to be read through
// ends the session, for it cannot be told from the commands behind it.
func (s *session) chunk(arg string) (chunk, *smtp.SMTPError) {
	ch, tooBig, ok := parseChunk(arg, s.c.srv.drain())
	switch {
	case !ok:
		return ch, replyBadArgs
	case tooBig:
		s.c.bye(replyTooBig, "huge chunk")
		s.c.linger = true
	}
	return ch, nil
}

// dropChunk reads a chunk and drops it, and reports whether there is more to
// read.
func (s *session) dropChunk(ch chunk) bool {
	s.c.raw.BeginBody()
	defer s.c.raw.EndBody()
	f := chunkFraming{in: s.c.in, left: ch.size, last: true}
	for !s.c.dead {
		if _, err := f.next(); err != nil {
			break
		}
	}
	return !s.c.dead
}

// newChunks returns the framing of a message whose first chunk is ch.
func (s *session) newChunks(ch chunk) *chunkFraming {
	return &chunkFraming{in: s.c.in, left: ch.size, last: ch.last, more: s.nextChunk}
}

// nextChunk answers a chunk and awaits the next BDAT. Other commands are refused
// meanwhile, but for those that give up the message: they are taken again when
// it is gone.
func (s *session) nextChunk() (chunk, error) {
	s.c.reply(replyChunk)
	for !s.c.dead && !s.c.enough() {
		line, ok := s.c.line()
		if !ok {
			continue
		}
		verb, arg, _ := strings.Cut(line, " ")
		switch s.verb = strings.ToUpper(verb); s.verb {
		case "BDAT":
			ch, bad := s.chunk(strings.TrimLeft(arg, " "))
			if bad != nil {
				s.c.reply(bad)
				continue
			}
			if !s.c.dead {
				return ch, nil
			}
		case "NOOP":
			s.c.idle++
			s.c.reply(replyNothingDone)
		case "RSET", "QUIT", "EHLO", "HELO", "LHLO":
			s.c.again = line
			return chunk{}, errAborted
		default:
			s.c.reply(replyInChunks)
		}
	}
	return chunk{}, errAborted
}

// startTLS answers STARTTLS and, where it may, turns to TLS. Of what the peer
// said in clear nothing is kept (RFC 3207 section 4.2): go-smtp resets itself at
// the EHLO that mail asks for.
func (s *session) startTLS(arg string) *smtp.SMTPError {
	switch {
	case arg != "":
		return replyNoArgs
	case s.c.secure:
		return replyTLSTwice
	case !s.c.offersTLS():
		return replyNoTLS
	case s.tx != nil || s.user != nil:
		return replyTLSNotNow
	}
	s.c.reply(replyTLSReady)
	if err := s.c.out.Flush(); err != nil {
		s.c.end("write: " + err.Error())
		return nil
	}
	s.helo = ""
	s.c.handshake()
	return nil
}

// auth checks AUTH before go-smtp, which then asks Auth for the mechanism.
func (s *session) auth(arg string) (string, *smtp.SMTPError) {
	s.c.idle++
	mech, initial, hasInitial := strings.Cut(arg, " ")
	switch {
	case !s.c.kind.submits():
		return "", replyNoAuthHere
	case s.helo == "":
		return "", replyHelloFirst
	case s.user != nil:
		return "", replyAuthTwice
	case s.tx != nil:
		return "", replyNested
	case !s.mayAuth():
		return "", replyClearAuth
	case mech == "":
		return "", replyBadArgs
	case !s.offers(strings.ToUpper(mech)):
		return "", replyNoMechanism
	case hasInitial && !isSASL(initial):
		return "", replyBadBase64
	}
	if hasInitial {
		return "AUTH " + mech + " " + initial, nil
	}
	return "AUTH " + mech, nil
}

// saslLine takes a line of an AUTH exchange.
func (c *conn) saslLine(line string) string {
	if line != "*" && !isSASL(line) {
		return c.cancelAuth(replyBadBase64)
	}
	return line + "\r\n"
}

// cancelAuth ends an AUTH exchange: go-smtp is told that the peer gave up, and
// the peer what was wrong, if it was not told before.
func (c *conn) cancelAuth(r *smtp.SMTPError) string {
	if r != nil {
		c.reply(r)
	}
	c.mute = true
	return "*\r\n"
}

// isSASL reports whether s is base64, or the = that stands for an empty
// response.
func isSASL(s string) bool {
	if s == "=" {
		return true
	}
	_, err := base64.StdEncoding.DecodeString(s)
	return err == nil
}
