package pop3d

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"

	"github.com/covey-mail/covey/internal/serve"
)

// FuzzSession sends anything to a server in each of its states. Whatever comes,
// it must not panic, must end when the client does, must send whole lines with
// codes that are its own, and must remove nothing without QUIT.
func FuzzSession(f *testing.F) {
	login := "USER alice\r\nPASS " + secret + "\r\n"
	preludes := []string{"", login, "AUTH PLAIN\r\n", login + "DELE 1\r\n", "USER alice\r\n", "AUTH SCRAM-SHA-256\r\n"}
	for state := range preludes {
		for _, seed := range []string{
			"CAPA\r\nSTAT\r\nLIST\r\nUIDL\r\nTOP 1 1\r\nRETR 2\r\nRSET\r\nNOOP\r\nQUIT\r\n",
			"AUTH PLAIN AGFsaWNlAG9wZW4gc2VzYW1l\r\nDELE 1\r\nLIST 1\r\nUIDL 2\r\nRETR 99999999999999\r\nQUIT\r\n",
			"AUTH\r\n*\r\nAUTH PLAIN =\r\nAUTH SCRAM-SHA-256 biwsbj1hbGljZSxyPWFiYw==\r\n\r\n",
			"STLS\r\nUSER x\r\n", "TOP 1 -1\r\n\x00\r\n\nLIST x\r\n",
			strings.Repeat("x", 300) + "\r\n" + strings.Repeat("y", 5000),
		} {
			f.Add(uint8(state), []byte(seed))
		}
	}
	kernel, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { kernel.Close() })
	f.Fuzz(func(t *testing.T, state uint8, input []byte) {
		input = append([]byte(preludes[int(state)%len(preludes)]), input...)
		s := standWithout(t, func(c *Config) { c.TLS = nil })
		s.deliver(t, "a: b\r\n\r\n.\r\n", "a: b\r\n\r\nbody")
		w := newWire()
		s.serveOn(t, serve.Wrap(w, serve.Config{}))
		client, server := tcpPair(t, kernel)
		w.next <- server
		var wg sync.WaitGroup
		wg.Go(func() {
			// An error means that the server has ended the session before.
			_, _ = client.Write(input)
			_ = client.CloseWrite()
		})
		replies, err := io.ReadAll(client)
		if ne, ok := err.(net.Error); ok && ne.Timeout() {
			t.Fatal("the session does not end with its client")
		}
		wg.Wait()
		checkReplies(t, replies)
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if left := s.count(t); left != 2 && !bytes.Contains(bytes.ToUpper(input), []byte("QUIT\r\n")) {
			t.Errorf("%d messages are left without QUIT", left)
		}
		var m dto.Metric
		if err := s.cfg.Metrics.Panics.Write(&m); err != nil || m.GetCounter().GetValue() != 0 {
			t.Errorf("the session panicked: %s", s.log)
		}
	})
}

// tcpPair returns both ends of a connection through the kernel.
func tcpPair(t testing.TB, l net.Listener) (*net.TCPConn, net.Conn) {
	t.Helper()
	client, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	if err := client.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	server, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	return client.(*net.TCPConn), server
}

// checkReplies looks at what a session has sent. What was on its way when the
// server closed may be lost, but not a part of a line's end.
func checkReplies(t *testing.T, replies []byte) {
	t.Helper()
	codes := map[string]bool{"AUTH": true, "IN-USE": true, "SYS/TEMP": true, "SYS/PERM": true, "LOGIN-DELAY": true}
	for line := range bytes.Lines(replies) {
		text, whole := bytes.CutSuffix(line, []byte("\r\n"))
		if !whole || bytes.ContainsAny(text, "\r\n\x00") {
			t.Errorf("reply line %q", line)
		}
		if rest, coded := bytes.CutPrefix(text, []byte("-ERR [")); coded {
			if code, _, _ := bytes.Cut(rest, []byte("]")); !codes[string(code)] {
				t.Errorf("response code in %q", text)
			}
		}
	}
}

// FuzzStuffer writes a message in two pieces. What a client makes of it must be
// the message with CRLF for each line's end, and the dot must come once, at the
// end.
func FuzzStuffer(f *testing.F) {
	for _, seed := range []string{"a: b\r\n\r\n.\r\n", ".", "\r", "\r\n.\r\n", "\n.\n", "a\r\r\n\r.\r\n.", ""} {
		for _, cut := range []uint16{0, 1, 3} {
			f.Add([]byte(seed), cut)
		}
	}
	f.Fuzz(func(t *testing.T, message []byte, cut uint16) {
		var sent bytes.Buffer
		w := bufio.NewWriterSize(&sent, 16)
		st := newStuffer(w, allLines)
		k := min(int(cut), len(message))
		st.write(message[:k])
		st.write(message[k:])
		st.close()
		if err := w.Flush(); err != nil {
			t.Fatal(err)
		}
		var got []byte
		for line := range bytes.Lines(sent.Bytes()) {
			if string(line) == ".\r\n" {
				if !bytes.HasSuffix(sent.Bytes(), line) || bytes.Count(sent.Bytes(), []byte("\r\n.\r\n")) > 1 {
					t.Errorf("a dot in the middle of %q", sent.Bytes())
				}
				break
			}
			got = append(got, bytes.TrimPrefix(line, []byte("."))...)
		}
		if want := normal(message); !bytes.Equal(got, want) {
			t.Errorf("%q arrives as %q, want %q", message, got, want)
		}
	})
}

// normal is a message with CRLF at the end of each line.
func normal(message []byte) []byte {
	var out []byte
	for line := range bytes.Lines(message) {
		line = bytes.TrimSuffix(bytes.TrimSuffix(line, []byte("\n")), []byte("\r"))
		out = append(append(out, line...), "\r\n"...)
	}
	return out
}
