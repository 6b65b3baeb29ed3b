package process

import (
	"bytes"
	"slices"
	"sync"
)

const tailPiece = 64 << 10 // octets

// A tail keeps the end of what is written to it, in pieces: what measures runs in the
// same process, and one buffer that grows to tens of MiB would hold it up for as long
// as its octets are cleared and copied. Its methods may be called by any goroutine.
type tail struct {
	most int // pieces, one or more

	mu     sync.Mutex
	pieces [][]byte // each but the last is full
}

// Write implements io.Writer.
func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for rest := p; len(rest) > 0; {
		if n := len(t.pieces); n == 0 || len(t.pieces[n-1]) == tailPiece {
			t.grow()
		}
		last := &t.pieces[len(t.pieces)-1]
		n := min(tailPiece-len(*last), len(rest))
		*last, rest = append(*last, rest[:n]...), rest[n:]
	}
	return len(p), nil
}

// grow adds an empty piece, which is the oldest where there are enough.
func (t *tail) grow() {
	var piece []byte
	if len(t.pieces) == t.most {
		piece = t.pieces[0][:0]
		t.pieces = slices.Delete(t.pieces, 0, 1)
	} else {
		piece = make([]byte, 0, tailPiece)
	}
	t.pieces = append(t.pieces, piece)
}

// String returns what is kept.
func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(bytes.Join(t.pieces, nil))
}
