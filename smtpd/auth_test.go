package smtpd

import (
	"encoding/base64"
	"strings"
	"testing"

	"github.com/covey-mail/covey/logon"
)

func b64(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }

func plainResponse(identity, user, pass string) string {
	return b64(identity + "\x00" + user + "\x00" + pass)
}

func TestS25_AuthInClear(t *testing.T) {
	r := newRig(t)
	c := r.dial(Submission)
	c.expect("220")
	c.send("EHLO client.example\r\n")
	if caps := c.expect("250"); strings.Contains(caps, "AUTH") {
		t.Errorf("AUTH offered in clear:\n%s", caps)
	}
	c.run("> AUTH PLAIN " + plainIR + "\n< 538 5.7.11\n> AUTH LOGIN\n< 538 5.7.11\n> MAIL FROM:<alice@example.org>\n< 530 5.7.0\n> QUIT\n< 221\n<EOF")
	waitFor(t, "end of session", func() bool { return strings.Contains(r.log.String(), "msg=session") })
	if strings.Contains(r.log.String(), "sesame") || strings.Contains(r.log.String(), plainIR) {
		t.Errorf("password in the log:\n%s", r.log)
	}
	if len(r.door.seen) != 0 {
		t.Error("credentials in clear were looked at")
	}
	// Allowed from loopback.
	r = newRig(t, func(c *Config) { c.ClearText = logon.ClearTextLoopback })
	c = r.dial(Submission)
	c.run(hello + "> AUTH PLAIN " + plainIR + "\n< 235\n> STARTTLS\n< 503\n> MAIL FROM:<alice@example.org>\n< 250")
}

func TestS25_NoAuthElsewhere(t *testing.T) {
	play(t, []row{
		{"S-25/MX", MX, "> AUTH PLAIN " + plainIR + "\n< 502 5.5.1\n> STARTTLS\n< 220\nSTARTTLS\n> EHLO c.example\n< 250\n> AUTH PLAIN " + plainIR + "\n< 502", 0},
		{"S-25/LMTP", LMTP, "> AUTH PLAIN " + plainIR + "\n< 502 5.5.1", 0},
	}, func(c *Config) { c.ClearText = logon.ClearTextLoopback })
}

func TestAuthMechanisms(t *testing.T) {
	const after = "\n> AUTH PLAIN " + plainIR + "\n< 503 5.5.1\n> MAIL FROM:<alice@example.org> AUTH=<>\n< 250\n> AUTH PLAIN\n< 503"
	for _, kind := range []Kind{Submission, Submissions} {
		play(t, []row{
			{"PLAIN with initial response", kind, "> AUTH PLAIN " + plainIR + "\n< 235" + after, 0},
			{"PLAIN in two steps", kind, "> auth plain\n< 334\n> " + plainIR + "\n< 235" + after, 0},
			{"LOGIN", kind, "> AUTH LOGIN\n< 334 VXNlcm5hbWU6\n> " + b64("alice@example.org") + "\n< 334 UGFzc3dvcmQ6\n> " + b64("sesame") + "\n< 235" + after, 0},
			{"LOGIN with initial response", kind, "> AUTH LOGIN " + b64("alice@example.org") + "\n< 334\n> " + b64("sesame") + "\n< 235" + after, 0},
			{"SCRAM", kind, "> AUTH SCRAM-SHA-256 " + b64("n,,n=alice") + "\n< 334\n> " + b64("alice@example.org sesame") + "\n< 334 " + b64("v=proof") + "\n> \n< 235" + after, 0},
		})
	}
	r := newRig(t)
	c := r.ready(Submission)
	c.send("EHLO client.example\r\n")
	if caps := c.expect("250"); !strings.Contains(caps, "AUTH PLAIN LOGIN SCRAM-SHA-256\r\n") {
		t.Errorf("not offered:\n%s", caps)
	}
	c.run("> AUTH PLAIN " + plainIR + "\n< 235")
	if got := r.door.seen[0]; got.Protocol != "submission" || !got.Secure || got.Session == "" || !got.Remote.IsLoopback() {
		t.Errorf("logon saw %+v", got)
	}
}

func TestS26_S30_AuthSyntax(t *testing.T) {
	long := strings.Repeat("A", maxSASL)
	const sync = "\n> NOOP\n< 250\n> AUTH PLAIN " + plainIR + "\n< 235"
	play(t, []row{
		{"S-26/bad base64", Submissions, "> AUTH PLAIN !!!\n< 501 5.5.2" + sync, 0},
		{"S-26/bad base64 later", Submissions, "> AUTH LOGIN\n< 334\n> !!!\n< 501 5.5.2" + sync, 0},
		{"S-26/cancel", Submissions, "> AUTH LOGIN\n< 334\n> *\n< 501" + sync, 0},
		{"S-26/cancel later", Submissions, "> AUTH LOGIN\n< 334\n> YWxpY2U=\n< 334\n> *\n< 501" + sync, 0},
		{"S-26/command in between", Submissions, "> AUTH LOGIN\n< 334\n> MAIL FROM:<a@b.example>\n< 501 5.5.2" + sync, 0},
		{"S-26/malformed PLAIN", Submissions, "> AUTH PLAIN " + b64("no nul") + "\n< 501 5.5.2|535|454" + sync, 0},
		{"S-26/no mechanism", Submissions, "> AUTH\n< 501 5.5.4" + sync, 0},
		{"S-09/bare LF in the exchange", Submissions, "> AUTH LOGIN\n< 334\n= \"YWxp\\nY2U=\\r\\n\"\n< 500 5.5.2" + sync, 0},
		{"S-29/unknown mechanism", Submissions, "> AUTH CRAM-MD5\n< 504 5.5.4" + sync, 0},
		{"S-29/in a transaction", Submissions, "> AUTH PLAIN " + plainIR + "\n< 235\n> MAIL FROM:<alice@example.org>\n< 250\n> AUTH PLAIN " + plainIR + "\n< 503", 0},
		{"S-29/after success", Submissions, "> AUTH PLAIN " + plainIR + "\n< 235\n> AUTH PLAIN " + plainIR + "\n< 503", 0},
		{"S-30/long response", Submissions, "> AUTH LOGIN\n< 334\n> " + long + "\n< 500 5.5.6" + sync, 0},
		{"S-30/response of 1 MB", Submissions, "> AUTH LOGIN\n< 334\n> " + strings.Repeat(long, 80) + "\n< 500 5.5.6" + sync, 0},
		{"S-30/long initial response", Submissions, "> AUTH PLAIN " + long + "\n< 500 5.5.2" + sync, 0},
		{"S-30/within the bound", Submissions, "> AUTH LOGIN " + strings.Repeat("A", 8000) + "\n< 334\n> " + strings.Repeat("A", 12280) + "\n< 535", 0},
		{"before EHLO", Submissions, "> STARTTLS\n< 503", 0},
	})
}

func TestS27_S28_S31_AuthRefused(t *testing.T) {
	r := newRig(t)
	c := r.ready(Submissions)
	var replies []string
	for _, ir := range []string{
		plainResponse("", "alice@example.org", "wrong"), plainResponse("", "nobody@example.org", "wrong"),
		plainResponse("bob@example.org", "alice@example.org", "sesame"), // S-28
	} {
		c.send("AUTH PLAIN " + ir + "\r\n")
		replies = append(replies, c.expect("535 5.7.8"))
	}
	for _, got := range replies {
		if got != replies[0] || strings.Contains(got, "secret") {
			t.Errorf("S-27: replies differ or tell too much: %q", replies)
		}
	}
	c.run("> MAIL FROM:<alice@example.org>\n< 530 5.7.0")
	c.send("AUTH PLAIN " + plainResponse("", "alice@example.org", "away") + "\r\n")
	c.expect("454 4.7.0 Cannot")
	c.send("AUTH PLAIN " + plainResponse("", "alice@example.org", "broken") + "\r\n")
	c.expect("454 4.7.0 Internal")
	if !strings.Contains(r.log.String(), "internal error") {
		t.Error("an internal error was not logged")
	}
	// S-31, as far as one node goes: logon counts, and its Limit ends the session.
	c.send("AUTH PLAIN " + plainResponse("", "alice@example.org", "enough") + "\r\n")
	c.expect("421 4.7.0")
	c.expectClosed()
}
