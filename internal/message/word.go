package message

import (
	"bytes"
	"strings"
)

// maxWord is the longest text of an encoded word that is decoded. RFC 2047 has
// 75 octets for all of a word; many send more.
const maxWord = 1000

// decodeWords undoes the encoded words of RFC 2047 in s. White space between two
// of them goes; words of one character set are joined before they are decoded,
// since many senders split characters. It is linear in the length of s.
func decodeWords(s string) string {
	if !strings.Contains(s, "=?") {
		return s
	}
	var d wordDecoder
	for {
		i := strings.Index(s, "=?")
		if i < 0 {
			break
		}
		w, size := parseWord(s[i:])
		if size == 0 {
			d.literal(s[:i+2])
			s = s[i+2:]
			continue
		}
		if len(d.charset) == 0 || strings.Trim(s[:i], " \t\r\n") != "" {
			d.literal(s[:i])
		}
		d.word(w)
		s = s[i+size:]
	}
	d.literal(s)
	d.flush()
	return d.out.String()
}

type wordDecoder struct {
	out     strings.Builder
	charset string // of the words that wait in raw
	raw     []byte
}

// literal writes text that is no word.
func (d *wordDecoder) literal(s string) {
	if s == "" {
		return
	}
	d.flush()
	d.out.WriteString(s)
}

func (d *wordDecoder) flush() {
	if d.charset != "" {
		d.out.WriteString(toUTF8(d.charset, d.raw))
	}
	d.charset, d.raw = "", d.raw[:0]
}

func (d *wordDecoder) word(w word) {
	if !strings.EqualFold(d.charset, w.charset) {
		d.flush()
	}
	d.charset = w.charset
	if w.encoding == 'B' {
		var b base64Decoder
		d.raw = b.end(b.decode(d.raw, []byte(w.text)))
		return
	}
	d.raw = appendQ(d.raw, w.text)
}

// A word is an encoded word taken apart.
type word struct {
	charset  string // without language (RFC 2231 section 5)
	encoding byte   // B or Q
	text     string
}

// parseWord takes apart the encoded word that s starts with. size is 0 if it
// does not.
func parseWord(s string) (w word, size int) {
	charset, rest, ok := strings.Cut(s[2:min(len(s), 80)], "?")
	if !ok || charset == "" || strings.ContainsAny(charset, " \t\r\n") || len(rest) < 2 || rest[1] != '?' {
		return w, 0
	}
	start := 2 + len(charset) + 3
	end := strings.Index(s[start:min(len(s), start+maxWord)], "?=")
	if end < 0 {
		return w, 0
	}
	w = word{encoding: rest[0] &^ 0x20, text: s[start : start+end]}
	if w.encoding != 'B' && w.encoding != 'Q' {
		return w, 0
	}
	if w.charset, _, _ = strings.Cut(charset, "*"); w.charset == "" {
		return w, 0
	}
	return w, start + end + 2
}

// appendQ undoes the Q encoding (RFC 2047 section 4.2).
func appendQ(dst []byte, s string) []byte {
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '_':
			dst = append(dst, ' ')
		case c == '=' && i+2 < len(s) && hexValue(s[i+1]) < 16 && hexValue(s[i+2]) < 16:
			dst = append(dst, hexValue(s[i+1])<<4|hexValue(s[i+2]))
			i += 2
		default:
			dst = append(dst, c)
		}
	}
	return dst
}

// decodeText returns a header value as people read it, on one line.
func decodeText(s string) string {
	return string(cleanText(bytes.TrimSpace([]byte(decodeWords(s)))))
}
