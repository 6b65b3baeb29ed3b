package directory

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/internal/snapshot"
	"github.com/covey-mail/covey/internal/sqlitefile"
)

// formats make the tables: the first makes those of format 1 in an empty file, each
// other makes its format of the one before. SQLite's user_version says which one a
// file has. They are run in files out there: add to them, change none.
//
// meta is one row, written with every commit. Ids are given out by the state
// machine, never by SQLite.
var formats = [...]string{`
CREATE TABLE meta (
	id INTEGER PRIMARY KEY CHECK (id = 1),
	applied INTEGER NOT NULL,       -- index of the last command in this database
	cluster BLOB NOT NULL,          -- 16 octets
	shards INTEGER NOT NULL,        -- 0: not founded
	next_account INTEGER NOT NULL,
	next_domain INTEGER NOT NULL,
	accounts INTEGER NOT NULL,
	unverified INTEGER NOT NULL,    -- accounts with a hash and no SCRAM verifier
	quota INTEGER NOT NULL,
	postmaster_local TEXT NOT NULL,
	postmaster_domain TEXT NOT NULL
);
INSERT INTO meta VALUES (1, 0, zeroblob(16), 0, 1, 1, 0, 0, 0, '', '');
CREATE TABLE domain (
	id INTEGER PRIMARY KEY,
	name TEXT NOT NULL UNIQUE,
	created INTEGER NOT NULL,
	accounts INTEGER NOT NULL,
	aliases INTEGER NOT NULL
);
CREATE TABLE account (
	id INTEGER PRIMARY KEY,
	domain INTEGER NOT NULL,
	local TEXT NOT NULL,
	shard INTEGER NOT NULL,
	hash TEXT NOT NULL,
	verifier TEXT NOT NULL,
	quota INTEGER NOT NULL,
	disabled INTEGER NOT NULL,
	created INTEGER NOT NULL
);
CREATE UNIQUE INDEX account_address ON account (domain, local);
CREATE INDEX account_domain ON account (domain);
CREATE TABLE alias (
	domain INTEGER NOT NULL,
	local TEXT NOT NULL,            -- empty: catch-all
	position INTEGER NOT NULL,
	target_local TEXT NOT NULL,
	target_domain TEXT NOT NULL,
	PRIMARY KEY (domain, local, position)
) WITHOUT ROWID;
CREATE TABLE removed (
	account INTEGER PRIMARY KEY,
	shard INTEGER NOT NULL,
	local TEXT NOT NULL,
	domain TEXT NOT NULL,
	time INTEGER NOT NULL
);
`, `
ALTER TABLE meta ADD COLUMN level INTEGER NOT NULL DEFAULT 1;
ALTER TABLE meta ADD COLUMN replicas INTEGER NOT NULL DEFAULT 3;
ALTER TABLE meta ADD COLUMN rebuild_after INTEGER NOT NULL DEFAULT 600; -- seconds
CREATE TABLE node (
	id INTEGER PRIMARY KEY,
	key BLOB NOT NULL,              -- Ed25519, 32 octets
	peer TEXT NOT NULL,
	gossip TEXT NOT NULL,
	zone TEXT NOT NULL,
	version TEXT NOT NULL,
	level INTEGER NOT NULL,
	state INTEGER NOT NULL,         -- NodeState
	replaced_by INTEGER NOT NULL,   -- node, 0: none
	joined INTEGER NOT NULL,
	changed INTEGER NOT NULL
);
CREATE TABLE shard (
	id INTEGER PRIMARY KEY,         -- 0: the directory itself
	epoch INTEGER NOT NULL,         -- of the shard map that changed this row last; the map's is the highest
	voters TEXT NOT NULL            -- ids of nodes as people see them, blanks between
);
`, `
CREATE TABLE installed (
	one INTEGER PRIMARY KEY CHECK (one = 1), -- a row, if the database came from another node
	meta BLOB                       -- what State.Install was given
);
`, `
-- see State.Hash
ALTER TABLE meta ADD COLUMN hash INTEGER NOT NULL DEFAULT 0;
`, `
-- stamp of a node's disk, see covey.DiskStamp
ALTER TABLE node ADD COLUMN stamp_count INTEGER NOT NULL DEFAULT 0;
ALTER TABLE node ADD COLUMN stamp_mark INTEGER NOT NULL DEFAULT 0;
`}

// Bounds of the write-ahead log, in bytes, at which a commit makes a checkpoint
// that nobody asked for; the second one while a copy reads the database file,
// which is given up then.
const (
	logLimit        = 4 << 20
	logLimitCopying = 64 << 20
)

// A database is an SQLite connection with prepared statements. One goroutine at
// a time may use it.
type database struct {
	conn   *sqlite.Conn
	source *snapshot.Source // of copies

	// unsynced: the log may not be on the disk, whatever another fsync of it says.
	unsynced bool
}

// openDatabase opens or makes the file, readable by its owner alone, and takes it
// for this process.
func openDatabase(cfg Config) (*database, error) {
	f, err := cfg.FS.Open(cfg.Path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := f.Close(); err != nil {
		return nil, err
	}
	conn, err := sqlitefile.Open(cfg.Path, cfg.VFS)
	if err != nil {
		return nil, err
	}
	db := &database{conn: conn, source: snapshot.NewSource(cfg.FS, cfg.Path)}
	made, err := db.prepare()
	if err == nil && made {
		err = cfg.FS.SyncDir(filepath.Dir(cfg.Path)) // the file's name, or a checkpoint would not count
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	return db, nil
}

// close releases the connection. A copy that is not whole comes to nothing. After an
// error of the disk nothing is written.
func (db *database) close() error {
	db.source.Stop() // SQLite makes a checkpoint when it closes
	shut := db.conn.Close
	if db.unsynced {
		shut = func() error { return sqlitefile.Abandon(db.conn) }
	}
	err := shut()
	db.source.Close()
	return err
}

// prepare makes the connection safe against a hostile file, and the tables what
// they are now. It reports whether it made any.
func (db *database) prepare() (made bool, err error) {
	db.conn.SetBusyTimeout(0) // and no SetDefensive: see storage
	for _, pragma := range []string{
		"PRAGMA locking_mode=EXCLUSIVE", // before the first access, so that WAL needs no shared memory
		"PRAGMA journal_mode=WAL",
		"PRAGMA synchronous=NORMAL",
		"PRAGMA cache_size=-16384",
		"PRAGMA trusted_schema=OFF",
		"PRAGMA cell_size_check=ON",
		"PRAGMA wal_autocheckpoint=0", // boundLog knows when not to
	} {
		if err := sqlitex.ExecuteTransient(db.conn, pragma, nil); err != nil {
			return false, fmt.Errorf("%s: %w", pragma, err)
		}
	}
	var found int64
	err = db.query("PRAGMA user_version", nil, func(s *sqlite.Stmt) error {
		found = s.ColumnInt64(0)
		return nil
	})
	switch {
	case err != nil:
		return false, err
	case found == int64(len(formats)):
		return false, nil
	case found < 0 || found > int64(len(formats)):
		return false, fmt.Errorf("format %d, this program knows %d", found, len(formats))
	}
	// One transaction: after a crash the file has the old format or the new one.
	script := fmt.Sprintf("%s PRAGMA user_version = %d;", strings.Join(formats[found:], ""), len(formats))
	if err := sqlitex.ExecuteScript(db.conn, script, nil); err != nil {
		return false, fmt.Errorf("make format %d of format %d: %w", len(formats), found, err)
	}
	return true, db.checkpoint()
}

// exec runs a statement that returns no rows.
func (db *database) exec(query string, args ...any) error {
	return db.query(query, args, func(*sqlite.Stmt) error { return nil })
}

// query runs a statement and calls row for each row. Arguments are string, bool,
// int64 and []byte. In a WHERE clause a parameter is not written bare: see the
// statements of package storage.
func (db *database) query(query string, args []any, row func(*sqlite.Stmt) error) error {
	stmt, err := db.conn.Prepare(query)
	if err != nil {
		return err
	}
	for i, arg := range args {
		switch v := arg.(type) {
		case string:
			stmt.BindText(i+1, v)
		case bool:
			stmt.BindBool(i+1, v)
		case int64:
			stmt.BindInt64(i+1, v)
		case []byte:
			stmt.BindBytes(i+1, v)
		default:
			return fmt.Errorf("bind %T", arg)
		}
	}
	for {
		more, err := stmt.Step()
		switch sqlite.ErrCode(err).ToPrimary() {
		case sqlite.ResultFull:
			err = covey.Errorf(covey.DiskFull, "%w", err)
		case sqlite.ResultIOErr:
			db.unsynced = true
		}
		if err == nil && more {
			err = row(stmt)
		}
		if err != nil || !more {
			if resetErr := stmt.Reset(); err == nil {
				err = resetErr
			}
			return err
		}
	}
}

// begin opens a transaction unless one is open.
func (db *database) begin() error {
	if !db.conn.AutocommitEnabled() {
		return nil
	}
	return db.exec("BEGIN IMMEDIATE")
}

// boundLog makes a checkpoint when the write-ahead log is large. As with SQLite's
// own, it is no fault if there is no room for it: the next one that is asked for
// tells. Any other fault it does not find again: a sync that failed succeeds when it is
// tried once more.
func (db *database) boundLog() error {
	limit := int64(logLimit)
	if db.source.Copying() {
		limit = logLimitCopying
	}
	if db.source.LogSize() <= limit {
		return nil
	}
	db.source.Stop()
	if err := db.checkpoint(); err != nil && !errors.Is(err, covey.DiskFull) {
		return fmt.Errorf("checkpoint: %w", err)
	}
	return nil
}

// checkpoint moves everything committed into the database file and syncs it. As
// this connection is the only one, nothing can stay behind in the WAL. While a
// copy reads the file, it stays as it is, and the WAL is synced.
func (db *database) checkpoint() error {
	if db.source.Copying() {
		err := db.source.SyncLog()
		db.unsynced = db.unsynced || err != nil
		return err
	}
	busy := int64(0)
	err := db.query("PRAGMA wal_checkpoint(TRUNCATE)", nil, func(s *sqlite.Stmt) error {
		busy = s.ColumnInt64(0)
		return nil
	})
	if err == nil && busy != 0 {
		err = fmt.Errorf("checkpoint: database is in use")
	}
	return err
}
