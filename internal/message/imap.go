package message

import (
	"math"
	"mime"
	"strings"
	"time"

	"github.com/emersion/go-imap/v2"
)

// go-imap writes an envelope's and a structure's strings as they are: quoted, or
// as a literal where there are 8-bit characters, CR, LF or NUL. Its subject and
// names it encodes (RFC 2047) unless they are printable ASCII. It panics for a
// multipart without parts and for a missing extension, takes an address without
// host for a group, and writes a type that has no envelope or line count as if
// it needed none. The values made here are such that none of that happens, also
// from a Summary that did not come from Parse.

// Envelope returns the ENVELOPE of the message. The caller may change it.
func (s *Summary) Envelope() *imap.Envelope { return s.Header.imap() }

func (e *Envelope) imap() *imap.Envelope {
	out := &imap.Envelope{
		Subject:   imapText(e.Subject),
		From:      imapAddresses(e.From),
		Sender:    imapAddresses(e.Sender),
		ReplyTo:   imapAddresses(e.ReplyTo),
		To:        imapAddresses(e.To),
		Cc:        imapAddresses(e.Cc),
		Bcc:       imapAddresses(e.Bcc),
		InReplyTo: messageIDs(e.InReplyTo),
	}
	if t, ok := e.Sent(); ok {
		out.Date = t
	}
	if ids := messageIDs(e.MessageID); len(ids) > 0 {
		out.MessageID = ids[0]
	}
	return out
}

// imapText returns a text for go-imap to encode: ASCII as it is, so that encoded
// words stay, else all of it decoded.
func imapText(s string) string {
	if s = clean(s); isASCII(s) {
		return s
	}
	return decodeText(s)
}

func isASCII(s string) bool {
	for i := 0; i < len(s); i++ {
		if s[i] >= 0x80 {
			return false
		}
	}
	return true
}

// clean returns s as valid UTF-8 without control characters.
func clean(s string) string {
	for i := 0; i < len(s); i++ {
		if s[i] < ' ' || s[i] >= 0x7f {
			return string(cleanText([]byte(s)))
		}
	}
	return s
}

// imapAddresses returns nil for no addresses, so that go-imap puts From where
// RFC 9051 section 7.5.2 wants it.
func imapAddresses(list []Address) []imap.Address {
	if len(list) == 0 {
		return nil
	}
	out := make([]imap.Address, len(list))
	for i, a := range list {
		out[i] = imap.Address{Name: imapText(a.Name), Mailbox: clean(a.Mailbox), Host: clean(a.Host)}
	}
	return out
}

// messageIDs returns what stands in angle brackets in a Message-ID or
// In-Reply-To field; without any, the first word.
func messageIDs(s string) []string {
	var ids []string
	rest := clean(s)
	for {
		_, after, ok := strings.Cut(rest, "<")
		if !ok {
			break
		}
		id, next, ok := strings.Cut(after, ">")
		if !ok {
			break
		}
		if id = strings.TrimSpace(id); id != "" {
			ids = append(ids, id)
		}
		rest = next
	}
	if ids == nil {
		if w := strings.Fields(strings.Trim(rest, "<> ")); len(w) > 0 {
			return w[:1]
		}
	}
	return ids
}

// BodyStructure returns the BODYSTRUCTURE of the message, with all extension
// data. A prefix is header and changes nothing in it. The caller may change it.
func (s *Summary) BodyStructure() imap.BodyStructure { return s.Root.imap() }

func (p *Part) imap() imap.BodyStructure {
	kind, subtype, _ := strings.Cut(p.Media, "/")
	if len(p.Parts) > 0 {
		return p.imapMulti(clean(subtype))
	}
	out := &imap.BodyStructureSinglePart{
		Type:     clean(kind),
		Subtype:  clean(subtype),
		Params:   imapParams(p.Params),
		Encoding: clean(p.Encoding),
		Size:     uint32(min(p.BodySize, math.MaxUint32)),
		Extended: new(imap.BodyStructureSinglePartExt),
	}
	if p.Rare != nil {
		out.ID = clean(p.Rare.ID)
		out.Description = imapDescription(p.Rare.Description)
		out.Extended.Disposition = p.Rare.disposition()
		out.Extended.Language = p.Rare.languages()
		out.Extended.Location = clean(p.Rare.Location)
	}
	switch {
	case p.Message != nil:
		out.MessageRFC822 = &imap.BodyStructureMessageRFC822{
			Envelope:      p.Message.Header.imap(),
			BodyStructure: p.Message.Root.imap(),
			NumLines:      p.Lines,
		}
	case kind == "text":
		out.Text = &imap.BodyStructureText{NumLines: p.Lines}
		if out.Params["charset"] == "" { // RFC 2045 section 5.2; clients want it said
			if out.Params == nil {
				out.Params = make(map[string]string)
			}
			out.Params["charset"] = "us-ascii"
		}
	}
	return out
}

func (p *Part) imapMulti(subtype string) imap.BodyStructure {
	out := &imap.BodyStructureMultiPart{
		Children: make([]imap.BodyStructure, len(p.Parts)),
		Subtype:  subtype,
		Extended: &imap.BodyStructureMultiPartExt{Params: imapParams(p.Params)},
	}
	for i, c := range p.Parts {
		out.Children[i] = c.imap()
	}
	if p.Rare != nil {
		out.Extended.Disposition = p.Rare.disposition()
		out.Extended.Language = p.Rare.languages()
		out.Extended.Location = clean(p.Rare.Location)
	}
	return out
}

func imapParams(ps []Param) map[string]string {
	if len(ps) == 0 {
		return nil
	}
	out := make(map[string]string, len(ps))
	for _, p := range ps {
		out[clean(p.Name)] = clean(p.Value)
	}
	return out
}

// imapDescription encodes what go-imap does not.
func imapDescription(s string) string {
	return mime.QEncoding.Encode("utf-8", imapText(s))
}

func (r *Rare) disposition() *imap.BodyStructureDisposition {
	if r.Disposition == "" {
		return nil
	}
	return &imap.BodyStructureDisposition{Value: clean(r.Disposition), Params: imapParams(r.DispositionParams)}
}

func (r *Rare) languages() []string {
	var out []string
	for _, l := range r.Language {
		out = append(out, clean(l))
	}
	return out
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
