package imapd

import (
	"cmp"
	"slices"
	"strconv"

	"github.com/emersion/go-imap/v2"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/storage"
)

// A numSet is a sequence-set of RFC 3501: message numbers or UIDs.
type numSet struct {
	ranges []numRange
	saved  bool // "$": the result of the last SEARCH (RFC 5182)
}

// A numRange goes from one end to the other, in either order; 0 stands for "*".
type numRange struct{ a, b uint32 }

// set reads a sequence-set.
func (c *cursor) set() numSet {
	if c.accept('$') {
		return numSet{saved: true}
	}
	var s numSet
	for {
		r := numRange{a: c.setNumber()}
		r.b = r.a
		if c.accept(':') {
			r.b = c.setNumber()
		}
		s.ranges = append(s.ranges, r)
		if !c.accept(',') {
			return s
		}
	}
}

func (c *cursor) setNumber() uint32 {
	if c.accept('*') {
		return 0
	}
	return c.nzNumber()
}

// append writes the set as a client would.
func (s numSet) append(b []byte) []byte {
	if s.saved {
		return append(b, '$')
	}
	for i, r := range s.ranges {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendSetNumber(b, r.a)
		if r.a != r.b {
			b = appendSetNumber(append(b, ':'), r.b)
		}
	}
	return b
}

// setOf takes over a set that go-imap has parsed.
func setOf(s imap.NumSet) (set numSet, uid bool) {
	switch s := s.(type) {
	case imap.SeqSet:
		for _, r := range s {
			set.ranges = append(set.ranges, numRange{r.Start, r.Stop})
		}
	case imap.UIDSet:
		if imap.IsSearchRes(s) {
			return numSet{saved: true}, true
		}
		for _, r := range s {
			set.ranges = append(set.ranges, numRange{uint32(r.Start), uint32(r.Stop)})
		}
		uid = true
	}
	return set, uid
}

// resolve returns the set as ascending, disjoint ranges with last for "*". With
// last 0 there is nothing that "*" could be, and a range to it is empty.
func (s numSet) resolve(last uint32) []storage.UIDRange {
	out := make([]storage.UIDRange, 0, len(s.ranges))
	for _, r := range s.ranges {
		if last == 0 && (r.a == 0 || r.b == 0) {
			continue
		}
		if r.a == 0 {
			r.a = last
		}
		if r.b == 0 {
			r.b = last
		}
		out = append(out, storage.UIDRange{First: covey.UID(min(r.a, r.b)), Last: covey.UID(max(r.a, r.b))})
	}
	slices.SortFunc(out, func(x, y storage.UIDRange) int { return cmp.Compare(x.First, y.First) })
	return joinRanges(out)
}

// joinRanges joins ranges that touch, in place; they are in order of First.
func joinRanges(rs []storage.UIDRange) []storage.UIDRange {
	out := rs[:0]
	for _, r := range rs {
		if k := len(out) - 1; k >= 0 && uint64(r.First) <= uint64(out[k].Last)+1 {
			out[k].Last = max(out[k].Last, r.Last)
		} else {
			out = append(out, r)
		}
	}
	return out
}

// highest returns the largest number of the ranges without "*".
func (s numSet) highest() uint32 {
	var n uint32
	for _, r := range s.ranges {
		if r.a != 0 && r.b != 0 {
			n = max(n, r.a, r.b)
		}
	}
	return n
}

// contains reports whether uid is in rs, which is ascending and disjoint.
func contains(rs []storage.UIDRange, uid covey.UID) bool {
	_, found := slices.BinarySearchFunc(rs, uid, func(r storage.UIDRange, uid covey.UID) int {
		switch {
		case r.Last < uid:
			return -1
		case r.First > uid:
			return 1
		}
		return 0
	})
	return found
}

// count returns how many numbers rs holds.
func count(rs []storage.UIDRange) uint32 {
	var n uint32
	for _, r := range rs {
		n += uint32(r.Last-r.First) + 1
	}
	return n
}

// intersect returns what is in both; both are ascending and disjoint.
func intersect(x, y []storage.UIDRange) []storage.UIDRange {
	var out []storage.UIDRange
	for len(x) > 0 && len(y) > 0 {
		first, last := max(x[0].First, y[0].First), min(x[0].Last, y[0].Last)
		if first <= last {
			out = append(out, storage.UIDRange{First: first, Last: last})
		}
		if x[0].Last < y[0].Last {
			x = x[1:]
		} else {
			y = y[1:]
		}
	}
	return out
}

func appendSetNumber(b []byte, n uint32) []byte {
	if n == 0 {
		return append(b, '*')
	}
	return appendNumber(b, n)
}

func appendNumber(b []byte, n uint32) []byte { return strconv.AppendUint(b, uint64(n), 10) }
