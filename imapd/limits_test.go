package imapd

import (
	"fmt"
	"io"
	"runtime"
	"strings"
	"testing"
	"time"
)

func TestI02_UnaskedLiteralTooBig(t *testing.T) {
	for _, cmd := range []string{"CREATE {4097+}", "SEARCH TEXT {9999999+}", "APPEND INBOX {99999999+}", "FROB {4097+}"} {
		r := start(t, nil)
		c := r.login(t, "alice")
		c.send("a " + cmd + "\r\nb CREATE evil\r\n")
		if got := c.line(); !strings.HasPrefix(got, "a NO [TOOBIG]") {
			t.Errorf("%s: got %q", cmd, got)
		}
		c.bye("* BYE [TOOBIG]")
		if got := r.login(t, "alice").ok(`LIST "" evil`); len(got) != 0 {
			t.Errorf("%s: what stood in the literal was done: %q", cmd, got)
		}
	}
}

func TestI02_UnaskedLiteralWithinTheLimit(t *testing.T) {
	r := start(t, nil)
	c := r.login(t, "alice")
	name := repeat("n", 200)
	c.ok("CREATE {%d+}\r\n%s", len(name), name)
	// Refused for another reason, and of a length that is known.
	c.want("BAD", "FROB {12+}\r\nb CREATE evl")
	c.want("BAD", "APPEND INBOX (\\Frob) {20+}\r\nb CREATE evil\r\n\r\n\r\n\r\n")
	c.want("NO [CANNOT]", "APPEND ../x {17+}\r\nb CREATE evil\r\n\r\n")
	if got := c.ok(`LIST "" e*`); len(got) != 0 {
		t.Errorf("what stood in a literal was done: %q", got)
	}
}

func TestI03_ManyLiterals(t *testing.T) {
	r := start(t, nil)
	c := r.selected(t, "alice")
	cmd := "SEARCH" + strings.Repeat(" TEXT {1+}\r\nx", 101)
	c.send("a " + cmd)
	if got := c.line(); !strings.HasPrefix(got, "a NO [LIMIT]") {
		t.Errorf("got %q", got)
	}
	c.bye("* BYE [LIMIT]")

	c = r.selected(t, "alice")
	big := repeat("x", 4096)
	c.send("a SEARCH" + strings.Repeat(" TEXT {4096+}\r\n"+big, 16) + " TEXT {1}\r\n")
	if got := c.line(); !strings.HasPrefix(got, "a NO [LIMIT]") {
		t.Errorf("got %q", got)
	}
	c.ok("NOOP")
	c.want("NO [TOOBIG]", "SEARCH TEXT {4097}")
}

func TestI04_LongLine(t *testing.T) {
	r := start(t, nil)
	for _, cmd := range []string{"UID FETCH " + repeat("1,", 1<<19), "SELECT \"" + repeat("x", 1<<20) + "\""} {
		c := r.selected(t, "alice")
		go func() { _, _ = io.WriteString(c.conn, "a "+cmd+"\r\n") }() // the server closes before all is written
		got, err := c.read()
		if err == nil && !strings.HasPrefix(got, "a BAD") {
			t.Errorf("got %q", got)
		}
		_, _ = io.Copy(io.Discard, c.br) // ends, however
	}
}

func TestI05_Nesting(t *testing.T) {
	r := start(t, nil)
	c := r.selected(t, "alice")
	for _, cmd := range []string{"SEARCH", "FETCH 1", "LIST", "STATUS INBOX", "FROB"} {
		c.want("BAD", "%s %s", cmd, repeat("(", 10000))
		c.want("BAD", "%s %s%s", cmd, repeat("(", 101), repeat(")", 101))
	}
	c.ok("SEARCH %sALL%s", repeat("(", 90), repeat(")", 90))
}

func TestI07_MessageTooBig(t *testing.T) {
	c := start(t, func(_ *rig, cfg *Config) { cfg.AppendLimit = 100 }).login(t, "alice")
	if got := c.ok("CAPABILITY"); !contained(got, " APPENDLIMIT=100") {
		t.Errorf("got %q", got)
	}
	c.want("NO [TOOBIG]", "APPEND INBOX {101}")
	c.append("INBOX", repeat("x", 100))
	if got := c.ok("STATUS INBOX (MESSAGES APPENDLIMIT)"); !contained(got, "(MESSAGES 1 APPENDLIMIT 100)") {
		t.Errorf("got %q", got)
	}
}

func TestI08_EmptyMessage(t *testing.T) {
	c := start(t, nil).login(t, "alice")
	c.send("a APPEND INBOX {0}\r\n")
	if got := c.line(); !strings.HasPrefix(got, "+") {
		t.Fatalf("got %q", got)
	}
	c.send("\r\n")
	if _, got := c.until("a"); !strings.HasPrefix(got, "NO") {
		t.Errorf("got %q", got)
	}
	c.want("NO", "APPEND INBOX {0+}\r\n")
	c.ok("NOOP")
}

func TestI09_MessageThatDoesNotArrive(t *testing.T) {
	r := start(t, func(_ *rig, cfg *Config) { cfg.ReadTime = 100 * time.Millisecond })
	c := r.login(t, "alice")
	c.send("a APPEND INBOX {10000000+}\r\nSubject: x\r\n")
	if got := c.line(); !strings.HasPrefix(got, "* BYE") {
		t.Errorf("stalled: got %q", got)
	}
	c.closed()
	for _, part := range []string{"{100+}\r\nhalf", "{4+}\r\nhalf", "{4+}\r\nhal", "{4+}\r\nhalf\r"} {
		c = r.login(t, "alice")
		c.send("a APPEND INBOX " + part)
		if err := c.conn.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, c.br) // until the server has given up
	}
	c = r.login(t, "alice")
	if got := c.ok("STATUS INBOX (MESSAGES)"); !contained(got, "(MESSAGES 0)") {
		t.Errorf("got %q", got)
	}
}

func TestI12_CompressIsNotOffered(t *testing.T) {
	c := start(t, nil).login(t, "alice")
	if got := c.ok("CAPABILITY"); contained(got, "COMPRESS") {
		t.Errorf("got %q", got)
	}
	c.want("BAD", "COMPRESS DEFLATE")
	c.want("BAD", "COMPRESS DEFLATE")
	c.ok("NOOP")
}

func TestI13_BadCommands(t *testing.T) {
	r := start(t, nil)
	for _, tt := range []struct{ name, say, want string }{
		{"unknown", "a FROB\r\n", "a BAD"},
		{"unknown with UID", "a UID FROB 1\r\n", "a BAD"},
		{"UID alone", "a UID\r\n", "a BAD"},
		{"wrong state", "a FETCH 1 ALL\r\n", "a BAD"},
		{"wrong state, search", "a SEARCH ALL\r\n", "a BAD"},
		{"wrong state, search to save", "a SEARCH RETURN (SAVE) ALL\r\n", "a BAD"},
		{"wrong state, close", "a CLOSE\r\n", "a BAD"},
		{"tag of a plus", "+ NOOP\r\n", "* BAD"},
		{"no tag", " NOOP\r\n", "* BAD"},
		{"nothing", "\r\n", "* BAD"},
		{"long tag", repeat("t", 10<<10) + " NOOP\r\n", "* BAD"},
		{"tag with a bracket", "a] NOOP\r\n", "* BAD"},
		{"two spaces", "a  NOOP\r\n", "a BAD"},
		{"arguments where none belong", "a NOOP NOOP\r\n", "a BAD"},
		{"DONE without IDLE", "DONE\r\n", "DONE BAD"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := r.login(t, "alice")
			c.send(tt.say)
			if got := c.line(); !strings.HasPrefix(got, tt.want) {
				t.Errorf("got %q, want %q", got, tt.want)
			}
			c.ok("NOOP")
		})
	}
	t.Run("many", func(t *testing.T) {
		c := r.login(t, "alice")
		for range maxFaults {
			c.want("BAD", "FROB")
		}
		c.bye("* BYE")
	})
}

func TestI15_Sets(t *testing.T) {
	r := start(t, nil)
	for range 3 {
		r.deliver(t, "alice", "INBOX", testMessage)
	}
	c := r.selected(t, "alice")
	for _, set := range []string{"0", "4294967296", "1:0", "1:", ":1", "1,,2", ",", "-1", "1:2:3", "99999999999999999999", "x"} {
		for _, cmd := range []string{"FETCH %s FLAGS", "UID FETCH %s FLAGS", "UID SEARCH UID %s", "UID STORE %s FLAGS ()", "UID COPY %s INBOX", "UID EXPUNGE %s"} {
			c.want("BAD", cmd, set)
		}
		c.ok("NOOP") // so many bad commands in a row would end the session
	}
	numbers := func(lines []string) string {
		var b strings.Builder
		for _, l := range lines {
			b.WriteString(strings.Fields(l)[1])
		}
		return b.String()
	}
	for set, want := range map[string]string{
		"1:4294967295": "123", "*": "3", "*:*": "3", "3:1": "123", "*:1": "123", "9:*": "3", "2,2,2": "2",
		"3,1": "13", "9": "", "4294967295": "", "1:2,2:3": "123",
	} {
		if got := numbers(c.ok("UID FETCH %s FLAGS", set)); got != want {
			t.Errorf("UID FETCH %s: got %q, want %q", set, got, want)
		}
	}
	for set, want := range map[string]string{"*": "3", "9:*": "3", "2:*": "23", "3:2": "23"} {
		if got := numbers(c.ok("FETCH %s FLAGS", set)); got != want {
			t.Errorf("FETCH %s: got %q, want %q", set, got, want)
		}
	}
	var big strings.Builder
	for i := range 8000 {
		fmt.Fprintf(&big, "%d,", 2*(9000-i))
	}
	if got := numbers(c.ok("UID FETCH %s1:2 FLAGS", big.String())); got != "12" {
		t.Errorf("large set: got %q", got)
	}
	c.ok("SELECT Trash") // empty
	for _, set := range []string{"*", "1:*", "*:*"} {
		if got := c.ok("FETCH %s FLAGS", set); len(got) != 0 {
			t.Errorf("%s of nothing: %q", set, got)
		}
	}
}

func TestI16_FetchWhatIsNotThere(t *testing.T) {
	r := start(t, nil)
	r.deliver(t, "alice", "INBOX", testMessage)
	c := r.selected(t, "alice")
	c.want("BAD", "FETCH 2 FLAGS")
	c.want("BAD", "FETCH 1:2 FLAGS")
	c.want("BAD", "STORE 2 FLAGS ()")
	c.want("BAD", "COPY 2 Trash")
	c.want("BAD", "MOVE 2 Trash")
	c.want("BAD", "SEARCH 2")
	if got := c.ok("UID FETCH 2:9 FLAGS"); len(got) != 0 {
		t.Errorf("got %q", got)
	}
	if _, got := c.cmd("UID COPY 7 Trash"); got != "OK COPY completed" {
		t.Errorf("got %q", got)
	}
	c.ok("UID MOVE 7 Trash")
	c.ok("UID STORE 7 FLAGS ()")
}

func TestI21_HeavySearches(t *testing.T) {
	r := start(t, nil)
	r.deliver(t, "alice", "INBOX", testMessage)
	c := r.selected(t, "alice")
	c.want("BAD", "SEARCH %sALL", repeat("NOT ", 10000))
	c.want("BAD", "SEARCH %sALL ALL", repeat("OR ALL ", 6000))
	c.want("NO [LIMIT]", "SEARCH %sALL", repeat("ALL ", 5000))
	if got := c.ok("SEARCH %sALL", repeat("NOT ", 90)); !contained(got, "* SEARCH 1") {
		t.Errorf("got %q", got)
	}
	for _, charset := range []string{"ISO-8859-1", "X", `"KOI8-R"`} {
		if _, got := c.cmd("SEARCH CHARSET %s TEXT x", charset); !strings.HasPrefix(got, "NO [BADCHARSET (UTF-8)]") {
			t.Errorf("%s: got %q", charset, got)
		}
	}
	if _, got := c.cmd("SEARCH CHARSET UTF-8 TEXT {2+}\r\n\xff\xfe"); !strings.HasPrefix(got, "NO [BADCHARSET (UTF-8)]") {
		t.Errorf("got %q", got)
	}
	c.want("NO [LIMIT]", "SEARCH TEXT {4000+}\r\n%s", repeat("x", 4000))
}

func TestI21_SearchThatTakesTooLong(t *testing.T) {
	r := start(t, func(_ *rig, cfg *Config) { cfg.SearchTime = time.Nanosecond })
	r.deliver(t, "alice", "INBOX", testMessage)
	c := r.selected(t, "alice")
	c.want("NO [LIMIT]", "SEARCH TEXT nowhere")
	c.want("NO [LIMIT]", "SEARCH RETURN (SAVE) TEXT nowhere")
	c.ok("SEARCH ALL")
	c.ok("NOOP")
}

func TestI25_Flags(t *testing.T) {
	r := start(t, nil)
	r.deliver(t, "alice", "INBOX", testMessage)
	c := r.selected(t, "alice")
	var many, some []string
	for i := range 10000 {
		many = append(many, fmt.Sprint(i))
	}
	for i := range 65 {
		some = append(some, fmt.Sprint("k", i))
	}
	c.want("NO [LIMIT]", "STORE 1 +FLAGS (%s)", strings.Join(many[:8000], " "))
	c.want("NO [LIMIT]", "STORE 1 +FLAGS %s", strings.Join(many[:8000], " "))
	c.want("NO [LIMIT]", "STORE 1 +FLAGS (%s)", strings.Join(some, " "))
	c.ok("STORE 1 +FLAGS (%s)", strings.Join(some[:64], " "))
	c.want("NO [LIMIT]", "STORE 1 +FLAGS (one-more)")
	c.want("NO [LIMIT]", "STORE 1 +FLAGS (%s)", repeat("f", 10<<10))
	c.want("NO [LIMIT]", "APPEND INBOX (%s) {3+}\r\nabc", strings.Join(some, " "))
	for _, f := range []string{`\Recent`, `\*`, `\Frob`, `\`, "a]b", "a{b", `"x"`, "x\x01"} {
		c.want("BAD", "STORE 1 +FLAGS (%s)", f)
		c.want("BAD", "APPEND INBOX (%s) {3+}\r\nabc", f)
	}
	if got := c.ok("STATUS INBOX (MESSAGES)"); !contained(got, "(MESSAGES 1)") {
		t.Errorf("got %q", got)
	}
	t.Run("of a mailbox", func(t *testing.T) {
		for i := range 3 {
			c.ok("STORE 1 FLAGS (%s)", strings.Join(many[100*i:100*i+60], " "))
		}
		got := c.want("NO [LIMIT]", "STORE 1 FLAGS (%s)", strings.Join(many[500:560], " "))
		if len(got) != 0 {
			t.Errorf("got %q", got)
		}
	})
}

func TestI26_Sections(t *testing.T) {
	r := start(t, nil)
	r.deliver(t, "alice", "INBOX", testMessage)
	r.deliver(t, "alice", "INBOX", "MIME-Version: 1.0\r\nContent-Transfer-Encoding: x-frob\r\n\r\nabc\r\n")
	c := r.selected(t, "alice")
	var names []string
	for i := range 300 {
		names = append(names, fmt.Sprint("X-", i))
	}
	c.want("NO [LIMIT]", "FETCH 1 BODY.PEEK[HEADER.FIELDS (%s)]", strings.Join(names, " "))
	c.ok("FETCH 1 BODY.PEEK[HEADER.FIELDS (%s)]", strings.Join(names[:256], " "))
	c.ok("FETCH 1 (%sUID)", repeat("BODY.PEEK[HEADER.FIELDS (To)] ", maxPicks))
	c.want("NO [LIMIT]", "FETCH 1 (%sUID)", repeat("BODY.PEEK[HEADER.FIELDS (To)] ", maxPicks+1))
	c.want("NO [UNKNOWN-CTE]", "FETCH 2 BINARY.PEEK[1]")
	c.want("NO [UNKNOWN-CTE]", "FETCH 2 BINARY.SIZE[1]")
	for item, want := range map[string]string{
		"BODY[" + repeat("1.", 500) + "1]":    "{0}\r\n)",
		"BODY[]<4294967295.1>":                "BODY[]<4294967295> {0}\r\n)",
		"BODY[]<0.4294967295>":                "BODY[]<0> {167}\r\n",
		"BODY[2]":                             "BODY[2] {0}\r\n)",
		"BODY[TEXT]<22.100>":                  "BODY[TEXT]<22> {0}\r\n)",
		"BODY[1.MIME]":                        "BODY[1.MIME] {",
		"BODY[1]":                             "BODY[1] {22}\r\nThe quick brown fox.\r\n)",
		"BODY[HEADER.FIELDS.NOT (From Date)]": "{74}\r\nTo: bob@example.net\r\nSubject: hello world\r\nMessage-ID: <1@example.org>\r\n\r\n)",
		"BINARY[1]<4.5>":                      "~{5}\r\nquick)",
		"BINARY.SIZE[1]":                      "BINARY.SIZE[1] 22)",
		"RFC822.TEXT":                         "RFC822.TEXT {22}\r\n",
		"RFC822.HEADER":                       "RFC822.HEADER {145}\r\n",
		"RFC822":                              "RFC822 {167}\r\n",
	} {
		if got := c.ok("FETCH 1 %s", item); !contained(got, want) {
			t.Errorf("%.60s: got %q, want %q", item, got, want)
		}
	}
	for _, item := range []string{
		"BODY[0]", "BODY[1.0]", "BODY[4294967296]", "BODY[1.]", "BODY[.1]", "BODY[MIME]", "BODY[FROB]", "BODY[HEADER.FIELDS]",
		"BODY[HEADER.FIELDS ()]", "BODY[HEADER.FIELDS (\"\")]", "BODY[HEADER.FIELDS (\"a:b\")]", "BODY[]<1>", "BODY[]<1.0>", "BODY[]<-1.1>",
		"BODY[]<4294967296.1>", "BODY[]<1.4294967296>", "BODY[", "BODY[]]", "BODY.PEEK", "FROB", "()", "(ALL)", "(FLAGS", "FLAGS UID",
		"BINARY[TEXT]", "BINARY[1.]", "BINARY.SIZE", "BINARY", "MODSEQ", "PREVIEW", "X-GM-MSGID",
	} {
		c.want("BAD", "FETCH 1 %s", item)
	}
	c.want("NO [LIMIT]", "FETCH 1 (%sFLAGS)", repeat("FLAGS ", 200))
	c.ok("NOOP")
}

func TestI27_CondstoreIsNotOffered(t *testing.T) {
	r := start(t, nil)
	r.deliver(t, "alice", "INBOX", testMessage)
	c := r.selected(t, "alice")
	if got := c.ok("CAPABILITY"); contained(got, "CONDSTORE") {
		t.Errorf("got %q", got)
	}
	for _, cmd := range []string{
		"STORE 1 (UNCHANGEDSINCE 0) FLAGS ()", "STORE 1 (UNCHANGEDSINCE 18446744073709551616) FLAGS ()", "FETCH 1 (FLAGS) (CHANGEDSINCE 1)",
		"FETCH 1 (MODSEQ)", "SEARCH MODSEQ 1", "SELECT INBOX (CONDSTORE)", "STATUS INBOX (HIGHESTMODSEQ)",
	} {
		c.want("BAD", "%s", cmd)
	}
	if got := c.ok("ENABLE CONDSTORE"); !contained(got, "* ENABLED") || contained(got, "CONDSTORE") {
		t.Errorf("got %q", got)
	}
}

func TestI28_QresyncIsNotOffered(t *testing.T) {
	c := start(t, nil).login(t, "alice")
	if got := c.ok("CAPABILITY"); contained(got, "QRESYNC") {
		t.Errorf("got %q", got)
	}
	if got := c.ok("ENABLE QRESYNC"); contained(got, "QRESYNC") {
		t.Errorf("got %q", got)
	}
	c.want("BAD", "SELECT INBOX (QRESYNC (1 1 1:%s))", repeat("9", 9000))
	c.ok("NOOP")
}

func TestI33_SeveralMessagesAreNotOffered(t *testing.T) {
	r := start(t, nil)
	for _, tt := range []struct{ name, args string }{
		{"MULTIAPPEND unasked", "{3+}\r\nabc {4+}\r\nb X\n"},
		{"MULTIAPPEND with flags", "{3+}\r\nabc (\\Seen) {4+}\r\nb X\n"},
		{"text after it", "{3+}\r\nabc frob"},
		{"CATENATE", "CATENATE (TEXT {4+}\r\nb X\n)"},
		{"UTF8", "UTF8 (~{4+}\r\nb X\n)"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := r.login(t, "alice")
			c.want("BAD", "APPEND INBOX %s", tt.args)
			c.ok("NOOP")
		})
	}
	t.Run("MULTIAPPEND asked", func(t *testing.T) {
		c := r.login(t, "alice")
		c.send("a APPEND INBOX {3}\r\n")
		c.line()
		c.send("abc {99999}\r\n")
		if got := c.line(); !strings.HasPrefix(got, "a BAD") {
			t.Errorf("got %q", got)
		}
		c.ok("NOOP")
	})
	t.Run("MULTIAPPEND, the second too long to skip", func(t *testing.T) {
		c := r.login(t, "alice")
		c.send("a APPEND INBOX {3+}\r\nabc {99999+}\r\nb CREATE evil\r\n")
		if got := c.line(); !strings.HasPrefix(got, "a BAD") {
			t.Errorf("got %q", got)
		}
		c.bye("* BYE")
	})
	c := r.login(t, "alice")
	c.want("BAD", "REPLACE 1 INBOX {3+}\r\nabc")
	if got := c.ok("STATUS INBOX (MESSAGES)"); !contained(got, "(MESSAGES 0)") {
		t.Errorf("something was stored: %q", got)
	}
}

func TestI34_EightBit(t *testing.T) {
	c := start(t, nil).selected(t, "alice")
	for _, cmd := range []string{
		"SELECT \"\xc3\xa9\"", "SELECT \xc3\xa9", "SEARCH TEXT \"\xc3\xa9\"", "SELECT ~{5+}\r\nINBOX", "SEARCH TEXT ~{1+}\r\nx",
		"LOGIN ~{1+}\r\nx y",
	} {
		c.want("BAD", "%s", cmd)
	}
	if got := c.ok("ENABLE UTF8=ACCEPT"); contained(got, "UTF8") {
		t.Errorf("got %q", got)
	}
	c.want("BAD", "SELECT \"\xc3\xa9\"")
	c.want("NO [CANNOT]", "SELECT {2+}\r\n\xc3\xa9")
	c.ok("SEARCH CHARSET UTF-8 TEXT {2+}\r\n\xc3\xa9")
	c.ok("APPEND INBOX ~{3+}\r\na\x00b")
}

func TestI35_IDEnableNamespace(t *testing.T) {
	c := start(t, nil).login(t, "alice")
	if got := c.ok(`ID ("name" "x" "version" NIL)`); !contained(got, `* ID ("name" "Covey")`) {
		t.Errorf("got %q", got)
	}
	c.want("BAD", "ID")
	c.want("BAD", "ID (x)")
	c.want("BAD", "ID (\"x\")")
	c.want("BAD", "ID (\"x\" \"%s\")", repeat("v", 2000))
	c.want("NO [LIMIT]", "ID (%s\"x\" NIL)", repeat("\"x\" NIL ", 100))
	c.want("NO [TOOBIG]", "ID (\"x\" {1048576}")
	c.ok("ENABLE FROB X-Y IMAP4rev2")
	c.want("BAD", "ENABLE")
	c.want("BAD", "ENABLE %sX", repeat("X ", 200))
	if got := c.ok("NAMESPACE"); !contained(got, `* NAMESPACE (("" "/")) NIL NIL`) {
		t.Errorf("got %q", got)
	}
	c.want("BAD", "NAMESPACE x")
}

// TestMemoryOfHeavyCommands looks at what hostile commands leave behind.
func TestMemoryOfHeavyCommands(t *testing.T) {
	r := start(t, nil)
	c := r.selected(t, "alice")
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	for range 50 {
		c.want("BAD", "UID FETCH %s1 FLAGS FLAGS", repeat("1,", 20000))
		c.want("BAD", "SEARCH %s", repeat("(", 40000))
		c.ok("NOOP")
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 2<<20 {
		t.Errorf("heap grew by %d octets", grown)
	}
}
