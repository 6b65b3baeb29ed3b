package storage

import (
	"time"

	"github.com/covey-mail/covey"
)

// slack is how many messages are looked at for each that may be returned before
// a slice ends, when a query leaves most of them out.
const slack = 16

// Bounds of the messages kept in memory: what a folder's newest look like, and where
// their bodies lie, is asked for by each session anew, and costs SQLite five
// microseconds a row and more.
const (
	maxRows    = 3072
	maxKeptRow = 2 << 10 // octets of a summary or of a prefix and keywords; longer ones are not kept
	fewRows    = 32      // of a query without summaries; the answers to longer ones are not kept
)

// A keptRow is a message as it is now, without its extents, which compaction changes
// for all messages that share the body.
type keptRow struct {
	Message
	whole bool // Summary is there
}

// query returns the statement that finds the span's messages.
func (in *span) query() string {
	const (
		columns   = `SELECT uid, mod_seq, system, keywords, date, message.size, prefix, message.body`
		summaries = ` LEFT JOIN summary ON summary.body = message.body`
		bodies    = ` LEFT JOIN body ON body.id = message.body`
		which     = ` WHERE mailbox = ?+0 AND uid BETWEEN ?+0 AND ?+0 ORDER BY uid`
	)
	switch {
	case in.summary && in.extents:
		return columns + `, summary, extents FROM message` + summaries + bodies + which
	case in.summary:
		return columns + `, summary FROM message` + summaries + which
	case in.extents:
		return columns + `, NULL, extents FROM message` + bodies + which
	}
	return columns + ` FROM message` + which
}

func (d *database) messages(in *span, most int) []Message {
	sql := in.query()
	list := make([]Message, 0, min(most, countUIDs(in.uids)))
	for looked := 0; len(in.uids) > 0 && d.err == nil; looked++ {
		if list = d.kept(in, list, most); len(in.uids) == 0 || len(list) == most {
			break
		}
		r := in.uids[0]
		q := d.query(sql).int(int64(in.mailbox)).int(int64(r.First)).int(int64(r.Last))
		for q.next() {
			uid := covey.UID(q.intAt(0))
			if len(list) == most || looked >= most*slack {
				q.end()
				in.uids[0].First = uid
				return list
			}
			looked++
			if s := covey.ModSeq(q.intAt(1)); s > in.since {
				m := d.scanMessage(q, in)
				if in.again && in.since == 0 {
					d.remember(in, m)
				}
				list = append(list, m)
			}
		}
		in.uids = in.uids[1:]
	}
	if d.err != nil {
		in.uids = nil
		return nil
	}
	return list
}

// remember keeps m as it was found.
func (d *database) remember(in *span, m Message) {
	if len(m.Summary) > maxKeptRow || len(m.Prefix) > maxKeptRow || len(m.Flags.Keywords) > 0 && len(d.keywords(m.Flags)) > maxKeptRow {
		return
	}
	if in.extents && len(m.Extents) == 1 {
		d.single.Store(m.Body, m.Extents)
	}
	m.Extents = nil
	key := rowKey{in.mailbox, m.UID}
	if old, ok := d.rows.Load(key); ok && old.whole { // it is as m is, and may have more
		return
	}
	d.rows.Store(key, keptRow{m, in.summary})
}

// kept takes messages off the front of the span, as far as they are in memory.
func (d *database) kept(in *span, list []Message, most int) []Message {
	for in.since == 0 && len(in.uids) > 0 && len(list) < most {
		r := &in.uids[0]
		row, ok := d.rows.Load(rowKey{in.mailbox, r.First})
		if !ok || in.summary && !row.whole {
			break
		}
		m := row.Message
		if !in.summary {
			m.Summary = nil
		}
		if in.extents {
			if m.Extents, ok = d.single.Load(m.Body); !ok {
				break
			}
		}
		list = append(list, m)
		if r.First == r.Last {
			in.uids = in.uids[1:]
		} else {
			r.First++
		}
	}
	return list
}

func (d *database) scanMessage(q statement, in *span) Message {
	m := Message{
		UID: covey.UID(q.intAt(0)), ModSeq: covey.ModSeq(q.intAt(1)),
		Flags: covey.Flags{System: covey.SystemFlags(q.intAt(2)), Keywords: d.decodeStrings(q.blobAt(3))},
		Date:  time.Unix(q.intAt(4), 0).UTC(), Size: q.intAt(5), Prefix: q.blobAt(6), Body: covey.BodyID(q.intAt(7)),
	}
	if in.summary {
		m.Summary = q.blobAt(8)
	}
	if in.extents {
		m.Extents = d.decodeExtents(q.blobAt(9))
	}
	return m
}

func (d *database) addMessage(id covey.MailboxID, m *Message) {
	d.change("INSERT INTO message VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?, ?)").
		int(int64(id)).int(int64(m.UID)).int(int64(m.ModSeq)).int(int64(m.Flags.System)).blob(d.keywords(m.Flags)).
		int(m.Date.Unix()).int(m.Size).blob(m.Prefix).int(int64(m.Body)).run()
}

// keywords returns the form in which a message's keywords are stored, nil for
// none; valid until the next call.
func (d *database) keywords(f covey.Flags) []byte {
	if len(f.Keywords) == 0 {
		return nil
	}
	d.scratch = appendStrings(d.scratch[:0], f.Keywords)
	return d.scratch
}

func (d *database) setFlags(id covey.MailboxID, m *Message) {
	d.rows.Delete(rowKey{id, m.UID})
	d.change("UPDATE message SET mod_seq = ?, system = ?, keywords = ? WHERE mailbox = ?+0 AND uid = ?+0").
		int(int64(m.ModSeq)).int(int64(m.Flags.System)).blob(d.keywords(m.Flags)).
		int(int64(id)).int(int64(m.UID)).run()
}

func (d *database) dropMessage(id covey.MailboxID, m *Message) {
	d.rows.Delete(rowKey{id, m.UID})
	d.change("DELETE FROM message WHERE mailbox = ?+0 AND uid = ?+0").int(int64(id)).int(int64(m.UID)).run()
}

func (d *database) uids(id covey.MailboxID) []UIDRange {
	var list []UIDRange
	for q := d.query("SELECT uid FROM message WHERE mailbox = ?+0 ORDER BY uid").int(int64(id)); q.next(); {
		list = appendUID(list, covey.UID(q.intAt(0)))
	}
	return list
}

func (d *database) firstUnseen(id covey.MailboxID, from covey.UID) covey.UID {
	return covey.UID(d.query("SELECT uid FROM message WHERE mailbox = ?+0 AND uid >= ?+0 AND system & ?+0 = 0 ORDER BY uid LIMIT 1").
		int(int64(id)).int(int64(from)).int(int64(covey.Seen)).one())
}

func (d *database) addExpunged(id covey.MailboxID, s covey.ModSeq, uids []UIDRange) {
	for _, r := range uids {
		d.change("INSERT INTO expunged VALUES (?, ?, ?, ?)").
			int(int64(id)).int(int64(s)).int(int64(r.First)).int(int64(r.Last)).run()
	}
}

func (d *database) trimExpunged(id covey.MailboxID, keep int) (int, covey.ModSeq) {
	last := d.query("SELECT mod_seq FROM expunged WHERE mailbox = ?+0 ORDER BY mod_seq DESC, first DESC LIMIT 1 OFFSET ?").
		int(int64(id)).int(int64(keep)).one()
	d.change("DELETE FROM expunged WHERE mailbox = ?+0 AND mod_seq <= ?+0").int(int64(id)).int(last).run()
	left := d.query("SELECT count(*) FROM expunged WHERE mailbox = ?+0").int(int64(id)).one()
	return int(left), covey.ModSeq(last)
}

func (d *database) expunged(id covey.MailboxID, since covey.ModSeq) []UIDRange {
	var list []UIDRange
	q := d.query("SELECT first, last FROM expunged WHERE mailbox = ?+0 AND mod_seq > ?+0").int(int64(id)).int(int64(since))
	for q.next() {
		list = append(list, UIDRange{covey.UID(q.intAt(0)), covey.UID(q.intAt(1))})
	}
	return list
}
