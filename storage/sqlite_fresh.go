package storage

import (
	"cmp"
	"math/bits"
	"slices"

	"github.com/covey-mail/covey"
)

// mostFresh is how many new mailboxes wait to be written together. A shard stands
// still while they are.
const mostFresh = 256

// fresh are rows that the open transaction does not have yet. The first message of
// an account makes three of them at random places; those of many accounts, one
// table after the other and in order, cost half of what each costs by itself.
type fresh struct {
	accounts      []*account // new, or changed
	mailboxes     []*mailbox // by id; their accounts are in memory
	subscriptions []nameKey
}

// writeFresh writes what is fresh. What reads or changes more than one row by its key
// comes after it.
func (d *database) writeFresh() {
	f := &d.fresh
	slices.SortFunc(f.accounts, func(a, b *account) int { return cmp.Compare(a.id, b.id) })
	for _, a := range f.accounts {
		a.fresh = false
		d.scratch = appendStrings(d.scratch[:0], a.hidden)
		d.change("REPLACE INTO account VALUES (?, ?, ?)").int(int64(a.id)).int(int64(a.lastValidity)).blob(d.scratch).run()
	}
	for _, mb := range f.mailboxes {
		mb.fresh = false
		d.change("INSERT INTO mailbox VALUES (?, ?, ?, ?, ?, ?)").
			int(int64(mb.ID)).int(int64(mb.Account)).text(mb.Name).
			int(int64(mb.Use)).int(boolInt(mb.NoSelect)).int(int64(mb.UIDValidity)).run()
	}
	for _, mb := range f.mailboxes {
		mb.dirty = false
		d.writeCounts(d.change(`INSERT INTO count (uid_next, mod_seq, messages, unseen, deleted, bytes, keywords, runs, horizon, mailbox)
			VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`), mb)
	}
	slices.SortFunc(f.subscriptions, func(a, b nameKey) int {
		return cmp.Or(cmp.Compare(a.account, b.account), cmp.Compare(a.name, b.name))
	})
	for _, s := range f.subscriptions {
		d.change("INSERT OR IGNORE INTO subscription VALUES (?, ?)").int(int64(s.account)).text(s.name).run()
	}
	clear(f.accounts)
	clear(f.mailboxes)
	clear(f.subscriptions)
	f.accounts, f.mailboxes, f.subscriptions = f.accounts[:0], f.mailboxes[:0], f.subscriptions[:0]
}

// setPage is how many ids share a page of an accountSet.
const setPage = 4096

// An accountSet are the accounts that have a row: of a new one there is nothing to
// look for in the database. Ids are given out in order, to shards in turn, so it
// takes a bit for each id of the cluster, two octets an account with sixteen shards.
type accountSet map[covey.AccountID]*[setPage / 64]uint64

// has reports whether id is in the set.
func (s accountSet) has(id covey.AccountID) bool {
	p := s[id/setPage]
	return p != nil && p[id%setPage/64]>>(id%64)&1 != 0
}

func (s accountSet) len() int {
	n := 0
	for _, p := range s {
		for _, word := range p {
			n += bits.OnesCount64(word)
		}
	}
	return n
}

func (s accountSet) add(id covey.AccountID) {
	p := s[id/setPage]
	if p == nil {
		p = new([setPage / 64]uint64)
		s[id/setPage] = p
	}
	p[id%setPage/64] |= 1 << (id % 64)
}

func (s accountSet) drop(id covey.AccountID) {
	p := s[id/setPage]
	if p == nil {
		return
	}
	if p[id%setPage/64] &^= 1 << (id % 64); *p == [setPage / 64]uint64{} {
		delete(s, id/setPage)
	}
}
