package replica

import (
	"bytes"
	"encoding/gob"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/internal/durable"
	"github.com/covey-mail/covey/internal/snapshot"
)

// What a recorder has on its disk.
type kept struct {
	Chain chain
	Meta  []byte
}

// newRecorder opens the recorder whose state is in a file, or makes one.
func newRecorder(fsys durable.FS, path string) *recorder {
	r := &recorder{fs: fsys, path: path}
	b, err := durable.ReadFile(fsys, path, 1<<30)
	if errors.Is(err, fs.ErrNotExist) {
		return r
	}
	var k kept
	if err == nil {
		err = gob.NewDecoder(bytes.NewReader(b)).Decode(&k)
	}
	if err != nil {
		r.fault = fmt.Errorf("open state: %w", err)
		return r
	}
	r.chain = k.Chain.clipped()
	r.durable, r.meta = r.chain, k.Meta
	return r
}

func encoded(v any) []byte {
	var b bytes.Buffer
	if err := gob.NewEncoder(&b).Encode(v); err != nil {
		panic(err)
	}
	return b.Bytes()
}

// keep makes a state durable in a file, if the recorder has a disk.
func (r *recorder) keep(path string, c chain, meta []byte) error {
	if r.fs == nil {
		return nil
	}
	return diskError(durable.WriteFile(r.fs, path, encoded(kept{c, meta}), 0o600))
}

func diskError(err error) error {
	if err != nil && durable.IsFull(err) {
		return covey.Errorf(covey.DiskFull, "%w", err)
	}
	return err
}

// remove deletes the state, as a node does with one whose group has left.
func (r *recorder) remove() {
	if r.fs == nil {
		return
	}
	for _, name := range []string{r.path, r.path + ".staged"} {
		if err := r.fs.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			r.fault = err
		}
	}
	if err := r.fs.SyncDir("/"); err != nil {
		r.fault = err
	}
}

// A copied is an open copy of a recorder.
type copied struct {
	of    *recorder
	index uint64
	data  []byte
}

func (r *recorder) Snapshot() (snapshot.Snapshot, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.full {
		return nil, errNoRoom
	}
	c := &copied{of: r, index: r.chain.Index, data: encoded(r.chain)}
	if r.shared && len(r.copies) > 0 {
		c.index, c.data = r.copies[0].index, r.copies[0].data
	}
	r.copies = append(r.copies, c)
	return c, nil
}

func (c *copied) Index() uint64 { return c.index }

func (c *copied) ReadChunk(n uint64) ([]byte, error) {
	c.of.mu.Lock()
	defer c.of.mu.Unlock()
	if !slices.Contains(c.of.copies, c) {
		return nil, covey.Errorf(covey.Unavailable, "closed")
	}
	size := uint64(c.of.chunk)
	if size == 0 {
		size = 1 << 10
	}
	if n > uint64(len(c.data)) || n*size >= uint64(len(c.data)) {
		return nil, io.EOF
	}
	return bytes.Clone(c.data[n*size : min((n+1)*size, uint64(len(c.data)))]), nil
}

func (c *copied) Close() error {
	c.of.mu.Lock()
	defer c.of.mu.Unlock()
	c.of.copies = slices.DeleteFunc(c.of.copies, func(o *copied) bool { return o == c })
	return nil
}

// A restorer takes in a copy. It lies beside the state until it is installed.
type restorer struct {
	of     *recorder
	data   []byte
	staged *chain
}

func (r *recorder) Restore() (snapshot.Restorer, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.restoring != nil {
		return nil, covey.Errorf(covey.InUse, "a copy is being taken in")
	}
	r.restoring = &restorer{of: r}
	return r.restoring, nil
}

func (s *restorer) WriteChunk(b []byte) error {
	s.data = append(s.data, b...)
	return nil
}

func (s *restorer) Stage() (uint64, error) {
	var c chain
	if err := gob.NewDecoder(bytes.NewReader(s.data)).Decode(&c); err != nil {
		return 0, covey.Errorf(covey.Corrupt, "copy: %w", err)
	}
	var again chain
	for i, command := range c.Commands {
		again.add(c.Indexes[i], command)
	}
	if again.Hash != c.Hash {
		return 0, covey.Errorf(covey.Corrupt, "copy does not match its hash")
	}
	if err := s.of.keep(s.of.path+".staged", c, nil); err != nil {
		return 0, err
	}
	s.of.mu.Lock()
	defer s.of.mu.Unlock()
	s.staged = &c
	s.of.stages++
	return c.Index, nil
}

func (s *restorer) Abort() error {
	s.of.mu.Lock()
	defer s.of.mu.Unlock()
	if s.of.restoring == s {
		s.of.restoring = nil
	}
	return nil
}

// Install writes the meta into the staged copy, and renames it.
func (r *recorder) Install(s snapshot.Restorer, meta []byte) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	staged := s.(*restorer)
	if err := r.installErr; err != nil {
		if !r.installFull {
			r.installErr = nil
		}
		return err
	}
	if staged.of != r || staged.staged == nil || staged.staged.Index < r.chain.Index {
		r.fault = fmt.Errorf("a copy of %v was to be installed over %d", staged.staged, r.chain.Index)
		return r.fault
	}
	if r.fs != nil {
		if err := r.keep(r.path+".staged", *staged.staged, meta); err != nil {
			return err
		}
		if err := errors.Join(r.fs.Rename(r.path+".staged", r.path), r.fs.SyncDir("/")); err != nil {
			return err
		}
	}
	r.chain = staged.staged.clipped()
	r.durable, r.meta, r.restoring = r.chain, meta, nil
	return nil
}

func (r *recorder) Installed() []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.meta
}
