package nodetest

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/node"
	"github.com/covey-mail/covey/node/admin"
)

// send delivers a message with a text of its own.
func (n *Node) send(t *testing.T, to, text string) {
	t.Helper()
	d, err := n.Dial("smtp")
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	for _, c := range []string{
		"EHLO client.example.net", "MAIL FROM:<carol@example.net>", "RCPT TO:<" + to + ">", "DATA", "Subject: x\r\n\r\n" + text + "\r\n.", "QUIT",
	} {
		if _, err := d.SMTP(c); err != nil {
			t.Fatalf("%.20s: %v", c, err)
		}
	}
}

// texts returns all of a user's INBOX, as IMAP shows it.
func (n *Node) texts(t *testing.T, user string) string {
	t.Helper()
	d, err := n.Login(user)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if _, err := d.IMAP("EXAMINE INBOX"); err != nil {
		t.Fatal(err)
	}
	lines, err := d.IMAP("FETCH 1:* BODY.PEEK[]")
	if err != nil {
		t.Errorf("%s at node %d: %v", user, n.number, err)
	}
	return strings.Join(lines, "\n")
}

// damage flips a bit of each text in the sealed segments of a node that does not
// run.
func (n *Node) damage(t *testing.T, texts []string) {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(n.Config.Node.Data, "log", "*.log"))
	if err != nil || len(names) < 2 {
		t.Fatalf("segments %v, error %v", names, err)
	}
	slices.Sort(names)
	for _, name := range names[:len(names)-1] {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, text := range texts {
			for at := bytes.Index(data, []byte(text)); at >= 0; at = bytes.Index(data, []byte(text)) { // the summary has it too
				data[at] ^= 1
			}
		}
		if err := os.WriteFile(name, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// Damaged messages are read all the same, wherever and by whom, and are whole
// again soon: read or not.
func TestDamagedBodies(t *testing.T) {
	c := Started(t, 3, Options{Configure: func(cfg *node.Config) { cfg.Limits.SegmentSize = 1 << 20 }})
	victim := c.Nodes()[0]
	var texts []string
	for _, u := range Users() {
		text := "text of " + u
		texts = append(texts, text)
		victim.send(t, u, text)
	}
	// The newest segment is looked at by every start, and this one must not be it.
	for range 2 {
		for _, u := range Users() {
			victim.send(t, u, strings.Repeat(strings.Repeat("x", 70)+"\r\n", 2000))
		}
	}
	c.Settle()
	if res := Call[admin.CheckResult](t, victim, admin.NodeCheck, admin.Empty{}); len(res.Problems) > 0 {
		t.Fatalf("before: %q", res.Problems)
	}
	victim.Stop()
	victim.damage(t, texts)
	victim.Start()
	c.Settle()
	for i, u := range Users() {
		for _, n := range c.Nodes() {
			if got := n.texts(t, u); !strings.Contains(got, texts[i]) {
				t.Errorf("%s at node %d reads %.500q", u, n.number, got)
			}
		}
	}
	c.WaitFor("all bodies are whole", func() bool {
		return len(Call[admin.CheckResult](t, victim, admin.NodeCheck, admin.Empty{}).Problems) == 0
	})
	if got := strings.Count(victim.log.String(), "a damaged body was repaired"); got < len(texts) {
		t.Errorf("%d bodies were repaired, want %d: was there any damage?", got, len(texts))
	}
}

// A replica that has gone wrong is told of by whoever is asked, and by the status
// without being asked.
func TestReplicasDiffer(t *testing.T) {
	c := Started(t, 3, Options{Shards: 2})
	nodes := c.Nodes()
	compare := func(n *Node) []admin.Comparison {
		return Call[[]admin.Comparison](t, n, admin.Compare, admin.Empty{})
	}
	for _, u := range Users() {
		nodes[0].send(t, u, "hello")
	}
	for _, n := range nodes {
		list := compare(n)
		if len(list) != 3 {
			t.Fatalf("%d shards were compared", len(list))
		}
		for _, s := range list {
			if s.Differ || s.Index == 0 || len(s.Replicas) != 3 || s.Replicas[0].Hash == "" || s.Replicas[1].Hash != s.Replicas[0].Hash || s.Replicas[2].Hash != s.Replicas[0].Hash {
				t.Errorf("at node %d: %+v", n.number, s)
			}
		}
	}
	victim := nodes[1]
	victim.Stop()
	if s := compare(nodes[0])[1]; s.Differ || strings.Count(fmt.Sprint(s), "DIFFERS") > 0 || !slices.ContainsFunc(s.Replicas, func(r admin.ComparedReplica) bool {
		return r.Node == victim.Name() && r.Hash == "" && r.Error != ""
	}) {
		t.Errorf("with one node down: %+v", s)
	}
	paths, err := filepath.Glob(filepath.Join(victim.Config.Node.Data, "shards", "*1*"))
	if err != nil || len(paths) != 1 {
		t.Fatalf("databases of shard 1: %v, error %v", paths, err)
	}
	execute(t, paths[0], "UPDATE meta SET hash = hash + 1")
	victim.Start()
	c.Settle()
	for _, n := range nodes {
		for _, s := range compare(n) {
			for _, r := range s.Replicas {
				if want := s.Shard == 1 && r.Node == victim.Name(); r.Differs != want || r.Hash == "" {
					t.Errorf("at node %d: shard %d: %+v", n.number, s.Shard, r)
				}
			}
		}
	}
	c.WaitFor("the status tells", func() bool {
		return slices.ContainsFunc(nodes[2].Status().Shards, func(sh admin.Shard) bool {
			return sh.ID == covey.ShardID(1) && slices.Equal(sh.Differ, []string{victim.Name()})
		})
	})
	if !slices.ContainsFunc(nodes, func(n *Node) bool { return n.Logged("replicas of a shard differ") }) {
		t.Error("no log tells")
	}
}

// execute runs SQL on a database that is not open.
func execute(t *testing.T, path, sql string) {
	t.Helper()
	conn, err := sqlite.OpenConn(path, sqlite.OpenReadWrite)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := sqlitex.ExecuteScript(conn, sql, nil); err != nil {
		t.Fatal(err)
	}
}
