package storage

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"

	"zombiezen.com/go/sqlite"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/internal/durable"
	lately "github.com/covey-mail/covey/internal/recent"
	"github.com/covey-mail/covey/internal/snapshot"
	"github.com/covey-mail/covey/internal/sqlitefile"
	"github.com/covey-mail/covey/storage/seglog"
)

// oldestSQLite is the first version with all the fixes this package counts on;
// a build against an older one is a mistake.
const oldestSQLite = 3_053_004

// maxRow bounds a row, in bytes: the extents of a body with MaxChunks of them take
// a tenth of it.
const maxRow = 16 << 20

// Open opens a shard's database, and makes it if there is none; its folder must
// exist. Commands above Applied have to be applied again. A file that is not a
// database of this shard, or not as this package would make it, is
// covey.Corrupt; one that is open elsewhere covey.InUse. No other process may
// open it meanwhile, which includes SQLite's own shell.
func Open(cfg Config) (State, error) {
	cfg = cfg.withDefaults()
	if err := snapshot.Tidy(cfg.FS, cfg.Path); err != nil {
		return nil, fmt.Errorf("open shard %d: %w", cfg.Shard, err)
	}
	m, err := openMachine(cfg)
	if err != nil {
		return nil, err
	}
	s := newShard(cfg, m)
	s.reopen = func() (*machine, error) { return openMachine(cfg) }
	return s, nil
}

func openMachine(cfg Config) (*machine, error) {
	d, err := openDatabase(cfg)
	if err != nil {
		return nil, fmt.Errorf("open shard %d at %s: %w", cfg.Shard, cfg.Path, err)
	}
	m := newMachine(d)
	d.load(m)
	if d.err != nil {
		err := fmt.Errorf("load shard %d from %s: %w", cfg.Shard, cfg.Path, d.err)
		return nil, errors.Join(err, d.close())
	}
	return m, nil
}

// A database is tables in SQLite, with the rows of accounts and mailboxes in
// use kept in memory. The counts of a mailbox reach the database at commit, new
// accounts and mailboxes some at a time; all else is written as it is changed,
// within one transaction from commit to commit.
type database struct {
	conn     *sqlite.Conn
	source   *snapshot.Source // of copies
	path     string
	log      *slog.Logger
	most     int   // mailboxes kept in memory between commits
	err      error // the first fault
	writing  bool  // a transaction is open
	staying  bool  // it may not write to the disk before it is committed
	unsynced bool  // its log may not be on the disk, whatever another fsync of it says
	saved    meta  // as the database has it

	known    accountSet // all that have a row, written or fresh
	accounts map[covey.AccountID]*account
	boxes    map[covey.MailboxID]*mailbox
	byName   map[nameKey]*mailbox
	missing  nameKey // the name that was looked for last of those which do not exist
	rows     *lately.Map[rowKey, keptRow]
	single   *lately.Map[covey.BodyID, []seglog.Extent] // where bodies of one extent lie now
	dirty    []*mailbox                                 // whose counts the database may not have, see mailbox.dirty
	fresh    fresh

	used    usage
	stale   map[uint64]bool // segments whose row is not as used has it
	scratch []byte
}

// A rowKey finds a message in memory.
type rowKey struct {
	mailbox covey.MailboxID
	uid     covey.UID
}

// A nameKey finds a mailbox in memory.
type nameKey struct {
	account covey.AccountID
	name    string
}

func openDatabase(cfg Config) (*database, error) {
	if err := makeFile(cfg.FS, cfg.Path); err != nil {
		return nil, err
	}
	conn, err := sqlitefile.Open(cfg.Path, cfg.VFS)
	if err != nil {
		return nil, err
	}
	d := &database{
		conn: conn, source: snapshot.NewSource(cfg.FS, cfg.Path), path: cfg.Path, log: cfg.Logger, most: cfg.Mailboxes,
		known:    accountSet{},
		accounts: map[covey.AccountID]*account{},
		boxes:    map[covey.MailboxID]*mailbox{},
		byName:   map[nameKey]*mailbox{},
		rows:     lately.New[rowKey, keptRow](maxRows),
		single:   lately.New[covey.BodyID, []seglog.Extent](maxRows),
		used:     usage{},
		stale:    map[uint64]bool{},
	}
	d.setUp(cfg)
	if d.err != nil {
		return nil, errors.Join(d.err, d.conn.Close())
	}
	return d, nil
}

// makeFile makes an empty database file that only its owner may read, with its
// name on stable storage. The files that SQLite puts beside it take its mode.
func makeFile(fsys durable.FS, path string) error {
	f, err := fsys.Open(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return fsys.SyncDir(filepath.Dir(path))
}

// setUp makes the connection safe against a hostile file, then checks that the
// file is this shard's, or makes its tables. Not by Conn.SetDefensive: in
// zombiezen.com/go/sqlite v1.4.2 it gives SQLite one argument of two, and SQLite
// writes to wherever the bytes behind it point, unless they are zero.
func (d *database) setUp(cfg Config) {
	d.conn.Limit(sqlite.LimitLength, maxRow)
	d.conn.SetBusyTimeout(0) // whoever has the file open keeps it; do not wait
	for _, p := range []string{
		"trusted_schema = OFF", "cell_size_check = ON", "mmap_size = 0",
		// No one else opens it, so the WAL's index can be in memory.
		"locking_mode = EXCLUSIVE", "journal_mode = WAL",
		// A checkpoint syncs; between two of them the node's log is what is durable.
		"synchronous = NORMAL", "wal_autocheckpoint = 0",
		fmt.Sprintf("journal_size_limit = %d", walKept),
		fmt.Sprintf("cache_size = -%d", max(cfg.CacheBytes>>10, 64)),
	} {
		d.query("PRAGMA " + p).run()
	}
	if mode := d.word("PRAGMA journal_mode"); mode != "wal" {
		d.fail(fmt.Errorf("journal mode is %q", mode))
	}
	if v := d.word("SELECT sqlite_version()"); versionNumber(v) < oldestSQLite {
		d.fail(fmt.Errorf("SQLite %s is too old", v))
	}
	if d.query("SELECT count(*) FROM sqlite_schema").one() == 0 {
		d.makeTables(cfg.Shard)
	}
	d.checkSchema(cfg.Shard)
}

func versionNumber(s string) int {
	var a, b, c int
	if _, err := fmt.Sscanf(s, "%d.%d.%d", &a, &b, &c); err != nil {
		return 0
	}
	return a*1_000_000 + b*1_000 + c
}

func (d *database) makeTables(shard covey.ShardID) {
	for _, table := range schema() {
		d.change(table).run()
	}
	d.change("INSERT INTO meta VALUES (1, ?, 0, 0, 0, 0)").int(int64(shard)).run()
	d.change(fmt.Sprintf("PRAGMA application_id = %d", applicationID)).run()
	d.change(fmt.Sprintf("PRAGMA user_version = %d", schemaVersion)).run()
	d.commitTransaction()
}

// checkSchema refuses a file that another program made or changed: a view or
// trigger in it would run with what we ask.
func (d *database) checkSchema(shard covey.ShardID) {
	if id := d.query("PRAGMA application_id").one(); d.err == nil && id != applicationID {
		d.fail(covey.Errorf(covey.Corrupt, "not a Covey shard: application id %#x", id))
	}
	v := d.query("PRAGMA user_version").one()
	if d.err == nil && v < schemaVersion {
		v = d.upgrade(v)
	}
	if d.err == nil && v != schemaVersion {
		d.fail(covey.Errorf(covey.Corrupt, "schema version %d, want %d", v, schemaVersion))
	}
	var have []string
	for q := d.query("SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL"); q.next(); {
		have = append(have, q.textAt(0))
	}
	want := schema()
	slices.Sort(have)
	slices.Sort(want)
	if d.err == nil && !slices.Equal(have, want) {
		d.fail(covey.Errorf(covey.Corrupt, "tables are not as schema version %d has them", schemaVersion))
	}
	if id := d.query("SELECT shard FROM meta").one(); d.err == nil && id != int64(shard) {
		d.fail(covey.Errorf(covey.Corrupt, "the file is of shard %d", id))
	}
}

// upgrade makes what this program writes of an older version that it knows, and
// returns the version that the file has then. What else is in the file is looked at
// behind it, as ever.
func (d *database) upgrade(v int64) int64 {
	switch v {
	case 1:
		d.change(installedTable).run()
		fallthrough
	case 2:
		for _, table := range queueTables() {
			d.change(table).run()
		}
		v = schemaVersion
		d.change(fmt.Sprintf("PRAGMA user_version = %d", v)).run()
		d.commitTransaction()
	}
	return v
}

// word returns the text of a statement's only row.
func (d *database) word(sql string) string {
	var s string
	q := d.query(sql)
	if q.next() {
		s = q.textAt(0)
	}
	q.end()
	return s
}

// load reads what is kept in memory.
func (d *database) load(m *machine) {
	q := d.query("SELECT applied, hash, clock, last_mailbox FROM meta")
	if q.next() {
		m.meta = meta{uint64(q.intAt(0)), uint64(q.intAt(1)), q.intAt(2), covey.MailboxID(q.intAt(3))}
		d.saved = m.meta
	}
	q.end()
	m.hashes.Add(m.meta.applied, m.meta.hash)
	for q := d.query("SELECT meta FROM installed"); q.next(); {
		m.installed = q.blobAt(0)
	}
	for q := d.query("SELECT id FROM account"); q.next(); {
		d.known.add(covey.AccountID(q.intAt(0)))
	}
	for q := d.query("SELECT number, bytes, extents FROM segment"); q.next(); {
		d.used[uint64(q.intAt(0))] = Usage{q.intAt(1), q.intAt(2)}
	}
	for q := d.query("SELECT node, boot, seq, n, time, extent FROM chunk ORDER BY time"); q.next(); {
		id := covey.DeliveryID{Node: covey.NodeID(q.intAt(0)), Boot: uint64(q.intAt(1)), Seq: uint64(q.intAt(2))}
		if list := d.decodeExtents(q.blobAt(5)); len(list) == 1 {
			m.uploads.add(id, uint32(q.intAt(3)), list[0], q.intAt(4))
		}
	}
	d.loadQueue(&m.queue)
	d.loadHeard(&m.heard)
	for q := d.query("SELECT entry, delivery FROM delivered ORDER BY entry"); q.next(); {
		one, err := decodeDelivery(q.blobAt(1))
		if err != nil {
			d.fail(fmt.Errorf("delivery %d: %w", q.intAt(0), err))
			return
		}
		one.index, one.stored = uint64(q.intAt(0)), true
		m.unconfirmed.add(one)
	}
}

// fail remembers the first fault, and any of the disk.
func (d *database) fail(err error) {
	code := sqlite.ErrCode(err).ToPrimary()
	if code == sqlite.ResultIOErr {
		d.unsynced = true
	}
	if err == nil || d.err != nil {
		return
	}
	switch code {
	case sqlite.ResultFull:
		err = covey.Errorf(covey.DiskFull, "%w", err)
	case sqlite.ResultCorrupt, sqlite.ResultNotADB:
		err = covey.Errorf(covey.Corrupt, "%w", err)
	case sqlite.ResultBusy, sqlite.ResultLocked:
		err = covey.Errorf(covey.InUse, "%w", err)
	}
	d.err = err
}

func (d *database) fault() error { return d.err }

// close releases the connection. What was not committed is rolled back. A copy
// that is not whole comes to nothing. After an error of the disk nothing is written.
func (d *database) close() error {
	if d.conn == nil {
		return nil
	}
	d.source.Stop() // SQLite makes a checkpoint when it closes
	if d.writing {
		d.err = nil
		d.query("ROLLBACK").run()
	}
	shut := d.conn.Close
	if d.unsynced {
		shut = func() error { return sqlitefile.Abandon(d.conn) }
	}
	err := shut()
	d.source.Close()
	d.conn = nil
	if d.err == nil {
		d.err = covey.Errorf(covey.Unavailable, "database %s is closed", d.path)
	}
	return err
}

// decodeExtents reads what appendExtents wrote.
func (d *database) decodeExtents(b []byte) []seglog.Extent {
	list, err := decodeExtents(b)
	d.fail(err)
	return list
}
