package seglog

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/internal/durable"
	"github.com/covey-mail/covey/internal/wire"
)

// A recovery is the state of Open while it reads the segments.
type recovery struct {
	log    *Log
	first  map[covey.ShardID]uint64 // index of each group's entry before the first one kept, in the end
	events []event                  // of the newest segment
	batch  struct{ from, to int64 } // where the batch lies that the scan of the newest segment is in
	h      *header                  // of the newest segment
}

// An event is a record of the newest segment that means something to a group.
type event struct {
	change
	offset int64
}

// recover reads what is on the disk. The newest segment is read whole, for it
// may end in a torn batch; of the others the footers of those that hold entries
// still kept.
func (l *Log) recover() error {
	if err := l.cfg.FS.MkdirAll(l.cfg.Dir, 0o700); err != nil {
		return err
	}
	numbers, err := listSegments(l.cfg.FS, l.cfg.Dir, l.discard)
	if err != nil {
		return err
	}
	// Names seen may not be on the disk yet if only the process was killed.
	if err := l.cfg.FS.SyncDir(l.cfg.Dir); err != nil {
		return err
	}
	if len(numbers) == 0 {
		return nil
	}
	for _, n := range numbers {
		l.segments = append(l.segments, &segment{number: n})
	}
	l.newest = l.segments[len(l.segments)-1]
	r := &recovery{log: l, first: make(map[covey.ShardID]uint64)}
	if err := r.readNewest(); err != nil {
		return fmt.Errorf("segment %d: %w", l.newest.number, err)
	}
	if err := r.readOlder(); err != nil {
		return err
	}
	if err := r.replay(); err != nil {
		return err
	}
	l.cfg.Logger.Info("log opened", "segments", len(l.segments), "groups", len(l.groups), "newest", l.newest.number, "end", l.newest.end)
	return nil
}

// listSegments returns the numbers of the segments in dir, ascending. Files that
// were not finished are given to discard, if that is not nil.
func listSegments(fsys durable.FS, dir string, discard func(name string) error) ([]uint64, error) {
	list, err := fsys.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var numbers []uint64
	for _, e := range list {
		if n, ok := parseSegmentName(e.Name()); ok {
			numbers = append(numbers, n)
			continue
		}
		old, ok := strings.CutSuffix(e.Name(), newSuffix)
		if _, isSegment := parseSegmentName(old); ok && isSegment && discard != nil {
			if err := discard(filepath.Join(dir, e.Name())); err != nil {
				return nil, err
			}
		}
	}
	slices.Sort(numbers)
	return numbers, nil
}

// enter reads a segment's header and fills in what it says.
func (r *recovery) enter(s *segment) (*header, durable.File, error) {
	f, err := r.log.open(s)
	if err != nil {
		return nil, nil, err
	}
	h, n, err := readHeader(f, s.number)
	if err != nil {
		return nil, nil, err
	}
	s.salt, s.start = h.salt, n
	if s.size, err = f.Size(); err != nil {
		return nil, nil, err
	}
	return h, f, nil
}

func parseVote(p []byte) (uint64, error) {
	r := wire.NewReader(p)
	vote := r.Uint64()
	return vote, r.End()
}

// readNewest scans the newest segment, cuts a torn tail, and learns what each
// group still keeps.
func (r *recovery) readNewest() error {
	s := r.log.newest
	h, f, err := r.enter(s)
	if err != nil {
		return err
	}
	r.h = h
	for i := range h.groups {
		r.first[h.groups[i].group] = h.groups[i].prev.index
	}
	sc, err := newScanner(f, s.salt, s.start)
	if err != nil {
		return err
	}
	var cause error
	for cause == nil {
		off := sc.off
		rec, payload, err := sc.next()
		switch {
		case isDiskError(err):
			return err
		case err != nil:
			cause = err
		case rec.kind == kindFooter && sealedAt(sc, off):
			r.moveFirst()
			return r.sealed(sc, off)
		case rec.kind == kindFooter || rec.kind == kindTrailer:
			sc.off, cause = off, errNoRecord("footer is not complete")
		default:
			if err := r.note(&rec, payload, off); err != nil {
				return err
			}
		}
	}
	if err := r.cut(sc, cause); err != nil {
		return err
	}
	r.moveFirst()
	return nil
}

// moveFirst takes in what the newest segment says of groups' first entries.
func (r *recovery) moveFirst() {
	for i := range r.events {
		switch e := &r.events[i]; e.kind {
		case kindSnapshot:
			r.first[e.group] = e.index
		case kindFirst:
			r.first[e.group] = max(r.first[e.group], e.index)
		}
	}
}

// sealedAt reports whether a trailer for the footer at off follows, and then
// nothing.
func sealedAt(sc *scanner, off int64) bool {
	r, err := sc.head()
	return err == nil && r.kind == kindTrailer && r.index == uint64(off) && sc.off+r.size() == sc.size
}

// sealed takes a newest segment that was sealed before the next was begun.
func (r *recovery) sealed(sc *scanner, end int64) error {
	s := r.log.newest
	s.sealed, s.end = true, end
	r.log.items = nil
	return sc.file.Sync() // its footer may be in the page cache only
}

// note remembers what a record of the newest segment says.
func (r *recovery) note(rec *record, payload []byte, off int64) error {
	e := event{change: change{record: *rec}, offset: off}
	var err error
	switch rec.kind {
	case kindEntry:
		r.log.items = append(r.log.items, itemOf(rec, off))
	case kindHardState:
		e.vote, err = parseVote(payload)
	case kindConfState:
		e.conf, err = parseConf(payload)
	case kindSnapshot:
		e.conf, err = parseConf(payload)
	case kindFirst:
	case kindBatch:
		r.batch.from, r.batch.to = off, off+recordHeader+int64(rec.term)
		if rec.term == 0 {
			r.log.newest.marked = off + recordHeader
		}
		return nil
	default:
		return nil
	}
	if err != nil {
		// Its checksum is right: this was written so.
		return covey.Errorf(covey.Corrupt, "record at %d: %w", off, err)
	}
	r.events = append(r.events, e)
	return nil
}

// cut ends the newest segment where the scan stopped, or where the batch begins
// that it stopped in, unless that is damage to bytes that were once known to be
// on stable storage.
func (r *recovery) cut(sc *scanner, cause error) error {
	l, s, off := r.log, r.log.newest, sc.off
	promised, zeros, err := sc.promised(off)
	if err != nil {
		return err
	}
	if promised > off {
		return covey.Errorf(covey.Corrupt, "damage at offset %d: %w, though the segment was on stable storage up to %d. "+
			"Entries are lost: do not delete the file, replace this node (with one replica: restore from a backup)", off, cause, promised)
	}
	if off < r.batch.to {
		// Its hard states come last: an entry without the term it came in would
		// look as if a vote were lost.
		off, zeros = r.batch.from, false
		r.events = slices.DeleteFunc(r.events, func(e event) bool { return e.offset >= off })
		l.items = slices.DeleteFunc(l.items, func(it item) bool { return int64(it.offset) >= off })
	}
	if !zeros {
		l.cfg.Logger.Warn("cutting off a torn end of the log", "segment", s.number, "offset", off, "reason", cause)
		if err := sc.file.Truncate(off); err != nil {
			return err
		}
		s.size = off
	}
	if s.size < l.cfg.SegmentSize {
		// Without room for it the log opens all the same, to read and to delete.
		switch err := sc.file.Allocate(l.cfg.SegmentSize); {
		case err == nil:
			s.size = l.cfg.SegmentSize
		case !durable.IsFull(err):
			return err
		}
	}
	// What was read may be in the page cache only, and the cut must not come
	// back behind new records.
	if err := sc.file.Sync(); err != nil {
		return err
	}
	s.end = off
	l.active, l.synced = s, off
	l.files.keep(s)
	return nil
}

// readOlder fills the groups with the entries of the segments before the newest.
func (r *recovery) readOlder() error {
	l := r.log
	for id, index := range r.first {
		l.groups[id] = &Group{id: id, log: l, prev: position{index: index}}
	}
	older := l.segments[:len(l.segments)-1]
	var h *header
	for i, s := range older {
		if h == nil {
			var err error
			if h, _, err = r.enter(s); err != nil {
				return fmt.Errorf("segment %d: %w", s.number, err)
			}
		}
		next := r.h
		if i+1 < len(older) {
			var err error
			if next, _, err = r.enter(older[i+1]); err != nil {
				return fmt.Errorf("segment %d: %w", older[i+1].number, err)
			}
		}
		if err := r.load(s, h, next); err != nil {
			return fmt.Errorf("segment %d: %w", s.number, err)
		}
		h = next
	}
	return nil
}

// load takes the entries of a sealed segment. next is the header of the segment
// after it.
func (r *recovery) load(s *segment, h, next *header) error {
	s.sealed, s.end = true, s.size
	r.align(h)
	if !r.needed(next) {
		return nil
	}
	items, err := r.log.readItems(s, next)
	if err != nil {
		return err
	}
	for i := range items {
		it := &items[i]
		g := r.log.groups[it.group]
		if g == nil {
			return covey.Errorf(covey.Corrupt, "entry of group %d, which later segments do not know", it.group)
		}
		g.restore(s.number, it)
	}
	return nil
}

// needed reports whether the segment before the one with header next can hold
// an entry that is kept: an entry above a group's last one at that point was cut
// off before it.
func (r *recovery) needed(next *header) bool {
	for i := range next.groups {
		if g := &next.groups[i]; g.last > r.first[g.group] {
			return true
		}
	}
	return false
}

// align cuts each group's log to what a header says of it. Without it entries
// that were cut off by a segment removed since would come back.
func (r *recovery) align(h *header) {
	for i := range h.groups {
		if g := r.log.groups[h.groups[i].group]; g != nil {
			g.cutLocked(h.groups[i].last + 1)
		}
	}
}

// restore adds an entry found in a segment. One that does not continue what is
// there is passed over: a later one has cut it off, with those before it, whose
// segment may have been removed. If not, replay finds entries missing in the end.
func (g *Group) restore(segment uint64, it *item) {
	g.cutLocked(it.index)
	if it.index > g.prev.index && it.index == g.last()+1 {
		g.slots = append(g.slots, slot{term: it.term, segment: segment, offset: it.offset, length: it.length, entry: it.entry})
	}
}

// replay applies the newest segment: its header, then its records.
func (r *recovery) replay() error {
	l := r.log
	r.align(r.h)
	last := make(map[covey.ShardID]uint64) // of each group, by what was written
	for i := range r.h.groups {
		hg := &r.h.groups[i]
		g := l.groups[hg.group]
		g.hard, g.conf, g.confIndex = hg.hard, hg.conf, hg.confIndex
		if g.prev.index == hg.prev.index {
			g.prev.term = hg.prev.term
		}
		last[hg.group] = hg.last
	}
	for i := range r.events {
		e := &r.events[i]
		r.apply(e)
		if e.kind == kindEntry || e.kind == kindSnapshot {
			last[e.group] = e.index
		}
	}
	for id, g := range l.groups {
		if last[id] > g.last() {
			return covey.Errorf(covey.Corrupt, "entries %d to %d of group %d are missing: a segment is gone. Replace this node", g.last()+1, last[id], id)
		}
		g.applied, g.noted = g.prev.index, g.prev
	}
	return nil
}

func (r *recovery) apply(e *event) {
	l := r.log
	g := l.groups[e.group]
	if g == nil {
		g = &Group{id: e.group, log: l, prev: position{index: r.first[e.group]}}
		l.groups[e.group] = g
	}
	switch e.kind {
	case kindEntry:
		it := itemOf(&e.record, e.offset)
		g.restore(l.newest.number, &it)
	case kindFirst:
		if e.index == g.prev.index {
			g.prev.term = e.term
		}
	case kindSnapshot:
		// An older one of the group must not take its first entry back.
		g.slots = nil
		g.restartLocked(&e.change)
		if e.index == g.prev.index {
			g.prev.term = e.term
		}
	default:
		g.applyLocked(&e.change, l.newest.number, uint32(e.offset))
	}
}
