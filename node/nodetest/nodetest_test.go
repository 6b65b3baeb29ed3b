package nodetest

import (
	"context"
	"flag"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/node"
	"github.com/covey-mail/covey/node/admin"
)

var long = flag.Bool("long", false, "run the tests that take long, with the bounds that are promised; make scenarios does")

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// takesLong skips a test unless it is asked for.
func takesLong(t *testing.T) {
	t.Helper()
	if !*long {
		t.Skip("it takes long: run it with -long or make scenarios")
	}
}

func notShort(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("not with -short")
	}
}

// within is a bound on a time. Other tests may keep the machine busy: only where
// this one is asked for by itself the bound is the one that is promised.
func within(d time.Duration) time.Duration {
	if *long {
		return d
	}
	return 6 * d
}

// leaderOf returns the running node that leads a user's shard, and the others that
// run, once all of them believe so: those that had no part in a hand-over hear of it
// by gossip.
func leaderOf(t *testing.T, c *Cluster, user string) (leader *Node, others []*Node) {
	t.Helper()
	up := slices.DeleteFunc(c.Nodes(), func(n *Node) bool { return !n.Running() })
	c.WaitFor("all know who leads the shard of "+user, func() bool {
		var names []string
		for _, n := range up {
			names = append(names, Call[admin.User](t, n, admin.UserShow, admin.Name{Name: user}).Leader)
		}
		i := slices.IndexFunc(up, func(n *Node) bool { return n.Name() == names[0] })
		if i < 0 || len(slices.Compact(names)) > 1 {
			return false
		}
		leader, others = up[i], slices.Delete(slices.Clone(up), i, i+1)
		return true
	})
	return leader, others
}

// ledBy returns the users whose shards a node leads, and the rest.
func ledBy(t *testing.T, c *Cluster, n *Node) (led, rest []string) {
	t.Helper()
	for _, u := range Users() {
		if leader, _ := leaderOf(t, c, u); leader == n {
			led = append(led, u)
		} else {
			rest = append(rest, u)
		}
	}
	return led, rest
}

// Nodes that join one after the other under load lose no delivery, and mail that
// goes in anywhere comes out everywhere.
func TestGrow(t *testing.T) {
	c := New(t, Options{})
	a := c.Node()
	a.Start()
	c.AddUsers()
	load := c.Load(a)
	load.More(3)
	c.Node().Start()
	c.Node().Start()
	c.Settle()
	load.Through(c.Nodes()...)
	load.More(3)
	if *long {
		c.Node().Start()
		c.Settle()
		load.Through(c.Nodes()...)
		load.More(3)
	}
	load.Check()
	load.NoFailures()
	for _, u := range Users() {
		for i, n := range c.Nodes() {
			want := len(load.Ledgers()[u].Acked)
			if got, err := n.Stat(u); got != want || err != nil {
				t.Errorf("%s by POP3 at node %d: %d, %v; want %d", u, i+1, got, err, want)
			}
		}
	}
}

// The users of a node that was killed get mail again in seconds, those of others
// notice nothing to speak of; the node comes back and catches up.
func TestKillLeader(t *testing.T) {
	c := Started(t, 3, Options{})
	victim, others := leaderOf(t, c, Users()[0])
	led, rest := ledBy(t, c, victim)
	load := c.Load(others...)
	load.More(3)
	load.Mark()
	victim.Kill()
	load.More(5)
	for u, b := range load.Ledgers() {
		t.Logf("%s: gap %v, slowest %v, refused %q", u, b.Gap.Round(time.Millisecond), b.Slowest.Round(time.Millisecond), b.Refused)
		if most := within(5 * time.Second); slices.Contains(led, u) && b.Gap > most {
			t.Errorf("%s had no delivery for %v, want at most %v", u, b.Gap, most)
		}
		if most := within(time.Second); slices.Contains(rest, u) && b.Gap > most {
			t.Errorf("%s, whose leader lives, had no delivery for %v, want at most %v", u, b.Gap, most)
		}
	}
	victim.Start()
	c.Settle()
	load.Through(c.Nodes()...)
	load.More(3)
	load.Check()
}

// A restart of each node in good order breaks no transaction, and holds nobody up
// for more than a second.
func TestRestartEach(t *testing.T) {
	notShort(t)
	c := Started(t, 3, Options{})
	load := c.Load(c.Nodes()...)
	load.More(3)
	for i, n := range c.Nodes() {
		load.Mark()
		n.Stop()
		n.Start()
		c.Settle()
		for u, b := range load.Ledgers() {
			t.Logf("node %d: %s: gap %v", i+1, u, b.Gap.Round(time.Millisecond))
			if most := within(time.Second); b.Gap > most {
				t.Errorf("node %d: %s had no delivery for %v, want at most %v", i+1, u, b.Gap, most)
			}
		}
	}
	load.Check()
	load.NoFailures()
}

// rcpt is the reply to RCPT for a user, and how long it took.
func rcpt(t *testing.T, n *Node, user string) (reply string, took time.Duration) {
	t.Helper()
	d, err := n.Dial("smtp")
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	for _, c := range []string{"EHLO client.example.net", "MAIL FROM:<carol@example.net>"} {
		if _, err := d.SMTP(c); err != nil {
			t.Fatal(err)
		}
	}
	began := time.Now()
	reply, err = d.SMTP("RCPT TO:<" + user + ">")
	if reply == "" {
		t.Fatal(err)
	}
	return reply, time.Since(began)
}

// refusedWithin asks for a user until RCPT is refused, for at most most, and then
// once more.
func refusedWithin(t *testing.T, n *Node, user string, most time.Duration) {
	t.Helper()
	for began := time.Now(); ; {
		reply, took := rcpt(t, n, user)
		if limit := within(2*time.Second + 200*time.Millisecond); took > limit {
			t.Errorf("RCPT for %s waited %v, want at most 2 s", user, took)
		}
		if strings.HasPrefix(reply, "451 4.3.0") {
			if since := time.Since(began); since > within(most) {
				t.Errorf("RCPT for %s is refused after %v, want %v", user, since, most)
			}
			break
		}
		if time.Since(began) > patience {
			t.Fatalf("RCPT for %s: %q for %v", user, reply, patience)
		}
	}
	if reply, took := rcpt(t, n, user); !strings.HasPrefix(reply, "451 4.3.0") || took > within(50*time.Millisecond) {
		t.Errorf("RCPT for %s: %q after %v, want 451 4.3.0 at once", user, reply, took)
	}
}

// refusedInWords looks at what clients of a node hear of a user whose shard has no
// quorum, and that another user of the same transaction is not affected (L-04, I-14,
// P-04).
func refusedInWords(t *testing.T, n *Node, lost, well string) {
	t.Helper()
	talk := func(service string, steps ...string) {
		t.Helper()
		d, err := n.Dial(service)
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		for i := 0; i < len(steps); i += 2 {
			got, err := d.Ask(steps[i])
			if !strings.HasPrefix(got, steps[i+1]) {
				t.Errorf("%s: %q: %q (%v), want %q", service, steps[i], got, err, steps[i+1])
			}
		}
	}
	for _, smtp := range [][2]string{{"smtp", "EHLO"}, {"lmtp", "LHLO"}} {
		talk(smtp[0], smtp[1]+" client.example.net", "250 ", "MAIL FROM:<carol@example.net>", "250 2.1.0",
			"RCPT TO:<"+well+">", "250 2.1.5", "RCPT TO:<nobody@example.org>", "550 5.1.1", "RCPT TO:<"+lost+">", "451 4.3.0", "RSET", "250 ", "QUIT", "221 ")
	}
	talk("imap", "a LOGIN "+lost+" secret", "a NO [UNAVAILABLE]", "a LOGIN "+lost+" wrong", "a NO [AUTHENTICATIONFAILED]", "a LOGIN "+well+" secret", "a OK")
	talk("pop3", "USER "+lost, "+OK", "PASS secret", "-ERR [SYS/TEMP]")
}

// With one replica, a dead node costs its own users alone: they are refused at
// RCPT, within a second of a kill and four of a pulled cable, and nobody waits for
// it (design section 8).
func TestOneReplica(t *testing.T) {
	notShort(t)
	c := Started(t, 3, Options{Replicas: 1})
	victim, others := leaderOf(t, c, Users()[0])
	led, rest := ledBy(t, c, victim)
	if len(rest) == 0 {
		t.Fatal("one node leads all shards")
	}
	load := c.Load(others...)
	load.More(2)
	load.Mark()
	victim.Kill()
	refusedWithin(t, others[0], led[0], time.Second)
	refusedWithin(t, others[1], led[0], time.Second)
	refusedInWords(t, others[0], led[0], rest[0])
	began := load.Ledgers()
	for _, u := range rest {
		c.WaitFor("others get mail", func() bool { return len(load.Ledgers()[u].Acked) > len(began[u].Acked)+5 })
		if b := load.Ledgers()[u]; b.Gap > within(time.Second) || len(b.Refused) > 0 {
			t.Errorf("%s, of another node, had no delivery for %v, refused %q", u, b.Gap, b.Refused)
		}
	}
	victim.Start()
	c.WaitFor("the users of the dead node get mail again", func() bool { r, _ := rcpt(t, others[0], led[0]); return r[0] == '2' })
	load.More(2)
	load.Mark()
	c.Unplug(victim)
	refusedWithin(t, others[0], led[0], 4*time.Second)
	for _, u := range rest {
		if b := load.Ledgers()[u]; b.Gap > within(time.Second) {
			t.Errorf("%s, of another node, had no delivery for %v", u, b.Gap)
		}
	}
	c.Heal()
	load.More(2)
	load.Check()
}

// The smaller side of a split acknowledges nothing, the larger goes on, and when
// they are one again all is there.
func TestSplit(t *testing.T) {
	takesLong(t)
	c := Started(t, 3, Options{})
	alone, others := leaderOf(t, c, Users()[0])
	load := c.Load(others...)
	load.More(3)
	c.Split([]*Node{alone}, others)
	refusedWithin(t, alone, Users()[0], 4*time.Second)
	load.More(5)
	if err := alone.Send(Users()[0], "not here"); err == nil {
		t.Error("a node alone acknowledged a message")
	}
	c.Heal()
	c.Settle()
	load.Through(c.Nodes()...)
	load.More(3)
	load.Check()
}

// Three new nodes with the same list make one cluster, whatever the order they
// come up in. The first of them, wiped, comes back as a new node of that cluster
// and never makes a second one, also when the others are away.
func TestInit(t *testing.T) {
	notShort(t)
	c := New(t, Options{Configure: func(cfg *node.Config) { cfg.Cluster.Init = true }})
	var list []string
	for range 3 {
		list = append(list, c.Node().PeerAddr())
	}
	nodes := c.Nodes()
	started := make(chan error, len(nodes))
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for _, n := range slices.Backward(nodes) {
		n.Config.Cluster.Join = list
		go func() { started <- n.TryStart(ctx) }()
	}
	for range nodes {
		if err := <-started; err != nil {
			t.Fatal(err)
		}
	}
	c.AddUsers()
	c.Settle()
	cluster := nodes[0].Status().Cluster
	for i, n := range nodes {
		if got := n.Status().Cluster; got != cluster {
			t.Errorf("node %d is of cluster %s, the first of %s", i+1, got, cluster)
		}
	}
	if !*long {
		return
	}
	load := c.Load(nodes[1:]...)
	load.More(2)
	was := nodes[0].ID()
	nodes[0].Kill()
	nodes[0].Wipe()
	load.Stop()
	nodes[1].Kill()
	nodes[2].Kill()
	alone, stop := context.WithTimeout(t.Context(), 3*time.Second)
	defer stop()
	if err := nodes[0].TryStart(alone); err == nil {
		t.Fatal("a wiped node started by itself")
	}
	go func() { started <- nodes[0].TryStart(ctx) }()
	nodes[1].Start()
	nodes[2].Start()
	if err := <-started; err != nil {
		t.Fatal(err)
	}
	if got := nodes[0].Status().Cluster; got != cluster || nodes[0].ID() == was {
		t.Errorf("the wiped node is %s of cluster %s; it was %s of %s", nodes[0].ID(), got, was, cluster)
	}
	load.Check()
}

// Replicas of a node that is gone for longer than rebuild_after are made elsewhere;
// the node, its disk wiped, comes back as a new one.
func TestRebuild(t *testing.T) {
	takesLong(t)
	c := Started(t, 4, Options{Configure: func(cfg *node.Config) { cfg.Cluster.RebuildAfter = node.Duration(2 * time.Second) }})
	victim, others := leaderOf(t, c, Users()[0])
	was := victim.ID()
	load := c.Load(others...)
	load.More(2)
	victim.Kill()
	c.WaitFor("its replicas are elsewhere", func() bool { return !holds(others[0].Status(), was) })
	c.Settle()
	victim.Wipe()
	victim.Start()
	if victim.ID() == was {
		t.Error("a wiped node has its old id")
	}
	c.Settle()
	load.Through(c.Nodes()...)
	load.More(2)
	load.Check()
}

// C-04: a node whose disk was put back to an older state is not believed, by nobody
// and however often it is started: it would have forgotten what it voted and what it
// vouched for. It holds nobody up, and can be replaced.
func TestC04_DiskPutBack(t *testing.T) {
	takesLong(t)
	c := Started(t, 3, Options{Shards: 2})
	old, others := c.nodes[2], c.nodes[:2]
	load := c.Load(others...)
	back := putBack(t, old)
	load.More(2)
	old.Kill()

	was := old.ID()
	back()
	for range 3 { // each start counts as one
		old.Start()
		c.WaitFor("the others refuse it", func() bool {
			for _, n := range others {
				if !slices.ContainsFunc(n.Status().Peers, func(p admin.Peer) bool { return p.Node == was.String() && p.State == "refused" }) {
					return false
				}
			}
			return old.Logged("is older than what the cluster has heard")
		})
		c.WaitFor("it takes nothing", func() bool {
			reply, _ := rcpt(t, old, Users()[0])
			return strings.HasPrefix(reply, "451 ")
		})
		load.More(2)
		old.Kill()
	}

	old.Wipe()
	old.Start()
	c.WaitFor("it is replaced by itself, as a new node", func() bool {
		m, err := Try[admin.NodeMove](t.Context(), others[0], admin.NodeReplace, admin.NodeRequest{Node: was.String(), By: old.Name()})
		return err == nil && m.Done
	})
	c.Settle()
	load.Through(c.Nodes()...)
	load.More(2)
	load.Check()
	load.NoFailures()
}

// Nodes that are restored from backups of different moments believe each other when
// they are told to, and without being told from then on.
func TestC04_AllRestored(t *testing.T) {
	takesLong(t)
	c := Started(t, 3, Options{Shards: 2})
	back := putBack(t, c.nodes[2])
	if err := c.nodes[0].Send(Users()[0], "later"); err != nil {
		t.Fatal(err)
	}
	together := func(do func(*Node) error) {
		t.Helper()
		var all sync.WaitGroup
		for _, n := range c.nodes {
			all.Go(func() {
				if err := do(n); err != nil {
					t.Errorf("node %d: %v", n.number, err)
				}
			})
		}
		all.Wait()
	}
	together(func(n *Node) error {
		n.Kill()
		return nil
	})
	back()
	for _, accept := range []bool{true, false} {
		together(func(n *Node) error {
			n.Stop()
			n.Config.Cluster.AcceptOlderDisks = accept
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			return n.TryStart(ctx)
		})
		c.Settle()
		if accept { // and not what it was put back to
			stamped(c.nodes[2], 3)
		}
	}
	if list, _, err := c.nodes[2].Inbox(Users()[0]); err != nil || len(list) != 1 {
		t.Errorf("%d messages in INBOX (%v), want one", len(list), err)
	}
}

// putBack saves a node's disk and has the node go on for a while. What it returns
// puts the disk back; the node must not run then.
func putBack(t *testing.T, n *Node) func() {
	t.Helper()
	data, backup := n.Config.Node.Data, filepath.Join(t.TempDir(), "backup")
	stamped(n, 1)
	n.Stop()
	copyFolder(t, data, backup)
	n.Start()
	stamped(n, 2)
	return func() {
		t.Helper()
		n.Wipe()
		copyFolder(t, backup, data)
	}
}

// stamped waits until the cluster has had a stamp of the node's disk.
func stamped(n *Node, count int) {
	n.cluster.t.Helper()
	n.cluster.WaitFor("the cluster knows the stamp", func() bool {
		return n.Logged(fmt.Sprintf("the cluster knows the stamp of this node's disk\" component=node node=%s count=%d\n", n.Name(), count))
	})
}

func copyFolder(t *testing.T, from, to string) {
	t.Helper()
	if out, err := exec.Command("cp", "-a", from, to).CombinedOutput(); err != nil {
		t.Fatalf("copy %s: %v: %s", from, err, out)
	}
}

// holds reports whether a node is a member of any shard's group, or should be.
func holds(s admin.Status, id covey.NodeID) bool {
	for _, sh := range s.Shards {
		if slices.Contains(sh.Wanted, id.String()) {
			return true
		}
		for _, r := range sh.Replicas {
			if r.Node == id.String() && !r.Learner {
				return true
			}
		}
	}
	return false
}

// Draining moves all away from a node, which can be removed then; one of three
// cannot, but be replaced by a fourth.
func TestDrainReplaceRemove(t *testing.T) {
	takesLong(t)
	c := Started(t, 3, Options{})
	load := c.Load(c.Nodes()...)
	old, others := leaderOf(t, c, Users()[0])
	if _, err := Try[admin.NodeMove](t.Context(), others[0], admin.NodeRemove, admin.NodeRequest{Node: old.Name()}); covey.KindOf(err) != covey.Denied {
		t.Errorf("remove one of three: %v, want Denied", err)
	}
	fourth := c.Node()
	fourth.Start()
	until := func(op string, req admin.NodeRequest) {
		t.Helper()
		c.WaitFor(op, func() bool { return Call[admin.NodeMove](t, others[0], op, req).Done })
	}
	load.Through(append(slices.Clone(others), fourth)...)
	load.More(2)
	until(admin.NodeReplace, admin.NodeRequest{Node: old.Name(), By: fourth.Name()})
	old.Stop()
	c.Settle()
	if holds(others[0].Status(), old.ID()) {
		t.Error("the node that was replaced still holds a shard")
	}
	fifth := c.Node()
	fifth.Start()
	c.Settle()
	until(admin.NodeDrain, admin.NodeRequest{Node: fourth.Name()})
	load.Through(append(slices.Clone(others), fifth)...) // a node that is no member any more takes nothing
	load.More(2)
	until(admin.NodeRemove, admin.NodeRequest{Node: fourth.Name()})
	fourth.Stop()
	c.Settle()
	load.More(2)
	load.Check()
	load.NoFailures()
}

// Nodes get a newer program one after the other, under load. Nobody uses what it
// brings before all have it, and then all do.
func TestUpgrade(t *testing.T) {
	takesLong(t)
	c := New(t, Options{Shards: 2})
	for range 3 {
		n := c.Node()
		n.Level = 1
		n.Start()
	}
	c.AddUsers()
	c.Settle()
	load := c.Load(c.Nodes()...)
	for _, n := range c.Nodes() {
		for _, other := range c.Nodes() {
			if other.Logged("the cluster knows the stamp") {
				t.Errorf("node %d has a stamp before all nodes know of any", other.number)
			}
		}
		load.More(2)
		n.Stop()
		n.Level = 0
		n.Start()
		c.Settle()
	}
	for _, n := range c.Nodes() {
		stamped(n, 1)
	}
	load.More(2)
	load.Check()
	load.NoFailures()
}

// Everybody has the directory: five nodes vote on it, more have a copy. What is
// changed through any node is known to all.
func TestDirectoryEverywhere(t *testing.T) {
	takesLong(t)
	c := Started(t, 6, Options{Shards: 2})
	voters, learners := 0, 0
	for _, r := range c.nodes[5].Status().Shards[covey.DirectoryShard].Replicas {
		if r.Learner {
			learners++
		} else {
			voters++
		}
	}
	if voters != 5 || learners != 1 {
		t.Errorf("%d voters and %d learners, want 5 and 1", voters, learners)
	}
	for i, n := range c.Nodes() {
		hash, name := saltedHash("secret"), fmt.Sprintf("by%d@example.org", i)
		Call[admin.User](t, n, admin.UserAdd, admin.UserRequest{Address: name, Hash: &hash})
		for _, other := range c.Nodes() {
			c.WaitFor("the account is known", func() bool { r, _ := rcpt(t, other, name); return r[0] == '2' })
		}
	}
}

// A node that was removed while it was away has no part in the cluster when it comes
// back: it takes nothing, bounces nothing, and says why.
func TestRemovedNodeComesBack(t *testing.T) {
	takesLong(t)
	c := Started(t, 4, Options{Shards: 2, Configure: func(cfg *node.Config) { cfg.Cluster.RebuildAfter = node.Duration(time.Second) }})
	gone := c.nodes[3]
	gone.Stop()
	first := c.nodes[0]
	c.WaitFor("nothing is left on the node", func() bool {
		m, err := Try[admin.NodeMove](t.Context(), first, admin.NodeRemove, admin.NodeRequest{Node: gone.Name()})
		return err == nil && m.Done
	})
	gone.Start()
	// At first it may not know whom it does not reach, but it takes nothing.
	if err := gone.Send(Users()[0], "to nobody"); err == nil || !strings.Contains(err.Error(), "451 ") {
		t.Errorf("a message to the removed node: %v, want 451", err)
	}
	c.WaitFor("RCPT for a user is refused for now", func() bool {
		reply, _ := rcpt(t, gone, Users()[0])
		return strings.HasPrefix(reply, "451 ")
	})
	if reply, _ := rcpt(t, gone, "nobody@example.org"); !strings.HasPrefix(reply, "451 ") {
		t.Errorf("RCPT for nobody at the removed node: %q, want 451", reply)
	}
	c.WaitFor("it says that it is no member", func() bool { return gone.Logged("not a member of the cluster") })
	if s := first.Status(); len(s.Peers) != 3 {
		t.Errorf("%d nodes, want 3", len(s.Peers))
	}
	gone.Kill()
	c.Settle()
}
