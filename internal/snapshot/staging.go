package snapshot

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/internal/durable"
)

// stageSlack is the room that a copy must leave on the disk, at the sender and at
// the receiver.
const stageSlack = 64 << 20

// A Staging is the database of a copy while it is put together beside the one
// whose place it will take. Its methods are called by one goroutine at a time.
type Staging struct {
	fs   durable.FS
	path string // of the one whose place it will take
	file durable.File
	have int64
	size int64
}

// NewStaging returns the Staging for the database at path. It does no I/O.
func NewStaging(fsys durable.FS, path string) *Staging { return &Staging{fs: fsys, path: path} }

// Name returns the name of the staged database.
func (s *Staging) Name() string { return StagedName(s.path) }

// Begin makes the file. covey.DiskFull if there is not enough room for all that
// the header announces.
func (s *Staging) Begin(h Header) error {
	if free, err := durable.Free(filepath.Dir(s.path)); err == nil && free < h.Size()+stageSlack {
		return covey.Errorf(covey.DiskFull, "a copy of %d octets, %d are free", h.Size(), free)
	}
	if err := DropStaged(s.fs, s.path); err != nil {
		return err
	}
	f, err := s.fs.Open(s.Name(), os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	s.file, s.size = f, h.Database
	return err
}

// Write takes the next bytes of the database. It returns true with the last:
// SQLite may then open the file.
func (s *Staging) Write(p []byte) (whole bool, err error) {
	if _, err := s.file.WriteAt(p, s.have); durable.IsFull(err) {
		return false, covey.Errorf(covey.DiskFull, "%w", err)
	} else if err != nil {
		return false, err
	}
	if s.have += int64(len(p)); s.have < s.size {
		return false, nil
	}
	// Closed before SQLite has the file: that would end SQLite's lock.
	err = s.file.Close()
	s.file = nil
	return err == nil, err
}

// Settle is called when SQLite has closed the staged database: it makes sure that
// all of it is in its file, and that on stable storage.
func (s *Staging) Settle() error {
	if _, err := s.fs.Stat(s.Name() + "-wal"); !errors.Is(err, fs.ErrNotExist) {
		return covey.Errorf(covey.Internal, "SQLite left its log beside %s (%v)", s.Name(), err)
	}
	f, err := s.fs.Open(s.Name(), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// Drop removes the staged database, which is not open.
func (s *Staging) Drop() error {
	if s.file != nil {
		s.file.Close() // the file goes
		s.file = nil
	}
	return DropStaged(s.fs, s.path)
}
