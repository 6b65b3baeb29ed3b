package snapshot

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/covey-mail/covey/internal/durable"
)

// A Source is a database file that SQLite has open, in WAL mode and for itself,
// and of which copies are made. After a checkpoint the file is the state, and it
// stays as it is until the next one: so a copy is made by putting that off. Its
// methods are called by one goroutine at a time.
type Source struct {
	fs   durable.FS
	path string

	// file is opened for the first copy. To close it would end the locks that
	// SQLite has on the same file, so it stays open until SQLite has closed.
	file durable.File
	copy *FileCopy // the latest; nil: there was none
}

// NewSource returns the Source of the database at path. It does no I/O.
func NewSource(fsys durable.FS, path string) *Source { return &Source{fs: fsys, path: path} }

// Copy begins to copy the file to another name. A checkpoint has just been made,
// and no copy is under way. It returns the file's length too.
func (s *Source) Copy(name string) (*FileCopy, int64, error) {
	if s.file == nil {
		f, err := s.fs.Open(s.path, os.O_RDONLY, 0)
		if err != nil {
			return nil, 0, err
		}
		s.file = f
	}
	size, err := s.file.Size()
	if err != nil {
		return nil, 0, err
	}
	s.copy, err = StartCopy(s.fs, s.file, size, name)
	return s.copy, size, err
}

// Copying reports whether the file is being read, and so may not be written to:
// SQLite must not make a checkpoint.
func (s *Source) Copying() bool { return s.copy != nil && s.copy.Copying() }

// Stop ends a copy that is under way; it comes to nothing.
func (s *Source) Stop() {
	if s.copy != nil {
		s.copy.Stop()
	}
}

// LogSize returns the length of the write-ahead log in bytes, 0 if there is none.
func (s *Source) LogSize() int64 {
	st, err := s.fs.Stat(s.path + "-wal")
	if err != nil {
		return 0
	}
	return st.Size()
}

// SyncLog puts the write-ahead log on stable storage: that is a checkpoint while
// there can be no other. No lock of SQLite is on that file, so it may be opened
// and closed.
func (s *Source) SyncLog() error {
	f, err := s.fs.Open(s.path+"-wal", os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // nothing was written since SQLite opened the database
	}
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close(), s.fs.SyncDir(filepath.Dir(s.path)))
}

// Close is called when SQLite has closed the database, after Stop.
func (s *Source) Close() {
	if s.file != nil {
		s.file.Close() // nothing was written by it
		s.file = nil
	}
}
