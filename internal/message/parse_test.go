package message

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
)

// outline prints a tree's media types.
func outline(p *Part) string {
	if p.Message != nil {
		return p.Media + "{" + outline(p.Message.Root) + "}"
	}
	if p.Parts == nil {
		return p.Media
	}
	var list []string
	for _, c := range p.Parts {
		list = append(list, outline(c))
	}
	return strings.TrimPrefix(p.Media, "multipart/") + "(" + strings.Join(list, " ") + ")"
}

func count(p *Part) (parts, depth int) {
	children := p.Parts
	if p.Message != nil {
		children = []*Part{p.Message.Root}
	}
	for _, c := range children {
		n, d := count(c)
		parts, depth = parts+n, max(depth, d)
	}
	return parts + 1, depth + 1
}

func hostileSample(t *testing.T, name string) []byte {
	t.Helper()
	for _, m := range hostile() {
		if m.name == name {
			return m.data
		}
	}
	t.Fatalf("no hostile message %q", name)
	return nil
}

// TestDepth_M01: what lies deeper than MaxDepth is one opaque leaf.
func TestDepth_M01(t *testing.T) {
	for _, name := range []string{"M-01/10000 nested multiparts", "M-01/10000 nested messages"} {
		s := mustParse(t, string(hostileSample(t, name)))
		parts, depth := count(s.Root)
		if parts != MaxDepth || depth != MaxDepth || s.Flags&Truncated == 0 {
			t.Errorf("%s: %d parts, depth %d, flags %s", name, parts, depth, flagNames(s.Flags))
		}
		p := s.Root
		for p.Message != nil || p.Parts != nil {
			if p.Message != nil {
				p = p.Message.Root
			} else {
				p = p.Parts[0]
			}
		}
		if p.Media != opaque || p.end() != s.Size {
			t.Errorf("%s: leaf is %s up to %d of %d", name, p.Media, p.end(), s.Size)
		}
	}
}

// TestParts_M02: parts beyond MaxParts are one opaque part that has all the rest.
func TestParts_M02(t *testing.T) {
	msg := hostileSample(t, "M-02/1000000 parts")
	s := mustParse(t, string(msg))
	last := s.Root.Parts[len(s.Root.Parts)-1]
	if n := len(s.Root.Parts); n != MaxParts || last.Media != opaque || last.end() != s.Size {
		t.Errorf("%d parts, last is %s up to %d of %d", n, last.Media, last.end(), s.Size)
	}
	if s.Root.Parts[MaxParts-2].Media != "text/plain" {
		t.Errorf("last but one is %s", s.Root.Parts[MaxParts-2].Media)
	}
}

// TestDelimiters_M02_M03: delimiters that are missing, empty, too long, the start
// of another, or out of place.
func TestDelimiters_M02_M03(t *testing.T) {
	head := func(b string) string { return "Content-Type: multipart/mixed; boundary=" + b + "\r\n\r\n" }
	tests := []struct{ name, msg, want string }{
		{"usual", head("a") + "pre\r\n--a\r\n\r\n1\r\n--a \t\r\nContent-Type: text/html\r\n\r\n2\r\n--a--\r\npost\r\n--a\r\n", "mixed(text/plain text/html)"},
		{"never", head("a") + "text\r\n", "mixed(text/plain)"},
		{"not given", "Content-Type: multipart/mixed\r\n\r\n--\r\n\r\n", "mixed(text/plain)"},
		{"empty", head(`""`) + "--\r\n\r\n1\r\n----\r\n", "mixed(text/plain)"},
		{"closed at once", head("a") + "--a--\r\n", "mixed(text/plain)"},
		{"not closed", head("a") + "--a\r\n\r\n1\r\n--a\r\n\r\n2", "mixed(text/plain text/plain)"},
		{"last line", head("a") + "--a\r\n\r\n1\r\n--a", "mixed(text/plain text/plain)"},
		{"longer line", head("a") + "--a\r\n\r\n--ab\r\n--a--b\r\n--a--\r\n", "mixed(text/plain)"},
		{"inner starts as outer", head("a") + "--a\r\n" + head("ab") + "--ab\r\n\r\n1\r\n--ab--\r\n--a\r\n\r\n2\r\n--a--\r\n", "mixed(mixed(text/plain) text/plain)"},
		{"outer starts as inner", head("ab") + "--ab\r\n" + head("a") + "--a\r\n\r\n1\r\n--a--\r\n--ab\r\n\r\n2\r\n--ab--\r\n", "mixed(mixed(text/plain) text/plain)"},
		{"outer is inner's end", head("a--") + "--a--\r\n" + head("a") + "--a\r\n\r\n1\r\n--a--\r\n\r\n2\r\n", "mixed(mixed(text/plain))"},
		{"same for both", head("a") + "--a\r\n" + head("a") + "--a\r\n\r\n1\r\n--a--\r\n--a--\r\n", "mixed(mixed(text/plain))"},
		{"outer ends inner", head("a") + "--a\r\n" + head("b") + "--b\r\n\r\n1\r\n--a\r\n\r\n2\r\n--b\r\n--a--\r\n", "mixed(mixed(text/plain) text/plain)"},
		{"in a header", head("a") + "--a\r\nContent-Type: text/html\r\n--a\r\nContent-Type: message/rfc822\r\n--a--\r\n", "mixed(text/html message/rfc822{text/plain})"},
		{"in a message", head("a") + "--a\r\nContent-Type: message/rfc822\r\n\r\nSubject: x\r\n--a\r\n\r\n2\r\n--a--", "mixed(message/rfc822{text/plain} text/plain)"},
		{"bare LF", strings.ReplaceAll(head("a")+"--a\r\n\r\n1\r\n--a--\r\n", "\r", ""), "mixed(text/plain)"},
		{"70 octets and more", head(strings.Repeat("x", maxBoundary)) + "--" + strings.Repeat("x", maxBoundary) + "\r\nContent-Type: a/b\r\n\r\n", "mixed(a/b)"},
		{"too long", head(strings.Repeat("x", maxBoundary+1)) + "--" + strings.Repeat("x", maxBoundary+1) + "\r\nContent-Type: a/b\r\n\r\n", "mixed(text/plain)"},
		{"segments", "Content-Type: multipart/mixed; boundary*0=a; boundary*1=b\r\n\r\n--ab\r\nContent-Type: a/b\r\n\r\n", "mixed(a/b)"},
		{"digest", "Content-Type: multipart/digest; boundary=a\r\n\r\n--a\r\n\r\nSubject: x\r\n\r\n--a\r\nContent-Type: text/html\r\n\r\n--a--", "digest(message/rfc822{text/plain} text/html)"},
	}
	for _, tt := range tests {
		s := mustParse(t, tt.msg)
		checkTree(t, s)
		if got := outline(s.Root); got != tt.want {
			t.Errorf("%s: %s, want %s", tt.name, got, tt.want)
		}
	}
}

// TestHeaderCaps_M04: of a header beyond MaxHeader all is counted, and nothing
// looked at.
func TestHeaderCaps_M04(t *testing.T) {
	s := mustParse(t, string(hostileSample(t, "M-04/1000000 fields")))
	if s.Header.Subject != "" || s.Flags&Truncated == 0 || s.HeaderSize() != s.Size-6 {
		t.Errorf("subject %q, header %d of %d, flags %s", s.Header.Subject, s.HeaderSize(), s.Size, flagNames(s.Flags))
	}
	s = mustParse(t, string(hostileSample(t, "M-04/header of 10 MB in one line")))
	if len(s.Header.Subject) != maxString || s.LongestLine != 10<<20+9 || s.Flags&Truncated == 0 {
		t.Errorf("subject of %d, longest line %d, flags %s", len(s.Header.Subject), s.LongestLine, flagNames(s.Flags))
	}
}

// TestEnvelopeCaps_M05_M06 counts what a summary keeps of too much.
func TestEnvelopeCaps_M05_M06(t *testing.T) {
	s := mustParse(t, string(hostileSample(t, "M-05/200000 addresses")))
	if n := len(s.Header.To); n != MaxAddresses || s.Flags&Truncated == 0 {
		t.Errorf("%d addresses, flags %s", n, flagNames(s.Flags))
	}
	s = mustParse(t, "To: g:"+strings.Repeat("a@b.c,", 2000)+";\r\n\r\n")
	if n := len(s.Header.To); n != MaxAddresses+1 || s.Header.To[n-1] != (Address{}) {
		t.Errorf("%d addresses in a group, the last is %+v", n, s.Header.To[n-1])
	}
	s = mustParse(t, string(hostileSample(t, "M-06/100000 segments")))
	if n := len(s.Root.Params); n != 1 || len(s.Root.Params[0].Value) != MaxParams*len("%C3%A9") {
		t.Errorf("%d parameters: %.100v", n, s.Root.Params)
	}
	s = mustParse(t, "Content-Type: text/plain"+strings.Repeat("; a=b", 100)+paramList(100)+"\r\n\r\n")
	if n := len(s.Root.Params); n != MaxParams {
		t.Errorf("%d parameters", n)
	}
	s = mustParse(t, strings.Repeat("Delivered-To: a@b.c\r\nReceived: x\r\n", 200)+"\r\n")
	if len(s.DeliveredTo) != MaxDeliveredTo || s.Received != 200 {
		t.Errorf("%d Delivered-To, %d Received", len(s.DeliveredTo), s.Received)
	}
}

func paramList(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "; p%d=v", i)
	}
	return b.String()
}

func TestParams_M06_M11(t *testing.T) {
	tests := []struct {
		field string
		want  []Param
	}{
		{`text/plain; charset=utf-8; name="a b"`, []Param{{"charset", "utf-8"}, {"name", "a b"}}},
		{`text/plain;charset="utf-8" ; ; x = y (comment); z=`, []Param{{"charset", "utf-8"}, {"x", "y"}, {"z", ""}}},
		{`text/plain (c); name="a\"b\\c"`, []Param{{"name", `a"b\c`}}},
		{`text/plain; name="open`, []Param{{"name", "open"}}},
		{`text/plain charset=utf-8; a=b`, []Param{{"a", "b"}}},
		{`text/plain; a=1; a=2; A=3`, []Param{{"a", "1"}}},
		{`text/plain; "a"=b; c d=e; =f; g`, nil},
		{`text/plain; n*0=a; n*1=b; n*3=d`, []Param{{"n", "ab"}}},
		{`text/plain; n*1=b; n*0=a`, []Param{{"n", "ab"}}},
		{`text/plain; n*0*=utf-8''%C3%A9; n*1=" x%"`, []Param{{"n*", "utf-8''%C3%A9%20x%25"}}},
		{`text/plain; n*0=a; n*1*=%C3%A9`, []Param{{"n*", "''a%C3%A9"}}},
		{`text/plain; n*=utf-8''x; n*5=y; *=z; *0=w`, []Param{{"n*", "utf-8''x"}, {"*", "z"}, {"*0", "w"}}},
		{"text/plain; name=\"../x\x00\r\n\t\x1b[31m\"", []Param{{"name", "../x [31m"}}},
		{"text/plain; name=caf\xe9", []Param{{"name", "café"}}},
	}
	for _, tt := range tests {
		s := mustParse(t, "Content-Type: "+tt.field+"\r\n\r\n")
		if diff := cmp.Diff(tt.want, s.Root.Params); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.field, diff)
		}
		checkIMAP(t, s)
	}
}

func TestMedia(t *testing.T) {
	tests := []struct{ field, want string }{
		{"TEXT/HTML", "text/html"},
		{"x-a/x-b; c=d", "x-a/x-b"},
		{"(c) text/(d)", "text/plain"},
		{"text", "text/plain"},
		{"/plain", "text/plain"},
		{"a/b/c", "text/plain"},
		{"", "text/plain"},
		{"\u00e9/x", "text/plain"},
		{"a/" + strings.Repeat("b", 300), "text/plain"},
	}
	for _, tt := range tests {
		if got := mustParse(t, "Content-Type: "+tt.field+"\r\n\r\n").Root.Media; got != tt.want {
			t.Errorf("%q: %s, want %s", tt.field, got, tt.want)
		}
	}
}

func TestFlags_M07_M08(t *testing.T) {
	tests := []struct {
		msg  string
		want Flags
	}{
		{"Subject: x\r\n\r\nbody\r\n", 0},
		{"Subject: x\r\n\r\nbo\x00dy\r\n", HasNUL},
		{"Subject: x\r\n\r\nbo\rdy\r\n", BareCR},
		{"Subject: x\r\n\r\nbody\r", BareCR},
		{"Subject: x\r\n\r\nbody\r\r\n", BareCR},
		{"Subject: x\n\r\nbody\r\n", BareLF},
		{"Subject: \xc3\xa9\r\n\r\nbody\r\n", EightBitHeader},
		{"Subject: x\r\n\r\n1234567890\xff\r\n", EightBitBody},
		{"Subject: x\r\nno field\r\n\r\n", BadHeader},
		{" folded first\r\n\r\n", BadHeader},
		{"Fr\x00om: a@b.c\r\n\r\n", HasNUL | BadHeader},
		{"Sub ject: x\r\n\r\n", BadHeader},
		{": x\r\n\r\n", BadHeader},
		{"From: a@b.c\r\nFrom: a@b.c\r\n\r\n", UnclearFrom},
		{"Subject: a\r\nSubject: b\r\n\r\n", Truncated},
	}
	for _, tt := range tests {
		if got := mustParse(t, tt.msg).Flags; got != tt.want {
			t.Errorf("%q: %s, want %s", tt.msg, flagNames(got), flagNames(tt.want))
		}
	}
}

// TestNothing_M09: messages of next to nothing have an empty envelope and one
// empty part.
func TestNothing_M09(t *testing.T) {
	for _, msg := range []string{"", "\r\n", "\r\n\r\n\r\n", "\n", "\r", "x", "no header\r\nno field\r\n"} {
		s := mustParse(t, msg)
		if diff := cmp.Diff(Envelope{}, s.Header); diff != "" || outline(s.Root) != "text/plain" {
			t.Errorf("%q: %s, envelope %s", msg, outline(s.Root), diff)
		}
		checkIMAP(t, s)
		if wire := fetchWire(s); !strings.Contains(wire, "ENVELOPE (NIL NIL NIL NIL NIL NIL NIL NIL NIL NIL) ") {
			t.Errorf("%q: %s", msg, wire)
		}
	}
}

func TestMessageID_M10(t *testing.T) {
	tests := []struct{ field, want string }{
		{"<a@b>", "<a@b>"},
		{" (c) <a@b> <c@d>", "(c) <a@b> <c@d>"},
		{"a@b", "a@b"},
		{"<a@b", "<a@b"},
		{"<>", "<>"},
		{"", ""},
		{"<a\r\n b\x00@c>", "<a b@c>"},
		{"<" + strings.Repeat("m", 10_000) + ">", "<" + strings.Repeat("m", maxID-1)},
	}
	for _, tt := range tests {
		s := mustParse(t, "Message-ID: "+tt.field+"\r\nMessage-ID: <second>\r\n\r\n")
		if got := s.Header.MessageID; got != tt.want {
			t.Errorf("%.40q: %.40q, want %.40q", tt.field, got, tt.want)
		}
	}
	s := mustParse(t, "In-Reply-To: Your message of Monday <1@a>\r\n <2@b>\r\n\r\n")
	if got, want := s.Header.InReplyTo, "Your message of Monday <1@a> <2@b>"; got != want {
		t.Errorf("In-Reply-To %q, want %q", got, want)
	}
}

// TestOpaque_M12_M13_M14: archives, TNEF and calendars are leaves, whatever they
// say of themselves.
func TestOpaque_M12_M13_M14(t *testing.T) {
	for name, want := range map[string]string{"M-12/zip": "application/zip", "M-13/TNEF": "application/ms-tnef", "M-14/RRULE": "text/calendar"} {
		if got := outline(mustParse(t, string(hostileSample(t, name))).Root); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
}

// TestSummarySize_M15: a mailbox of a million small messages takes a million
// small summaries.
func TestSummarySize_M15(t *testing.T) {
	s := mustParse(t, "From: a@b.c\r\nTo: d@e.f\r\nSubject: hi\r\nDate: 1 Jan 2006 00:00:00 +0000\r\nMessage-ID: <1@b.c>\r\n\r\nhello\r\n")
	if n := len(s.Encode()); n > 100 {
		t.Errorf("%d octets", n)
	}
}

// TestParseLongLines: lines longer than the buffer are read as one line.
func TestParseLongLines(t *testing.T) {
	for _, n := range []int{minBuffer - 1, minBuffer, maxBuffer - 2, maxBuffer - 1, maxBuffer, maxBuffer + 1, 3*maxBuffer + 5} {
		for _, eol := range []string{"\r\n", "\n", ""} {
			msg := "X: " + strings.Repeat("h", n) + "\r\n\r\n" + strings.Repeat("b", n) + eol
			s, err := Parse(iotest.HalfReader(strings.NewReader(msg)))
			if err != nil {
				t.Fatal(err)
			}
			lines := int64(2 + len(eol) - len(eol)/2)
			if len(eol) == 0 {
				lines = 2
			}
			if s.Lines != lines || s.LongestLine != int64(n+3) || s.HeaderSize() != int64(n+7) || s.Flags&BareCR != 0 {
				t.Errorf("%d, %q: %d lines, longest %d, header %d, flags %s", n, eol, s.Lines, s.LongestLine, s.HeaderSize(), flagNames(s.Flags))
			}
		}
	}
}

func TestParseError(t *testing.T) {
	gone := errors.New("gone")
	if _, err := Parse(iotest.ErrReader(gone)); !errors.Is(err, gone) {
		t.Errorf("Parse: %v, want %v", err, gone)
	}
	if _, err := Parse(stuckReader{}); err == nil {
		t.Error("Parse of a reader that is stuck: no error")
	}
}

type stuckReader struct{}

func (stuckReader) Read([]byte) (int, error) { return 0, nil }

// TestParserIsAsNew holds a Parser that has seen other messages, and readers that
// failed, to what a new one makes of each.
func TestParserIsAsNew(t *testing.T) {
	var p Parser
	samples := corpus(t)
	samples = append(samples, sample{"long field", []byte("Subject: " + strings.Repeat("x", 40<<10) + "\r\n\r\n")})
	for _, first := range samples {
		broken := io.MultiReader(bytes.NewReader(first.data[:len(first.data)/2]), iotest.ErrReader(io.ErrUnexpectedEOF))
		if _, err := p.Parse(broken); err != io.ErrUnexpectedEOF {
			t.Fatalf("%s cut off: error %v", first.name, err)
		}
		for _, s := range []sample{first, samples[0]} {
			got, err := p.Parse(bytes.NewReader(s.data))
			if err != nil {
				t.Fatalf("%s: %v", s.name, err)
			}
			if diff := cmp.Diff(mustParse(t, string(s.data)), got); diff != "" {
				t.Errorf("%s after %s (-new, +used):\n%s", s.name, first.name, diff)
			}
		}
	}
}
