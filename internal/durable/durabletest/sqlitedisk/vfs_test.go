package sqlitedisk

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"

	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"

	"github.com/covey-mail/covey/internal/durable"
	"github.com/covey-mail/covey/internal/durable/durabletest"
)

const path = "/db/a"

// register makes a file system known to SQLite until the test ends.
func register(t testing.TB, fsys durable.FS) *VFS {
	t.Helper()
	v, err := Register(fsys)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := v.Close(); err != nil {
			t.Error(err)
		}
	})
	return v
}

// connect opens the database and sets it as storage does.
func connect(v *VFS) (*sqlite.Conn, error) {
	conn, err := sqlite.OpenConn("file:"+path+"?vfs="+v.Name(), sqlite.OpenReadWrite, sqlite.OpenURI)
	if err != nil {
		return nil, err
	}
	conn.SetBusyTimeout(0)
	for _, p := range []string{"locking_mode = EXCLUSIVE", "journal_mode = WAL", "synchronous = NORMAL", "wal_autocheckpoint = 0", "cache_size = 10"} {
		if err := sqlitex.ExecuteTransient(conn, "PRAGMA "+p, nil); err != nil {
			return nil, errors.Join(fmt.Errorf("%s: %w", p, err), conn.Close())
		}
	}
	return conn, nil
}

// create makes the file, with its name on stable storage.
func create(fsys durable.FS) error {
	if err := fsys.MkdirAll("/db", 0o700); err != nil {
		return err
	}
	f, err := fsys.Open(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(f.Close(), fsys.SyncDir("/db"))
}

// one returns the first column of a statement's only row.
func one(conn *sqlite.Conn, sql string) (n int64, err error) {
	err = sqlitex.ExecuteTransient(conn, sql, &sqlitex.ExecOptions{ResultFunc: func(s *sqlite.Stmt) error {
		n = s.ColumnInt64(0)
		return nil
	}})
	return n, err
}

const transactions = 12

// write makes a table and transactions that change old rows and add one, and a
// checkpoint after every third. It goes on until there is an error, and returns how
// many transactions a checkpoint was acknowledged for.
func write(fsys durable.FS, v *VFS) (kept int64, err error) {
	if err := create(fsys); err != nil {
		return 0, err
	}
	conn, err := connect(v)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	if _, err := one(conn, "CREATE TABLE IF NOT EXISTS t (id INTEGER PRIMARY KEY, round INTEGER, filler BLOB)"); err != nil {
		return 0, err
	}
	for n := int64(1); n <= transactions; n++ {
		sql := fmt.Sprintf("INSERT INTO t VALUES (%d, %d, zeroblob(%d)); UPDATE t SET round = %d", n, n, 100+n*n*80, n)
		if err := sqlitex.ExecuteScript(conn, sql, nil); err != nil {
			return kept, err
		}
		if n%3 != 0 {
			continue
		}
		how := []string{"PASSIVE", "TRUNCATE", "FULL"}[n/3%3]
		if busy, err := one(conn, "PRAGMA wal_checkpoint("+how+")"); err != nil || busy != 0 {
			return kept, errors.Join(err, fmt.Errorf("checkpoint: busy %d", busy))
		}
		kept = n
	}
	return kept, nil
}

// lost says what of the transactions is not there that should be, empty if nothing.
func lost(v *VFS, kept int64) string {
	conn, err := connect(v)
	if err != nil {
		return err.Error()
	}
	defer conn.Close() // it was read
	var said string
	err = sqlitex.ExecuteTransient(conn, "PRAGMA integrity_check(1)", &sqlitex.ExecOptions{ResultFunc: func(s *sqlite.Stmt) error {
		said = s.ColumnText(0)
		return nil
	}})
	if err != nil || said != "ok" {
		return fmt.Sprintf("integrity_check: %q, error %v", said, err)
	}
	n, err := one(conn, "SELECT count(*) FROM t")
	if err != nil && kept == 0 {
		return "" // nor was the table promised
	}
	if err != nil || n < kept {
		return fmt.Sprintf("%d of %d transactions, error %v", n, kept, err)
	}
	if half, err := one(conn, fmt.Sprintf("SELECT count(*) FROM t WHERE id > %d OR round <> %d", n, n)); err != nil || half != 0 {
		return fmt.Sprintf("half a transaction behind the first %d, error %v", n, err)
	}
	return ""
}

// cuts writes to disks whose power goes with each operation in turn, through what
// over makes of them, and returns what was lost, up to some.
func cuts(t *testing.T, seeds []uint64, over func(durable.FS) durable.FS) (all []string) {
	t.Helper()
	disk := durabletest.NewDisk()
	if _, err := write(over(disk), register(t, over(disk))); err != nil {
		t.Fatal(err)
	}
	for n := range disk.Ops() {
		for _, seed := range seeds {
			if s := cut(t, n, seed, over); s != "" {
				all = append(all, fmt.Sprintf("power cut at operation %d, seed %d: %s", n, seed, s))
			}
			if len(all) == 10 {
				return all
			}
		}
	}
	return all
}

// cut is cuts for one operation and one seed.
func cut(t *testing.T, n int, seed uint64, over func(durable.FS) durable.FS) string {
	t.Helper()
	disk := durabletest.NewDisk()
	v, err := Register(over(disk))
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := v.Close(); err != nil {
			t.Error(err)
		}
	}()
	disk.StopAfter(n)
	kept, _ := write(over(disk), v) // the error may be one that SQLite does not tell of
	disk.Crash(seed)
	if err := create(disk); err != nil {
		t.Fatal(err)
	}
	return lost(v, kept)
}

// A power cut takes nothing that a checkpoint was acknowledged for, and no part of a
// transaction alone.
func TestPowerCuts(t *testing.T) {
	seeds := []uint64{0, 1, 2, 3, 4}
	if testing.Short() {
		seeds = seeds[:2]
	}
	for _, s := range cuts(t, seeds, func(f durable.FS) durable.FS { return f }) {
		t.Error(s)
	}
}

// A liar says that it has synced and has not: what f says of the file or folder.
type liar struct {
	durable.FS
	lies func(name string) bool
}

type liarFile struct {
	durable.File
	lies bool
}

// Open implements durable.FS.
func (l liar) Open(name string, flag int, perm os.FileMode) (durable.File, error) {
	f, err := l.FS.Open(name, flag, perm)
	if err != nil {
		return nil, err
	}
	return liarFile{f, l.lies(name)}, nil
}

// SyncDir implements durable.FS.
func (l liar) SyncDir(name string) error {
	if l.lies(name) {
		return nil
	}
	return l.FS.SyncDir(name)
}

// Sync implements durable.File.
func (f liarFile) Sync() error {
	if f.lies {
		return nil
	}
	return f.File.Sync()
}

// On a disk that does not sync what it says, TestPowerCuts would find that out.
func TestLyingDisk(t *testing.T) {
	for name, lies := range map[string]func(name string) bool{
		"all":      func(string) bool { return true },
		"database": func(name string) bool { return name == path },
		"log":      func(name string) bool { return strings.HasSuffix(name, "-wal") },
		"folder":   func(name string) bool { return name == "/db" },
	} {
		if len(cuts(t, []uint64{0, 2, 3, 4, 5}, func(f durable.FS) durable.FS { return liar{f, lies} })) == 0 {
			t.Errorf("nothing is lost where syncs are lies: %s", name)
		}
	}
}

// Whoever has a database open keeps it, until it is closed.
func TestSecondOpener(t *testing.T) {
	disk := durabletest.NewDisk()
	v := register(t, disk)
	if _, err := write(disk, v); err != nil {
		t.Fatal(err)
	}
	first, err := connect(v)
	if err != nil {
		t.Fatal(err)
	}
	if second, err := connect(v); sqlite.ErrCode(err).ToPrimary() != sqlite.ResultBusy {
		t.Errorf("second opener: %v, %v; want SQLITE_BUSY", second, err)
	}
	if err := v.Close(); err == nil {
		t.Error("a file system can be closed while there is an open file")
	}
	other := register(t, disk.Clone())
	if s := lost(other, transactions); s != "" {
		t.Errorf("the same path on another disk: %s", s)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	if s := lost(v, transactions); s != "" {
		t.Errorf("after it was closed: %s", s)
	}
}

// The codes of errors are those that SQLite has for them on Unix.
func TestErrors(t *testing.T) {
	for _, tt := range []struct {
		name string
		do   func(*durabletest.Disk)
		want sqlite.ResultCode
	}{
		{"full", func(d *durabletest.Disk) { d.SetFree(20 << 10) }, sqlite.ResultFull},
		{"quota", fault(durabletest.Write, "*-wal", syscall.EDQUOT), sqlite.ResultIOErrWrite},
		{"write", fault(durabletest.Write, "*-wal", syscall.EIO), sqlite.ResultIOErrWrite},
		{"sync", fault(durabletest.Sync, "*-wal", syscall.EIO), sqlite.ResultIOErrFsync},
		{"sync of the database", fault(durabletest.Sync, "a", syscall.EIO), sqlite.ResultIOErrFsync},
		{"open", fault(durabletest.Open, "*-wal", syscall.EMFILE), sqlite.ResultCantOpen},
		{"truncate", fault(durabletest.Truncate, "*-wal", syscall.EIO), sqlite.ResultIOErrTruncate},
		{"power", func(d *durabletest.Disk) { d.StopAfter(12) }, sqlite.ResultIOErrWrite},
	} {
		disk := durabletest.NewDisk()
		v := register(t, disk)
		tt.do(disk)
		_, err := write(disk, v)
		if got := sqlite.ErrCode(err); got != tt.want {
			t.Errorf("%s: %v (%v), want %v", tt.name, got, err, tt.want)
		}
	}
	disk := durabletest.NewDisk()
	v := register(t, disk)
	if _, err := write(disk, v); err != nil {
		t.Fatal(err)
	}
	conn, err := connect(v)
	if err != nil {
		t.Fatal(err)
	}
	disk.Inject(durabletest.Fault{Op: durabletest.Read, Match: "a", Times: -1, Err: syscall.EIO})
	if _, err := one(conn, "SELECT count(filler) FROM t"); sqlite.ErrCode(err).ToPrimary() != sqlite.ResultCorrupt {
		t.Errorf("a read that fails: %v", err)
	}
	if err := conn.Close(); err != nil {
		t.Error(err)
	}
}

func fault(op durabletest.Op, match string, err error) func(*durabletest.Disk) {
	return func(d *durabletest.Disk) {
		d.Inject(durabletest.Fault{Op: op, Match: match, Times: -1, Err: err})
	}
}
