package pop3d

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/internal/serve"
	"github.com/covey-mail/covey/mailbox"
	"github.com/covey-mail/covey/storage"
)

// P-01: what is no command line is refused, and many of them end the session.
func TestP01_LinesThatAreNone(t *testing.T) {
	s := newStand(t, nil)
	tests := []struct{ name, raw, want string }{
		{"256 octets", "NOOP " + strings.Repeat("x", 249) + "\r\n", "-ERR line too long"},
		{"bare LF", "NOOP\n", "-ERR lines end with CRLF"},
		{"NUL", "NO\x00OP\r\n", "-ERR NUL in line"},
		{"empty", "\r\n", "-ERR unknown command"},
		{"HTTP", "GET / HTTP/1.1\r\n", "-ERR unknown command"},
	}
	c := s.dial(t)
	c.talk(t, "< +OK …")
	for _, tt := range tests {
		c.send(t, tt.raw)
		if got := c.line(t); got != tt.want {
			t.Errorf("%s: got %q, want %q", tt.name, got, tt.want)
		}
	}
	c.talk(t, "> QUIT\n< +OK bye\n< EOF")

	t.Run("P-01/255 octets are a line", func(t *testing.T) {
		c := s.dial(t)
		c.talk(t, "< +OK …")
		c.send(t, "USER "+strings.Repeat("x", 248)+"\r\n")
		c.talk(t, "< +OK …")
	})
	t.Run("P-01/past the buffer", func(t *testing.T) {
		c := s.dial(t)
		c.talk(t, "< +OK …")
		c.send(t, strings.Repeat("x", maxSkip)+"\r\n")
		c.talk(t, "< -ERR line too long\n> CAPA\n< +OK …")
		c.body(t)
		c.send(t, strings.Repeat("x", maxSkip+maxAuthLine)) // and no end
		c.talk(t, "< -ERR line too long\n< EOF")
	})
	t.Run("P-01/closed after many", func(t *testing.T) {
		c := s.dial(t)
		c.talk(t, "< +OK …")
		for range maxFaults {
			c.talk(t, "> XYZZY\n< -ERR unknown command")
		}
		c.talk(t, "< EOF")
	})
}

// P-02: USER and PASS do not tell whether there is such an account.
func TestP02_UserDoesNotTell(t *testing.T) {
	s := newStand(t, nil)
	replies := func(user string) []string {
		c := s.dial(t)
		c.talk(t, "< +OK …")
		var got []string
		for _, line := range []string{"USER " + user, "PASS wrong", "PASS " + secret, "USER " + user, "PASS "} {
			c.send(t, line+"\r\n")
			got = append(got, c.line(t))
		}
		return got
	}
	known, unknown := replies("alice"), replies("nobody")
	if diff := cmp.Diff(known, unknown); diff != "" {
		t.Errorf("an unknown user is answered otherwise (-known +unknown):\n%s", diff)
	}
	want := []string{"+OK send PASS", "-ERR [AUTH] authentication failed", "-ERR USER comes first",
		"+OK send PASS", "-ERR [AUTH] authentication failed"}
	if diff := cmp.Diff(want, known); diff != "" {
		t.Errorf("replies (-want +got):\n%s", diff)
	}
}

// P-03: one session at a time.
func TestP03_SecondLoginWhileLocked(t *testing.T) {
	s := newStand(t, nil)
	first := s.login(t)
	second := s.dial(t)
	second.talk(t, `
		< +OK …
		> USER alice
		< +OK …
		> PASS `+secret+`
		< -ERR [IN-USE] maildrop is locked by another session
		> STAT
		< -ERR log in first`)
	first.talk(t, "> QUIT\n< +OK bye")
	// The lock is free by the time the reply is there.
	second.talk(t, "> USER alice\n< +OK …\n> PASS "+secret+"\n< +OK …")

	t.Run("P-03/a lost connection gives the lock back", func(t *testing.T) {
		second.Close()
		waitFor(t, "the lock", func() bool {
			release, err := s.mail.Service.Account(alice.ID, alice.Shard, 0).LockMaildrop()
			if err == nil {
				release()
			}
			return err == nil
		})
	})
}

// P-04: who cannot be served now is told so, and is not logged in.
func TestP04_NoQuorum(t *testing.T) {
	s := newStand(t, nil)
	c := s.dial(t)
	c.talk(t, "< +OK …")
	for range 2 { // the lock of the first try is given back
		c.talk(t, `
			> USER carol
			< +OK send PASS
			> PASS `+secret+`
			< -ERR [SYS/TEMP] temporary failure, try again later`)
	}
	c.talk(t, "> QUIT\n< +OK bye\n< EOF")
}

// P-05: numbers that name no message.
func TestP05_NumbersThatAreNone(t *testing.T) {
	s := newStand(t, nil)
	s.deliver(t, "a: b\r\n\r\nbody\r\n", "a: b\r\n\r\nbody\r\n")
	c := s.login(t)
	c.talk(t, `
		> DELE 2
		< +OK message 2 marked
		> DELE 2
		< -ERR no such message
		> RETR 2
		< -ERR no such message
		> LIST 2
		< -ERR no such message
		> UIDL 2
		< -ERR no such message
		> TOP 2 0
		< -ERR no such message
		> RETR 0
		< -ERR no such message
		> RETR 3
		< -ERR no such message
		> RETR 99999999999999
		< -ERR no such message
		> TOP 1 99999999999999
		< +OK …`)
	if got, want := c.body(t), "a: b\r\n\r\nbody\r\n"; got != want {
		t.Errorf("TOP with more lines than any message has: got %q, want %q", got, want)
	}
	for _, line := range []string{"TOP 1 -1", "TOP 1", "LIST x", "RETR", "RETR +1", "DELE 1 2", "UIDL 0x1", "STAT 1", "NOOP x"} {
		c.talk(t, "> "+line+"\n< -ERR …")
		if line == "LIST x" { // half of the faults that a session has
			c.talk(t, "> QUIT\n< +OK …")
			c = s.login(t)
		}
	}
}

// P-06: nothing said in clear text counts under TLS.
func TestP06_STLS(t *testing.T) {
	s := newStand(t, nil)
	t.Run("P-06/something behind it", func(t *testing.T) {
		c := s.dial(t)
		c.talk(t, "< +OK …")
		c.send(t, "STLS\r\nUSER alice\r\n")
		c.talk(t, "< -ERR nothing may follow STLS before the handshake\n< EOF")
	})
	t.Run("P-06/plain text instead of the handshake", func(t *testing.T) {
		c := s.dial(t)
		c.talk(t, "< +OK …\n> STLS\n< +OK begin TLS\n> USER alice")
		if rest, _ := io.ReadAll(c.r); len(rest) > 0 && rest[0] != 21 { // an alert
			t.Errorf("got %q after plain text", rest)
		}
	})
	t.Run("P-06/after log-in", func(t *testing.T) {
		c := s.login(t)
		c.talk(t, "> STLS\n< -ERR already logged in\n> QUIT\n< +OK bye")
	})
	t.Run("P-06/forgets what came before", func(t *testing.T) {
		c := s.dial(t)
		c.talk(t, "< +OK …\n> USER alice\n< +OK …\n> STLS\n< +OK begin TLS")
		tc := tls.Client(c.Conn, s.tls)
		c = newClient(tc)
		c.talk(t, `
			> PASS `+secret+`
			< -ERR USER comes first
			> STLS
			< -ERR STLS is not offered here
			> USER alice
			< +OK send PASS
			> PASS `+secret+`
			< +OK …
			> QUIT
			< +OK bye
			< EOF`)
	})
}

// P-07: a session that ends without QUIT removes nothing.
func TestP07_OnlyQuitRemoves(t *testing.T) {
	t.Run("P-07/reset", func(t *testing.T) {
		s := newStand(t, nil)
		s.deliver(t, "a: b\r\n\r\n1\r\n", "a: b\r\n\r\n2\r\n")
		c := s.login(t)
		c.talk(t, "> DELE 1\n< +OK …\n> DELE 2\n< +OK …")
		if err := c.Conn.(*net.TCPConn).SetLinger(0); err != nil {
			t.Fatal(err)
		}
		c.Close()
		waitFor(t, "the session's end", func() bool { return strings.Contains(s.log.String(), "msg=session") })
		if got := s.count(t); got != 2 {
			t.Errorf("%d messages are left, want 2", got)
		}
	})
	t.Run("P-07/autologout", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s := standWithout(t, func(c *Config) { c.TLS = nil })
			w := newWire()
			s.serveOn(t, serve.Wrap(w, serve.Config{}))
			s.deliver(t, "a: b\r\n\r\n1\r\n")
			c := w.dialFrom(t, "127.0.0.1")
			c.talk(t, loginScript)
			<-time.After(10*time.Minute - time.Second)
			c.talk(t, "> DELE 1\n< +OK …")
			start := time.Now()
			c.send(t, "NOO") // the beginning of a line is not a line
			c.talk(t, "< EOF")
			if d := time.Since(start); d != 10*time.Minute {
				t.Errorf("logged out after %v, want 10m", d)
			}
			if got := s.count(t); got != 1 {
				t.Errorf("%d messages are left, want 1", got)
			}
		})
	})
	t.Run("P-07/less than ten minutes are refused", func(t *testing.T) {
		s := standWithout(t, nil)
		cfg := s.cfg
		cfg.Idle = 10*time.Minute - 1
		if _, err := New(cfg); err == nil {
			t.Error("New takes an idle time that RFC 1939 forbids")
		}
	})
}

// P-08: QUIT removes all or says that it did not, and can be tried again.
func TestP08_QuitThatFails(t *testing.T) {
	for _, kind := range []covey.Kind{covey.Unavailable, covey.Unknown} {
		t.Run("P-08/"+kind.String(), func(t *testing.T) {
			s := newStand(t, nil)
			s.deliver(t, "a: b\r\n\r\n1\r\n", "a: b\r\n\r\n2\r\n", "a: b\r\n\r\n3\r\n")
			quit := func() *client {
				c := s.login(t)
				c.talk(t, "> DELE 1\n< +OK …\n> DELE 3\n< +OK …\n> QUIT")
				return c
			}
			var commands []storage.Command
			s.mail.Fail(func(_ covey.ShardID, cmd storage.Command) error {
				commands = append(commands, cmd)
				return covey.Errorf(kind, "the leader is gone")
			})
			quit().talk(t, "< -ERR [SYS/TEMP] some deleted messages not removed\n< EOF")
			if len(commands) != 1 {
				t.Errorf("QUIT proposed %d commands, want 1: %v", len(commands), commands)
			}
			if got := s.count(t); got != 3 {
				t.Fatalf("%d messages are left, want 3", got)
			}
			s.mail.Fail(nil)
			quit().talk(t, "< +OK bye\n< EOF")
			if got := s.count(t); got != 1 {
				t.Errorf("%d messages are left after the second try, want 1", got)
			}
		})
	}
}

// P-09: unique-ids stay and are never used again.
func TestP09_UniqueIDs(t *testing.T) {
	s := newStand(t, nil)
	message := "a: b\r\n\r\nthe same\r\n"
	s.deliver(t, message, message, message)
	uidl := func(s *stand) []string {
		c := s.login(t)
		var ids []string
		for line := range strings.Lines(c.command(t, "UIDL")) {
			n, id, _ := strings.Cut(strings.TrimSpace(line), " ")
			if want := fmt.Sprint(len(ids) + 1); n != want {
				t.Errorf("number %s, want %s", n, want)
			}
			c.talk(t, fmt.Sprintf("> UIDL %s\n< +OK %s %s", n, n, id))
			ids = append(ids, id)
		}
		c.talk(t, "> QUIT\n< +OK bye")
		return ids
	}
	before := uidl(s)
	if diff := cmp.Diff(before, uidl(s)); diff != "" {
		t.Errorf("another session (-first +second):\n%s", diff)
	}
	for _, id := range before {
		if len(id) > 70 || strings.Trim(id, "0123456789.") != "" {
			t.Errorf("unique-id %q", id)
		}
	}
	again := newStand(t, func(c *Config) { c.Mail = s.mail.Service }) // the server restarted
	if diff := cmp.Diff(before, uidl(again)); diff != "" {
		t.Errorf("another server (-first +second):\n%s", diff)
	}
	c := s.login(t)
	c.talk(t, "> DELE 3\n< +OK …\n> DELE 1\n< +OK …\n> QUIT\n< +OK bye")
	s.deliver(t, message)
	after := uidl(s)
	if len(after) != 2 || after[0] != before[1] || after[1] == before[0] || after[1] == before[2] {
		t.Errorf("after removing two and adding one: %q, before %q", after, before)
	}
}

// P-10: dots are doubled, the last line is ended, and size costs no memory.
func TestP10_MessagesAsTheyAre(t *testing.T) {
	tests := []struct{ name, stored, want string }{
		{"dots", ".a: b\r\n\r\n.\r\n..\r\n.x\r\nx.\r\n", ".a: b\r\n\r\n.\r\n..\r\n.x\r\nx.\r\n"},
		{"no final CRLF", "a: b\r\n\r\nend", "a: b\r\n\r\nend\r\n"},
		{"final CR", "a: b\r\n\r\nend\r", "a: b\r\n\r\nend\r\n"},
		{"bare LF", "a: b\n\n.\n.x\n", "a: b\r\n\r\n.\r\n.x\r\n"},
		{"empty", "", ""},
		{"one dot", ".", ".\r\n"},
	}
	s := newStand(t, nil)
	for _, tt := range tests {
		s.deliver(t, tt.stored)
	}
	c := s.login(t)
	for i, tt := range tests {
		c.talk(t, fmt.Sprintf("> RETR %d\n< +OK %d octets", i+1, len(tt.stored)))
		if got := c.body(t); got != tt.want {
			t.Errorf("%s: got %q, want %q", tt.name, got, tt.want)
		}
	}

	t.Run("P-10/large", func(t *testing.T) {
		const size = 8_000_000
		r := strings.NewReader("a: b\r\n\r\n" + strings.Repeat(strings.Repeat("x", 98)+"\r\n", size/100))
		box := s.mail.Service.Account(alice.ID, alice.Shard, 0)
		if _, err := box.Append(t.Context(), storage.Inbox, mailbox.AppendMessage{}, r); err != nil {
			t.Fatal(err)
		}
		c.talk(t, "> QUIT\n< +OK bye")
		c := s.login(t)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		c.talk(t, fmt.Sprintf("> RETR %d\n< +OK …", len(tests)+1))
		if n, err := io.CopyN(io.Discard, c.r, size+8); err != nil {
			t.Fatalf("after %d octets: %v", n, err)
		}
		runtime.ReadMemStats(&after)
		c.talk(t, "< .\n> NOOP\n< +OK …")
		if got := after.TotalAlloc - before.TotalAlloc; got > 1<<20 {
			t.Errorf("sending %d octets allocated %d", size, got)
		}
	})
}

// P-11: a maildrop of 100,000 messages.
func TestP11_LargeMaildrop(t *testing.T) {
	most := uint32(100_000)
	if testing.Short() {
		most = 10_000
	}
	s := newStand(t, nil)
	s.deliver(t, "a: b\r\n\r\nbody\r\n")
	v, err := s.mail.Service.Account(alice.ID, alice.Shard, 0).Open(t.Context(), storage.Inbox)
	if err != nil {
		t.Fatal(err)
	}
	for n := uint32(1); n < most; n *= 2 {
		if _, err := v.Copy(t.Context(), v.Span(1, min(n, most-n)), storage.Inbox); err != nil {
			t.Fatal(err)
		}
		if _, err := v.Poll(t.Context(), mailbox.PollOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	v.Close()
	c := s.dial(t)
	c.talk(t, loginScript)
	c.talk(t, fmt.Sprintf("> STAT\n< +OK %d %d", most, most*14))
	for _, command := range []string{"LIST", "UIDL"} {
		start := time.Now()
		c.talk(t, "> "+command+"\n< +OK …")
		var n uint32
		octets := 0
		for ; ; n++ {
			line, err := c.r.ReadSlice('\n')
			if err != nil {
				t.Fatal(err)
			}
			if string(line) == ".\r\n" {
				break
			}
			octets += len(line)
		}
		if n != most {
			t.Errorf("%s has %d lines, want %d", command, n, most)
		}
		t.Logf("%s: %d octets in %v", command, octets, time.Since(start))
	}
	c.talk(t, fmt.Sprintf("> LIST %d\n< +OK %d 14", most, most))
	for n := 1; n < 1000; n += 2 {
		c.talk(t, fmt.Sprintf("> DELE %d\n< +OK …", n))
	}
	c.talk(t, fmt.Sprintf("> STAT\n< +OK %d %d\n> QUIT\n< +OK bye", most-500, (most-500)*14))
	if got := s.count(t); got != most-500 {
		t.Errorf("%d messages are left, want %d", got, most-500)
	}
}

// P-12: IMAP removes what the session sees.
func TestP12_IMAPRemovesMeanwhile(t *testing.T) {
	s := newStand(t, nil)
	for range 4 {
		s.deliver(t, "a: b\r\n\r\nbody\r\n")
	}
	c := s.login(t)
	c.talk(t, "> DELE 1\n< +OK …")
	s.expunge(t, 1, 2)
	s.deliver(t, "a: b\r\n\r\nnew\r\n")
	c.talk(t, `
		> STAT
		< +OK …
		> RETR 2
		< -ERR no such message
		> TOP 2 1
		< -ERR no such message
		> LIST 2
		< -ERR no such message
		> DELE 2
		< +OK message 2 marked
		> LIST
		< +OK 2 messages
		< 3 14
		< 4 14
		< .
		> RETR 4
		< +OK 14 octets
		< a: b
		< 
		< body
		< .
		> RETR 5
		< -ERR no such message
		> QUIT
		< +OK bye
		< EOF`)
	if got := s.count(t); got != 3 {
		t.Errorf("%d messages are left, want 3", got)
	}
}

// S-24: no plain text on the TLS port.
func TestS24_GarbageOnTheTLSPort(t *testing.T) {
	s := standWithout(t, nil)
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.addr = inner.Addr().String()
	s.serveOn(t, serve.TLS(serve.Wrap(inner, serve.Config{}), s.cfg.TLS))
	c := s.dial(t)
	c.send(t, "USER alice\r\nPASS x\r\n")
	if rest, _ := io.ReadAll(c.r); len(rest) > 0 && rest[0] != 21 {
		t.Errorf("got %q on the TLS port", rest)
	}
	conn, err := tls.Dial("tcp", s.addr, s.tls)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	newClient(conn).talk(t, loginScript+"\n> QUIT\n< +OK bye\n< EOF")
}

// S-42: logging in cannot be drawn out.
func TestS42_SlowLogin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := standWithout(t, func(c *Config) { c.TLS, c.LoginTime = nil, 10*time.Minute })
		w := newWire()
		s.serveOn(t, serve.Wrap(w, serve.Config{}))
		c := w.dialFrom(t, "192.0.2.1")
		start := time.Now()
		c.talk(t, "< +OK …")
		for { // a command each five minutes is not idle, nor logging in
			<-time.After(299 * time.Second)
			if _, err := io.WriteString(c, "CAPA\r\n"); err != nil {
				break
			}
			if _, err := c.r.ReadString('.'); err != nil {
				break
			}
		}
		if d := time.Since(start); d > 15*time.Minute {
			t.Errorf("ended after %v, want 10m from the start", d)
		}
	})
}

// S-43: a connection over the cap is told so.
func TestS43_RefusedWithAReason(t *testing.T) {
	s := standWithout(t, nil)
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.addr = inner.Addr().String()
	s.serveOn(t, serve.Wrap(inner, serve.Config{Conns: 1, Refusal: Refusal()}))
	first := s.dial(t)
	first.talk(t, "< +OK …")
	s.dial(t).talk(t, "< -ERR [SYS/TEMP] too many connections, try again later\n< EOF")
	first.talk(t, "> QUIT\n< +OK bye\n< EOF")
}

// errTest carries what no peer is to see.
var errTest = errors.New("wires crossed at 10.0.0.7")

func TestInternalTextStaysHere(t *testing.T) {
	s := newStand(t, nil)
	s.deliver(t, "a: b\r\n\r\nbody\r\n")
	c := s.login(t)
	s.mail.Fail(func(covey.ShardID, storage.Command) error { return errTest })
	c.talk(t, "> DELE 1\n< +OK …\n> QUIT\n< -ERR [SYS/TEMP] some deleted messages not removed\n< EOF")
	waitFor(t, "the log line", func() bool { return strings.Contains(s.log.String(), errTest.Error()) })
	if r := refusalOf(context.DeadlineExceeded); r.code != "SYS/TEMP" || strings.Contains(r.text, "deadline") {
		t.Errorf("an unknown error becomes %+v", r)
	}
}
