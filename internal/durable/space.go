package durable

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"github.com/covey-mail/covey"
)

// A Reserve is a file that does nothing but hold disk space, so that on a full
// disk there is something to give up: what frees space often needs some first.
// Its methods may be called by any number of goroutines at once.
type Reserve struct {
	fs   FS
	name string
	size int64

	mu   sync.Mutex // guards held, and makes the methods take turns
	held bool
}

// NewReserve describes a reserve of size bytes in the file of that name. It does
// no I/O: Hold makes the file.
func NewReserve(fsys FS, name string, size int64) *Reserve {
	return &Reserve{fs: fsys, name: name, size: size}
}

// Hold makes the file, or takes the one that is there, and returns nil when all
// of its size is allocated. covey.DiskFull: there is no room; nothing is held.
func (r *Reserve) Hold() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.held {
		return nil
	}
	err := r.make()
	if err == nil {
		r.held = true
		return nil
	}
	// Part of a reserve is in the way of what may yet be written.
	err = errors.Join(fmt.Errorf("reserve %s: %w", r.name, err), removeIfThere(r.fs, r.name))
	if IsFull(err) {
		return &covey.Error{Kind: covey.DiskFull, Err: err}
	}
	return err
}

func (r *Reserve) make() error {
	f, err := r.fs.Open(r.name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	if err := f.Allocate(r.size); err != nil {
		return errors.Join(err, f.Close())
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return err
	}
	return r.fs.SyncDir(filepath.Dir(r.name))
}

// Release removes the file, so that its space can be used.
func (r *Reserve) Release() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.held = false
	if err := removeIfThere(r.fs, r.name); err != nil {
		return fmt.Errorf("release reserve: %w", err)
	}
	return r.fs.SyncDir(filepath.Dir(r.name))
}

// Held reports whether the space is kept.
func (r *Reserve) Held() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.held
}
