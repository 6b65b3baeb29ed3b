package bench

import (
	"bytes"
	"io"
	"slices"
	"testing"

	"github.com/covey-mail/covey/internal/message"
)

func testComposer(size int, run string) *composer {
	cfg := Config{Size: size, From: "bench@example.net", Seed: 1}
	return newComposer(cfg, newTemplate(1), run, 0)
}

func TestComposedMessages(t *testing.T) {
	for _, size := range []int{1, 300, 400, 1000, 8 << 10, 1 << 20} {
		c := testComposer(size, "run")
		var first []byte
		for n := range int64(3) {
			var b bytes.Buffer
			got, err := c.write(&b, n, "user@example.org")
			if err != nil || got != b.Len() {
				t.Fatalf("write of %d = %d, %v; wrote %d octets", size, got, err, b.Len())
			}
			if over := b.Len() - size; over != 0 && over != 1 && b.Len() != len(c.head) {
				t.Errorf("a message of %d octets has %d", size, b.Len())
			}
			checkLines(t, b.Bytes())
			if found, ok := findToken(b.String(), "run"); !ok || found != n {
				t.Errorf("token of message %d read as %d, %v", n, found, ok)
			}
			if body := b.Bytes()[len(c.head):]; first == nil {
				first = bytes.Clone(body)
			} else if len(body) > lineSize && bytes.Equal(body, first) {
				t.Errorf("message %d has the body of the first", n)
			}
		}
	}
}

// checkLines wants CRLF everywhere, short lines, and none that begins with a dot.
func checkLines(t *testing.T, text []byte) {
	t.Helper()
	if !bytes.HasSuffix(text, []byte("\r\n")) {
		t.Fatal("the message does not end with a line end")
	}
	for line := range bytes.SplitSeq(bytes.TrimSuffix(text, []byte("\r\n")), []byte("\r\n")) {
		if len(line) > 100 || bytes.HasPrefix(line, []byte(".")) || bytes.ContainsAny(line, "\r\n") {
			t.Fatalf("bad line %q", line)
		}
	}
}

// Blocks of one message must not come back in another, or a store that keeps
// equal blocks once would look fast.
func TestComposedMessagesShareNoBlock(t *testing.T) {
	c := testComposer(64<<10, "run")
	seen := make(map[string]bool)
	for n := range int64(20) {
		var b bytes.Buffer
		if _, err := c.write(&b, n, "user@example.org"); err != nil {
			t.Fatal(err)
		}
		for block := range slices.Chunk(b.Bytes(), 4096) {
			if len(block) == 4096 && seen[string(block)] {
				t.Fatal("a block of 4 KiB came twice")
			}
			seen[string(block)] = true
		}
	}
}

func TestComposedMessageParses(t *testing.T) {
	var b bytes.Buffer
	if _, err := testComposer(2000, "run").write(&b, 7, "user@example.org"); err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(b.Bytes(), []byte("\r\nSubject: "+tokenPrefix+"run-7.\r\n")) {
		t.Errorf("no subject with the token in %q", b.Bytes()[:300])
	}
	if _, err := message.Parse(&b); err != nil {
		t.Errorf("our own parser refuses it: %v", err)
	}
}

func TestComposeTokens(t *testing.T) {
	for text, want := range map[string]int64{
		"Subject: covey-bench-run-12.\r\n":              12,
		"x covey-bench-run-0. y":                        0,
		"covey-bench-run-12":                            -1,
		"covey-bench-other-12.":                         -1,
		"covey-bench-run--1.":                           -1,
		"covey-bench-run-x.":                            -1,
		"covey-bench-run-" + "99999999999999999999999.": -1,
	} {
		got, ok := findToken(text, "run")
		if !ok {
			got = -1
		}
		if got != want {
			t.Errorf("findToken(%q) = %d, want %d", text, got, want)
		}
	}
	if a, b := newRunID(), newRunID(); a == b || len(a) != 16 {
		t.Errorf("run ids %q and %q", a, b)
	}
}

func FuzzFindToken(f *testing.F) {
	f.Add("Subject: covey-bench-run-12.\r\n")
	f.Add("covey-bench-run-.")
	f.Fuzz(func(t *testing.T, text string) {
		if n, ok := findToken(text, "run"); ok && n < 0 {
			t.Errorf("number %d", n)
		}
	})
}

func BenchmarkCompose(b *testing.B) {
	c := testComposer(8<<10, "run")
	b.ReportAllocs()
	b.SetBytes(8 << 10)
	for i := range b.N {
		if _, err := c.write(io.Discard, int64(i), "user00001@example.org"); err != nil {
			b.Fatal(err)
		}
	}
}
