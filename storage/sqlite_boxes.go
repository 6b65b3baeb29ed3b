package storage

import (
	"time"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/internal/mutant"
	"github.com/covey-mail/covey/internal/wire"
)

func (d *database) account(id covey.AccountID) *account {
	if a := d.accounts[id]; a != nil {
		return a
	}
	if !d.known.has(id) {
		return nil
	}
	q := d.query("SELECT validity, hidden FROM account WHERE id = ?+0").int(int64(id))
	if !q.next() {
		q.end()
		return nil
	}
	a := &account{id: id, lastValidity: uint32(q.intAt(0)), hidden: d.decodeStrings(q.blobAt(1))}
	q.end()
	for _, mb := range d.written(id, "") { // those that are fresh have their account in memory
		a.mailboxes++
		a.bytes += mb.Bytes
		a.messages += int64(mb.Messages)
	}
	if d.err != nil {
		return nil
	}
	d.accounts[id] = a
	return a
}

func (d *database) putAccount(a *account) {
	d.accounts[a.id] = a
	d.known.add(a.id)
	if !a.fresh {
		a.fresh = true
		d.fresh.accounts = append(d.fresh.accounts, a)
	}
}

func (d *database) dropAccount(id covey.AccountID) {
	d.writeFresh()
	delete(d.accounts, id)
	d.known.drop(id)
	d.change("DELETE FROM account WHERE id = ?+0").int(int64(id)).run()
}

// boxColumns are what scanMailbox reads.
const boxColumns = `SELECT id, account, name, use, no_select, validity,
	uid_next, mod_seq, messages, unseen, deleted, bytes, keywords, runs, horizon
	FROM mailbox JOIN count ON count.mailbox = mailbox.id `

func (d *database) mailbox(id covey.MailboxID) *mailbox {
	if mb := d.boxes[id]; mb != nil {
		return mb
	}
	return d.oneMailbox(d.query(boxColumns + "WHERE id = ?+0").int(int64(id)))
}

func (d *database) mailboxNamed(id covey.AccountID, name string) *mailbox {
	key := nameKey{id, name}
	if mb := d.byName[key]; mb != nil {
		return mb
	}
	if key == d.missing || !d.known.has(id) {
		return nil // a first message looks for its mailbox at every step
	}
	mb := d.oneMailbox(d.query(boxColumns + "WHERE account = ?+0 AND name = ?||''").int(int64(id)).text(name))
	if mb == nil && d.err == nil {
		d.missing = key
	}
	return mb
}

func (d *database) oneMailbox(q statement) *mailbox {
	defer q.end()
	if !q.next() {
		return nil
	}
	return d.scanMailbox(q)
}

// scanMailbox returns the mailbox of the row at hand: as it is in memory, if it
// is there.
func (d *database) scanMailbox(q statement) *mailbox {
	id := covey.MailboxID(q.intAt(0))
	if mb := d.boxes[id]; mb != nil {
		return mb
	}
	mb := &mailbox{Mailbox: Mailbox{
		ID: id, Account: covey.AccountID(q.intAt(1)), Name: q.textAt(2),
		Use: SpecialUse(q.intAt(3)), NoSelect: q.intAt(4) != 0, UIDValidity: uint32(q.intAt(5)),
		UIDNext: covey.UID(q.intAt(6)), HighestModSeq: covey.ModSeq(q.intAt(7)),
		Messages: uint32(q.intAt(8)), Unseen: uint32(q.intAt(9)), Deleted: uint32(q.intAt(10)),
		Bytes: q.intAt(11), Keywords: d.decodeStrings(q.blobAt(12)),
	}, runs: uint32(q.intAt(13)), horizon: covey.ModSeq(q.intAt(14))}
	if mutant.Is(mutant.Validity) {
		mb.UIDValidity = uint32(time.Now().Unix())
	}
	mb.recent.from = mb.HighestModSeq
	d.keep(mb)
	return mb
}

func (d *database) keep(mb *mailbox) {
	d.boxes[mb.ID] = mb
	mb.key = nameKey{mb.Account, mb.Name}
	d.byName[mb.key] = mb
}

func (d *database) putMailbox(mb *mailbox) {
	if d.boxes[mb.ID] == nil {
		mb.fresh = true
		d.fresh.mailboxes = append(d.fresh.mailboxes, mb)
		d.counted(mb)
	}
	delete(d.byName, mb.key)
	d.missing = nameKey{}
	d.keep(mb)
	if mb.fresh {
		return
	}
	d.change("REPLACE INTO mailbox VALUES (?, ?, ?, ?, ?, ?)").
		int(int64(mb.ID)).int(int64(mb.Account)).text(mb.Name).
		int(int64(mb.Use)).int(boolInt(mb.NoSelect)).int(int64(mb.UIDValidity)).run()
}

func boolInt(b bool) int64 {
	if b {
		return 1
	}
	return 0
}

func (d *database) counted(mb *mailbox) {
	if !mb.dirty {
		mb.dirty = true
		d.dirty = append(d.dirty, mb)
	}
}

// flushCounts writes the counts of mailboxes that changed. A mailbox dropped
// meanwhile has no row to update.
func (d *database) flushCounts() {
	for _, mb := range d.dirty {
		if !mb.dirty {
			continue // writeFresh wrote them
		}
		mb.dirty = false
		d.writeCounts(d.change(`UPDATE count SET uid_next = ?, mod_seq = ?, messages = ?, unseen = ?, deleted = ?, bytes = ?,
			keywords = ?, runs = ?, horizon = ? WHERE mailbox = ?+0`), mb)
	}
	clear(d.dirty)
	d.dirty = d.dirty[:0]
}

// writeCounts runs q with the counts of mb, and its id as the tenth parameter.
func (d *database) writeCounts(q statement, mb *mailbox) {
	var keywords []byte
	if len(mb.Keywords) > 0 {
		d.scratch = appendStrings(d.scratch[:0], mb.Keywords)
		keywords = d.scratch
	}
	q.int(int64(mb.UIDNext)).int(int64(mb.HighestModSeq)).int(int64(mb.Messages)).
		int(int64(mb.Unseen)).int(int64(mb.Deleted)).int(mb.Bytes).
		blob(keywords).int(int64(mb.runs)).int(int64(mb.horizon)).int(int64(mb.ID)).run()
}

func (d *database) dropMailbox(mb *mailbox) {
	d.writeFresh()
	delete(d.boxes, mb.ID)
	delete(d.byName, mb.key)
	for _, sql := range []string{
		"DELETE FROM mailbox WHERE id = ?+0", "DELETE FROM count WHERE mailbox = ?+0", "DELETE FROM expunged WHERE mailbox = ?+0",
	} {
		d.change(sql).int(int64(mb.ID)).run()
	}
}

func (d *database) mailboxes(id covey.AccountID, under string) []*mailbox {
	d.writeFresh()
	return d.written(id, under)
}

// written returns what mailboxes does, of those that are not fresh.
func (d *database) written(id covey.AccountID, under string) []*mailbox {
	first, last := "", "\xff"
	if under != "" {
		first, last = under+"/", under+"0" // '0' follows '/'
	}
	var list []*mailbox
	q := d.query(boxColumns + "WHERE account = ?+0 AND name >= ?||'' AND name < ?||'' ORDER BY name").int(int64(id)).text(first).text(last)
	for q.next() {
		list = append(list, d.scanMailbox(q))
	}
	return list
}

func (d *database) subscriptions(id covey.AccountID) []string {
	d.writeFresh()
	var list []string
	for q := d.query("SELECT name FROM subscription WHERE account = ?+0 ORDER BY name").int(int64(id)); q.next(); {
		list = append(list, q.textAt(0))
	}
	return list
}

func (d *database) subscribe(id covey.AccountID, name string) {
	d.fresh.subscriptions = append(d.fresh.subscriptions, nameKey{id, name})
}

func (d *database) unsubscribe(id covey.AccountID, name string) {
	d.writeFresh()
	d.change("DELETE FROM subscription WHERE account = ?+0 AND name = ?||''").int(int64(id)).text(name).run()
}

// trim drops rows that the database has as they are, any of them, once there are
// too many. Those that have no row there yet stay until commit.
func (d *database) trim() {
	if len(d.boxes) > d.most+len(d.dirty) {
		for id, mb := range d.boxes {
			if !mb.dirty {
				delete(d.boxes, id)
				delete(d.byName, mb.key)
			}
			if len(d.boxes) <= d.most/4*3+len(d.dirty) {
				break
			}
		}
	}
	if f := &d.fresh; max(len(f.mailboxes), len(f.accounts), len(f.subscriptions)) >= mostFresh {
		d.writeFresh()
	}
	if len(d.accounts) > d.most {
		d.writeFresh()
		clear(d.accounts) // their sums are made of mailboxes, and those are mostly here
	}
}

func (d *database) decodeStrings(b []byte) []string {
	if len(b) == 0 {
		return nil
	}
	r := decoder{wire.NewReader(b)}
	list := r.strings()
	d.fail(r.End())
	return list
}
