package smtpd

import (
	"errors"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/covey-mail/covey"
)

func TestL01_L02_LMTP(t *testing.T) {
	play(t, []row{
		{"L-01/HELO", LMTP, "> HELO client.example\n< 500 5.5.1", 0},
		{"L-01/EHLO", LMTP, "> EHLO client.example\n< 500 5.5.1", 0},
		{"L-01/LHLO on SMTP", MX, "> LHLO client.example\n< 500 5.5.1", 0},
		{"L-02/no RCPT", LMTP, "> MAIL FROM:<>\n< 250\n> DATA\n< 503", 0},
		{"L-02/none accepted", LMTP, "> MAIL FROM:<>\n< 250\n> RCPT TO:<nobody@example.org>\n< 550\n> DATA\n< 503", 0},
	})
	c := newRig(t).dial(LMTP)
	c.run("< 220\n> HELO x.example\n< 500\n> MAIL FROM:<>\n< 503")
}

func TestL03_SameRecipientThrice(t *testing.T) {
	r := newRig(t)
	c := r.ready(LMTP)
	c.run(opening + "> RCPT TO:<Bob@example.org>\n< 250\n> RCPT TO:<bob@example.org>\n< 250\n> DATA\n< 354\n> .\n" +
		"< 250 2.1.5 <bob@example.org>\n< 250 2.1.5 <Bob@example.org>\n< 250 2.1.5 <bob@example.org>\n> QUIT\n< 221\n<EOF")
	got := r.mail.messages()
	if len(got) != 1 {
		t.Fatalf("%d messages", len(got))
	}
	if diff := cmp.Diff([]string{"bob@example.org"}, got[0].To); diff != "" {
		t.Errorf("recipients: (-want +got)\n%s", diff)
	}
}

func TestL04_ReplyPerRecipient(t *testing.T) {
	r := newRig(t)
	r.mail.outcome["alice"] = covey.Errorf(covey.OverQuota, "full")
	r.mail.outcome["carol"] = covey.Errorf(covey.Unavailable, "no quorum")
	c := r.ready(LMTP)
	c.run(opening + "> RCPT TO:<alice@example.org>\n< 250\n> RCPT TO:<carol@example.org>\n< 250\n> DATA\n< 354\n> .\n" +
		"< 250 2.1.5 <bob@example.org>\n< 452 4.2.2 <alice@example.org>\n< 451 4.3.0 <carol@example.org>\n> QUIT\n< 221\n<EOF")
	if got := r.mail.messages()[0].Header; strings.Contains(got, "for <") || !strings.Contains(got, "with LMTP id") {
		t.Errorf("header %q names recipients, or not LMTP", got)
	}
}

// TestL05_CutBetweenReplies is this package's part of L-05: what was told only in
// part is not confirmed, so that delivery recognises the resend.
func TestL05_CutBetweenReplies(t *testing.T) {
	r := newRig(t)
	c := r.ready(LMTP)
	c.run(opening + "> RCPT TO:<alice@example.org>\n< 250\n> DATA\n< 354\n> .\n< 250")
	c.Close()
	waitFor(t, "end of session", func() bool { return strings.Contains(r.log.String(), "msg=session") })
	if got := r.mail.messages()[0].Confirms; got != 0 {
		t.Errorf("%d confirmations", got)
	}
}

// An elsewhere listener says that it listens at addr, and that its peers are at
// from.
type elsewhere struct {
	net.Listener
	addr, from net.Addr
}

func (e elsewhere) Addr() net.Addr { return e.addr }

func (e elsewhere) Accept() (net.Conn, error) {
	c, err := e.Listener.Accept()
	return peer{c, e.from}, err
}

type peer struct {
	net.Conn
	from net.Addr
}

func (p peer) RemoteAddr() net.Addr { return p.from }

func TestL06_Port25(t *testing.T) {
	r := newRig(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	err = r.srv.Serve(LMTP, elsewhere{Listener: l, addr: &net.TCPAddr{IP: net.IPv4zero, Port: 25}})
	if !errors.Is(err, covey.Invalid) {
		t.Errorf("got %v, want a refusal", err)
	}
}

func TestL07_Strangers(t *testing.T) {
	for from, want := range map[string]string{"192.0.2.1": "554 5.7.1", "198.51.100.7": "220", "127.0.0.2": "220", "::1": "220"} {
		t.Run("L-07/"+from, func(t *testing.T) {
			r := newRig(t, func(c *Config) { c.TrustedLMTP = []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24")} })
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			r.serve(LMTP, elsewhere{l, l.Addr(), &net.TCPAddr{IP: net.ParseIP(from), Port: 1}})
			c := r.dial(LMTP)
			c.expect(want)
			if want != "220" {
				c.expectClosed()
			}
		})
	}
}

func TestLMTPOnUnixSocket(t *testing.T) {
	r := newRig(t)
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "lmtp.sock"))
	if err != nil {
		t.Fatal(err)
	}
	r.serve(LMTP, l)
	c := r.dial(LMTP)
	c.run(hellolmtp + opening + "> DATA\n< 354\n> .\n< 250\n> QUIT\n< 221\n<EOF")
	if got := r.mail.messages()[0]; !strings.Contains(got.Header, "from client.example (local)") || got.Confirms != 1 {
		t.Errorf("got %+v", got)
	}
}

// TestNotConfirmedUnread is that a peer which goes on without having taken the
// reply confirms nothing: on a Unix socket the kernel knows what it has read.
func TestNotConfirmedUnread(t *testing.T) {
	r := newRig(t)
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "lmtp.sock"))
	if err != nil {
		t.Fatal(err)
	}
	r.serve(LMTP, l)
	c := r.dial(LMTP)
	c.run(hellolmtp + opening + "> DATA\n< 354\n> .")
	waitFor(t, "the message", func() bool { return strings.Contains(r.log.String(), "msg=transaction") })
	c.send("MAIL FROM:<>\r\nRCPT TO:<alice@example.org>\r\n")
	waitFor(t, "the next recipient", func() bool { return len(r.mail.lookups()) == 2 })
	if got := r.mail.messages()[0].Confirms; got != 0 {
		t.Errorf("%d confirmations", got)
	}
	// Once they are read, the next command confirms.
	c.run("\n< 250\n< 250\n< 250\n> NOOP\n< 250")
	if got := r.mail.messages()[0].Confirms; got != 1 {
		t.Errorf("%d confirmations at the end", got)
	}
}
