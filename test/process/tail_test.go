package process

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
)

// What is kept is the end of all that was written, up to its bound.
func TestTail(t *testing.T) {
	const most = tailPiece * tailPieces
	var kept tail
	var all bytes.Buffer
	for i := 0; all.Len() < 2*most; i++ {
		line := fmt.Sprintf("line %d%s\n", i, strings.Repeat(".", i%7000))
		all.WriteString(line)
		if n, err := kept.Write([]byte(line)); n != len(line) || err != nil {
			t.Fatalf("write: %d, %v", n, err)
		}
		if i%5000 == 0 {
			checkTail(t, kept.String(), all.String())
		}
	}
	if _, err := kept.Write(all.Bytes()); err != nil {
		t.Fatal(err)
	}
	all.Write(all.Bytes())
	checkTail(t, kept.String(), all.String())
}

func checkTail(t *testing.T, kept, all string) {
	t.Helper()
	const most = tailPiece * tailPieces
	if !strings.HasSuffix(all, kept) || len(kept) > most || len(kept) < min(len(all), most-tailPiece) {
		t.Fatalf("of %d octets %d are kept; the end of all: %v", len(all), len(kept), strings.HasSuffix(all, kept))
	}
}
