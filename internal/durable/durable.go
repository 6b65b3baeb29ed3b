// Package durable is where Covey's discipline for stable storage lives: the
// file system as an interface, so that crashes and faults can be injected, and
// the few sequences of write, fsync, rename and fsync of the folder that make a
// change survive a power cut.
//
// It knows no format. A caller that gets an error from Sync must not go on
// writing to that file: the kernel may have dropped the dirty pages and a second
// Sync would report success for data that is not on the disk.
//
// Package durabletest has a file system in memory that loses what was not
// synced.
package durable

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/covey-mail/covey"
)

// An FS is a file system. Its methods may be called by any number of goroutines
// at once. Errors wrap those of package os: errors.Is(err, fs.ErrNotExist) and
// the like work.
type FS interface {
	// Open opens a file with the flags of os.OpenFile. A file it creates is on
	// stable storage only after SyncDir of its folder.
	Open(name string, flag int, perm os.FileMode) (File, error)

	// Rename replaces newname by oldname atomically. It survives a crash only
	// after SyncDir of the folder; until then either state may come back.
	Rename(oldname, newname string) error

	// Remove unlinks a file. It survives a crash only after SyncDir.
	Remove(name string) error

	// MkdirAll makes a folder and those above it. Their names are on stable
	// storage when it returns.
	MkdirAll(name string, perm os.FileMode) error

	// ReadDir lists a folder in the order of the names.
	ReadDir(name string) ([]os.DirEntry, error)

	// Stat describes a file.
	Stat(name string) (os.FileInfo, error)

	// SyncDir puts the names in a folder on stable storage: creations, renames
	// and removals before the call.
	SyncDir(name string) error
}

// A File is an open file. All methods may be called by several goroutines at
// once; Close waits for none of them, and later calls return fs.ErrClosed.
type File interface {
	io.ReaderAt
	io.WriterAt
	io.Closer

	// Truncate sets the size. What a longer size adds reads as zeros.
	Truncate(size int64) error

	// Sync puts the file's bytes and its size on stable storage. After an error
	// nothing is known about what was written since the last good Sync, and
	// nothing may be written any more.
	Sync() error

	// Size returns the current size.
	Size() (int64, error)

	// Allocate makes the file at least size bytes long and, where the system can,
	// reserves disk blocks for all of it, so that later writes within it do not
	// meet a full disk. New bytes read as zeros. A full disk is reported so that
	// IsFull recognises it; the size is then unchanged.
	Allocate(size int64) error
}

// IsFull reports whether err says that there is no room: no space left, a disk
// quota, a write that took fewer bytes than given, or no file descriptor left for
// a file that was to be opened. All of them pass, and leave nothing behind that a
// second try could not deal with.
func IsFull(err error) bool {
	for _, full := range []error{syscall.ENOSPC, syscall.EDQUOT, io.ErrShortWrite, syscall.EMFILE, syscall.ENFILE} {
		if errors.Is(err, full) {
			return true
		}
	}
	return false
}

// tempSuffix marks a file that WriteFile has not finished.
const tempSuffix = ".tmp"

// WriteFile replaces the file's content by data. When it returns nil, content
// and name are on stable storage; after an error or a crash the old content or
// the new is there, never a mixture. A file may have one writer at a time.
func WriteFile(fsys FS, name string, data []byte, perm os.FileMode) error {
	temp := name + tempSuffix
	if err := writeTemp(fsys, temp, data, perm); err != nil {
		// A leftover is harmless, the next call truncates it; but on a full disk
		// it holds space.
		return errors.Join(fmt.Errorf("write %s: %w", name, err), removeIfThere(fsys, temp))
	}
	if err := fsys.Rename(temp, name); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	// Without this a crash may bring the old name back after the caller went on.
	if err := fsys.SyncDir(filepath.Dir(name)); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return nil
}

func writeTemp(fsys FS, name string, data []byte, perm os.FileMode) error {
	f, err := fsys.Open(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, perm)
	if err != nil {
		return err
	}
	if _, err := f.WriteAt(data, 0); err != nil {
		return errors.Join(err, f.Close())
	}
	if err := f.Sync(); err != nil {
		return errors.Join(err, f.Close())
	}
	return f.Close()
}

func removeIfThere(fsys FS, name string) error {
	if err := fsys.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// ReadFile returns a file's content. One longer than max is covey.TooBig and is
// not read.
func ReadFile(fsys FS, name string, max int64) ([]byte, error) {
	f, err := fsys.Open(name, os.O_RDONLY, 0)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	defer f.Close()
	size, err := f.Size()
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	if size > max {
		return nil, covey.Errorf(covey.TooBig, "read %s: %d bytes, at most %d are allowed", name, size, max)
	}
	data := make([]byte, size)
	if n, err := f.ReadAt(data, 0); n < len(data) {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	return data, nil
}
