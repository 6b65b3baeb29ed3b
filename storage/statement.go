package storage

import (
	"zombiezen.com/go/sqlite"
)

// A statement is a prepared statement with its parameters bound from left to
// right. After a fault of its database it does nothing and has no rows.
//
// In a WHERE clause a parameter is written ?+0, or ?||” for text. SQLite as
// modernc builds it (SQLITE_ENABLE_STAT4) has the planner look at the values of
// bare ones, and then parses the statement again at every step: 40 µs instead
// of one.
type statement struct {
	d *database
	s *sqlite.Stmt // nil after a fault
	n int          // parameters bound
}

// query prepares a statement that reads. It must be read to its end, or ended.
func (d *database) query(sql string) statement {
	if d.err != nil {
		return statement{d: d}
	}
	s, err := d.conn.Prepare(sql)
	d.fail(err)
	if err != nil {
		s = nil
	}
	return statement{d: d, s: s}
}

// change prepares a statement that writes, within the open transaction.
func (d *database) change(sql string) statement {
	if !d.writing && d.err == nil {
		d.writing = true
		d.query("BEGIN IMMEDIATE").run()
	}
	return d.query(sql)
}

func (q statement) int(v int64) statement {
	q.n++
	if q.s != nil {
		q.s.BindInt64(q.n, v)
	}
	return q
}

func (q statement) text(v string) statement {
	q.n++
	if q.s != nil {
		q.s.BindText(q.n, v)
	}
	return q
}

// blob binds bytes, NULL if there are none.
func (q statement) blob(v []byte) statement {
	q.n++
	switch {
	case q.s == nil:
	case len(v) == 0:
		q.s.BindNull(q.n)
	default:
		q.s.BindBytes(q.n, v)
	}
	return q
}

// next goes to the next row; false at the end and after a fault.
func (q statement) next() bool {
	if q.s == nil || q.d.err != nil {
		return false
	}
	row, err := q.s.Step()
	if err != nil {
		q.d.fail(err)
		return false
	}
	return row
}

// run carries out a statement without rows, or ignores them.
func (q statement) run() {
	q.next()
	q.end()
}

// end frees the statement for its next use before its last row.
func (q statement) end() {
	if q.s != nil {
		q.s.Reset() // repeats an error that next has reported
	}
}

// one reads the single number of a statement's only row, 0 without a row.
func (q statement) one() int64 {
	var v int64
	if q.next() {
		v = q.intAt(0)
	}
	q.end()
	return v
}

func (q statement) intAt(col int) int64 { return q.s.ColumnInt64(col) }

func (q statement) textAt(col int) string { return q.s.ColumnText(col) }

// blobAt returns a copy, nil for NULL.
func (q statement) blobAt(col int) []byte {
	n := q.s.ColumnLen(col)
	if n == 0 {
		return nil
	}
	b := make([]byte, n)
	q.s.ColumnBytes(col, b)
	return b
}
