package node

import (
	"bufio"
	"fmt"
	"io"
	"log/slog"
	"runtime"
	"strings"
	"testing"
)

// What a delivered message of 8 KiB may allocate over the whole path, from the
// SMTP command to the applied entry, in a session of its own: a fifth above what
// was measured. Of the bytes, the Raft core's copy is most.
const (
	mostAllocs     = 170
	mostAllocBytes = 22_700
)

// TestAllocationsPerMessage counts what the process allocates while one session
// delivers messages one after the other, so that nothing shares a batch.
func TestAllocationsPerMessage(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates too")
	}
	cfg := config(t.TempDir())
	cfg.Logger = slog.New(slog.NewTextHandler(io.Discard, nil))
	n := withUsers(t, cfg)
	d := dial(t, n, "smtp")
	in := bufio.NewReader(d.conn)
	send := func(text []byte, replies int) {
		if _, err := d.conn.Write(text); err != nil {
			t.Fatal(err)
		}
		for replies > 0 {
			line, err := in.ReadSlice('\n')
			if err != nil {
				t.Fatal(err)
			}
			if line[0] > '3' {
				t.Fatalf("reply %q", line)
			}
			if line[3] == ' ' {
				replies--
			}
		}
	}
	send(nil, 1) // waits for the greeting
	send([]byte("EHLO client.example\r\n"), 1)
	mail, data := []byte("MAIL FROM:<a@example.net> SIZE=8192\r\n"), []byte("DATA\r\n")
	rcpts := [][]byte{[]byte("RCPT TO:<alice@example.org>\r\n"), []byte("RCPT TO:<bob@example.org>\r\n")}
	var body []byte
	line := strings.Repeat("x", 70) + "\r\n"
	deliver := func(from, to int) {
		for i := from; i < to; i++ {
			body = fmt.Appendf(body[:0], "From: A <a@example.net>\r\nTo: alice@example.org\r\nSubject: %d\r\n"+
				"Date: Mon, 02 Jan 2006 15:04:05 -0700\r\nMessage-ID: <%d@example.net>\r\n\r\n", i, i)
			for len(body) < 8<<10 {
				body = append(body, line...)
			}
			body = append(body, ".\r\n"...)
			send(mail, 1)
			send(rcpts[i%2], 1)
			send(data, 1)
			send(body, 1)
		}
	}
	const warm, count = 50, 300
	deliver(0, warm)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	deliver(warm, warm+count)
	runtime.ReadMemStats(&after)
	allocs := float64(after.Mallocs-before.Mallocs) / count
	bytes := float64(after.TotalAlloc-before.TotalAlloc) / count
	t.Logf("%.0f allocations, %.0f bytes a message", allocs, bytes)
	if allocs > mostAllocs {
		t.Errorf("%.0f allocations a message, most are %d", allocs, mostAllocs)
	}
	if bytes > mostAllocBytes {
		t.Errorf("%.0f bytes allocated a message, most are %d", bytes, mostAllocBytes)
	}
}
