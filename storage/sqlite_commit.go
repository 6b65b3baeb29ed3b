package storage

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/internal/mutant"
	"github.com/covey-mail/covey/internal/wire"
)

// walLimit is the size of the write-ahead log beyond which a commit makes a
// checkpoint of its own, in bytes, should no one ask for one.
const walLimit = 64 << 20

// walLimitCopying is the same while a copy reads the database file, into which a
// checkpoint would write.
const walLimitCopying = 4 * walLimit

// walKept is how much of the write-ahead log's file stays when it begins anew after a
// checkpoint, in bytes: a busy minute makes it longer than it is for a while after.
const walKept = 4 << 20

// commit implements tables. It does not wait for the disk.
func (d *database) commit(m *machine) {
	if !d.writing && m.meta == d.saved {
		return
	}
	d.flush(m)
	d.commitTransaction()
	if d.staying && d.err == nil {
		d.staying = false
		d.query("PRAGMA cache_spill = ON").run()
	}
	d.boundLog()
}

// boundLog makes a checkpoint when the write-ahead log is large. A copy of the
// database file puts that off, and is given up when it takes too long.
func (d *database) boundLog() {
	size := d.source.LogSize()
	if size <= walLimit {
		return
	}
	if d.source.Copying() {
		if size <= walLimitCopying {
			return
		}
		d.log.Warn("a copy of the database took too long and was given up")
		d.source.Stop()
	}
	d.checkpoint()
}

// flush writes all that is kept in memory into the open transaction, in the
// order of the tables, so that neighbours share a page.
func (d *database) flush(m *machine) {
	d.writeFresh()
	slices.SortFunc(d.dirty, func(a, b *mailbox) int { return cmp.Compare(a.ID, b.ID) })
	d.flushCounts()
	for number := range d.stale {
		if n, ok := d.used[number]; ok {
			d.change("REPLACE INTO segment VALUES (?, ?, ?)").int(int64(number)).int(n.Bytes).int(n.Extents).run()
		} else {
			d.change("DELETE FROM segment WHERE number = ?+0").int(int64(number)).run()
		}
	}
	clear(d.stale)
	d.flushUnconfirmed(&m.unconfirmed)
	d.flushHeard(&m.heard)
	applied := m.meta.applied
	if mutant.Is(mutant.ApplyTwice) {
		applied = d.saved.applied
	}
	d.change("UPDATE meta SET applied = ?, hash = ?, clock = ?, last_mailbox = ?").
		int(int64(applied)).int(int64(m.meta.hash)).int(m.meta.clock).int(int64(m.meta.lastMailbox)).run()
	d.saved = m.meta
}

func (d *database) flushUnconfirmed(u *unconfirmed) {
	for _, index := range u.gone {
		d.change("DELETE FROM delivered WHERE entry = ?+0").int(int64(index)).run()
	}
	u.gone = u.gone[:0]
	for one := u.oldest; one != nil; one = one.next {
		if one.stored && !one.dirty {
			continue
		}
		d.scratch = appendDelivered(d.scratch[:0], one)
		d.change("REPLACE INTO delivered VALUES (?, ?)").int(int64(one.index)).blob(d.scratch).run()
		one.stored, one.dirty = true, false
	}
}

// appendDelivered writes a delivery but for its index: id, time, hash, then each
// place and whether it is spent.
func appendDelivered(b []byte, d *delivery) []byte {
	b = wire.AppendInt(appendDelivery(b, d.id), d.time)
	b = wire.AppendUint(append(b, d.hash[:]...), uint64(len(d.placed)))
	for i, p := range d.placed {
		b = wire.AppendUint(wire.AppendUint(b, uint64(p.Mailbox)), uint64(p.UIDValidity))
		b = wire.AppendBool(wire.AppendUint(b, uint64(p.UID)), p.Repeat)
		b = wire.AppendBool(b, d.spent != nil && d.spent[i])
	}
	return b
}

// decodeDelivery reads what appendDelivered wrote.
func decodeDelivery(b []byte) (*delivery, error) {
	r := decoder{wire.NewReader(b)}
	d := &delivery{id: r.delivery(), time: r.Int()}
	copy(d.hash[:], r.Raw(len(d.hash)))
	n := r.Count(5)
	d.placed, d.spent = make([]Placed, n), make([]bool, n)
	for i := range d.placed {
		d.placed[i] = Placed{
			Mailbox: r.mailbox(), UIDValidity: r.uint32(), UID: covey.UID(r.uint32()), Repeat: r.Bool(),
		}
		d.spent[i] = r.Bool()
	}
	return d, r.End()
}

// stay implements tables.
func (d *database) stay() {
	d.staying = true
	d.query("PRAGMA cache_spill = OFF").run()
}

func (d *database) commitTransaction() {
	if d.writing {
		d.query("COMMIT").run()
		d.writing = d.err != nil
	}
}

// checkpoint implements tables: it copies what was committed from the
// write-ahead log into the database file, and syncs both (synchronous = NORMAL
// does just that, and only here). While a copy reads the database file, it stays
// as it is, and the log beside it is synced.
func (d *database) checkpoint() {
	if d.source.Copying() {
		err := d.source.SyncLog()
		d.unsynced = d.unsynced || err != nil
		d.fail(err)
		return
	}
	q := d.query("PRAGMA wal_checkpoint(PASSIVE)")
	if !q.next() {
		q.end()
		return
	}
	busy, frames, done := q.intAt(0), q.intAt(1), q.intAt(2)
	q.end()
	if busy != 0 || frames != done {
		d.fail(fmt.Errorf("checkpoint of %s is not complete: busy %d, %d of %d frames", d.path, busy, done, frames))
	}
}
