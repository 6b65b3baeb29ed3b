package smtpd

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
)

func TestS22_InjectionBeforeTLS(t *testing.T) {
	for _, after := range []string{"RCPT TO:<x>\r\n", "NOOP\r\n", "x", "\r\n"} {
		r := newRig(t)
		c := r.ready(MX)
		c.send("STARTTLS\r\n" + after)
		c.expect("554 5.5.0")
		c.expectClosed()
	}
	// What comes after the 220 in clear is not TLS.
	r := newRig(t)
	c := r.ready(MX)
	c.run("> STARTTLS\n< 220")
	c.send("EHLO evil.example\r\nMAIL FROM:<a@b.example>\r\n")
	if got, _ := io.ReadAll(c.in); bytes.Contains(got, []byte("250")) {
		t.Errorf("answered in clear: %q", got)
	}
}

func TestS23_STARTTLS(t *testing.T) {
	play(t, []row{
		{"S-23/with argument", MX, "> STARTTLS now\n< 501\n> STARTTLSnow\n< 500", 0},
		{"S-23/in a transaction", MX, opening + "> STARTTLS\n< 503\n> DATA\n< 354\n> .\n< 250", 1},
		{"S-23/state is gone", MX, "> STARTTLS\n< 220\nSTARTTLS\n> MAIL FROM:<a@b.example>\n< 503\n" +
			"> EHLO client.example\n< 250\n> STARTTLS\n< 503\n" + opening + "> DATA\n< 354\n> .\n< 250\n> QUIT\n< 221\n<EOF", 1},
		{"S-23/on submissions", Submissions, "> STARTTLS\n< 503", 0},
		{"S-23/on LMTP", LMTP, "> STARTTLS\n< 502", 0},
	})
	play(t, []row{{"S-23/without certificate", MX, "> STARTTLS\n< 502", 0}}, func(c *Config) { c.TLS = nil })

	r := newRig(t)
	c := r.dial(MX)
	c.run("< 220\n> STARTTLS\n< 220\nSTARTTLS\n")
	c.send("EHLO client.example\r\n")
	if caps := c.expect("250"); strings.Contains(caps, "STARTTLS") {
		t.Errorf("offered inside TLS:\n%s", caps)
	}
	c.run(opening + "> DATA\n< 354\n> .\n< 250")
	if got := r.mail.messages()[0].Header; !strings.Contains(got, "with ESMTPS id") {
		t.Errorf("header %q", got)
	}
}

func TestS24_BrokenHandshake(t *testing.T) {
	for _, kind := range []Kind{MX, Submissions} {
		for _, garbage := range []string{"garbage\r\n", "\x16\x03\x01\xff\xff" + strings.Repeat("x", 200), strings.Repeat("\x00", 600), ""} {
			t.Run(fmt.Sprintf("S-24/%s/%.10q", kind, garbage), func(t *testing.T) {
				r := newRig(t)
				c := r.dial(kind)
				if kind == MX {
					c.run(hello + "> STARTTLS\n< 220")
				}
				c.send(garbage)
				if w, ok := c.Conn.(*net.TCPConn); ok {
					_ = w.CloseWrite()
				}
				got, _ := io.ReadAll(c.in)
				// At most TLS alerts: records of type 21.
				if len(got) > 0 && got[0] != 21 {
					t.Errorf("after a failed handshake came %q", got)
				}
				waitFor(t, "end of session", func() bool { return strings.Contains(r.log.String(), "reason=\"tls:") })
			})
		}
	}
}

func TestS24_ManyNames(t *testing.T) {
	r := newRig(t)
	a := r.listen(Submissions)
	for i := range 20 {
		c, err := tls.Dial("tcp", a.String(), &tls.Config{InsecureSkipVerify: true, ServerName: fmt.Sprintf("x%d.example", i)})
		if err != nil {
			t.Fatal(err)
		}
		newClient(t, c).run("< 220\n> QUIT\n< 221\n<EOF")
		c.Close()
	}
}

func TestS40_OtherProtocols(t *testing.T) {
	for name, first := range map[string]string{
		"GET":   "GET / HTTP/1.1\r\nHost: x\r\n\r\nMAIL FROM:<a@b.example>\r\n",
		"POST":  "POST / HTTP/1.1\r\nContent-Length: 50\r\n\r\nEHLO x\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<bob@example.org>\r\n",
		"SSH":   "SSH-2.0-OpenSSH_9.9\r\n",
		"TLS":   "\x16\x03\x01\x00\x05hello",
		"PROXY": "PROXY TCP4 192.0.2.1 192.0.2.2 1 25\r\nEHLO x\r\n",
		"v2":    "\r\n\r\n\x00\r\nQUIT\n\x21\x11\xff\xff",
	} {
		t.Run("S-40_S-45/"+name, func(t *testing.T) {
			r := newRig(t)
			c := r.dial(MX)
			c.expect("220")
			c.send(first)
			rest, _ := io.ReadAll(c.in)
			if bytes.Contains(rest, []byte("250")) || bytes.Count(rest, []byte("\n")) > 1 {
				t.Errorf("answered %q", rest)
			}
		})
	}
	t.Run("S-45/XCLIENT", func(t *testing.T) {
		r := newRig(t)
		c := r.ready(MX)
		c.run("> XCLIENT ADDR=192.0.2.1\n< 550 5.7.0\n> XFORWARD ADDR=192.0.2.1\n< 550 5.7.0\n" + opening + "> DATA\n< 354\n> .\n< 250")
		if got := r.mail.messages()[0].Header; !strings.Contains(got, "([127.0.0.1])") {
			t.Errorf("header %q", got)
		}
	})
}
