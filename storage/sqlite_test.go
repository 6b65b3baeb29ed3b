package storage

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/storage/seglog"
)

func open(t testing.TB, cfg Config) *shard {
	t.Helper()
	s, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s.(*shard)
}

// deliver returns a command that puts a message into an account's INBOX.
func deliver(index uint64, a covey.AccountID) seglog.Command {
	return entry(index, Deliver{
		ID: covey.DeliveryID{Node: 1, Seq: index}, Time: noon, Confirmed: []covey.DeliveryID{{Node: 1, Seq: index - 1}},
		Recipients: []Recipient{{Account: a, Mailbox: Inbox}}, Summary: []byte("s"), Body: Body{Inline: []byte("x"), Size: 1},
	})
}

func TestFilesAreTheOwners(t *testing.T) {
	dir := t.TempDir()
	s := open(t, Config{Path: filepath.Join(dir, "shard")})
	s.Apply([]seglog.Command{deliver(1, 1)})
	if _, err := s.Checkpoint(); err != nil {
		t.Fatal(err)
	}
	files, err := os.ReadDir(dir)
	if err != nil || len(files) == 0 {
		t.Fatalf("files %v, error %v", files, err)
	}
	for _, f := range files {
		if info, err := f.Info(); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v, error %v", f.Name(), info.Mode(), err)
		}
	}
}

func TestB04_ForeignDatabase(t *testing.T) {
	for _, c := range []struct {
		name, sql string
		kind      covey.Kind
	}{
		{"trigger", "CREATE TRIGGER bad AFTER INSERT ON message BEGIN DELETE FROM meta; END", covey.Corrupt},
		{"view", "DROP TABLE summary; CREATE VIEW summary AS SELECT 1 AS body, 'x' AS summary", covey.Corrupt},
		{"index", "CREATE INDEX more ON message (body)", covey.Corrupt},
		{"column", "ALTER TABLE message ADD COLUMN more INTEGER", covey.Corrupt},
		{"version", "PRAGMA user_version = 4", covey.Corrupt},
		{"application", "PRAGMA application_id = 1", covey.Corrupt},
		{"other shard", "UPDATE meta SET shard = 9", covey.Corrupt},
		{"extents", "INSERT INTO chunk VALUES (1, 1, 1, 1, 1, x'ff')", covey.Corrupt},
		{"delivery", "INSERT INTO delivered VALUES (1, x'ff')", covey.Corrupt},
		{"queue", "INSERT INTO queue VALUES (1, 1, x'ff')", covey.Corrupt},
		{"heard", "INSERT INTO heard VALUES (0, 1, x'ff')", covey.Corrupt},
		{"heard too much", "INSERT INTO heard VALUES (0, 2, x'000000000000000000')", covey.Corrupt},
		{"heard in part", "INSERT INTO heard VALUES (0, 1, x'000000000000000000'); INSERT INTO heard VALUES (2, 3, x'000000000000000000')", covey.Corrupt},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := Config{Path: filepath.Join(t.TempDir(), "shard")}
			if err := open(t, cfg).Close(); err != nil {
				t.Fatal(err)
			}
			conn, err := sqlite.OpenConn(cfg.Path, sqlite.OpenReadWrite)
			if err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(sqlitex.ExecuteScript(conn, c.sql, nil), conn.Close()); err != nil {
				t.Fatal(err)
			}
			if s, err := Open(cfg); !errors.Is(err, c.kind) {
				t.Errorf("opened %v, error %v; want %q", s, err, c.kind)
			}
		})
	}
	t.Run("no database", func(t *testing.T) {
		cfg := Config{Path: filepath.Join(t.TempDir(), "shard")}
		if err := os.WriteFile(cfg.Path, []byte(strings.Repeat("not a database ", 1000)), 0o600); err != nil {
			t.Fatal(err)
		}
		if s, err := Open(cfg); !errors.Is(err, covey.Corrupt) {
			t.Errorf("opened %v, error %v", s, err)
		}
	})
	t.Run("trusted_schema", func(t *testing.T) {
		d := open(t, Config{Path: filepath.Join(t.TempDir(), "shard")}).m.t.(*database)
		if d.query("PRAGMA trusted_schema").one() != 0 {
			t.Error("the schema is trusted")
		}
		d.change("UPDATE sqlite_schema SET sql = ''").run()
		if d.err == nil {
			t.Error("the schema can be written to")
		}
	})
}

func TestOpenTwice(t *testing.T) {
	cfg := Config{Path: filepath.Join(t.TempDir(), "shard")}
	open(t, cfg)
	if s, err := Open(cfg); !errors.Is(err, covey.InUse) {
		t.Errorf("opened %v a second time, error %v", s, err)
	}
	cfg.Path = filepath.Join(cfg.Path, "below", "a file")
	if s, err := Open(cfg); err == nil {
		t.Errorf("opened %v where there is no folder", s)
	}
}

func TestOldSQLite(t *testing.T) {
	for s, want := range map[string]bool{"3.53.3": true, "3.53.4": false, "3.54.1": false, "4.0.0": false, "": true, "x": true} {
		if got := versionNumber(s) < oldestSQLite; got != want {
			t.Errorf("version %q: too old is %v", s, got)
		}
	}
}

// surviving returns the Applied that would be there if the process ended now.
func surviving(t *testing.T, s *shard) uint64 {
	t.Helper()
	path := s.cfg.Path
	cfg := Config{Path: filepath.Join(t.TempDir(), "copy")}
	for _, suffix := range []string{"", "-wal"} {
		data, err := os.ReadFile(path + suffix)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(cfg.Path+suffix, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c := open(t, cfg)
	defer c.Close()
	for _, err := range c.Check(t.Context()) {
		t.Error(err)
	}
	return c.Applied()
}

func TestCommitIsDue(t *testing.T) {
	t.Run("commands", func(t *testing.T) {
		s := open(t, Config{Path: filepath.Join(t.TempDir(), "shard"), Clock: func() time.Time { return noon }})
		for i := range uint64(commitCommands*2 + 10) {
			s.Apply([]seglog.Command{deliver(i+1, covey.AccountID(i%7+1))})
		}
		if got := surviving(t, s); got != commitCommands*2 {
			t.Errorf("a crash leaves %d commands, want %d", got, commitCommands*2)
		}
		if _, err := s.Checkpoint(); err != nil {
			t.Fatal(err)
		}
		if got := surviving(t, s); got != commitCommands*2+10 {
			t.Errorf("a crash after a checkpoint leaves %d commands", got)
		}
	})
	t.Run("time", func(t *testing.T) {
		now := noon
		s := open(t, Config{Path: filepath.Join(t.TempDir(), "shard"), Clock: func() time.Time { return now }})
		s.Apply([]seglog.Command{deliver(1, 1), deliver(2, 1)})
		now = now.Add(commitAfter)
		s.Apply([]seglog.Command{deliver(3, 1), deliver(4, 1)})
		if got := surviving(t, s); got != 3 {
			t.Errorf("a crash leaves %d commands, want 3", got)
		}
	})
	t.Run("bytes", func(t *testing.T) {
		s := open(t, Config{Path: filepath.Join(t.TempDir(), "shard"), Clock: func() time.Time { return noon }})
		data := make([]byte, ChunkSize)
		for i := range uint64(commitBytes/ChunkSize + 1) {
			s.Apply([]seglog.Command{entry(i+1, Chunk{Upload: covey.DeliveryID{Node: 1}, N: uint32(i), Time: noon, Data: data})})
		}
		if got := surviving(t, s); got != commitBytes/ChunkSize {
			t.Errorf("a crash leaves %d commands", got)
		}
	})
}

// TestWALIsBounded commits without anyone asking for a checkpoint.
func TestWALIsBounded(t *testing.T) {
	s := open(t, Config{Path: filepath.Join(t.TempDir(), "shard")})
	summary := make([]byte, 100<<10)
	for i := range uint64(2 * walLimit / len(summary)) {
		c := Deliver{
			ID: covey.DeliveryID{Node: 1, Seq: i}, Time: noon, Recipients: []Recipient{{Account: 1, Mailbox: Inbox}},
			Summary: summary, Confirmed: []covey.DeliveryID{{Node: 1, Seq: i - 1}},
		}
		s.Apply([]seglog.Command{entry(i+1, c)})
		if i%100 == 0 {
			s.mu.Lock()
			s.commit()
			s.mu.Unlock()
		}
	}
	if st, err := os.Stat(s.cfg.Path + "-wal"); err != nil || st.Size() > walLimit*3/2 {
		t.Errorf("the write-ahead log has %d bytes, error %v", st.Size(), err)
	}
	if _, err := s.Checkpoint(); err != nil {
		t.Fatal(err)
	}
	s.Apply([]seglog.Command{deliver(s.Applied()+1, 1)})
	s.mu.Lock()
	s.commit()
	s.mu.Unlock()
	if st, err := os.Stat(s.cfg.Path + "-wal"); err != nil || st.Size() > walKept {
		t.Errorf("begun anew, the write-ahead log has %d bytes, error %v", st.Size(), err)
	}
}

// panics returns what Apply panics with.
func panics(s State, c seglog.Command) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = v.(error)
		}
	}()
	s.Apply([]seglog.Command{c})
	return nil
}

func TestApplyPanics(t *testing.T) {
	for name, spoil := range map[string]func(*shard) seglog.Command{
		"undecodable": func(*shard) seglog.Command { return seglog.Command{Index: 2, Data: []byte{9}} },
		"old index":   func(*shard) seglog.Command { return deliver(1, 1) },
		"fault of the disk": func(s *shard) seglog.Command {
			s.m.t.(*database).fail(errors.New("no disk"))
			return deliver(2, 1)
		},
		"body missing": func(s *shard) seglog.Command {
			s.m.t.(*database).change("DELETE FROM body").run()
			return entry(2, Expunge{Account: 1, Mailbox: 1, UIDs: []UIDRange{{1, 1}}})
		},
		"a bug": func(s *shard) seglog.Command {
			s.m.unconfirmed.byID = nil // as good as any
			return deliver(2, 1)
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := open(t, Config{Path: filepath.Join(t.TempDir(), "shard")})
			s.Apply([]seglog.Command{deliver(1, 1)})
			if _, err := s.Checkpoint(); err != nil {
				t.Fatal(err)
			}
			bad := spoil(s)
			if err := panics(s, bad); err == nil {
				t.Fatal("it was applied")
			}
			if name == "old index" {
				return // refused before anything was touched; the shard goes on
			}
			if err := panics(s, deliver(3, 1)); err == nil {
				t.Error("the shard goes on after a command that was not finished")
			}
			if _, err := s.Mailboxes(1); err == nil {
				t.Error("readers are served")
			}
			if _, err := s.Checkpoint(); err == nil {
				t.Error("a checkpoint succeeds")
			}
			s.Close()
			again := open(t, s.cfg)
			mb, err := again.Mailbox(1, Inbox)
			if again.Applied() != 1 || mb.Messages != 1 || err != nil {
				t.Errorf("after opening: applied %d, %+v, error %v", again.Applied(), mb, err)
			}
			for _, err := range again.Check(t.Context()) {
				t.Error(err)
			}
		})
	}
}

// fillDisk has the database grow no more, until it is opened again.
func fillDisk(s *shard) {
	d := s.m.t.(*database)
	d.query(fmt.Sprintf("PRAGMA max_page_count = %d", d.query("PRAGMA page_count").one())).run()
}

// A full disk costs nothing but that the database falls behind: no command, no
// read, and nothing that another replica would have.
func TestF21_RecoverFromAFullDisk(t *testing.T) {
	now := noon
	s := open(t, Config{Path: filepath.Join(t.TempDir(), "shard"), Clock: func() time.Time { return now }})
	healthy := OpenMemory(Config{})
	log := []seglog.Command{}
	next := func() seglog.Command {
		log = append(log, deliver(uint64(len(log)+1), covey.AccountID(len(log)%7+1)))
		return log[len(log)-1]
	}
	for range 20 {
		s.Apply([]seglog.Command{next()})
	}
	if _, err := s.Checkpoint(); err != nil {
		t.Fatal(err)
	}
	fillDisk(s)
	var fault error
	for fault == nil && len(log) < 5000 {
		now = now.Add(time.Second)
		fault = panics(s, next())
	}
	if !errors.Is(fault, covey.DiskFull) {
		t.Fatalf("after %d commands: fault %v, want covey.DiskFull", len(log), fault)
	}
	if _, err := s.Checkpoint(); !errors.Is(err, covey.DiskFull) {
		t.Errorf("checkpoint: %v, want covey.DiskFull", err)
	}
	err := s.Recover(func(after uint64, apply func([]seglog.Command) []any) error {
		if after < 20 || after >= uint64(len(log)) {
			t.Errorf("replay after %d of %d, with a checkpoint at 20", after, len(log))
		}
		apply(log[after:])
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	healthy.Apply(log)
	index, hash := s.Hash()
	if wantIndex, want := healthy.Hash(); index != wantIndex || hash != want {
		t.Errorf("at %d with hash %x, want %d with %x", index, hash, wantIndex, want)
	}
	now = now.Add(commitAfter + commitAgain)
	s.Apply([]seglog.Command{next()})
	if got := surviving(t, s); got != uint64(len(log)) {
		t.Errorf("with room again, %d of %d commands would survive", got, len(log))
	}
	for _, err := range s.Check(t.Context()) {
		t.Error(err)
	}
}

// Without room no commit is tried for a while: it would cost the replay of all
// that is not committed, each time.
func TestNoCommitRightAfterRecover(t *testing.T) {
	now := noon
	s := open(t, Config{Path: filepath.Join(t.TempDir(), "shard"), Clock: func() time.Time { return now }})
	log := make([]seglog.Command, 2*commitCommands)
	for i := range log {
		log[i] = deliver(uint64(i+1), 1)
	}
	err := s.Recover(func(_ uint64, apply func([]seglog.Command) []any) error {
		apply(log)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	last := uint64(len(log))
	for _, step := range []struct {
		wait time.Duration
		want uint64
	}{{0, 0}, {commitAgain - time.Second, 0}, {time.Second, last + 3}} {
		now = now.Add(step.wait)
		s.Apply([]seglog.Command{deliver(s.Applied()+1, 1)})
		if got := surviving(t, s); got != step.want {
			t.Errorf("after %v: %d survive, want %d", step.wait, got, step.want)
		}
	}
}

func TestRecoverFails(t *testing.T) {
	s := open(t, Config{Path: filepath.Join(t.TempDir(), "shard")})
	noEntry := errors.New("no entry")
	if err := s.Recover(func(uint64, func([]seglog.Command) []any) error { return noEntry }); !errors.Is(err, noEntry) {
		t.Errorf("error %v, want %v", err, noEntry)
	}
	if _, err := s.Mailboxes(1); !errors.Is(err, noEntry) {
		t.Errorf("readers are served what lies between, error %v", err)
	}
	if err := OpenMemory(Config{}).Recover(nil); !errors.Is(err, covey.Invalid) {
		t.Errorf("memory: %v", err)
	}
}

func TestClosed(t *testing.T) {
	for name, s := range map[string]State{
		"memory": OpenMemory(Config{}), "SQLite": open(t, Config{Path: filepath.Join(t.TempDir(), "shard")}),
	} {
		if err := s.Close(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if err := s.Close(); err != nil {
			t.Errorf("%s, a second time: %v", name, err)
		}
		if _, err := s.Account(1); !errors.Is(err, covey.Unavailable) {
			t.Errorf("%s: reading after Close: %v", name, err)
		}
		if err := panics(s, deliver(1, 1)); !errors.Is(err, covey.Unavailable) {
			t.Errorf("%s: applying after Close: %v", name, err)
		}
	}
}

// TestCheckFinds spoils each kind of row and looks whether Check tells.
func TestCheckFinds(t *testing.T) {
	for _, sql := range []string{
		"UPDATE count SET messages = 3", "UPDATE count SET unseen = 0", "UPDATE count SET bytes = 1",
		"UPDATE count SET uid_next = 2", "UPDATE count SET mod_seq = 1", "UPDATE count SET runs = 5",
		"DELETE FROM count WHERE mailbox = 1", "DELETE FROM message WHERE uid = 1", "UPDATE message SET uid = 2",
		"UPDATE message SET mailbox = 77 WHERE uid = 1", "UPDATE message SET size = 9 WHERE uid = 1",
		"UPDATE body SET refs = 2", "UPDATE body SET size = 2", "DELETE FROM body", "DELETE FROM summary",
		"DELETE FROM resident", "INSERT INTO resident VALUES (9, 9)", "UPDATE mailbox SET account = 2",
		"UPDATE mailbox SET name = 'a/b'", "UPDATE account SET validity = 1",
		"INSERT INTO expunged VALUES (1, 1, 1, 1)", "INSERT INTO chunk VALUES (1, 1, 1, 1, 1, x'01010101')",
	} {
		t.Run(sql, func(t *testing.T) {
			s := open(t, Config{Path: filepath.Join(t.TempDir(), "shard")})
			s.Apply([]seglog.Command{deliver(1, 1), deliver(2, 1)})
			if _, err := s.Checkpoint(); err != nil {
				t.Fatal(err)
			}
			if found := s.Check(t.Context()); len(found) > 0 {
				t.Fatalf("before: %v", found)
			}
			d := s.m.t.(*database)
			if d.change(sql).run(); d.err != nil {
				t.Fatal(d.err)
			}
			if found := s.Check(t.Context()); len(found) == 0 {
				t.Error("Check finds nothing wrong")
			}
		})
	}
	t.Run("live bytes", func(t *testing.T) {
		for _, s := range []*shard{open(t, Config{Path: filepath.Join(t.TempDir(), "shard")}), OpenMemory(Config{}).(*shard)} {
			s.Apply([]seglog.Command{deliver(1, 1)})
			switch tables := s.m.t.(type) {
			case *database:
				tables.used[1] = Usage{5, 1}
			case *memory:
				tables.used[1] = Usage{5, 1}
				tables.boxes[1].row.Unseen++
				tables.bodies[1].refs++
			}
			if found := s.Check(t.Context()); len(found) == 0 {
				t.Errorf("%T: Check finds nothing wrong", s.m.t)
			}
		}
	})
}

// fillInbox puts n messages into INBOX of account 1.
func fillInbox(t testing.TB, s State, n int) {
	t.Helper()
	for i := range uint64(n) {
		if r := s.Apply([]seglog.Command{deliver(i+1, 1)})[0].(*Result); r.Err != nil {
			t.Fatal(r.Err)
		}
	}
}

func TestM15_P11_LargeMailbox(t *testing.T) {
	n := 100_000
	if testing.Short() {
		n = 5_000
	}
	s := open(t, Config{Path: filepath.Join(t.TempDir(), "shard")})
	fillInbox(t, s, n)
	for name, part := range map[string]func() error{
		"P-11/view": func() error {
			mb, uids, unseen, err := s.View(1, 1)
			if len(uids) != 1 || unseen != 1 || int(mb.Messages) != n {
				t.Errorf("%+v with UIDs %v, first unseen %d", mb, uids, unseen)
			}
			return err
		},
		"P-11/sizes": func() error {
			count := 0
			err := s.Messages(t.Context(), Query{Mailbox: 1}, func(*Message) error { count++; return nil })
			if count != n {
				t.Errorf("%d messages", count)
			}
			return err
		},
		"M-15/a change": func() error {
			c, err := s.Changes(1, 1, s.m.t.mailbox(1).HighestModSeq-1)
			if len(c.Changed) != 1 {
				t.Errorf("%d messages changed", len(c.Changed))
			}
			return err
		},
	} {
		start := time.Now()
		if err := part(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if took := time.Since(start); took > 5*time.Second { // 1 s on a machine that does nothing else
			t.Errorf("%s of %d messages took %v", name, n, took)
		}
	}
}

// TestReadersBesideTheWriter is for the race detector, and for the promise that
// every reader sees a whole command.
func TestReadersBesideTheWriter(t *testing.T) {
	s := open(t, Config{Path: filepath.Join(t.TempDir(), "shard"), Mailboxes: 2})
	fillInbox(t, s, 300)
	done := make(chan struct{})
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				mb, uids, _, err := s.View(1, 1)
				if err != nil || countUIDs(uids) != int(mb.Messages) || uids[len(uids)-1].Last != mb.UIDNext-1 {
					t.Errorf("view %+v with UIDs %v, error %v", mb, uids, err)
					return
				}
				err = s.Messages(t.Context(), Query{Mailbox: 1, Summary: true}, func(*Message) error { return nil })
				if _, cerr := s.Changes(1, 1, mb.HighestModSeq-5); err != nil || cerr != nil {
					t.Error(err, cerr)
				}
			}
		})
	}
	for i := uint64(301); i < 600; i++ {
		s.Apply([]seglog.Command{deliver(i, covey.AccountID(i%3+1))})
		if i%100 == 0 {
			if _, err := s.Checkpoint(); err != nil {
				t.Error(err)
			}
		}
	}
	close(done)
	wg.Wait()
}

func TestBounds(t *testing.T) {
	t.Run("unconfirmed", func(t *testing.T) {
		u := newUnconfirmed()
		for i := range uint64(maxUnconfirmed + 10) {
			u.add(&delivery{index: i, id: covey.DeliveryID{Seq: i}, hash: [16]byte{1}, placed: []Placed{{Mailbox: covey.MailboxID(i)}}})
		}
		if len(u.byID) != maxUnconfirmed || len(u.byPlace) != maxUnconfirmed || u.oldest.index != 10 {
			t.Errorf("%d deliveries at %d places, the oldest %d", len(u.byID), len(u.byPlace), u.oldest.index)
		}
	})
	t.Run("chunks", func(t *testing.T) {
		s := OpenMemory(Config{}).(*shard)
		s.m.uploads.pending = maxPending
		r := s.Apply([]seglog.Command{entry(1, Chunk{Upload: covey.DeliveryID{Node: 1}, Time: noon, Data: []byte("x")})})[0].(*Result)
		if !errors.Is(r.Err, covey.Limit) {
			t.Errorf("a chunk too many: %v", r.Err)
		}
	})
	t.Run("last UID", func(t *testing.T) {
		s := OpenMemory(Config{}).(*shard)
		fillInbox(t, s, 2)
		s.m.t.mailbox(1).UIDNext = 1<<32 - 1
		for i, c := range []Command{
			Deliver{ID: covey.DeliveryID{Node: 9}, Recipients: []Recipient{{Account: 1, Mailbox: Inbox}}},
			Append{Account: 1, Mailbox: Inbox},
			Copy{Account: 1, Mailbox: 1, To: Inbox, UIDs: []UIDRange{{1, 2}}},
		} {
			if r := s.Apply([]seglog.Command{entry(uint64(3+i), c)})[0].(*Result); !errors.Is(r.Err, covey.Limit) {
				t.Errorf("%T: %v", c, r.Err)
			}
		}
	})
	t.Run("mailboxes in memory", func(t *testing.T) {
		s := open(t, Config{Path: filepath.Join(t.TempDir(), "shard"), Mailboxes: 10})
		for i := range uint64(100) {
			s.Apply([]seglog.Command{deliver(i+1, covey.AccountID(i+1))})
		}
		if _, err := s.Checkpoint(); err != nil {
			t.Fatal(err)
		}
		for a := covey.AccountID(1); a <= 100; a++ {
			if mb, err := s.Mailbox(a, Inbox); mb.Messages != 1 || err != nil {
				t.Errorf("account %d: %+v, error %v", a, mb, err)
			}
		}
		d := s.m.t.(*database)
		if len(d.boxes) > 10 || len(d.byName) > 10 || len(d.accounts) > 10 {
			t.Errorf("%d mailboxes, %d names and %d accounts in memory", len(d.boxes), len(d.byName), len(d.accounts))
		}
	})
}
