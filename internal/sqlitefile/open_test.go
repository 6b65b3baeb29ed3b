package sqlitefile

import (
	"os"
	"path/filepath"
	"testing"

	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"

	"github.com/covey-mail/covey/internal/durable"
	"github.com/covey-mail/covey/internal/durable/durabletest/sqlitedisk"
)

// A path is a path, whatever a URI would make of it.
func TestPaths(t *testing.T) {
	vfs, err := sqlitedisk.Register(durable.OS())
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := vfs.Close(); err != nil {
			t.Error(err)
		}
	}()
	for _, name := range []string{"plain", "with blank", "a?mode=memory", "b#c", "100%", "%41", "é&vfs=none"} {
		for _, fs := range []string{"", vfs.Name()} {
			path := filepath.Join(t.TempDir(), name)
			if err := os.WriteFile(path, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			conn, err := Open(path, fs)
			if err != nil {
				t.Fatalf("%q on %q: %v", name, fs, err)
			}
			run(t, conn, "CREATE TABLE t (a)")
			if conn, err = OpenImmutable(path, fs); err != nil {
				t.Fatalf("%q on %q: %v", name, fs, err)
			}
			run(t, conn, "SELECT a FROM t")
			if st, err := os.Stat(path); err != nil || st.Size() == 0 {
				t.Errorf("%q on %q: the table is elsewhere, error %v", name, fs, err)
			}
		}
	}
	if _, err := Open(filepath.Join(t.TempDir(), "none"), vfs.Name()); sqlite.ErrCode(err) != sqlite.ResultCantOpen {
		t.Errorf("a database that is not there: %v", err)
	}
	if _, err := Open("x", "none"); err == nil {
		t.Error("a file system that nobody has made known can be used")
	}
}

// run runs a statement and closes the connection.
func run(t *testing.T, conn *sqlite.Conn, sql string) {
	t.Helper()
	if err := sqlitex.ExecuteTransient(conn, sql, nil); err != nil {
		t.Errorf("%s: %v", sql, err)
	}
	if err := conn.Close(); err != nil {
		t.Error(err)
	}
}
