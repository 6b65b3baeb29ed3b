package smtpd

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestOneMessage(t *testing.T) {
	r := newRig(t)
	c := r.dial(MX)
	c.expect("220 mx.example.org ESMTP")
	c.send("EHLO client.example\r\n")
	caps := c.expect("250")
	for _, want := range []string{"PIPELINING", "8BITMIME", "ENHANCEDSTATUSCODES", "CHUNKING", "STARTTLS", "SMTPUTF8", "SIZE 100000"} {
		if !strings.Contains(caps, want) {
			t.Errorf("EHLO lacks %s:\n%s", want, caps)
		}
	}
	if strings.Contains(caps, "AUTH") {
		t.Errorf("MX offers AUTH:\n%s", caps)
	}
	c.run(opening + `
		> DATA
		< 354
		= "Subject: hello\r\n\r\n..dot\r\nbody\r\n.\r\n"
		< 250 2.0.0
		> QUIT
		< 221
		<EOF`)
	got := r.mail.messages()
	if len(got) != 1 {
		t.Fatalf("%d messages, want 1", len(got))
	}
	m := got[0]
	if diff := cmp.Diff("Subject: hello\r\n\r\n.dot\r\nbody\r\n", m.Body); diff != "" {
		t.Errorf("body: (-want +got)\n%s", diff)
	}
	if m.From != "sender@remote.example" || len(m.To) != 1 || m.To[0] != "bob@example.org" || m.Confirms != 1 {
		t.Errorf("got %+v", m)
	}
	_, id, _ := strings.Cut(m.Header, "with ESMTP id ")
	id, _, _ = strings.Cut(id, "\r\n")
	if len(id) < len("0123456789abcdef-1") {
		t.Errorf("transaction id %q", id)
	}
	want := "Received: from client.example ([127.0.0.1])\r\n" +
		"\tby mx.example.org (Covey) with ESMTP id " + id + "\r\n\tfor <bob@example.org>;\r\n\t"
	if !strings.HasPrefix(m.Header, want) || strings.Count(m.Header, "\r\n") != 4 {
		t.Errorf("header %q, want it to start with %q", m.Header, want)
	}
}
