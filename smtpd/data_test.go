package smtpd

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"

	"github.com/covey-mail/covey"
)

// smuggled is what an attacker wants taken for a second transaction.
const smuggled = "MAIL FROM:<evil@remote.example>\r\nRCPT TO:<alice@example.org>\r\nDATA\r\nevil\r\n"

// deceptions are ends of data that are none: with each, everything up to the
// real end is one message, and refused.
var deceptions = []struct{ row, end, code string }{
	{"S-01", "\n.\n", "550 5.5.2"},
	{"S-02", "\n.\r\n", "550 5.5.2"},
	{"S-03", "\r.\r", "550 5.5.2"},
	{"S-03", "\r.\n", "550 5.5.2"},
	{"S-03", "\r.\r\n", "550 5.5.2"},
	{"S-03", "\n.\r", "550 5.5.2"},
	{"S-03", "\r\n.\r", "550 5.5.2"},
	{"S-03", "\r\n.\n", "550 5.5.2"},
	{"S-04", "\r\n.\r\r\n", "550 5.5.2"},
	{"S-04", "\r\r\n.\r\n", "550 5.5.2"},
	{"S-05", "\r\n\x00.\r\n", "554 5.6.0"},
	{"S-05", "\r\n.\x00\r\n", "554 5.6.0"},
	{"S-12", "\r\nnul \x00\r\n", "554 5.6.0"},
	{"S-12", "\x00", "554 5.6.0"},
}

// TestS01_S05_Smuggling also is S-10: the same over LMTP, and all from loopback.
func TestS01_S05_S10_Smuggling(t *testing.T) {
	for _, kind := range []Kind{MX, LMTP, Submissions} {
		for _, d := range deceptions {
			t.Run(fmt.Sprintf("%s/%s/%q", d.row, kind, d.end), func(t *testing.T) {
				r := newRig(t)
				var c *client
				if kind == Submissions {
					c = r.loggedIn(kind)
					c.run("> MAIL FROM:<alice@example.org>\n< 250\n> RCPT TO:<bob@example.org>\n< 250\n")
				} else {
					c = r.ready(kind)
					c.run(opening)
				}
				c.run("> DATA\n< 354\n")
				c.send("Subject: one\r\n\r\nbody" + d.end + smuggled + "\r\n.\r\n")
				c.expect(d.code)
				// In sync: the next reply is to the next command.
				c.run("> RSET\n< 250\n> QUIT\n< 221\n<EOF")
				if got := r.mail.messages(); len(got) != 0 {
					t.Errorf("taken: %+v", got)
				}
				if got := r.mail.lookups(); len(got) != 1 {
					t.Errorf("recipients looked up: %q", got)
				}
			})
		}
	}
}

// decoded runs data through a dotFraming whose input arrives as r gives it, and
// returns the message and what is left behind its end.
func decoded(r io.Reader) (msg, rest string, err error) {
	in := bufio.NewReaderSize(r, 16)
	b := &body{frame: newDotFraming(in), limit: 1 << 20, drain: 2 << 20}
	got, err := io.ReadAll(b)
	if fault := b.finish(); fault != err && err == nil {
		err = fmt.Errorf("fault %v after success", fault)
	}
	left, _ := io.ReadAll(in)
	return string(got), string(left), err
}

func TestS06_EndSplitAtEveryOctet(t *testing.T) {
	const wire = "a\r\n..b\r\n\r\n.c\r\n...\r\n.\r\nQUIT\r\n"
	const want = "a\r\n.b\r\n\r\nc\r\n..\r\n"
	for cut := range len(wire) + 1 {
		r := io.MultiReader(strings.NewReader(wire[:cut]), strings.NewReader(wire[cut:]))
		msg, rest, err := decoded(r)
		if msg != want || err != nil || rest != "QUIT\r\n" {
			t.Errorf("split at %d: got %q, %v, rest %q", cut, msg, err, rest)
		}
	}
	msg, rest, err := decoded(iotest.OneByteReader(strings.NewReader(wire)))
	if msg != want || err != nil || rest != "QUIT\r\n" {
		t.Errorf("octet by octet: got %q, %v, rest %q", msg, err, rest)
	}
}

// TestS06_EndSplitOnTheWire is S-06 with the whole server, each octet of the end
// in a segment of its own.
func TestS06_EndSplitOnTheWire(t *testing.T) {
	r := newRig(t)
	c := r.ready(MX)
	c.run(opening + "> DATA\n< 354\n")
	for _, o := range "x\r\n.\r\nQUIT\r\n" {
		c.send(string(o))
	}
	c.run("< 250\n< 221\n<EOF")
	if got := r.mail.messages(); len(got) != 1 || got[0].Body != "x\r\n" {
		t.Errorf("got %+v", got)
	}
}

func TestFramingFaults(t *testing.T) {
	for _, x := range []struct {
		wire string
		err  error
		rest string
	}{
		{".\r\nR", nil, "R"},
		{"\r\n.\r\nR", nil, "R"},
		{"a\n.\r\n\r\n.\r\nR", errBareNewline, "R"},
		{"a\r\n.\n\r\n.\r\nR", errBareNewline, "R"},
		{".\r\r\n.\r\n\r\n.\r\nR", errBareNewline, "R"}, // the first line is ".\r", and a bare CR ends no line
		{"\r\r\n.\r\n.\r\nR", errBareNewline, "R"},
		{"\x00\r\n.\r\nR", errNUL, "R"},
		{"half", io.ErrUnexpectedEOF, ""},
		{"half\r\n.", io.ErrUnexpectedEOF, ""},
		{"half\r\n.\r", io.ErrUnexpectedEOF, ""},
	} {
		for _, split := range []bool{false, true} {
			var r io.Reader = strings.NewReader(x.wire)
			if split {
				r = iotest.OneByteReader(r)
			}
			_, rest, err := decoded(r)
			if !errors.Is(err, x.err) || x.err == nil && err != nil {
				t.Errorf("%q: error %v, want %v", x.wire, err, x.err)
			}
			if x.err != io.ErrUnexpectedEOF && rest != x.rest {
				t.Errorf("%q: rest %q, want %q", x.wire, rest, x.rest)
			}
		}
	}
}

func TestChunkFramingFaults(t *testing.T) {
	for _, x := range []struct {
		chunks []string
		want   string
		err    error
	}{
		{[]string{"ab\r", "\ncd\r\n"}, "ab\r\ncd\r\n", nil},
		{[]string{"", "x", ""}, "x", nil},
		{[]string{"no newline"}, "no newline", nil},
		{[]string{"ab\r", "cd"}, "", errBareNewline},
		{[]string{"ab\r"}, "", errBareNewline},
		{[]string{"ab", "\n"}, "", errBareNewline},
		{[]string{"\r\n.\r\n"}, "\r\n.\r\n", nil},
	} {
		in := bufio.NewReader(iotest.OneByteReader(strings.NewReader(strings.Join(x.chunks, ""))))
		i := 0
		next := func() (chunk, error) {
			c := chunk{size: int64(len(x.chunks[i])), last: i == len(x.chunks)-1}
			i++
			return c, nil
		}
		first, _ := next()
		b := &body{frame: &chunkFraming{in: in, left: first.size, last: first.last, more: next}, limit: 100, drain: 200}
		msg, err := io.ReadAll(b)
		if x.err != nil {
			if !errors.Is(err, x.err) {
				t.Errorf("%q: error %v, want %v", x.chunks, err, x.err)
			}
			continue
		}
		if err != nil || string(msg) != x.want {
			t.Errorf("%q: got %q, %v", x.chunks, msg, err)
		}
	}
}

func TestS07_Dots(t *testing.T) {
	r := newRig(t)
	c := r.ready(MX)
	c.run(opening + "> DATA\n< 354\n")
	c.send("..\r\n..foo\r\n.\x2e.\r\na.\r\n. x\r\n.\r\n")
	c.expect("250")
	want := ".\r\n.foo\r\n..\r\na.\r\n x\r\n"
	if diff := cmp.Diff(want, r.mail.messages()[0].Body); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestS08_S13_OddMessages(t *testing.T) {
	play(t, []row{
		{"S-08/empty", MX, opening + "> DATA\n< 354\n> .\n< 250\n> QUIT\n< 221\n<EOF", 1},
		{"S-08/empty over LMTP", LMTP, opening + "> DATA\n< 354\n> .\n< 250\n> QUIT\n< 221\n<EOF", 1},
		{"S-08/empty chunk", MX, opening + "> BDAT 0 LAST\n< 250\n> QUIT\n< 221\n<EOF", 1},
		{"S-08/only an empty line", MX, opening + "> DATA\n< 354\n= \"\\r\\n.\\r\\n\"\n< 250", 1},
	})
	r := newRig(t, func(c *Config) { c.MaxMessageBytes = 2_000_000 })
	c := r.ready(MX)
	c.run(opening + "> DATA\n< 354\n")
	long := strings.Repeat("x.", 500_000)
	c.send(long + "\r\n.\r\n")
	c.expect("250")
	if got := r.mail.messages()[0].Body; got != long+"\r\n" {
		t.Errorf("S-13: line of %d octets became %d octets", len(long)+2, len(got))
	}
}

func TestS17_TooBig(t *testing.T) {
	small := func(c *Config) { c.MaxMessageBytes = 1000 }
	line := strings.Repeat("x", 98) + "\r\n"
	play(t, []row{
		{"S-17/at the limit", MX, opening + "> DATA\n< 354\n= " + quote(strings.Repeat(line, 10)+".\r\n") + "\n< 250", 1},
		{"S-17/over", MX, opening + "> DATA\n< 354\n= " + quote(strings.Repeat(line, 10)+"x\r\n.\r\n") +
			"\n< 552 5.3.4\n> MAIL FROM:<>\n< 250", 0},
		{"S-17/over, LMTP", LMTP, opening + "> DATA\n< 354\n= " + quote(strings.Repeat(line, 14)+".\r\n") +
			"\n< 552 5.3.4\n> MAIL FROM:<>\n< 250", 0},
		{"S-17/far over", MX, opening + "> DATA\n< 354\n= " + quote(strings.Repeat(line, 20)) + "\n< 552 5.3.4\n<EOF", 0},
		{"S-17/over in chunks", MX, opening + "> BDAT 999\n= " + quote(strings.Repeat("x", 999)) +
			"\n< 250\n> BDAT 2 LAST\n= \"xx\"\n< 552 5.3.4\n> MAIL FROM:<>\n< 250", 0},
		{"S-17/far over in chunks", MX, opening + "> BDAT 999\n= " + quote(strings.Repeat("x", 999)) +
			"\n< 250\n> BDAT 999\n= " + quote(strings.Repeat("x", 999)) + "\n< 552 5.3.4\n<EOF", 0},
	}, small)
}

func quote(s string) string { return fmt.Sprintf("%q", s) }

func TestS50_CutConnection(t *testing.T) {
	for _, kind := range []Kind{MX, LMTP} {
		r := newRig(t)
		c := r.ready(kind)
		c.run(opening + "> DATA\n< 354\n")
		c.send("Subject: half\r\n\r\nhalf a message\r\n")
		c.Close()
		waitFor(t, "end of session", func() bool { return strings.Contains(r.log.String(), "msg=session") })
		if got := r.mail.messages(); len(got) != 0 {
			t.Errorf("S-50/%s: half a message was taken: %+v", kind, got)
		}
	}
}

// TestS50_CutBeforeReply cuts the connection between the final dot and the
// reply: what was stored stays unconfirmed, so that delivery knows the resend.
func TestS50_CutBeforeReply(t *testing.T) {
	r := newRig(t)
	r.mail.arrived, r.mail.proceed = make(chan struct{}), make(chan struct{})
	c := r.ready(MX)
	c.run(opening + "> DATA\n< 354\n> .\n")
	<-r.mail.arrived
	c.Close()
	close(r.mail.proceed)
	waitFor(t, "end of session", func() bool { return strings.Contains(r.log.String(), "msg=session") })
	if got := r.mail.messages(); len(got) != 1 || got[0].Confirms != 0 {
		t.Errorf("got %+v, want one message, unconfirmed", got)
	}
}

func TestConfirm(t *testing.T) {
	for _, x := range []struct {
		name, script string
		outcome      error
		want, lost   int
	}{
		{"next command", "> NOOP\n< 250", nil, 1, 0},
		{"QUIT", "> QUIT\n< 221", nil, 1, 0},
		{"nothing more", "", nil, 0, 1},
		{"temporary failure for another", "> NOOP\n< 250", covey.Errorf(covey.Unknown, "maybe"), 0, 0},
	} {
		t.Run(x.name, func(t *testing.T) {
			r := newRig(t)
			r.mail.outcome["alice"] = x.outcome
			c := r.ready(LMTP)
			c.run(opening + "> RCPT TO:<alice@example.org>\n< 250\n> DATA\n< 354\n> .\n< 250\n< 2|4\n" + x.script)
			c.Close()
			waitFor(t, "end of session", func() bool { return strings.Contains(r.log.String(), "msg=session") })
			if got := r.mail.messages()[0]; got.Confirms != x.want || got.Losses != x.lost {
				t.Errorf("%d times confirmed, %d times lost; want %d, %d", got.Confirms, got.Losses, x.want, x.lost)
			}
		})
	}
}

// One reply speaks for all recipients but in LMTP: there nothing is left to a queue.
func TestTogetherOrApart(t *testing.T) {
	for kind, apart := range map[Kind]int{MX: 0, LMTP: 1, Submission: 0, Submissions: 0} {
		r := newRig(t)
		ready := r.ready
		if kind.submits() {
			ready = r.loggedIn
		}
		c := ready(kind)
		c.run("> MAIL FROM:<alice@example.org>\n< 250\n> RCPT TO:<bob@example.org>\n< 250\n> DATA\n< 354\n")
		c.send("From: alice@example.org\r\nSubject: x\r\n\r\n.\r\n")
		c.expect("250")
		if got := len(r.mail.messages()); got != 1 || r.mail.apart != apart {
			t.Errorf("%v: %d messages, of which %d apart, want %d", kind, got, r.mail.apart, apart)
		}
	}
}
