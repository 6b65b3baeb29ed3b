package nodetest

import (
	"bufio"
	"errors"
	"fmt"
	"net/textproto"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// uidls returns what POP3 calls the messages of a user.
func uidls(t *testing.T, n *Node, user string) []string {
	t.Helper()
	d := popIn(t, n, user)
	defer d.Close()
	if _, err := d.POP3("UIDL"); err != nil {
		t.Fatal(err)
	}
	lines, err := d.r.ReadDotLines()
	if err != nil {
		t.Fatal(err)
	}
	_, _ = d.POP3("QUIT") // nothing was deleted
	return lines
}

func popIn(t *testing.T, n *Node, user string) *Dialogue {
	t.Helper()
	d, err := n.Dial("pop3")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []string{"USER " + user, "PASS secret"} {
		if _, err := d.POP3(c); err != nil {
			t.Fatal(err)
		}
	}
	return d
}

// Sessions end with the right word when their shard's leader stops or dies, wherever
// the client is connected; who logs in again, anywhere, finds the same UIDs (design
// section 4, P-08, P-09).
func TestSessionsMove(t *testing.T) {
	takesLong(t)
	c := Started(t, 3, Options{})
	user := Users()[0]
	for i := range 5 {
		if err := c.nodes[0].Send(user, fmt.Sprint("m", i)); err != nil {
			t.Fatal(err)
		}
	}
	inbox, validity, err := c.nodes[0].Inbox(user)
	if err != nil || len(inbox) != 5 {
		t.Fatalf("%d messages, %v", len(inbox), err)
	}
	names := uidls(t, c.nodes[0], user)
	for _, end := range []func(*Node){(*Node).Stop, (*Node).Kill} {
		leader, others := leaderOf(t, c, user)
		idle, err := others[0].Login(user)
		if err != nil {
			t.Fatal(err)
		}
		defer idle.Close()
		if _, err := idle.IMAP("SELECT INBOX"); err != nil {
			t.Fatal(err)
		}
		if line, err := idle.Ask("a IDLE"); err != nil || line[0] != '+' {
			t.Fatalf("IDLE: %q, %v", line, err)
		}
		pop := popIn(t, others[1], user)
		defer pop.Close()
		if _, err := pop.POP3("DELE 1"); err != nil {
			t.Fatal(err)
		}
		end(leader)
		if line, err := idle.Line(); !strings.HasPrefix(line, "* BYE [UNAVAILABLE]") {
			t.Errorf("IMAP: %q, %v; want BYE", line, err)
		}
		if line, err := pop.Line(); !strings.HasPrefix(line, "-ERR [SYS/TEMP]") {
			t.Errorf("POP3: %q, %v; want -ERR [SYS/TEMP]", line, err)
		}
		for _, n := range others {
			c.WaitFor("the user is served elsewhere", func() bool { _, _, err := n.Inbox(user); return err == nil })
			again, now, err := n.Inbox(user)
			if d := cmp.Diff(inbox, again); d != "" || now != validity || err != nil {
				t.Errorf("UIDVALIDITY %s, was %s, %v; INBOX (-before +after):\n%s", now, validity, err, d)
			}
			if d := cmp.Diff(names, uidls(t, n, user)); d != "" {
				t.Errorf("UIDL (-before +after):\n%s", d)
			}
		}
		leader.Start()
		c.Settle()
	}
	quitWhileItDies(t, c, user, len(inbox))
}

// quitWhileItDies has a POP3 session end while the leader dies: either all is
// removed or nothing, and what the client is told is true or left open (P-08).
func quitWhileItDies(t *testing.T, c *Cluster, user string, total int) {
	t.Helper()
	leader, others := leaderOf(t, c, user)
	pop := popIn(t, others[0], user)
	defer pop.Close()
	for _, cmd := range []string{"DELE 1", "DELE 2"} {
		if _, err := pop.POP3(cmd); err != nil {
			t.Fatal(err)
		}
	}
	var dies sync.WaitGroup
	dies.Go(leader.Kill)
	reply, err := pop.POP3("QUIT")
	dies.Wait()
	left := 0
	c.WaitFor("the maildrop can be read", func() bool {
		var err error
		left, err = others[1].Stat(user)
		return err == nil
	})
	if removed := total - left; removed != 0 && removed != 2 || err == nil && removed != 2 {
		t.Errorf("QUIT: %q, %v; %d removed of 2", reply, err, removed)
	}
	leader.Start()
	c.Settle()
}

// I-32: sessions of many users at a time, through nodes in turn, never show what is
// another's.
func TestI32_NoBytesOfOthers(t *testing.T) {
	takesLong(t)
	c := Started(t, 3, Options{})
	for i, u := range Users() {
		if err := c.nodes[i%3].Send(u, "for-"+u); err != nil {
			t.Fatal(err)
		}
	}
	var all sync.WaitGroup
	for i := range 20 * len(Users()) {
		u, n := Users()[i%len(Users())], c.nodes[i%3]
		all.Go(func() {
			list, _, err := n.Inbox(u)
			if err != nil || len(list) != 1 || list[0].Subject != "for-"+u {
				t.Errorf("%s at node %d: %+v, %v", u, n.number, list, err)
			}
		})
	}
	all.Wait()
}

// I-40: what a node takes and passes on is, octet by octet, what the home node would
// have taken itself, with the same replies; and so is what is read.
func TestI40_SameThroughEveryNode(t *testing.T) {
	takesLong(t)
	c := Started(t, 3, Options{})
	user := Users()[0]
	bodies := []string{
		"plain\r\n", "", "..two dots\r\n.one\r\n", strings.Repeat("x", 900) + "\r\n", "na\xc3\xafve \xff\xfe\r\n", "\x00 zero\r\n",
		strings.Repeat("0123456789abcdef\r\n", 40_000), // above what is sent in one piece
	}
	sent := 0
	for i, body := range bodies {
		replies := make(map[string][]string) // by service and replies, the nodes
		for _, n := range c.Nodes() {
			for _, service := range []string{"smtp", "lmtp"} {
				// What is sent again as it was is known, and not kept twice.
				got, taken := converse(t, n, service, fmt.Sprintf("i40-%d-%s%d", i, service, n.number), user, body)
				replies[service+"\n"+got] = append(replies[service+"\n"+got], fmt.Sprint(n.number))
				sent += taken
			}
		}
		if len(replies) != 2 {
			t.Errorf("body %d: replies differ: %q", i, replies)
		}
	}
	var want []string
	for _, n := range c.Nodes() {
		got := retrieved(t, n, user)
		if len(got) != sent {
			t.Errorf("node %d: %d messages, %d were taken", n.number, len(got), sent)
		}
		if want == nil {
			want = got
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("node %d shows other octets than node 1: %.2000s", n.number, d)
		}
	}
	// Of each body there are as many as were taken, all the same.
	times := make(map[string]int)
	for _, m := range want {
		head, body, _ := strings.Cut(m, "\r\n\r\n")
		_, subject, _ := strings.Cut(head, "Subject: ")
		times[subject[:len("i40-0")]+body]++
	}
	for m, n := range times {
		if want := 2 * len(c.Nodes()); n != want {
			t.Errorf("%.100q is there %d times, want %d", m, n, want)
		}
	}
}

// converse sends a message to the user, somebody unknown and the user again, and
// returns the replies without what is different each time, and how many were taken.
func converse(t *testing.T, n *Node, service, subject, user, body string) (replies string, taken int) {
	t.Helper()
	d, err := n.Dial(service)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	hello := map[string]string{"smtp": "EHLO", "lmtp": "LHLO"}[service]
	var all []string
	for _, cmd := range []string{hello + " client.example.net", "MAIL FROM:<carol@example.net> BODY=8BITMIME", "RCPT TO:<" + user + ">", "RCPT TO:<nobody@example.org>", "DATA"} {
		got, err := d.Ask(cmd)
		if got == "" {
			t.Fatal(err)
		}
		all = append(all, got)
	}
	var data strings.Builder
	buffered := bufio.NewWriter(&data)
	w := textproto.NewWriter(buffered).DotWriter()
	_, _ = w.Write([]byte("Subject: " + subject + "\r\n\r\n" + body)) // into memory
	err = errors.Join(w.Close(), buffered.Flush())
	if err != nil {
		t.Fatal(err)
	}
	got, err := d.Ask(strings.TrimSuffix(data.String(), "\r\n"))
	if got == "" {
		t.Fatal(err)
	}
	if strings.HasPrefix(got, "250") {
		taken = 1
	}
	return strings.Join(append(all, got[:min(len(got), 9)]), "\n"), taken
}

// retrieved reads all messages of a user by POP3, without what each node puts in
// front.
func retrieved(t *testing.T, n *Node, user string) (all []string) {
	t.Helper()
	count, err := n.Stat(user)
	if err != nil {
		t.Fatal(err)
	}
	d := popIn(t, n, user)
	defer d.Close()
	for i := range count {
		if _, err := d.POP3(fmt.Sprint("RETR ", i+1)); err != nil {
			t.Fatal(err)
		}
		lines, err := d.r.ReadDotLines()
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, strings.Join(lines, "\r\n"))
	}
	_, _ = d.POP3("QUIT") // nothing was deleted
	return all
}
