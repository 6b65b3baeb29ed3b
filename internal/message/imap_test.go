package message

import (
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fetchWire returns what FETCH says of a message.
func fetchWire(s *Summary) string {
	b := s.Header.AppendIMAP([]byte("ENVELOPE "))
	b = s.AppendBodyStructure(append(b, " BODYSTRUCTURE "...))
	return string(s.AppendBody(append(b, " BODY "...)))
}

// The answer as IMAP syntax has it: nil, string, number, list.
type (
	imapNIL  struct{}
	imapList []any
)

// An imapReader reads values strictly (RFC 3501 section 9).
type imapReader struct {
	t testing.TB
	s string
}

func (r *imapReader) value() any {
	r.t.Helper()
	switch {
	case strings.HasPrefix(r.s, "NIL"):
		r.s = r.s[3:]
		return imapNIL{}
	case strings.HasPrefix(r.s, "("):
		return r.list()
	case strings.HasPrefix(r.s, `"`):
		return r.quoted()
	case strings.HasPrefix(r.s, "{"):
		return r.literal()
	}
	n := strings.IndexFunc(r.s, func(c rune) bool { return c < '0' || c > '9' })
	v, err := strconv.ParseInt(r.s[:max(n, 0)], 10, 64)
	if err != nil || v < 0 {
		r.t.Fatalf("no value: %.80q", r.s)
	}
	r.s = r.s[n:]
	return v
}

func (r *imapReader) list() any {
	r.s = r.s[1:]
	l := imapList{}
	for !strings.HasPrefix(r.s, ")") {
		l = append(l, r.value())
		adjacent := strings.HasPrefix(r.s, "(") // bodies of a multipart, addresses
		if !adjacent && !strings.HasPrefix(r.s, ")") {
			if r.s == "" || r.s[0] != ' ' {
				r.t.Fatalf("want space or ), have %.80q", r.s)
			}
			r.s = r.s[1:]
		}
	}
	if len(l) == 0 {
		r.t.Fatalf("empty list before %.80q", r.s)
	}
	r.s = r.s[1:]
	return l
}

func (r *imapReader) quoted() string {
	var b strings.Builder
	for i := 1; i < len(r.s); i++ {
		c := r.s[i]
		switch {
		case c == '"':
			r.s = r.s[i+1:]
			return b.String()
		case c == '\\':
			if i++; r.s[i] != '"' && r.s[i] != '\\' {
				r.t.Fatalf("escaped %q", r.s[i])
			}
			c = r.s[i]
		case c < ' ' || c >= 0x7f:
			r.t.Fatalf("octet %#x in quoted string %.80q", c, r.s)
		}
		b.WriteByte(c)
	}
	r.t.Fatalf("unclosed quoted string %.80q", r.s)
	return ""
}

func (r *imapReader) literal() string {
	size, rest, ok := strings.Cut(r.s[1:], "}\r\n")
	n, err := strconv.Atoi(size)
	if !ok || err != nil || n > len(rest) {
		r.t.Fatalf("literal %.80q", r.s)
	}
	r.s = rest[n:]
	s := rest[:n]
	for i := range len(s) {
		if s[i] < ' ' || s[i] == 0x7f {
			r.t.Fatalf("control character in %.200q", s)
		}
	}
	if !utf8.ValidString(s) {
		r.t.Fatalf("invalid UTF-8 in %.200q", s)
	}
	return s
}

// checkIMAP fails unless what FETCH says of a message that was parsed is as the
// grammar has it.
func checkIMAP(t testing.TB, s *Summary) {
	t.Helper()
	envelope, structure, body := checkSyntax(t, s)
	checkEnvelope(t, envelope)
	checkBody(t, structure, extensionFields)
	checkBody(t, body, 0)
}

// checkSyntax fails unless what FETCH says of any Summary is made of IMAP's values.
func checkSyntax(t testing.TB, s *Summary) (envelope, structure, body any) {
	t.Helper()
	r := &imapReader{t: t, s: fetchWire(s)}
	r.item("ENVELOPE ")
	envelope = r.value()
	r.item(" BODYSTRUCTURE ")
	structure = r.value()
	r.item(" BODY ")
	body = r.value()
	if r.s != "" {
		t.Fatalf("left over: %.80q", r.s)
	}
	return envelope, structure, body
}

// item reads the name of an item.
func (r *imapReader) item(name string) {
	r.t.Helper()
	rest, ok := strings.CutPrefix(r.s, name)
	if !ok {
		r.t.Fatalf("want %q, have %.80q", name, r.s)
	}
	r.s = rest
}

// extensionFields is how many fields of BODYSTRUCTURE are not in BODY.
const extensionFields = 4

func nstring(t testing.TB, v any) {
	t.Helper()
	switch v.(type) {
	case string, imapNIL:
	default:
		t.Fatalf("%v is no nstring", v)
	}
}

func checkEnvelope(t testing.TB, v any) {
	t.Helper()
	e, _ := v.(imapList)
	if len(e) != 10 {
		t.Fatalf("envelope of %d fields: %v", len(e), v)
	}
	for _, i := range []int{0, 1, 8, 9} {
		nstring(t, e[i])
	}
	for _, f := range e[2:8] {
		if _, ok := f.(imapNIL); ok {
			continue
		}
		group := false
		for _, a := range f.(imapList) {
			l, _ := a.(imapList)
			if len(l) != 4 {
				t.Fatalf("address %v", a)
			}
			_, noBox := l[2].(imapNIL)
			_, noHost := l[3].(imapNIL)
			switch {
			case noBox && noHost && group:
				group = false
			case noHost && !noBox && !group:
				group = true
			case noHost || noBox:
				t.Fatalf("address %v out of place in %v", a, f)
			}
		}
		if group {
			t.Fatalf("group without end in %v", f)
		}
	}
}

func checkBody(t testing.TB, v any, extension int) {
	t.Helper()
	b, _ := v.(imapList)
	if len(b) == 0 {
		t.Fatalf("body %v", v)
	}
	if _, ok := b[0].(imapList); ok {
		i := 0
		for ; i < len(b); i++ {
			if _, ok := b[i].(imapList); !ok {
				break
			}
			checkBody(t, b[i], extension)
		}
		if len(b) != i+1+extension {
			t.Fatalf("multipart with %d parts has %d elements", i, len(b))
		}
		if s, ok := b[i].(string); !ok || s == "" {
			t.Fatalf("subtype %v", b[i])
		}
		return
	}
	checkSinglePart(t, b, extension)
}

func checkSinglePart(t testing.TB, b imapList, extension int) {
	t.Helper()
	want := 7 + extension // type, subtype, parameters, id, description, encoding, size
	kind, sub := b[0].(string), b[1].(string)
	switch {
	case kind == "text":
		want++
		if n := b[7].(int64); n > b[6].(int64) {
			t.Fatalf("%d lines in %d octets", n, b[6])
		}
	case kind == "message" && (sub == "rfc822" || sub == "global"):
		want += 3
		checkEnvelope(t, b[7])
		checkBody(t, b[8], extension)
	}
	if kind == "" || kind == "multipart" || sub == "" || len(b) != want {
		t.Fatalf("part %v has %d elements, want %d", b, len(b), want)
	}
	nstring(t, b[3])
	nstring(t, b[4])
	if s, ok := b[5].(string); !ok || s == "" {
		t.Fatalf("encoding %v", b[5])
	}
}

// TestEnvelopeSyntax is RFC 9051 section 7.5.2 and its grammar, octet by octet.
func TestEnvelopeSyntax(t *testing.T) {
	for _, tt := range []struct{ what, header, want string }{
		{"two addresses", "From: a@b.c, \"D\\\\ \\\"E\" <d@e.f>\r\n",
			`(NIL NIL ((NIL NIL "a" "b.c")("D\\ \"E" NIL "d" "e.f")) ((NIL NIL "a" "b.c")("D\\ \"E" NIL "d" "e.f")) ((NIL NIL "a" "b.c")("D\\ \"E" NIL "d" "e.f")) NIL NIL NIL NIL NIL)`},
		{"sender and reply-to", "From: a@b.c\r\nSender: s@b.c\r\nReply-To: r@b.c\r\n",
			`(NIL NIL ((NIL NIL "a" "b.c")) ((NIL NIL "s" "b.c")) ((NIL NIL "r" "b.c")) NIL NIL NIL NIL NIL)`},
		{"empty ones", "From: a@b.c\r\nSender:\r\nReply-To: \r\n",
			`(NIL NIL ((NIL NIL "a" "b.c")) ((NIL NIL "a" "b.c")) ((NIL NIL "a" "b.c")) NIL NIL NIL NIL NIL)`},
		{"a group", "To: g: a@b.c, d@e.f;, h: ;\r\n",
			`(NIL NIL NIL NIL NIL ((NIL NIL "g" NIL)(NIL NIL "a" "b.c")(NIL NIL "d" "e.f")(NIL NIL NIL NIL)(NIL NIL "h" NIL)(NIL NIL NIL NIL)) NIL NIL NIL NIL)`},
		{"dates as they are", "Date: Fri, 2 Jan 26 10:00 +0100 (CET)\r\n", `("Fri, 2 Jan 26 10:00 +0100 (CET)" NIL NIL NIL NIL NIL NIL NIL NIL NIL)`},
		{"also bad ones", "Date: yesterday\r\n", `("yesterday" NIL NIL NIL NIL NIL NIL NIL NIL NIL)`},
		{"ids as they are", "Message-ID: no brackets at all\r\nIn-Reply-To: Your message of Monday <1@a>\r\n <2@b>\r\n",
			`(NIL NIL NIL NIL NIL NIL NIL NIL "Your message of Monday <1@a> <2@b>" "no brackets at all")`},
		{"encoded words stay", "Subject: =?utf-8?q?caf=C3=A9?= =?x?q?y?=\r\n", `(NIL "=?utf-8?q?caf=C3=A9?= =?x?q?y?=" NIL NIL NIL NIL NIL NIL NIL NIL)`},
		{"8-bit text becomes them", "Subject: caf\xc3\xa9 =?utf-8?q?=C3=A9?=\r\nTo: \xc3\xa9 <a@b.c>\r\n",
			`(NIL "=?utf-8?q?caf=C3=A9_=C3=A9?=" NIL NIL NIL (("=?utf-8?q?=C3=A9?=" NIL "a" "b.c")) NIL NIL NIL NIL)`},
		{"8-bit addresses do not", "To: \xc3\xa9@b.c\r\n", "(NIL NIL NIL NIL NIL ((NIL NIL {2}\r\n\xc3\xa9 \"b.c\")) NIL NIL NIL NIL)"},
	} {
		s := mustParse(t, tt.header+"\r\n")
		if got := string(s.Header.AppendIMAP(nil)); got != tt.want {
			t.Errorf("%s:\n got %s\nwant %s", tt.what, got, tt.want)
		}
		if got, err := AppendEnvelope(nil, s.Encode()); err != nil || string(got) != tt.want {
			t.Errorf("%s, stored: %s, error %v", tt.what, got, err)
		}
	}
}

// TestStructureSyntax is the same of bodies.
func TestStructureSyntax(t *testing.T) {
	for _, tt := range []struct{ what, header, want string }{
		{"nothing given", "", `("text" "plain" ("charset" "us-ascii") NIL NIL "7bit" 2 1 NIL NIL NIL NIL)`},
		{"an empty charset", "Content-Type: text/html; a=b; charset=\r\n", `("text" "html" ("a" "b" "charset" "us-ascii") NIL NIL "7bit" 2 1 NIL NIL NIL NIL)`},
		{"all there is", "Content-Type: image/png; name=\"a b\"\r\nContent-Transfer-Encoding: BASE64\r\nContent-ID: <i>\r\nContent-Description: \xc3\xa9\r\n" +
			"Content-MD5: m\r\nContent-Disposition: inline; filename=f; size=1\r\nContent-Language: de, en\r\nContent-Location: l\r\n",
			`("image" "png" ("name" "a b") "<i>" "=?utf-8?q?=C3=A9?=" "base64" 2 "m" ("inline" ("filename" "f" "size" "1")) ("de" "en") "l")`},
		{"a disposition alone", "Content-Type: a/b\r\nContent-Disposition: attachment\r\n", `("a" "b" NIL NIL NIL "7bit" 2 NIL ("attachment" NIL) NIL NIL)`},
	} {
		s := mustParse(t, tt.header+"\r\n\r\n")
		if got := string(s.AppendBodyStructure(nil)); got != tt.want {
			t.Errorf("%s:\n got %s\nwant %s", tt.what, got, tt.want)
		}
	}
}
