// Package runhash remembers what the running hash of a state machine was, so that
// replicas can be compared although none of them stands still: at an index that
// one has just applied, when the others are past it.
package runhash

const (
	kept      = 1024 // after each of the last commands
	markEvery = 1024 // indexes between two marks
	marksKept = 64
)

// A point is the running hash after everything up to an index.
type point struct{ index, hash uint64 }

// A History has the running hash after each of the last 1,024 commands that were
// added, and at the last 64 indexes that are multiples of 1,024. It takes some
// 17 KiB. The zero History knows nothing; it is for one goroutine at a time.
type History struct {
	last  [kept]point // a ring, by the number of the command
	n     uint64      // commands added
	marks [marksKept]point
}

// Add notes the hash after the command at index. A state that is opened adds the
// one that it was left with.
func (h *History) Add(index, hash uint64) {
	if h.n > 0 {
		// The hash before this command is that of the last mark it passes, too.
		before := h.last[(h.n-1)%kept]
		if at := (index - 1) / markEvery * markEvery; at >= before.index {
			h.marks[at/markEvery%marksKept] = point{at, before.hash}
		}
	}
	h.last[h.n%kept] = point{index, hash}
	h.n++
}

// At returns the hash after everything up to index, if it is known.
func (h *History) At(index uint64) (uint64, bool) {
	if m := h.marks[index/markEvery%marksKept]; m.index == index && index > 0 {
		return m.hash, true
	}
	above := ^uint64(0) // no command is known to lie between a point and this
	for i := range min(h.n, kept) {
		p := h.last[(h.n-1-i)%kept]
		if p.index == index || p.index < index && index < above && i > 0 {
			return p.hash, true
		}
		above = p.index
	}
	return 0, false
}
