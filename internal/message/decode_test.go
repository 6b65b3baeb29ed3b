package message

import (
	"bytes"
	"encoding/hex"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/covey-mail/covey"
)

// TestGoldenSample keeps version 1 readable: the sample was written by the first
// Encode and never changes.
func TestGoldenSample(t *testing.T) {
	s, _ := load(t, "attachment")
	dump := hex.Dump(s.Encode())
	golden(t, "summary-v1.hex", []byte(dump))
	file, err := os.ReadFile("testdata/summary-v1.hex")
	if err != nil {
		t.Fatal(err)
	}
	var raw []byte
	for line := range strings.Lines(string(file)) {
		if len(line) > 58 {
			b, err := hex.DecodeString(strings.ReplaceAll(line[10:58], " ", ""))
			if err != nil {
				t.Fatal(err)
			}
			raw = append(raw, b...)
		}
	}
	got, err := Decode(raw)
	if err != nil {
		t.Fatalf("Decode: %v", err)
	}
	diffSummaries(t, s, got)
}

// TestDecodeDamaged: a summary that was cut or changed is Corrupt, or one that
// keeps every invariant. It never panics.
func TestDecodeDamaged(t *testing.T) {
	for _, m := range corpus(t) {
		enc := mustParse(t, string(m.data)).Encode()
		for i := range enc {
			if _, err := Decode(enc[:i]); !errors.Is(err, covey.Corrupt) {
				t.Fatalf("%s cut at %d: %v", m.name, i, err)
			}
			for _, c := range []byte{0, 1, 0x7f, 0xff} {
				b := bytes.Clone(enc)
				b[i] = c
				s, err := Decode(b)
				if err != nil {
					if !errors.Is(err, covey.Corrupt) {
						t.Fatalf("%s octet %d: %v", m.name, i, err)
					}
					continue
				}
				checkTree(t, s)
				checkSyntax(t, s)
			}
		}
		if _, err := Decode(append(enc, 0)); !errors.Is(err, covey.Corrupt) {
			t.Errorf("%s with an octet more: %v", m.name, err)
		}
	}
}

// TestDecodeBounds_M03: a summary that lies about counts and offsets cannot make
// Decode allocate beyond its own size.
func TestDecodeBounds_M03(t *testing.T) {
	leaf := []byte{0, 1, 0, 0, 0, 0, 0}
	head := []byte{version, 0, 0, 0, 0, 0, 0, 0, 0, 0}
	deep := bytes.Clone(head)
	for range MaxDepth {
		deep = append(deep, 0, 3, 0, 0, 0, 0, 0, 1) // multipart/alternative with one part
	}
	wide := append(bytes.Clone(head), 0, 3, 0, 0, 0, 0, 0, 0xe0, 0xa7, 0x12) // with 300,000 parts
	wide = append(wide, bytes.Repeat(leaf, 300_000)...)
	tests := []struct {
		name string
		b    []byte
	}{
		{"deep", append(deep, leaf...)},
		{"wide", wide},
		{"multipart without parts", append(bytes.Clone(head), 0, 3, 0, 0, 0, 0, 0, 0)},
		{"part beyond the end", append(bytes.Clone(head), 0, 1, 0, 5, 0, 0, 0)},
		{"body beyond the end", append(bytes.Clone(head), 0, 1, 0, 0, 0, 1, 0)},
		{"root too short", append([]byte{version, 9, 0, 0, 0, 0, 0, 0, 0, 0}, leaf...)},
		{"more lines than octets", append(bytes.Clone(head), 0, 1, 0, 0, 0, 0, 1)},
		{"size beyond int64", append([]byte{version, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1}, head...)},
		{"version", append([]byte{version + 1}, head[1:]...)},
	}
	for _, tt := range tests {
		allocs := testing.AllocsPerRun(1, func() {
			if _, err := Decode(tt.b); !errors.Is(err, covey.Corrupt) {
				t.Errorf("%s: %v, want kind %v", tt.name, err, covey.Corrupt)
			}
		})
		if allocs > MaxParts+2*MaxDepth {
			t.Errorf("%s: %v allocations", tt.name, allocs)
		}
	}
	if _, err := Decode(append(bytes.Clone(head), leaf...)); err != nil {
		t.Errorf("a summary of nothing: %v", err)
	}
}

func TestEncodeIsDeterministic(t *testing.T) {
	s, msg := load(t, "rfc822")
	if diff := cmp.Diff(s.Encode(), mustParse(t, msg).Encode()); diff != "" {
		t.Errorf("two parses encode differently:\n%s", diff)
	}
}
