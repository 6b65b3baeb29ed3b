package message

import (
	"bufio"
	"fmt"
	"io"
	"log"
	"net"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/emersion/go-imap/v2"
	"github.com/emersion/go-imap/v2/imapserver"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A fetchSession is an IMAP session with one mailbox of one message, of which
// only the summary is known.
type fetchSession struct {
	imapserver.Session // what is not called
	s                  *Summary
}

func (*fetchSession) Close() error { return nil }
func (*fetchSession) Select(string, *imap.SelectOptions) (*imap.SelectData, error) {
	return &imap.SelectData{NumMessages: 1, UIDNext: 2, UIDValidity: 1}, nil
}
func (*fetchSession) Poll(*imapserver.UpdateWriter, bool) error { return nil }
func (f *fetchSession) Fetch(w *imapserver.FetchWriter, _ imap.NumSet, o *imap.FetchOptions) error {
	m := w.CreateMessage(1)
	if o.Envelope {
		m.WriteEnvelope(f.s.Envelope())
	}
	if o.BodyStructure != nil {
		m.WriteBodyStructure(f.s.BodyStructure())
	}
	return m.Close()
}

// fetchWire returns what go-imap's server answers to a FETCH of items.
func fetchWire(t testing.TB, s *Summary, items string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := imapserver.New(&imapserver.Options{
		NewSession: func(*imapserver.Conn) (imapserver.Session, *imapserver.GreetingData, error) {
			return &fetchSession{s: s}, &imapserver.GreetingData{PreAuth: true}, nil
		},
		Logger: log.New(io.Discard, "", 0),
	})
	done := make(chan error, 1)
	go func() { done <- srv.Serve(l) }()
	defer func() { srv.Close(); <-done }()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	fmt.Fprintf(c, "a SELECT x\r\nb FETCH 1 %s\r\nc LOGOUT\r\n", items)
	all, err := io.ReadAll(bufio.NewReader(c))
	if err != nil {
		t.Fatalf("read answer: %v", err)
	}
	text := string(all)
	start, end := strings.Index(text, "* 1 FETCH "), strings.Index(text, "b OK")
	if start < 0 || end < start {
		t.Fatalf("no answer to FETCH, but %.300q", text)
	}
	return text[start:end]
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

// checkFetch fails unless an answer to (ENVELOPE BODYSTRUCTURE) is one by the
// grammar.
func checkFetch(t testing.TB, wire string) {
	t.Helper()
	rest, ok := strings.CutPrefix(wire, "* 1 FETCH (ENVELOPE ")
	if !ok {
		t.Fatalf("answer starts %.80q", wire)
	}
	r := &imapReader{t: t, s: rest}
	checkEnvelope(t, r.value())
	if r.s, ok = strings.CutPrefix(r.s, " BODYSTRUCTURE "); !ok {
		t.Fatalf("want BODYSTRUCTURE, have %.80q", r.s)
	}
	checkBody(t, r.value())
	if r.s != ")\r\n" {
		t.Fatalf("left over: %.80q", r.s)
	}
}

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

func checkBody(t testing.TB, v any) {
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
			checkBody(t, b[i])
		}
		if len(b) != i+5 {
			t.Fatalf("multipart with %d parts has %d elements", i, len(b))
		}
		if s, ok := b[i].(string); !ok || s == "" {
			t.Fatalf("subtype %v", b[i])
		}
		return
	}
	checkSinglePart(t, b)
}

func checkSinglePart(t testing.TB, b imapList) {
	t.Helper()
	want := 11 // type, subtype, parameters, id, description, encoding, size, md5, disposition, language, location
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
		checkBody(t, b[8])
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

// checkIMAP fails if something in the values for go-imap would make it panic or
// write what is no syntax. It checks what fetchWire and checkFetch check, but
// without a connection.
func checkIMAP(t testing.TB, s *Summary) {
	t.Helper()
	checkIMAPEnvelope(t, s.Envelope())
	checkIMAPBody(t, s.BodyStructure())
}

func checkStrings(t testing.TB, list ...string) {
	t.Helper()
	for _, s := range list {
		if !utf8.ValidString(s) || strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f }) {
			t.Fatalf("string for IMAP: %q", s)
		}
	}
}

func checkIMAPEnvelope(t testing.TB, e *imap.Envelope) {
	t.Helper()
	checkStrings(t, e.Subject, e.MessageID)
	checkStrings(t, e.InReplyTo...)
	if y := e.Date.Year(); !e.Date.IsZero() && (y < minYear || y > maxYear) {
		t.Fatalf("year %d", y)
	}
	for _, l := range [][]imap.Address{e.From, e.Sender, e.ReplyTo, e.To, e.Cc, e.Bcc} {
		if l != nil && len(l) == 0 {
			t.Fatal("empty list that is not nil")
		}
		for _, a := range l {
			checkStrings(t, a.Name, a.Mailbox, a.Host)
		}
	}
}

func checkIMAPBody(t testing.TB, bs imap.BodyStructure) {
	t.Helper()
	switch b := bs.(type) {
	case *imap.BodyStructureMultiPart:
		if len(b.Children) == 0 || b.Extended == nil {
			t.Fatalf("multipart %+v", b)
		}
		checkStrings(t, b.Subtype, b.Extended.Location)
		for _, c := range b.Children {
			checkIMAPBody(t, c)
		}
	case *imap.BodyStructureSinglePart:
		if b.Extended == nil || (b.Type == "text") != (b.Text != nil) {
			t.Fatalf("part %+v", b)
		}
		checkStrings(t, b.Type, b.Subtype, b.ID, b.Description, b.Encoding, b.Extended.Location)
		for k, v := range b.Params {
			checkStrings(t, k, v)
		}
		if isMessage(b.Type+"/"+b.Subtype) != (b.MessageRFC822 != nil) {
			t.Fatalf("part %+v", b)
		}
		if b.MessageRFC822 != nil {
			checkIMAPEnvelope(t, b.MessageRFC822.Envelope)
			checkIMAPBody(t, b.MessageRFC822.BodyStructure)
		}
	}
}
