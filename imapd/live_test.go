package imapd

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/covey-mail/covey"
)

func TestI17_Idle(t *testing.T) {
	r := start(t, nil)
	t.Run("a command instead of DONE", func(t *testing.T) {
		c := r.selected(t, "alice")
		for _, line := range []string{"b NOOP", "", "DONE DONE", "b SELECT {5+}\r\nINBOX", "b APPEND INBOX {3}"} {
			c.send("a IDLE\r\n")
			if got := c.line(); !strings.HasPrefix(got, "+") {
				t.Fatalf("got %q", got)
			}
			c.send(line + "\r\n")
			if _, got := c.until("a"); !strings.HasPrefix(got, "BAD") {
				t.Errorf("%q: got %q", line, got)
			}
			c.ok("NOOP")
		}
	})
	t.Run("an unasked message instead of DONE", func(t *testing.T) {
		c := r.selected(t, "alice")
		c.send("a IDLE\r\n")
		c.line()
		c.send("b APPEND INBOX {15+}\r\nc CREATE evil\r\n\r\n")
		if _, got := c.until("a"); !strings.HasPrefix(got, "BAD") {
			t.Errorf("got %q", got)
		}
		c.bye("* BYE")
	})
	t.Run("flood", func(t *testing.T) {
		c := r.selected(t, "alice")
		go func() { _, _ = io.WriteString(c.conn, repeat("a IDLE\r\nDONE\r\n", 500)+"b LOGOUT\r\n") }()
		lines, _ := c.until("b")
		if n := len(slices.DeleteFunc(lines, func(l string) bool { return !strings.HasPrefix(l, "a OK") })); n != 500 {
			t.Errorf("%d of 500 IDLEs ended", n)
		}
	})
	t.Run("without a mailbox", func(t *testing.T) {
		c := r.login(t, "alice")
		c.send("a IDLE\r\n")
		c.line()
		c.send("DONE\r\n")
		if _, got := c.until("a"); !strings.HasPrefix(got, "OK") {
			t.Errorf("got %q", got)
		}
		c.want("BAD", "IDLE now")
	})
	t.Run("silence", func(t *testing.T) {
		r := start(t, func(_ *rig, cfg *Config) { cfg.IdleTime = 100 * time.Millisecond })
		c := r.selected(t, "alice")
		c.bye("* BYE Autologout")
		c = r.selected(t, "alice")
		c.send("a IDLE\r\n")
		c.line()
		c.bye("* BYE Autologout")
	})
	t.Run("not too soon", func(t *testing.T) {
		cfg, err := Config{Logons: newUsers(0), Mailboxes: r.Service}.withDefaults()
		if err != nil || cfg.IdleTime < 30*time.Minute {
			t.Errorf("got %v, %v", cfg.IdleTime, err)
		}
	})
}

func TestI18_ClientThatStopsReading(t *testing.T) {
	r := start(t, func(_ *rig, cfg *Config) { cfg.WriteTime = 200 * time.Millisecond })
	r.deliver(t, "alice", "INBOX", "Subject: big\r\n\r\n"+repeat(repeat("x", 98)+"\r\n", 200000))
	c := r.selected(t, "alice")
	c.send("a FETCH 1 BODY.PEEK[]\r\n")
	ended(t, r.server)
}

// ended waits until the server has no session left.
func ended(t *testing.T, s *Server) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for range 10000 {
		s.mu.Lock()
		n := len(s.guards) + len(s.sessions)
		s.mu.Unlock()
		if n == 0 {
			return
		}
		<-tick.C
	}
	t.Fatal("the session goes on")
}

func TestI19_ManySessionsOfOneUser(t *testing.T) {
	r := start(t, func(_ *rig, cfg *Config) { cfg.PerUser = 3 })
	var open []*client
	for range 3 {
		open = append(open, r.login(t, "alice"))
	}
	c := r.dial(t)
	c.want("NO [LIMIT]", "LOGIN alice secret")
	r.login(t, "bob").ok("SELECT INBOX")
	open[0].ok("LOGOUT")
	open[0].closed()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		// The place is free when the server has closed its side.
		if _, got := r.dial(t).cmd("LOGIN alice secret"); strings.HasPrefix(got, "OK") {
			break
		}
		<-tick.C
	}
}

func TestI29_TwoSessionsSeeEachOther(t *testing.T) {
	r := start(t, nil)
	a, b := r.selected(t, "alice"), r.selected(t, "alice")
	a.append("INBOX", testMessage)
	a.append("INBOX", testMessage)
	a.append("INBOX", testMessage)
	check := func(what string, want, got []string) {
		t.Helper()
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%s (-want +got):\n%s", what, d)
		}
	}
	check("new messages", []string{"* 3 EXISTS"}, b.ok("NOOP"))
	check("own keyword", []string{
		`* 1 FETCH (FLAGS (\Seen $X))`, `* FLAGS (\Answered \Flagged \Deleted \Seen \Draft $X)`,
	}, b.ok(`STORE 1 FLAGS (\Seen $X)`))
	check("flags of others", []string{
		`* FLAGS (\Answered \Flagged \Deleted \Seen \Draft $X)`, `* 1 FETCH (UID 1 FLAGS (\Seen $X))`,
	}, a.ok("NOOP"))
	a.ok(`STORE 1:2 +FLAGS.SILENT (\Deleted)`)
	check("own expunge", []string{"* 2 EXPUNGE", "* 1 EXPUNGE"}, a.ok("EXPUNGE"))
	for _, cmd := range []string{"FETCH 1:3 UID", "STORE 3 +FLAGS.SILENT (\\Flagged)", "SEARCH 1:3"} {
		for _, l := range b.ok("%s", cmd) {
			if strings.Contains(l, "EXPUNGE") {
				t.Errorf("%s: %q", cmd, l)
			}
		}
	}
	check("numbers hold until told", []string{"* 3 FETCH (UID 3)"}, b.ok("FETCH 1:3 UID"))
	check("others' expunge", []string{"* 2 EXPUNGE", "* 1 EXPUNGE"}, b.ok("NOOP"))
	check("numbers after it", []string{"* 1 FETCH (UID 3)"}, b.ok("FETCH 1:* UID"))

	b.send("i IDLE\r\n")
	b.line()
	a.append("INBOX", testMessage)
	if got := b.line(); got != "* 2 EXISTS" {
		t.Errorf("in IDLE: %q", got)
	}
	a.ok(`STORE 2 FLAGS (\Deleted)`)
	if got := b.line(); got != `* 2 FETCH (UID 4 FLAGS (\Deleted))` {
		t.Errorf("in IDLE: %q", got)
	}
	a.ok("EXPUNGE")
	if got := b.line(); got != "* 2 EXPUNGE" {
		t.Errorf("in IDLE: %q", got)
	}
	b.send("done\r\n")
	if lines, got := b.until("i"); len(lines) != 0 || !strings.HasPrefix(got, "OK") {
		t.Errorf("end of IDLE: %q %q", lines, got)
	}
}

// TestStoreTellsWhatOthersDid: the change of another session to a message is told
// although this session changes the message too, and asked for silence.
func TestStoreTellsWhatOthersDid(t *testing.T) {
	r := start(t, nil)
	r.deliver(t, "alice", "INBOX", testMessage)
	a, b := r.selected(t, "alice"), r.selected(t, "alice")
	b.ok(`STORE 1 +FLAGS (\Flagged)`)
	if got := a.ok(`STORE 1 +FLAGS.SILENT (\Answered)`); !slices.Equal(got, []string{`* 1 FETCH (FLAGS (\Answered \Flagged))`}) {
		t.Errorf("got %q", got)
	}
	b.ok(`STORE 1 +FLAGS (\Draft)`)
	if got := a.ok("FETCH 1 BODY[TEXT]<0.1>"); !contained(got, `FLAGS (\Answered \Flagged \Seen \Draft)`) {
		t.Errorf("got %q", got)
	}
	if got := a.ok(`STORE 1 -FLAGS.SILENT (\Answered)`); len(got) != 0 {
		t.Errorf("silence: %q", got)
	}
}

func TestI32_ManyUsersAtOnce(t *testing.T) {
	const n = 100
	var names []string
	for i := range n {
		names = append(names, fmt.Sprint("user", i))
	}
	r := start(t, func(r *rig, cfg *Config) { r.users = newUsers(0, names...); cfg.Logons = r.users })
	for _, u := range names {
		r.deliver(t, u, "INBOX", "Subject: token of "+u+".\r\n\r\n")
	}
	var wg sync.WaitGroup
	for _, u := range names {
		wg.Go(func() {
			conn, err := net.Dial("tcp", r.addr)
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			_, _ = fmt.Fprintf(conn, "a LOGIN %s secret\r\nb SELECT INBOX\r\nc FETCH 1:* BODY[]\r\nd LOGOUT\r\n", u)
			got, err := io.ReadAll(conn)
			if err != nil {
				t.Error(err)
			}
			if strings.Count(string(got), "token of ") != 1 || !strings.Contains(string(got), "token of "+u+".") {
				t.Errorf("%s got %q", u, got)
			}
		})
	}
	wg.Wait()
}

func TestReadOnly(t *testing.T) {
	r := start(t, nil)
	r.deliver(t, "alice", "INBOX", testMessage)
	w := r.selected(t, "alice")
	w.ok(`STORE 1 FLAGS (\Deleted)`)
	c := r.login(t, "alice")
	if got := c.ok("EXAMINE INBOX"); !contained(got, "[PERMANENTFLAGS ()]") {
		t.Errorf("got %q", got)
	}
	for _, cmd := range []string{"STORE 1 FLAGS ()", "EXPUNGE", "UID EXPUNGE 1", "MOVE 1 Trash"} {
		c.want("NO [READ-ONLY]", "%s", cmd)
	}
	if got := c.ok("FETCH 1 BODY[TEXT]"); contained(got, "FLAGS") {
		t.Errorf("\\Seen was set: %q", got)
	}
	c.ok("COPY 1 Trash")
	c.ok("CLOSE")
	if got := c.ok("STATUS INBOX (MESSAGES UNSEEN)"); !contained(got, "(MESSAGES 1 UNSEEN 1)") {
		t.Errorf("got %q", got)
	}
	w.ok("CLOSE")
	if got := c.ok("STATUS INBOX (MESSAGES)"); !contained(got, "(MESSAGES 0)") {
		t.Errorf("got %q", got)
	}
}

func TestCopyMoveUID(t *testing.T) {
	r := start(t, nil)
	for range 4 {
		r.deliver(t, "alice", "INBOX", testMessage)
	}
	c := r.selected(t, "alice")
	if _, got := c.cmd("COPY 1,3:4 Archive"); !strings.HasPrefix(got, "OK [COPYUID ") || !strings.Contains(got, " 1,3:4 1:3] ") {
		t.Errorf("got %q", got)
	}
	got := c.ok("UID MOVE 2:3 Archive")
	if len(got) != 3 || !strings.Contains(got[0], " 2:3 4:5]") || got[1] != "* 3 EXPUNGE" || got[2] != "* 2 EXPUNGE" {
		t.Errorf("got %q", got)
	}
	c.ok("UID STORE 1,4 +FLAGS (\\Deleted)")
	if got := c.ok("UID EXPUNGE 4:9"); !slices.Equal(got, []string{"* 2 EXPUNGE"}) {
		t.Errorf("got %q", got)
	}
	c.ok("UNSELECT")
	if got := c.ok("STATUS INBOX (MESSAGES DELETED)"); !contained(got, "(MESSAGES 1 DELETED 1)") {
		t.Errorf("got %q", got)
	}
}

func TestShutdownSaysBye(t *testing.T) {
	r := start(t, nil)
	idle, busy := r.selected(t, "alice"), r.selected(t, "alice")
	idle.send("a IDLE\r\n")
	idle.line()
	if err := r.server.Shutdown(context.Background()); err != nil {
		t.Error(err)
	}
	idle.bye("* BYE [UNAVAILABLE]")
	busy.bye("* BYE [UNAVAILABLE]")
	if conn, err := net.Dial("tcp", r.addr); err == nil {
		_ = conn.Close()
		t.Error("still listening")
	}
}

func TestShutdownDoesNotWaitForEver(t *testing.T) {
	r := start(t, nil)
	r.deliver(t, "alice", "INBOX", "Subject: big\r\n\r\n"+repeat(repeat("x", 98)+"\r\n", 200000))
	c := r.selected(t, "alice")
	c.send("a FETCH 1 BODY.PEEK[]\r\n")
	if _, err := c.br.Peek(1); err != nil { // being written, and not read
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := r.server.Shutdown(ctx); err == nil {
		t.Error("shutdown did not say that it ran out of time")
	}
	ended(t, r.server)
}

// A model is what a client believes of its mailbox, told by untagged responses
// alone.
type model struct {
	*client
	uids  []covey.UID // 0: not asked for yet
	flags []string
}

// take applies responses. expunge says whether EXPUNGE may come now.
func (m *model) take(lines []string, expunge bool) {
	m.t.Helper()
	for _, l := range lines {
		f := strings.Fields(l)
		if len(f) < 3 || f[0] != "*" {
			continue
		}
		n, err := strconv.Atoi(f[1])
		if err != nil {
			continue
		}
		switch f[2] {
		case "EXISTS":
			if n < len(m.uids) {
				m.t.Fatalf("%q with %d messages", l, len(m.uids))
			}
			for len(m.uids) < n {
				m.uids, m.flags = append(m.uids, 0), append(m.flags, "")
			}
		case "EXPUNGE":
			if !expunge || n < 1 || n > len(m.uids) {
				m.t.Fatalf("%q out of place, with %d messages", l, len(m.uids))
			}
			m.uids, m.flags = slices.Delete(m.uids, n-1, n), slices.Delete(m.flags, n-1, n)
		case "FETCH":
			if n < 1 || n > len(m.uids) {
				m.t.Fatalf("%q with %d messages", l, len(m.uids))
			}
			m.fetched(l, n)
		}
	}
}

// fetched takes UID and FLAGS out of a FETCH response.
func (m *model) fetched(l string, n int) {
	m.t.Helper()
	if _, after, ok := strings.Cut(l, "UID "); ok {
		uid, err := strconv.Atoi(strings.TrimRight(strings.Fields(after)[0], ")"))
		if err != nil {
			m.t.Fatal(err)
		}
		if m.uids[n-1] != 0 && m.uids[n-1] != covey.UID(uid) {
			m.t.Fatalf("%q, but that was UID %d", l, m.uids[n-1])
		}
		m.uids[n-1] = covey.UID(uid)
	}
	if _, after, ok := strings.Cut(l, "FLAGS ("); ok {
		m.flags[n-1], _, _ = strings.Cut(after, ")")
	}
}

// do sends a command and applies what comes back.
func (m *model) do(format string, args ...any) {
	m.t.Helper()
	cmd := fmt.Sprintf(format, args...)
	lines, tagged := m.cmd("%s", cmd)
	if strings.HasPrefix(tagged, "BAD") {
		m.t.Fatalf("%s: %s", cmd, tagged)
	}
	verb, _, _ := strings.Cut(cmd, " ")
	m.take(lines, verb != "FETCH" && verb != "STORE" && verb != "SEARCH")
}

// TestI29_ModelsNeverDiverge has sessions do random things to one mailbox, and
// compares what each was told with what there is.
func TestI29_ModelsNeverDiverge(t *testing.T) {
	for seed := range uint64(6) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			rnd := rand.New(rand.NewPCG(seed, 29))
			r := start(t, nil)
			var models []*model
			for range 3 {
				m := &model{client: r.login(t, "alice")}
				m.do("SELECT INBOX")
				models = append(models, m)
			}
			for range 300 {
				randomCommand(rnd, models[rnd.IntN(len(models))])
			}
			for _, m := range models {
				m.do("NOOP")
			}
			compareModels(t, models)
		})
	}
}

func randomCommand(rnd *rand.Rand, m *model) {
	m.t.Helper()
	flag := []string{`\Seen`, `\Deleted`, `\Flagged`, `$Work`, `\Answered`}[rnd.IntN(5)]
	op := []string{"FLAGS", "+FLAGS", "-FLAGS", "+FLAGS", "-FLAGS"}[rnd.IntN(5)]
	if rnd.IntN(4) == 0 || len(m.uids) == 0 {
		m.do("APPEND INBOX (%s) {%d+}\r\n%s", flag, len(testMessage), testMessage)
		return
	}
	n := 1 + rnd.IntN(len(m.uids))
	switch rnd.IntN(12) {
	case 0, 1, 2:
		m.do("STORE %d:* %s (%s)", n, op, flag)
	case 3:
		m.do("UID STORE 1:%d %s (%s)", 1+rnd.IntN(60), op, flag)
	case 4:
		m.do("FETCH %d (UID FLAGS BODY[TEXT]<0.1>)", n)
	case 5:
		m.do("SEARCH %s %d", "UNSEEN", n)
	case 6:
		m.do("EXPUNGE")
	case 7:
		m.do("UID FETCH %d:* FLAGS", 1+rnd.IntN(60))
	case 8:
		m.do("COPY %d INBOX", n)
	case 9:
		m.do("MOVE %d %s", n, []string{"INBOX", "Trash"}[rnd.IntN(2)])
	case 10:
		m.do("NOOP")
	case 11:
		m.send("i IDLE\r\n")
		m.line()
		m.send("DONE\r\n")
		lines, _ := m.until("i")
		m.take(lines, true)
	}
}

// compareModels asks each session what there is, past what it believes.
func compareModels(t *testing.T, models []*model) {
	t.Helper()
	for i, m := range models {
		believed := slices.Clone(m.flags)
		fresh := &model{client: m.client, uids: make([]covey.UID, len(m.uids)), flags: make([]string, len(m.uids))}
		if len(m.uids) > 0 {
			fresh.do("FETCH 1:* (UID FLAGS)")
		}
		if slices.Contains(fresh.uids, 0) {
			t.Fatalf("session %d believes in %d messages, there are %v", i, len(m.uids), fresh.uids)
		}
		for n := range believed {
			if m.uids[n] != 0 && m.uids[n] != fresh.uids[n] {
				t.Errorf("session %d: message %d is UID %d, was told %d", i, n+1, fresh.uids[n], m.uids[n])
			}
			if believed[n] != "" && believed[n] != fresh.flags[n] {
				t.Errorf("session %d: UID %d has flags %q, was told %q", i, fresh.uids[n], fresh.flags[n], believed[n])
			}
		}
		if d := cmp.Diff(models[0].uids, m.uids); i > 0 && len(m.uids) != len(models[0].uids) {
			t.Errorf("sessions 0 and %d differ (-0 +%d):\n%s", i, i, d)
		}
	}
}

// I-31: whoever may not log in any more does not go on in a session that is open,
// whatever state it is in.
func TestI31_AccountDisabled(t *testing.T) {
	for _, tt := range []struct {
		name   string
		before func(c *client)
		send   string
	}{
		{"I-31/nothing selected", func(*client) {}, "x CREATE late\r\n"},
		{"I-31/selected", func(c *client) { c.ok("SELECT INBOX") }, "x NOOP\r\n"},
		{"I-31/append", func(*client) {}, "x APPEND INBOX {3+}\r\nabc\r\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := start(t, nil)
			c, other := r.login(t, "alice"), r.login(t, "bob")
			tt.before(c)
			r.users.disable("alice")
			c.send(tt.send)
			c.bye("* BYE ")
			other.ok("NOOP")
			boxes, err := r.account("alice").List(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			for _, b := range boxes {
				if b.Name == "late" || b.Messages > 0 {
					t.Errorf("the command was done: %+v", b)
				}
			}
		})
	}
}
