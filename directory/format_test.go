package directory

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/storage/seglog"
)

// oldDatabase makes the database of testdata/format1.sql, which a program of
// format 1 wrote.
func oldDatabase(t *testing.T) (path string) {
	t.Helper()
	script, err := os.ReadFile(filepath.Join("testdata", "format1.sql"))
	if err != nil {
		t.Fatal(err)
	}
	path = filepath.Join(t.TempDir(), "directory.db")
	conn, err := sqlite.OpenConn(path, sqlite.OpenReadWrite, sqlite.OpenCreate)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := sqlitex.ExecuteScript(conn, string(script), nil); err != nil {
		t.Fatal(err)
	}
	return path
}

// tables returns the rows of a database's old tables, columns that were added left
// out.
func oldRows(t *testing.T, s *State) (rows []string) {
	t.Helper()
	for _, list := range []string{
		"SELECT 'meta', applied, hex(cluster), shards, next_account, next_domain, accounts, unverified, quota, postmaster_local, postmaster_domain FROM meta",
		"SELECT 'domain', * FROM domain", "SELECT 'account', * FROM account", "SELECT 'alias', * FROM alias", "SELECT 'removed', * FROM removed",
	} {
		err := s.db.query(list, nil, func(q *sqlite.Stmt) error {
			var row []string
			for i := range q.ColumnCount() {
				row = append(row, q.ColumnText(i))
			}
			rows = append(rows, strings.Join(row, "|"))
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return rows
}

// A database of format 1 loses nothing, has the defaults of what it lacked, and
// becomes a cluster's.
func TestFormat1Opens(t *testing.T) {
	path := oldDatabase(t)
	for opened := range 2 {
		s := openState(t, path)
		want := []string{
			"meta|120|01000000000000000000000000000000|3|11|3|7|1|22|user6|a.example",
			"domain|1|a.example|1700000000|2|1", "domain|2|b.example|1700000000|5|0",
			"account|2|2|user1|2|{SSHA.B64}UZoVFjlUuqMXb9iB5g3PCRwAwmPuK4Ii|v|0|0|1700000000",
			"account|3|1|user6|3|{SSHA.B64}UZoVFjlUuqMXb9iB5g3PCRwAwmPuK4Ii|v|0|0|1700000000",
			"account|4|2|user7|1|||4|0|1700000000",
			"account|6|2|user13|3|{SSHA.B64}UZoVFjlUuqMXb9iB5g3PCRwAwmPuK4Ii|v|10|0|1700000000",
			"account|7|1|user18|1|{SSHA}TUAWaBXvNE7O36NutGSJo/XIE0HMC7+c||0|0|1700000000",
			"account|8|2|user19|2|||16|0|1700000000", "account|10|2|user25|1|||22|0|1700000000",
			"alias|1|info|0|user6|a.example", "alias|1|info|1|user7|b.example",
			"removed|1|1|user0|a.example|1700000000", "removed|5|2|user12|a.example|1700000000", "removed|9|3|user24|a.example|1700000000",
		}
		if diff := cmp.Diff(want, oldRows(t, s)); diff != "" {
			t.Errorf("opened %d times, rows (-format 1 +now):\n%s", opened+1, diff)
		}
		if m := s.meta; m.level != 1 || m.replicas != 3 || m.rebuild.Minutes() != 10 {
			t.Errorf("level %d, %d replicas, rebuilt after %v", m.level, m.replicas, m.rebuild)
		}
		for _, err := range s.Check(t.Context()) {
			t.Error(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	s := openState(t, path)
	everywhere := []covey.NodeID{1}
	for i, c := range []Command{
		AddNode{ID: 1, Key: bytes.Repeat([]byte{1}, 32), NodeInfo: NodeInfo{Level: Level}},
		SetShardMap{Changes: map[covey.ShardID][]covey.NodeID{0: everywhere, 1: everywhere, 2: everywhere, 3: everywhere}},
	} {
		result := s.Apply([]seglog.Command{{Index: uint64(121 + i), Data: Encode(c)}})[0]
		if err, refused := result.(error); refused {
			t.Errorf("%T: %v", c, err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = openState(t, path)
	if s.cluster.epoch != 1 || len(s.cluster.members) != 1 {
		t.Errorf("epoch %d, members %v", s.cluster.epoch, s.cluster.members)
	}
}

// A new database and one that grew up have the same tables.
func TestFormatsMeet(t *testing.T) {
	columns := func(s *State) (list []string) {
		err := s.db.query(`SELECT m.name, c.name, c.type, c."notnull", c.dflt_value, c.pk FROM sqlite_schema m, pragma_table_info(m.name) c ORDER BY 1, c.cid`,
			nil, func(q *sqlite.Stmt) error {
				list = append(list, fmt.Sprint(q.ColumnText(0), " ", q.ColumnText(1), " ", q.ColumnText(2), q.ColumnInt64(3), q.ColumnText(4), q.ColumnInt64(5)))
				return nil
			})
		if err != nil {
			t.Fatal(err)
		}
		return list
	}
	young, old := openState(t, filepath.Join(t.TempDir(), "d")), openState(t, oldDatabase(t))
	got := columns(old)
	if diff := cmp.Diff(columns(young), got); diff != "" || len(got) < 40 {
		t.Errorf("%d columns (-new +old):\n%s", len(got), diff)
	}
}

// What is begun and not ended leaves the old format behind.
func TestFormatIsMadeAtOnce(t *testing.T) {
	path := oldDatabase(t)
	conn, err := sqlite.OpenConn(path, sqlite.OpenReadWrite)
	if err != nil {
		t.Fatal(err)
	}
	// The last statement of the step to format 2 fails.
	if err := sqlitex.ExecuteTransient(conn, "CREATE TABLE shard (in_the_way)", nil); err != nil {
		t.Fatal(err)
	}
	if err := conn.Close(); err != nil {
		t.Fatal(err)
	}
	if s, err := OpenState(Config{Path: path}); err == nil || !strings.Contains(err.Error(), " of format 1") {
		t.Fatalf("OpenState = %v, %v", s, err)
	}
	if conn, err = sqlite.OpenConn(path, sqlite.OpenReadWrite); err != nil {
		t.Fatal(err)
	}
	if err := sqlitex.ExecuteTransient(conn, "DROP TABLE shard", nil); err != nil {
		t.Fatal(err)
	}
	if err := conn.Close(); err != nil {
		t.Fatal(err)
	}
	if s := openState(t, path); s.Applied() != 120 {
		t.Errorf("Applied = %d", s.Applied())
	}
}

func TestCheckFindsInTheCluster(t *testing.T) {
	for _, tt := range []struct{ name, damage, want string }{
		{"stranger", "UPDATE shard SET voters = '0000000000000001 0000000000000009' WHERE id = 2", "voters of shard 2: there is no node 0000000000000009"},
		{"removed", "UPDATE node SET state = 2 WHERE id = 1", "node 0000000000000001 was removed"},
		{"nobody", "UPDATE shard SET voters = '' WHERE id = 3", "shard 3 has to have a voter"},
		{"no id", "UPDATE shard SET voters = 'x'", "voters of shard 0: node id"},
		{"key", "UPDATE node SET key = x'00' WHERE id = 2", "key of 1 octets"},
		{"shard lost", "DELETE FROM shard WHERE id = 1", "3 shards of 3 and the directory"},
		{"shard made up", "INSERT INTO shard VALUES (9, 1, '0000000000000001')", "there is no shard 9"},
		{"memory", "UPDATE node SET zone = 'x'", "not in memory"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := openState(t, filepath.Join(t.TempDir(), "directory.db"))
			s.Apply(history(20))
			if found := s.Check(t.Context()); len(found) > 0 {
				t.Fatalf("Check before: %v", found)
			}
			s.mu.Lock()
			err := s.db.exec(tt.damage)
			s.mu.Unlock()
			if err != nil {
				t.Fatal(err)
			}
			if found := fmt.Sprint(s.Check(t.Context())); !strings.Contains(found, tt.want) {
				t.Errorf("Check = %s, want %q among it", found, tt.want)
			}
		})
	}
}

// However many come and go, the list does not grow beyond bounds.
func TestNodesAreBounded(t *testing.T) {
	for _, tt := range []struct {
		nodes covey.NodeID
		state NodeState
		want  string
	}{
		{MaxNodes - 1, Active, "<nil>"},
		{MaxNodes, Draining, "there are 1024 nodes"},
		{maxEver - 1, Removed, "<nil>"},
		{maxEver, Removed, "16384 nodes have joined"},
	} {
		s := openState(t, filepath.Join(t.TempDir(), "directory.db"))
		s.Apply(history(1)) // founds
		full := &cluster{known: make(map[covey.NodeID]Node)}
		for id := range tt.nodes {
			full.known[id+1] = Node{ID: id + 1, State: tt.state}
		}
		full.listMembers()
		s.cluster = full
		c := AddNode{ID: tt.nodes + 1, Key: make([]byte, 32), NodeInfo: NodeInfo{Level: Level}}
		if got := fmt.Sprint(s.Apply([]seglog.Command{{Index: 1000, Data: Encode(c)}})[0]); !strings.Contains(got, tt.want) {
			t.Errorf("one more than %d %s nodes: %s, want %q", tt.nodes, tt.state, got, tt.want)
		}
	}
}

// After going back to what was committed, watchers look at everything again.
func TestRecoverTellsWatchers(t *testing.T) {
	s := openState(t, filepath.Join(t.TempDir(), "directory.db"))
	cmds := history(20)
	s.Apply(cmds)
	var told []Event
	s.watchers = append(s.watchers, func(e Event) { told = append(told, e) })
	err := s.Recover(func(_ uint64, apply func([]seglog.Command) []any) error {
		apply(cmds)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]Event{everything}, told); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
}
