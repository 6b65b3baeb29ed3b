package imapd

import (
	"strings"
	"testing"

	"github.com/emersion/go-imap/v2"
	"github.com/google/go-cmp/cmp"

	"github.com/covey-mail/covey/storage"
)

func parsed(t *testing.T, line string) command {
	t.Helper()
	cmd, err := parseCommand([]byte(line))
	if err != nil {
		t.Fatalf("%s: %v", line, err)
	}
	return cmd
}

func body(name string, b imap.FetchItemBodySection) fetchPart { return fetchPart{name: name, body: &b} }

func binary(name string, b imap.FetchItemBinarySection) fetchPart {
	return fetchPart{name: name, binary: &b}
}

func TestParseFetch(t *testing.T) {
	size := binary("BINARY.SIZE[1.2]", imap.FetchItemBinarySection{Part: []int{1, 2}, Peek: true})
	size.count = true
	for in, want := range map[string]fetchQuery{
		"all":                         {flags: true, date: true, size: true, envelope: true},
		"Fast":                        {flags: true, date: true, size: true},
		"full":                        {flags: true, date: true, size: true, envelope: true, body: true},
		"(uid Flags internaldate)":    {uids: true, flags: true, date: true},
		"(body bodystructure)":        {body: true, structure: true},
		"rfc822.size":                 {size: true},
		"rfc822":                      {parts: []fetchPart{body("RFC822", imap.FetchItemBodySection{})}},
		"rfc822.peek":                 {parts: []fetchPart{body("RFC822", imap.FetchItemBodySection{Peek: true})}},
		"(rfc822.header rfc822.text)": {parts: []fetchPart{body("RFC822.HEADER", imap.FetchItemBodySection{Peek: true, Specifier: "HEADER"}), body("RFC822.TEXT", imap.FetchItemBodySection{Specifier: "TEXT"})}},
		"body[]":                      {parts: []fetchPart{body("BODY[]", imap.FetchItemBodySection{})}},
		"body.peek[1.2.header]<5.6>": {parts: []fetchPart{
			body("BODY[1.2.HEADER]<5>", imap.FetchItemBodySection{Peek: true, Part: []int{1, 2}, Specifier: "HEADER", Partial: &imap.SectionPartial{Offset: 5, Size: 6}}),
		}},
		"body[3.mime]": {parts: []fetchPart{body("BODY[3.MIME]", imap.FetchItemBodySection{Part: []int{3}, Specifier: "MIME"})}},
		`(body[header.fields (to "c\"c")] body[1.header.fields.not (x)])`: {parts: []fetchPart{
			body(`BODY[HEADER.FIELDS ("to" "c\"c")]`, imap.FetchItemBodySection{Specifier: "HEADER", HeaderFields: []string{"to", `c"c`}}),
			body(`BODY[1.HEADER.FIELDS.NOT ("x")]`, imap.FetchItemBodySection{Part: []int{1}, Specifier: "HEADER", HeaderFieldsNot: []string{"x"}}),
		}},
		"(binary[1]<0.1> binary.peek[])": {parts: []fetchPart{
			binary("BINARY[1]<0>", imap.FetchItemBinarySection{Part: []int{1}, Partial: &imap.SectionPartial{Size: 1}}),
			binary("BINARY[]", imap.FetchItemBinarySection{Peek: true}),
		}},
		"binary.size[1.2]": {parts: []fetchPart{size}},
	} {
		got, err := parseFetch(parsed(t, "a fetch 1 "+in))
		if err != nil {
			t.Errorf("%s: %v", in, err)
			continue
		}
		want.set = numSet{ranges: []numRange{{1, 1}}}
		if d := cmp.Diff(want, *got, cmp.AllowUnexported(fetchQuery{}, fetchPart{}, numSet{}, numRange{})); d != "" {
			t.Errorf("%s (-want +got):\n%s", in, d)
		}
	}
	if q, err := parseFetch(parsed(t, "a uid fetch 3,1:* flags")); err != nil || !q.uid || !q.uids || string(q.set.append(nil)) != "3,1:*" {
		t.Errorf("UID FETCH: %+v, %v", q, err)
	}
}

func TestParseFetchRefuses(t *testing.T) {
	for _, in := range []string{
		"", " 1", " 1 ", " 1 ()", " 1 (all)", " 1 (flags", " 1 flags)", " 1 flags uid", " 1 frob", " 1 all uid", " 1 body[", " 1 body[]<", " 1 body[]<1>", " 1 body[]<1.0>",
		" 1 body[]<4294967296.1>", " 1 body[0]", " 1 body[1.]", " 1 body[1.frob]", " 1 body[mime]", " 1 body[header.fields]", " 1 body[header.fields ()]",
		" 1 body[header.fields (a:)]", " 1 binary[1.]", " 1 binary[text]", " 1 binary.size[1]<0.1>", " 1 body.peek", " 0 flags", " x flags",
		" 1 (" + strings.Repeat("body[header.fields (a)] ", maxPicks) + "body[header.fields (a)])", " 1 (" + strings.Repeat("uid ", maxItems) + "uid)",
		" 1 body[header.fields (" + strings.Repeat("a ", maxFields) + "a)]",
	} {
		if q, err := parseFetch(parsed(t, "a fetch"+in)); err == nil {
			t.Errorf("%s: %+v", in, q)
		}
	}
}

func TestParseStore(t *testing.T) {
	set := numSet{ranges: []numRange{{1, 1}}}
	for in, want := range map[string]storeQuery{
		`a store 1 +flags.silent \seen $x`:  {set: set, op: storage.AddFlags, silent: true, flags: []imap.Flag{`\seen`, "$x"}},
		"a store 1 flags ()":                {set: set, op: storage.SetFlags},
		`a uid store $ -Flags (a \Deleted)`: {set: numSet{saved: true}, uid: true, op: storage.RemoveFlags, flags: []imap.Flag{"a", `\Deleted`}},
		"a uid store 1 flags.Silent (a)":    {set: set, uid: true, op: storage.SetFlags, silent: true, flags: []imap.Flag{"a"}},
	} {
		got, err := parseStore(parsed(t, in))
		if err != nil {
			t.Errorf("%s: %v", in, err)
		} else if d := cmp.Diff(want, *got, cmp.AllowUnexported(storeQuery{}, numSet{}, numRange{})); d != "" {
			t.Errorf("%s (-want +got):\n%s", in, d)
		}
	}
	for _, in := range []string{
		"", " 1", " 1 flags", " 1 flags ", " 1 frob ()", " 1 flags () x", ` 1 flags "x"`, ` 1 flags \Recent`, ` 1 flags (\Seen`, " 1 .silent ()", " 1 +flags a  b",
		" 1 flags " + strings.Repeat("k", 2000), " 1 flags (" + strings.Repeat("k ", 2000) + "k)",
	} {
		if q, err := parseStore(parsed(t, "a store"+in)); err == nil {
			t.Errorf("%.40s: %+v", in, q)
		}
	}
}

// FuzzParseFetch: nothing panics, and what is taken has names that could be sent.
func FuzzParseFetch(f *testing.F) {
	for _, s := range []string{" 1:* (uid body.peek[1.header.fields (a b)]<1.2> binary[1])", " $ full", ` 1 body[header.fields ("` + "\x80" + `")]`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, args []byte) {
		q, err := parseFetch(command{name: "FETCH", args: args})
		if err != nil {
			return
		}
		for _, p := range q.parts {
			if (p.body == nil) == (p.binary == nil) || strings.ContainsAny(p.name, "\r\n\x00") || !strings.HasPrefix(p.name, "BODY[") && !strings.HasPrefix(p.name, "BINARY") && !strings.HasPrefix(p.name, "RFC822") {
				t.Errorf("%q: part %+v", args, p)
			}
		}
		if _, err := parseStore(command{name: "STORE", args: args}); err != nil && err.Text == "" {
			t.Errorf("refused without a word")
		}
	})
}
