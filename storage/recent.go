package storage

import "github.com/covey-mail/covey"

// Of the latest changes of one mailbox maxRecent runs are remembered; a run is
// the messages of one command, or up to recentRun that came one by one.
const (
	maxRecent = 32
	recentRun = 16
)

// recent is the latest changes of a mailbox, so that a session that asks every
// few seconds what is new does not read the whole mailbox each time. It is kept
// in memory only, is complete above from, and the zero value knows nothing
// above 0: its mailbox is new.
type recent struct {
	from    covey.ModSeq
	changes []change
}

// A change is a run of messages put or changed.
type change struct {
	modSeq covey.ModSeq // of the last of them
	uids   UIDRange
}

// add notes that message uid changed. UIDs ascend within a ModSeq.
func (r *recent) add(s covey.ModSeq, uid covey.UID) {
	if s <= r.from {
		return // of a command too large to be remembered
	}
	if n := len(r.changes); n > 0 && r.changes[n-1].takes(s, uid) {
		r.changes[n-1] = change{s, UIDRange{r.changes[n-1].uids.First, uid}}
		return
	}
	if len(r.changes) == maxRecent {
		r.from = r.changes[maxRecent/2].modSeq
		n := 0
		for n < len(r.changes) && r.changes[n].modSeq <= r.from {
			n++
		}
		r.changes = r.changes[:copy(r.changes, r.changes[n:])]
		if s <= r.from {
			return
		}
	}
	r.changes = append(r.changes, change{s, UIDRange{uid, uid}})
}

// takes reports whether the run may grow by a message.
func (c *change) takes(s covey.ModSeq, uid covey.UID) bool {
	return c.uids.Last+1 == uid && (c.modSeq == s || uid-c.uids.First < recentRun)
}

// since returns, in ascending disjoint runs, the messages changed after s and
// perhaps some others; ok is false if that is not remembered.
func (r *recent) since(s covey.ModSeq) (uids []UIDRange, ok bool) {
	if s < r.from {
		return nil, false
	}
	for _, c := range r.changes {
		if c.modSeq > s {
			uids = append(uids, c.uids)
		}
	}
	return normalise(uids, 1<<32-1), true
}
