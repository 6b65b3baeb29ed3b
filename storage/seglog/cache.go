package seglog

import "go.etcd.io/raft/v3/raftpb"

// A cache bounds the entries that groups keep in memory, oldest out first. It
// belongs to the writer.
type cache struct {
	limit int64
	bytes int64
	queue []cached // from head on
	head  int
}

type cached struct {
	group *Group
	index uint64
	ent   *raftpb.Entry
}

// entryOverhead is about what an entry takes in memory beside its data.
const entryOverhead = 160

func entryBytes(e *raftpb.Entry) int64 { return int64(len(e.GetData())) + entryOverhead }

// add remembers that g's slot for e holds e.
func (c *cache) add(g *Group, e *raftpb.Entry) {
	c.queue = append(c.queue, cached{g, e.GetIndex(), e})
	c.bytes += entryBytes(e)
}

// trim takes entries out of their groups until the limit is kept. No Group.mu
// is held.
func (c *cache) trim() {
	for c.bytes > c.limit && c.head < len(c.queue) {
		old := c.queue[c.head]
		c.queue[c.head] = cached{}
		c.head++
		c.bytes -= entryBytes(old.ent)
		old.group.forget(old.index, old.ent)
	}
	if c.head > len(c.queue)/2 {
		n := copy(c.queue, c.queue[c.head:])
		clear(c.queue[n:])
		c.queue, c.head = c.queue[:n], 0
	}
}

// forget drops a cached entry, unless another took its place.
func (g *Group) forget(index uint64, ent *raftpb.Entry) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if s, err := g.slotLocked(index); err == nil && s.ent == ent {
		s.ent = nil
	}
}

// publish shows a batch that was written to its groups' readers.
func (l *Log) publish(b *Batch) {
	base := l.active.end - int64(len(b.buf))
	var g *Group
	for i := range b.changes {
		c := &b.changes[i]
		if c.kind == kindBodyCopy {
			continue
		}
		if g == nil || g.id != c.group {
			if g != nil {
				g.mu.Unlock()
			}
			g = l.Group(c.group)
			g.mu.Lock()
		}
		g.applyLocked(c, l.active.number, uint32(base+c.at))
		if c.kind == kindEntry && l.cache.limit > 0 && entryBytes(c.ent) <= l.cache.limit {
			g.slots[len(g.slots)-1].ent = c.ent
			l.cache.add(g, c.ent)
		}
	}
	if g != nil {
		g.mu.Unlock()
	}
	l.cache.trim()
}
