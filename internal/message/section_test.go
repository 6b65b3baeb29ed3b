package message

import (
	"errors"
	"io"
	"math"
	"os"
	"strings"
	"testing"

	"github.com/emersion/go-imap/v2"

	"github.com/covey-mail/covey"
)

func load(t testing.TB, name string) (*Summary, string) {
	t.Helper()
	b, err := os.ReadFile("testdata/corpus/" + name + ".eml")
	if err != nil {
		t.Fatal(err)
	}
	return mustParse(t, string(b)), string(b)
}

// between returns what stands in msg after one text, up to and without another.
func between(t testing.TB, msg, after, before string) string {
	t.Helper()
	_, rest, ok := strings.Cut(msg, after)
	got, _, ok2 := strings.Cut(rest, before)
	if !ok || !ok2 {
		t.Fatalf("%q … %q is not in the message", after, before)
	}
	return got
}

const prefix = "Return-Path: <a@b.c>\r\nDelivered-To: bob@example.net\r\n"

func TestSection(t *testing.T) {
	s, msg := load(t, "rfc822")
	full := prefix + msg
	header, body, _ := strings.Cut(full, "\r\n\r\n")
	header += "\r\n\r\n"
	fwd := between(t, msg, "Content-Disposition: inline\r\n\r\n", "\r\n--fwd")
	fwdHeader, fwdBody, _ := strings.Cut(fwd, "\r\n\r\n")
	fwdHeader += "\r\n\r\n"
	tests := []struct {
		name string
		path []int
		spec imap.PartSpecifier
		want string
	}{
		{"BODY[]", nil, "", full},
		{"BODY[HEADER]", nil, "HEADER", header},
		{"BODY[TEXT]", nil, "TEXT", body},
		{"BODY[1]", []int{1}, "", "See below.\r\n"},
		{"BODY[1.MIME]", []int{1}, "MIME", "Content-Type: text/plain\r\n\r\n"},
		{"BODY[1.HEADER]", []int{1}, "HEADER", ""},
		{"BODY[1.TEXT]", []int{1}, "TEXT", ""},
		{"BODY[1.1]", []int{1, 1}, "", ""},
		{"BODY[2]", []int{2}, "", fwd},
		{"BODY[2.MIME]", []int{2}, "MIME", "Content-Type: message/rfc822\r\nContent-Disposition: inline\r\n\r\n"},
		{"BODY[2.HEADER]", []int{2}, "HEADER", fwdHeader},
		{"BODY[2.TEXT]", []int{2}, "TEXT", fwdBody},
		{"BODY[2.1]", []int{2, 1}, "", "Shall we meet?"},
		{"BODY[2.1.MIME]", []int{2, 1}, "MIME", "\r\n"},
		{"BODY[2.2.MIME]", []int{2, 2}, "MIME", "Content-Type: text/html\r\n\r\n"},
		{"BODY[3.1]", []int{3, 1}, "", "Only text."},
		{"BODY[3.1.MIME]", []int{3, 1}, "MIME", "Subject: single part within\r\n\r\n"},
		{"BODY[3.1.1]", []int{3, 1, 1}, "", ""},
		{"BODY[4]", []int{4}, "", ""},
		{"BODY[0]", []int{0}, "", ""},
		{"BODY[4294967295]", []int{math.MaxUint32}, "", ""},
		{"I-26/BODY[1.1.1…]", bytes500(), "", ""},
	}
	for _, tt := range tests {
		got := readSection(t, s, strings.NewReader(full), len(prefix), &imap.FetchItemBodySection{Part: tt.path, Specifier: tt.spec})
		if got != tt.want {
			t.Errorf("%s = %q, want %q", tt.name, got, tt.want)
		}
	}
}

func bytes500() []int {
	path := make([]int, 500)
	for i := range path {
		path[i] = 1
	}
	return path
}

func TestSectionOfSinglePart(t *testing.T) {
	s, msg := load(t, "plain")
	full := prefix + msg
	header, body, _ := strings.Cut(full, "\r\n\r\n")
	for _, tt := range []struct {
		path []int
		spec imap.PartSpecifier
		want string
	}{
		{[]int{1}, "", body},
		{[]int{1}, "MIME", header + "\r\n\r\n"},
		{[]int{1}, "HEADER", ""},
		{[]int{2}, "", ""},
		{[]int{1, 1}, "", ""},
	} {
		got := readSection(t, s, strings.NewReader(full), len(prefix), &imap.FetchItemBodySection{Part: tt.path, Specifier: tt.spec})
		if got != tt.want {
			t.Errorf("%v %s = %q, want %q", tt.path, tt.spec, got, tt.want)
		}
	}
}

func TestSectionHeaderFields(t *testing.T) {
	msg := "Subject: one\r\nX-Long: a\r\n b\r\n\tc\r\nFROM : x@y.z\r\nno field\r\nSubject: two\r\n\r\nSubject: body\r\n"
	s := mustParse(t, msg)
	many := make([]string, 10_000)
	for i := range many {
		many[i] = strings.Repeat("x", i%50+1)
	}
	tests := []struct {
		name   string
		fields []string
		not    []string
		want   string
	}{
		{"several", []string{"SUBJECT"}, nil, "Subject: one\r\nSubject: two\r\n\r\n"},
		{"folded", []string{"x-long"}, nil, "X-Long: a\r\n b\r\n\tc\r\n\r\n"},
		{"space before the colon", []string{"From"}, nil, "FROM : x@y.z\r\n\r\n"},
		{"prefix", []string{"delivered-to"}, nil, "Delivered-To: bob@example.net\r\n\r\n"},
		{"none", []string{"no field", "", "Subject "}, nil, "\r\n"},
		{"not", nil, []string{"subject", "from", "return-path", "Delivered-To"}, "X-Long: a\r\n b\r\n\tc\r\n\r\n"},
		{"I-26/10000 names", many, nil, "\r\n"},
	}
	for _, tt := range tests {
		item := &imap.FetchItemBodySection{Specifier: imap.PartSpecifierHeader, HeaderFields: tt.fields, HeaderFieldsNot: tt.not}
		if got := readSection(t, s, strings.NewReader(prefix+msg), len(prefix), item); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
	noEnd := mustParse(t, "Subject: x\r\n")
	item := &imap.FetchItemBodySection{Specifier: imap.PartSpecifierHeader, HeaderFields: []string{"Subject"}}
	if got := readSection(t, noEnd, strings.NewReader("Subject: x\r\n"), 0, item); got != "Subject: x\r\n" {
		t.Errorf("without empty line: %q", got)
	}
}

// TestPartial_I26: go-imap adds offset and size, and panics when that overflows.
func TestPartial_I26(t *testing.T) {
	s, msg := load(t, "plain")
	n := int64(len(msg))
	tests := []struct {
		off, size int64
		want      string
	}{
		{0, 10, msg[:10]},
		{5, 1, msg[5:6]},
		{n - 2, 100, msg[n-2:]},
		{n, 1, ""},
		{5, 0, ""},
		{5, math.MaxInt64, msg[5:]},
		{math.MaxUint32, 1, ""},
		{math.MaxInt64, math.MaxInt64, ""},
		{-1, 5, msg[:5]},
		{3, -5, ""},
	}
	for _, tt := range tests {
		p := &imap.SectionPartial{Offset: tt.off, Size: tt.size}
		if got := readSection(t, s, strings.NewReader(msg), 0, &imap.FetchItemBodySection{Partial: p}); got != tt.want {
			t.Errorf("BODY[]<%d.%d> = %q, want %q", tt.off, tt.size, got, tt.want)
		}
	}
	item := &imap.FetchItemBodySection{
		Specifier: imap.PartSpecifierHeader, HeaderFields: []string{"Subject"}, Partial: &imap.SectionPartial{Offset: 9, Size: math.MaxInt64},
	}
	if got := readSection(t, s, strings.NewReader(msg), 0, item); got != "Lunch on Friday\r\n\r\n" {
		t.Errorf("partial of header fields: %q", got)
	}
}

func TestBinary(t *testing.T) {
	s, msg := load(t, "attachment")
	full := prefix + msg
	pdf := "%PDF-1.4 " + string(allOctets())
	tests := []struct {
		path    []int
		partial *imap.SectionPartial
		want    string
	}{
		{nil, nil, full},
		{[]int{2}, nil, pdf},
		{[]int{2}, &imap.SectionPartial{Offset: 1, Size: 3}, "PDF"},
		{[]int{2}, &imap.SectionPartial{Offset: 260, Size: math.MaxInt64}, pdf[260:]},
		{[]int{2}, &imap.SectionPartial{Offset: math.MaxInt64, Size: math.MaxInt64}, ""},
		{[]int{1, 2}, nil, "\x89PNG\r\n\x1a\n"},
		{[]int{7}, nil, ""},
	}
	for _, tt := range tests {
		r, size, err := s.Binary(strings.NewReader(full), len(prefix), &imap.FetchItemBinarySection{Part: tt.path, Partial: tt.partial})
		if err != nil {
			t.Fatalf("BINARY%v: %v", tt.path, err)
		}
		if got := readExactly(t, r, size); got != tt.want {
			t.Errorf("BINARY%v = %q, want %q", tt.path, got, tt.want)
		}
	}
	if n, err := s.BinarySize(strings.NewReader(full), len(prefix), []int{2}); err != nil || n != int64(len(pdf)) {
		t.Errorf("BINARY.SIZE[2] = %d, %v, want %d", n, err, len(pdf))
	}
	s, msg = load(t, "alternative")
	r, size, err := s.Binary(strings.NewReader(msg), 0, &imap.FetchItemBinarySection{Part: []int{1}})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := readExactly(t, r, size), "Grüße aus Köln, das ist eine etwas längere Zeile, die weich umbrochen ist."; got != want {
		t.Errorf("quoted-printable: %q, want %q", got, want)
	}
}

// TestUnknownEncoding_I26: BINARY of a transfer encoding that nobody knows is an
// error of a kind of its own, everything else of the message can be read.
func TestUnknownEncoding_I26(t *testing.T) {
	s, msg := load(t, "malformed")
	r := strings.NewReader(msg)
	if _, _, err := s.Binary(r, 0, &imap.FetchItemBinarySection{Part: []int{1}}); !errors.Is(err, covey.Invalid) {
		t.Errorf("Binary: %v, want kind %v", err, covey.Invalid)
	}
	if _, err := s.BinarySize(r, 0, []int{1}); !errors.Is(err, covey.Invalid) {
		t.Errorf("BinarySize: %v, want kind %v", err, covey.Invalid)
	}
	if got := readSection(t, s, r, 0, &imap.FetchItemBodySection{Part: []int{1}}); got != "begin 644 x\r\n" {
		t.Errorf("BODY[1] = %q", got)
	}
}

// TestSectionOfLostBytes: a body that is shorter than its summary says is an
// error, never a short literal.
func TestSectionOfLostBytes(t *testing.T) {
	s, msg := load(t, "attachment")
	r := strings.NewReader(msg[:len(msg)-100])
	body, _, err := s.Section(r, 0, &imap.FetchItemBodySection{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(body); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("read: %v, want %v", err, io.ErrUnexpectedEOF)
	}
	if _, _, err := s.Binary(r, 0, &imap.FetchItemBinarySection{Part: []int{2}}); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("Binary: %v, want %v", err, io.ErrUnexpectedEOF)
	}
	none := strings.NewReader("")
	if _, _, err := s.Section(none, 0, &imap.FetchItemBodySection{Specifier: imap.PartSpecifierHeader, HeaderFields: []string{"To"}}); err == nil {
		t.Error("header fields of nothing: no error")
	}
}

// TestSectionStreams: a large section is read as the caller reads it.
func TestSectionStreams(t *testing.T) {
	msg := "Content-Transfer-Encoding: base64\r\n\r\n" + strings.Repeat(strings.Repeat("QUJD", 19)+"\r\n", 100_000)
	s := mustParse(t, msg)
	r := &countingReader{r: strings.NewReader(msg)}
	body, size, err := s.Section(r, 0, &imap.FetchItemBodySection{})
	if err != nil || size != int64(len(msg)) || r.n != 0 {
		t.Fatalf("Section: size %d, %d octets read, %v", size, r.n, err)
	}
	if _, err := io.CopyN(io.Discard, body, 1000); err != nil || r.n > 64<<10 {
		t.Errorf("%d octets read for 1000, %v", r.n, err)
	}
	bin := &imap.FetchItemBinarySection{Part: []int{1}}
	most := testing.AllocsPerRun(1, func() {
		body, size, err := s.Binary(r, 0, bin)
		if err != nil || size != 100_000*57 {
			t.Fatalf("Binary: size %d, %v", size, err)
		}
		if _, err := io.Copy(io.Discard, body); err != nil {
			t.Fatal(err)
		}
	})
	if most > 100 {
		t.Errorf("Binary of %d octets allocates %v times", size, most)
	}
}

type countingReader struct {
	r *strings.Reader
	n int64
}

func (c *countingReader) ReadAt(p []byte, off int64) (int, error) {
	n, err := c.r.ReadAt(p, off)
	c.n += int64(n)
	return n, err
}
