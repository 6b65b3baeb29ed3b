package message

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var rewrite = flag.Bool("rewrite", false, "write golden files anew")

// A sample is a message with a name.
type sample struct {
	name string
	data []byte
}

// corpus returns the messages of testdata/corpus.
func corpus(t testing.TB) []sample {
	t.Helper()
	files, err := filepath.Glob("testdata/corpus/*.eml")
	if err != nil || len(files) < 15 {
		t.Fatalf("corpus: %d files, %v", len(files), err)
	}
	var out []sample
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, sample{strings.TrimSuffix(filepath.Base(f), ".eml"), data})
	}
	return out
}

func mustParse(t testing.TB, msg string) *Summary {
	t.Helper()
	s, err := Parse(strings.NewReader(msg))
	if err != nil {
		t.Fatalf("Parse: %v", err)
	}
	return s
}

// golden compares got with a file of testdata.
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if *rewrite {
		if err := os.WriteFile(file, got, 0o666); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s (-want +got):\n%s", name, diff)
	}
}

// TestCorpus compares what is said about each message, ENVELOPE and
// BODYSTRUCTURE as FETCH has them, with the golden file beside it.
func TestCorpus(t *testing.T) {
	for _, m := range corpus(t) {
		t.Run(m.name, func(t *testing.T) {
			s := mustParse(t, string(m.data))
			checkTree(t, s)
			checkCode(t, s)
			checkSections(t, s, m.data)
			var b bytes.Buffer
			from, clear := s.From()
			day, _ := s.SentOn()
			fmt.Fprintf(&b, "size %d header %d lines %d longest %d flags %s\n", s.Size, s.HeaderSize(), s.Lines, s.LongestLine, flagNames(s.Flags))
			fmt.Fprintf(&b, "received %d from %v clear %v sent %s\n", s.Received, from, clear, day.Format("2006-01-02"))
			fmt.Fprintf(&b, "preview %q\nencoded in %d octets\n", s.Preview, len(s.Encode()))
			writeParts(&b, s.Root, nil)
			checkIMAP(t, s)
			wire := strings.NewReplacer(" BODYSTRUCTURE ", "\nBODYSTRUCTURE ", " BODY ", "\nBODY ", "\r\n", "\n").Replace(fetchWire(s))
			b.WriteString(wire + "\n")
			golden(t, "corpus/"+m.name+".golden", b.Bytes())
		})
	}
}

func flagNames(f Flags) string {
	names := []string{"NUL", "BareCR", "BareLF", "8bitHeader", "8bitBody", "BadHeader", "UnclearFrom", "Truncated"}
	var out []string
	for i, n := range names {
		if f&(1<<i) != 0 {
			out = append(out, n)
		}
	}
	return "[" + strings.Join(out, " ") + "]"
}

func writeParts(b *bytes.Buffer, p *Part, path []int) {
	fmt.Fprintf(b, "part %v %s header %d+%d body %d+%d lines %d\n", path, p.Media, p.HeaderOffset, p.HeaderSize, p.BodyOffset(), p.BodySize, p.Lines)
	if p.Message != nil {
		writeParts(b, p.Message.Root, path)
	}
	for i, c := range p.Parts {
		writeParts(b, c, append(path[:len(path):len(path)], i+1))
	}
}
