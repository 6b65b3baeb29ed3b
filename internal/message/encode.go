package message

import "github.com/covey-mail/covey/internal/wire"

// version is the first octet of every encoded Summary.
const version = 1

// Bits of a part's mask.
const (
	mediaInWords = 1 << iota
	encodingInWords
	hasParams
	hasRare
	partBits = iota
)

// Encode returns the form that is stored, at most MaxEncoded octets for a Summary
// that Parse made. The layout is in the package comment.
func (s *Summary) Encode() []byte {
	b := append(make([]byte, 0, 512), version)
	b = wire.AppendUint(b, uint64(s.Size))
	b = wire.AppendUint(b, uint64(s.Lines))
	b = wire.AppendUint(b, uint64(s.LongestLine))
	b = wire.AppendUint(b, uint64(s.Flags))
	b = wire.AppendUint(b, uint64(s.Received))
	b = wire.AppendUint(b, uint64(s.FromFields))
	b = appendStrings(b, s.DeliveredTo)
	b = wire.AppendBytes(b, s.Preview)
	b = appendEnvelope(b, &s.Header)
	return appendPart(b, s.Root, 0)
}

func appendStrings(b []byte, list []string) []byte {
	b = wire.AppendUint(b, uint64(len(list)))
	for _, s := range list {
		b = wire.AppendBytes(b, s)
	}
	return b
}

// strings and lists return an envelope's fields in the order of their bits.
func (e *Envelope) strings() [4]*string {
	return [...]*string{&e.Date, &e.Subject, &e.InReplyTo, &e.MessageID}
}

func (e *Envelope) lists() [6]*[]Address {
	return [...]*[]Address{&e.From, &e.Sender, &e.ReplyTo, &e.To, &e.Cc, &e.Bcc}
}

func appendEnvelope(b []byte, e *Envelope) []byte {
	texts, lists := e.strings(), e.lists()
	mask := uint64(0)
	for i, s := range texts {
		if *s != "" {
			mask |= 1 << i
		}
	}
	for i, l := range lists {
		if len(*l) > 0 {
			mask |= 1 << (len(texts) + i)
		}
	}
	b = wire.AppendUint(b, mask)
	for _, s := range texts {
		if *s != "" {
			b = wire.AppendBytes(b, *s)
		}
	}
	for _, l := range lists {
		if len(*l) > 0 {
			b = appendAddresses(b, *l)
		}
	}
	return b
}

func appendAddresses(b []byte, list []Address) []byte {
	b = wire.AppendUint(b, uint64(len(list)))
	for i := range list {
		b = wire.AppendBytes(b, list[i].Name)
		b = wire.AppendBytes(b, list[i].Mailbox)
		b = wire.AppendBytes(b, list[i].Host)
	}
	return b
}

// appendPart appends a part that follows on what ended at offset after.
func appendPart(b []byte, p *Part, after int64) []byte {
	mask := uint64(0)
	media, ok := codeOf(mediaTypes[:], p.Media)
	if !ok {
		mask |= mediaInWords
	}
	enc, ok := codeOf(encodings[:], p.Encoding)
	if !ok {
		mask |= encodingInWords
	}
	if len(p.Params) > 0 {
		mask |= hasParams
	}
	if p.Rare != nil {
		mask |= hasRare
	}
	b = wire.AppendUint(b, mask)
	b = appendCode(b, media, p.Media, mask&mediaInWords != 0)
	b = appendCode(b, enc, p.Encoding, mask&encodingInWords != 0)
	b = wire.AppendUint(b, uint64(p.HeaderOffset-after))
	b = wire.AppendUint(b, uint64(p.HeaderSize))
	b = wire.AppendUint(b, uint64(p.BodySize))
	b = wire.AppendUint(b, uint64(p.Lines))
	if len(p.Params) > 0 {
		b = appendParams(b, p.Params)
	}
	if p.Rare != nil {
		b = appendRare(b, p.Rare)
	}
	switch {
	case p.Message != nil:
		b = appendEnvelope(b, &p.Message.Header)
		b = appendPart(b, p.Message.Root, p.BodyOffset())
	case p.Parts != nil:
		b = wire.AppendUint(b, uint64(len(p.Parts)))
		after = p.BodyOffset()
		for _, c := range p.Parts {
			b = appendPart(b, c, after)
			after = c.end()
		}
	}
	return b
}

func appendCode(b []byte, code uint64, s string, inWords bool) []byte {
	if inWords {
		return wire.AppendBytes(b, s)
	}
	return wire.AppendUint(b, code)
}

func appendParams(b []byte, ps []Param) []byte {
	b = wire.AppendUint(b, uint64(len(ps)))
	for i := range ps {
		b = wire.AppendBytes(b, ps[i].Name)
		b = wire.AppendBytes(b, ps[i].Value)
	}
	return b
}

func appendRare(b []byte, r *Rare) []byte {
	b = wire.AppendBytes(b, r.ID)
	b = wire.AppendBytes(b, r.Description)
	b = wire.AppendBytes(b, r.Location)
	b = wire.AppendBytes(b, r.MD5)
	b = wire.AppendBytes(b, r.Disposition)
	b = appendParams(b, r.DispositionParams)
	return appendStrings(b, r.Language)
}
