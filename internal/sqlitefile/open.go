// Package sqlitefile opens SQLite's databases by their paths, on the operating
// system's files or on those of a file system that a test made known to SQLite
// (internal/durable/durabletest/sqlitedisk). What a database is set to, and what is in
// it, is its owner's business.
package sqlitefile

import (
	"net/url"
	"path/filepath"

	"zombiezen.com/go/sqlite"
)

// Open opens a database that is there. vfs is SQLite's name for the file system that
// has it; empty: the operating system's.
func Open(path, vfs string) (*sqlite.Conn, error) {
	if vfs == "" {
		return sqlite.OpenConn(path, sqlite.OpenReadWrite)
	}
	name, err := uri(path, vfs, url.Values{})
	if err != nil {
		return nil, err
	}
	return sqlite.OpenConn(name, sqlite.OpenReadWrite, sqlite.OpenURI)
}

// OpenImmutable is Open for reading a database that nobody writes to, so that SQLite
// needs neither locks nor a log beside it.
func OpenImmutable(path, vfs string) (*sqlite.Conn, error) {
	name, err := uri(path, vfs, url.Values{"immutable": {"1"}})
	if err != nil {
		return nil, err
	}
	return sqlite.OpenConn(name, sqlite.OpenReadOnly, sqlite.OpenURI)
}

// uri returns the URI of a path, which may have any octet in it but NUL.
func uri(path, vfs string, params url.Values) (string, error) {
	name, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	if vfs != "" {
		params.Set("vfs", vfs)
	}
	u := url.URL{Scheme: "file", Path: name, RawQuery: params.Encode()}
	return u.String(), nil
}

// Abandon closes a connection without the checkpoint that SQLite makes when it closes:
// the database stays as it is, and its log beside it. It is for after an error of the
// disk. A log whose fsync failed is not on the disk, though the next fsync of it says
// so; what is written into the database from it may be all that is left.
func Abandon(conn *sqlite.Conn) error {
	// SQLite looks for an interrupt before it writes a page. The value is received
	// by the goroutine that makes one, which Close waits for.
	interrupt := make(chan struct{})
	conn.SetInterrupt(interrupt)
	interrupt <- struct{}{}
	return conn.Close()
}
