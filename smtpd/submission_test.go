package smtpd

import (
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"

	"github.com/covey-mail/covey"
)

const aliceTo = "> MAIL FROM:<alice@example.org>\n< 250\n> RCPT TO:<bob@example.org>\n< 250\n> DATA\n< 354\n"

func TestS34_SenderOwned(t *testing.T) {
	for _, x := range []struct {
		name, script string
		mail         int
	}{
		{"envelope: another's", "> MAIL FROM:<bob@example.org>\n< 553 5.7.1\n> RCPT TO:<bob@example.org>\n< 503", 0},
		{"envelope: another domain", "> MAIL FROM:<alice@remote.example>\n< 553 5.7.1", 0},
		{"envelope: with detail", "> MAIL FROM:<Alice+x@example.org>\n< 250", 0},
		{"envelope: null", "> MAIL FROM:<>\n< 250", 0},
		{"envelope: cannot be told", "> MAIL FROM:<unwell@example.org>\n< 451 4.3.0", 0},
		{"From: own", aliceTo + `= "From: A <alice@example.org>\r\n\r\n.\r\n"` + "\n< 250", 1},
		{"From: another's", aliceTo + `= "From: bob@example.org\r\n\r\n.\r\n"` + "\n< 550 5.7.1\n> NOOP\n< 250", 0},
		{"From: one of two", aliceTo + `= "From: alice@example.org, bob@example.org\r\n\r\n.\r\n"` + "\n< 550 5.7.1", 0},
		{"From: folded", aliceTo + `= "From: alice\r\n <bob@example.org>\r\n\r\n.\r\n"` + "\n< 550 5.7.1", 0},
		{"From: in other case, with a space", aliceTo + `= "fRoM : bob@example.org\r\n\r\n.\r\n"` + "\n< 550 5.7.1", 0},
		{"From: in the name only", aliceTo + `= "From: \"bob@example.org\" <alice@example.org>\r\n\r\n.\r\n"` + "\n< 250", 1},
		{"From: name in another charset", aliceTo + `= "From: =?windows-1252?Q?M=FCller?= <alice@example.org>\r\n\r\n.\r\n"` + "\n< 250", 1},
		{"From: name in a charset nobody knows", aliceTo + `= "From: =?x-own?B?/w=?= <alice@example.org>\r\n\r\n.\r\n"` + "\n< 250", 1},
		{"From: another's, in another charset", aliceTo + `= "From: =?iso-2022-jp?B?GyRC?= <bob@example.org>\r\n\r\n.\r\n"` + "\n< 550 5.7.1", 0},
		{"From: twice", aliceTo + `= "From: alice@example.org\r\nFrom: bob@example.org\r\n\r\n.\r\n"` + "\n< 550 5.6.0", 0},
		{"From: second behind a line that is no field", aliceTo + `= "From: alice@example.org\r\nno field\r\nFrom: bob@example.org\r\n\r\n.\r\n"` + "\n< 550 5.6.0", 0},
		{"From: unreadable", aliceTo + `= "From: <<>>\r\n\r\n.\r\n"` + "\n< 550 5.6.0", 0},
		{"From: none", aliceTo + `= "Subject: x\r\n\r\n.\r\n"` + "\n< 250", 1},
		{"From: in the body", aliceTo + `= "Subject: x\r\n\r\nFrom: bob@example.org\r\n.\r\n"` + "\n< 250", 1},
		{"From: cannot be told", aliceTo + `= "From: unwell@example.org\r\n\r\n.\r\n"` + "\n< 451 4.3.0", 0},
		{"other domains", "> MAIL FROM:<alice@example.org>\n< 250\n> RCPT TO:<u@remote.example>\n< 550 5.7.1 This server does not send", 0},
		{"before log-in", "", 0},
	} {
		t.Run("S-34/"+x.name, func(t *testing.T) {
			r := newRig(t)
			r.loggedIn(Submissions).run(x.script)
			if got := len(r.mail.messages()); got != x.mail {
				t.Errorf("%d messages taken, want %d", got, x.mail)
			}
		})
	}
	r := newRig(t)
	r.ready(Submissions).run("> MAIL FROM:<alice@example.org>\n< 530 5.7.0\n> RCPT TO:<bob@example.org>\n< 503")
}

// A user who was shut out sends no more in a session that is open.
func TestSubmissionAccountDisabled(t *testing.T) {
	r := newRig(t)
	c := r.loggedIn(Submissions)
	c.run("> MAIL FROM:<alice@example.org>\n< 250\n> RSET\n< 250")
	r.door.bar()
	c.run("> MAIL FROM:<alice@example.org>\n< 550 5.7.1\n> MAIL FROM:<>\n< 550 5.7.1\n> RCPT TO:<bob@example.org>\n< 503")
}

func TestSubmissionAddsFields(t *testing.T) {
	for _, x := range []struct {
		name, message string
		want          []string // names of fields in front of the message
	}{
		{"none there", "From: alice@example.org\r\n\r\nx\r\n", []string{"Received", "Date", "Message-ID"}},
		{"date there", "date: x\r\n\r\nx\r\n", []string{"Received", "Message-ID"}},
		{"both there", "Date: x\r\nMessage-Id: <x@y>\r\n\r\nx\r\n", []string{"Received"}},
		{"in the body only", "\r\nDate: x\r\nMessage-ID: <x@y>\r\n", []string{"Received", "Date", "Message-ID"}},
		{"no header, no body", "", []string{"Received", "Date", "Message-ID"}},
		{"Return-Path there", "Return-Path: <x@y>\r\nDate: x\r\nMessage-ID: <x@y>\r\n\r\n", []string{"Received"}},
		{"long header", "Date: x\r\nX: " + strings.Repeat("y\r\n z", 4000) + "\r\nMessage-ID: <x@y>\r\n\r\nbody\r\n", []string{"Received"}},
	} {
		t.Run(x.name, func(t *testing.T) {
			r := newRig(t)
			c := r.loggedIn(Submission)
			c.run(aliceTo)
			c.send(x.message + ".\r\n")
			c.expect("250")
			m := r.mail.messages()[0]
			if diff := cmp.Diff(x.message, m.Body); diff != "" {
				t.Errorf("the message itself changed: (-want +got)\n%s", diff)
			}
			var names []string
			for name := range headerFields([]byte(m.Header)) {
				names = append(names, name)
			}
			if diff := cmp.Diff(x.want, names); diff != "" {
				t.Errorf("fields: (-want +got)\n%s", diff)
			}
			if !strings.Contains(m.Header, "with ESMTPSA id ") {
				t.Errorf("header %q", m.Header)
			}
		})
	}
	// Elsewhere nothing is added.
	r := newRig(t)
	r.ready(MX).run(opening + "> DATA\n< 354\n= \"Return-Path: <x@y>\\r\\n\\r\\n.\\r\\n\"\n< 250")
	if m := r.mail.messages()[0]; strings.Contains(m.Header, "Message-ID") || m.Body != "Return-Path: <x@y>\r\n\r\n" {
		t.Errorf("got %+v", m)
	}
}

func TestReadHeader(t *testing.T) {
	endless := io.MultiReader(strings.NewReader("A: b\r\n"), iotest.DataErrReader(strings.NewReader(strings.Repeat("X: y\r\n", maxHeader))))
	if _, _, err := readHeader(endless); !errors.Is(err, replyBigHeader) {
		t.Errorf("header without end: %v", err)
	}
	if _, _, err := readHeader(iotest.ErrReader(errNUL)); !errors.Is(err, errNUL) {
		t.Errorf("fault of the data became %v", err)
	}
	for _, msg := range []string{"", "\r\n", "\r\nbody", "A: b\r\n\r\nbody", "A: b\r\n", "A: " + strings.Repeat("x", 10_000) + "\r\n\r\nbody"} {
		header, rest, err := readHeader(iotest.OneByteReader(strings.NewReader(msg)))
		if err != nil {
			t.Fatal(err)
		}
		tail, err := io.ReadAll(rest)
		if got := string(header) + string(tail); got != msg || err != nil {
			t.Errorf("%.20q became %.20q, %v", msg, got, err)
		}
		if h, _, ok := strings.Cut(msg, "\r\n\r\n"); ok && !strings.HasPrefix(string(header), h) {
			t.Errorf("%.20q: header cut to %.20q", msg, header)
		}
	}
}

func TestTraceNames(t *testing.T) {
	for _, x := range []struct{ greet, mail, want string }{
		{"HELO", "", "with SMTP id"}, {"EHLO", "", "with ESMTP id"}, {"EHLO", " SMTPUTF8", "with UTF8SMTP id"},
	} {
		r := newRig(t)
		c := r.dial(MX)
		c.run("< 220\n> " + x.greet + " [192.0.2.1]\n< 250\n> MAIL FROM:<a@b.example>" + x.mail + "\n< 250\n" +
			"> RCPT TO:<postmaster>\n< 250\n> DATA\n< 354\n> .\n< 250")
		if got := r.mail.messages()[0].Header; !strings.Contains(got, x.want) || !strings.Contains(got, "from [192.0.2.1] (") || !strings.Contains(got, "for <postmaster>;") {
			t.Errorf("%s%s: header %q, want %s", x.greet, x.mail, got, x.want)
		}
	}
}

func TestSplitAddress(t *testing.T) {
	for in, want := range map[string]covey.Address{
		"a@B.example": {Local: "a", Domain: "b.example"}, "a b@c.example": {Local: "a b", Domain: "c.example"},
		"a@b@c.example": {Local: "a@b", Domain: "c.example"}, "@c.example": {}, "a": {}, "": {},
	} {
		got, err := splitAddress(in)
		if got != want || (err != nil) != want.IsZero() {
			t.Errorf("%q: got %+v, %v", in, got, err)
		}
	}
}
