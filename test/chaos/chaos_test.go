package main

import (
	"bufio"
	"bytes"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// at is a moment of a test, in milliseconds.
func at(ms int) time.Time { return time.Unix(1000, 0).Add(time.Duration(ms) * time.Millisecond) }

// What is there at the end of a round against what clients were told.
func TestSettle(t *testing.T) {
	const text = "Subject: token-1\r\n\r\nx"
	lies := func(where string) found { return found{where: where, sum: sumOf("Return-Path: <>\r\n" + text)} }
	flagged := lies(inbox)
	flagged.flagged = true
	for _, tt := range []struct {
		name string
		make func(x *letter)
		at   []found
		want string // kind of the violation
		also func(x *letter) bool
	}{
		{"acknowledged and there", func(x *letter) { x.added = acked }, []found{lies(inbox)}, "", nil},
		{"acknowledged and lost", func(x *letter) { x.added = acked }, nil, lost, nil},
		{"open and not there", func(*letter) {}, nil, "", func(x *letter) bool { return x.added == unknown }},
		{"open and there", func(*letter) {}, []found{lies(inbox)}, "", func(x *letter) bool { return x.added == acked }},
		{"twice", func(*letter) {}, []found{lies(inbox), lies(inbox)}, duplicated, nil},
		{"moved and copied", func(x *letter) { x.added, x.moved = acked, unknown }, []found{lies(inbox), lies(box)}, duplicated, nil},
		{"other bytes", func(x *letter) { x.added = acked }, []found{{where: inbox, sum: sumOf("Subject: other")}}, corrupted, nil},
		{"promised and there", func(x *letter) { x.added, x.pending = acked, true }, []found{lies(inbox)}, "", func(x *letter) bool { return !x.pending }},
		{"promised and lost", func(x *letter) { x.added, x.pending = acked, true }, nil, lost, nil},
		{"removed", func(x *letter) { x.added, x.removed = acked, acked }, nil, "", nil},
		{"removed and back", func(x *letter) { x.added, x.removed = acked, acked }, []found{lies(inbox)}, resurrected, nil},
		{"removal open, gone", func(x *letter) { x.added, x.removed = acked, unknown }, nil, "", func(x *letter) bool { return x.removed == acked }},
		{"removal open, there", func(x *letter) { x.added, x.removed = acked, unknown }, []found{lies(inbox)}, "", func(x *letter) bool { return x.removed == unknown }},
		{"removal open for long", func(x *letter) { x.added, x.removed, x.openSince = acked, unknown, time.Now().Add(-2*lateness) }, []found{lies(inbox)}, "",
			func(x *letter) bool { return x.removed == never }},
		{"moved and back", func(x *letter) { x.added, x.moved = acked, acked }, []found{lies(inbox)}, resurrected, nil},
		{"move open, done", func(x *letter) { x.added, x.moved = acked, unknown }, []found{lies(box)}, "", func(x *letter) bool { return x.moved == acked }},
		{"moved by nobody", func(x *letter) { x.added = acked }, []found{lies(box)}, uidViolation, nil},
		{"flag lost", func(x *letter) { x.added, x.flagged = acked, true }, []found{lies(inbox)}, flagLost, nil},
		{"flag by nobody", func(x *letter) { x.added = acked }, []found{flagged}, flagLost, nil},
		{"flag open", func(x *letter) { x.added, x.flagOpen = acked, true }, []found{flagged}, "", nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := newLedger()
			x := l.sending("u", "token-1", text, inbox)
			tt.make(x)
			l.settle([]string{"u"}, time.Now(), map[string]map[string][]found{"u": {"token-1": tt.at}})
			var got string
			for _, v := range l.found {
				got += v.kind
			}
			if got != tt.want {
				t.Errorf("got %q, want %q: %v", got, tt.want, l.found)
			}
			if tt.also != nil && !tt.also(x) {
				t.Errorf("letter is %+v", x)
			}
		})
	}
}

// UIDs ascend with time, and belong to one message.
func TestUIDs(t *testing.T) {
	view := func(rows ...row) view {
		return view{validity: 5, next: 100, exists: len(rows), whole: true, list: rows, asked: time.Now(), told: time.Now()}
	}
	line := func(token string) string { return "Subject: " + token + "\r\n\r\n" }
	filled := func() *ledger {
		l := newLedger()
		for _, token := range []string{"a", "b"} {
			x := l.sending("u", token, line(token), inbox)
			l.added(x, nil, time.Now(), 0)
		}
		return l
	}
	for _, tt := range []struct {
		name string
		do   func(l *ledger)
		want string
	}{
		{"as it should be", func(l *ledger) {
			l.observe("u", inbox, view(row{1, "", line("a")}, row{2, "", line("b")}), 100)
		}, ""},
		{"another message", func(l *ledger) {
			l.observe("u", inbox, view(row{1, "", line("a")}), 0)
			l.observe("u", inbox, view(row{1, "", line("b")}), 0)
		}, uidViolation},
		{"another UID", func(l *ledger) {
			l.observe("u", inbox, view(row{1, "", line("a")}), 0)
			l.observe("u", inbox, view(row{2, "", line("a")}), 0)
		}, uidViolation},
		{"not as they came", func(l *ledger) {
			l.observe("u", inbox, view(row{1, "", line("b")}, row{2, "", line("a")}), 0)
		}, uidViolation},
		{"UIDVALIDITY", func(l *ledger) {
			l.observe("u", inbox, view(), 0)
			v := view()
			v.validity++
			l.observe("u", inbox, v, 0)
		}, uidViolation},
		{"UIDNEXT", func(l *ledger) { l.observe("u", inbox, view(), 101) }, uidViolation},
		{"unsent", func(l *ledger) { l.observe("u", inbox, view(row{1, "", line("c")}), 0) }, corrupted},
		{"unique id", func(l *ledger) { l.uidlOf("u", "x", "a"); l.uidlOf("u", "x", "b") }, uidViolation},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := filled()
			tt.do(l)
			l.orderLocked("u")
			got := ""
			if len(l.found) > 0 {
				got = l.found[0].kind
			}
			if got != tt.want {
				t.Errorf("got %q, want %q: %v", got, tt.want, l.found)
			}
		})
	}
}

// A reply that a host gave while it was cut off is found; the time in which no
// host had a quorum is not counted.
func TestAccount(t *testing.T) {
	a, b, d := &host{name: "a"}, &host{name: "b"}, &host{name: "d"}
	l := newLedger()
	l.shards = map[string]int{"u": 1}
	l.replies = []positive{
		{1, a, at(900), at(1000), "before"},
		{1, b, at(1100), at(3500), "began before, ended within"},
		{1, a, at(3100), at(3500), "elsewhere"},
		{1, b, at(3200), at(3600), "within"},
		{1, a, at(7500), at(8000), "after a time without any quorum"},
	}
	c := &cluster{ledger: l, hosts: []*host{a, b, d}, windows: []window{
		{[]*host{b}, at(3000), at(4000)},
		{[]*host{a, b, d}, at(5000), at(7000)},
	}}
	longest, shard := c.account(fault{name: "F-25"}, at(500), at(8000), at(8000))
	if longest != 2.5 || shard != 1 {
		t.Errorf("longest gap is %v s of shard %d, want 2.5 of 1", longest, shard)
	}
	if len(l.found) != 1 || !strings.HasSuffix(l.found[0].text, ": within") {
		t.Errorf("violations %v, want that of the reply within", l.found)
	}
}

func TestSchedule(t *testing.T) {
	names := func(seed uint64) (all []string) {
		s := schedule{seed, faults}
		for i := range 2 * len(faults) {
			f, _ := s.at(i)
			all = append(all, f.name)
		}
		return all
	}
	got := names(1)
	if diff := cmp.Diff(got, names(1)); diff != "" {
		t.Errorf("a seed gives two schedules: %s", diff)
	}
	if slices.Equal(got, names(2)) {
		t.Error("two seeds give one schedule")
	}
	for _, half := range [][]string{got[:len(faults)], got[len(faults):]} {
		if n := len(slices.Compact(slices.Sorted(slices.Values(half)))); n != len(faults) {
			t.Errorf("%d faults of %d in the first rounds: %v", n, len(faults), half)
		}
	}
}

func TestReply(t *testing.T) {
	c := &imapConn{in: bufio.NewReader(strings.NewReader("* 3 FETCH (UID 5 FLAGS (\\Seen $Chaos) BODY[HEADER.FIELDS (SUBJECT)] {8}\r\nSubject:)\r\n"))}
	u, err := c.reply()
	if err != nil {
		t.Fatal(err)
	}
	got, ok := fetched(untagged{strings.TrimPrefix(u.text, "* "), u.literals})
	if want := (row{5, " \\Seen $Chaos ", "Subject:"}); !ok || got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	for text, want := range map[string][2]uint32{
		"OK [APPENDUID 9 12] done":    {9, 12},
		"OK [COPYUID 9 4:5 12] done":  {9, 12},
		"OK [COPYUID 9 4 5:6] done":   {},
		"OK done":                     {},
		"OK [APPENDUID 9 9999999999]": {9, 1<<32 - 1},
	} {
		if v, uid := placed(text); [2]uint32{v, uid} != want {
			t.Errorf("%s: got %d %d, want %v", text, v, uid, want)
		}
	}
}

func FuzzReply(f *testing.F) {
	f.Add([]byte("* 1 FETCH (UID 1 BODY[] {3}\r\nabc)\r\n* 2 EXISTS\r\nt1 OK [APPENDUID 1 2] x\r\n"))
	f.Add([]byte("* x {99999999999}\r\n"))
	f.Add([]byte("+OK\r\n1 a\r\n..\r\n.\r\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		c := &imapConn{in: bufio.NewReader(bytes.NewReader(b))}
		for {
			u, err := c.reply()
			if err != nil {
				break
			}
			if r, ok := fetched(u); ok && r.uid == 0 && !strings.Contains(u.text, "UID 0") {
				t.Errorf("UID 0 from %q", u.text)
			}
			placed(u.text)
		}
		p := &popConn{in: bufio.NewReader(bytes.NewReader(b))}
		if _, err := p.lines(); err == nil && !bytes.Contains(b, []byte(".")) {
			t.Error("a reply without an end")
		}
	})
}
