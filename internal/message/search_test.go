package message

import (
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/covey-mail/covey"
)

func needle(t testing.TB, text string) *Needle {
	t.Helper()
	n, err := NewNeedle(text)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestNeedle(t *testing.T) {
	tests := []struct {
		needle, text string
		want         bool
	}{
		{"", "", true},
		{"", "x", true},
		{"x", "", false},
		{"abc", "xxABCxx", true},
		{"abcabd", "abcabcabd", true},
		{"aab", "aaaaab", true},
		{"aab", "aaaaaa", false},
		{"GRÜSSE", "viele grüsse", true},
		{"straße", "STRASSE", false},
		{"ΣΟΦΟΣ", "σοφος", true},
		{"日本", "これは日本語", true},
		{"é", "e\u0301", false},
		{"\xff", "a\xffb", true},
	}
	for _, tt := range tests {
		n := needle(t, tt.needle)
		if got := n.In(tt.text); got != tt.want {
			t.Errorf("%q in %q = %v, want %v", tt.needle, tt.text, got, tt.want)
		}
		got, err := n.inReader(iotest.OneByteReader(strings.NewReader(tt.text)))
		if err != nil || got != tt.want {
			t.Errorf("%q in %q octet by octet = %v, %v, want %v", tt.needle, tt.text, got, err, tt.want)
		}
	}
	if _, err := NewNeedle(strings.Repeat("x", MaxNeedle+1)); !errors.Is(err, covey.TooBig) {
		t.Errorf("long needle: %v, want kind %v", err, covey.TooBig)
	}
}

// source returns a Source of a message and how often it was opened.
func source(msg string) (Source, *int) {
	opened := new(int)
	return Source{Prefix: len(prefix), Open: func() (io.ReaderAt, error) {
		*opened++
		return strings.NewReader(prefix + msg), nil
	}}, opened
}

func TestMatchHeader(t *testing.T) {
	tests := []struct {
		msg, field, text string
		want             bool
		opened           int
	}{
		{"alternative", "Subject", "grüße AUS köln", true, 0},
		{"alternative", "Subject", "utf-8", false, 0},
		{"alternative", "FROM", "example, alice", true, 0},
		{"alternative", "from", "<alice@EXAMPLE.org>", true, 0},
		{"alternative", "Cc", "dave in a", true, 0},
		{"alternative", "To", "carol", true, 0},
		{"alternative", "Bcc", "carol", false, 0},
		{"alternative", "Bcc", "", false, 1},
		{"alternative", "Message-ID", "<2@example.org>", true, 0},
		{"alternative", "Date", "3 Jan 2006", true, 0},
		{"alternative", "References", "1@example", true, 1},
		{"alternative", "MIME-Version", "", true, 1},
		{"alternative", "X-None", "", false, 1},
		{"alternative", "Delivered-To", "bob", true, 1},
		{"iso2022jp", "Subject", "テスト", true, 0},
		{"iso2022jp", "From", "山田", true, 0},
		{"latin1", "Subject", "grüße €", true, 0},
		{"utf8", "Subject", "日本語", true, 0},
	}
	for _, tt := range tests {
		s, msg := load(t, tt.msg)
		src, opened := source(msg)
		got, err := s.MatchHeader(src, tt.field, needle(t, tt.text))
		if err != nil || got != tt.want || *opened != tt.opened {
			t.Errorf("%s: HEADER %s %q = %v, %v, opened %d times; want %v and %d", tt.msg, tt.field, tt.text, got, err, *opened, tt.want, tt.opened)
		}
	}
}

// TestMatchCutHeader: what the summary could not hold is looked for in the bytes.
func TestMatchCutHeader(t *testing.T) {
	msg := "To: " + strings.Repeat("a@b.c,\r\n ", 2000) + "last@example.org\r\nSubject: one\r\nSubject: two\r\n\r\n"
	s := mustParse(t, msg)
	src, _ := source(msg)
	for field, text := range map[string]string{"To": "last@", "Subject": "two"} {
		if got, err := s.MatchHeader(src, field, needle(t, text)); err != nil || !got {
			t.Errorf("HEADER %s %q = %v, %v", field, text, got, err)
		}
	}
}

func TestMatchBodyAndText(t *testing.T) {
	tests := []struct {
		msg, needle string
		body, text  bool
	}{
		{"plain", "at NOON", true, true},
		{"plain", "lunch on friday", false, true},
		{"plain", "delivered-to: bob", false, true},
		{"alternative", "längere zeile, die weich umbrochen", true, true},
		{"alternative", "<b>köln", true, true},
		{"alternative", "MIME format", false, false},
		{"alternative", "Grüße aus Köln", true, true},
		{"iso2022jp", "世界", true, true},
		{"calendar", "FREQ=SECONDLY", true, true},
		{"rfc822", "shall we", true, true},
		{"rfc822", "subject: single part", true, true},
		{"rfc822", "alice example <alice", true, true},
		{"attachment", "%PDF", false, false},
		{"latin1", "grüße", true, true},
		{"malformed", "begin 644", true, true},
		{"no_parts", "would be lost", true, true},
		{"empty", "zzz", false, false},
	}
	for _, tt := range tests {
		s, msg := load(t, tt.msg)
		src, _ := source(msg)
		n := needle(t, tt.needle)
		if got, err := s.MatchBody(src, n); err != nil || got != tt.body {
			t.Errorf("%s: BODY %q = %v, %v, want %v", tt.msg, tt.needle, got, err, tt.body)
		}
		if got, err := s.MatchText(src, n); err != nil || got != tt.text {
			t.Errorf("%s: TEXT %q = %v, %v, want %v", tt.msg, tt.needle, got, err, tt.text)
		}
	}
}

// TestMatchCharset_M07: character sets that are not known, or dangerous, are
// searched as they stand.
func TestMatchCharset_M07(t *testing.T) {
	tests := []struct {
		charset, body, needle string
		want                  bool
	}{
		{"x-nobody-knows", "plain words", "PLAIN", true},
		{"utf-7", "+ADw-script+AD4-", "<script>", false},
		{"utf-7", "+ADw-script+AD4-", "+adw-", true},
		{"iso-8859-1", "caf\xe9", "CAFÉ", true},
		{"utf-16le", "h\x00i\x00", "hi", true},
		{"koi8-r", "\xf0\xf2\xe9", "при", true},
		{"gb18030", "\xd6\xd0", "中", true},
		{"big5", "\xa4\xa4", "中", true},
		{"shift_jis", "\x83e\x83X", "テス", true},
		{"iso-2022-jp", strings.Repeat("\x1b$B\x1b(B", 1000) + "end", "end", true},
		{strings.Repeat("x", 5000), "words", "words", true},
	}
	for _, tt := range tests {
		msg := "Content-Type: text/plain; charset=\"" + tt.charset + "\"\r\n\r\n" + tt.body
		s := mustParse(t, msg)
		src, _ := source(msg)
		if got, err := s.MatchBody(src, needle(t, tt.needle)); err != nil || got != tt.want {
			t.Errorf("charset %.20s: %q in %.20q = %v, %v, want %v", tt.charset, tt.needle, tt.body, got, err, tt.want)
		}
	}
}

// TestMatchBounds_I21: one message makes a search read no more than it has, and
// never more than MaxSearch.
func TestMatchBounds_I21(t *testing.T) {
	part := "--b\r\n\r\n" + strings.Repeat("x", 1<<20) + "\r\n"
	msg := "Content-Type: multipart/mixed; boundary=b\r\n\r\n" + strings.Repeat(part, 40) + "--b\r\n\r\nneedle\r\n--b--"
	s := mustParse(t, msg)
	r := &countingReader{r: strings.NewReader(msg)}
	src := Source{Open: func() (io.ReaderAt, error) { return r, nil }}
	got, err := s.MatchText(src, needle(t, "needle"))
	if err != nil || got {
		t.Errorf("beyond MaxSearch: %v, %v", got, err)
	}
	if r.n > MaxSearch+MaxHeader {
		t.Errorf("%d octets read", r.n)
	}
	r.n = 0
	if got, err := s.MatchText(src, needle(t, "content-type: multipart")); err != nil || !got || r.n > 1000 {
		t.Errorf("in the header: %v, %v, %d octets read", got, err, r.n)
	}
}

func TestMatchError(t *testing.T) {
	s, _ := load(t, "plain")
	gone := errors.New("gone")
	src := Source{Open: func() (io.ReaderAt, error) { return nil, gone }}
	if _, err := s.MatchBody(src, needle(t, "x")); !errors.Is(err, gone) {
		t.Errorf("MatchBody: %v", err)
	}
	if _, err := s.MatchHeader(src, "X-A", needle(t, "x")); !errors.Is(err, gone) {
		t.Errorf("MatchHeader: %v", err)
	}
	src.Open = func() (io.ReaderAt, error) { return strings.NewReader("short"), nil }
	if _, err := s.MatchText(src, needle(t, "x")); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("MatchText of lost bytes: %v", err)
	}
}
