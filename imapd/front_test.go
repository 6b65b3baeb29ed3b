package imapd

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/logon"
)

func TestLoginByEveryWay(t *testing.T) {
	b64 := func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }
	plain := b64("\x00alice\x00secret")
	tests := []struct {
		name string
		say  []string // client's lines; each but the last is answered by "+"
	}{
		{"LOGIN", []string{"a LOGIN alice secret"}},
		{"LOGIN quoted", []string{`a login "alice" "secret"`}},
		{"LOGIN literals", []string{"a LOGIN {5}", "alice {6}", "secret"}},
		{"LOGIN literals unasked", []string{"a LOGIN {5+}\r\nalice {6+}\r\nsecret"}},
		{"PLAIN", []string{"a AUTHENTICATE PLAIN", plain}},
		{"PLAIN at once", []string{"a authenticate plain " + plain}},
		{"several steps", []string{"a AUTHENTICATE STEPS", "", b64("alice"), b64("secret"), ""}},
		{"several steps, empty at once", []string{"a AUTHENTICATE STEPS =", b64("alice"), b64("secret"), ""}},
	}
	r := start(t, nil)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := r.dial(t)
			for i, line := range tt.say {
				c.send(line + "\r\n")
				if i == len(tt.say)-1 {
					break
				}
				if got := c.line(); !strings.HasPrefix(got, "+") {
					t.Fatalf("after %q: %q", line, got)
				}
				if tt.name == "several steps" && i == 0 {
					// An empty line stands for no initial response.
					tt.say[1] = b64("alice")
					tt.say = append(tt.say[:2], tt.say[3:]...)
				}
			}
			got := c.line()
			if !strings.HasPrefix(got, "a OK [CAPABILITY IMAP4rev1 ") || !strings.Contains(got, " QUOTA ") {
				t.Fatalf("got %q", got)
			}
			c.ok("SELECT INBOX")
		})
	}
}

func TestAuthenticateRefused(t *testing.T) {
	r := start(t, nil)
	wrong := base64.StdEncoding.EncodeToString([]byte("\x00alice\x00wrong"))
	for _, tt := range []struct{ name, say, want string }{
		{"cancelled", "a AUTHENTICATE PLAIN\r\n*\r\n", "a BAD"},
		{"no base64", "a AUTHENTICATE PLAIN ???\r\n", "a BAD"},
		{"no base64 later", "a AUTHENTICATE PLAIN\r\n???\r\n", "a BAD"},
		{"unknown", "a AUTHENTICATE GSSAPI\r\n", "a NO"},
		{"wrong", "a AUTHENTICATE PLAIN " + wrong + "\r\n", "a NO [AUTHENTICATIONFAILED]"},
		{"malformed for the mechanism", "a AUTHENTICATE PLAIN AAAA\r\n", "a NO [AUTHENTICATIONFAILED]"},
		{"too much", "a AUTHENTICATE PLAIN A B\r\n", "a BAD"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := r.dial(t)
			c.send(tt.say)
			got := c.line()
			if strings.HasPrefix(got, "+") {
				got = c.line()
			}
			if !strings.HasPrefix(got, tt.want) {
				t.Errorf("got %q, want %q", got, tt.want)
			}
			c.ok("LOGIN alice secret")
		})
	}
	t.Run("response too long", func(t *testing.T) {
		c := r.dial(t)
		c.send("a AUTHENTICATE PLAIN\r\n")
		c.line()
		c.send(repeat("A", 2*maxSASL))
		if got := c.line(); !strings.HasPrefix(got, "a NO") {
			t.Errorf("got %q", got)
		}
	})
}

func TestFrontCapabilities(t *testing.T) {
	for _, tt := range []struct {
		name      string
		change    func(*Config)
		tls       bool
		want, not string
	}{
		{"loopback in clear", func(*Config) {}, false, "STARTTLS AUTH=PLAIN", "LOGINDISABLED"},
		{"never in clear", func(c *Config) { c.ClearText = logon.ClearTextNever }, false, "STARTTLS LOGINDISABLED", "AUTH="},
		{"never in clear, but TLS", func(c *Config) { c.ClearText = logon.ClearTextNever }, true, "AUTH=PLAIN", "STARTTLS"},
		{"no TLS", func(c *Config) { c.TLS = nil }, false, "AUTH=PLAIN", "STARTTLS"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := start(t, func(_ *rig, cfg *Config) { tt.change(cfg) }).dial(t)
			if tt.tls {
				c.startTLS()
			}
			got := strings.Join(c.ok("CAPABILITY"), "\n")
			if !strings.Contains(got, tt.want) || strings.Contains(got, tt.not) {
				t.Errorf("got %q, want %q and not %q", got, tt.want, tt.not)
			}
		})
	}
}

func TestClearTextPolicy(t *testing.T) {
	far := &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1)}
	near := &net.TCPAddr{IP: net.IPv4(127, 0, 0, 9)}
	unix := &net.UnixAddr{Name: "x", Net: "unix"}
	for _, tt := range []struct {
		policy          logon.ClearText
		far, near, unix bool
	}{{logon.ClearTextLoopback, false, true, true}, {logon.ClearTextNever, false, false, false}, {logon.ClearTextAlways, true, true, true}} {
		got := [3]bool{tt.policy.Allows(far), tt.policy.Allows(near), tt.policy.Allows(unix)}
		if want := [3]bool{tt.far, tt.near, tt.unix}; got != want {
			t.Errorf("policy %d: got %v, want %v", tt.policy, got, want)
		}
	}
}

func TestImplicitTLS(t *testing.T) {
	r := start(t, nil)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- r.server.Serve(tls.NewListener(l, r.tls)) }()
	conn, err := tls.Dial("tcp", l.Addr().String(), &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		t.Fatal(err)
	}
	c := newClient(t, conn)
	c.line()
	c.want("BAD", "STARTTLS")
	c.ok("LOGIN alice secret")
	c.ok("LOGOUT")
	if err := r.server.Close(); err != nil {
		t.Error(err)
	}
	if err := <-served; err != nil {
		t.Error(err)
	}
}

func TestI01_BigLiteralBeforeLogin(t *testing.T) {
	r := start(t, nil)
	for _, spec := range []string{"{999999999}", "{1025}"} {
		c := r.dial(t)
		c.want("NO [TOOBIG]", "LOGIN %s", spec)
		c.want("NO [TOOBIG]", "LOGIN alice %s", spec)
		c.want("NO [LIMIT]", "LOGIN {1+}\r\na {1+}\r\nb {1}")
		c.ok("LOGIN alice secret")
	}
}

func TestI02_UnaskedLiteralBeforeLogin(t *testing.T) {
	r := start(t, nil)
	c := r.dial(t)
	c.send("a LOGIN alice {1025+}\r\nb LOGIN alice secret\r\n")
	if got := c.line(); !strings.HasPrefix(got, "a NO [TOOBIG]") {
		t.Errorf("got %q", got)
	}
	c.bye("* BYE [TOOBIG]")
	if n := r.users.attempts(); n != 0 {
		t.Errorf("%d attempts to log in", n)
	}
}

func TestI04_LongLineBeforeLogin(t *testing.T) {
	r := start(t, nil)
	for _, line := range []string{repeat("x", 1<<20), "a LOGIN " + repeat("x", 1<<20), "a LOGIN \"" + repeat("x", 1<<20) + "\""} {
		c := r.dial(t)
		// The server stops reading and closes, so that writing may fail.
		go func() { _, _ = io.WriteString(c.conn, line+"\r\n") }()
		got, err := c.read()
		if err == nil && !strings.Contains(got, " BAD ") {
			t.Errorf("got %q", got)
		}
		if _, err := io.Copy(io.Discard, c.br); err != nil && !errors.Is(err, io.EOF) && !strings.Contains(err.Error(), "reset") {
			t.Errorf("not closed: %v", err)
		}
	}
}

func TestI05_NestingBeforeLogin(t *testing.T) {
	r := start(t, nil)
	c := r.dial(t)
	c.want("BAD", "LOGIN %s", repeat("(", 1000))
	c.ok("LOGIN alice secret")
}

func TestI10_PlainTextAfterSTARTTLS(t *testing.T) {
	r := start(t, nil)
	c := r.dial(t)
	c.send("a STARTTLS\r\nb LOGIN alice secret\r\n")
	c.bye("* BYE")
	if n := r.users.attempts(); n != 0 {
		t.Errorf("%d attempts to log in", n)
	}
}

func TestI11_WrongTimeForTLSAndLogin(t *testing.T) {
	r := start(t, func(_ *rig, cfg *Config) { cfg.ClearText = logon.ClearTextNever })
	c := r.dial(t)
	c.want("NO [PRIVACYREQUIRED]", "LOGIN alice secret")
	c.want("NO [PRIVACYREQUIRED]", "AUTHENTICATE PLAIN AGFsaWNlAHNlY3JldA==")
	if n := r.users.attempts(); n != 0 {
		t.Errorf("%d passwords were looked at", n)
	}
	c.want("BAD", "SELECT INBOX")
	c.startTLS()
	c.want("BAD", "STARTTLS")
	c.ok("LOGIN alice secret")
	for _, again := range []string{"STARTTLS", "LOGIN bob secret", "AUTHENTICATE PLAIN", "UNAUTHENTICATE"} {
		c.want("BAD", "%s", again)
	}
	c.ok("NOOP")
}

func TestI13_BadCommandsBeforeLogin(t *testing.T) {
	r := start(t, nil)
	for _, tt := range []struct{ name, say, want string }{
		{"unknown", "a FROB\r\n", "a BAD"},
		{"other state", "a FETCH 1 ALL\r\n", "a BAD"},
		{"no command", "a\r\n", "a BAD"},
		{"tag of a plus", "+ NOOP\r\n", "* BAD"},
		{"no tag", " NOOP\r\n", "* BAD"},
		{"nothing", "\r\n", "* BAD"},
		{"long tag", repeat("t", 8000) + " NOOP\r\n", "* BAD"},
		{"8-bit tag", "\xff NOOP\r\n", "* BAD"},
		{"HTTP", "GET / HTTP/1.1\r\n", "GET BAD"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := r.dial(t)
			c.send(tt.say)
			if got := c.line(); !strings.HasPrefix(got, tt.want) {
				t.Errorf("got %q, want %q", got, tt.want)
			}
			c.ok("NOOP")
		})
	}
	t.Run("many", func(t *testing.T) {
		c := r.dial(t)
		for range frontFaults {
			c.want("BAD", "FROB")
		}
		c.bye("* BYE")
	})
}

func TestI14_FailedLoginsReadTheSame(t *testing.T) {
	r := start(t, nil)
	c := r.dial(t)
	_, wrong := c.cmd("LOGIN alice wrong")
	_, unknown := c.cmd("LOGIN nobody wrong")
	if wrong != unknown || !strings.HasPrefix(wrong, "NO [AUTHENTICATIONFAILED]") {
		t.Errorf("got %q and %q", wrong, unknown)
	}
	for _, tt := range []struct {
		err  error
		want string
	}{
		{covey.Errorf(covey.Unavailable, "no quorum"), "NO [UNAVAILABLE]"},
		{errors.New("disk on fire"), "NO [SERVERBUG]"},
	} {
		r.users.err = tt.err
		_, got := c.cmd("LOGIN alice secret")
		if !strings.HasPrefix(got, tt.want) || strings.Contains(got, tt.err.Error()) {
			t.Errorf("got %q, want %q without the reason", got, tt.want)
		}
	}
	r.users.err = covey.Errorf(covey.Limit, "too many")
	c.want("NO [LIMIT]", "LOGIN alice secret")
	c.bye("* BYE")
}

func TestI35_IDBeforeLogin(t *testing.T) {
	r := start(t, nil)
	c := r.dial(t)
	if got := c.ok("ID NIL"); !contained(got, `* ID ("name" "Covey")`) {
		t.Errorf("got %q", got)
	}
	c.want("BAD", "ID")
	c.want("BAD", "ID (\"name\")")
	c.want("BAD", "ID (name x)")
	c.want("BAD", "CAPABILITY now")
	c.want("BAD", "NOOP now")
	c.want("BAD", "LOGOUT now")
	c.want("NO [TOOBIG]", "ID (\"name\" {1048576}")
	c.ok("ID (\"name\" NIL)")
}

func TestSlowLogin(t *testing.T) {
	c := start(t, func(_ *rig, cfg *Config) { cfg.LoginTime = 50 * time.Millisecond }).dial(t)
	c.send("a LOGIN ali")
	c.bye("* BYE Autologout")
}

func TestPipelinedLogin(t *testing.T) {
	r := start(t, nil)
	c := r.dial(t)
	c.send("a LOGIN alice secret\r\nb SELECT INBOX\r\nc APPEND INBOX {3+}\r\nabc\r\nd LOGOUT\r\n")
	for _, tag := range []string{"a", "b", "c", "d"} {
		if _, got := c.until(tag); !strings.HasPrefix(got, "OK") {
			t.Errorf("%s: %s", tag, got)
		}
	}
	c.closed()
}

// FuzzLoginFront has a peer say anything before login. Whatever it says, it does
// not get in without the password, costs little, and gets well-formed lines.
func FuzzLoginFront(f *testing.F) {
	for _, s := range []string{
		"a CAPABILITY\r\n", "a NOOP\r\nb LOGOUT\r\n", "a LOGIN alice secret\r\n", "a LOGIN {5}\r\nalice {6+}\r\nsecret\r\n",
		"a AUTHENTICATE PLAIN AGFsaWNlAHNlY3JldA==\r\n", "a AUTHENTICATE PLAIN\r\n*\r\n", "a AUTHENTICATE STEPS =\r\nYQ==\r\nYg==\r\n\r\n",
		"a ID (\"x\" NIL)\r\n", "a STARTTLS\r\nb LOGIN x y\r\n", "a LOGIN {1025+}\r\n", "\r\n", "a AUTHENTICATE PLAIN\r\n\r\n",
	} {
		f.Add([]byte(s))
	}
	u := newUsers(0, "alice")
	cfg, err := Config{Logons: u, Mailboxes: neverOpened{}, PerUser: 1 << 30, TLS: testTLS(f)}.withDefaults()
	if err != nil {
		f.Fatal(err)
	}
	s := &Server{cfg: cfg, sessions: make(map[covey.AccountID]int)}
	f.Fuzz(func(t *testing.T, in []byte) {
		conn := &script{in: bytes.NewReader(in)}
		front := newFront(s, conn)
		defer front.cancel()
		l := front.run()
		if cap(front.in.buf) > 32<<10 {
			t.Errorf("holds %d octets", cap(front.in.buf))
		}
		if l != nil {
			if !bytes.Contains(in, []byte("secret")) && !bytes.Contains(in, []byte("AGFsaWNlAHNlY3JldA==")) && !bytes.Contains(in, []byte("c2VjcmV0")) {
				t.Errorf("in as %v without the password: %q", l.Account.Address, in)
			}
			if !bytes.HasSuffix(in, l.Leftover) {
				t.Errorf("left over %q of %q", l.Leftover, in)
			}
			s.leave(l.Account.ID)
		}
		if bytes.Contains(in, []byte("STARTTLS")) {
			return // what follows is a TLS alert
		}
		br := bufio.NewReader(&conn.out)
		for {
			line, err := br.ReadString('\n')
			if err != nil {
				if line != "" {
					t.Errorf("line without end: %q", line)
				}
				break
			}
			if !strings.HasSuffix(line, "\r\n") || strings.ContainsAny(line[:len(line)-2], "\r\n\x00") {
				t.Errorf("malformed line %q", line)
			}
		}
	})
}

// neverOpened are Mailboxes that no one comes to.
type neverOpened struct{ Mailboxes }

// A script is a connection whose peer has said all it will say.
type script struct {
	net.Conn
	in  *bytes.Reader
	out bytes.Buffer
}

func (s *script) Read(p []byte) (int, error)       { return s.in.Read(p) }
func (s *script) Write(p []byte) (int, error)      { return s.out.Write(p) }
func (s *script) Close() error                     { return nil }
func (s *script) SetDeadline(time.Time) error      { return nil }
func (s *script) SetReadDeadline(time.Time) error  { return nil }
func (s *script) SetWriteDeadline(time.Time) error { return nil }
func (s *script) LocalAddr() net.Addr              { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)} }
func (s *script) RemoteAddr() net.Addr             { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)} }

func TestShutdownDuringLogin(t *testing.T) {
	r := start(t, nil)
	c := r.dial(t)
	if err := r.server.Shutdown(context.Background()); err != nil {
		t.Error(err)
	}
	if d := cmp.Diff("* BYE [UNAVAILABLE] Server shutting down", c.line()); d != "" {
		t.Error(d)
	}
	c.closed()
}
