package durabletest

import (
	"os"

	"github.com/covey-mail/covey/internal/durable"
)

// A Watched file system is another one, with a look at what is done to it: a test
// can copy the files as they are before each step, or hold up a reader. Its
// fields are not changed while it is used.
type Watched struct {
	durable.FS
	Before func(op Op, name string) // before a Rename, Remove, Allocate, Sync or SyncDir; nil: nothing
	Read   func(name string)        // before a Read; nil: nothing
}

type watchedFile struct {
	durable.File
	w    *Watched
	name string
}

func (w *Watched) before(op Op, name string) {
	if w.Before != nil {
		w.Before(op, name)
	}
}

// Open implements durable.FS.
func (w *Watched) Open(name string, flag int, perm os.FileMode) (durable.File, error) {
	f, err := w.FS.Open(name, flag, perm)
	if err != nil {
		return nil, err
	}
	return watchedFile{f, w, name}, nil
}

// Rename implements durable.FS.
func (w *Watched) Rename(oldname, newname string) error {
	w.before(Rename, oldname)
	return w.FS.Rename(oldname, newname)
}

// Remove implements durable.FS.
func (w *Watched) Remove(name string) error {
	w.before(Remove, name)
	return w.FS.Remove(name)
}

// SyncDir implements durable.FS.
func (w *Watched) SyncDir(name string) error {
	w.before(SyncDir, name)
	return w.FS.SyncDir(name)
}

// Sync implements durable.File.
func (f watchedFile) Sync() error {
	f.w.before(Sync, f.name)
	return f.File.Sync()
}

// Allocate implements durable.File.
func (f watchedFile) Allocate(size int64) error {
	f.w.before(Allocate, f.name)
	return f.File.Allocate(size)
}

// ReadAt implements durable.File.
func (f watchedFile) ReadAt(p []byte, off int64) (int, error) {
	if f.w.Read != nil {
		f.w.Read(f.name)
	}
	return f.File.ReadAt(p, off)
}
