package seglog

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"slices"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/covey-mail/covey"
)

// maxRead bounds one read from the disk, unless a single entry is longer.
const maxRead = 1 << 20

// Entries implements raft.Storage. What is not in memory is read from the disk
// and checked; an entry that does not match its checksum is covey.Corrupt.
func (g *Group) Entries(lo, hi, maxSize uint64) ([]*raftpb.Entry, error) {
	slots, err := g.copySlots(lo, hi, maxSize)
	if err != nil {
		return nil, err
	}
	ents := make([]*raftpb.Entry, len(slots))
	for i := 0; i < len(slots); {
		if slots[i].ent != nil {
			ents[i] = slots[i].ent
			i++
			continue
		}
		n := run(slots[i:])
		if err := g.load(ents[i:i+n], slots[i:i+n], lo+uint64(i)); err != nil {
			return nil, err
		}
		i += n
	}
	return ents, nil
}

// copySlots returns the slots of [lo, hi), cut so that their entries encode to
// at most maxSize bytes, but at least one.
func (g *Group) copySlots(lo, hi, maxSize uint64) ([]slot, error) {
	g.mu.RLock()
	defer g.mu.RUnlock()
	if lo <= g.prev.index {
		return nil, raft.ErrCompacted
	}
	if lo >= hi {
		return nil, nil
	}
	if hi > g.last()+1 {
		return nil, raft.ErrUnavailable
	}
	from := g.slots[lo-g.prev.index-1:][:hi-lo]
	size := uint64(0)
	for i := range from {
		size += encodedSize(&from[i], lo+uint64(i))
		if i > 0 && size > maxSize {
			return slices.Clone(from[:i]), nil
		}
	}
	return slices.Clone(from), nil
}

// encodedSize is the size of an entry as a protocol buffer, which is what Raft
// counts.
func encodedSize(s *slot, index uint64) uint64 {
	n := 2 + 1 + varintSize(s.term) + 1 + varintSize(index)
	if s.length > 0 {
		n += 1 + varintSize(uint64(s.length)) + uint64(s.length)
	}
	return n
}

func varintSize(v uint64) uint64 {
	n := uint64(1)
	for ; v >= 1<<7; v >>= 7 {
		n++
	}
	return n
}

// run returns how many slots from the first lie close together on the disk and
// are not in memory. At least half of what lies between them is theirs: the
// entries keep all of it in memory, and other groups' may be most of a segment.
func run(slots []slot) int {
	first := &slots[0]
	own := int64(recordHeader) + int64(first.length)
	for i := 1; i < len(slots); i++ {
		s := &slots[i]
		own += recordHeader + int64(s.length)
		span := int64(s.offset) + recordHeader + int64(s.length) - int64(first.offset)
		if s.ent != nil || s.segment != first.segment || s.offset < first.offset || span > min(maxRead, 2*own) {
			return i
		}
	}
	return len(slots)
}

// load reads the entries of slots, which lie in one segment, with one read.
func (g *Group) load(ents []*raftpb.Entry, slots []slot, index uint64) error {
	first, last := &slots[0], &slots[len(slots)-1]
	s, err := g.log.segment(first.segment)
	if err != nil {
		return err
	}
	p := make([]byte, int64(last.offset)-int64(first.offset)+recordHeader+int64(last.length))
	if err := g.log.readAt(s, p, int64(first.offset)); err != nil {
		return err
	}
	for i := range slots {
		q := p[slots[i].offset-first.offset:][:recordHeader+int64(slots[i].length)]
		if ents[i], err = g.entry(s, &slots[i], index+uint64(i), q); err != nil {
			return err
		}
	}
	return nil
}

// entry checks the record at p and returns its entry, whose data is part of p.
func (g *Group) entry(s *segment, at *slot, index uint64, p []byte) (*raftpb.Entry, error) {
	r, err := parseRecord(p, s.salt, int64(at.offset))
	if err == nil {
		err = matches(&r, at, g.id, index)
	}
	data := p[recordHeader:]
	if err == nil && crc32.Checksum(data, castagnoli) != r.sum {
		err = errBody
	}
	if err != nil {
		return nil, covey.Errorf(covey.Corrupt, "read entry %d of group %d in segment %d at %d: %w", index, g.id, s.number, at.offset, err)
	}
	e := &raftpb.Entry{Type: new(r.entry), Index: new(r.index), Term: new(r.term)}
	if len(data) > 0 {
		e.Data = data[:len(data):len(data)]
	}
	return e, nil
}

func matches(r *record, at *slot, group covey.ShardID, index uint64) error {
	if r.kind != kindEntry || r.group != group || r.index != index || r.term != at.term || r.length != at.length {
		return errFields
	}
	return nil
}

// Verify reads the group's entries from index on and returns the first that does
// not match its checksum, as covey.Corrupt. A start calls it with the first
// entry that the state machine has not applied.
func (l *Log) Verify(id covey.ShardID, from uint64) error {
	g := l.Group(id)
	last, _ := g.LastIndex() // never fails
	for lo := from; lo <= last; {
		slots, err := g.copySlots(lo, last+1, maxRead)
		if err != nil {
			return err
		}
		for i := range slots {
			slots[i].ent = nil // what counts is what the disk has
		}
		for i := 0; i < len(slots); {
			n := run(slots[i:])
			if err := g.load(make([]*raftpb.Entry, n), slots[i:i+n], lo+uint64(i)); err != nil {
				return err
			}
			i += n
		}
		lo += uint64(len(slots))
	}
	return nil
}

// Place returns where the data of an entry lies; Sum is 0. The errors are those
// of raft.Storage. The place holds until a body in it is copied forward and its
// segment removed.
func (l *Log) Place(id covey.ShardID, index uint64) (Extent, error) {
	g := l.Group(id)
	g.mu.RLock()
	defer g.mu.RUnlock()
	s, err := g.slotLocked(index)
	if err != nil {
		return Extent{}, err
	}
	return Extent{Segment: s.segment, Offset: s.offset + recordHeader, Length: s.length}, nil
}

// Read fills p, which has e.Length bytes, with the bytes at e. If e.Sum is not 0
// they must match it: covey.Corrupt if not. A segment that has been removed is
// covey.NotFound: look the place up again.
func (l *Log) Read(e Extent, p []byte) error {
	if int64(len(p)) != int64(e.Length) {
		return covey.Errorf(covey.Invalid, "read log: %d bytes into a buffer of %d", e.Length, len(p))
	}
	s, err := l.segment(e.Segment)
	if err != nil {
		return err
	}
	if err := l.readAt(s, p, int64(e.Offset)); err != nil {
		return err
	}
	if e.Sum != 0 && crc32.Checksum(p, castagnoli) != e.Sum {
		return covey.Errorf(covey.Corrupt, "read segment %d at %d: %d bytes do not match their checksum", e.Segment, e.Offset, e.Length)
	}
	return nil
}

// segment finds a segment by its number; covey.NotFound if it is gone.
func (l *Log) segment(number uint64) (*segment, error) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if s := l.find(number); s != nil {
		return s, nil
	}
	return nil, errGone(number)
}

func errGone(number uint64) error {
	return covey.Errorf(covey.NotFound, "read log: there is no segment %d", number)
}

// find returns a segment or nil. l.mu is held.
func (l *Log) find(number uint64) *segment {
	i, ok := slices.BinarySearchFunc(l.segments, number, func(s *segment, n uint64) int {
		switch {
		case s.number < n:
			return -1
		case s.number > n:
			return 1
		}
		return 0
	})
	if !ok {
		return nil
	}
	return l.segments[i]
}

// readAt fills p from a segment that was there a moment ago.
func (l *Log) readAt(s *segment, p []byte, offset int64) error {
	l.mu.RLock()
	end := s.end
	l.mu.RUnlock()
	if offset+int64(len(p)) > end {
		return covey.Errorf(covey.Corrupt, "read segment %d at %d: %d bytes reach beyond the end %d", s.number, offset, len(p), end)
	}
	const tries = 100 // the file may be closed, to open another, between open and read
	for i := 1; ; i++ {
		f, err := l.open(s)
		if err == nil {
			err = readFull(f, p, offset)
		}
		if err == nil {
			return nil
		}
		closed := errors.Is(err, fs.ErrClosed)
		if _, gone := l.segment(s.number); gone != nil && (closed || errors.Is(err, fs.ErrNotExist)) {
			return gone
		}
		if !closed || i == tries {
			return fmt.Errorf("read segment %d at %d: %w", s.number, offset, err)
		}
	}
}
