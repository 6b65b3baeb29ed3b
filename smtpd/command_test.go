package smtpd

import (
	"fmt"
	"strings"
	"testing"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/directory"
)

func TestS09_S12_BadLines(t *testing.T) {
	// Each is one command: one reply, and the next is to the NOOP.
	const sync = "\n< 500 5.5.2\n> NOOP\n< 250 2.0.0 I have\n> QUIT\n< 221\n<EOF"
	rows := []row{
		{"S-09/bare LF between commands", MX, `= "MAIL FROM:<a@b.example>\nRCPT TO:<bob@example.org>\r\n"`, 0},
		{"S-09/bare CR between commands", MX, `= "MAIL FROM:<a@b.example>\rRCPT TO:<bob@example.org>\r\n"`, 0},
		{"S-09/bare LF, more than two", MX, `= "NOOP\nNOOP\nNOOP\r\n"`, 0},
		{"S-09/CR CR LF", MX, `= "NOOP\r\r\n"`, 0},
		{"S-09/LF CR LF", MX, `= "NOOP\n\r\n"`, 0},
		{"S-09/in a path", MX, `= "MAIL FROM:<a\n@b.example>\r\n"`, 0},
		{"S-12/NUL", MX, `= "NO\x00OP\r\n"`, 0},
		{"S-12/NUL in a path", MX, `= "MAIL FROM:<a\x00@b.example>\r\n"`, 0},
		{"S-12/other control character", MX, `= "NOOP \x1b[0m\r\n"`, 0},
		{"S-44/invalid UTF-8", MX, `= "MAIL FROM:<\xff@b.example> SMTPUTF8\r\n"`, 0},
	}
	for i := range rows {
		rows[i].script += sync
	}
	play(t, rows)
}

func TestS11_LongLine(t *testing.T) {
	r := newRig(t)
	c := r.ready(MX)
	at := "NOOP " + strings.Repeat("x", maxCommand-7) + "\r\n"
	c.send(at)
	c.expect("250")
	c.send("NOOP x" + strings.TrimPrefix(at, "NOOP "))
	c.expect("500 5.5.2 Command too long")
	// 10 MB: one reply, no memory, and in sync.
	half := []byte(strings.Repeat("x", 5<<20))
	before := allocated()
	c.write(half)
	c.expect("500 5.5.2 Command too long")
	c.write(half)
	c.run("= \"\\r\\n\"\n> NOOP\n< 250 2.0.0")
	if used := allocated() - before; used > 64<<10 {
		t.Errorf("%d octets allocated on the way", used)
	}
	// Without end: cut.
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range 8 {
			c.write(half)
		}
	}()
	c.expect("500 5.5.2 Command too long")
	c.expectClosed()
	<-done
}

func TestS14_S18_Arguments(t *testing.T) {
	long := func(n int) string { return strings.Repeat("x", n) }
	label := strings.Repeat(long(62)+".", 4)
	rcpt := "> MAIL FROM:<a@b.example>\n< 250\n> RCPT TO:"
	play(t, []row{
		{"S-14/sender: local part of 64", MX, "> MAIL FROM:<" + long(64) + "@b.example>\n< 250", 0},
		{"S-14/sender: local part of 65", MX, "> MAIL FROM:<" + long(65) + "@b.example>\n< 501 5.1.7", 0},
		{"S-14/sender: domain of 256", MX, "> MAIL FROM:<a@" + label + "xxxx>\n< 501 5.1.7", 0},
		{"S-14/recipient: local part of 65", MX, rcpt + "<" + long(65) + "@example.org>\n< 501 5.1.3", 0},
		{"S-14/recipient: domain of 256", MX, rcpt + "<a@" + label + "xxxx>\n< 501 5.1.3", 0},
		{"S-14/recipient: path of 257", MX, rcpt + "<" + long(60) + "@" + label[:194] + ">\n< 501 5.1.3", 0},
		{"S-16/SIZE over the limit", MX, "> MAIL FROM:<a@b.example> SIZE=100001\n< 552 5.3.4", 0},
		{"S-16/SIZE at the limit", MX, "> MAIL FROM:<a@b.example> SIZE=100000\n< 250", 0},
		{"S-18/SIZE=abc", MX, "> MAIL FROM:<a@b.example> SIZE=abc\n< 501 5.5.4", 0},
		{"S-18/SIZE=-1", MX, "> MAIL FROM:<a@b.example> SIZE=-1\n< 501 5.5.4", 0},
		{"S-18/SIZE of 65 bits", MX, "> MAIL FROM:<a@b.example> SIZE=18446744073709551616\n< 501 5.5.4", 0},
		{"S-18/SIZE of 64 bits", MX, "> MAIL FROM:<a@b.example> SIZE=18446744073709551615\n< 552 5.3.4", 0},
		{"S-18/SIZE twice", MX, "> MAIL FROM:<a@b.example> SIZE=1 size=1\n< 501 5.5.4", 0},
		{"S-18/SIZE without value", MX, "> MAIL FROM:<a@b.example> SIZE\n< 501 5.5.4", 0},
		{"S-19/unknown at MAIL", MX, "> MAIL FROM:<a@b.example> XYZZY=1\n< 555 5.5.4", 0},
		{"S-19/unknown at RCPT", MX, rcpt + "<bob@example.org> XYZZY\n< 555 5.5.4", 0},
		{"S-19/malformed", MX, "> MAIL FROM:<a@b.example> =\n< 501 5.5.4", 0},
		{"S-19/BODY", MX, "> MAIL FROM:<a@b.example> BODY=8BITMIME\n< 250\n> RSET\n< 250\n> MAIL FROM:<> body=7bit\n< 250", 0},
		{"S-19/BODY not offered", MX, "> MAIL FROM:<a@b.example> BODY=BINARYMIME\n< 501 5.5.4", 0},
		{"S-19/AUTH on MX", MX, "> MAIL FROM:<a@b.example> AUTH=<>\n< 555 5.5.4", 0},
		{"S-49/RET", MX, "> MAIL FROM:<a@b.example> RET=FULL\n< 555 5.5.4", 0},
		{"S-49/RET bad", MX, "> MAIL FROM:<a@b.example> RET=X\n< 555 5.5.4", 0},
		{"S-49/ENVID", MX, "> MAIL FROM:<a@b.example> ENVID=" + long(1000) + "\n< 555 5.5.4", 0},
		{"S-49/ENVID of 10 KB", MX, "> MAIL FROM:<a@b.example> ENVID=" + long(10000) + "\n< 500 5.5.2", 0},
		{"S-49/NOTIFY", MX, rcpt + "<bob@example.org> NOTIFY=NEVER,FAILURE\n< 555 5.5.4", 0},
		{"S-49/ORCPT", MX, rcpt + "<bob@example.org> ORCPT=rfc822;+ZZ\n< 555 5.5.4", 0},
	})
}

func TestS15_TooManyRecipients(t *testing.T) {
	play(t, []row{{"S-15", MX, "> MAIL FROM:<a@b.example>\n< 250\n" +
		"> RCPT TO:<bob@example.org>\n< 250\n> RCPT TO:<alice@example.org>\n< 250\n> RCPT TO:<bob@example.org>\n< 250\n" +
		"> RCPT TO:<carol@example.org>\n< 452 4.5.3\n> DATA\n< 354\n> .\n< 250", 1}},
		func(c *Config) { c.MaxRecipients = 3 })
	r := newRig(t)
	c := r.ready(MX)
	c.run("> MAIL FROM:<a@b.example>\n< 250")
	for i := range 100 {
		c.run(fmt.Sprintf("> RCPT TO:<u%d@any.example>\n< 250", i))
	}
	c.run("> RCPT TO:<u100@any.example>\n< 452 4.5.3")
}

func TestS20_Sequence(t *testing.T) {
	play(t, []row{
		{"S-20/RCPT before MAIL", MX, "> RCPT TO:<bob@example.org>\n< 503 5.5.1", 0},
		{"S-20/nested MAIL", MX, opening + "> MAIL FROM:<a@b.example>\n< 503 5.5.1\n> DATA\n< 354\n> .\n< 250", 1},
		{"S-20/DATA before MAIL", MX, "> DATA\n< 503 5.5.1", 0},
		{"S-20/DATA before RCPT", MX, "> MAIL FROM:<a@b.example>\n< 250\n> DATA\n< 503 5.5.1", 0},
		{"S-20/DATA with all RCPT refused", MX, "> MAIL FROM:<a@b.example>\n< 250\n> RCPT TO:<x@example.org>\n< 550\n> DATA\n< 503 5.5.1", 0},
		{"S-20/DATA with argument", MX, opening + "> DATA now\n< 501 5.5.4", 0},
		{"S-20/after RSET", MX, opening + "> RSET\n< 250\n> DATA\n< 503\n> RCPT TO:<bob@example.org>\n< 503", 0},
		{"S-20/after EHLO", MX, opening + "> EHLO again.example\n< 250\n> DATA\n< 503\n> RCPT TO:<bob@example.org>\n< 503", 0},
		{"S-20/after the message", MX, opening + "> DATA\n< 354\n> .\n< 250\n> DATA\n< 503\n> RCPT TO:<bob@example.org>\n< 503", 1},
		{"S-20/two messages", MX, opening + "> DATA\n< 354\n> .\n< 250\n" + opening + "> DATA\n< 354\n> .\n< 250", 2},
		{"S-38/RCPT and DATA after a refusal at the end", MX, opening + "> DATA\n< 354\n= \"a\\nb\\r\\n.\\r\\n\"\n< 550\n" +
			"> RCPT TO:<bob@example.org>\n< 503\n> DATA\n< 503\n> MAIL FROM:<>\n< 250", 0},
	})
	c := newRig(t).dial(MX)
	c.run("< 220\n> MAIL FROM:<a@b.example>\n< 503 5.5.1\n> RCPT TO:<bob@example.org>\n< 503\n> DATA\n< 503\n> HELO x.example\n< 250\n> MAIL FROM:<>\n< 250")
}

func TestS21_Greeting(t *testing.T) {
	for _, bad := range []string{"", strings.Repeat("x", 300), "<script>", "a b", "a\\r\\nb", "bücher.example", "[256.1.1.1]",
		"[1.2.3]", "-x.example", "a..b", "%0d%0a", "x\tb", "(comment)", "."} {
		c := newRig(t).dial(MX)
		c.expect("220")
		c.send("EHLO " + bad + "\r\n")
		c.expect("501 5.5.4")
		c.run("> MAIL FROM:<a@b.example>\n< 503")
	}
	for _, good := range []string{"localhost", "user_pc", "[127.0.0.1]", "[IPv6:::1]", "example.org.", "XN--BCHER-KVA.example"} {
		c := newRig(t).dial(MX)
		c.expect("220")
		c.send("EHLO " + good + "\r\n")
		c.expect("250")
	}
}

func TestS32_S33_S48_Recipients(t *testing.T) {
	for to, want := range map[string]string{
		// S-32: relaying
		"victim@remote.example": "550 5.7.1", "a%victim@example.org": "550 5.1.1", "@example.org:u@remote.example": "550 5.7.1",
		"@x.example,@y.example:bob@example.org": "250", `"u@remote.example"@example.org`: "550 5.1.1", "u@remote.example@example.org": "501 5.1.3",
		"remote.example!u": "501 5.1.3", "v!u@example.org": "550 5.1.1", "u@[192.0.2.1]": "550 5.7.1", "bob@example.org.": "501 5.1.3",
		"bob@EXAMPLE.org": "250", "Bob@example.org": "250", "u@xn--bcher-kva.example": "550 5.7.1", "u@bücher.example": "553 5.6.7",
		"@remote.example": "501", "@:u@v": "501", "bob+x@example.org": "250", "postmaster": "250", "PostMaster": "250", "": "501 5.1.3",
		// S-33: unknown
		"nobody@example.org": "550 5.1.1", "root": "501 5.1.3",
		// S-48: payloads
		"x'or'1=1--@example.org": "550 5.1.1", `"x' OR 1=1--"@example.org`: "550 5.1.1", `"*)(uid=*"@example.org`: "550 5.1.1",
		`"../../etc/passwd"@example.org`: "550 5.1.1", "%n@example.org": "550 5.1.1", "${x}@example.org": "550 5.1.1",
	} {
		t.Run("S-32_S-33_S-48/"+to, func(t *testing.T) {
			r := newRig(t)
			c := r.ready(MX)
			c.run("> MAIL FROM:<>\n< 250")
			c.send("RCPT TO:<" + to + ">\r\n")
			if got := c.expect(want); strings.Contains(got, "secret") {
				t.Errorf("reply shows the error's text: %q", got)
			}
		})
	}
}

func TestS35_VRFY(t *testing.T) {
	c := newRig(t).ready(MX)
	var replies []string
	for _, cmd := range []string{"VRFY alice@example.org", "VRFY nobody@example.org", "VRFY alice", "VRFY"} {
		c.send(cmd + "\r\n")
		replies = append(replies, c.expect("252"))
	}
	for _, r := range replies {
		if r != replies[0] {
			t.Errorf("S-35: replies differ: %q", replies)
		}
	}
	c.run("> EXPN alice\n< 502 5.5.1\n> EXPN nobody\n< 502 5.5.1")
}

func TestS44_SMTPUTF8(t *testing.T) {
	play(t, []row{
		{"S-44/sender without SMTPUTF8", MX, "> MAIL FROM:<jürgen@b.example>\n< 553 5.6.7", 0},
		{"S-44/sender with SMTPUTF8", MX, "> MAIL FROM:<jürgen@b.example> SMTPUTF8\n< 250\n> RCPT TO:<jürgen@any.example>\n< 250\n> DATA\n< 354\n> .\n< 250", 1},
		{"S-44/recipient without SMTPUTF8", MX, "> MAIL FROM:<a@b.example>\n< 250\n> RCPT TO:<jürgen@any.example>\n< 553 5.6.7", 0},
		{"S-44/8 bit without BODY", MX, opening + "> DATA\n< 354\n= \"Subject: \\xfc\\r\\n\\r\\n\\xff\\r\\n.\\r\\n\"\n< 250", 1},
	})
}

func TestS46_S47_Paths(t *testing.T) {
	for _, arg := range []string{
		`<"a\r\nDATA"@example.org`, `"a"@`, "<bob@example.org> SIZE=1", "<bob@example.org>SIZE=1", "<(comment)bob@example.org>", "<bob@example.org(comment)>",
		"<bob @example.org>", "< bob@example.org>", `<"bob@example.org>`, `<bob"x"@example.org>`, `<"bob"x@example.org>`, "<.bob@example.org>", "<b..b@example.org>",
		`<""@example.org>`, "<@example.org>", "<bob@>", "<bob@.>", "< >", "<bob@example.org", "bob@example.org", "<<bob@example.org>>", "<bob@example.org>>",
		"<bob@example.org> >", "<" + strings.Repeat(`\`, 1500) + "@example.org>", `<"` + strings.Repeat(`\`, 1500) + `"@example.org>`, "<>", "",
	} {
		t.Run("S-46_S-47/"+clip(arg), func(t *testing.T) {
			r := newRig(t)
			c := r.ready(MX)
			c.run("> MAIL FROM:<a@b.example>\n< 250")
			c.send("RCPT TO:" + arg + "\r\n")
			c.expect("501")
			c.run("> DATA\n< 503")
			if got := r.mail.lookups(); len(got) != 0 {
				t.Errorf("looked up %q", got)
			}
		})
	}
}

func TestErrorsToReplies(t *testing.T) {
	for kind, want := range map[covey.Kind]struct{ rcpt, data string }{
		covey.NotFound:    {"550 5.1.1", "550 5.1.1"},
		covey.Denied:      {"550 5.7.1 Relaying", "550 5.7.1"},
		covey.OverQuota:   {"452 4.2.2", "452 4.2.2"},
		covey.Unavailable: {"451 4.3.0", "451 4.3.0"},
		covey.Unknown:     {"451 4.3.0", "451 4.3.0"},
		covey.DiskFull:    {"452 4.3.1", "452 4.3.1"},
		covey.TooBig:      {"552 5.3.4", "552 5.3.4"},
		covey.Limit:       {"452 4.5.3", "452 4.5.3"},
		covey.Loop:        {"554 5.4.6", "554 5.4.6"},
		covey.Invalid:     {"501 5.1.3", "554 5.6.0"},
		covey.Internal:    {"451 4.3.0", "451 4.3.0"},
		covey.Corrupt:     {"451 4.3.0", "451 4.3.0"},
	} {
		t.Run("S-51/"+kind.String(), func(t *testing.T) {
			r := newRig(t)
			r.mail.rcpt["carol"] = covey.Errorf(kind, "secret text")
			r.mail.err = covey.Errorf(kind, "secret text")
			c := r.ready(MX)
			c.run("> MAIL FROM:<>\n< 250\n> RCPT TO:<carol@example.org>\n< " + want.rcpt)
			c.run("> RCPT TO:<bob@example.org>\n< 250\n> DATA\n< 354\n> .\n")
			if got := c.expect(want.data); strings.Contains(got, "secret") {
				t.Errorf("reply %q shows the error's text", got)
			}
			c.run("> MAIL FROM:<>\n< 250")
		})
	}
}

// A node that knows no domain may not tell anyone that a user does not exist.
func TestNoDomainYet(t *testing.T) {
	r := newRig(t)
	r.mail.rcpt["carol"] = fmt.Errorf("resolve: %w", directory.ErrNoDomain)
	r.ready(MX).run("> MAIL FROM:<>\n< 250\n> RCPT TO:<carol@example.org>\n< 451 4.3.5")
}

func TestDiskFull(t *testing.T) {
	r := newRig(t)
	r.mail.room = covey.Errorf(covey.DiskFull, "secret text")
	r.ready(MX).run("> MAIL FROM:<a@b.example>\n< 452 4.3.1\n> RCPT TO:<bob@example.org>\n< 503\n> QUIT\n< 221")
}

// TestSeveralRecipients is that one reply speaks for all only if it is true for
// all.
func TestSeveralRecipients(t *testing.T) {
	temp, perm := covey.Errorf(covey.Unavailable, "secret"), covey.Errorf(covey.Loop, "secret")
	for _, x := range []struct {
		name       string
		bob, alice error
		want       string
	}{
		{"all", nil, nil, "250"},
		{"one later", nil, temp, "451"},
		{"one never", perm, nil, "554 5.4.6"},
		{"one never, one later", perm, temp, "451"},
		{"one later, one never", temp, perm, "451"},
	} {
		t.Run(x.name, func(t *testing.T) {
			r := newRig(t)
			r.mail.outcome["bob"], r.mail.outcome["alice"] = x.bob, x.alice
			r.ready(MX).run(opening + "> RCPT TO:<alice@example.org>\n< 250\n> DATA\n< 354\n> .\n< " + x.want + "\n> NOOP\n< 250")
		})
	}
}
