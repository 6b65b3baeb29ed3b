package storage

import (
	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/storage/seglog"
)

// windowExtents bounds how many extents a walk reads ahead; a body more counts
// as one.
const windowExtents = 4096

// A walk goes through all that a shard's database refers to in the log, in the
// order in which copies carry it: the parts of the bodies by their ids, then the
// pending chunks by their key. Sender and receiver walk the same database, but
// for where things lie.
//
// The receiver changes rows that the walk has passed.
type walk struct {
	d      *database
	rows   []bodyRow // the bodies next in turn
	chunks []chunkRow
	body   int // index in rows
	part   int // of that body; behind the bodies, index in chunks
}

type bodyRow struct {
	id      covey.BodyID
	extents []seglog.Extent
}

type chunkRow struct {
	id covey.DeliveryID
	n  uint32
	at seglog.Extent
}

// newWalk returns a walk at its start.
func newWalk(d *database) *walk {
	w := &walk{d: d}
	q := d.query("SELECT node, boot, seq, n, extent FROM chunk ORDER BY node, boot, seq, n")
	for q.next() {
		id := covey.DeliveryID{Node: covey.NodeID(q.intAt(0)), Boot: uint64(q.intAt(1)), Seq: uint64(q.intAt(2))}
		if list := d.decodeExtents(q.blobAt(4)); len(list) == 1 {
			w.chunks = append(w.chunks, chunkRow{id, uint32(q.intAt(3)), list[0]})
		}
		if len(w.chunks) > maxPending {
			d.fail(covey.Errorf(covey.Corrupt, "more than %d chunks are pending", maxPending))
		}
	}
	w.seek(position{body: 1})
	return w
}

// A position is where a walk stands: at a part of a body, or at a chunk.
type position struct {
	body covey.BodyID // 0: a chunk
	part int
}

// seek goes to a position that the walk had, or to that of the first body.
func (w *walk) seek(p position) {
	w.rows, w.body, w.part = nil, 0, p.part
	if p.body > 0 {
		w.load(p.body)
	}
	w.skip()
}

// load reads the bodies from an id on.
func (w *walk) load(from covey.BodyID) {
	w.rows, w.body = w.rows[:0], 0
	q := w.d.query("SELECT id, extents FROM body WHERE id >= ?+0 ORDER BY id").int(int64(from))
	for n := 0; n < windowExtents && q.next(); n++ {
		r := bodyRow{covey.BodyID(q.intAt(0)), w.d.decodeExtents(q.blobAt(1))}
		w.rows = append(w.rows, r)
		n += len(r.extents)
	}
	q.end()
}

// next goes one part on.
func (w *walk) next() {
	w.part++
	w.skip()
}

// skip goes on to something that has bytes.
func (w *walk) skip() {
	for len(w.rows) > 0 && w.part >= len(w.rows[w.body].extents) {
		last := w.rows[w.body].id
		w.part = 0
		if w.body++; w.body == len(w.rows) {
			w.load(last + 1)
		}
	}
}

// done reports whether the walk is at its end; after a fault of the database it
// is.
func (w *walk) done() bool { return w.d.err != nil || len(w.rows) == 0 && w.part >= len(w.chunks) }

// extent returns where the part lies that the walk stands at.
func (w *walk) extent() seglog.Extent {
	if len(w.rows) > 0 {
		return w.rows[w.body].extents[w.part]
	}
	return w.chunks[w.part].at
}

func (w *walk) position() position {
	if len(w.rows) > 0 {
		return position{w.rows[w.body].id, w.part}
	}
	return position{part: w.part}
}

// last reports whether the part that the walk stands at ends a body.
func (w *walk) last() bool {
	return len(w.rows) > 0 && w.part == len(w.rows[w.body].extents)-1
}

// String names what the walk stands at.
func (w *walk) String() string {
	p := w.position()
	if p.body > 0 {
		return Resident{Body: p.body}.String()
	}
	return Resident{Upload: w.chunks[p.part].id, N: w.chunks[p.part].n}.String()
}
