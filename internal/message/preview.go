package message

import (
	"bytes"
	"html"
	"strings"
	"unicode"
	"unicode/utf8"
)

// How much of a text part is kept for the preview, as sent.
const (
	previewPlain = 1 << 10 // quoted-printable takes three octets for one
	previewHTML  = 8 << 10 // styles come first
)

// A preview collects the start of the first text part that is not blank.
type preview struct {
	part   *Part
	raw    []byte
	most   int
	filled bool // raw has something in it that can be seen
}

// add takes a line of a part's body.
func (v *preview) add(part *Part, line []byte) {
	if part != v.part {
		if v.filled || !v.wants(part) {
			return
		}
		v.part, v.raw = part, v.raw[:0]
		if v.raw == nil {
			v.raw = make([]byte, 0, previewPlain)
		}
	}
	if room := v.most - len(v.raw); len(line) > room {
		line = line[:room]
	}
	v.filled = v.filled || len(bytes.TrimSpace(line)) > 0
	v.raw = append(v.raw, line...)
}

// over reports whether no line of a part's body would add anything.
func (v *preview) over(part *Part) bool {
	if part == v.part {
		return len(v.raw) >= v.most
	}
	return v.filled || !v.wants(part)
}

func (v *preview) wants(part *Part) bool {
	if part.Rare != nil && part.Rare.Disposition == "attachment" {
		return false
	}
	switch part.Media {
	case "text/plain":
		v.most = previewPlain
	case "text/html":
		v.most = previewHTML
	default:
		return false
	}
	return true
}

// text returns the preview: white space is one space, and no control characters.
func (v *preview) text() string {
	if !v.filled {
		return ""
	}
	raw := v.raw
	if dec, _ := newTransferDecoder(v.part.Encoding); dec != nil {
		raw = decodeStart(dec, raw, v.most)
	}
	if len(raw) > MaxPreview {
		raw = trimCut(raw) // or half a character at the cut would make it no UTF-8
	}
	s := toUTF8(param(v.part.Params, "charset"), raw)
	if v.part.Media == "text/html" {
		s = html.UnescapeString(stripTags(s))
	}
	return oneLine(s, MaxPreview)
}

// decodeStart decodes raw until there is enough for a preview of plain text, or
// all of it if more than that was kept.
func decodeStart(dec transferDecoder, raw []byte, kept int) []byte {
	enough := kept
	if kept == previewPlain {
		enough = 3 * MaxPreview // characters may shrink in UTF-8, white space goes
	}
	const step = 128
	out := make([]byte, 0, len(raw))
	for len(raw) > 0 && len(out) < enough {
		n := min(step, len(raw))
		out = dec.decode(out, raw[:n])
		raw = raw[n:]
	}
	if len(raw) > 0 {
		return out
	}
	return dec.end(out)
}

// trimCut drops the start of a character from the end of b.
func trimCut(b []byte) []byte {
	for i := len(b) - 1; i >= max(0, len(b)-utf8.UTFMax); i-- {
		if utf8.RuneStart(b[i]) {
			if !utf8.FullRune(b[i:]) {
				return b[:i]
			}
			break
		}
	}
	return b
}

// oneLine returns the start of s without line ends and control characters, cut
// between characters.
func oneLine(s string, most int) string {
	var b strings.Builder
	b.Grow(most)
	space := false
	for _, r := range s {
		switch {
		case ' ' < r && r <= '~':
		case unicode.IsSpace(r):
			space = b.Len() > 0
			continue
		case !unicode.IsPrint(r):
			continue
		}
		n := utf8.RuneLen(r)
		if space {
			n++
		}
		if b.Len()+n > most {
			break
		}
		if space {
			b.WriteByte(' ')
			space = false
		}
		b.WriteRune(r)
	}
	return b.String()
}

// stripTags leaves the text of an HTML document, well enough for a preview and
// in linear time. What it returns is not safe to be shown as HTML.
func stripTags(s string) string {
	var b strings.Builder
	for {
		i := strings.IndexByte(s, '<')
		if i < 0 {
			b.WriteString(s)
			return b.String()
		}
		b.WriteString(s[:i])
		b.WriteByte(' ')
		s = s[i:]
		end := ">"
		if strings.HasPrefix(s, "<!--") {
			end = "-->"
		}
		for _, hidden := range [...]string{"style", "script", "head", "title"} {
			if len(s) > len(hidden)+1 && strings.EqualFold(s[1:1+len(hidden)], hidden) && !isLetter(s[1+len(hidden)]) {
				end = "</" + hidden
			}
		}
		i = indexFold(s, end)
		if i < 0 {
			return b.String()
		}
		if s = s[i+len(end):]; end[0] == '<' {
			_, s, _ = strings.Cut(s, ">")
		}
	}
}

func isLetter(c byte) bool { return c|0x20 >= 'a' && c|0x20 <= 'z' }

// indexFold finds sub, which starts with a character that is no letter, in s.
func indexFold(s, sub string) int {
	for i := 0; i+len(sub) <= len(s); i++ {
		if s[i] == sub[0] && strings.EqualFold(s[i:i+len(sub)], sub) {
			return i
		}
	}
	return -1
}
