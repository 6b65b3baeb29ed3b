package message

import (
	"bytes"
	"encoding/json"
	"io"
	"reflect"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/emersion/go-imap/v2"
	"github.com/google/go-cmp/cmp"
)

// checkTree fails unless every part lies within the one that holds it, in order,
// and the tree keeps the limits.
func checkTree(t testing.TB, s *Summary) {
	t.Helper()
	seen := make(map[*Part]bool)
	var walk func(p *Part, w span, depth int)
	walk = func(p *Part, w span, depth int) {
		if seen[p] {
			t.Fatalf("part at %d is in the tree twice", p.HeaderOffset)
		}
		seen[p] = true
		if depth > MaxDepth {
			t.Fatalf("part at depth %d", depth)
		}
		if p.HeaderOffset < w.start || p.HeaderSize < 0 || p.BodySize < 0 || p.end() > w.end {
			t.Fatalf("part %d+%d+%d is not within %v", p.HeaderOffset, p.HeaderSize, p.BodySize, w)
		}
		if isMultipart(p.Media) != (len(p.Parts) > 0) || isMessage(p.Media) != (p.Message != nil) {
			t.Fatalf("%s with %d parts and message %v", p.Media, len(p.Parts), p.Message != nil)
		}
		body := span{p.BodyOffset(), p.end()}
		if p.Lines < 0 || p.Lines > p.BodySize {
			t.Fatalf("%d lines in %d octets", p.Lines, p.BodySize)
		}
		if p.Message != nil {
			walk(p.Message.Root, body, depth+1)
			if got := p.Message.Root.end(); got != body.end {
				t.Fatalf("message in part ends at %d, part at %d", got, body.end)
			}
		}
		for _, c := range p.Parts {
			walk(c, body, depth+1)
			body.start = c.end()
		}
	}
	walk(s.Root, span{0, s.Size}, 1)
	if s.Root.HeaderOffset != 0 || s.Root.end() != s.Size {
		t.Fatalf("root is %d to %d of %d", s.Root.HeaderOffset, s.Root.end(), s.Size)
	}
	if len(seen) > MaxParts+MaxDepth {
		t.Fatalf("%d parts", len(seen))
	}
}

// checkCode fails unless the summary survives its encoding.
func checkCode(t testing.TB, s *Summary) {
	t.Helper()
	b := s.Encode()
	got, err := Decode(b)
	if err != nil {
		t.Fatalf("Decode: %v", err)
	}
	diffSummaries(t, s, got)
}

// diffSummaries fails unless a and b are equal. They are printed before they are
// compared, since cmp takes exponential time for deep trees.
func diffSummaries(t testing.TB, a, b *Summary) {
	t.Helper()
	if reflect.DeepEqual(a, b) {
		return
	}
	x, _ := json.MarshalIndent(a, "", " ")
	y, _ := json.MarshalIndent(b, "", " ")
	t.Fatalf("summaries differ (-first +second):\n%s", cmp.Diff(string(x), string(y)))
}

// checkSections fails unless every section of every part can be read and has the
// size that was told.
func checkSections(t testing.TB, s *Summary, msg []byte) {
	t.Helper()
	r := bytes.NewReader(msg)
	paths := 0
	var walk func(p *Part, path []int)
	walk = func(p *Part, path []int) {
		if paths++; paths > 50 {
			return
		}
		for _, spec := range []imap.PartSpecifier{imap.PartSpecifierNone, imap.PartSpecifierHeader, imap.PartSpecifierText, imap.PartSpecifierMIME} {
			readSection(t, s, r, 0, &imap.FetchItemBodySection{Part: path, Specifier: spec})
		}
		readSection(t, s, r, 0, &imap.FetchItemBodySection{Part: path, Specifier: imap.PartSpecifierHeader, HeaderFields: []string{"Subject"}})
		body, size, err := s.Binary(r, 0, &imap.FetchItemBinarySection{Part: path})
		if err == nil {
			readExactly(t, body, size)
		}
		if p.Message != nil {
			p = p.Message.Root
			if len(p.Parts) == 0 {
				walk(p, append(path, 1))
			}
		} else if len(path) == 0 && len(p.Parts) == 0 {
			walk(p, []int{1})
			return
		}
		for i, c := range p.Parts {
			walk(c, append(path[:len(path):len(path)], i+1))
		}
	}
	walk(s.Root, nil)
}

func readSection(t testing.TB, s *Summary, r io.ReaderAt, prefix int, item *imap.FetchItemBodySection) string {
	t.Helper()
	body, size, err := s.Section(r, prefix, item)
	if err != nil {
		t.Fatalf("Section %+v: %v", item, err)
	}
	return readExactly(t, body, size)
}

func readExactly(t testing.TB, r io.Reader, size int64) string {
	t.Helper()
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatalf("read section: %v", err)
	}
	if int64(len(b)) != size {
		t.Fatalf("section has %d octets, told were %d", len(b), size)
	}
	return string(b)
}

// checkCounts counts again, an octet at a time, what Parse counts by the line or
// the buffer.
func checkCounts(t *testing.T, s *Summary, msg []byte) {
	t.Helper()
	var lines, long, longest int64
	var flags Flags
	eightBit := false
	for i, c := range msg {
		crlf := c == '\r' && i+1 < len(msg) && msg[i+1] == '\n'
		switch {
		case c == '\n':
			if i == 0 || msg[i-1] != '\r' {
				flags |= BareLF
			}
			lines++
			long = 0
			continue
		case crlf:
			continue
		case c == '\r':
			flags |= BareCR
		case c == 0:
			flags |= HasNUL
		}
		eightBit = eightBit || c >= 0x80
		long++
		longest = max(longest, long)
	}
	if s.Lines != lines || s.LongestLine != longest {
		t.Fatalf("%d lines, the longest of %d octets; want %d and %d", s.Lines, s.LongestLine, lines, longest)
	}
	if got := s.Flags & (BareLF | BareCR | HasNUL); got != flags {
		t.Fatalf("flags %b, want %b", got, flags)
	}
	if got := s.Flags&(EightBitHeader|EightBitBody) != 0; got != eightBit {
		t.Fatalf("eight-bit %t, want %t", got, eightBit)
	}
}

func FuzzParse(f *testing.F) {
	for _, m := range corpus(f) {
		f.Add(m.data)
	}
	for _, m := range hostile() {
		if len(m.data) < 10_000 {
			f.Add(m.data)
		}
	}
	f.Fuzz(func(t *testing.T, msg []byte) {
		s, err := Parse(bytes.NewReader(msg))
		if err != nil {
			t.Fatalf("Parse: %v", err)
		}
		if s.Size != int64(len(msg)) {
			t.Fatalf("size %d, want %d", s.Size, len(msg))
		}
		if n := len(s.Encode()); n > MaxEncoded {
			t.Fatalf("encodes to %d octets", n)
		}
		if len(s.Preview) > MaxPreview || !utf8.ValidString(s.Preview) {
			t.Fatalf("preview %q", s.Preview)
		}
		checkCounts(t, s, msg)
		checkTree(t, s)
		checkCode(t, s)
		checkSections(t, s, msg)
		checkIMAP(t, s)
		pieces, err := Parse(&slowReader{data: msg, step: 7})
		if err != nil {
			t.Fatalf("Parse in pieces: %v", err)
		}
		diffSummaries(t, s, pieces)
		n, _ := NewNeedle("needle é")
		src := Source{Open: func() (io.ReaderAt, error) { return bytes.NewReader(msg), nil }}
		for _, match := range []func(Source, *Needle) (bool, error){s.MatchBody, s.MatchText} {
			if _, err := match(src, n); err != nil {
				t.Fatalf("match: %v", err)
			}
		}
		s.From()
	})
}

// A slowReader gives a few octets a time, and nothing at times.
type slowReader struct {
	data  []byte
	step  int
	calls int
}

func (r *slowReader) Read(p []byte) (int, error) {
	if r.calls++; r.calls%5 == 0 {
		return 0, nil
	}
	if len(r.data) == 0 {
		return 0, io.EOF
	}
	n := copy(p, r.data[:min(r.step, len(r.data))])
	r.data = r.data[n:]
	return n, nil
}

func FuzzDecode(f *testing.F) {
	for _, m := range corpus(f) {
		s, _ := Parse(bytes.NewReader(m.data))
		f.Add(s.Encode())
	}
	f.Add([]byte{version, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := Decode(b)
		if err != nil {
			return
		}
		checkTree(t, s)
		checkCode(t, s)
		checkSyntax(t, s)
		if e, err := AppendEnvelope(nil, b); err != nil || string(e) != string(s.Header.AppendIMAP(nil)) {
			t.Fatalf("envelope by itself %s, error %v; with the rest %+v", e, err, s.Header)
		}
	})
}

func FuzzEncodedWord(f *testing.F) {
	for _, s := range []string{
		"=?utf-8?q?caf=C3=A9?= =?utf-8?b?w6k=?=", "=?iso-2022-jp?B?GyRCJUYlOSVIGyhC?=", "=?x?q?", "=?utf-8*en?Q?_=?=",
		"=?utf-8?q?=C3?= =?utf-8?q?=A9?=", "=?utf-7?q?+AGE-?=", strings.Repeat("=?a?q?", 50) + "?=",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		out := decodeWords(s)
		if len(out) > 4*len(s)+16 {
			t.Fatalf("%d octets became %d", len(s), len(out))
		}
		if utf8.ValidString(s) && !utf8.ValidString(out) {
			t.Fatalf("%q became invalid: %q", s, out)
		}
		if !strings.Contains(s, "=?") && out != s {
			t.Fatalf("%q changed to %q", s, out)
		}
	})
}

func FuzzAddressList(f *testing.F) {
	for _, s := range []string{
		"a@b.c, \"Q, r\" <d@e.f>", "grp: a@b, c@d;", "undisclosed-recipients:;", "((((((", "<@r1,@r2:a@b>", "a@b <c@d>",
		"<a@b@c>", "root", "=?utf-8?q?x?= <a@[IPv6:::1]>", "\"unclosed", "a b c <", ":;:;", "x@y (Name)", "a . b @ c . d",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, value []byte) {
		total, depth := 0, 0
		scanAddresses(bytes.Clone(value), func(a rawAddress) bool {
			total += len(a.name) + len(a.mailbox) + len(a.host)
			switch {
			case len(a.mailbox) == 0:
				depth--
			case len(a.host) == 0:
				depth++
			}
			if depth < 0 || depth > 1 {
				t.Fatalf("group depth %d in %q", depth, value)
			}
			return true
		})
		if depth != 0 {
			t.Fatalf("group not closed in %q", value)
		}
		if most := 30*len(value) + 30; total > most {
			t.Fatalf("%d octets of addresses from %d", total, len(value))
		}
	})
}
