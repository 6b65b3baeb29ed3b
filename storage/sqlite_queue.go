package storage

import (
	"fmt"

	"github.com/covey-mail/covey"
)

func (d *database) putQueued(q *Queued) {
	d.scratch = appendQueued(d.scratch[:0], q)
	d.change("REPLACE INTO queue VALUES (?, ?, ?)").int(int64(q.Index)).int(int64(q.Body)).blob(d.scratch).run()
}

func (d *database) dropQueued(index uint64) {
	d.change("DELETE FROM queue WHERE entry = ?+0").int(int64(index)).run()
}

func (d *database) loadQueue(q *queue) {
	for row := d.query("SELECT entry, body, delivery FROM queue ORDER BY entry"); row.next(); {
		one, err := decodeQueued(row.blobAt(2))
		if err == nil && q.byID[one.ID] != nil {
			err = covey.Errorf(covey.Corrupt, "delivery %s is there twice", one.ID)
		}
		if err != nil {
			d.fail(fmt.Errorf("queue at %d: %w", row.intAt(0), err))
			return
		}
		one.Index, one.Body = uint64(row.intAt(0)), covey.BodyID(row.intAt(1))
		q.add(one)
	}
}

// flushHeard stores what was noted since the last time, as one row under the
// number of the first. A row goes when all of it is older than what is remembered.
func (d *database) flushHeard(h *heard) {
	if h.stored == h.total {
		return
	}
	first := max(h.stored, h.first())
	d.scratch = h.appendHeard(d.scratch[:0], first)
	d.change("INSERT INTO heard VALUES (?, ?, ?)").int(int64(first)).int(int64(h.total)).blob(d.scratch).run()
	d.change("DELETE FROM heard WHERE until <= ?+0").int(int64(h.first())).run()
	h.stored = h.total
}

func (d *database) loadHeard(h *heard) {
	for q := d.query("SELECT first, until, places FROM heard ORDER BY first"); q.next(); {
		list, err := decodeHeard(q.blobAt(2))
		first, until := uint64(q.intAt(0)), uint64(q.intAt(1))
		if err == nil && (len(list) > maxHeard || first+uint64(len(list)) != until || h.total > 0 && h.total != first) {
			err = covey.Errorf(covey.Corrupt, "%d places", len(list))
		}
		if err != nil {
			d.fail(fmt.Errorf("heard from %d to %d: %w", first, until, err))
			return
		}
		h.total = first
		for _, p := range list {
			h.add(p)
		}
	}
	h.stored = h.total
}

func (d *database) summary(id covey.BodyID) ([]byte, bool) {
	q := d.query("SELECT summary FROM summary WHERE body = ?+0").int(int64(id))
	defer q.end()
	if !q.next() {
		return nil, false
	}
	return q.blobAt(0), true
}
