package message

import (
	"io"
	"strings"
	"unicode/utf8"

	"golang.org/x/text/encoding"
	"golang.org/x/text/encoding/charmap"
	"golang.org/x/text/encoding/htmlindex"
	"golang.org/x/text/encoding/ianaindex"
	"golang.org/x/text/transform"
)

// charsetOf returns the decoder of a character set. It is nil for one that is
// taken as it stands: UTF-8, ASCII, none, one that nobody knows, and UTF-7, which
// is not decoded since it hides what it says from whoever does not.
func charsetOf(name string) encoding.Encoding {
	name = strings.ToLower(strings.TrimSpace(name))
	switch name {
	case "", "utf-8", "utf8", "us-ascii", "ascii", "utf-7", "unknown-8bit":
		return nil
	case "iso-8859-1", "latin1", "windows-1252":
		return charmap.Windows1252 // what is sent as Latin-1 mostly is this
	}
	if len(name) > 40 {
		return nil
	}
	if e, err := ianaindex.MIME.Encoding(name); err == nil && e != nil {
		return e
	}
	if e, err := htmlindex.Get(name); err == nil && e != encoding.Replacement {
		return e
	}
	return nil
}

// toUTF8 decodes b from a character set. What is then not UTF-8 is taken for
// Windows-1252.
func toUTF8(charset string, b []byte) string {
	if e := charsetOf(charset); e != nil {
		if out, err := e.NewDecoder().Bytes(b); err == nil {
			return string(out)
		}
	}
	if utf8.Valid(b) {
		return string(b)
	}
	return string(windows1252(b))
}

// charsetReader decodes a text part's bytes as they are read.
func charsetReader(charset string, r io.Reader) io.Reader {
	e := charsetOf(charset)
	if e == nil {
		return r
	}
	return transform.NewReader(r, e.NewDecoder())
}
