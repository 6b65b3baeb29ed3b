package snapshot

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"sync"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/internal/durable"
)

const (
	copyStep = 1 << 20 // bytes read and written at a time

	// copySync is how much is written between two fsyncs. Nobody needs the file
	// after a crash; but the kernel would gather all of it and then make the next
	// fsync of the log wait.
	copySync = 16 << 20
)

// A FileCopy is a file's bytes as they were at one moment, on their way to
// another file. Whoever began it leaves the first one as it is until Copying is
// false. Its methods may be called by any number of goroutines.
type FileCopy struct {
	fs   durable.FS
	name string
	file durable.File
	size int64
	run  sync.WaitGroup

	mu     sync.Mutex // guards what follows
	moved  *sync.Cond // something of it has changed
	have   int64      // bytes that are there
	sum    uint32     // CRC32C of them
	ended  bool       // no more will come
	err    error      // why, unless all are there
	closed bool
}

// StartCopy begins to copy the first size bytes of from to a file of that name.
// It goes on until that is done, or until Stop.
func StartCopy(fsys durable.FS, from io.ReaderAt, size int64, name string) (*FileCopy, error) {
	f, err := fsys.Open(name, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("copy to %s: %w", name, err)
	}
	c := &FileCopy{fs: fsys, name: name, file: f, size: size}
	c.moved = sync.NewCond(&c.mu)
	c.run.Go(func() { c.end(c.copy(from)) })
	return c, nil
}

func (c *FileCopy) copy(from io.ReaderAt) error {
	if free, err := durable.Free(filepath.Dir(c.name)); err == nil && free < c.size+stageSlack {
		return covey.Errorf(covey.DiskFull, "%d octets, %d are free", c.size, free)
	}
	// Now rather than when half of it is there.
	if err := c.file.Allocate(c.size); err != nil {
		return err
	}
	buf := make([]byte, min(copyStep, c.size))
	for off, synced := int64(0), int64(0); off < c.size; {
		if c.stopped() {
			return nil
		}
		p := buf[:min(int64(len(buf)), c.size-off)]
		if n, err := from.ReadAt(p, off); n < len(p) {
			return fmt.Errorf("read at %d: %w", off, err)
		}
		if _, err := c.file.WriteAt(p, off); err != nil {
			return err
		}
		off += int64(len(p))
		if off-synced >= copySync {
			if err := c.file.Sync(); err != nil {
				return err
			}
			synced = off
		}
		c.add(p)
	}
	return nil
}

// add notes that p was copied.
func (c *FileCopy) add(p []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.have += int64(len(p))
	c.sum = crc32.Update(c.sum, castagnoli, p)
	c.moved.Broadcast()
}

func (c *FileCopy) stopped() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ended
}

// end notes that no more will come.
func (c *FileCopy) end(err error) {
	if durable.IsFull(err) {
		err = covey.Errorf(covey.DiskFull, "%w", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended = true
	if c.err == nil && err != nil {
		c.err = fmt.Errorf("copy to %s: %w", c.name, err)
	}
	c.moved.Broadcast()
}

// Copying reports whether the file copied from is still read.
func (c *FileCopy) Copying() bool { return !c.stopped() }

// Stop ends the copying, if it goes on, and waits until nothing is read any
// more. What is missing then can be had no more: covey.Unavailable.
func (c *FileCopy) Stop() {
	c.mu.Lock()
	if !c.ended {
		c.ended, c.err = true, covey.Errorf(covey.Unavailable, "the copy was ended")
		c.moved.Broadcast()
	}
	c.mu.Unlock()
	c.run.Wait()
}

// wait returns when the first n bytes are there, or an error if they never will
// be.
func (c *FileCopy) wait(n int64) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.have < n && !c.ended {
		c.moved.Wait()
	}
	switch {
	case c.closed:
		return covey.Errorf(covey.Unavailable, "the copy is closed")
	case c.have < n && c.err == nil:
		return io.ErrUnexpectedEOF
	case c.have < n:
		return c.err
	}
	return nil
}

// ReadAt implements io.ReaderAt over the copy. It waits for bytes that are yet
// to come.
func (c *FileCopy) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 || off >= c.size {
		return 0, io.EOF
	}
	n := min(int64(len(p)), c.size-off)
	if err := c.wait(off + n); err != nil {
		return 0, err
	}
	k, err := c.file.ReadAt(p[:n], off)
	if err == nil && n < int64(len(p)) {
		err = io.EOF
	}
	return k, err
}

// Sum waits for the end of the copying and returns the CRC32C of all bytes.
func (c *FileCopy) Sum() (uint32, error) {
	if err := c.wait(c.size); err != nil {
		return 0, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.sum, nil
}

// Name returns the name of the copy's file.
func (c *FileCopy) Name() string { return c.name }

// Close stops the copying and removes the copy. It may be called twice.
func (c *FileCopy) Close() error {
	c.Stop()
	c.mu.Lock()
	done := c.closed
	c.closed = true
	c.mu.Unlock()
	if done {
		return nil
	}
	return errors.Join(c.file.Close(), c.fs.Remove(c.name))
}
