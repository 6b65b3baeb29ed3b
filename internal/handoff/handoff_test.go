package handoff

import (
	"bufio"
	"errors"
	"io"
	"net"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/covey-mail/covey"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func sample() Login {
	return Login{
		Account: 7, Shard: 3, Address: covey.Address{Local: "a", Domain: "example.org"}, Quota: 1 << 40, Remote: "192.0.2.1:1234",
		Session: "0123", TLS: true, Mechanism: "PLAIN", Leftover: []byte("a1 NOOP\r\n"),
	}
}

func TestLoginTravels(t *testing.T) {
	got, err := Decode(sample().Encode())
	if d := cmp.Diff(sample(), got); d != "" || err != nil {
		t.Errorf("(-want +got), error %v:\n%s", err, d)
	}
	for cut := range sample().Encode() {
		if _, err := Decode(sample().Encode()[:cut]); !errors.Is(err, covey.Corrupt) {
			t.Errorf("cut at %d: error %v, want Corrupt", cut, err)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(sample().Encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		l, err := Decode(b)
		if err != nil {
			return
		}
		again, err := Decode(l.Encode())
		if d := cmp.Diff(l, again); d != "" || err != nil {
			t.Errorf("(-want +got), error %v:\n%s", err, d)
		}
	})
}

// pair returns the two ends of a TCP connection.
func pair(t *testing.T) (a, b net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if a, err = net.Dial("tcp", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if b, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = a.Close(), b.Close() })
	return a, b
}

func TestAnswerTravels(t *testing.T) {
	front, home := pair(t)
	if err := Accept(home); err != nil {
		t.Fatal(err)
	}
	if err := Await(t.Context(), front); err != nil {
		t.Fatal(err)
	}
	for _, kind := range []covey.Kind{covey.Internal, covey.InUse, covey.Unavailable} {
		front, home := pair(t)
		if err := Refuse(home, covey.Errorf(kind, "%s", strings.Repeat("why ", 1000))); err != nil {
			t.Fatal(err)
		}
		if err := Await(t.Context(), front); covey.KindOf(err) != kind || !strings.Contains(err.Error(), "why") {
			t.Errorf("error %v, want one of kind %v", err, kind)
		}
	}
}

func TestSilenceIsUnavailable(t *testing.T) {
	front, home := pair(t)
	_ = home.Close()
	if err := Await(t.Context(), front); !errors.Is(err, covey.Unavailable) {
		t.Errorf("error %v, want Unavailable", err)
	}
}

const farewell = "* BYE gone\r\n"

// stand runs a relay; the client's and the home's far ends are returned.
func stand(t *testing.T) (client, home net.Conn, r *Relay, done chan int64) {
	t.Helper()
	client, near := pair(t)
	far, home := pair(t)
	r, done = NewRelay(near, far, farewell), make(chan int64, 1)
	go func() { done <- r.Run() }()
	return client, home, r, done
}

func TestOctetsPassBothWays(t *testing.T) {
	client, home, _, done := stand(t)
	_, _ = io.WriteString(client, "a1 NOOP\r\n")
	if line, err := bufio.NewReader(home).ReadString('\n'); line != "a1 NOOP\r\n" || err != nil {
		t.Fatalf("home got %q, %v", line, err)
	}
	_, _ = io.WriteString(home, "a1 OK\r\n")
	_ = home.Close() // its own last word was said: no farewell
	got, err := io.ReadAll(client)
	if string(got) != "a1 OK\r\n" || err != nil {
		t.Errorf("client got %q, %v", got, err)
	}
	if n := <-done; n != 7 {
		t.Errorf("Run = %d, want 7", n)
	}
}

// A home that is asked to end answers what it has read, then the front takes
// leave.
func TestStopLetsTheCommandEnd(t *testing.T) {
	client, home, r, done := stand(t)
	_, _ = io.WriteString(client, "a1 NOOP\r\n")
	br := bufio.NewReader(home)
	if _, err := br.ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	r.Stop()
	if rest, err := io.ReadAll(br); len(rest) > 0 || err != nil {
		t.Fatalf("home read %q, %v; want the end", rest, err)
	}
	_, _ = io.WriteString(home, "a1 OK\r\n")
	_ = home.Close()
	if got, err := io.ReadAll(client); string(got) != "a1 OK\r\n"+farewell || err != nil {
		t.Errorf("client got %q, %v", got, err)
	}
	<-done
}

// A home that dies in the middle of a line leaves no room for a last word.
func TestDeadHome(t *testing.T) {
	for sent, want := range map[string]string{"": farewell, "* 1 EXISTS\r\n": "* 1 EXISTS\r\n" + farewell, "* 1 EX": "* 1 EX"} {
		client, home, _, done := stand(t)
		_, _ = io.WriteString(home, sent)
		head := make([]byte, len(sent))
		if _, err := io.ReadFull(client, head); err != nil {
			t.Fatal(err)
		}
		_ = home.(*net.TCPConn).SetLinger(0) // reset
		_ = home.Close()
		if got, _ := io.ReadAll(client); string(head)+string(got) != want {
			t.Errorf("after %q the client got %q, want %q", sent, string(head)+string(got), want)
		}
		<-done
	}
}

// What the home has said for itself is not said again, however it came.
func TestFarewellIsSaidOnce(t *testing.T) {
	for _, tt := range []struct {
		writes []string
		want   string
	}{
		{nil, "* BYE [UNAVAILABLE] gone\r\n"},
		{[]string{"* OK\r\n"}, "* OK\r\n* BYE [UNAVAILABLE] gone\r\n"},
		{[]string{"* BYE [UNAVAILABLE] moved\r\n"}, "* BYE [UNAVAILABLE] moved\r\n"},
		{[]string{"* OK\r\n* B", "YE [UNAVAILABLE] mo", "ved\r", "\n"}, "* OK\r\n* BYE [UNAVAILABLE] moved\r\n"},
		{[]string{"* BYE [UNAVAILABLE] moved\r\n", "* OK\r\n"}, "* BYE [UNAVAILABLE] moved\r\n* OK\r\n* BYE [UNAVAILABLE] gone\r\n"},
		{[]string{"* 1 FETCH (BODY[] {9}\r\nhalf"}, "* 1 FETCH (BODY[] {9}\r\nhalf"},
	} {
		near, far := net.Pipe()
		got := make(chan string, 1)
		go func() {
			b, _ := io.ReadAll(far) // ends with Close
			got <- string(b)
		}()
		out := tail{Conn: near}
		for _, w := range tt.writes {
			if _, err := io.WriteString(&out, w); err != nil {
				t.Fatal(err)
			}
		}
		out.say("* BYE [UNAVAILABLE] gone\r\n")
		_ = near.Close() // a pipe has no errors
		if g := <-got; g != tt.want {
			t.Errorf("after %q: %q, want %q", tt.writes, g, tt.want)
		}
	}
}

func TestClientGoes(t *testing.T) {
	client, home, _, done := stand(t)
	_ = client.Close()
	if _, err := io.ReadAll(home); err != nil {
		t.Errorf("home read %v, want the end", err)
	}
	_ = home.Close()
	<-done
}
