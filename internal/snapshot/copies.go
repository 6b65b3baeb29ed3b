package snapshot

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/covey-mail/covey"
)

// maxCopies bounds how many different copies of a state are open at a time.
const maxCopies = 4

// A Copy is what a copy of a state is made of.
type Copy struct {
	Header Header
	File   *FileCopy
	Pieces Pieces // nil: there are none
	Let    func() // called when the copy is closed, to let go what it refers to; nil: nothing
}

// Pieces are the pieces of a copy, with their headers, one after the other.
type Pieces interface {
	io.ReaderAt
	io.Closer
}

// Copies are the open copies of one state. The zero Copies has none. Its methods
// may be called by any number of goroutines, also while locks of the state are
// held: it takes none of those.
type Copies struct {
	mu   sync.Mutex // guards what follows
	list []*shared
	made uint64
}

// A shared copy has one or more users.
type shared struct {
	of    *Copies
	copy  Copy
	users int // guarded by of.mu

	mu     sync.Mutex // guards what follows; of.mu is not taken while it is held
	stream *Stream
	closed bool
}

// Open returns a copy of a state that has applied commands up to an index. Users
// who come while one is being made, or while nothing was applied since, share
// it; otherwise begin makes it, the nth. covey.Limit: too many are open.
func (c *Copies) Open(applied uint64, begin func(n uint64) (Copy, error)) (Snapshot, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	i := slices.IndexFunc(c.list, func(s *shared) bool { return s.copy.current(applied) })
	if i < 0 {
		if len(c.list) >= maxCopies {
			return nil, covey.Errorf(covey.Limit, "%d copies are open", len(c.list))
		}
		c.made++
		made, err := begin(c.made)
		if err != nil {
			return nil, err
		}
		i = len(c.list)
		c.list = append(c.list, &shared{of: c, copy: made, stream: NewStream(made.Header, made.File, made.Pieces)})
	}
	c.list[i].users++
	return &user{shared: c.list[i]}, nil
}

// current reports whether a copy is as good as one made now.
func (c *Copy) current(applied uint64) bool {
	if c.File.Copying() {
		return true
	}
	_, err := c.File.Sum() // does not wait any more
	return err == nil && c.Header.Index == applied
}

// Close closes all copies, whoever uses them.
func (c *Copies) Close() error {
	c.mu.Lock()
	list := c.list
	c.list = nil
	c.mu.Unlock()
	var errs []error
	for _, s := range list {
		errs = append(errs, s.close())
	}
	return errors.Join(errs...)
}

// leave takes a user away, and closes the copy after the last.
func (s *shared) leave() error {
	c := s.of
	c.mu.Lock()
	s.users--
	last := s.users == 0
	if last {
		c.list = slices.DeleteFunc(c.list, func(o *shared) bool { return o == s })
	}
	c.mu.Unlock()
	if !last {
		return nil
	}
	return s.close()
}

// close gives back what the copy takes. It may be called twice.
func (s *shared) close() error {
	s.copy.File.Stop() // a reader may wait for it
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	if s.copy.Let != nil {
		s.copy.Let()
	}
	err := s.copy.File.Close()
	if s.copy.Pieces != nil {
		err = errors.Join(err, s.copy.Pieces.Close())
	}
	return err
}

// A user has a share of a copy.
type user struct {
	shared *shared
	left   atomic.Bool
}

// Index implements Snapshot.
func (u *user) Index() uint64 { return u.shared.copy.Header.Index }

// ReadChunk implements Snapshot.
func (u *user) ReadChunk(n uint64) ([]byte, error) {
	s := u.shared
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || u.left.Load() {
		return nil, covey.Errorf(covey.Unavailable, "copy of shard %d is closed", s.copy.Header.Group)
	}
	b, err := s.stream.ReadChunk(n)
	if err != nil && err != io.EOF {
		err = fmt.Errorf("copy of shard %d: %w", s.copy.Header.Group, err)
	}
	return b, err
}

// Close implements Snapshot.
func (u *user) Close() error {
	if u.left.Swap(true) {
		return nil
	}
	return u.shared.leave()
}
