package message

import (
	"bytes"
	"unicode/utf8"

	"golang.org/x/text/encoding/charmap"
)

// A fieldID names a header field that Parse looks at.
type fieldID uint8

const (
	otherField fieldID = iota
	dateField
	subjectField
	inReplyToField
	messageIDField
	fromField
	senderField
	replyToField
	toField
	ccField
	bccField
	receivedField
	deliveredToField
	typeField
	encodingField
	idField
	descriptionField
	dispositionField
	languageField
	locationField
	md5Field
)

// A field is the header field being taken.
type field struct {
	id    fieldID
	begun bool   // there is one; a continuation belongs to it
	value []byte // unfolded, at most maxField octets; reused
}

// headerLine takes a line, or a fragment of one, of the innermost part's header.
// start tells whether it is the start of the line.
func (p *parser) headerLine(text []byte, eol int64, start bool) {
	n := p.top()
	if start && len(text) == 0 {
		p.endHeader(p.off+eol, p.sum.Lines+1)
		return
	}
	if p.off-n.part.HeaderOffset >= MaxHeader {
		p.sum.Flags |= Truncated
		return
	}
	switch {
	case !start, text[0] == ' ', text[0] == '\t':
		if start && !p.field.begun {
			p.sum.Flags |= BadHeader
			return
		}
		p.fieldText(text)
	default:
		p.endField()
		name, value, ok := splitField(text)
		if !ok {
			p.sum.Flags |= BadHeader
			return
		}
		p.field.begun = true
		p.field.id = lookupField(name)
		p.fieldText(value)
	}
}

// fieldText appends to the value of a field that is looked at.
func (p *parser) fieldText(text []byte) {
	f := &p.field
	if f.id == otherField {
		return
	}
	if room := maxField - len(f.value); len(text) > room {
		text = text[:room]
		p.sum.Flags |= Truncated
		if f.id == fromField {
			p.sum.Flags |= UnclearFrom
		}
	}
	f.value = append(f.value, text...)
}

// splitField splits a header line at the colon. White space before the colon is
// obsolete (RFC 5322 section 4.5.1), but there are those who read over it.
func splitField(line []byte) (name, value []byte, ok bool) {
	i := bytes.IndexByte(line, ':')
	if i < 0 {
		return nil, nil, false
	}
	name = bytes.TrimRight(line[:i], " \t")
	for _, c := range name {
		if c <= ' ' || c >= 0x7f {
			return nil, nil, false
		}
	}
	return name, line[i+1:], len(name) > 0
}

// lookupField finds the field of a name.
func lookupField(name []byte) fieldID {
	var low [len("content-transfer-encoding")]byte
	if len(name) > len(low) {
		return otherField
	}
	for i, c := range name {
		low[i] = lowerASCII(c)
	}
	switch string(low[:len(name)]) {
	case "date":
		return dateField
	case "subject":
		return subjectField
	case "in-reply-to":
		return inReplyToField
	case "message-id":
		return messageIDField
	case "from":
		return fromField
	case "sender":
		return senderField
	case "reply-to":
		return replyToField
	case "to":
		return toField
	case "cc":
		return ccField
	case "bcc":
		return bccField
	case "received":
		return receivedField
	case "delivered-to":
		return deliveredToField
	case "content-type":
		return typeField
	case "content-transfer-encoding":
		return encodingField
	case "content-id":
		return idField
	case "content-description":
		return descriptionField
	case "content-disposition":
		return dispositionField
	case "content-language":
		return languageField
	case "content-location":
		return locationField
	case "content-md5":
		return md5Field
	}
	return otherField
}

func lowerASCII(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		return c + 'a' - 'A'
	}
	return c
}

// endField takes note of the field that has come to its end, if any.
func (p *parser) endField() {
	f := &p.field
	id := f.id
	if f.begun && id != otherField {
		n := p.top()
		repeated := n.seen&(1<<id) != 0
		n.seen |= 1 << id
		if id >= typeField {
			if !repeated {
				p.contentField(n, id, f.value)
			}
		} else if n.env != nil {
			p.messageField(n, id, f.value, repeated)
		}
	}
	f.begun, f.id, f.value = false, otherField, f.value[:0]
}

// messageField takes a field of a message's header.
func (p *parser) messageField(n *node, id fieldID, value []byte, repeated bool) {
	outer := n.env == &p.sum.Header
	var s *string
	var list *[]Address
	most := maxString
	switch id {
	case dateField:
		s, most = &n.env.Date, 100
	case subjectField:
		s = &n.env.Subject
	case inReplyToField:
		s = &n.env.InReplyTo
	case messageIDField:
		s, most = &n.env.MessageID, maxID
	case fromField:
		if outer {
			p.from(value)
		}
		list = &n.env.From
	case senderField:
		list = &n.env.Sender
	case replyToField:
		list = &n.env.ReplyTo
	case toField:
		list = &n.env.To
	case ccField:
		list = &n.env.Cc
	case bccField:
		list = &n.env.Bcc
	case receivedField:
		if outer {
			p.sum.Received++
		}
	case deliveredToField:
		if outer {
			p.deliveredTo(value)
		}
	}
	switch {
	case list != nil:
		p.addressField(list, value)
	case s != nil && repeated:
		p.sum.Flags |= Truncated
	case s != nil:
		*s = p.keep(value, most)
	}
}

func (p *parser) deliveredTo(value []byte) {
	if len(p.sum.DeliveredTo) == MaxDeliveredTo {
		p.sum.Flags |= Truncated
		return
	}
	if s := p.keep(value, maxString); s != "" {
		p.sum.DeliveredTo = append(p.sum.DeliveredTo, s)
	}
}

// from takes note of what makes the author doubtful.
func (p *parser) from(value []byte) {
	p.sum.FromFields++
	if p.sum.FromFields > 1 {
		p.sum.Flags |= UnclearFrom
	}
	for _, c := range value {
		if c < ' ' && c != '\t' || c == 0x7f {
			p.sum.Flags |= UnclearFrom
			return
		}
	}
}

// addressField adds a field's addresses to a list.
func (p *parser) addressField(list *[]Address, value []byte) {
	from := list == &p.sum.Header.From
	doubtful := p.scan.scan(value, func(a rawAddress) bool {
		end := len(a.mailbox) == 0 // of a group, whose start was counted
		if !end && (p.addresses >= MaxAddresses || p.text < a.size()) {
			p.sum.Flags |= Truncated
			if from {
				p.sum.Flags |= UnclearFrom
			}
			return false
		}
		p.addresses++
		*list = append(*list, p.address(a))
		return true
	})
	if from && doubtful {
		p.sum.Flags |= UnclearFrom
	}
}

// address keeps an address. An address without mailbox or host would be part of
// a group's syntax to IMAP, so neither may become empty.
func (p *parser) address(a rawAddress) Address {
	out := Address{Name: p.keep(a.name, maxString), Mailbox: p.keep(a.mailbox, maxString), Host: p.keep(a.host, maxString)}
	if out.Mailbox == "" && len(a.mailbox) > 0 {
		out.Mailbox = missingMailbox
	}
	if out.Host == "" && len(a.host) > 0 {
		out.Host = missingHost
	}
	return out
}

// contentField takes a field that any part may have.
func (p *parser) contentField(n *node, id fieldID, value []byte) {
	part := n.part
	if id >= idField && part.Rare == nil {
		part.Rare = new(Rare)
		p.room -= 8 // its lengths and counts
	}
	switch id {
	case typeField:
		p.contentType(n, value)
	case encodingField:
		part.Encoding = p.token(value)
	case idField:
		part.Rare.ID = p.keep(value, maxID)
	case descriptionField:
		part.Rare.Description = p.keep(value, maxString)
	case dispositionField:
		p.disposition(part.Rare, value)
	case languageField:
		p.languages(part.Rare, value)
	case locationField:
		part.Rare.Location = p.keep(value, maxString)
	case md5Field:
		part.Rare.MD5 = p.keep(value, 100)
	}
}

// keep returns the text of value as a string of at most most octets, and counts
// it. Without room for it, it is empty.
func (p *parser) keep(value []byte, most int) string {
	value = bytes.Trim(value, " \t\r\n")
	if len(value) > most {
		value = value[:most]
		for n := 0; n < utf8.UTFMax && len(value) > 0 && !utf8.RuneStart(value[len(value)-1]); n++ {
			value = value[:len(value)-1] // not half a character
		}
		if k := len(value); k > 0 && value[k-1] >= utf8.RuneSelf {
			value = value[:k-1]
		}
		p.sum.Flags |= Truncated
	}
	if len(value) == 0 {
		p.text -= 3
		return ""
	}
	return p.charge(intern(cleanText(value)))
}

// charge counts a string; without room for it, it becomes empty.
func (p *parser) charge(s string) string {
	if p.text < len(s)+3 {
		p.sum.Flags |= Truncated
		return ""
	}
	p.text -= len(s) + 3
	return s
}

// cleanText returns b, which it may change, as UTF-8 without control characters.
// What is not UTF-8 is taken for Windows-1252, the likeliest of what it can be.
func cleanText(b []byte) []byte {
	plain := true
	for _, c := range b {
		if c < ' ' || c >= 0x7f {
			plain = false
			break
		}
	}
	if plain {
		return b
	}
	keep := b[:0]
	for _, c := range b {
		switch {
		case c == '\t':
			keep = append(keep, ' ')
		case c >= ' ' && c != 0x7f:
			keep = append(keep, c)
		}
	}
	if utf8.Valid(keep) {
		return keep
	}
	return windows1252(keep)
}

func windows1252(b []byte) []byte {
	out := make([]byte, 0, len(b)+len(b)/2)
	for _, c := range b {
		out = utf8.AppendRune(out, charmap.Windows1252.DecodeByte(c))
	}
	return out
}

// intern returns b as a string, without allocating for what is common.
func intern(b []byte) string {
	switch string(b) {
	case "charset":
		return "charset"
	case "utf-8":
		return "utf-8"
	case "UTF-8":
		return "UTF-8"
	case "us-ascii":
		return "us-ascii"
	case "boundary":
		return "boundary"
	case "format":
		return "format"
	case "flowed":
		return "flowed"
	case "name":
		return "name"
	case "filename":
		return "filename"
	case "attachment":
		return "attachment"
	case "inline":
		return "inline"
	}
	return string(b)
}
