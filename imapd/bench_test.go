package imapd

import (
	"bufio"
	"bytes"
	"strings"
	"testing"
	"time"
)

// BenchmarkFetch is what a mail program asks for most, over loopback, in a
// session that has selected a mailbox of 200 messages of 8 KiB: the newest twenty
// envelopes, and one body.
func BenchmarkFetch(b *testing.B) {
	r := start(b, nil)
	message := testMessage + strings.Repeat(strings.Repeat("x", 78)+"\r\n", 100)
	for range 200 {
		r.deliver(b, "alice", "INBOX", message)
	}
	for _, bench := range []struct {
		name, items string
		bytes       int
	}{
		{"20Envelopes", "181:200 (UID FLAGS INTERNALDATE RFC822.SIZE ENVELOPE)", 0},
		{"Body", "200 (UID BODY.PEEK[])", len(message)},
	} {
		b.Run(bench.name, func(b *testing.B) {
			c := r.selected(b, "alice")
			_ = c.conn.SetDeadline(time.Time{})
			command := []byte("t FETCH " + bench.items + "\r\n")
			b.SetBytes(int64(bench.bytes))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := c.conn.Write(command); err != nil {
					b.Fatal(err)
				}
				skipTo(b, c.br, []byte("t OK "))
			}
		})
	}
}

// skipTo reads lines up to the one that starts with tagged, without allocating.
func skipTo(b *testing.B, r *bufio.Reader, tagged []byte) {
	for {
		line, err := r.ReadSlice('\n')
		if err != nil {
			b.Fatal(err)
		}
		if bytes.HasPrefix(line, tagged) {
			return
		}
		if bytes.HasPrefix(line, []byte("t ")) {
			b.Fatalf("got %q", line)
		}
	}
}
