package nodetest

import (
	"context"
	"crypto/rand"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/internal/durable"
	"github.com/covey-mail/covey/internal/peer"
	"github.com/covey-mail/covey/node/admin"
)

// Whatever node an operator asks, the directory is changed and all nodes know; they
// agree on where a user's mail is, and on what it holds.
func TestAdminOnAnyNode(t *testing.T) {
	c := Started(t, 3, Options{Replicas: 1})
	hash := saltedHash("secret")
	for i, n := range c.Nodes() {
		name := string(rune('x'+i)) + "@example.org"
		Call[admin.User](t, n, admin.UserAdd, admin.UserRequest{Address: name, Hash: &hash})
		if err := n.Send(name, "to "+name); err != nil {
			t.Errorf("mail to an account made on this node: %v", err)
		}
		for _, at := range c.Nodes() {
			c.WaitFor("node "+at.Name()+" knows "+name+" and what it holds", func() bool {
				u, err := Try[admin.User](t.Context(), at, admin.UserShow, admin.Name{Name: name})
				return err == nil && u.Messages == 1 && u.Bytes > 0 && len(u.Nodes) == 1 && u.Leader == u.Nodes[0]
			})
		}
	}
	// Without the leader of the directory another does it, and until then the
	// operator is told that it is not done, or that nobody knows.
	leader := c.Nodes()[slices.IndexFunc(c.Nodes(), func(n *Node) bool { return n.Name() == c.Nodes()[0].Status().Shards[0].Leader })]
	rest := slices.DeleteFunc(c.Nodes(), func(n *Node) bool { return n == leader })
	leader.Kill()
	c.WaitFor("the directory is changed without its leader", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		_, err := Try[admin.User](ctx, rest[0], admin.UserAdd, admin.UserRequest{Address: "late@example.org", Hash: &hash})
		switch {
		case err == nil || errors.Is(err, covey.Exists): // of a try whose outcome was unknown
			return true
		case !errors.Is(err, covey.Unavailable) && !errors.Is(err, covey.Unknown) && ctx.Err() == nil:
			t.Errorf("without a leader: %v, want unavailable or unknown", err)
		}
		return false
	})
	c.WaitFor("the other survivor knows", func() bool {
		_, err := Try[admin.User](t.Context(), rest[1], admin.UserShow, admin.Name{Name: "late@example.org"})
		return err == nil
	})
}

// Who is over the quota is refused at every node, also those without a replica, and
// taken again once there is room.
func TestQuotaAtEveryNode(t *testing.T) {
	c := Started(t, 3, Options{Replicas: 1})
	const user = "u0@example.org"
	small := int64(1)
	Call[admin.User](t, c.Nodes()[2], admin.UserSet, admin.UserRequest{Address: user, Quota: &small})
	if err := c.Nodes()[0].Send(user, "the last that fits"); err != nil {
		t.Fatal(err)
	}
	everywhere := func(what, code string) {
		t.Helper()
		for _, n := range c.Nodes() {
			c.WaitFor(what+" at node "+n.Name(), func() bool {
				reply, _ := rcpt(t, n, user)
				return strings.HasPrefix(reply, code)
			})
		}
	}
	everywhere("refused for quota", "452 4.2.2")
	// A quota that is raised counts at once.
	large := int64(1 << 20)
	Call[admin.User](t, c.Nodes()[1], admin.UserSet, admin.UserRequest{Address: user, Quota: &large})
	everywhere("taken after the quota was raised", "250")
	Call[admin.User](t, c.Nodes()[1], admin.UserSet, admin.UserRequest{Address: user, Quota: &small})
	everywhere("refused again", "452 4.2.2")
	d, err := c.Nodes()[1].Login(user)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	for _, command := range []string{"SELECT INBOX", `STORE 1:* +FLAGS (\Deleted)`, "EXPUNGE"} {
		if _, err := d.IMAP(command); err != nil {
			t.Fatal(err)
		}
	}
	everywhere("taken after the mailbox was emptied", "250")
}

// S-31: ten failures of one address spread over three nodes; then no node takes
// another try from there within the minute, whoever it is for.
func TestS31_GuessingAtThreeNodes(t *testing.T) {
	takesLong(t) // each failure is told late
	c := Started(t, 3, Options{})
	var tries sync.WaitGroup
	for i := range 10 {
		tries.Go(func() {
			d, err := c.Nodes()[i%3].Dial("imap")
			if err != nil {
				t.Error(err)
				return
			}
			defer d.Close()
			if _, err := d.IMAP("LOGIN nobody@example.org wrong"); err == nil {
				t.Error("let in")
			}
		})
	}
	tries.Wait()
	for _, n := range c.Nodes() {
		c.WaitFor("node "+n.Name()+" takes no more tries", func() bool {
			d, err := n.Dial("imap")
			if err != nil {
				t.Fatal(err)
			}
			defer d.Close()
			_, err = d.IMAP("LOGIN u0@example.org secret")
			return err != nil && strings.Contains(err.Error(), "LIMIT") || err != nil && strings.Contains(err.Error(), "BYE")
		})
	}
}

// The secret is replaced under load, and no delivery fails; afterwards the old one
// opens nothing, and a node that was away all the time has to be given the new one.
func TestRotateSecret(t *testing.T) {
	takesLong(t)
	c := New(t, Options{})
	old, err := peer.ReadSecrets(durable.OS(), c.secret)
	if err != nil {
		t.Fatal(err)
	}
	for range 3 { // each with a file of its own
		n := c.Node()
		n.Config.Cluster.SecretFile = n.Config.Node.Data + ".secret"
		if err := peer.WriteSecrets(durable.OS(), n.Config.Cluster.SecretFile, old); err != nil {
			t.Fatal(err)
		}
		n.Start()
	}
	c.AddUsers()
	c.Settle()
	load := c.Load(c.Nodes()...)
	before := Call[[]admin.Secrets](t, c.Nodes()[0], admin.SecretList, admin.Empty{})
	after := Call[admin.Secrets](t, c.Nodes()[1], admin.SecretRotate, admin.Empty{})
	load.More(20)
	load.Check()
	load.NoFailures()
	for _, n := range c.Nodes() {
		for _, s := range Call[[]admin.Secrets](t, n, admin.SecretList, admin.Empty{}) {
			if !slices.Equal(s.Secrets, after.Secrets) || slices.Equal(s.Secrets, before[0].Secrets) {
				t.Errorf("node %s, asked at %s: secrets %v, want %v; %s", s.Node, n.Name(), s.Secrets, after.Secrets, s.Error)
			}
		}
	}
	late := c.Node()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if err := late.TryStart(ctx); err == nil {
		t.Error("a node joined by the secret that is out of use")
	}
	stranger, err := peer.NewSecret(rand.Reader)
	if err != nil || stranger.Fingerprint() == after.Secrets[0] {
		t.Errorf("%v: two secrets have one fingerprint", err)
	}
}

// With one replica, a node that dies takes its users' mail with it. It stays a
// member until the loss is accepted; then its shards begin anew on the others, and
// its users get mail again.
func TestAcceptLoss(t *testing.T) {
	takesLong(t)
	c := Started(t, 3, Options{Replicas: 1})
	gone := c.Nodes()[2]
	lost, kept := ledBy(t, c, gone)
	if len(lost) == 0 || len(kept) == 0 {
		t.Fatalf("node 3 has the users %v, the others %v", lost, kept)
	}
	for _, u := range Users() {
		if err := c.Nodes()[0].Send(u, "before"); err != nil {
			t.Fatal(err)
		}
	}
	asked := c.Nodes()[1]
	accept := admin.NodeRequest{Node: gone.Name(), AcceptLoss: true}
	if _, err := Try[admin.NodeMove](t.Context(), asked, admin.NodeRemove, accept); !errors.Is(err, covey.Denied) {
		t.Errorf("of a node that lives: %v, want Denied", err)
	}
	gone.Kill()
	c.WaitFor("removing it is refused, because of what only it has", func() bool {
		_, err := Try[admin.NodeMove](t.Context(), asked, admin.NodeRemove, admin.NodeRequest{Node: gone.Name()})
		return errors.Is(err, covey.Denied) && strings.Contains(err.Error(), "--accept-loss")
	})
	var loss admin.Loss
	c.WaitFor("the loss is told", func() bool {
		loss = Call[admin.Loss](t, asked, admin.NodeLoss, admin.NodeRequest{Node: gone.Name()})
		return len(loss.Shards) > 0
	})
	var told []string
	for _, shard := range loss.Shards {
		for _, u := range Call[[]admin.User](t, asked, admin.UserInShard, admin.ShardPage{Shard: shard}) {
			told = append(told, u.Address)
		}
	}
	slices.Sort(told)
	if !slices.Equal(told, lost) {
		t.Errorf("told are %v, lost are %v", told, lost)
	}
	c.WaitFor("the node is removed", func() bool {
		m, err := Try[admin.NodeMove](t.Context(), asked, admin.NodeRemove, accept)
		switch covey.KindOf(err) {
		case covey.Unavailable, covey.Unknown, covey.NotFound:
		case covey.Conflict: // another node does not take it for dead yet
		default:
			if err != nil {
				t.Fatal(err)
			}
		}
		accept.AcceptLoss = accept.AcceptLoss && err != nil
		return err == nil && m.Done || errors.Is(err, covey.NotFound)
	})
	c.Settle()
	for _, at := range c.Nodes()[:2] {
		for _, u := range Users() {
			c.WaitFor(u+" gets mail at node "+at.Name(), func() bool {
				err := at.Send(u, "after, at "+at.Name())
				// A node that has not heard yet where a shard began anew defers at RCPT.
				if no := (*Refusal)(nil); errors.As(err, &no) && no.Code == "451" && slices.Contains(lost, u) {
					return false
				}
				if err != nil {
					t.Errorf("%s at node %s: %v", u, at.Name(), err)
				}
				return true
			})
			want := 1 // since the loss
			if slices.Contains(kept, u) {
				want = 2
			}
			if at != c.Nodes()[0] {
				want++
			}
			list, _, err := at.Inbox(u)
			if err != nil || len(list) != want {
				t.Errorf("%s at node %s has %d messages, want %d; %v", u, at.Name(), len(list), want, err)
			}
		}
	}
}
