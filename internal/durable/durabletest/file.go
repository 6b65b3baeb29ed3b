package durabletest

import (
	"io"
	"io/fs"
	"slices"
	"syscall"
)

// An inode is a file's content. Disk.mu guards it.
type inode struct {
	data    []byte    // what reading shows
	stable  []byte    // what the last Sync put on the disk
	pending []writeOp // what happened since, in order
}

// A writeOp is a write at off, or, with nil data, a change of size to off.
type writeOp struct {
	off  int64
	data []byte
}

func (n *inode) clone() *inode {
	// Ops are never changed, so they may be shared.
	return &inode{data: slices.Clone(n.data), stable: slices.Clone(n.stable), pending: slices.Clone(n.pending)}
}

// A file is an open file of a Disk.
type file struct {
	disk  *Disk
	node  *inode
	name  string
	boot  int
	write bool
	shut  bool
}

// check returns why the file cannot be used. d.mu is held.
func (f *file) check(op string) error {
	switch {
	case f.disk.down():
		return ErrPower
	case f.shut || f.boot != f.disk.boots:
		return pathError(op, f.name, fs.ErrClosed)
	}
	return nil
}

func (f *file) checkWrite(op string) error {
	if err := f.check(op); err != nil {
		return err
	}
	if !f.write {
		return pathError(op, f.name, syscall.EBADF)
	}
	return nil
}

// ReadAt implements io.ReaderAt.
func (f *file) ReadAt(p []byte, off int64) (int, error) {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	if err := f.check("read"); err != nil {
		return 0, err
	}
	if t := f.disk.fault(Read, f.name); t != nil {
		return 0, pathError("read", f.name, t.Err)
	}
	if off >= int64(len(f.node.data)) {
		return 0, io.EOF
	}
	n := copy(p, f.node.data[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// WriteAt implements io.WriterAt.
func (f *file) WriteAt(p []byte, off int64) (int, error) {
	d := f.disk
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := f.checkWrite("write"); err != nil {
		return 0, err
	}
	power := d.change()
	if t := d.fault(Write, f.name); t != nil && power == nil {
		n := min(t.Short, len(p))
		d.put(f.node, p[:n], off)
		return n, pathError("write", f.name, t.Err)
	}
	n := len(p)
	if grow := off + int64(n) - int64(len(f.node.data)); d.free >= 0 && grow > d.free {
		n = max(0, n-int(grow-d.free))
	}
	d.put(f.node, p[:n], off)
	if n < len(p) && power == nil {
		return n, pathError("write", f.name, syscall.ENOSPC)
	}
	return n, power
}

// put writes p. d.mu is held.
func (d *Disk) put(n *inode, p []byte, off int64) {
	if len(p) == 0 {
		return
	}
	if end := off + int64(len(p)); end > int64(len(n.data)) {
		d.release(int64(len(n.data)) - end)
		n.data = append(n.data, make([]byte, end-int64(len(n.data)))...)
	}
	copy(n.data[off:], p)
	n.pending = append(n.pending, writeOp{off, slices.Clone(p)})
}

// resize sets the size of a file. d.mu is held.
func (d *Disk) resize(n *inode, size int64) {
	d.release(int64(len(n.data)) - size)
	if size <= int64(len(n.data)) {
		n.data = n.data[:size:size]
	} else {
		n.data = append(n.data, make([]byte, size-int64(len(n.data)))...)
	}
	n.pending = append(n.pending, writeOp{off: size})
}

// release gives n bytes back, or takes them if it is negative. d.mu is held.
func (d *Disk) release(n int64) {
	if d.free >= 0 {
		d.free = max(0, d.free+n)
	}
}

// Truncate implements durable.File.
func (f *file) Truncate(size int64) error {
	d := f.disk
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := f.checkWrite("truncate"); err != nil {
		return err
	}
	power := d.change()
	if t := d.fault(Truncate, f.name); t != nil && power == nil {
		return pathError("truncate", f.name, t.Err)
	}
	d.resize(f.node, size)
	return power
}

// Allocate implements durable.File.
func (f *file) Allocate(size int64) error {
	d := f.disk
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := f.checkWrite("allocate"); err != nil {
		return err
	}
	grow := size - int64(len(f.node.data))
	if grow <= 0 {
		return nil
	}
	power := d.change()
	if t := d.fault(Allocate, f.name); t != nil && power == nil {
		return pathError("allocate", f.name, t.Err)
	}
	if d.free >= 0 && grow > d.free {
		return pathError("allocate", f.name, syscall.ENOSPC)
	}
	d.resize(f.node, size)
	return power
}

// Sync implements durable.File. One that a fault makes fail does to the data
// what Linux does: reading still shows it, and no later Sync writes it.
func (f *file) Sync() error {
	d := f.disk
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := f.check("sync"); err != nil {
		return err
	}
	if err := d.change(); err != nil {
		return err
	}
	if t := d.fault(Sync, f.name); t != nil {
		f.node.pending = nil
		return pathError("sync", f.name, t.Err)
	}
	n := f.node
	for _, op := range n.pending {
		n.stable = op.apply(n.stable)
	}
	n.pending = nil
	return nil
}

// apply returns p after the operation.
func (op *writeOp) apply(p []byte) []byte {
	if op.data == nil {
		if op.off <= int64(len(p)) {
			return p[:op.off:op.off]
		}
		return append(p, make([]byte, op.off-int64(len(p)))...)
	}
	if end := op.off + int64(len(op.data)); end > int64(len(p)) {
		p = append(p, make([]byte, end-int64(len(p)))...)
	}
	copy(p[op.off:], op.data)
	return p
}

// Size implements durable.File.
func (f *file) Size() (int64, error) {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	if err := f.check("stat"); err != nil {
		return 0, err
	}
	return int64(len(f.node.data)), nil
}

// Close implements durable.File. It does not sync.
func (f *file) Close() error {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	if f.shut {
		return pathError("close", f.name, fs.ErrClosed)
	}
	f.shut = true
	return nil
}
