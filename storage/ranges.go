package storage

import (
	"cmp"
	"slices"

	"github.com/covey-mail/covey"
)

// appendUID adds uid to ascending runs, of which it is beyond the last.
func appendUID(list []UIDRange, uid covey.UID) []UIDRange {
	if n := len(list); n > 0 && list[n-1].Last+1 == uid {
		list[n-1].Last = uid
		return list
	}
	return append(list, UIDRange{uid, uid})
}

// normalise returns the UIDs of list from 1 to last as ascending disjoint runs.
// Reversed ranges are empty. list is not changed.
func normalise(list []UIDRange, last covey.UID) []UIDRange {
	var out []UIDRange
	for _, r := range list {
		r = UIDRange{max(r.First, 1), min(r.Last, last)}
		if r.First <= r.Last {
			out = append(out, r)
		}
	}
	slices.SortFunc(out, func(a, b UIDRange) int { return cmp.Compare(a.First, b.First) })
	return mergeSorted(out)
}

// mergeSorted joins runs sorted by their first UID where they touch, in place.
func mergeSorted(list []UIDRange) []UIDRange {
	n := 0
	for _, r := range list {
		if n > 0 && uint64(r.First) <= uint64(list[n-1].Last)+1 {
			list[n-1].Last = max(list[n-1].Last, r.Last)
			continue
		}
		list[n] = r
		n++
	}
	return list[:n]
}

// without returns the UIDs from 1 to last that are not in list, which is
// ascending and disjoint.
func without(list []UIDRange, last covey.UID) []UIDRange {
	var out []UIDRange
	next := covey.UID(1)
	for _, r := range list {
		if r.First > next {
			out = append(out, UIDRange{next, r.First - 1})
		}
		next = r.Last + 1
	}
	if next <= last {
		out = append(out, UIDRange{next, last})
	}
	return out
}

// Subtract returns runs less gone, each range of which lies in one run. Both are
// ascending and disjoint, and stay as they are.
func Subtract(runs, gone []UIDRange) []UIDRange {
	out := make([]UIDRange, 0, len(runs)+len(gone))
	for _, r := range runs {
		for len(gone) > 0 && gone[0].First <= r.Last {
			if g := gone[0]; g.First > r.First {
				out = append(out, UIDRange{r.First, g.First - 1})
			}
			r.First = gone[0].Last + 1
			gone = gone[1:]
		}
		if r.First <= r.Last {
			out = append(out, r)
		}
	}
	return out
}

// countUIDs returns how many UIDs the runs hold.
func countUIDs(list []UIDRange) int {
	n := 0
	for _, r := range list {
		n += int(r.Last-r.First) + 1
	}
	return n
}
