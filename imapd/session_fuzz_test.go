package imapd

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"strings"
	"testing"

	"github.com/covey-mail/covey/mailbox/mailboxtest"
)

// A strict log fails the test for what must never be logged.
type strict struct{ t *testing.T }

func (strict) Enabled(_ context.Context, l slog.Level) bool { return l >= slog.LevelDebug }
func (s strict) WithAttrs([]slog.Attr) slog.Handler         { return s }
func (s strict) WithGroup(string) slog.Handler              { return s }
func (s strict) Handle(_ context.Context, r slog.Record) error {
	if r.Level >= slog.LevelWarn || strings.Contains(r.Message, "handling") && !strings.HasSuffix(r.Message, "EOF") {
		text := r.Message
		r.Attrs(func(a slog.Attr) bool { text += " " + a.String(); return true })
		s.t.Error(text)
	}
	return nil
}

// FuzzSession has a user say anything in each state of a session. No command makes
// the server fail, what it says is well-formed, and nothing is left running.
func FuzzSession(f *testing.F) {
	for _, s := range []string{
		"CAPABILITY", "NOOP", "LOGOUT", "ID NIL", "ENABLE X", "NAMESPACE", "IDLE\r\nDONE", "CHECK", "CLOSE", "UNSELECT", "EXPUNGE",
		"SELECT INBOX", "EXAMINE inbox", "CREATE a/b (USE (\\Sent))", "CREATE &AOk-", "DELETE Trash", "RENAME INBOX x", "SUBSCRIBE x", "UNSUBSCRIBE x",
		`LIST "" *`, `LIST (SUBSCRIBED RECURSIVEMATCH) "" (% x) RETURN (CHILDREN STATUS (MESSAGES SIZE))`, `LSUB "" %`, "STATUS INBOX (MESSAGES RECENT UNSEEN)",
		"APPEND INBOX (\\Seen k) \" 1-Jan-2026 00:00:00 +0000\" {3+}\r\nabc", "APPEND {5}\r\nINBOX {2}\r\n\r\n", "APPEND INBOX ~{3+}\r\na\x00b", "APPEND INBOX {0}\r\n",
		"FETCH 1:* FULL", "FETCH * (UID BODYSTRUCTURE BODY BODY[] BODY[1.2.HEADER]<0.9> BODY.PEEK[HEADER.FIELDS.NOT (a \"b\")])", "FETCH 1 (BINARY[1]<1.1> BINARY.SIZE[1] RFC822.TEXT)",
		"UID FETCH 1,3:* (FLAGS ENVELOPE INTERNALDATE)", "STORE 1 +FLAGS (\\Deleted a)", "UID STORE * -FLAGS.SILENT \\Seen b", "COPY 1 Trash", "UID MOVE 1 Archive", "UID EXPUNGE 1:*",
		"SEARCH OR (TEXT a) NOT SINCE 1-Jan-2026 SMALLER 100", "SEARCH RETURN (SAVE) ALL\r\nb FETCH $ UID", "UID SEARCH RETURN (MIN COUNT) CHARSET UTF-8 SUBJECT {1+}\r\nx",
		`GETQUOTA ""`, "GETQUOTAROOT INBOX", "SETQUOTA x ()", "SELECT {1}\r\n&", "FETCH 0 ALL", "STARTTLS", "IDLE\r\nx",
	} {
		f.Add("a " + s + "\r\n")
	}
	f.Fuzz(func(t *testing.T, in string) {
		for _, state := range []string{"", "s SELECT INBOX\r\n", "s EXAMINE INBOX\r\n", "s IDLE\r\n"} {
			fuzzSession(t, state, in)
		}
	})
}

func fuzzSession(t *testing.T, state, in string) {
	r := &rig{Cluster: mailboxtest.New(t, 1), users: newUsers(1<<20, "alice")}
	s, err := New(Config{Logons: r.users, Mailboxes: r.Service, AppendLimit: 1 << 16, Logger: slog.New(strict{t})})
	if err != nil {
		t.Fatal(err)
	}
	r.deliver(t, "alice", "INBOX", testMessage)
	r.deliver(t, "alice", "INBOX", "Content-Type: multipart/x; boundary=b\r\n\r\n--b\r\n\r\nx\r\n--b\r\nContent-Type: message/rfc822\r\n\r\nA: b\r\n\r\nc\r\n--b--\r\n")
	s.listen(newHandover()) // go-imap's server, and no listener that anybody comes to
	conn := &script{in: bytes.NewReader([]byte(state + in))}
	acct := r.users.accounts["alice"]
	if err := s.enter(acct.ID); err != nil {
		t.Fatal(err)
	}
	s.handOver(conn, login{Account: acct, Session: "x"})
	s.conns.Wait()
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	c := &client{t: t, br: bufio.NewReader(&conn.out)}
	for {
		got, err := c.read()
		if err != nil {
			if !errors.Is(err, io.EOF) || got != "" {
				t.Errorf("%q: malformed response %q: %v", in, got, err)
			}
			return
		}
		if strings.Contains(got, "SERVERBUG") || strings.ContainsRune(got, 0) && !strings.Contains(got, "{") {
			t.Errorf("%q: response %q", in, got)
		}
		if word, _, _ := strings.Cut(got, " "); word != "*" && word != "+" && !strings.Contains(state+in, word) {
			t.Errorf("%q: response %q to nobody", in, got)
		}
	}
}
