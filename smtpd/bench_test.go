package smtpd

import (
	"bufio"
	"fmt"
	"io"
	"log/slog"
	"net"
	"runtime"
	"strings"
	"sync"
	"testing"
)

// message8K is the message of the design's budget.
var message8K = "Subject: budget\r\n\r\n" + strings.Repeat(strings.Repeat("x", 78)+"\r\n", 102)

// BenchmarkDeliver8K sends 8 KiB messages over loopback, one transaction after
// another in one session, its commands pipelined as an MTA does.
func BenchmarkDeliver8K(b *testing.B) {
	for _, kind := range []Kind{MX, LMTP} {
		for _, verb := range []string{"DATA", "BDAT"} {
			b.Run(kind.String()+"/"+verb, func(b *testing.B) { benchmarkDeliver(b, kind, verb) })
		}
	}
}

func benchmarkDeliver(b *testing.B, kind Kind, verb string) {
	r := newRig(b, quiet)
	r.mail.discard = true
	raw, err := net.Dial("tcp", r.listen(kind).String())
	if err != nil {
		b.Fatal(err)
	}
	defer raw.Close()
	in := bufio.NewReader(raw)
	greet := "EHLO c.example\r\n"
	if kind == LMTP {
		greet = "LHLO c.example\r\n"
	}
	skipReplies(b, in, 1)
	io.WriteString(raw, greet)
	skipReplies(b, in, 1)
	const envelope = "MAIL FROM:<a@b.example>\r\nRCPT TO:<bob@example.org>\r\n"
	begin, body := []byte(envelope+"DATA\r\n"), []byte(message8K+".\r\n")
	chunked := []byte(envelope + fmt.Sprintf("BDAT %d LAST\r\n", len(message8K)) + message8K)
	b.SetBytes(int64(len(message8K)))
	b.ReportAllocs()
	for b.Loop() {
		if verb == "BDAT" {
			raw.Write(chunked)
			skipReplies(b, in, 3)
			continue
		}
		raw.Write(begin)
		skipReplies(b, in, 3)
		raw.Write(body)
		skipReplies(b, in, 1)
	}
}

// quiet drops logs.
func quiet(c *Config) { c.Logger = slog.New(slog.DiscardHandler) }

func skipReplies(t testing.TB, in *bufio.Reader, n int) {
	for n > 0 {
		line, err := in.ReadSlice('\n')
		if err != nil || line[0] > '3' {
			t.Fatalf("reply %q, %v", line, err)
		}
		if line[3] == ' ' {
			n--
		}
	}
}

// BenchmarkBody is the share of finding the end, undoing the dots and checking.
func BenchmarkBody(b *testing.B) {
	wire := message8K + ".\r\n"
	in := bufio.NewReaderSize(nil, inputBuffer)
	b.SetBytes(int64(len(wire)))
	b.ReportAllocs()
	for b.Loop() {
		in.Reset(strings.NewReader(wire))
		body := &body{frame: newDotFraming(in), limit: 1 << 20, drain: 2 << 20}
		if _, err := io.Copy(io.Discard, body); err != nil {
			b.Fatal(err)
		}
	}
}

// TestS53_MemoryPerSession sends large messages side by side, to a Delivery that
// keeps nothing: what the sessions hold meanwhile does not depend on the size.
func TestS53_MemoryPerSession(t *testing.T) {
	const sessions, size = 20, 8 << 20
	r := newRig(t, quiet, func(c *Config) { c.MaxMessageBytes = 50 << 20 })
	r.mail.discard = true
	part := strings.Repeat(strings.Repeat("x", 998)+"\r\n", 64)
	clients := make([]*client, sessions)
	for i := range clients {
		clients[i] = r.ready(MX)
		clients[i].run(opening + "> DATA\n< 354\n" + "= " + quote(part))
	}
	octets := []byte(part)
	before := allocated()
	var wg sync.WaitGroup
	for _, c := range clients {
		wg.Go(func() {
			for range size / len(part) {
				if _, err := c.Write(octets); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	for _, c := range clients {
		c.send(".\r\n")
		c.expect("250")
	}
	// All that was allocated on the way, collected or not, clients included.
	if used := allocated() - before; used > sessions*64<<10 {
		t.Errorf("%d octets allocated for %d messages of %d octets", used, sessions, size)
	}
}

func allocated() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.TotalAlloc
}
