// Package durabletest is a file system in memory that forgets, as disks do when
// the power goes: what was written and not synced is there in whole, in part or
// not at all, sector by sector and in any order, and names that were not synced
// with their folder are as they were before. It also returns errors on demand.
//
// It is harsher than most file systems, and never milder: a program that
// survives it relies on nothing but fsync, atomic rename, and fsync of folders.
// Folders themselves are always durable, and there are no permissions.
package durabletest

import (
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/covey-mail/covey/internal/durable"
)

// Sector is the unit that a disk writes whole or not at all.
const Sector = 512

// ErrPower is what every operation returns after the power went.
var ErrPower = errors.New("power cut")

// A Disk is a durable.FS. NewDisk makes one. All methods may be called by any
// number of goroutines at once.
type Disk struct {
	mu     sync.Mutex
	boots  int                 // counts crashes: files opened before are dead
	dirs   map[string]bool     // folders
	live   map[string]*inode   // what Open finds
	stable map[string]*inode   // what a crash leaves
	names  map[string][]nameOp // by folder: changes to names since its SyncDir
	free   int64               // bytes left; negative: no limit
	faults []*Fault
	ops    int // operations that change something, so far
	stop   int // when ops gets there the power goes; 0: never
}

var _ durable.FS = (*Disk)(nil)

// A nameOp is a change of a folder: name stands for node, or for nothing.
type nameOp struct {
	name string
	node *inode
	from string // of a rename: the name that is gone
}

// NewDisk returns an empty disk without limit of space.
func NewDisk() *Disk {
	return &Disk{
		dirs: map[string]bool{"/": true, ".": true}, live: map[string]*inode{},
		stable: map[string]*inode{}, names: map[string][]nameOp{}, free: -1,
	}
}

// SetFree limits how many bytes files may grow by, all together; negative: no
// limit. Beyond, operations fail with ENOSPC; a write takes what fits first.
func (d *Disk) SetFree(n int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.free = n
}

// Ops returns how many operations that change something were tried.
func (d *Disk) Ops() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.ops
}

// StopAfter lets n more changing operations through and then cuts the power: the
// next one may happen in part, and it and everything after it fail with
// ErrPower until Crash.
func (d *Disk) StopAfter(n int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.stop = d.ops + n + 1
}

// change counts an operation. It returns ErrPower when the power goes with this
// operation or has gone. d.mu is held.
func (d *Disk) change() error {
	if d.stop > 0 && d.ops >= d.stop {
		return ErrPower
	}
	d.ops++
	if d.ops == d.stop {
		return ErrPower
	}
	return nil
}

// down reports whether the power is gone. d.mu is held.
func (d *Disk) down() bool { return d.stop > 0 && d.ops >= d.stop }

// Open implements durable.FS.
func (d *Disk) Open(name string, flag int, _ os.FileMode) (durable.File, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	name = filepath.Clean(name)
	if d.down() {
		return nil, ErrPower
	}
	if f := d.fault(Open, name); f != nil {
		return nil, pathError("open", name, f.Err)
	}
	node := d.live[name]
	switch {
	case d.dirs[name]:
		return nil, pathError("open", name, syscall.EISDIR)
	case node == nil && flag&os.O_CREATE == 0:
		return nil, pathError("open", name, fs.ErrNotExist)
	case node != nil && flag&(os.O_CREATE|os.O_EXCL) == os.O_CREATE|os.O_EXCL:
		return nil, pathError("open", name, fs.ErrExist)
	case node == nil && !d.dirs[filepath.Dir(name)]:
		return nil, pathError("open", name, fs.ErrNotExist)
	case node == nil:
		if err := d.change(); err != nil {
			return nil, err
		}
		node = &inode{}
		d.live[name] = node
		d.note(name, nameOp{name: name, node: node})
	}
	if flag&os.O_TRUNC != 0 && len(node.data) > 0 {
		if err := d.change(); err != nil {
			return nil, err
		}
		d.resize(node, 0)
	}
	return &file{disk: d, node: node, name: name, boot: d.boots, write: flag&(os.O_RDWR|os.O_WRONLY) != 0}, nil
}

// note remembers a change to the names of a folder. d.mu is held.
func (d *Disk) note(name string, op nameOp) {
	dir := filepath.Dir(name)
	d.names[dir] = append(d.names[dir], op)
}

// Rename implements durable.FS. Both names must be in one folder.
func (d *Disk) Rename(oldname, newname string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	oldname, newname = filepath.Clean(oldname), filepath.Clean(newname)
	if d.down() {
		return ErrPower
	}
	power := d.change()
	if f := d.fault(Rename, newname); f != nil && power == nil {
		return pathError("rename", newname, f.Err)
	}
	node := d.live[oldname]
	if node == nil {
		return pathError("rename", oldname, fs.ErrNotExist)
	}
	if filepath.Dir(oldname) != filepath.Dir(newname) {
		return pathError("rename", newname, syscall.EXDEV)
	}
	if old := d.live[newname]; old != nil {
		d.release(int64(len(old.data)))
	}
	delete(d.live, oldname)
	d.live[newname] = node
	d.note(newname, nameOp{name: newname, node: node, from: oldname})
	return power
}

// Remove implements durable.FS.
func (d *Disk) Remove(name string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	name = filepath.Clean(name)
	if d.down() {
		return ErrPower
	}
	power := d.change()
	if f := d.fault(Remove, name); f != nil && power == nil {
		return pathError("remove", name, f.Err)
	}
	if d.live[name] == nil {
		return pathError("remove", name, fs.ErrNotExist)
	}
	d.release(int64(len(d.live[name].data)))
	delete(d.live, name)
	d.note(name, nameOp{name: name})
	return power
}

// MkdirAll implements durable.FS.
func (d *Disk) MkdirAll(name string, _ os.FileMode) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.down() {
		return ErrPower
	}
	for name = filepath.Clean(name); !d.dirs[name]; name = filepath.Dir(name) {
		d.dirs[name] = true
	}
	return nil
}

// ReadDir implements durable.FS.
func (d *Disk) ReadDir(name string) ([]os.DirEntry, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	name = filepath.Clean(name)
	if d.down() {
		return nil, ErrPower
	}
	if !d.dirs[name] {
		return nil, pathError("readdir", name, fs.ErrNotExist)
	}
	var list []os.DirEntry
	for path, node := range d.live {
		if filepath.Dir(path) == name {
			list = append(list, fs.FileInfoToDirEntry(info{filepath.Base(path), int64(len(node.data)), 0o600}))
		}
	}
	for path := range d.dirs {
		if filepath.Dir(path) == name && path != name {
			list = append(list, fs.FileInfoToDirEntry(info{filepath.Base(path), 0, fs.ModeDir | 0o700}))
		}
	}
	slices.SortFunc(list, func(a, b os.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	return list, nil
}

// Stat implements durable.FS.
func (d *Disk) Stat(name string) (os.FileInfo, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	name = filepath.Clean(name)
	if d.down() {
		return nil, ErrPower
	}
	if d.dirs[name] {
		return info{filepath.Base(name), 0, fs.ModeDir | 0o700}, nil
	}
	node := d.live[name]
	if node == nil {
		return nil, pathError("stat", name, fs.ErrNotExist)
	}
	return info{filepath.Base(name), int64(len(node.data)), 0o600}, nil
}

// SyncDir implements durable.FS.
func (d *Disk) SyncDir(name string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	name = filepath.Clean(name)
	if err := d.change(); err != nil {
		return err
	}
	if f := d.fault(SyncDir, name); f != nil {
		return pathError("sync", name, f.Err)
	}
	for _, op := range d.names[name] {
		op.apply(d.stable)
	}
	delete(d.names, name)
	return nil
}

func (op *nameOp) apply(names map[string]*inode) {
	if op.from != "" {
		delete(names, op.from)
	}
	if op.node == nil {
		delete(names, op.name)
		return
	}
	names[op.name] = op.node
}

// Clone returns a copy of the disk as it is, pending writes included, without
// faults and with the power on. Files opened on d stay with d.
func (d *Disk) Clone() *Disk {
	d.mu.Lock()
	defer d.mu.Unlock()
	c := NewDisk()
	c.free, c.ops = d.free, d.ops
	c.dirs = maps.Clone(d.dirs)
	copies := map[*inode]*inode{nil: nil}
	of := func(n *inode) *inode {
		if _, ok := copies[n]; !ok {
			copies[n] = n.clone()
		}
		return copies[n]
	}
	for name, n := range d.live {
		c.live[name] = of(n)
	}
	for name, n := range d.stable {
		c.stable[name] = of(n)
	}
	for dir, ops := range d.names {
		for _, op := range ops {
			c.names[dir] = append(c.names[dir], nameOp{op.name, of(op.node), op.from})
		}
	}
	return c
}

func pathError(op, name string, err error) error { return &fs.PathError{Op: op, Path: name, Err: err} }

// An info describes a file.
type info struct {
	name string
	size int64
	mode fs.FileMode
}

func (i info) Name() string       { return i.name }
func (i info) Size() int64        { return i.size }
func (i info) Mode() fs.FileMode  { return i.mode }
func (i info) ModTime() time.Time { return time.Time{} }
func (i info) IsDir() bool        { return i.mode.IsDir() }
func (i info) Sys() any           { return nil }
