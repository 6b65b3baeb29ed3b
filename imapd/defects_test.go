package imapd

import (
	"fmt"
	"io"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
)

// The tests of this file are of what go-imap's server gets wrong, and the guard
// and the session keep from it.

// A refused {n+} is not skipped by go-imap: its lines run as commands.
func TestDefect01_RefusedLiteralIsNotRun(t *testing.T) {
	r := start(t, nil)
	body := "b CREATE evil\r\n" + repeat("x", 5000) + "\r\n"
	for _, cmd := range []string{"SELECT {%d+}\r\n", "FROB {%d+}\r\n", "SEARCH TEXT {%d+}\r\n", "LOGIN {%d+}\r\n", "STATUS INBOX {%d+}\r\n"} {
		c := r.login(t, "alice")
		c.send("a " + fmt.Sprintf(cmd, len(body)) + body)
		if _, got := c.until("a"); strings.HasPrefix(got, "OK") {
			t.Errorf("%q: %s", cmd, got)
		}
		c.bye("* BYE")
	}
	if got := r.login(t, "alice").ok(`LIST "" evil`); len(got) != 0 {
		t.Errorf("a literal was run: %q", got)
	}
}

// A multipart without parts makes go-imap panic in BODYSTRUCTURE.
func TestDefect02_MultipartWithoutParts(t *testing.T) {
	r := start(t, nil)
	for _, msg := range []string{
		"Content-Type: multipart/mixed\r\n\r\n",
		"Content-Type: multipart/mixed; boundary=x\r\n\r\n",
		"Content-Type: multipart/mixed; boundary=x\r\n\r\n--x--\r\n",
		"Content-Type: multipart/mixed; boundary=x\r\n\r\n--x\r\nContent-Type: multipart/mixed\r\n\r\n--x--\r\n",
		"Content-Type: message/rfc822\r\n\r\nContent-Type: multipart/digest\r\n\r\n",
	} {
		r.deliver(t, "alice", "INBOX", msg)
	}
	c := r.selected(t, "alice")
	if got := c.ok("FETCH 1:* (BODYSTRUCTURE BODY ENVELOPE)"); len(got) != 5 {
		t.Errorf("got %q", got)
	}
	c.ok("FETCH 1:* (BODY.PEEK[1] BODY.PEEK[1.1] BODY.PEEK[HEADER])")
}

// Many wildcards in LIST do not end in go-imap's matcher.
func TestDefect03_ManyWildcards(t *testing.T) {
	c := start(t, nil).login(t, "alice")
	c.ok("CREATE %s", repeat("a", 200))
	began := time.Now()
	c.ok(`LIST "" "%s"`, repeat("*a", 100)+"b")
	if took := time.Since(began); took > time.Second {
		t.Errorf("took %v", took)
	}
}

// 250 KB of message/rfc822 in one another take 1.4 GB in go-imap.
func TestDefect04_NestedMessages(t *testing.T) {
	r := start(t, nil)
	r.deliver(t, "alice", "INBOX", repeat("Content-Type: message/rfc822\r\n\r\n", 8000))
	c := r.selected(t, "alice")
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	c.ok("FETCH 1 (BODYSTRUCTURE ENVELOPE BODY.PEEK[1.1.1])")
	runtime.ReadMemStats(&after)
	if got := after.TotalAlloc - before.TotalAlloc; got > 32<<20 {
		t.Errorf("allocated %d octets", got)
	}
}

// BODY[]<5.9223372036854775807> makes go-imap panic.
func TestDefect05_HugePartial(t *testing.T) {
	r := start(t, nil)
	r.deliver(t, "alice", "INBOX", testMessage)
	c := r.selected(t, "alice")
	for _, p := range []string{"<5.9223372036854775807>", "<9223372036854775807.1>", "<9223372036854775807.9223372036854775807>"} {
		c.want("BAD", "FETCH 1 BODY[]%s", p)
		c.want("BAD", "FETCH 1 BINARY[1]%s", p)
	}
	if got := c.ok("FETCH 1 BODY.PEEK[]<160.4294967295>"); !contained(got, "BODY[]<160> {7}\r\n") {
		t.Errorf("got %q", got)
	}
}

// Under IMAP4rev2 go-imap cannot name mailboxes with an ampersand; it is not
// offered, and without it they work.
func TestDefect06_Ampersand(t *testing.T) {
	c := start(t, nil).login(t, "alice")
	if got := c.ok("CAPABILITY"); contained(got, "IMAP4rev2") {
		t.Errorf("got %q", got)
	}
	if got := c.ok("ENABLE IMAP4rev2"); contained(got, "rev2") {
		t.Errorf("got %q", got)
	}
	c.ok("CREATE R&-D/&AOk-")
	c.append("R&-D", testMessage)
	if got := c.ok(`LIST "" R*`); !slices.Equal(got, []string{`* LIST (\HasChildren) "/" "R&-D"`, `* LIST (\HasNoChildren) "/" "R&-D/&AOk-"`}) {
		t.Errorf("got %q", got)
	}
	if got := c.ok("STATUS R&-D (MESSAGES)"); !slices.Equal(got, []string{`* STATUS "R&-D" (MESSAGES 1)`}) {
		t.Errorf("got %q", got)
	}
	c.ok("SELECT R&-D")
	c.ok("COPY 1 R&-D/&AOk-")
	c.ok("RENAME R&-D Q&-A")
}

// go-imap takes DONE in upper case only.
func TestDefect07_DoneInLowerCase(t *testing.T) {
	c := start(t, nil).selected(t, "alice")
	for _, done := range []string{"DONE", "done", "Done", "done "} {
		c.send("a idle\r\n")
		c.line()
		c.send(done + "\r\n")
		if _, got := c.until("a"); !strings.HasPrefix(got, "OK") {
			t.Errorf("%q: %s", done, got)
		}
	}
}

// go-imap's tracker loses count when EXISTS grows by more than one.
func TestDefect08_ManyNewMessages(t *testing.T) {
	r := start(t, nil)
	for range 2 {
		r.deliver(t, "alice", "INBOX", testMessage)
	}
	c, other := r.selected(t, "alice"), r.selected(t, "alice")
	for range 5 {
		r.deliver(t, "alice", "INBOX", testMessage)
	}
	other.ok("NOOP")
	other.ok("UID STORE 2,4:5 FLAGS (\\Deleted)")
	if got := c.ok("NOOP"); !slices.Equal(got[len(got)-2:], []string{"* 7 EXISTS", `* 2 FETCH (UID 2 FLAGS (\Deleted))`}) {
		t.Errorf("got %q", got)
	}
	other.ok("EXPUNGE")
	r.deliver(t, "alice", "INBOX", testMessage)
	r.deliver(t, "alice", "INBOX", testMessage)
	if got := c.ok("STORE 7 +FLAGS.SILENT (\\Seen)"); !slices.Equal(got, []string{"* 9 EXISTS"}) {
		t.Errorf("got %q", got)
	}
	if got := c.ok("NOOP"); !slices.Equal(got, []string{"* 5 EXPUNGE", "* 4 EXPUNGE", "* 2 EXPUNGE"}) {
		t.Errorf("got %q", got)
	}
	var uids []string
	for _, l := range c.ok("FETCH 1:* UID") {
		uids = append(uids, strings.Fields(l)[4])
	}
	if got := strings.Join(uids, " "); got != "1) 3) 6) 7) 8) 9)" {
		t.Errorf("got %q", got)
	}
}

// go-imap panics where StatusData lacks what was asked for.
func TestDefect09_EveryStatusItem(t *testing.T) {
	c := start(t, nil).login(t, "alice")
	items := "(MESSAGES RECENT UIDNEXT UIDVALIDITY UNSEEN DELETED SIZE APPENDLIMIT)"
	for _, name := range []string{"INBOX", "Trash"} {
		if got := c.ok("STATUS %s %s", name, items); len(got) != 1 || !strings.Contains(got[0], "APPENDLIMIT 52428800 RECENT 0)") {
			t.Errorf("got %q", got)
		}
	}
	if got := c.ok(`LIST "" * RETURN (STATUS %s)`, items); len(got) != 12 {
		t.Errorf("got %q", got)
	}
	c.want("BAD", "STATUS INBOX (DELETED-STORAGE)")
}

// The goroutine that go-imap runs IDLE in may outlive Session.Close. goleak sees
// those that are left at the end.
func TestDefect10_IdleDoesNotOutliveTheSession(t *testing.T) {
	r := start(t, nil)
	for range 20 {
		c := r.selected(t, "alice")
		c.send("a IDLE\r\n")
		c.line()
		r.deliver(t, "alice", "INBOX", testMessage)
		if err := c.conn.Close(); err != nil {
			t.Fatal(err)
		}
		r.deliver(t, "alice", "INBOX", testMessage)
	}
	ended(t, r.server)

	t.Run("called too late", func(t *testing.T) {
		s := &session{g: &guard{}}
		s.beginIdle()
		s.endIdle()
		if err := s.Idle(nil, nil); err != nil {
			t.Error(err)
		}
		s.beginIdle()
		s.closed = true
		if err := s.Idle(nil, nil); err != nil {
			t.Error(err)
		}
	})
	t.Run("writing to a peer that does not read", func(t *testing.T) {
		c := r.login(t, "bob")
		c.ok("SELECT INBOX")
		c.send("a IDLE\r\n")
		c.line()
		w := r.selected(t, "bob")
		for range 40 {
			w.ok("STORE 1:* FLAGS ()")
			w.append("INBOX", testMessage)
		}
		_ = c.conn.Close()
		_ = w.conn.Close()
		ended(t, r.server)
	})
}

// go-imap's tracker queues updates without bound for a session that does not ask.
func TestDefect11_NothingQueuesUp(t *testing.T) {
	r := start(t, nil)
	for range 3 {
		r.deliver(t, "alice", "INBOX", testMessage)
	}
	c, other := r.selected(t, "alice"), r.selected(t, "alice")
	for i := range 500 {
		other.ok("STORE 1:2 FLAGS.SILENT (%s)", []string{`\Seen`, `\Flagged`}[i%2])
	}
	r.server.mu.Lock()
	for g := range r.server.guards {
		if n := len(g.session.pending); n > 0 {
			t.Errorf("%d updates wait", n)
		}
	}
	r.server.mu.Unlock()
	if got := c.ok("NOOP"); !slices.Equal(got, []string{`* 1 FETCH (UID 1 FLAGS (\Flagged))`, `* 2 FETCH (UID 2 FLAGS (\Flagged))`}) {
		t.Errorf("got %q", got)
	}
}

// go-imap's SEARCH loses SMALLER when LARGER or a date comes after it, and takes
// a size of 0 for no condition.
func TestSearchKeepsAllConditions(t *testing.T) {
	r := start(t, nil)
	r.deliver(t, "alice", "INBOX", "Subject: a\r\n\r\n"+repeat("x", 100))
	r.deliver(t, "alice", "INBOX", "Subject: b\r\n\r\n"+repeat("x", 200))
	r.deliver(t, "alice", "INBOX", "Subject: c\r\n\r\n"+repeat("x", 300))
	c := r.selected(t, "alice")
	for keys, want := range map[string]string{
		"SMALLER 250 LARGER 150": " 2", "LARGER 150 SMALLER 250": " 2", "SMALLER 250 SINCE 1-Jan-2000": " 1 2", "SMALLER 0": "",
		"LARGER 0": " 1 2 3", "SMALLER 250 NOT SMALLER 150": " 2", "LARGER 99999999999": "",
	} {
		if got := c.ok("SEARCH %s", keys); !slices.Equal(got, []string{"* SEARCH" + want}) {
			t.Errorf("%s: got %q, want %q", keys, got, want)
		}
	}
}

// A message after which the line does not end is stored by go-imap, and not
// answered.
func TestAppendAnswersWhatFollows(t *testing.T) {
	c := start(t, nil).login(t, "alice")
	c.want("BAD", "APPEND INBOX {3+}\r\nabcfrob")
	if got := c.ok("STATUS INBOX (MESSAGES)"); !contained(got, "(MESSAGES 0)") {
		t.Errorf("got %q", got)
	}
	if _, err := io.WriteString(c.conn, "a APPEND INBOX {3+}\r\nabc \r\n"); err != nil {
		t.Fatal(err)
	}
	if _, got := c.until("a"); !strings.HasPrefix(got, "OK") {
		t.Errorf("a trailing space: %s", got)
	}
}
