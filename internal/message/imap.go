package message

import (
	"cmp"
	"math"
	"mime"
	"slices"
	"strconv"
	"strings"
	"time"
)

// maxQuoted is the longest string that FETCH quotes, in octets. A longer one is a
// literal, which every client reads into a buffer of its size.
const maxQuoted = 4096

// AppendIMAP appends the ENVELOPE (RFC 9051 section 7.5.2) to b. Date, In-Reply-To
// and Message-ID are as the header has them. Subject and names are as well if they
// are ASCII, encoded words included; else they are decoded and encoded anew.
func (e *Envelope) AppendIMAP(b []byte) []byte {
	sender, replyTo := e.Sender, e.ReplyTo
	if len(sender) == 0 {
		sender = e.From
	}
	if len(replyTo) == 0 {
		replyTo = e.From
	}
	b = appendNString(append(b, '('), clean(e.Date))
	b = appendNString(append(b, ' '), headerText(e.Subject))
	for _, list := range [...][]Address{e.From, sender, replyTo, e.To, e.Cc, e.Bcc} {
		b = appendIMAPAddresses(append(b, ' '), list)
	}
	b = appendNString(append(b, ' '), clean(e.InReplyTo))
	b = appendNString(append(b, ' '), clean(e.MessageID))
	return append(b, ')')
}

func appendIMAPAddresses(b []byte, list []Address) []byte {
	if len(list) == 0 {
		return append(b, "NIL"...)
	}
	b = append(b, '(')
	for i := range list {
		b = appendNString(append(b, '('), headerText(list[i].Name))
		b = appendNString(append(b, " NIL "...), clean(list[i].Mailbox))
		b = appendNString(append(b, ' '), clean(list[i].Host))
		b = append(b, ')')
	}
	return append(b, ')')
}

// headerText returns a text of the header in ASCII.
func headerText(s string) string {
	if s = clean(s); isASCII(s) {
		return s
	}
	return mime.QEncoding.Encode("utf-8", decodeText(s))
}

func isASCII(s string) bool {
	for i := 0; i < len(s); i++ {
		if s[i] >= 0x80 {
			return false
		}
	}
	return true
}

// clean returns s as valid UTF-8 without control characters. Parse leaves none;
// a Summary need not come from there.
func clean(s string) string {
	for i := 0; i < len(s); i++ {
		if s[i] < ' ' || s[i] >= 0x7f {
			return string(cleanText([]byte(s)))
		}
	}
	return s
}

// appendNString appends NIL for what is not there, and else a string.
func appendNString(b []byte, s string) []byte {
	if s == "" {
		return append(b, "NIL"...)
	}
	return appendString(b, s)
}

// appendString appends a string without control characters: quoted, or as a
// literal where it has 8-bit characters.
func appendString(b []byte, s string) []byte {
	if len(s) > maxQuoted {
		return appendLiteral(b, s)
	}
	start, done := len(b), 0
	b = append(b, '"')
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c >= 0x80:
			return appendLiteral(b[:start], s)
		case c == '"' || c == '\\':
			b = append(append(b, s[done:i]...), '\\')
			done = i
		}
	}
	return append(append(b, s[done:]...), '"')
}

func appendLiteral(b []byte, s string) []byte {
	b = strconv.AppendInt(append(b, '{'), int64(len(s)), 10)
	return append(append(b, "}\r\n"...), s...)
}

// AppendBodyStructure appends the BODYSTRUCTURE of the message (RFC 9051 section
// 7.5.2), with all extension data. A prefix is header and changes nothing in it.
func (s *Summary) AppendBodyStructure(b []byte) []byte { return s.Root.appendIMAP(b, true) }

// AppendBody appends what BODY asks for: the same without extension data.
func (s *Summary) AppendBody(b []byte) []byte { return s.Root.appendIMAP(b, false) }

func (p *Part) appendIMAP(b []byte, extended bool) []byte {
	kind, subtype, _ := strings.Cut(p.Media, "/")
	b = append(b, '(')
	if len(p.Parts) > 0 {
		for _, c := range p.Parts {
			b = c.appendIMAP(b, extended)
		}
		b = appendString(append(b, ' '), clean(subtype))
		if extended {
			b = appendIMAPParams(append(b, ' '), p.Params)
		}
	} else {
		b = appendString(b, clean(kind))
		b = appendString(append(b, ' '), clean(subtype))
		b = p.appendFields(append(b, ' '), kind)
		b = p.appendOfKind(b, kind, extended)
		if extended {
			b = appendNString(append(b, ' '), clean(p.rare().MD5))
		}
	}
	if extended {
		b = p.rare().appendExtension(b)
	}
	return append(b, ')')
}

// rare returns the rare fields, empty ones if there are none.
func (p *Part) rare() *Rare {
	if p.Rare != nil {
		return p.Rare
	}
	return new(Rare)
}

// appendFields appends body-fields: parameters, id, description, encoding, size.
func (p *Part) appendFields(b []byte, kind string) []byte {
	params := p.Params
	if kind == "text" && param(params, "charset") == "" { // RFC 2045 section 5.2; clients want it said
		params = slices.DeleteFunc(slices.Clone(params), func(p Param) bool { return p.Name == "charset" })
		params = append(params, Param{"charset", "us-ascii"})
	}
	b = appendIMAPParams(b, params)
	b = appendNString(append(b, ' '), clean(p.rare().ID))
	b = appendNString(append(b, ' '), headerText(p.rare().Description))
	b = appendString(append(b, ' '), cmp.Or(clean(p.Encoding), "7bit"))
	return strconv.AppendInt(append(b, ' '), min(p.BodySize, math.MaxUint32), 10)
}

// appendOfKind appends what messages and texts have beside.
func (p *Part) appendOfKind(b []byte, kind string, extended bool) []byte {
	switch {
	case p.Message != nil:
		b = p.Message.Header.AppendIMAP(append(b, ' '))
		b = p.Message.Root.appendIMAP(append(b, ' '), extended)
	case kind != "text":
		return b
	}
	return strconv.AppendInt(append(b, ' '), p.Lines, 10)
}

func appendIMAPParams(b []byte, ps []Param) []byte {
	if len(ps) == 0 {
		return append(b, "NIL"...)
	}
	sep := byte('(')
	for i := range ps {
		b = appendString(append(b, sep), clean(ps[i].Name))
		b = appendString(append(b, ' '), clean(ps[i].Value))
		sep = ' '
	}
	return append(b, ')')
}

// appendExtension appends disposition, language and location.
func (r *Rare) appendExtension(b []byte) []byte {
	if r.Disposition == "" {
		b = append(b, " NIL"...)
	} else {
		b = appendString(append(b, " ("...), clean(r.Disposition))
		b = append(appendIMAPParams(append(b, ' '), r.DispositionParams), ')')
	}
	if len(r.Language) == 0 {
		b = append(b, " NIL"...)
	} else {
		b = append(b, ' ')
		sep := byte('(')
		for _, l := range r.Language {
			b = appendString(append(b, sep), clean(l))
			sep = ' '
		}
		b = append(b, ')')
	}
	return appendNString(append(b, ' '), clean(r.Location))
}

// SentOn returns the day of the Date field as it was written, whatever the zone,
// at midnight UTC: what SENTBEFORE, SENTON and SENTSINCE compare (RFC 9051
// section 6.4.4). ok is false without a date.
func (s *Summary) SentOn() (day time.Time, ok bool) {
	t, ok := s.Header.Sent()
	if !ok {
		return time.Time{}, false
	}
	y, m, d := t.Date()
	return time.Date(y, m, d, 0, 0, 0, 0, time.UTC), true
}
