package imapd

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/storage"
)

func TestDefaultFolders(t *testing.T) {
	c := start(t, nil).login(t, "alice")
	want := []string{
		`* LIST (\HasNoChildren \Archive) "/" "Archive"`, `* LIST (\HasNoChildren \Drafts) "/" "Drafts"`, `* LIST (\HasNoChildren) "/" INBOX`,
		`* LIST (\HasNoChildren \Junk) "/" "Junk"`, `* LIST (\HasNoChildren \Sent) "/" "Sent"`, `* LIST (\HasNoChildren \Trash) "/" "Trash"`,
	}
	if d := cmp.Diff(want, c.ok(`LIST "" *`)); d != "" {
		t.Errorf("LIST (-want +got):\n%s", d)
	}
	if got := c.ok(`LSUB "" *`); len(got) != 6 {
		t.Errorf("LSUB: %q", got)
	}
	if d := cmp.Diff([]string{`* LIST (\Noselect) "/" ""`}, c.ok(`LIST "" ""`)); d != "" {
		t.Errorf("LIST of nothing (-want +got):\n%s", d)
	}
}

func TestExtendedList(t *testing.T) {
	c := start(t, nil).login(t, "alice")
	c.ok("CREATE a/b/c")
	c.ok("CREATE a-b")
	c.ok("SUBSCRIBE a/b/c")
	c.ok("SUBSCRIBE gone/away")
	c.append("a/b", testMessage)
	list := func(args string) []string {
		got := c.ok("LIST %s", args)
		for i := range got {
			got[i] = strings.TrimPrefix(got[i], "* ")
		}
		return got
	}
	for _, tt := range []struct {
		args string
		want []string
	}{
		{`"" a%`, []string{`LIST (\HasChildren) "/" "a"`, `LIST (\HasNoChildren) "/" "a-b"`}},
		{`a/ %`, []string{`LIST (\HasChildren) "/" "a/b"`}},
		{`"" (a-b a/b/%)`, []string{`LIST (\HasNoChildren) "/" "a-b"`, `LIST (\HasNoChildren) "/" "a/b/c"`}},
		{`(SUBSCRIBED) "" (a* g*)`, []string{`LIST (\HasNoChildren \Subscribed) "/" "a/b/c"`, `LIST (\NonExistent \HasNoChildren \Subscribed) "/" "gone/away"`}},
		{`(SUBSCRIBED RECURSIVEMATCH) "" a%`, []string{`LIST (\HasChildren) "/" "a" ("CHILDINFO" ("SUBSCRIBED"))`}},
		{`(SPECIAL-USE) "" *r*`, []string{
			`LIST (\HasNoChildren \Archive) "/" "Archive"`, `LIST (\HasNoChildren \Drafts) "/" "Drafts"`, `LIST (\HasNoChildren \Trash) "/" "Trash"`,
		}},
		{`"" a/b* RETURN (CHILDREN SUBSCRIBED STATUS (MESSAGES UNSEEN))`, []string{
			`LIST (\HasChildren) "/" "a/b"`, `STATUS "a/b" (MESSAGES 1 UNSEEN 1)`,
			`LIST (\HasNoChildren \Subscribed) "/" "a/b/c"`, `STATUS "a/b/c" (MESSAGES 0 UNSEEN 0)`,
		}},
	} {
		got := list(tt.args)
		for i := range got { // go-imap writes CHILDINFO without quotes
			got[i] = strings.ReplaceAll(got[i], "(CHILDINFO ", `("CHILDINFO" `)
		}
		if d := cmp.Diff(tt.want, got); d != "" {
			t.Errorf("LIST %s (-want +got):\n%s", tt.args, d)
		}
	}
	if got := list(`"" Trash RETURN (STATUS (UIDVALIDITY))`); len(got) != 2 || strings.Contains(got[1], "UIDVALIDITY 0") {
		t.Errorf("status of a folder not used before: %q", got)
	}
	for _, args := range []string{`(FROB) "" *`, `"" * RETURN (FROB)`, `"" * FROB ()`, `(RECURSIVEMATCH) "" *`, `"" ()`, `"" * RETURN (STATUS ())`} {
		c.want("BAD", "LIST %s", args)
	}
	lsub := c.ok(`LSUB "" %%`)
	if want := `* LSUB (\Noselect) "/" "a"`; !slices.Contains(lsub, want) {
		t.Errorf("LSUB: %q, want %q", lsub, want)
	}
	c.ok("UNSUBSCRIBE a/b/c")
	if lsub = c.ok(`LSUB "" a*`); len(lsub) != 0 {
		t.Errorf("LSUB: %q", lsub)
	}
}

func TestCreateWithUse(t *testing.T) {
	c := start(t, nil).login(t, "alice")
	c.ok(`CREATE Gesendet (USE (\Sent))`)
	if got := c.ok(`LIST "" Gesendet`); !contained(got, `\Sent`) {
		t.Errorf("got %q", got)
	}
	c.want("NO [USEATTR]", `CREATE x (USE (\All))`)
	c.want("NO [USEATTR]", `CREATE x (USE (\Sent \Junk))`)
	c.want("BAD", `CREATE x (FROB (\Sent))`)
	c.want("BAD", `CREATE x (USE (Sent))`)
	c.ok("CREATE withchildren/")
	c.ok("SELECT withchildren")
}

func TestI20_ManyWildcards(t *testing.T) {
	r := start(t, nil)
	c := r.login(t, "alice")
	deep := strings.TrimSuffix(strings.Repeat("a/", storage.MaxNameDepth), "/")
	c.ok("CREATE %s", deep)
	for _, pattern := range []string{repeat("*%", 2500), repeat("%a", 2000), repeat("*a/", 1000), repeat("%", 5000) + "x"} {
		began := time.Now()
		c.ok(`LIST "" "%s"`, pattern)
		if took := time.Since(began); took > 2*time.Second {
			t.Errorf("%.10s…: %v", pattern, took)
		}
	}
	if got := c.ok(`LIST "" "%s"`, repeat("*%", 2500)); len(got) != 6+storage.MaxNameDepth {
		t.Errorf("%d mailboxes", len(got))
	}
}

func TestI22_Names(t *testing.T) {
	r := start(t, nil)
	c := r.login(t, "alice")
	before := c.ok(`LIST "" *`)
	for _, name := range []string{
		"../x", "a/../../b", "/etc/passwd", ".", "..", "a//b", `""`, "{3+}\r\na\x00b", "{3+}\r\na\rb", "{3+}\r\na\nb", repeat("x", 4090), "&AAA",
		"&AGE-", "&", "&2D0-", "&IC4-", "&ICgAYQ-", "&IAs-", "{2+}\r\n\xc3\xa9", "{2+}\r\n\xff\xfe", strings.Repeat("a/", 40) + "a", `"a*b"`, `"a%b"`,
	} {
		for _, cmd := range []string{"CREATE %s", "SELECT %s", "STATUS %s (MESSAGES)", "SUBSCRIBE %s", "RENAME INBOX %s", "APPEND %s {3+}\r\nabc"} {
			_, got := c.cmd("%s", strings.Replace(cmd, "%s", name, 1))
			if !strings.HasPrefix(got, "NO [CANNOT]") && !strings.HasPrefix(got, "BAD") {
				t.Errorf("%q %q: got %q", cmd, name, got)
			}
		}
		c.ok("NOOP")
	}
	c.want("NO [CANNOT]", `LIST "" "&AAA"`)
	if d := cmp.Diff(before, c.ok(`LIST "" *`)); d != "" {
		t.Errorf("something was made (-before +after):\n%s", d)
	}
	t.Run("twins", func(t *testing.T) {
		c.ok("CREATE &AOk-")                          // é
		c.want("NO [ALREADYEXISTS]", "CREATE e&AwE-") // e and an accent
		c.ok("STATUS e&AwE- (MESSAGES)")
		c.want("NO [ALREADYEXISTS]", "CREATE iNbOx")
		c.ok("CREATE inbox/sub")
		c.want("NO [ALREADYEXISTS]", "CREATE InBoX/sub")
		for _, list := range []string{`LIST "" "inbox/%"`, `LIST "Inbox/" sub`, `LIST "" (x InBox/s*)`} {
			if got := c.ok("%s", list); !contained(got, `"INBOX/sub"`) {
				t.Errorf("%s: %q", list, got)
			}
		}
		if got := c.ok(`LIST "" %%/sub`); !contained(got, `"INBOX/sub"`) {
			t.Errorf("got %q", got)
		}
	})
}

func TestI23_CreateDeleteRename(t *testing.T) {
	r := start(t, nil)
	c := r.login(t, "alice")
	c.ok("CREATE a/b")
	for cmd, want := range map[string]string{
		"CREATE a":                "NO [ALREADYEXISTS]",
		"CREATE INBOX":            "NO [ALREADYEXISTS]",
		"CREATE Trash":            "NO [ALREADYEXISTS]",
		"DELETE INBOX":            "NO [CANNOT]",
		"DELETE nowhere":          "NO [NONEXISTENT]",
		"RENAME a/b a":            "NO [ALREADYEXISTS]",
		"RENAME a a/c":            "NO [CANNOT]",
		"RENAME nowhere x":        "NO [NONEXISTENT]",
		"RENAME a INBOX":          "NO [ALREADYEXISTS]",
		"RENAME a Archive":        "NO [ALREADYEXISTS]",
		"SELECT nowhere":          "NO [NONEXISTENT]",
		"EXAMINE nowhere":         "NO [NONEXISTENT]",
		"STATUS nowhere (UNSEEN)": "NO [NONEXISTENT]",
	} {
		c.want(want, "%s", cmd)
	}
	c.append("a", testMessage)
	c.ok("DELETE a") // has a child: the name stays
	if got := c.ok(`LIST "" a`); !contained(got, `\Noselect \HasChildren`) {
		t.Errorf("got %q", got)
	}
	c.want("NO [NONEXISTENT]", "SELECT a")
	c.want("NO [CANNOT]", "DELETE a")
	c.ok("DELETE a/b")
	if got := c.ok(`LIST "" a`); len(got) != 0 {
		t.Errorf("a name without mailboxes below it: %q", got)
	}
	c.append("INBOX", testMessage)
	c.ok("RENAME INBOX old/mail") // moves the messages
	if got := c.ok("STATUS old/mail (MESSAGES)"); !contained(got, "(MESSAGES 1)") {
		t.Errorf("got %q", got)
	}
	if got := c.ok("STATUS INBOX (MESSAGES)"); !contained(got, "(MESSAGES 0)") {
		t.Errorf("got %q", got)
	}
	c.ok("RENAME old new")
	c.ok("SELECT new/mail")
}

func TestI24_MissingAndFull(t *testing.T) {
	r := start(t, func(r *rig, cfg *Config) { r.users = newUsers(1000, "alice"); cfg.Logons = r.users })
	c := r.login(t, "alice")
	c.append("INBOX", testMessage)
	c.ok("SELECT INBOX")
	c.want("NO [TRYCREATE]", "APPEND nowhere {3+}\r\nabc")
	c.want("NO [TRYCREATE]", "COPY 1 nowhere")
	c.want("NO [TRYCREATE]", "MOVE 1 nowhere")
	c.want("NO [OVERQUOTA]", "APPEND INBOX {900+}\r\n%s", repeat("x", 900))
	for range 4 {
		c.ok("COPY 1 Archive")
	}
	c.ok("NOOP")
	c.want("NO [OVERQUOTA]", "COPY 1 Archive")
	if got := c.ok("STATUS Archive (MESSAGES)"); !contained(got, "(MESSAGES 4)") {
		t.Errorf("got %q", got)
	}
	c.ok("MOVE 1 Archive") // uses no more than before
	if got := c.ok("GETQUOTAROOT INBOX"); !slices.Equal(got, []string{`* QUOTAROOT "INBOX" ""`, `* QUOTA "" (STORAGE 1 0)`}) {
		t.Errorf("got %q", got)
	}
	// All or none.
	c.ok("SELECT Archive")
	c.want("NO [OVERQUOTA]", "COPY 1:5 INBOX")
	if got := c.ok("STATUS INBOX (MESSAGES)"); !contained(got, "(MESSAGES 0)") {
		t.Errorf("got %q", got)
	}
}

func TestQuota(t *testing.T) {
	r := start(t, func(r *rig, cfg *Config) { r.users = newUsers(10<<20, "alice"); cfg.Logons = r.users })
	c := r.login(t, "alice")
	c.append("INBOX", repeat("x", 2049))
	if d := cmp.Diff([]string{`* QUOTA "" (STORAGE 3 10240)`}, c.ok(`GETQUOTA ""`)); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff([]string{`* QUOTAROOT "&AOk-" ""`, `* QUOTA "" (STORAGE 3 10240)`}, c.ok("GETQUOTAROOT &AOk-")); d != "" {
		t.Error(d)
	}
	c.want("NO [NONEXISTENT]", "GETQUOTA x")
	c.want("NO [NOPERM]", `SETQUOTA "" (STORAGE 1)`)
	c.want("BAD", "GETQUOTA")
	c = start(t, nil).login(t, "alice")
	if d := cmp.Diff([]string{`* QUOTA "" ()`}, c.ok(`GETQUOTA ""`)); d != "" {
		t.Errorf("without a quota: %s", d)
	}
}

// TestI30_OtherUsers compares what is said of another user's mailbox with what is
// said of one that does not exist.
func TestI30_OtherUsers(t *testing.T) {
	r := start(t, nil)
	bob := r.login(t, "bob")
	bob.ok("CREATE private")
	bob.append("private", testMessage)
	c := r.selected(t, "alice")
	c.append("INBOX", testMessage)
	for _, cmd := range []string{
		"SELECT %s", "EXAMINE %s", "STATUS %s (MESSAGES)", "DELETE %s", "RENAME %s x", "APPEND %s {3+}\r\nabc", "COPY 1 %s", "MOVE 1 %s",
		`LIST "" %s`, `LSUB "" %s`, "UNSUBSCRIBE %s", "LISTRIGHTS %s alice", "GETACL %s", "MYRIGHTS %s", "SETACL %s alice lrs", "GETMETADATA %s /private/comment",
		"ESEARCH IN (mailboxes %s) ALL", "NOTIFY SET (mailboxes %s (MessageNew))",
	} {
		c.ok("SELECT INBOX")
		lines1, got1 := c.cmd(cmd, "private")
		c.ok("SELECT INBOX")
		lines2, got2 := c.cmd(cmd, "nothere")
		if got1 != got2 || len(lines1) != len(lines2) {
			t.Errorf("%s: %q %q for one that exists, %q %q else", cmd, lines1, got1, lines2, got2)
		}
	}
	for _, name := range []string{"bob/private", "user/bob/private", "~bob/private", "#user/bob", "../bob/private"} {
		if _, got := c.cmd("SELECT %s", name); !strings.HasPrefix(got, "NO") && !strings.HasPrefix(got, "BAD") {
			t.Errorf("%s: %q", name, got)
		}
	}
	if got := bob.ok("STATUS private (MESSAGES)"); !contained(got, "(MESSAGES 1)") {
		t.Errorf("got %q", got)
	}
}

func TestI31_MailboxGoneWhileSelected(t *testing.T) {
	r := start(t, nil)
	prepare := func(t *testing.T) *client {
		c := r.login(t, "alice")
		_, _ = c.cmd("CREATE box")
		c.append("box", testMessage)
		c.ok("SELECT box")
		return c
	}
	t.Run("deleted by another session", func(t *testing.T) {
		for _, cmd := range []string{"FETCH 1 BODY[]", "STORE 1 +FLAGS (\\Deleted)", "SEARCH TEXT fox", "COPY 1 INBOX", "EXPUNGE"} {
			c := prepare(t)
			r.login(t, "alice").ok("DELETE box")
			_, got := c.cmd("%s", cmd)
			if !strings.HasPrefix(got, "NO [NONEXISTENT]") {
				t.Errorf("%s: %q", cmd, got)
			}
		}
		c := prepare(t)
		r.login(t, "alice").ok("DELETE box")
		c.send("a NOOP\r\n")
		c.bye("* BYE The selected mailbox was deleted")
	})
	t.Run("deleted in IDLE", func(t *testing.T) {
		c := prepare(t)
		c.send("a IDLE\r\n")
		c.line()
		r.login(t, "alice").ok("DELETE box")
		c.bye("* BYE The selected mailbox was deleted")
	})
	t.Run("deleted by itself", func(t *testing.T) {
		c := prepare(t)
		c.ok("DELETE box")
		c.want("NO [NONEXISTENT]", "FETCH 1 FLAGS")
		c.want("NO [NONEXISTENT]", "SEARCH ALL")
		c.want("NO [NONEXISTENT]", "STORE 1 FLAGS ()")
		c.ok("NOOP")
		c.ok("CLOSE")
		c.ok("SELECT INBOX")
	})
	t.Run("renamed", func(t *testing.T) {
		c := prepare(t)
		r.login(t, "alice").ok("RENAME box crate")
		c.ok("NOOP")
		if got := c.ok("FETCH 1 (UID)"); !slices.Equal(got, []string{"* 1 FETCH (UID 1)"}) {
			t.Errorf("got %q", got)
		}
		c.want("NO [NONEXISTENT]", "SELECT box")
	})
}

func TestRepliesToErrors(t *testing.T) {
	for kind, want := range map[covey.Kind]string{
		covey.Invalid: "CANNOT", covey.NotFound: "NONEXISTENT", covey.Exists: "ALREADYEXISTS", covey.Denied: "CANNOT",
		covey.OverQuota: "OVERQUOTA", covey.TooBig: "TOOBIG", covey.Limit: "LIMIT", covey.InUse: "INUSE", covey.Unavailable: "UNAVAILABLE",
		covey.Unknown: "UNAVAILABLE", covey.DiskFull: "UNAVAILABLE", covey.Corrupt: "SERVERBUG", covey.Internal: "SERVERBUG",
	} {
		err := fmt.Errorf("open: %w", covey.Errorf(kind, "the secret reason"))
		got := reply(err)
		if string(got.Code) != want || strings.Contains(got.Text, "secret") {
			t.Errorf("%v: got [%s] %s, want [%s]", kind, got.Code, got.Text, want)
		}
	}
	if got := replyTo(covey.NotFound).Code; got != "TRYCREATE" {
		t.Errorf("destination: got %s", got)
	}
}

func TestFailingShard(t *testing.T) {
	r := start(t, nil)
	c := r.selected(t, "alice")
	c.append("INBOX", testMessage)
	c.ok("NOOP")
	r.Fail(func(covey.ShardID, storage.Command) error { return covey.Errorf(covey.Unavailable, "no quorum") })
	for _, cmd := range []string{
		"CREATE x", "DELETE x", "RENAME INBOX x", "SUBSCRIBE x", "UNSUBSCRIBE x", "STORE 1 FLAGS (\\Seen)", "COPY 1 INBOX", "MOVE 1 INBOX",
		"APPEND INBOX {3+}\r\nabc",
	} {
		c.want("NO [UNAVAILABLE]", "%s", cmd)
	}
	// Reading goes on, although \Seen cannot be set.
	if got := c.ok("FETCH 1 BODY[TEXT]"); !contained(got, "fox") || contained(got, "FLAGS") {
		t.Errorf("got %q", got)
	}
	r.Fail(nil)
	if got := c.ok("FETCH 1 BODY[TEXT]"); !contained(got, `FLAGS (\Seen)`) {
		t.Errorf("got %q", got)
	}
}
