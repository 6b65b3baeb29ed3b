package smtpd

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/logon"
)

// replyLine is what every line of the server looks like.
var replyLine = regexp.MustCompile(`^[2-5][0-9][0-9][ -][^\x00-\x1f\x7f]+\r\n$`)

// fuzzServer checks what holds whatever a peer sends after a prologue: no panic,
// well-formed replies, an end, and no message taken that is not one.
func fuzzServer(f *testing.F, kind Kind, prologues ...string) {
	r := newRig(f, func(c *Config) { c.ClearText, c.MaxMessageBytes, c.TLS = logon.ClearTextLoopback, 1000, nil })
	a := r.listen(kind)
	f.Fuzz(func(t *testing.T, state uint8, data []byte) {
		raw, err := net.Dial(a.Network(), a.String())
		if err != nil {
			t.Fatal(err)
		}
		defer raw.Close()
		_ = raw.SetDeadline(time.Now().Add(patience))
		in := bufio.NewReader(raw)
		if line, err := in.ReadString('\n'); err != nil || !strings.HasPrefix(line, "220") {
			t.Fatalf("greeting %q, %v", line, err)
		}
		for line := range strings.SplitAfterSeq(prologues[int(state)%len(prologues)], "\r\n") {
			answered(t, raw, in, line)
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			_, _ = raw.Write(data)
			_ = raw.(*net.TCPConn).CloseWrite()
		}()
		checkReplies(t, in)
		<-done
		checkTaken(t, r)
	})
}

// answered sends one command and reads its reply.
func answered(t *testing.T, w io.Writer, in *bufio.Reader, line string) {
	if line == "" {
		return
	}
	_, _ = io.WriteString(w, line)
	for {
		got, err := in.ReadString('\n')
		if err != nil || len(got) < 4 {
			t.Fatalf("reply to %q: %q, %v", line, got, err)
		}
		if got[3] == ' ' {
			return
		}
	}
}

func checkReplies(t *testing.T, in *bufio.Reader) {
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			var ne net.Error
			if errors.As(err, &ne) && ne.Timeout() {
				t.Fatal("the session does not end")
			}
			return
		}
		if !replyLine.MatchString(line) {
			t.Fatalf("malformed reply line %q", line)
		}
		if strings.Contains(line, "Internal") {
			t.Fatalf("internal error: %q", line)
		}
	}
}

// checkTaken checks the invariants of what was delivered.
func checkTaken(t *testing.T, r *rig) {
	r.mail.mu.Lock()
	defer r.mail.mu.Unlock()
	for _, m := range r.mail.mail {
		clean := strings.ReplaceAll(m.Body, "\r\n", "")
		if strings.ContainsAny(clean, "\r\n\x00") || len(m.Body) > 1000 {
			t.Fatalf("taken: %q", m.Body)
		}
		for _, to := range m.To {
			if _, err := covey.ParseAddress(to); err != nil && !strings.EqualFold(to, "postmaster@") {
				t.Fatalf("recipient %q: %v", to, err)
			}
		}
		for line := range strings.SplitAfterSeq(m.Header, "\r\n") {
			if strings.ContainsAny(strings.TrimSuffix(line, "\r\n"), "\r\n\x00") {
				t.Fatalf("header %q", m.Header)
			}
		}
	}
	r.mail.mail, r.mail.asked = nil, nil
}

var (
	fuzzEHLO  = "EHLO c.example\r\n"
	fuzzLHLO  = "LHLO c.example\r\n"
	fuzzAuth  = "AUTH PLAIN " + plainIR + "\r\n"
	fuzzMail  = "MAIL FROM:<alice@example.org>\r\n"
	fuzzRcpt  = "RCPT TO:<bob@example.org>\r\n"
	fuzzLogin = "AUTH LOGIN\r\n"
)

// seed adds each text in each state.
func seed(f *testing.F, states int, texts ...string) {
	for s := range states {
		for _, t := range texts {
			f.Add(uint8(s), []byte(t))
		}
		for _, d := range deceptions {
			f.Add(uint8(s), []byte("Subject: x\r\n\r\nbody"+d.end+smuggled+"\r\n.\r\nQUIT\r\n"))
		}
	}
}

var commandSeeds = []string{
	"", "QUIT\r\n", "NOOP\r\nRSET\r\n", "STARTTLS\r\n", "EHLO x\r\n", "MAIL FROM:<a@b.example> SIZE=1 BODY=8BITMIME SMTPUTF8\r\n",
	"MAIL FROM:<>\r\nRCPT TO:<\"a\\\"b\"@example.org>\r\nRCPT TO:<@x,@y:bob@example.org>\r\n", "DATA\r\n", "BDAT 3 LAST\r\nabc", "BDAT 1\r\naBDAT 1\r\nbRSET\r\nNOOP\r\n",
	"BDAT 99999999999999999999\r\n", "AUTH PLAIN\r\n=\r\n", "AUTH LOGIN\r\n*\r\n", "VRFY x\r\n", "GET / HTTP/1.1\r\n", "\x16\x03\x01", "a\nb\rc\r\n", "x\r\n.\r\nNOOP\r\n",
}

func FuzzMX(f *testing.F) {
	states := []string{"", fuzzEHLO, fuzzEHLO + fuzzMail, fuzzEHLO + fuzzMail + fuzzRcpt, fuzzEHLO + fuzzMail + fuzzRcpt + "DATA\r\n"}
	seed(f, len(states), commandSeeds...)
	fuzzServer(f, MX, states...)
}

func FuzzSubmission(f *testing.F) {
	ready := fuzzEHLO + fuzzAuth + fuzzMail + fuzzRcpt
	states := []string{fuzzEHLO, fuzzEHLO + fuzzLogin, fuzzEHLO + fuzzAuth, ready, ready + "DATA\r\n"}
	seed(f, len(states), commandSeeds...)
	seed(f, len(states), "From: \"b\" <bob@example.org>\r\n\r\n.\r\n", "From: alice@example.org\r\nDate: x\r\n\r\n.\r\n", "YWxpY2U=\r\nYWxpY2U=\r\n")
	fuzzServer(f, Submission, states...)
}

func FuzzLMTP(f *testing.F) {
	ready := fuzzLHLO + fuzzMail + fuzzRcpt + fuzzRcpt
	states := []string{"", fuzzLHLO, fuzzLHLO + fuzzMail, ready, ready + "DATA\r\n"}
	seed(f, len(states), commandSeeds...)
	fuzzServer(f, LMTP, states...)
}

// slowDots is the oracle of FuzzData: RFC 5321 section 4.5.2 an octet at a time.
func slowDots(wire []byte) (msg []byte, rest []byte, ended bool) {
	lineStart := true
	for i := 0; i < len(wire); i++ {
		if lineStart && wire[i] == '.' {
			if bytes.HasPrefix(wire[i:], []byte(".\r\n")) {
				return msg, wire[i+3:], true
			}
			lineStart = false
			continue
		}
		msg = append(msg, wire[i])
		lineStart = wire[i] == '\n' && i > 0 && wire[i-1] == '\r' && !(i > 1 && wire[i-2] == '\r')
	}
	return msg, nil, false
}

func clean(msg []byte) bool {
	return !bytes.ContainsAny(bytes.ReplaceAll(msg, []byte("\r\n"), nil), "\r\n\x00")
}

func FuzzData(f *testing.F) {
	for _, d := range deceptions {
		f.Add([]byte("a"+d.end+"b\r\n.\r\nQUIT\r\n"), uint8(3))
	}
	f.Add([]byte("..\r\n...\r\n.\r\n"), uint8(1))
	f.Add([]byte(".\r\n"), uint8(2))
	f.Fuzz(func(t *testing.T, wire []byte, step uint8) {
		want, wantRest, ended := slowDots(wire)
		got, rest, err := decoded(&stepReader{r: bytes.NewReader(wire), n: int(step%17) + 1})
		switch {
		case !ended:
			if err == nil {
				t.Fatalf("%q: ended without an end", wire)
			}
			return
		case rest != string(wantRest):
			t.Fatalf("%q: rest %q, want %q", wire, rest, wantRest)
		case clean(want) != (err == nil):
			t.Fatalf("%q: error %v for %q", wire, err, want)
		case err == nil && got != string(want):
			t.Fatalf("%q: got %q, want %q", wire, got, want)
		}
	})
}

// stepReader reads n octets at a time.
type stepReader struct {
	r io.Reader
	n int
}

func (s *stepReader) Read(p []byte) (int, error) { return s.r.Read(p[:min(len(p), s.n)]) }

func FuzzArguments(f *testing.F) {
	for _, s := range []string{"FROM:<>", "FROM:<a@b> SIZE=1", "from: <\"a\\\"b\"@b> BODY=8BITMIME SMTPUTF8", "FROM:<@x,@y:a@b>", "TO:<a@b>", "TO:<postmaster>", "TO:<" + strings.Repeat(`"\`, 100), "10 LAST", "99999999999999999999"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, arg string) {
		if m, bad := parseMail(arg, 1000, true); bad == nil && !m.from.IsZero() {
			if again, err := covey.ParseAddress(m.from.String()); err != nil || again != m.from {
				t.Fatalf("%q: %+v, again %+v, %v", arg, m.from, again, err)
			}
		}
		if to, bad := parseRcpt(arg, true); bad == nil && to.Domain != "" {
			if again, err := covey.ParseAddress(to.String()); err != nil || again != to {
				t.Fatalf("%q: %+v, again %+v, %v", arg, to, again, err)
			}
		}
		if c, tooBig, ok := parseChunk(arg, 1000); ok && !tooBig && (c.size < 0 || c.size > 1000) {
			t.Fatalf("%q: %+v", arg, c)
		}
		if name, ok := parseHello(arg); ok && (strings.ContainsAny(name, " \r\n<>()") || len(name) > covey.MaxDomain) {
			t.Fatalf("%q: greeting %q", arg, name)
		}
	})
}

func FuzzHeader(f *testing.F) {
	f.Add([]byte("From: a@b.example\r\nDate: x\r\nMessage-ID: <x>\r\n\r\nbody"))
	f.Add([]byte("From: a@b.example\r\nno field\r\n From: x\r\nFROM : c@d.example\r\n"))
	f.Add([]byte("From: =?utf-8?q?x?= <\"a b\"@c.example>, g: d@e.example;\r\n\r\n"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		h, err := parseHeader(raw)
		if err != nil {
			return
		}
		for _, a := range h.from {
			if a.Domain == "" || a.Local == "" {
				t.Fatalf("%q: from %+v", raw, a)
			}
		}
	})
}
