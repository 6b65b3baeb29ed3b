package imapd

import (
	"slices"
	"strings"
	"testing"
)

func TestSearch(t *testing.T) {
	r := start(t, nil)
	c := r.login(t, "alice")
	for _, m := range []struct{ flags, date, msg string }{
		{`(\Seen)`, `" 1-Feb-2026 23:30:00 -0500"`, "From: Ann <ann@example.org>\r\nSubject: =?utf-8?q?caf=C3=A9?=\r\nDate: Sun, 1 Feb 2026 23:30:00 -0500\r\n\r\nplain words\r\n"},
		{`(\Flagged $Work)`, `" 3-Feb-2026 00:00:00 +0000"`, "From: bob@example.net\r\nCc: ann@example.org\r\nX-Odd:\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: base64\r\n\r\nSGlkZGVuIHRleHQ=\r\n"},
		{`(\Deleted \Answered \Draft)`, `" 4-Feb-2026 12:00:00 +0000"`, "To: carol@example.com\r\nBcc: dave@example.com\r\nDate: nonsense\r\n\r\n" + repeat("y", 500)},
	} {
		c.ok("APPEND INBOX %s %s {%d+}\r\n%s", m.flags, m.date, len(m.msg), m.msg)
	}
	c.ok("SELECT INBOX")
	for keys, want := range map[string]string{
		"ALL": " 1 2 3", "SEEN": " 1", "UNSEEN": " 2 3", "FLAGGED": " 2", "UNFLAGGED UNDELETED": " 1", "KEYWORD $work": " 2", "UNKEYWORD $Work": " 1 3",
		"ANSWERED DRAFT": " 3", "RECENT": "", "NEW": "", "OLD": " 1 2 3", "1:2": " 1 2", "UID 2:*": " 2 3", "*": " 3", "NOT 2": " 1 3", "OR 1 3": " 1 3",
		"(1 SEEN)": " 1", "OR (SEEN) (DELETED 3)": " 1 3", "NOT NOT 1": " 1", "NOT (OR 1 2)": " 3",
		"SINCE 2-Feb-2026": " 1 2 3", "SINCE 3-Feb-2026": " 2 3", "BEFORE 3-Feb-2026": " 1", "ON 3-Feb-2026": " 2", `ON "2-Feb-2026"`: " 1",
		"SENTON 1-Feb-2026": " 1", "SENTSINCE 2-Feb-2026": "", "SENTBEFORE 2-Feb-2026": " 1",
		"LARGER 400": " 3", "SMALLER 400": " 1 2",
		"FROM ann": " 1", "FROM ANN@EXAMPLE": " 1", "CC ann": " 2", "TO carol": " 3", "BCC dave": " 3", "SUBJECT {5+}\r\ncafé": " 1",
		"CHARSET UTF-8 SUBJECT {5+}\r\nCAFÉ": " 1", `HEADER X-Odd ""`: " 2", `HEADER Subject ""`: " 1", "HEADER From example": " 1 2",
		"BODY hidden": " 2", "BODY words": " 1", "BODY ann": "", "TEXT ann": " 1 2", "TEXT hidden SEEN": "", `BODY ""`: " 1 2 3",
		"UNDELETED SINCE 1-Jan-2026 TEXT e": " 1 2",
	} {
		if got := c.ok("SEARCH %s", keys); !slices.Equal(got, []string{"* SEARCH" + want}) {
			t.Errorf("%s: got %q, want %q", keys, got, want)
		}
	}
	for _, keys := range []string{
		"FROB", "", "NOT", "OR 1", "()", "(1", "1)", "SINCE x", "SINCE 32-Jan-2026", "SMALLER -1", "SMALLER x", "KEYWORD", `KEYWORD \Seen`, "HEADER x",
		"CHARSET UTF-8", "RETURN ALL", "RETURN (FROB) ALL", "SEEN,", "UID", "UID x", "YOUNGER 10", "SMALLER 99999999999999999999", "ALL  ALL",
	} {
		c.want("BAD", "SEARCH %s", keys)
	}
	if got := c.ok("UID SEARCH 2:3"); !slices.Equal(got, []string{"* SEARCH 2 3"}) {
		t.Errorf("got %q", got)
	}
}

func TestExtendedSearch(t *testing.T) {
	r := start(t, nil)
	for range 5 {
		r.deliver(t, "alice", "INBOX", testMessage)
	}
	c := r.selected(t, "alice")
	c.ok(`STORE 1 FLAGS (\Deleted)`)
	c.ok("EXPUNGE") // UIDs 2 to 5 are 1 to 4
	esearch := func(cmd string) string {
		got := c.ok("%s", cmd)
		if len(got) != 1 {
			t.Fatalf("%s: %q", cmd, got)
		}
		_, after, _ := strings.Cut(got[0], ")")
		return after
	}
	for cmd, want := range map[string]string{
		"SEARCH RETURN () 2:3":                    " ALL 2:3",
		"SEARCH RETURN (ALL) 1,3":                 " ALL 1,3",
		"SEARCH RETURN (MIN MAX COUNT) ALL":       " MIN 1 MAX 4 COUNT 4",
		"UID SEARCH RETURN (MIN MAX COUNT ALL) *": " UID ALL 5 MIN 5 MAX 5 COUNT 1",
		"SEARCH RETURN (COUNT ALL MIN) SEEN":      " COUNT 0",
	} {
		if got := esearch(cmd); got != want {
			t.Errorf("%s: got %q, want %q", cmd, got, want)
		}
	}
	t.Run("saved", func(t *testing.T) {
		if got := c.ok("SEARCH RETURN (SAVE) 2:3"); len(got) != 0 {
			t.Errorf("got %q", got)
		}
		if got := c.ok("FETCH $ UID"); !slices.Equal(got, []string{"* 2 FETCH (UID 3)", "* 3 FETCH (UID 4)"}) {
			t.Errorf("got %q", got)
		}
		if got := esearch("UID SEARCH RETURN (SAVE MIN) $"); got != " UID MIN 3" {
			t.Errorf("got %q", got)
		}
		if got := c.ok("SEARCH $"); !slices.Equal(got, []string{"* SEARCH 2"}) { // MIN alone saves only that
			t.Errorf("got %q", got)
		}
		c.ok(`UID STORE $ FLAGS (\Deleted)`)
		c.ok("EXPUNGE")
		if got := c.ok("FETCH $ UID"); len(got) != 0 {
			t.Errorf("what is gone is still saved: %q", got)
		}
		c.ok("SEARCH RETURN (SAVE) ALL")
		c.want("BAD", "SEARCH RETURN (SAVE) FROB")
		if got := c.ok("FETCH $ UID"); len(got) != 3 {
			t.Errorf("a bad command changed what is saved: %q", got)
		}
		c.ok("SELECT INBOX")
		if got := c.ok("FETCH $ UID"); len(got) != 0 {
			t.Errorf("saved over SELECT: %q", got)
		}
		c.ok("SEARCH RETURN (SAVE) 1")
		if got := c.ok("COPY $ Archive"); len(got) != 0 {
			t.Errorf("got %q", got)
		}
		if got := c.ok("MOVE $ Archive"); len(got) != 2 {
			t.Errorf("got %q", got)
		}
	})
}
