package imapd

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestDialogue is a whole session as a client has it.
func TestDialogue(t *testing.T) {
	r := start(t, nil)
	c := r.dial(t)
	c.startTLS()
	c.ok(`ID ("name" "test")`)
	c.ok("LOGIN alice secret")
	c.ok("NAMESPACE")
	if got := c.append("INBOX (\\Flagged $Work) \" 2-Jan-2026 10:00:00 +0100\"", testMessage); !strings.HasPrefix(got, "OK [APPENDUID ") {
		t.Errorf("APPEND: %s", got)
	}
	got := c.ok("SELECT inbox")
	want := []string{
		"* 1 EXISTS", "* 0 RECENT", "* OK [UNSEEN 1] First unseen message", "* OK [UIDVALIDITY 1767323045] UIDs valid",
		"* OK [UIDNEXT 2] Predicted next UID",
		`* FLAGS (\Answered \Flagged \Deleted \Seen \Draft $Work)`,
		`* OK [PERMANENTFLAGS (\Answered \Flagged \Deleted \Seen \Draft $Work \*)] Permanent flags`,
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("SELECT (-want +got):\n%s", d)
	}
	got = c.ok("FETCH 1 (UID FLAGS INTERNALDATE RFC822.SIZE ENVELOPE BODY.PEEK[HEADER.FIELDS (subject)] BODY[TEXT]<4.5>)")
	want = []string{`* 1 FETCH (UID 1 FLAGS (\Flagged \Seen $Work) INTERNALDATE " 2-Jan-2026 09:00:00 +0000" RFC822.SIZE 167 ` +
		`ENVELOPE ("Fri, 2 Jan 2026 10:00:00 +0100" "hello world" (("Alice" NIL "alice" "example.org")) (("Alice" NIL "alice" "example.org")) ` +
		`(("Alice" NIL "alice" "example.org")) ((NIL NIL "bob" "example.net")) NIL NIL NIL "<1@example.org>") ` +
		"BODY[HEADER.FIELDS (\"subject\")] {24}\r\nSubject: hello world\r\n\r\n BODY[TEXT]<4> {5}\r\nquick)"}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("FETCH (-want +got):\n%s", d)
	}
	if got := c.ok("SEARCH SUBJECT HELLO SMALLER 1000 LARGER 10 SINCE 1-Jan-2026"); !contained(got, "* SEARCH 1") {
		t.Errorf("SEARCH: %q", got)
	}
	c.ok("COPY 1 Archive")
	c.ok(`STORE 1 +FLAGS.SILENT (\Deleted)`)
	if d := cmp.Diff([]string{"* 1 EXPUNGE"}, c.ok("EXPUNGE")); d != "" {
		t.Errorf("EXPUNGE (-want +got):\n%s", d)
	}
	if got := c.ok("STATUS Archive (MESSAGES UNSEEN SIZE DELETED)"); !contained(got, "(MESSAGES 1 UNSEEN 0 DELETED 0 SIZE 167)") {
		t.Errorf("STATUS: %q", got)
	}
	if got := c.ok("LOGOUT"); !contained(got, "* BYE") {
		t.Errorf("LOGOUT: %q", got)
	}
	c.closed()
}
