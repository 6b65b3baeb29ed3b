package snapshot

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/covey-mail/covey/internal/durable"
)

// Names beside a database. What a crash leaves of the first two is of no use to
// anyone. A file with the last name is a whole database, durable, that is to
// take the other's place: from the moment the folder has that name for good, it
// is the state, and whoever opens the database carries the rest out.
const (
	copySuffix    = ".copy" // and a number: for another node to read
	stagedSuffix  = ".restore"
	installSuffix = ".install"
)

// what SQLite has beside a database; beside another one it would be poison.
var besides = []string{"-wal", "-shm", "-journal"}

// CopyName returns the name of the nth copy of the database at path.
func CopyName(path string, n uint64) string { return path + copySuffix + strconv.FormatUint(n, 10) }

// StagedName returns the name under which a copy for path is put together.
func StagedName(path string) string { return path + stagedSuffix }

// Commit makes the staged copy for path the one that counts: when it returns
// nil, whatever happens, Tidy will show it at path. The copy is on stable
// storage and not open. If the outcome is not certain, the error is not nil, and
// neither copy may be written to any more.
func Commit(fsys durable.FS, path string) error {
	if err := fsys.Rename(path+stagedSuffix, path+installSuffix); err != nil {
		return fmt.Errorf("install %s: %w", path, err)
	}
	if err := fsys.SyncDir(filepath.Dir(path)); err != nil {
		return fmt.Errorf("install %s: %w", path, err)
	}
	return nil
}

// Finish puts a copy that was committed in the place of the database at path,
// which is not open. Without such a copy it does nothing.
func Finish(fsys durable.FS, path string) error {
	_, err := fsys.Stat(path + installSuffix)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = finish(fsys, path)
	}
	if err != nil {
		return fmt.Errorf("finish installing %s: %w", path, err)
	}
	return nil
}

func finish(fsys durable.FS, path string) error {
	// The old write-ahead log must not be there when the new database is.
	if err := removeAll(fsys, path, besides); err != nil {
		return err
	}
	if err := fsys.SyncDir(filepath.Dir(path)); err != nil {
		return err
	}
	if err := fsys.Rename(path+installSuffix, path); err != nil {
		return err
	}
	return fsys.SyncDir(filepath.Dir(path))
}

// DropStaged removes what is staged for path.
func DropStaged(fsys durable.FS, path string) error {
	return removeAll(fsys, path+stagedSuffix, append([]string{""}, besides...))
}

func removeAll(fsys durable.FS, path string, suffixes []string) error {
	var errs []error
	for _, s := range suffixes {
		if err := fsys.Remove(path + s); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// Tidy is called before the database at path is opened. It finishes an install
// and removes what a crash left of copies.
func Tidy(fsys durable.FS, path string) error {
	if err := Finish(fsys, path); err != nil {
		return err
	}
	list, err := fsys.ReadDir(filepath.Dir(path))
	if err != nil {
		return err
	}
	base := filepath.Base(path)
	for _, f := range list {
		rest, ours := strings.CutPrefix(f.Name(), base)
		if ours && (strings.HasPrefix(rest, copySuffix) || strings.HasPrefix(rest, stagedSuffix)) {
			if err := fsys.Remove(filepath.Join(filepath.Dir(path), f.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}
