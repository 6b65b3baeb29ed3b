package storage

import (
	"maps"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/internal/wire"
	"github.com/covey-mail/covey/storage/seglog"
)

// appendExtents writes a list of extents, segment, offset, length and checksum
// of each.
func appendExtents(b []byte, list []seglog.Extent) []byte {
	for _, e := range list {
		b = wire.AppendUint(b, e.Segment)
		b = wire.AppendUint(b, uint64(e.Offset))
		b = wire.AppendUint(b, uint64(e.Length))
		b = wire.AppendUint(b, uint64(e.Sum))
	}
	return b
}

// decodeExtents reads what appendExtents wrote.
func decodeExtents(b []byte) ([]seglog.Extent, error) {
	r := decoder{wire.NewReader(b)}
	var list []seglog.Extent
	for r.Len() > 0 {
		list = append(list, seglog.Extent{Segment: r.Uint(), Offset: r.uint32(), Length: r.uint32(), Sum: r.uint32()})
	}
	return list, r.End()
}

func (d *database) addBody(id covey.BodyID, b newBody) {
	d.scratch = appendExtents(d.scratch[:0], b.extents)
	d.change("INSERT INTO body VALUES (?, ?, ?, ?)").int(int64(id)).int(int64(b.refs)).int(b.size).blob(d.scratch).run()
	d.change("INSERT INTO summary VALUES (?, ?)").int(int64(id)).blob(b.summary).run()
	d.settle(id, b.extents)
}

// settle notes that a body lies in the segments of extents.
func (d *database) settle(id covey.BodyID, list []seglog.Extent) {
	for i, e := range list {
		if i == 0 || e.Segment != list[i-1].Segment {
			d.change("INSERT OR IGNORE INTO resident VALUES (?, ?)").int(int64(e.Segment)).int(int64(id)).run()
		}
		d.count(e, 1)
	}
}

// leave undoes settle.
func (d *database) leave(id covey.BodyID, list []seglog.Extent) {
	for i, e := range list {
		if i == 0 || e.Segment != list[i-1].Segment {
			d.change("DELETE FROM resident WHERE segment = ?+0 AND body = ?+0").int(int64(e.Segment)).int(int64(id)).run()
		}
		d.count(e, -1)
	}
}

func (d *database) count(e seglog.Extent, sign int64) {
	d.used.count(e, sign)
	d.stale[e.Segment] = true
}

func (d *database) ref(id covey.BodyID, delta int) {
	q := d.query("SELECT refs, extents FROM body WHERE id = ?+0").int(int64(id))
	if !q.next() {
		q.end()
		d.fail(covey.Errorf(covey.Corrupt, "body %d is not there", id))
		return
	}
	refs := q.intAt(0) + int64(delta)
	if refs > 0 {
		q.end()
		d.change("UPDATE body SET refs = ? WHERE id = ?+0").int(refs).int(int64(id)).run()
		return
	}
	extents := d.decodeExtents(q.blobAt(1))
	q.end()
	d.single.Delete(id)
	d.leave(id, extents)
	d.change("DELETE FROM body WHERE id = ?+0").int(int64(id)).run()
	d.change("DELETE FROM summary WHERE body = ?+0").int(int64(id)).run()
}

func (d *database) extents(id covey.BodyID) ([]seglog.Extent, bool) {
	q := d.query("SELECT extents FROM body WHERE id = ?+0").int(int64(id))
	defer q.end()
	if !q.next() {
		return nil, false
	}
	return d.decodeExtents(q.blobAt(0)), true
}

func (d *database) addChunk(u *upload, n uint32, e seglog.Extent) {
	d.scratch = appendExtents(d.scratch[:0], []seglog.Extent{e})
	d.change("INSERT INTO chunk VALUES (?, ?, ?, ?, ?, ?)").
		int(int64(u.id.Node)).int(int64(u.id.Boot)).int(int64(u.id.Seq)).int(int64(n)).int(u.last).blob(d.scratch).run()
	d.count(e, 1)
}

func (d *database) dropUpload(u *upload) {
	d.change("DELETE FROM chunk WHERE node = ?+0 AND boot = ?+0 AND seq = ?+0").
		int(int64(u.id.Node)).int(int64(u.id.Boot)).int(int64(u.id.Seq)).run()
	for _, e := range u.chunks {
		d.count(e, -1)
	}
}

func (d *database) live() map[uint64]Usage { return maps.Clone(d.used) }

func (d *database) residents(segment uint64, after covey.BodyID, most int) []covey.BodyID {
	var list []covey.BodyID
	q := d.query("SELECT body FROM resident WHERE segment = ?+0 AND body > ?+0 ORDER BY body LIMIT ?").
		int(int64(segment)).int(int64(after)).int(int64(most))
	for q.next() {
		list = append(list, covey.BodyID(q.intAt(0)))
	}
	return list
}

func (d *database) moveBody(id covey.BodyID, from, to []seglog.Extent) {
	d.leave(id, from)
	d.placeBody(id, to)
}

// placeBody says where a body lies that is nowhere, or no longer where it was.
func (d *database) placeBody(id covey.BodyID, list []seglog.Extent) {
	d.single.Delete(id)
	d.settle(id, list)
	d.scratch = appendExtents(d.scratch[:0], list)
	d.change("UPDATE body SET extents = ? WHERE id = ?+0").blob(d.scratch).int(int64(id)).run()
}

func (d *database) moveChunk(u *upload, n uint32, from, to seglog.Extent) {
	d.scratch = appendExtents(d.scratch[:0], []seglog.Extent{to})
	d.change("UPDATE chunk SET extent = ? WHERE node = ?+0 AND boot = ?+0 AND seq = ?+0 AND n = ?+0").blob(d.scratch).
		int(int64(u.id.Node)).int(int64(u.id.Boot)).int(int64(u.id.Seq)).int(int64(n)).run()
	d.count(from, -1)
	d.count(to, 1)
}
