package seglog

import (
	"path/filepath"
	"slices"
	"sort"

	"github.com/covey-mail/covey"
)

// A SegmentInfo describes a segment.
type SegmentInfo struct {
	Number uint64
	Size   int64 // bytes up to the end of its records; of a sealed segment, of the file
	Sealed bool  // takes no more records
	Needed bool  // holds an entry that a group still keeps, for its own start or for followers
	Held   bool  // a Hold keeps it
}

// Applied tells that the group's database has an fsynced checkpoint that covers
// the entries up to index. They are no longer needed, but for Config.Keep bytes
// of them if the group has other members; FirstIndex moves accordingly. An index
// that was told before, or is beyond the last entry, changes nothing beyond.
func (l *Log) Applied(id covey.ShardID, index uint64) {
	g := l.Group(id)
	g.mu.Lock()
	defer g.mu.Unlock()
	index = min(index, g.last())
	for ; g.applied < index; g.applied++ {
		if g.applied >= g.prev.index {
			g.kept += g.slots[g.applied-g.prev.index].cost()
		}
	}
	keep := max(l.cfg.Keep, 0)
	if g.aloneLocked() {
		keep = 0
	}
	drop, kept := g.prev.index, g.kept
	for drop < g.applied && kept > keep {
		kept -= g.slots[drop-g.prev.index].cost()
		drop++
	}
	g.dropLocked(drop)
}

// aloneLocked reports whether the group has a single member, so that nobody will
// ask for old entries: one that comes later begins with a copy of the state.
func (g *Group) aloneLocked() bool {
	c := g.conf
	return c != nil && len(c.GetVoters())+len(c.GetVotersOutgoing())+len(c.GetLearners())+len(c.GetLearnersNext()) == 1
}

// Segments describes all segments, oldest first.
func (l *Log) Segments() []SegmentInfo {
	l.mu.RLock()
	infos := make([]SegmentInfo, len(l.segments))
	for i, s := range l.segments {
		infos[i] = SegmentInfo{Number: s.number, Size: s.end, Sealed: s.sealed, Held: l.held[s.number] > 0}
		if s.sealed {
			infos[i].Size = s.size
		}
	}
	l.mu.RUnlock()
	groups := l.Groups()
	for i := range infos {
		for _, id := range groups {
			if from, to := l.Group(id).within(infos[i].Number); from < to {
				infos[i].Needed = true
				break
			}
		}
	}
	return infos
}

// within returns which of the group's entries lie in a segment: those from
// (after) from up to to.
func (g *Group) within(segment uint64) (from, to uint64) {
	g.mu.RLock()
	defer g.mu.RUnlock()
	// The log is written in order, so slots ascend by segment.
	i := sort.Search(len(g.slots), func(i int) bool { return g.slots[i].segment >= segment })
	j := sort.Search(len(g.slots), func(i int) bool { return g.slots[i].segment > segment })
	return g.prev.index + uint64(i), g.prev.index + uint64(j)
}

// Remove deletes a segment. The newest one, one with an entry above its group's
// Applied, and one that a Hold keeps, is covey.InUse; entries that are only kept
// for followers go with it. The caller vouches that no body in it is referred to. Reads under way
// end as if it were there, or with covey.NotFound.
//
// When it returns nil, the segment will not come back; after an error it may be
// there or not.
func (l *Log) Remove(number uint64) error {
	l.write.Lock()
	defer l.write.Unlock()
	if err := l.Err(); err != nil {
		return err
	}
	s, err := l.segment(number)
	if err != nil {
		return err
	}
	if s == l.newest {
		return covey.Errorf(covey.InUse, "remove segment %d: it is the newest", number)
	}
	if err := l.unheld(number); err != nil {
		return err
	}
	if err := l.release(number); err != nil {
		return err
	}
	if err := l.forget(s); err != nil {
		return err
	}
	l.files.drop(s)
	if err := l.discard(filepath.Join(l.cfg.Dir, segmentName(number))); err != nil {
		return l.fail(err)
	}
	if err := l.cfg.FS.SyncDir(l.cfg.Dir); err != nil {
		return l.fail(err)
	}
	return nil
}

// unheld refuses a segment that is held. It is asked before entries are let go.
func (l *Log) unheld(number uint64) error {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.unheldLocked(number)
}

func (l *Log) unheldLocked(number uint64) error {
	if n := l.held[number]; n > 0 {
		return covey.Errorf(covey.InUse, "remove segment %d: it is held by %d", number, n)
	}
	return nil
}

// forget takes a segment off the list, unless it is held by now.
func (l *Log) forget(s *segment) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.unheldLocked(s.number); err != nil {
		return err
	}
	l.segments = slices.DeleteFunc(l.segments, func(t *segment) bool { return t == s })
	return nil
}

// release moves groups' first entries out of a segment, and puts on stable
// storage where each group's log begins: without that the next start would miss
// the entries that were in the segment.
func (l *Log) release(number uint64) error {
	groups := l.Groups()
	for _, id := range groups {
		g := l.Group(id)
		from, to := g.within(number)
		g.mu.RLock()
		applied := g.applied
		g.mu.RUnlock()
		if from < to && to > applied {
			return covey.Errorf(covey.InUse, "remove segment %d: it holds entry %d of group %d, which has applied %d", number, to, id, applied)
		}
	}
	b := &l.marks
	b.Reset()
	defer b.Reset()
	for _, id := range groups {
		g := l.Group(id)
		from, to := g.within(number)
		g.mu.Lock()
		if from < to {
			g.dropLocked(to)
		}
		if g.prev != g.noted {
			b.first(id, g.prev)
		}
		g.mu.Unlock()
	}
	return l.put(b, Synced)
}
