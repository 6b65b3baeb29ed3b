package imapd

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// framed is what a scanner makes of a stream.
type framed struct {
	Text    string // of the command
	Refused bool
	Message int64 // size + 1 of the message that followed it
}

// frames cuts input as a session does, and stops where the place is lost.
func frames(input []byte, max limits) (out []framed, asked int) {
	s := &scanner{
		br: bufio.NewReaderSize(bytes.NewReader(input), 16), max: max,
		more: func() error { asked++; return nil }, message: isMessage,
	}
	for {
		f, err := s.next()
		if err != nil {
			return out, asked
		}
		got := framed{Text: string(f.text), Refused: f.err != nil}
		if f.message != nil {
			got.Message = f.message.size + 1
			if _, err := io.CopyN(io.Discard, s.br, f.message.size); err != nil {
				return append(out, got), asked
			}
			tail, err := s.rest()
			got.Refused = err != nil || tail.err != nil || len(tail.text) > 0
			f.fatal = tail.fatal
		}
		out = append(out, got)
		if f.fatal {
			return out, asked
		}
	}
}

func TestFrames(t *testing.T) {
	small := limits{line: 100, literal: 10, literals: 3, octets: 20, depth: 3}
	tests := []struct {
		name, in string
		want     []framed
		asked    int
	}{
		{"lines", "a NOOP\r\nb NOOP\n", []framed{{Text: "a NOOP"}, {Text: "b NOOP"}}, 0},
		{"literal", "a LOGIN {3}\r\nb\"c {2+}\r\n\r\n\r\nd X\r\n", []framed{{Text: `a LOGIN "b\"c" "` + "\r\n\""}, {Text: "d X"}}, 1},
		{"literal of commands", "a X {9+}\r\nb LOGOUT\n\r\nc Y\r\n", []framed{{Text: "a X \"b LOGOUT\n\""}, {Text: "c Y"}}, 0},
		{"too big, asked first", "a X {11}\r\nb Y\r\n", []framed{{Text: "a X ", Refused: true}, {Text: "b Y"}}, 0},
		{"too big, not asked", "a X {11+}\r\nb Y\r\n", []framed{{Text: "a X ", Refused: true}}, 0},
		{"too many", "a {1+}\r\nx{1+}\r\nx{1+}\r\nx{1+}\r\nx\r\nb Y\r\n", []framed{{Text: `a "x""x""x"`, Refused: true}}, 0},
		{"too much together", "a {9+}\r\n012345678 {9+}\r\n012345678 {9}\r\nb Y\r\n", []framed{{Text: `a "012345678" "012345678" `, Refused: true}, {Text: "b Y"}}, 0},
		{"bad before a literal that comes anyway", "a \x80 {3+}\r\nb Y\r\nc Z\r\n", []framed{{Text: "a \x80 \"b Y\"", Refused: true}, {Text: "c Z"}}, 0},
		{"bad before a literal that is asked for", "a \x80 {3}\r\nb Y\r\n", []framed{{Text: "a \x80 ", Refused: true}, {Text: "b Y"}}, 0},
		{"open quote", "a \"x\r\nb Y\r\n", []framed{{Text: "a \"x", Refused: true}, {Text: "b Y"}}, 0},
		{"open quote and what may be a literal", "a \"x {3+}\r\nb Y\r\n", []framed{{Text: "a \"x {3+}", Refused: true}}, 0},
		{"quoted brace", "a \"{3}\"\r\nb Y\r\n", []framed{{Text: `a "{3}"`}, {Text: "b Y"}}, 0},
		{"escaped quote", "a \"\\\"{3}\"\r\nb Y\r\n", []framed{{Text: `a "\"{3}"`}, {Text: "b Y"}}, 0},
		{"depth", "a (((\r\nb ((((\r\n", []framed{{Text: "a ((("}, {Text: "b ((((", Refused: true}}, 0},
		{"long line", "a " + repeat("x", 101) + "\r\nb Y\r\n", []framed{{Text: "a " + repeat("x", 94), Refused: true}}, 0},
		{"nul", "a \x00\r\nb Y\r\n", []framed{{Text: "a \x00", Refused: true}, {Text: "b Y"}}, 0},
		{"bare CR", "a x\ry\r\nb Y\r\n", []framed{{Text: "a x\ry", Refused: true}, {Text: "b Y"}}, 0},
		{"message", "a APPEND x {3}\r\nb Y\r\nc Z\r\n", []framed{{Text: "a APPEND x ", Message: 4}, {Text: "c Z"}}, 0},
		{"message after a literal name", "a APPEND {1+}\r\nx {3+}\r\nb Y\r\nc Z\r\n", []framed{{Text: `a APPEND "x" `, Message: 4}, {Text: "c Z"}}, 0},
		{"binary message", "a APPEND x ~{3+}\r\nb\x00Y\r\nc Z\r\n", []framed{{Text: "a APPEND x ", Message: 4}, {Text: "c Z"}}, 0},
		{"binary out of place", "a X ~{3+}\r\nb\x00Y\r\nc Z\r\n", []framed{{Text: "a X \"b\x00Y\"", Refused: true}, {Text: "c Z"}}, 0},
		{"second message", "a APPEND x {1+}\r\nx {2+}\r\nyz\r\nc Z\r\n", []framed{{Text: "a APPEND x ", Refused: true, Message: 2}, {Text: "c Z"}}, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, asked := frames([]byte(tt.in), small)
			if tt.name == "long line" { // how much of it is kept does not matter
				got[0].Text = tt.want[0].Text
			}
			if d := cmp.Diff(tt.want, got); d != "" {
				t.Errorf("frames (-want +got):\n%s", d)
			}
			if asked != tt.asked {
				t.Errorf("asked for %d literals, want %d", asked, tt.asked)
			}
		})
	}
}

func TestI06_MalformedLiterals(t *testing.T) {
	r := start(t, nil)
	for _, spec := range []string{"{18446744073709551616}", "{-1}", "{1", "{1}}", "{01}", "{}", "{ 1}", "{1 }", "{+}x"} {
		t.Run("before login/"+spec, func(t *testing.T) {
			c := r.dial(t)
			c.want("BAD", "LOGIN alice %s", spec)
			c.ok("LOGIN alice secret")
		})
		t.Run("after login/"+spec, func(t *testing.T) {
			c := r.login(t, "alice")
			c.want("BAD", "SELECT %s", spec)
			c.ok("NOOP")
		})
	}
	// One that would have been sent along: nobody knows how long it is.
	for _, spec := range []string{"{18446744073709551616+}", "{-1+}", "{01+}", "{+}"} {
		t.Run("unasked/"+spec, func(t *testing.T) {
			c := r.login(t, "alice")
			c.want("BAD", "SELECT %s\r\nx DELETE Archive", spec)
			c.bye("* BYE")
		})
	}
}

// reference is framing by the book, one octet at a time, on the whole stream at
// once. It knows nothing of limits.
func reference(in []byte) (out []framed, lost bool) {
	for len(in) > 0 {
		f, rest, ok := referenceCommand(in)
		if !ok {
			return out, true
		}
		out, in = append(out, f), rest
	}
	return out, false
}

func referenceCommand(in []byte) (f framed, rest []byte, ok bool) {
	var text strings.Builder
	quoted := false
	for i := 0; i < len(in); {
		c := in[i]
		switch {
		case c == '\n' && quoted:
			return f, nil, false // the scanner decides; not compared
		case c == '\n':
			f.Text = strings.TrimSuffix(text.String(), "\r")
			return f, in[i+1:], true
		case c == '{' && !quoted:
			n, skip, isLit := referenceLiteral(in[i:])
			if !isLit {
				break
			}
			if i+skip+n > len(in) {
				return f, nil, false
			}
			body := in[i+skip : i+skip+n]
			i += skip + n
			if isMessage([]byte(text.String())) {
				f.Text, f.Message = text.String(), int64(n)+1
				end := bytes.IndexByte(in[i:], '\n')
				if tail := strings.TrimSuffix(string(in[i:max(i, i+end)]), "\r"); end < 0 || tail != "" {
					return f, nil, false
				}
				return f, in[i+end+1:], true
			}
			text.Write(appendQuoted(nil, body))
			continue
		case quoted && c == '\\' && i+1 < len(in) && in[i+1] != '\n':
			text.WriteByte(c)
			i++
			c = in[i]
		case c == '"':
			quoted = !quoted
		}
		text.WriteByte(c)
		i++
	}
	return f, nil, false
}

// referenceLiteral reads {n} or {n+} with the end of its line.
func referenceLiteral(in []byte) (n, skip int, ok bool) {
	end := bytes.IndexByte(in, '\n')
	if end < 0 {
		return 0, 0, false
	}
	spec := strings.TrimSuffix(string(in[:end]), "\r")
	lit := parseLiteral([]byte(strings.TrimSuffix(strings.TrimPrefix(spec, "{"), "}")))
	if lit == nil || !strings.HasSuffix(spec, "}") {
		return 0, 0, false
	}
	return int(min(lit.size, 1<<30)), end + 1, true
}

// FuzzGuard compares the guard's framing with one that is written differently,
// and has it survive what is not framed at all.
func FuzzGuard(f *testing.F) {
	for _, s := range []string{
		"a NOOP\r\n", "a LOGIN {5}\r\nalice {6+}\r\nsecret\r\nb NOOP\r\n", "a APPEND x (\\Seen) {3+}\r\nabc\r\nb NOOP\r\n",
		"a APPEND {1}\r\nx {3}\r\nabc\r\nb X\r\n", "a \"\\\"{3}\r\n", "a {3+}\r\n\"\\x {2}\r\n\r\n\r\n", "a {01+}\r\nb\r\n",
		"a ~{3+}\r\n\x00\x00\x00\r\n", "a {4097+}\r\nb NOOP\r\n", "a APPEND x {1+}\r\na {2+}\r\nbc\r\n", "DONE\r\n", "a x{1}y\r\n",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		got, _ := frames(in, sessionLimits())
		want, _ := reference(in)
		for i := range min(len(got), len(want)) {
			g, w := got[i], want[i]
			if g.Refused {
				return // after a refusal the two may go on differently
			}
			if g != w {
				t.Fatalf("frame %d of %q: got %q, want %q", i, in, fmt.Sprint(g), fmt.Sprint(w))
			}
		}
		for _, g := range got {
			if !g.Refused {
				cmd, err := parseCommand([]byte(g.Text))
				if err == nil {
					checkRewritten(t, cmd)
				}
			}
		}
	})
}

// checkRewritten makes sure that go-imap gets one line, short enough and with
// nothing in it that it could take for an end of line or a literal.
func checkRewritten(t *testing.T, cmd command) {
	t.Helper()
	r, err := rewrite(cmd)
	if err != nil {
		return
	}
	if len(r.out) > maxForward {
		t.Fatalf("%q: %d octets", r.out[:100], len(r.out))
	}
	if bytes.ContainsAny(r.out, "\r\n\x00") {
		t.Fatalf("line with an end in it: %q", r.out)
	}
	var again cut
	again.max = sessionLimits()
	again.max.depth = 1 << 20
	if quoted := bytes.HasSuffix(r.out, []byte("}")); quoted {
		t.Fatalf("line ends like a literal: %q", r.out)
	}
	if again.quotes(asciiOnly(r.out)) || again.err != nil {
		t.Fatalf("quotes do not match: %q", r.out)
	}
}

// asciiOnly replaces UTF-8, which go-imap reads in mailbox names.
func asciiOnly(b []byte) []byte {
	return bytes.Map(func(r rune) rune {
		if r > 0x7f {
			return 'x'
		}
		return r
	}, b)
}

func TestScannerReportsHowTheStreamEnds(t *testing.T) {
	for in, want := range map[string]error{
		"": io.EOF, "a NO": io.ErrUnexpectedEOF, "a X {5+}\r\nab": io.ErrUnexpectedEOF, "a X {5+}\r\nabcde": io.ErrUnexpectedEOF,
	} {
		s := &scanner{br: bufio.NewReader(strings.NewReader(in)), max: sessionLimits()}
		if _, err := s.next(); !errors.Is(err, want) {
			t.Errorf("%q: got %v, want %v", in, err, want)
		}
	}
}
