package bench

import (
	"bufio"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// recordIMAP says OK to every command on one connection after another, and returns
// what there were when it is asked.
func recordIMAP(t *testing.T) (addr string, commands func() []string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	var seen []string
	serving.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			fmt.Fprint(c, "* OK ready\r\n")
			for lines := bufio.NewScanner(c); lines.Scan(); {
				tag, command, _ := strings.Cut(lines.Text(), " ")
				seen = append(seen, command)
				if command == "SELECT INBOX" {
					fmt.Fprint(c, "* 30 EXISTS\r\n")
				}
				fmt.Fprintf(c, "%s OK done\r\n", tag)
			}
			c.Close()
		}
	})
	end := sync.OnceFunc(func() { l.Close(); serving.Wait() })
	t.Cleanup(end)
	return l.Addr().String(), func() []string { end(); return seen }
}

func TestWhatIsKeptIsDoneOnce(t *testing.T) {
	login, sel := `LOGIN "user00000@example.org" "user00000"`, "SELECT INBOX"
	envelopes, body := "FETCH 29:30 (UID FLAGS INTERNALDATE RFC822.SIZE ENVELOPE)", "FETCH 30 BODY.PEEK[]"
	for keep, want := range map[Keep][]string{
		KeepNothing: {login, sel, envelopes, body, `STORE 30:30 +FLAGS (\Seen)`, "LOGOUT", login, sel, envelopes, body, `STORE 30:30 +FLAGS (\Seen)`, "LOGOUT"},
		KeepLogin:   {login, sel, envelopes, body, sel, envelopes, body},
		KeepMailbox: {login, sel, envelopes, body, envelopes, body},
	} {
		addr, commands := recordIMAP(t)
		res := mustRun(t, Config{Protocol: IMAP, Addr: addr, Conns: 1, Count: 2, Envelopes: 2, Retrieve: 1, Keep: keep})
		if res.Done != 2 || res.Short != 0 {
			t.Errorf("%s: %d done, %d short, failures %v", keep, res.Done, res.Short, res.Failures)
		}
		if diff := cmp.Diff(want, commands()); diff != "" {
			t.Errorf("%s: commands (-want +got):\n%s", keep, diff)
		}
	}
}

// Logging in is no part of an operation that begins after it; but in an open loop
// it makes the first one late.
func TestKeptLogInIsNotMeasured(t *testing.T) {
	for _, rate := range []float64{0, 100} {
		addr, commands := recordIMAP(t)
		cfg, err := Config{Protocol: IMAP, Addr: addr, Count: 1, Keep: KeepLogin, Rate: rate}.withDefaults()
		if err != nil {
			t.Fatal(err)
		}
		s := &imapSession{cfg: cfg, who: newUsers(cfg), to: newTarget(cfg, 0)}
		var op operation
		if err := s.do(t.Context(), &op); err != nil {
			t.Fatal(err)
		}
		s.close()
		if n := len(commands()); op.planned.IsZero() != (rate > 0) || n < 3 {
			t.Errorf("rate %v: planned %v, %d commands", rate, op.planned, n)
		}
	}
}
