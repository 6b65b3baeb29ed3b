package seglog

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/internal/durable"
)

// maxBatch bounds what one Write takes, so that offsets stay within 32 bits.
const maxBatch = 1 << 30

// A Durability says what a Write waits for.
type Durability bool

const (
	Buffered Durability = false // the kernel has it
	Synced   Durability = true  // stable storage has it
)

// Write appends a batch with one write and, if it is to be Synced, one fsync (and a few
// more when it begins a new segment). When it returns nil, Groups show the
// batch; if Synced it and all written before are on stable storage.
//
// On a full disk nothing of the batch is there, the error is covey.DiskFull, and
// the same batch may be tried again. A batch that does not fit its groups (a gap
// in the indexes, an entry below the first) is covey.Invalid or covey.TooBig,
// and nothing of it is there. After any other error, a failed fsync above all,
// the log is closed for good: this and all later calls return that error, of
// kind covey.Internal.
//
// An empty batch that is to be Synced puts on stable storage what was written without.
func (l *Log) Write(b *Batch, sync Durability) error {
	l.write.Lock()
	defer l.write.Unlock()
	if err := l.Err(); err != nil {
		return err
	}
	return l.put(b, sync)
}

// put is Write for callers that hold l.write.
func (l *Log) put(b *Batch, sync Durability) error {
	if !b.Empty() {
		b.seal()
		if err := l.check(b); err != nil {
			return err
		}
		if err := l.append(b); err != nil {
			return err
		}
	}
	if sync {
		if err := l.sync(); err != nil {
			return err
		}
	}
	if !b.Empty() {
		l.publish(b)
	}
	return nil
}

// check refuses a batch that its groups cannot take, before anything of it is
// written.
func (l *Log) check(b *Batch) error {
	if len(b.buf) > maxBatch {
		return covey.Errorf(covey.TooBig, "write log: batch of %d bytes, at most %d are allowed", len(b.buf), maxBatch)
	}
	l.turn++
	var g *Group
	for i := range b.changes {
		c := &b.changes[i]
		if c.length > c.kind.maxPayload() {
			return covey.Errorf(covey.TooBig, "write log: record of %d bytes, at most %d are allowed", c.length, c.kind.maxPayload())
		}
		if c.kind == kindBodyCopy {
			continue
		}
		if g == nil || g.id != c.group {
			g = l.Group(c.group)
			g.begin(l.turn)
		}
		if err := g.admit(&c.record); err != nil {
			return err
		}
	}
	return nil
}

// append writes a batch behind the active segment's records.
func (l *Log) append(b *Batch) error {
	n := int64(len(b.buf))
	if err := l.room(n); err != nil {
		return err
	}
	s := l.active
	b.sign(s.salt, s.end, l.synced)
	if _, err := s.file.WriteAt(b.buf, s.end); err != nil {
		return l.rollBack(s, err)
	}
	for i := range b.changes {
		if c := &b.changes[i]; c.kind == kindEntry {
			l.items = append(l.items, itemOf(&c.record, s.end+c.at))
		}
	}
	l.mu.Lock()
	s.end += n
	l.mu.Unlock()
	return nil
}

// rollBack takes a write back that found no room, so that neither a later batch
// nor a crash can bring parts of it to light.
func (l *Log) rollBack(s *segment, cause error) error {
	if !durable.IsFull(cause) {
		return l.fail(fmt.Errorf("write segment %d at %d: %w", s.number, s.end, cause))
	}
	if err := errors.Join(s.file.Truncate(s.end), s.file.Sync()); err != nil {
		return l.fail(fmt.Errorf("take back a write to segment %d at %d: %w", s.number, s.end, err))
	}
	s.size, l.synced = s.end, s.end
	return covey.Errorf(covey.DiskFull, "write segment %d: %w", s.number, cause)
}

// sync puts the active segment on stable storage.
func (l *Log) sync() error {
	s := l.active
	if s == nil || l.synced == s.end {
		return nil
	}
	if err := syncFile(s); err != nil {
		return l.fail(fmt.Errorf("sync segment %d: %w", s.number, err))
	}
	l.synced = s.end
	return nil
}

// mark syncs, and writes and syncs a batch without content, which states how far
// the segment was synced: damage below is then told from a torn tail.
func (l *Log) mark() error {
	if err := l.sync(); err != nil {
		return err
	}
	s := l.active
	if s == nil || s.end == s.start || s.marked == s.end || s.end+recordHeader > s.size {
		return nil
	}
	if err := l.append(&Batch{buf: make([]byte, recordHeader)}); err != nil {
		return err
	}
	s.marked = s.end
	return l.sync()
}

// room makes sure that the active segment takes n more bytes.
func (l *Log) room(n int64) error {
	if s := l.active; s != nil && s.end > s.start && s.end+n > max(l.cfg.SegmentSize, s.size) {
		if err := l.seal(); err != nil {
			return err
		}
	}
	if l.active == nil {
		if err := l.begin(n); err != nil {
			return err
		}
	}
	s := l.active
	if s.end+n <= s.size {
		return nil
	}
	if err := s.file.Allocate(s.end + n); err != nil {
		if durable.IsFull(err) {
			return covey.Errorf(covey.DiskFull, "extend segment %d: %w", s.number, err)
		}
		return l.fail(fmt.Errorf("extend segment %d: %w", s.number, err))
	}
	s.size = s.end + n
	return nil
}

// seal puts the active segment on stable storage with a footer. No segment is
// begun before, so that only the newest one can have a torn tail.
func (l *Log) seal() error {
	if err := l.sync(); err != nil {
		return err
	}
	s := l.active
	foot := encodeFooter(l.items, s.salt, s.end)
	size := s.end + int64(len(foot))
	// Cut first: the trailer must be what the file ends with.
	if err := s.file.Truncate(s.end); err != nil {
		return l.fail(fmt.Errorf("seal segment %d: %w", s.number, err))
	}
	s.size = s.end
	if _, err := s.file.WriteAt(foot, s.end); err != nil {
		return l.rollBack(s, err)
	}
	if err := s.file.Sync(); err != nil {
		return l.fail(fmt.Errorf("seal segment %d: %w", s.number, err))
	}
	l.mu.Lock()
	s.sealed, s.size = true, size
	l.mu.Unlock()
	l.files.add(s)
	l.active, l.synced, l.items = nil, 0, l.items[:0]
	return nil
}

// begin makes the next segment, with room for n bytes. On a full disk nothing
// has changed.
func (l *Log) begin(n int64) error {
	states := l.states()
	h := header{number: 1, groups: states}
	if l.newest != nil {
		h.number, h.prevEnd = l.newest.number+1, l.newest.end
	}
	s, err := l.create(&h, l.cfg.SegmentSize)
	if durable.IsFull(err) {
		// Less than usual still lets messages be deleted.
		s, err = l.create(&h, n)
	}
	switch {
	case durable.IsFull(err):
		return covey.Errorf(covey.DiskFull, "begin segment %d: %w", h.number, err)
	case err != nil:
		return l.fail(fmt.Errorf("begin segment %d: %w", h.number, err))
	}
	for _, st := range states {
		g := l.Group(st.group)
		g.mu.Lock()
		g.noted = st.prev
		g.mu.Unlock()
	}
	l.mu.Lock()
	l.segments = append(l.segments, s)
	l.mu.Unlock()
	l.active, l.newest, l.synced = s, s, s.end
	return nil
}

// create makes the file of a segment with a new salt and size bytes behind its
// header.
func (l *Log) create(h *header, size int64) (*segment, error) {
	var err error
	if h.salt, err = newSalt(); err != nil {
		return nil, err
	}
	name := filepath.Join(l.cfg.Dir, segmentName(h.number))
	data := h.encode()
	f, err := l.cfg.FS.Open(name+newSuffix, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, err
	}
	n := int64(len(data))
	if err := l.finish(f, name, data, n+size); err != nil {
		return nil, errors.Join(err, f.Close(), l.discard(name+newSuffix))
	}
	return &segment{number: h.number, salt: h.salt, start: n, end: n, size: n + size, file: f}, nil
}

// finish gives a new segment its blocks and its header, and then its name.
func (l *Log) finish(f durable.File, name string, head []byte, size int64) error {
	if err := f.Allocate(size); err != nil {
		return err
	}
	if _, err := f.WriteAt(head, 0); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := l.cfg.FS.Rename(name+newSuffix, name); err != nil {
		return err
	}
	return l.cfg.FS.SyncDir(l.cfg.Dir)
}

// discard removes an unfinished segment, which holds space that is short.
func (l *Log) discard(name string) error {
	if err := l.cfg.FS.Remove(name); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// states returns what the header of a new segment says of each group.
func (l *Log) states() []groupState {
	var list []groupState
	for _, id := range l.Groups() {
		g := l.Group(id)
		g.mu.RLock()
		st := groupState{group: id, prev: g.prev, last: g.last(), hard: g.hard, conf: g.conf, confIndex: g.confIndex}
		g.mu.RUnlock()
		if st.last > 0 || st.hard != (hardState{}) || st.conf != nil {
			list = append(list, st)
		}
	}
	return list
}
