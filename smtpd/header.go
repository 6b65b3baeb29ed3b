package smtpd

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"io"
	"mime"
	"net/mail"
	"net/netip"
	"net/textproto"
	"strings"
	"time"

	"github.com/covey-mail/covey"
)

// maxHeader bounds the header of a submitted message, which is held in memory
// while it is checked.
const maxHeader = 256 << 10

// trace returns the fields that go in front of a message (RFC 5321 section 4.4).
// All foreign text in them was parsed: the greeting's name and the addresses.
func (s *session) trace() []byte {
	b := make([]byte, 0, 512)
	b = append(append(append(b, "Received: from "...), s.helo...), " ("...)
	b = append(appendAddr(b, s.c.raw.Remote()), ")\r\n"...)
	b = append(append(append(b, "\tby "...), s.c.srv.cfg.Hostname...), " (Covey) with "...)
	b = append(append(append(b, s.protocol()...), " id "...), s.tx.id...)
	if len(s.tx.rcpts) == 1 { // with more, each would learn of the others
		b = append(append(append(b, "\r\n\tfor <"...), pathText(s.tx.rcpts[0].Address)...), '>')
	}
	b = append(b, ";\r\n\t"...)
	b = s.tx.began.AppendFormat(b, time.RFC1123Z)
	return append(b, "\r\n"...)
}

// appendAddr appends a peer's address as a Received field has it.
func appendAddr(b []byte, a netip.Addr) []byte {
	switch {
	case !a.IsValid():
		return append(b, "local"...)
	case a.Is6():
		b = append(b, "[IPv6:"...)
	default:
		b = append(b, '[')
	}
	return append(a.WithZone("").AppendTo(b), ']')
}

// protocol returns the name of RFC 3848 and RFC 6531 section 4.3.
func (s *session) protocol() string {
	p := "SMTP"
	switch {
	case s.c.kind == LMTP && s.tx.utf8:
		p = "UTF8LMTP"
	case s.c.kind == LMTP:
		p = "LMTP"
	case !s.extended:
		return "SMTP"
	case s.tx.utf8:
		p = "UTF8SMTP"
	default:
		p = "ESMTP"
	}
	if s.c.secure {
		p += "S"
	}
	if s.user != nil {
		p += "A"
	}
	return p
}

// submitted checks the header of a message that a user sends, and returns the
// fields that it lacks and the message as a whole.
func (s *session) submitted(data io.Reader) (fields []byte, whole io.Reader, err error) {
	raw, rest, err := readHeader(data)
	if err != nil {
		return nil, nil, err
	}
	h, err := parseHeader(raw)
	if err != nil {
		return nil, nil, err
	}
	for _, from := range h.from {
		if err := s.owns(from, replyFromNotOwned); err != nil {
			return nil, nil, err
		}
	}
	// RFC 6409 sections 8.2 and 8.3.
	if !h.hasDate {
		fields = append(fields, "Date: "+s.tx.began.Format(time.RFC1123Z)+"\r\n"...)
	}
	if !h.hasID {
		fields = append(fields, "Message-ID: <"+randomID()+"@"+s.c.srv.cfg.Hostname+">\r\n"...)
	}
	return fields, io.MultiReader(bytes.NewReader(raw), rest), nil
}

// readHeader reads a message up to the empty line after its header, or to its
// end, perhaps a little further, and returns that and the rest.
func readHeader(data io.Reader) (header []byte, rest io.Reader, err error) {
	header = make([]byte, 0, 4096)
	for {
		if len(header) == cap(header) {
			if len(header) >= maxHeader {
				return nil, nil, replyBigHeader
			}
			header = append(make([]byte, 0, 2*cap(header)), header...)
		}
		n, err := data.Read(header[len(header):cap(header)])
		from := max(0, len(header)-3)
		header = header[:len(header)+n]
		if err == io.EOF {
			return header, data, nil
		}
		if err != nil {
			return nil, nil, err
		}
		if bytes.HasPrefix(header, []byte("\r\n")) || bytes.Contains(header[from:], []byte("\r\n\r\n")) {
			return header, data, nil
		}
	}
}

// headerFacts are what submission wants to know of a header.
type headerFacts struct {
	from           []covey.Address
	hasDate, hasID bool
}

// parseHeader looks at the fields of a header. A message without From is taken
// as it is; one whose From cannot be read is not, for a mail program might read
// anybody's name in it.
func parseHeader(raw []byte) (headerFacts, error) {
	var h headerFacts
	froms := 0
	for name, value := range headerFields(raw) {
		switch {
		case strings.EqualFold(name, "Date"):
			h.hasDate = true
		case strings.EqualFold(name, "Message-ID"):
			h.hasID = true
		case strings.EqualFold(name, "From"):
			if froms++; froms > 1 {
				return h, replyBadFrom
			}
			list, err := parseFrom(value)
			if err != nil {
				return h, replyBadFrom
			}
			h.from = list
		}
	}
	return h, nil
}

// parseFrom reads the addresses of a From field. Nobody looks at the names, so
// they may be in charsets that net/mail does not know.
func parseFrom(value string) ([]covey.Address, error) {
	p := mail.AddressParser{WordDecoder: &mime.WordDecoder{
		CharsetReader: func(_ string, text io.Reader) (io.Reader, error) { return text, nil },
	}}
	list, err := p.ParseList(value)
	if err != nil {
		return nil, err
	}
	out := make([]covey.Address, len(list))
	for i, a := range list {
		if out[i], err = splitAddress(a.Address); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// splitAddress takes apart what net/mail returns, where a local part is never
// quoted.
func splitAddress(s string) (covey.Address, error) {
	at := strings.LastIndexByte(s, '@')
	domain, err := covey.ParseDomain(s[at+1:])
	if err != nil || at < 1 {
		return covey.Address{}, covey.Errorf(covey.Invalid, "address in a header: want local@domain")
	}
	return covey.Address{Local: s[:at], Domain: domain}, nil
}

// headerFields yields name and unfolded value of each field up to the empty line.
// It passes over lines that are no field, as some mail programs do.
func headerFields(raw []byte) func(yield func(name, value string) bool) {
	return func(yield func(name, value string) bool) {
		r := textproto.NewReader(bufio.NewReader(bytes.NewReader(raw)))
		for {
			line, err := r.ReadContinuedLine()
			name, value, ok := strings.Cut(line, ":")
			if err != nil || line == "" {
				return
			}
			if ok && !yield(strings.TrimRight(name, " \t"), strings.TrimSpace(value)) {
				return
			}
		}
	}
}

func randomID() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}
