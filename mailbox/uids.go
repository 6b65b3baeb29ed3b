package mailbox

import (
	"sort"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/storage"
)

// uidList maps sequence numbers to UIDs and back. UIDs mostly come in unbroken
// runs, so it keeps runs, and a mailbox of 100,000 messages costs a few words.
type uidList struct {
	runs  []storage.UIDRange // ascending, disjoint, not adjacent
	first []uint32           // first[i] is the sequence number of runs[i].First
	n     uint32             // messages in all
}

func newUIDList(runs []storage.UIDRange) uidList {
	l := uidList{runs: runs}
	l.renumber()
	return l
}

// renumber makes first and n true to runs.
func (l *uidList) renumber() {
	l.first, l.n = l.first[:0], 0
	for _, r := range l.runs {
		l.first = append(l.first, l.n+1)
		l.n += length(r)
	}
}

func length(r storage.UIDRange) uint32 { return uint32(r.Last-r.First) + 1 }

// uid returns the UID with a sequence number, 0 if there is none.
func (l *uidList) uid(seq uint32) covey.UID {
	if seq == 0 || seq > l.n {
		return 0
	}
	i := sort.Search(len(l.first), func(i int) bool { return l.first[i] > seq }) - 1
	return l.runs[i].First + covey.UID(seq-l.first[i])
}

// seq returns the sequence number of a UID, 0 if it is not in the list.
func (l *uidList) seq(uid covey.UID) uint32 {
	i := l.find(uid)
	if i == len(l.runs) || l.runs[i].First > uid {
		return 0
	}
	return l.first[i] + uint32(uid-l.runs[i].First)
}

// find returns the first run that ends at or after uid.
func (l *uidList) find(uid covey.UID) int {
	return sort.Search(len(l.runs), func(i int) bool { return l.runs[i].Last >= uid })
}

// last returns the highest UID, 0 if there is none.
func (l *uidList) last() covey.UID {
	if len(l.runs) == 0 {
		return 0
	}
	return l.runs[len(l.runs)-1].Last
}

// add appends a UID above all others.
func (l *uidList) add(uid covey.UID) {
	k := len(l.runs)
	if k > 0 && l.runs[k-1].Last+1 == uid {
		l.runs[k-1].Last = uid
	} else {
		l.runs = append(l.runs, storage.UIDRange{First: uid, Last: uid})
		l.first = append(l.first, l.n+1)
	}
	l.n++
}

// remove takes out the UIDs of set, which is ascending and disjoint, and returns
// the sequence numbers that they had, highest first: announced in that order,
// each number is true when its turn comes.
func (l *uidList) remove(set []storage.UIDRange) []uint32 {
	gone := l.within(set)
	var seqs []uint32
	for i := len(gone) - 1; i >= 0; i-- {
		top := l.seq(gone[i].Last)
		for k := range length(gone[i]) {
			seqs = append(seqs, top-k)
		}
	}
	if len(gone) > 0 {
		l.runs = storage.Subtract(l.runs, gone)
		l.renumber()
	}
	return seqs
}

// span returns the UIDs with sequence numbers from a to b, both included and cut
// to what there is.
func (l *uidList) span(a, b uint32) []storage.UIDRange {
	a, b = max(a, 1), min(b, l.n)
	if a > b {
		return nil
	}
	return l.within([]storage.UIDRange{{First: l.uid(a), Last: l.uid(b)}})
}

// within returns the part of the list that lies in set, which is ascending and
// disjoint. The work is bounded by the runs of both, not by the width of set.
func (l *uidList) within(set []storage.UIDRange) []storage.UIDRange {
	var out []storage.UIDRange
	for _, s := range set {
		for i := l.find(s.First); i < len(l.runs) && l.runs[i].First <= s.Last; i++ {
			out = append(out, storage.UIDRange{
				First: max(s.First, l.runs[i].First),
				Last:  min(s.Last, l.runs[i].Last),
			})
		}
	}
	return out
}
