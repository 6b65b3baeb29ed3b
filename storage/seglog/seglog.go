// Package seglog is a node's only log: append-only segment files that all its
// Raft groups share, and in which the bodies of messages stay for as long as
// they are referred to. The format is described in format.go, the reasons in
// DESIGN.md.
//
// A Log orders nothing and knows no mail. It gives each group a raft.Storage,
// takes batches of changes of many groups, each written with one write and one
// fsync, and says where an entry's bytes lie. What is needed no more goes by
// whole segments: the caller moves live bodies forward with CopyBodies, tells by
// Applied what its checkpoints cover, and calls Remove. A Hold keeps segments
// that somebody reads, or fills with bodies of another node.
//
// Limits: 256 MiB per entry, 1 GiB per batch, 2 GiB per segment, 65,536 groups.
package seglog

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"sync"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/internal/durable"
)

// A Config says where a log lies and how large it may grow. The zero value of
// each field but Dir is usable.
type Config struct {
	Dir         string       // folder, made if it is not there
	FS          durable.FS   // nil: the real one
	SegmentSize int64        // bytes at which a new segment begins, 4 KiB to 1 GiB; 0: 64 MiB
	Keep        int64        // bytes of applied entries kept per group of several members, for those that lag; 0: 256 MiB, negative: none. An entry counts as at least 1 KiB, which bounds the memory that knows of them to 40 bytes for each 1 KiB
	CacheBytes  int64        // data of recent entries kept in memory, for all groups together; 0: 32 MiB, negative: none
	Logger      *slog.Logger // nil: none
}

func (c *Config) validate() error {
	if c.Dir == "" {
		return covey.Errorf(covey.Invalid, "open log: no folder given")
	}
	setDefault(&c.SegmentSize, 64<<20)
	setDefault(&c.Keep, 256<<20)
	setDefault(&c.CacheBytes, 32<<20)
	if c.SegmentSize < 4<<10 || c.SegmentSize > maxSegment/2 {
		return covey.Errorf(covey.Invalid, "open log: segments of %d bytes, want 4 KiB to 1 GiB", c.SegmentSize)
	}
	if c.FS == nil {
		c.FS = durable.OS()
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return nil
}

func setDefault(v *int64, def int64) {
	if *v == 0 {
		*v = def
	}
}

// A Log is an open log. Its methods may be called by any number of goroutines at
// once; those that write take turns.
//
// Locks are taken in the order write, mu, Group.mu, files.mu.
type Log struct {
	cfg Config

	write  sync.Mutex // serialises all that writes; guards the fields up to mu
	active *segment   // takes the next batch; nil: one is made first
	synced int64      // what of the active segment is known to be on stable storage
	items  []item     // entry records of the active segment
	newest *segment   // the active one, or the last that was
	turn   uint64     // ascends with each check of a batch, see Group.plan
	marks  Batch      // of Remove
	cache  cache
	files  files

	mu       sync.RWMutex // guards what follows
	groups   map[covey.ShardID]*Group
	segments []*segment     // ascending
	held     map[uint64]int // segments that may not be removed: by how many Holds
	err      error          // why the log is closed for good
	closed   bool

	failed chan struct{} // closed when err is set
}

// Open opens the log in cfg.Dir, or makes one. A tail that a crash tore is cut
// off; what Write had reported as durable is never part of it. Damage anywhere
// else is covey.Corrupt, and the error says where and what to do.
//
// When it returns, all that Groups show is on stable storage.
func Open(cfg Config) (*Log, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	l := &Log{cfg: cfg, groups: make(map[covey.ShardID]*Group), held: make(map[uint64]int), failed: make(chan struct{})}
	l.cache.limit = cfg.CacheBytes
	if err := l.recover(); err != nil {
		l.closeFiles()
		return nil, fmt.Errorf("open log %s: %w", cfg.Dir, err)
	}
	return l, nil
}

// Group returns the part of the log that belongs to a Raft group, empty if
// nothing was ever written for it. It is the same for every call.
func (l *Log) Group(id covey.ShardID) *Group {
	l.mu.RLock()
	g := l.groups[id]
	l.mu.RUnlock()
	if g != nil {
		return g
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if g := l.groups[id]; g != nil {
		return g
	}
	g = &Group{id: id, log: l}
	l.groups[id] = g
	return g
}

// Groups returns the ids of all groups that were written or asked for, in
// ascending order.
func (l *Log) Groups() []covey.ShardID {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return slices.Sorted(maps.Keys(l.groups))
}

// Failed is closed when the log has met an error after which nothing may be
// written any more; Err tells which. Reading goes on.
func (l *Log) Failed() <-chan struct{} { return l.failed }

// Err returns why the log takes nothing any more: the fault that Failed
// announced, covey.Unavailable after Close, or nil.
func (l *Log) Err() error {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if l.err == nil && l.closed {
		return covey.Errorf(covey.Unavailable, "log is closed")
	}
	return l.err
}

// fail closes the log for writing for good, and returns what Err returns from
// now on.
func (l *Log) fail(err error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err == nil {
		// Not wrapped into another Kind by callers: it is a fault of this node,
		// whatever the operation was.
		l.err = covey.Errorf(covey.Internal, "log is closed after a fault of its disk: %w", err)
		l.cfg.Logger.Error("log closed for good, nothing is acknowledged any more", "error", err)
		close(l.failed)
	}
	return l.err
}

// Close notes that all is on stable storage, and closes the files. Groups and
// places must not be read any more. It may be called twice.
func (l *Log) Close() error {
	l.write.Lock()
	defer l.write.Unlock()
	l.mu.RLock()
	done, failed := l.closed, l.err != nil
	l.mu.RUnlock()
	if done {
		return nil
	}
	var err error
	if !failed {
		err = l.mark()
	}
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	l.closeFiles()
	return err
}

func (l *Log) closeFiles() {
	l.mu.RLock()
	defer l.mu.RUnlock()
	l.files.mu.Lock()
	defer l.files.mu.Unlock()
	l.files.closed = true
	for _, s := range l.segments {
		l.files.closeLocked(s)
	}
}

func newSalt() (uint64, error) {
	var p [8]byte
	if _, err := io.ReadFull(rand.Reader, p[:]); err != nil {
		return 0, fmt.Errorf("salt: %w", err)
	}
	return binary.LittleEndian.Uint64(p[:]), nil
}
