package process

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
)

// What is kept is the end of all that was written, up to its bound.
func TestTail(t *testing.T) {
	kept := tail{most: 8}
	most := tailPiece * kept.most
	var all bytes.Buffer
	for i := 0; all.Len() < 2*most; i++ {
		line := fmt.Sprintf("line %d%s\n", i, strings.Repeat(".", i%700))
		all.WriteString(line)
		if n, err := kept.Write([]byte(line)); n != len(line) || err != nil {
			t.Fatalf("write: %d, %v", n, err)
		}
		if i%100 == 0 {
			checkTail(t, kept.String(), all.String(), most)
		}
	}
	if _, err := kept.Write(all.Bytes()); err != nil {
		t.Fatal(err)
	}
	all.Write(all.Bytes())
	checkTail(t, kept.String(), all.String(), most)
}

func checkTail(t *testing.T, kept, all string, most int) {
	t.Helper()
	if !strings.HasSuffix(all, kept) || len(kept) > most || len(kept) < min(len(all), most-tailPiece) {
		t.Fatalf("of %d octets %d are kept; the end of all: %v", len(all), len(kept), strings.HasSuffix(all, kept))
	}
}
