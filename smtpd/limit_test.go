package smtpd

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/internal/serve"
)

func TestS39_TalksBeforeGreeting(t *testing.T) {
	for _, kind := range []Kind{MX, Submission, LMTP} {
		r := newRig(t)
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		raw, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer raw.Close()
		c := newClient(t, raw)
		c.send("EHLO eager.example\r\nMAIL FROM:<a@b.example>\r\n")
		r.serve(kind, l) // only now the greeting may come
		c.expect("554 5.5.0")
		c.expectClosed()
	}
}

func TestS39_DoesNotWait(t *testing.T) {
	// What may follow at once (RFC 2920 section 3.1), and what may not.
	play(t, []row{
		{"S-39/a whole transaction", MX, "= \"MAIL FROM:<a@b.example>\\r\\nRCPT TO:<bob@example.org>\\r\\nRCPT TO:<nobody@example.org>\\r\\nDATA\\r\\n\"\n< 250\n< 250\n< 550\n< 354\n= \"x\\r\\n.\\r\\nMAIL FROM:<>\\r\\nQUIT\\r\\n\"\n< 250\n< 250\n< 221\n<EOF", 1},
		{"S-39/RSET", MX, "= \"RSET\\r\\nMAIL FROM:<>\\r\\nRSET\\r\\nNOOP\\r\\n\"\n< 250\n< 250\n< 250\n< 250", 0},
		{"S-39/NOOP", MX, "= \"NOOP\\r\\nNOOP\\r\\n\"\n< 554 5.5.0\n<EOF", 0},
		{"S-39/EHLO", MX, "= \"EHLO a.example\\r\\nMAIL FROM:<>\\r\\n\"\n< 554 5.5.0\n<EOF", 0},
		{"S-39/VRFY", MX, "= \"VRFY a\\r\\nNOOP\\r\\n\"\n< 554 5.5.0\n<EOF", 0},
		{"S-39/DATA", MX, opening + "= \"DATA\\r\\nSubject: x\\r\\n\\r\\n.\\r\\n\"\n< 554 5.5.0\n<EOF", 0},
		{"S-39/AUTH", Submissions, "= \"AUTH PLAIN " + plainIR + "\\r\\nMAIL FROM:<>\\r\\n\"\n< 554 5.5.0\n<EOF", 0},
	})
}

func TestS41_Junk(t *testing.T) {
	junk := strings.Repeat("> JUNK\n< 500 5.5.1\n", 20)
	idle := func(cmd, reply string) string { return strings.Repeat("> "+cmd+"\n< "+reply+"\n", 98) }
	play(t, []row{
		{"S-41/errors", MX, junk + "< 421 4.7.0 Too many errors\n<EOF", 0},
		{"S-41/empty lines", MX, strings.Repeat("> \n< 500\n", 20) + "< 421 4.7.0\n<EOF", 0},
		{"S-41/refused log-ins", Submissions, strings.Repeat("> AUTH PLAIN "+plainResponse("", "a", "b")+"\n< 535\n", 20) + "< 421 4.7.0\n<EOF", 0},
		{"S-41/NOOP", MX, "> NOOP\n< 250\n" + idle("NOOP", "250") + "< 421 4.7.0\n<EOF", 0},
		{"S-41/RSET", MX, "> RSET\n< 250\n" + idle("RSET", "250") + "< 421 4.7.0\n<EOF", 0},
		{"S-41/VRFY", MX, "> VRFY a\n< 252\n" + idle("VRFY b", "252") + "< 421 4.7.0\n<EOF", 0},
		{"S-41/EHLO", MX, "> EHLO a.example\n< 250\n" + idle("EHLO b.example", "250") + "< 421 4.7.0\n<EOF", 0},
		{"S-41/harvest", MX, "> MAIL FROM:<>\n< 250\n> RCPT TO:<x@example.org>\n< 550\n" + idle("RCPT TO:<y@example.org>", "550") + "< 421 4.7.0\n<EOF", 0},
		{"S-41/a message starts anew", MX, junk[:len(junk)-len("> JUNK\n< 500 5.5.1\n")] + opening + "> DATA\n< 354\n> .\n< 250\n> JUNK\n< 500\n> NOOP\n< 250", 1},
	})
}

func limited(k Kind, l serve.Limits) func(*Config) {
	return func(c *Config) { c.Listeners = map[Kind]serve.Config{k: {Limits: l}} }
}

func TestS42_SlowClients(t *testing.T) {
	for _, x := range []struct {
		name   string
		limits serve.Limits
		script string
	}{
		{"silent", serve.Limits{Idle: 30 * time.Millisecond}, ""},
		{"silent in a command", serve.Limits{Idle: 30 * time.Millisecond}, "= \"MAIL FROM\"\n"},
		{"silent in data", serve.Limits{Idle: 30 * time.Millisecond}, opening + "> DATA\n< 354\n> half\n"},
		{"silent in a chunk", serve.Limits{Idle: 30 * time.Millisecond}, opening + "> BDAT 10\n= \"half\"\n"},
		{"silent between chunks", serve.Limits{Idle: 30 * time.Millisecond}, opening + "> BDAT 1\n= \"x\"\n< 250\n"},
		{"too long in all", serve.Limits{Session: 50 * time.Millisecond}, opening},
	} {
		t.Run("S-42/"+x.name, func(t *testing.T) {
			r := newRig(t, limited(MX, x.limits))
			c := r.ready(MX)
			c.run(x.script + "< 421 4.4.2\n<EOF")
			if got := r.mail.messages(); len(got) != 0 {
				t.Errorf("taken: %+v", got)
			}
		})
	}
}

func TestS42_Trickle(t *testing.T) {
	r := newRig(t, limited(MX, serve.Limits{Idle: 100 * time.Millisecond, MinRate: 1 << 20}))
	c := r.ready(MX)
	c.run(opening + "> DATA\n< 354\n")
	stop := make(chan struct{})
	done := make(chan struct{})
	go func() { // an octet every few ms: never idle, always slow
		defer close(done)
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				c.send("x")
			case <-stop:
				return
			}
		}
	}()
	c.expect("421 4.4.2")
	close(stop)
	<-done
}

func TestS43_ManyConnections(t *testing.T) {
	r := newRig(t, func(c *Config) {
		c.Listeners = map[Kind]serve.Config{MX: {Conns: 3, PerAddr: 2, CapLocal: true, Reserve: -1}}
	})
	a, b := r.ready(MX), r.ready(MX)
	c := r.dial(MX)
	c.expect("421 4.7.0")
	c.expectClosed()
	r.loggedIn(Submission).run("> QUIT\n< 221") // a listener of its own
	a.run("> QUIT\n< 221\n<EOF")
	b.run("> NOOP\n< 250")
	waitFor(t, "a slot", func() bool { return strings.HasPrefix(r.dial(MX).reply(), "220") })
}

func TestShutdownBetweenTransactions(t *testing.T) {
	r := newRig(t)
	greeted := r.dial(MX)
	greeted.expect("220")
	idle, busy, secure := r.ready(MX), r.ready(MX), r.ready(Submissions)
	busy.run(opening)
	done := make(chan error)
	go func() { done <- r.srv.Shutdown(context.Background()) }()
	for _, c := range []*client{greeted, idle, secure} {
		c.expect("421 4.3.2")
		c.expectClosed()
	}
	// F-36: the transaction is finished first.
	busy.run("> RCPT TO:<alice@example.org>\n< 250\n> DATA\n< 354\n")
	select {
	case err := <-done:
		t.Fatalf("shutdown did not wait: %v", err)
	default:
	}
	busy.run("= \"x\\r\\n.\\r\\n\"\n< 250\n< 421 4.3.2\n<EOF")
	if err := errors.Join(<-done, r.srv.Shutdown(context.Background())); err != nil {
		t.Errorf("shutdown, and again: %v", err)
	}
	if len(r.mail.messages()) != 1 {
		t.Error("F-36: the transaction was lost")
	}
	if _, err := net.Dial("tcp", r.addrs[MX].String()); err == nil {
		t.Error("still listening")
	}
	if err := r.srv.Serve(MX, newClosedListener(t)); !errors.Is(err, covey.Unavailable) {
		t.Errorf("serve after shutdown: %v", err)
	}
}

func newClosedListener(t *testing.T) net.Listener {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestShutdownCutsTheRest(t *testing.T) {
	r := newRig(t)
	r.mail.arrived, r.mail.proceed = make(chan struct{}), make(chan struct{})
	stuck, open := r.ready(MX), r.ready(MX)
	open.run(opening)
	stuck.run(opening + "> DATA\n< 354\n> .\n")
	<-r.mail.arrived
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	if err := r.srv.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("shutdown: %v", err)
	}
	if got, err := io.ReadAll(stuck.in); strings.Contains(string(got), "250") {
		t.Errorf("got %q, %v", got, err)
	}
	open.expectGone()
	if err := r.srv.Close(); err != nil {
		t.Errorf("close after shutdown: %v", err)
	}
}

// expectGone reads to the end, however it comes.
func (c *client) expectGone() {
	c.t.Helper()
	if _, err := io.ReadAll(c.in); err != nil {
		if ne, ok := err.(net.Error); ok && ne.Timeout() {
			c.t.Fatal("still open")
		}
	}
}

// TestCloseDuringShutdown is that impatience helps.
func TestCloseDuringShutdown(t *testing.T) {
	r := newRig(t)
	c := r.ready(MX)
	c.run(opening)
	done := make(chan error)
	go func() { done <- r.srv.Shutdown(context.Background()) }()
	if err := r.srv.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
	if err := <-done; err != nil {
		t.Errorf("shutdown: %v", err)
	}
	c.expectGone()
}

func TestPanicEndsOneSession(t *testing.T) {
	r := newRig(t)
	other := r.ready(MX)
	c := r.ready(LMTP)
	r.mail.panics.Store(true)
	c.run("> MAIL FROM:<>\n< 421\n<EOF")
	r.mail.panics.Store(false)
	other.run(opening + "> DATA\n< 354\n> .\n< 250")
}

func TestConfigRefused(t *testing.T) {
	for _, cfg := range []Config{{Hostname: "a b"}, {MaxErrors: -1}, {MaxMessageBytes: -1}} {
		if _, err := New(cfg, Services{Delivery: newMailroom()}); !errors.Is(err, covey.Invalid) {
			t.Errorf("%+v: %v", cfg, err)
		}
	}
	if _, err := New(Config{}, Services{}); !errors.Is(err, covey.Invalid) {
		t.Errorf("without delivery: %v", err)
	}
	s, err := New(Config{}, Services{Delivery: newMailroom()})
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range []Kind{Submission, Submissions, numKinds} {
		if err := s.Serve(k, newClosedListener(t)); !errors.Is(err, covey.Invalid) {
			t.Errorf("%s without what it needs: %v", k, err)
		}
	}
	if err := errors.Join(s.Close(), s.Close()); err != nil {
		t.Errorf("close twice: %v", err)
	}
}
