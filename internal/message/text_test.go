package message

import (
	"io"
	"strings"
	"testing"
	"testing/iotest"
	"time"
)

func TestDecodeWords(t *testing.T) {
	tests := []struct{ in, want string }{
		{"plain", "plain"},
		{"=?utf-8?q?caf=C3=A9?=", "café"},
		{"=?UTF-8?B?Y2Fmw6k=?= au lait", "café au lait"},
		{"=?utf-8?q?a?= =?utf-8?q?b?=", "ab"},
		{"=?utf-8?q?a?=  x  =?utf-8?q?b?=", "a  x  b"},
		{"=?utf-8?q?=C3?=\t=?utf-8?q?=A9?=", "é"},
		{"=?iso-8859-1?q?=E9?= =?utf-8?q?=C3=A9?=", "éé"},
		{"=?utf-8*en?q?x_y?=", "x y"},
		{"=?utf-8?Q??=", ""},
		{"=?utf-8?x?abc?=", "=?utf-8?x?abc?="},
		{"=?utf-8?q?open", "=?utf-8?q?open"},
		{"=?utf 8?q?a?=", "=?utf 8?q?a?="},
		{"=??q?a?=", "=??q?a?="},
		{"=?utf-8?q?=ZZ=4?=", "=ZZ=4"},
		{"=?utf-8?b?!!!?=", ""},
		{"=?x-unknown?q?=E9?=", "é"},
		{"=?utf-7?q?+ADw-?=", "+ADw-"},
		{"=?iso-2022-jp?B?GyRCJUYlOSVIGyhC?=", "テスト"},
	}
	for _, tt := range tests {
		if got := decodeWords(tt.in); got != tt.want {
			t.Errorf("decodeWords(%q) = %q, want %q", tt.in, got, tt.want)
		}
	}
}

func TestParseDate_M10(t *testing.T) {
	tests := []struct{ in, want string }{
		{"Mon, 02 Jan 2006 15:04:05 -0700", "2006-01-02T15:04:05-07:00"},
		{"2 Jan 2006 15:04 +0000", "2006-01-02T15:04:00Z"},
		{"Mon , (x) 2 (y) Jan 2006 15:04:05 (z) GMT", "2006-01-02T15:04:05Z"},
		{"Monday, 2-January-06 15:04:05 PDT", "2006-01-02T15:04:05-07:00"},
		{"2 Jan 99 15:04:05 EST", "1999-01-02T15:04:05-05:00"},
		{"2 Jan 106 15:04:05 Z", "2006-01-02T15:04:05Z"},
		{"1 Jan 0000 00:00:00 +0000", "1900-01-01T00:00:00Z"},
		{"1 Jan 9999999 00:00:00 +0000", "9999-01-01T00:00:00Z"},
		{"1 Jan 99999999999999999999999 00:00:00 +0000", "9999-01-01T00:00:00Z"},
		{"1 Jan 2006 00:00:00 -9999", "2006-01-01T00:00:00Z"},
		{"1 Jan 2006 00:00:00 -123456", "2006-01-01T00:00:00Z"},
		{"1 Jan 2006 00:00:00 nowhere", "2006-01-01T00:00:00Z"},
		{"1 Jan 2006", "2006-01-01T00:00:00Z"},
		{"31 Dec 2005 23:59:60 +0000", "2005-12-31T23:59:59Z"},
		{"", ""},
		{"yesterday", ""},
		{"31 Feb 2006 00:00:00 +0000", ""},
		{"0 Jan 2006", ""},
		{"1 Foo 2006", ""},
		{"1 Jan", ""},
		{"1 Jan 2006 25:00:00", ""},
		{strings.Repeat("(", 100), ""},
	}
	for _, tt := range tests {
		got := ""
		if d, ok := parseDate(tt.in); ok {
			got = d.Format(time.RFC3339)
		}
		if got != tt.want {
			t.Errorf("parseDate(%q) = %s, want %s", tt.in, got, tt.want)
		}
	}
}

func TestSentOn(t *testing.T) {
	s := mustParse(t, "Date: Mon, 02 Jan 2006 23:30:00 -0700\r\n\r\n")
	want := time.Date(2006, 1, 2, 0, 0, 0, 0, time.UTC)
	if got, ok := s.SentOn(); !ok || !got.Equal(want) {
		t.Errorf("SentOn = %v, %v, want %v", got, ok, want)
	}
}

func TestTransferDecoders_M07(t *testing.T) {
	tests := []struct{ encoding, in, want string }{
		{"base64", "SGVs\r\nbG8=", "Hello"},
		{"base64", "SGVsbG8", "Hello"},
		{"base64", "S*G V-s\x00bG8=====", "Hello"},
		{"base64", "SGVs=bG8=", "Hello"},
		{"base64", "SGVsbG8=SGVsbG8=", "HelloHello"},
		{"base64", "A", ""},
		{"base64", "", ""},
		{"quoted-printable", "a=20b=3Dc=C3=A9", "a b=cé"},
		{"quoted-printable", "soft=\r\nbreak=\nhere=  \t\r\nend", "softbreakhereend"},
		{"quoted-printable", "blanks  \t\r\n go  ", "blanks\r\n go"},
		{"quoted-printable", "bad=ZZ =4 =\rx==41", "bad=ZZ =4 =\rx=A"},
		{"quoted-printable", "cut=", "cut"},
		{"quoted-printable", "cut=4", "cut=4"},
		{"quoted-printable", "lower=c3=a9", "loweré"},
	}
	for _, tt := range tests {
		for name, in := range map[string]io.Reader{
			"whole": strings.NewReader(tt.in), "octets": iotest.OneByteReader(strings.NewReader(tt.in)), "with EOF": iotest.DataErrReader(strings.NewReader(tt.in)),
		} {
			dec, known := newTransferDecoder(tt.encoding)
			if !known {
				t.Fatalf("%s is not known", tt.encoding)
			}
			got, err := io.ReadAll(newTransferReader(in, dec))
			if err != nil || string(got) != tt.want {
				t.Errorf("%s, %s of %q = %q, %v, want %q", tt.encoding, name, tt.in, got, err, tt.want)
			}
		}
	}
}

// TestQuotedPrintableBounds: white space that may be dropped is held back only
// so far.
func TestQuotedPrintableBounds(t *testing.T) {
	var d qpDecoder
	in := []byte(strings.Repeat(" ", 10*maxBlank) + "=" + strings.Repeat(" ", 10*maxBlank))
	out := d.end(d.decode(nil, in))
	if len(d.blank) > maxBlank || cap(d.held) > 4*maxBlank {
		t.Errorf("holds %d and %d octets", len(d.blank), cap(d.held))
	}
	if len(out) > len(in) || len(out) < len(in)-2*maxBlank {
		t.Errorf("%d octets became %d", len(in), len(out))
	}
}

func TestPreview(t *testing.T) {
	tests := []struct{ name, msg, want string }{
		{"plain", "\r\n one\r\n\ttwo  three\r\n", "one two three"},
		{"html", "Content-Type: text/html\r\n\r\n<!-- <p>no --><title>no</title><STYLE>p{}</STYLE>\r\n<p>a&lt;b &eacute;<br>c<script>no</script></p>", "a<b é c"},
		{"html open", "Content-Type: text/html\r\n\r\nx<style>no", "x"},
		{"blank first", "Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\n \r\n--b\r\n\r\nsecond\r\n--b--", "second"},
		{"attachment first", "Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\nContent-Disposition: attachment\r\n\r\nno\r\n--b\r\n\r\nyes\r\n--b--", "yes"},
		{"control characters", "\r\na\x00\x07\u202eb\u200bc\x7f", "abc"},
		{"invalid UTF-8", "\r\ncaf\xe9", "café"},
		{"utf-7", "Content-Type: text/plain; charset=utf-7\r\n\r\n+ADw-b+AD4-", "+ADw-b+AD4-"},
		{"long", "\r\n" + strings.Repeat("é ", 300), strings.TrimSpace(strings.Repeat("é ", 67))},
		{"cut in a character", "\r\n" + strings.Repeat("日", 1000), strings.Repeat("日", 66)},
		{"cut in a character of HTML", "Content-Type: text/html\r\n\r\n.." + strings.Repeat("日", 5000), ".." + strings.Repeat("日", 66)},
		{"cut when decoded", "Content-Transfer-Encoding: quoted-printable\r\n\r\n" + strings.Repeat("=E6=97=A5", 1000), strings.Repeat("日", 66)},
		{"cut in ISO-2022-JP", "Content-Type: text/plain; charset=iso-2022-jp\r\n\r\n\x1b$B" + strings.Repeat("F|", 1000), strings.Repeat("日", 66)},
		{"base64", "Content-Transfer-Encoding: BASE64\r\n\r\nSGVsbG8=\r\n", "Hello"},
		{"none", "Content-Type: image/png\r\n\r\nx", ""},
	}
	for _, tt := range tests {
		got := mustParse(t, tt.msg).Preview
		if got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
		if len(got) > MaxPreview {
			t.Errorf("%s: %d octets", tt.name, len(got))
		}
	}
}
