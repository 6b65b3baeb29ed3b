package mailbox

import (
	"cmp"
	"slices"

	"github.com/covey-mail/covey/storage"
)

// normalize sorts ranges and joins those that touch. It may reuse its argument.
func normalize(rs []storage.UIDRange) []storage.UIDRange {
	slices.SortFunc(rs, func(a, b storage.UIDRange) int { return cmp.Compare(a.First, b.First) })
	out := rs[:0]
	for _, r := range rs {
		if k := len(out); k > 0 && uint64(r.First) <= uint64(out[k-1].Last)+1 {
			out[k-1].Last = max(out[k-1].Last, r.Last)
		} else {
			out = append(out, r)
		}
	}
	return out
}
