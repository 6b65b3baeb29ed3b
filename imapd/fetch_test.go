package imapd

import (
	"bufio"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/storage"
)

// TestFetchItems shows each item as the client gets it.
func TestFetchItems(t *testing.T) {
	r := start(t, nil)
	const message = "From: a@b.c, d@e.f\r\nDate: soon\r\nMessage-ID: x\r\nMIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n" +
		"--b\r\nContent-Type: application/x\r\nContent-Transfer-Encoding: base64\r\n\r\naGVsbG8=\r\n--b--\r\n"
	r.deliver(t, "alice", "INBOX", message)
	c := r.login(t, "alice")
	c.ok("EXAMINE INBOX")
	header, body, _ := strings.Cut(message, "\r\n\r\n")
	literal := func(s string) string { return fmt.Sprintf("{%d}\r\n%s", len(s), s) }
	for in, want := range map[string]string{
		"FETCH 1 (RFC822.SIZE UID FLAGS)": fmt.Sprintf(`UID 1 FLAGS () RFC822.SIZE %d`, len(message)),
		"FETCH 1 FAST":                    fmt.Sprintf(`FLAGS () INTERNALDATE " 2-Jan-2026 03:04:06 +0000" RFC822.SIZE %d`, len(message)),
		"UID FETCH 1 FLAGS":               `UID 1 FLAGS ()`,
		"FETCH 1 ENVELOPE": `ENVELOPE ("soon" NIL ((NIL NIL "a" "b.c")(NIL NIL "d" "e.f")) ((NIL NIL "a" "b.c")(NIL NIL "d" "e.f")) ` +
			`((NIL NIL "a" "b.c")(NIL NIL "d" "e.f")) NIL NIL NIL NIL "x")`,
		"FETCH 1 (BODYSTRUCTURE BODY)": `BODY (("application" "x" NIL NIL NIL "base64" 8) "mixed") ` +
			`BODYSTRUCTURE (("application" "x" NIL NIL NIL "base64" 8 NIL NIL NIL NIL) "mixed" ("boundary" "b") NIL NIL NIL)`,
		"FETCH 1 BODY[]":                                      "BODY[] " + literal(message),
		"FETCH 1 RFC822":                                      "RFC822 " + literal(message),
		"FETCH 1 (RFC822.HEADER RFC822.TEXT)":                 "RFC822.HEADER " + literal(header+"\r\n\r\n") + " RFC822.TEXT " + literal(body),
		"FETCH 1 BODY.PEEK[]<3.4>":                            "BODY[]<3> " + literal(message[3:7]),
		"FETCH 1 BODY.PEEK[]<90000.4>":                        "BODY[]<90000> {0}\r\n",
		"FETCH 1 (BODY[9] BODY[HEADER.FIELDS (\"Date\" to)])": "BODY[9] {0}\r\n BODY[HEADER.FIELDS (\"Date\" \"to\")] " + literal("Date: soon\r\n\r\n"),
		"FETCH 1 (UID BINARY.SIZE[1] BINARY[1])":              "UID 1 BINARY.SIZE[1] 5 BINARY[1] ~" + literal("hello"),
	} {
		if d := cmp.Diff([]string{"* 1 FETCH (" + want + ")"}, c.ok("%s", in)); d != "" {
			t.Errorf("%s (-want +got):\n%s", in, d)
		}
	}
}

// Messages of any size come whole, whatever is read and written at a time.
func TestFetchLargeParts(t *testing.T) {
	r := start(t, nil)
	sizes := []int{pieceSize - 200, pieceSize, 2*pieceSize + 1, storage.ChunkSize + 3*pieceSize}
	var want []string
	for i, size := range sizes {
		m := "Subject: large\r\n\r\n" + repeat(fmt.Sprintf("%09d\r\n", i), size/11)
		r.deliver(t, "alice", "INBOX", m)
		want = append(want, fmt.Sprintf("* %d FETCH (BODY[] {%d}\r\n%s BODY[TEXT] {%d}\r\n%s UID %d)", i+1, len(m), m, len(m)-18, m[18:], i+1))
	}
	c := r.selected(t, "alice")
	got := c.ok("FETCH 1:* (BODY.PEEK[] BODY.PEEK[TEXT] UID)")
	for i := range got {
		// UID is written first.
		got[i] = strings.Replace(got[i], fmt.Sprintf("(UID %d ", i+1), "(", 1)
		want[i] = strings.Replace(want[i], fmt.Sprintf(" UID %d)", i+1), ")", 1)
		if got[i] != want[i] {
			t.Errorf("message %d: %d octets, want %d", i+1, len(got[i]), len(want[i]))
		}
	}
}

// A message that cannot be read is refused while nothing of it was sent; once
// something was, only the end of the connection tells that not all is there.
func TestFetchDamaged(t *testing.T) {
	r := start(t, nil)
	r.deliver(t, "alice", "INBOX", testMessage)
	r.deliver(t, "alice", "INBOX", testMessage)
	r.deliver(t, "alice", "INBOX", "Subject: x\r\n\r\n"+repeat("x", storage.ChunkSize+100))
	st, err := r.Local(1)
	if err != nil {
		t.Fatal(err)
	}
	box, err := st.Mailbox(r.account("alice").ID(), "INBOX")
	if err != nil {
		t.Fatal(err)
	}
	err = st.Messages(t.Context(), storage.Query{Mailbox: box.ID, Extents: true}, func(m *storage.Message) error {
		if m.UID > 1 {
			r.Damage(m.Extents[len(m.Extents)-1])
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	c := r.selected(t, "alice")
	got := c.want("NO [SERVERBUG]", "FETCH 1:2 (UID BODY.PEEK[])")
	if len(got) != 1 || !strings.HasPrefix(got[0], "* 1 FETCH (UID 1 BODY[] {") {
		t.Errorf("got %q", got)
	}
	c.want("NO [SERVERBUG]", "FETCH 2 (BODY.PEEK[HEADER])")
	c.ok("FETCH 1:3 (ENVELOPE BODYSTRUCTURE)")
	c.send("a FETCH 3 BODY.PEEK[]\r\n")
	rest, err := io.ReadAll(c.br)
	if len(rest) < pieceSize || len(rest) > storage.ChunkSize+50 || !strings.HasPrefix(string(rest), "* 3 FETCH (BODY[] {") {
		t.Errorf("%d octets, error %v", len(rest), err)
	}
}

// STORE of flags that are set already is answered, and no command is proposed.
func TestStoreOfWhatIsSet(t *testing.T) {
	r := start(t, nil)
	for range 3 {
		r.deliver(t, "alice", "INBOX", testMessage)
	}
	proposed := 0
	r.Fail(func(_ covey.ShardID, cmd storage.Command) error {
		proposed++
		return nil
	})
	c := r.selected(t, "alice")
	for i, want := range []int{1, 0, 0} {
		before := proposed
		got := c.ok(`STORE 1:2 +FLAGS (\Seen)`)
		if !slices.Equal(got, []string{`* 1 FETCH (FLAGS (\Seen))`, `* 2 FETCH (FLAGS (\Seen))`}) || proposed-before != want {
			t.Errorf("time %d: %d commands, want %d; %q", i+1, proposed-before, want, got)
		}
	}
	before := proposed
	if got := c.ok(`STORE 1:3 +FLAGS.SILENT (\Seen)`); len(got) != 0 || proposed == before {
		t.Errorf("of one that is not: %d commands, %q", proposed-before, got)
	}
	if got := c.ok("STATUS INBOX (UNSEEN)"); !contained(got, "UNSEEN 0") {
		t.Errorf("got %q", got)
	}
}

// Without a mailbox FETCH and STORE are out of place, and wrong ones are wrong
// first of all.
func TestFetchNeedsMailbox(t *testing.T) {
	c := start(t, nil).login(t, "alice")
	c.want("BAD [CLIENTBUG]", "FETCH 1 FLAGS")
	c.want("BAD [CLIENTBUG]", "UID STORE 1 FLAGS ()")
	c.want("BAD Syntax", "FETCH 1")
	c.ok("SELECT INBOX")
	c.want("NO", "SELECT nowhere")
	c.want("BAD [CLIENTBUG]", "FETCH 1 FLAGS")
	c.ok("EXAMINE INBOX")
	c.want("NO [READ-ONLY]", "STORE 1 FLAGS ()")
	c.ok("UNSELECT")
	c.want("BAD [CLIENTBUG]", "FETCH 1 FLAGS")
}

// What is told between commands keeps its order when FETCH is answered here and
// NOOP by go-imap.
func TestFetchKeepsOrder(t *testing.T) {
	r := start(t, nil)
	r.deliver(t, "alice", "INBOX", testMessage)
	c := r.selected(t, "alice")
	r.deliver(t, "alice", "INBOX", testMessage)
	c.send("a FETCH 1 UID\r\nb NOOP\r\nc UID FETCH 1:2 FLAGS\r\nd STORE 2 +FLAGS ($k)\r\ne LOGOUT\r\n")
	c.br = bufio.NewReader(c.conn)
	var got []string
	for {
		l, err := c.read()
		if err != nil {
			break
		}
		got = append(got, l)
	}
	want := []string{
		"* 1 FETCH (UID 1)", "* 2 EXISTS", "a OK FETCH completed", "b OK NOOP completed",
		"* 1 FETCH (UID 1 FLAGS ())", "* 2 FETCH (UID 2 FLAGS ())", "c OK UID FETCH completed",
		"* 2 FETCH (FLAGS ($k))", `* FLAGS (\Answered \Flagged \Deleted \Seen \Draft $k)`, "d OK STORE completed",
		"* BYE Logging out", "e OK LOGOUT completed",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}
