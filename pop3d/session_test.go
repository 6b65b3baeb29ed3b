package pop3d

import (
	"context"
	"encoding/base64"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	dto "github.com/prometheus/client_model/go"
	"github.com/xdg-go/scram"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/internal/serve"
	"github.com/covey-mail/covey/logon"
	"github.com/covey-mail/covey/storage"
)

// Whoever was shut out meanwhile reads and removes nothing more.
func TestAccountDisabled(t *testing.T) {
	s := newStand(t, nil)
	s.deliver(t, "a: b\r\n\r\nbody\r\n")
	c := s.login(t)
	c.talk(t, "> DELE 1\n< +OK …")
	s.logon.bar()
	c.talk(t, "> QUIT\n< -ERR [AUTH] …")
	if got := s.count(t); got != 1 {
		t.Errorf("%d messages left, want 1", got)
	}
}

func TestCapabilities(t *testing.T) {
	always := "TOP\r\nUIDL\r\nRESP-CODES\r\nAUTH-RESP-CODE\r\nPIPELINING\r\nEXPIRE NEVER\r\nIMPLEMENTATION Covey\r\n"
	tests := []struct {
		name, from, want string
		set              func(*Config)
	}{
		{"loopback", "127.0.0.1", always + "STLS\r\nUSER\r\nSASL PLAIN SCRAM-SHA-256\r\n", nil},
		{"elsewhere", "192.0.2.1", always + "STLS\r\n", nil},
		{"clear text allowed", "192.0.2.1", always + "STLS\r\nUSER\r\nSASL PLAIN SCRAM-SHA-256\r\n",
			func(c *Config) { c.ClearText = logon.ClearTextAlways }},
		{"clear text nowhere", "127.0.0.1", always + "STLS\r\n", func(c *Config) { c.ClearText = logon.ClearTextNever }},
		{"no TLS", "192.0.2.1", always, func(c *Config) { c.TLS = nil }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := standWithout(t, tt.set)
			w := newWire()
			s.serveOn(t, serve.Wrap(w, serve.Config{}))
			c := w.dialFrom(t, tt.from)
			c.talk(t, "< +OK …")
			if diff := cmp.Diff(tt.want, c.command(t, "CAPA")); diff != "" {
				t.Errorf("before log-in (-want +got):\n%s", diff)
			}
			if !strings.Contains(tt.want, "USER") {
				c.talk(t, `
					> USER alice
					< -ERR log in over TLS only
					> AUTH PLAIN AGFsaWNlAG9wZW4gc2VzYW1l
					< -ERR log in over TLS only`)
				return
			}
			c.talk(t, "> user alice\n< +OK …\n> pass "+secret+"\n< +OK …")
			if diff := cmp.Diff(always, c.command(t, "capa")); diff != "" {
				t.Errorf("after log-in (-want +got):\n%s", diff)
			}
		})
	}
}

func TestPlain(t *testing.T) {
	good := base64.StdEncoding.EncodeToString([]byte("\x00alice\x00" + secret))
	bad := base64.StdEncoding.EncodeToString([]byte("\x00alice\x00wrong"))
	s := newStand(t, nil)
	for name, script := range map[string]string{
		"initial response": "> AUTH PLAIN " + good + "\n< +OK 0 messages (0 octets)",
		"challenge":        "> auth plain\n< + \n> " + good + "\n< +OK …",
		"list":             "> AUTH\n< +OK …\n< PLAIN\n< SCRAM-SHA-256\n< .",
		"cancel":           "> AUTH PLAIN\n< + \n> *\n< -ERR authentication cancelled\n> NOOP\n< -ERR log in first",
		"bad base64":       "> AUTH PLAIN\n< + \n> ?\n< -ERR bad base64\n> AUTH PLAIN YQ=\n< -ERR bad base64\n> AUTH PLAIN \n< -ERR bad base64",
		"wrong password":   "> AUTH PLAIN " + bad + "\n< -ERR [AUTH] authentication failed",
		"unknown":          "> AUTH GSSAPI\n< -ERR mechanism is not offered",
		"after log-in":     "> AUTH PLAIN " + good + "\n< +OK …\n> AUTH PLAIN\n< -ERR already logged in\n> USER alice\n< -ERR already logged in",
		"too long":         "> AUTH PLAIN " + strings.Repeat("A", maxAuthLine) + "\n< -ERR line too long",
	} {
		t.Run(name, func(t *testing.T) {
			c := s.dial(t)
			c.talk(t, "< +OK …\n"+script)
			c.send(t, "QUIT\r\n")
			for { // the lock is free for the next
				if _, err := c.r.ReadString('\n'); err != nil {
					break
				}
			}
		})
	}
	t.Run("empty initial response", func(t *testing.T) {
		c := s.dial(t)
		c.talk(t, "< +OK …\n> AUTH PLAIN =\n< -ERR …\n> QUIT\n< +OK bye")
	})
}

func TestScram(t *testing.T) {
	s := newStand(t, nil)
	c := s.dial(t)
	c.talk(t, "< +OK …")
	user, err := scram.SHA256.NewClient("alice", secret, "")
	if err != nil {
		t.Fatal(err)
	}
	conv := user.NewConversation()
	first, err := conv.Step("")
	if err != nil {
		t.Fatal(err)
	}
	c.send(t, "AUTH SCRAM-SHA-256 "+base64.StdEncoding.EncodeToString([]byte(first))+"\r\n")
	for !conv.Done() {
		text, isChallenge := strings.CutPrefix(c.line(t), "+ ")
		challenge, err := base64.StdEncoding.DecodeString(text)
		if err != nil || !isChallenge {
			t.Fatalf("got %q, want a challenge", text)
		}
		response, err := conv.Step(string(challenge))
		if err != nil {
			t.Fatalf("server's %q: %v", challenge, err)
		}
		c.send(t, base64.StdEncoding.EncodeToString([]byte(response))+"\r\n")
	}
	c.talk(t, "< +OK …\n> STAT\n< +OK 0 0\n> QUIT\n< +OK bye")
}

func TestFailedLoginsEndTheSession(t *testing.T) {
	s := newStand(t, nil)
	c := s.dial(t)
	c.talk(t, "< +OK …")
	for range maxFailures {
		c.talk(t, "> USER alice\n< +OK …\n> PASS wrong\n< -ERR [AUTH] authentication failed")
	}
	c.talk(t, "< EOF")

	s.logon.limit = 1
	c = s.dial(t)
	c.talk(t, "< +OK …\n> USER alice\n< +OK …\n> PASS wrong\n< -ERR [LOGIN-DELAY] …\n< EOF")
}

func TestTransaction(t *testing.T) {
	s := newStand(t, nil)
	s.deliver(t, "a: b\r\nc: d\r\n\r\n1\r\n2\r\n3\r\n", "a: b\r\n\r\n.\r\n")
	c := s.dial(t)
	c.talk(t, `
		< +OK …
		> STAT
		< -ERR log in first
		> PASS x
		< -ERR USER comes first
		> USER 
		< -ERR USER takes a name
		> USER alice
		< +OK send PASS
		> PASS `+secret+`
		< +OK 2 messages (34 octets)
		> STAT
		< +OK 2 34
		> LIST
		< +OK 2 messages
		< 1 23
		< 2 11
		< .
		> LIST 2 
		< +OK 2 11
		> TOP 1 0
		< +OK …
		< a: b
		< c: d
		< 
		< .
		> TOP 1 2
		< +OK …
		< a: b
		< c: d
		< 
		< 1
		< 2
		< .
		> RETR 2
		< +OK 11 octets
		< a: b
		< 
		< ..
		< .
		> DELE 1
		< +OK …
		> STAT
		< +OK 1 11
		> UIDL
		< +OK 1 messages
		< 2 …
		< .
		> RSET
		< +OK 2 messages
		> STAT
		< +OK 2 34
		> DELE 2
		< +OK …
		> NOOP
		< +OK …
		> QUIT now
		< -ERR QUIT takes no argument
		> QUIT
		< +OK bye
		< EOF`)
	if got := s.count(t); got != 1 {
		t.Errorf("%d messages are left, want 1", got)
	}
	// The front of a session that is passed on has a line of its own.
	waitFor(t, "the session's line", func() bool { return strings.Contains(s.log.String(), "reason=quit") })
	log := s.log.String()
	for _, want := range []string{"account=alice@example.org", "retrieved=1", "octets=11", "removed=1", "reason=quit", "component=pop3"} {
		if !strings.Contains(log, want) {
			t.Errorf("the session's line lacks %s: %s", want, log)
		}
	}
	if strings.Contains(log, secret) {
		t.Errorf("the password is in the log: %s", log)
	}
	var m dto.Metric
	if err := s.home.cfg.Metrics.Removed.Write(&m); err != nil || m.GetCounter().GetValue() != 1 {
		t.Errorf("counted %v removed, %v", m.GetCounter().GetValue(), err)
	}
}

func TestPipelining(t *testing.T) {
	s := newStand(t, nil)
	s.deliver(t, "a: b\r\n\r\n1\r\n", "a: b\r\n\r\n2\r\n")
	c := s.dial(t)
	c.send(t, "USER alice\r\nPASS "+secret+"\r\nSTAT\r\nRETR 1\r\nNONSENSE\r\nDELE 1\r\nQUIT\r\nSTAT\r\n")
	got, _ := io.ReadAll(c.r)
	want := "+OK mail.example.org POP3 ready\r\n+OK send PASS\r\n+OK 2 messages (22 octets)\r\n+OK 2 22\r\n" +
		"+OK 11 octets\r\na: b\r\n\r\n1\r\n.\r\n-ERR unknown command\r\n+OK message 1 marked\r\n+OK bye\r\n"
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Errorf("replies (-want +got):\n%s", diff)
	}
}

func TestHalfALineDoesNotHoldUpReplies(t *testing.T) {
	s := newStand(t, nil)
	c := s.login(t)
	c.send(t, "NOOP\r\nSTA")
	c.talk(t, "< +OK …")
	c.send(t, "T\r\n")
	c.talk(t, "< +OK 0 0")
}

func TestDamagedMessage(t *testing.T) {
	s := newStand(t, nil)
	s.deliver(t, "a: b\r\n\r\n1\r\n", "a: b\r\n\r\n2\r\n")
	st, err := s.mail.Local(alice.Shard)
	if err != nil {
		t.Fatal(err)
	}
	box, err := st.Mailbox(alice.ID, storage.Inbox)
	if err != nil {
		t.Fatal(err)
	}
	if err := st.Messages(t.Context(), storage.Query{Mailbox: box.ID, UIDs: []storage.UIDRange{{First: 1, Last: 1}}}, func(m *storage.Message) error {
		at, err := st.Body(m.Body)
		if err == nil {
			s.mail.Damage(at[0])
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	c := s.login(t)
	c.talk(t, "> RETR 1\n< -ERR [SYS/PERM] message is damaged\n> RETR 2\n< +OK …")
	if got := c.body(t); got != "a: b\r\n\r\n2\r\n" {
		t.Errorf("the message behind it: %q", got)
	}
}

func TestPanicEndsOneSession(t *testing.T) {
	s := newStand(t, nil)
	c := s.dial(t)
	c.talk(t, "< +OK …\n> USER panic\n< +OK …\n> PASS x\n< EOF")
	waitFor(t, "the log line", func() bool { return strings.Contains(s.log.String(), "reason=panic") })
	s.login(t).talk(t, "> QUIT\n< +OK bye")
}

func TestShutdown(t *testing.T) {
	t.Run("between commands", func(t *testing.T) {
		s := newStand(t, nil)
		s.deliver(t, "a: b\r\n\r\n1\r\n")
		c, waiting := s.login(t), s.dial(t)
		waiting.talk(t, "< +OK …")
		c.talk(t, "> DELE 1\n< +OK …")
		if err := s.Shutdown(t.Context()); err != nil {
			t.Errorf("shutdown: %v", err)
		}
		for _, c := range []*client{c, waiting} {
			c.talk(t, "< -ERR [SYS/TEMP] shutting down\n< EOF")
		}
		if got := s.count(t); got != 1 {
			t.Errorf("%d messages are left, want 1: no QUIT was said", got)
		}
		if _, err := net.Dial("tcp", s.addr); err == nil {
			t.Error("the listener is still there")
		}
		if err := s.Close(); err != nil {
			t.Errorf("close after shutdown: %v", err)
		}
	})
	t.Run("waits for QUIT", func(t *testing.T) {
		s := newStand(t, nil)
		s.deliver(t, "a: b\r\n\r\n1\r\n")
		c := s.login(t)
		c.talk(t, "> DELE 1\n< +OK …")
		proposed, goOn := make(chan bool), make(chan bool)
		s.mail.Fail(func(covey.ShardID, storage.Command) error {
			close(proposed)
			<-goOn
			return nil
		})
		c.send(t, "QUIT\r\n")
		<-proposed
		var wg sync.WaitGroup
		wg.Go(func() {
			if err := s.Shutdown(t.Context()); err != nil {
				t.Errorf("shutdown: %v", err)
			}
		})
		<-s.stop
		close(goOn)
		c.talk(t, "< +OK bye\n< EOF")
		wg.Wait()
		s.mail.Fail(nil)
		if got := s.count(t); got != 0 {
			t.Errorf("%d messages are left, want 0", got)
		}
	})
	t.Run("gives up waiting", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s := standWithout(t, func(c *Config) { c.TLS = nil })
			w := newWire()
			s.serveOn(t, serve.Wrap(w, serve.Config{}))
			s.deliver(t, "a: b\r\n\r\n"+strings.Repeat("x", 1<<17)+"\r\n")
			c := w.dialFrom(t, "127.0.0.1")
			c.talk(t, loginScript+"\n> RETR 1\n< +OK …")
			synctest.Wait() // it waits for us to read on
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			start := time.Now()
			if err := s.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("shutdown: %v, want its deadline", err)
			}
			if d := time.Since(start); d != 20*time.Second {
				t.Errorf("shutdown took %v, want 20s", d)
			}
		})
	})
}

func TestServeAfterClose(t *testing.T) {
	s := standWithout(t, nil)
	for range 2 {
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	w := newWire()
	if err := s.Serve(serve.Wrap(w, serve.Config{})); err != nil {
		t.Errorf("serve after close: %v", err)
	}
	<-w.done
}

func TestServeWantsServeConns(t *testing.T) {
	s := standWithout(t, nil)
	defer s.Close()
	w := newWire()
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := s.Serve(w); err == nil {
			t.Error("a connection without limits is served")
		}
	})
	w.dialFrom(t, "127.0.0.1").talk(t, "< EOF")
	wg.Wait()
}

func TestNewWantsItsServices(t *testing.T) {
	if _, err := New(Config{}); err == nil {
		t.Error("New takes a Config without Logon and Mail")
	}
}

func TestMarks(t *testing.T) {
	s := standWithout(t, nil)
	for range 130 {
		s.deliver(t, "a: b\r\n\r\n1\r\n")
	}
	s.expunge(t, 10, 10)
	d, err := openMaildrop(t.Context(), s.mail.Service.Account(alice.ID, alice.Shard, 0))
	if err != nil {
		t.Fatal(err)
	}
	defer d.close()
	for _, n := range []uint32{129, 1, 64, 65, 66, 9, 10} {
		d.mark(n)
	}
	want := []storage.UIDRange{{First: 1, Last: 1}, {First: 9, Last: 9}, {First: 11, Last: 11}, {First: 65, Last: 67}, {First: 130, Last: 130}}
	if diff := cmp.Diff(want, d.markedUIDs()); diff != "" {
		t.Errorf("ranges (-want +got):\n%s", diff)
	}
	if !d.isMarked(64) || d.isMarked(63) || d.left() != 122 {
		t.Errorf("64: %v, 63: %v, %d left", d.isMarked(64), d.isMarked(63), d.left())
	}
}

// Whatever was found ahead, each number leads to its own message, and what is held
// stays within bounds.
func TestMessagesFoundAhead(t *testing.T) {
	s := standWithout(t, nil)
	const count = 40
	for range count {
		s.deliver(t, "a: b\r\n\r\n1\r\n")
	}
	d, err := openMaildrop(t.Context(), s.mail.Service.Account(alice.ID, alice.Shard, 0))
	if err != nil {
		t.Fatal(err)
	}
	defer d.close()
	find := func(n uint32, wantHeld int) {
		t.Helper()
		m, err := d.message(t.Context(), n)
		if err != nil || m.UID != covey.UID(n) || len(m.Extents) == 0 {
			t.Errorf("message %d: %+v, %v", n, m, err)
		}
		if len(d.ahead) != wantHeld {
			t.Errorf("after message %d, %d are held, want %d", n, len(d.ahead), wantHeld)
		}
	}
	find(20, 1) // alone
	find(1, firstAhead)
	find(3, firstAhead)
	find(9, 1) // out of the row
	for n := uint32(1); n <= count; n++ {
		held := mostAhead
		switch {
		case n <= 4:
			held = 4
		case n <= 12:
			held = 8
		case n > 28:
			held = count - 28
		}
		find(n, held)
	}
	// What goes while it is held is found as it was; else it is missed.
	find(1, firstAhead)
	s.expunge(t, 2, 20)
	find(2, firstAhead)
	if _, err := d.message(t.Context(), 19); !errors.Is(err, covey.NotFound) {
		t.Errorf("message 19, which is gone: %v", err)
	}
	find(21, 1)
}
