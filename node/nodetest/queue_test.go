package nodetest

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/node/admin"
)

// open begins a transaction for users and returns it before its data.
func open(t *testing.T, n *Node, users ...string) *Dialogue {
	t.Helper()
	d, err := n.Dial("smtp")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.Close)
	commands := []string{"EHLO client.example.net", "MAIL FROM:<carol@example.net>"}
	for _, u := range users {
		commands = append(commands, "RCPT TO:<"+u+">")
	}
	for _, c := range append(commands, "DATA") {
		if _, err := d.SMTP(c); err != nil {
			t.Fatal(err)
		}
	}
	return d
}

// times returns how often a subject is in a user's INBOX.
func times(t *testing.T, n *Node, user, subject string) (count int) {
	t.Helper()
	list, _, err := n.Inbox(user)
	if no := (*Refusal)(nil); errors.As(err, &no) {
		return -1 // its node has just come back
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range list {
		if m.Subject == subject {
			count++
		}
	}
	return count
}

func queued(t *testing.T, n *Node) admin.QueueAnswer {
	t.Helper()
	return Call[admin.QueueAnswer](t, n, admin.QueueList, admin.QueueRequest{})
}

// A node dies between RCPT and the end of a message for its users and others: the
// sender hears 250, what is left waits in a shard that took it, is seen from
// everywhere, outlives a restart of its own node and the recipient's removing the
// message, and arrives once when the dead node is back.
func TestQueueAcrossNodes(t *testing.T) {
	c := Started(t, 3, Options{Replicas: 1})
	victim, others := leaderOf(t, c, Users()[0])
	led, rest := ledBy(t, c, victim)
	if len(rest) == 0 {
		t.Fatal("one node leads all shards")
	}
	near, far := rest[0], led[0]
	keeper, _ := leaderOf(t, c, near)
	front := others[0]
	if front == keeper {
		front = others[1]
	}
	var mails []*Dialogue
	for range 2 {
		mails = append(mails, open(t, front, far, near))
	}
	victim.Kill()
	for i, size := range []int{10, 40_000} { // the second is in chunks
		body := strings.Repeat("some text\r\n", size)
		if reply, err := mails[i].SMTP(fmt.Sprintf("Subject: m%d\r\n\r\n%s.", i, body)); err != nil || !strings.HasPrefix(reply, "250") {
			t.Fatalf("message %d: %q, %v; want 250", i, reply, err)
		}
		if n := times(t, keeper, near, fmt.Sprint("m", i)); n != 1 {
			t.Errorf("%s has %d copies of message %d", near, n, i)
		}
	}
	sees := func(n *Node) func() bool {
		return func() bool {
			q := queued(t, n)
			if q.Total != 2 || len(q.Deliveries) != 2 || len(q.Deliveries[0].Recipients) != 1 {
				return false
			}
			one := q.Deliveries[0]
			return one.Recipients[0].Address == far && one.Sender == "carol@example.net" && one.Error != "" && len(q.Silent) > 0
		}
	}
	c.WaitFor("the other nodes show what waits, and why", func() bool { return sees(front)() && sees(keeper)() })
	d, err := keeper.Login(near)
	if err != nil {
		t.Fatal(err)
	}
	for _, command := range []string{"SELECT INBOX", `STORE 1:* +FLAGS (\Deleted)`, "EXPUNGE", "LOGOUT"} {
		if _, err := d.IMAP(command); err != nil {
			t.Fatal(err)
		}
	}
	d.Close()
	keeper.Kill()
	keeper.Start()
	c.WaitFor("the node that was restarted has the queue", sees(front))
	victim.Start()
	for i := range mails {
		c.WaitFor("what waited arrives", func() bool { return times(t, victim, far, fmt.Sprint("m", i)) == 1 })
	}
	c.WaitFor("nothing waits", func() bool { return queued(t, front).Total == 0 })
	c.WaitFor("the third node lets both in", func() bool { return times(t, front, far, "") >= 0 && times(t, front, near, "") >= 0 })
	for i := range mails {
		if n := times(t, front, far, fmt.Sprint("m", i)); n != 1 {
			t.Errorf("%s has message %d %d times", far, i, n)
		}
		if n := times(t, front, near, fmt.Sprint("m", i)); n != 0 {
			t.Errorf("%s has message %d %d times, after it was removed", near, i, n)
		}
	}
}

// The shard of the queue loses its leader while the one that the rest waits for has
// no quorum: the next leader goes on, and what waits arrives once.
func TestQueueOutlivesItsLeader(t *testing.T) {
	takesLong(t)
	c := Started(t, 5, Options{Replicas: 3, Shards: 8})
	near, far, away := apart(t, c)
	var up []*Node
	for _, n := range c.Nodes() {
		if !slices.Contains(away, n) {
			up = append(up, n)
		}
	}
	leader, _ := leaderOf(t, c, near)
	front := up[0]
	if front == leader {
		front = up[1]
	}
	d := open(t, front, near, far)
	for _, n := range away {
		n.Kill()
	}
	if reply, err := d.SMTP("Subject: m\r\n\r\nbody\r\n."); err != nil || !strings.HasPrefix(reply, "250") {
		t.Fatalf("%q, %v; want 250", reply, err)
	}
	leader.Kill()
	c.WaitFor("the next leader has the queue", func() bool {
		q := queued(t, front)
		return len(q.Deliveries) == 1 && q.Deliveries[0].Recipients[0].Address == far && q.Deliveries[0].Tries > 0
	})
	for _, n := range append(away, leader) {
		n.Start()
	}
	c.WaitFor("what waited arrives", func() bool { return times(t, front, far, "m") == 1 })
	c.Settle()
	c.WaitFor("nothing waits", func() bool { q := queued(t, front); return q.Total == 0 && len(q.Silent) == 0 })
	for _, u := range []string{near, far} {
		if n := times(t, front, u, "m"); n != 1 {
			t.Errorf("%s has the message %d times", u, n)
		}
	}
}

// apart returns two users, and two nodes that hold most replicas of the shard of the
// second and none of that of the first.
func apart(t *testing.T, c *Cluster) (near, far string, away []*Node) {
	t.Helper()
	holders := make(map[covey.ShardID][]string)
	for _, sh := range c.Nodes()[0].Status().Shards {
		holders[sh.ID] = sh.Wanted
	}
	for _, near := range Users() {
		for _, far := range Users() {
			var away []*Node
			for _, n := range c.Nodes() {
				if slices.Contains(holders[n.Shard(far)], n.Name()) && !slices.Contains(holders[n.Shard(near)], n.Name()) {
					away = append(away, n)
				}
			}
			if len(away) == 2 {
				return near, far, away
			}
		}
	}
	t.Fatal("every two shards have a majority of nodes in common")
	return "", "", nil
}
