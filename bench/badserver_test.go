package bench

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"
)

// serveScript answers each connection by the script: the first line at once, each
// of the others after a line from the client. "close" closes, "silence" says
// nothing more; a script that is over is silent. DATA lines are not told from
// commands.
func serveScript(t *testing.T, script ...string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			serving.Go(func() { play(c, script) })
		}
	})
	t.Cleanup(func() { l.Close(); serving.Wait() })
	return l.Addr().String()
}

func play(c net.Conn, script []string) {
	defer c.Close()
	r := bufio.NewReader(c)
	for i, reply := range script {
		if i > 0 {
			if _, err := r.ReadString('\n'); err != nil {
				return
			}
		}
		if reply == "close" {
			return
		}
		if reply == "silence" {
			break
		}
		if _, err := io.WriteString(c, reply); err != nil {
			return
		}
	}
	_, _ = io.Copy(io.Discard, r) // until the client gives up
}

func TestBadServers(t *testing.T) {
	const hello, mail = "220 hi\r\n", "250 ok\r\n"
	for name, tt := range map[string]struct {
		protocol Protocol
		script   []string
		want     string
	}{
		"smtp silent":            {SMTP, []string{"silence"}, "greeting: timeout"},
		"smtp closes":            {SMTP, []string{"close"}, "greeting: the server closed the connection"},
		"smtp garbage":           {SMTP, []string{"HTTP/1.1 400 Bad Request\r\n"}, "greeting: not a reply"},
		"smtp refuses":           {SMTP, []string{"554 go away\r\n"}, "greeting: 554 go away"},
		"smtp busy":              {SMTP, []string{hello, mail, "421 4.3.2 too many connections\r\n"}, "MAIL: 421 4.3.2 too many connections"},
		"smtp no user":           {SMTP, []string{hello, mail, mail, "550 5.1.1 no such user\r\n", mail}, "RCPT: 550 5.1.1 no such user"},
		"smtp endless line":      {SMTP, []string{strings.Repeat("2", readBuffer+1)}, "greeting: line too long"},
		"smtp endless lines":     {SMTP, []string{strings.Repeat("220-x\r\n", maxReplyLines+1)}, "greeting: line too long"},
		"smtp 354 too soon":      {SMTP, []string{hello, mail, "354 go\r\n"}, "MAIL: not a reply: code 354"},
		"smtp 250 to DATA":       {SMTP, []string{hello, mail, mail, mail, mail}, "DATA: not a reply: code 250"},
		"smtp silent after DATA": {SMTP, []string{hello, mail, mail, mail, "354 go\r\n", "silence"}, "end of DATA: timeout"},
		"smtp closes after DATA": {SMTP, []string{hello, mail, mail, mail, "354 go\r\n", "close"}, "end of DATA: the server"},
		"pop3 garbage":           {POP3, []string{"220 smtp here\r\n"}, "greeting: not a reply"},
		"pop3 password":          {POP3, []string{"+OK\r\n", "+OK\r\n", "-ERR [AUTH] no\r\n"}, "login: -ERR [AUTH] no"},
		"pop3 no count":          {POP3, []string{"+OK\r\n", "+OK\r\n", "+OK\r\n", "+OK x y\r\n"}, "STAT: not a reply"},
		"pop3 half a body":       {POP3, []string{"+OK\r\n", "+OK\r\n", "+OK\r\n", "+OK 1 9\r\n", "+OK\r\nSubject: x\r\n"}, "RETR: timeout"},
		"imap bye":               {IMAP, []string{"* BYE too busy\r\n"}, "greeting: * BYE too busy"},
		"imap garbage":           {IMAP, []string{"+OK pop3\r\n"}, "greeting: not a reply"},
		"imap password":          {IMAP, []string{"* OK\r\n", "b1 NO [AUTHENTICATIONFAILED] wrong\r\n"}, "login: NO [AUTHENTICATIONFAILED] wrong"},
		"imap other tag":         {IMAP, []string{"* OK\r\n", "b9 OK\r\n"}, "login: not a reply"},
		"imap half a literal":    {IMAP, []string{"* OK\r\n", "b1 OK in\r\n", "* 1 EXISTS\r\nb2 OK\r\n", "* 1 FETCH ({10}\r\nhalf"}, "FETCH envelopes: timeout"},
		"imap huge literal":      {IMAP, []string{"* OK\r\n", "* {9999999999999}\r\n"}, "login: line too long"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg := Config{Protocol: tt.protocol, Addr: serveScript(t, tt.script...), Conns: 1, Count: 1, Timeout: 200 * time.Millisecond}
			res := mustRun(t, cfg)
			if res.Failed != 1 || !strings.HasPrefix(res.Failures[0].What, tt.want) {
				t.Errorf("failures %+v, want %q", res.Failures, tt.want)
			}
		})
	}
}

func TestServerWithoutTLS(t *testing.T) {
	for security, want := range map[Security]string{StartTLS: "STARTTLS: 502 no", Implicit: "TLS handshake"} {
		cfg := Config{Protocol: SMTP, Addr: serveScript(t, "220 hi\r\n", "250 ok\r\n", "502 no\r\n"), TLS: security, Conns: 1, Count: 1, Timeout: time.Second}
		res := mustRun(t, cfg)
		if res.Failed != 1 || !strings.HasPrefix(res.Failures[0].What, want) {
			t.Errorf("%s: failures %+v, want %q", security, res.Failures, want)
		}
	}
}

func TestPipeliningMustBeOffered(t *testing.T) {
	cfg := Config{Protocol: SMTP, Addr: serveScript(t, "220 hi\r\n", "250 ok\r\n"), Conns: 1, Count: 1, Pipeline: true, Timeout: time.Second}
	res := mustRun(t, cfg)
	if res.Failed != 1 || !strings.Contains(res.Failures[0].What, "does not offer PIPELINING") {
		t.Errorf("failures %+v", res.Failures)
	}
}

// After a refusal the next message goes over the same connection.
func TestRefusedMessagesKeepTheConnection(t *testing.T) {
	// EHLO, then twice MAIL, RCPT, RSET, and a message that is taken.
	addr := serveScript(t, "220 hi\r\n", "250-x\r\n250 PIPELINING\r\n",
		"250 ok\r\n", "550 no\r\n", "250 reset\r\n",
		"250 ok\r\n", "550 no\r\n", "250 reset\r\n",
		"250 ok\r\n", "250 ok\r\n", "354 go\r\n", "250 taken\r\n")
	cfg := Config{Protocol: SMTP, Addr: addr, Conns: 1, Count: 3, Size: 1, Timeout: time.Second}
	res := mustRun(t, cfg)
	if res.Failed != 2 || res.Done != 1 {
		t.Errorf("%d done, failures %+v; want 2 refused and 1 done", res.Done, res.Failures)
	}
}

// Who logs in is the sender, in the envelope and in the message.
func TestAuthenticatedSession(t *testing.T) {
	var sent bytes.Buffer
	in := "220 hi\r\n250 AUTH PLAIN\r\n235 in\r\n250 ok\r\n250 ok\r\n354 go\r\n250 taken\r\n"
	cfg, err := Config{Protocol: SMTP, Addr: "here", Count: 1, Users: 10, UserPattern: "u%d@x", Password: "pw%d", Auth: true}.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	s := factory(cfg, "run")(0).(*smtpSession)
	s.c = &conn{r: bufio.NewReader(strings.NewReader(in)), w: bufio.NewWriter(&sent)}
	if err := s.greet(7); err != nil {
		t.Fatal(err)
	}
	if err := s.transaction(&operation{user: 3}); err != nil {
		t.Fatal(err)
	}
	// printf '\0u7@x\0pw7' | base64
	for _, want := range []string{"\r\nAUTH PLAIN AHU3QHgAcHc3\r\n", "MAIL FROM:<u7@x>\r\nRCPT TO:<u3@x>", "\r\nFrom: Bench <u7@x>\r\nTo: <u3@x>"} {
		if !strings.Contains(sent.String(), want) {
			t.Errorf("%q was not sent, but\n%s", want, sent.String()[:300])
		}
	}
}

// A server that accepts DATA after refusing the recipient waits for a message.
func TestPipelinedDataWithoutRecipient(t *testing.T) {
	var sent bytes.Buffer
	in := "250 ok\r\n550 no\r\n354 go\r\n554 no recipients\r\n"
	s := &smtpSession{
		cfg: Config{Pipeline: true},
		c:   &conn{r: bufio.NewReader(strings.NewReader(in)), w: bufio.NewWriter(&sent)},
	}
	err := s.envelope("user@example.org")
	if err == nil || err.Error() != "RCPT: 550 no" || lost(err) {
		t.Errorf("error %v, want the recipient's", err)
	}
	if !strings.HasSuffix(sent.String(), "DATA\r\n.\r\n") {
		t.Errorf("sent %q, want an empty message at the end", sent.String())
	}
}
