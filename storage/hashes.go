package storage

// What is kept of the running hash, so that replicas can be compared although
// none of them stands still.
const (
	hashesKept = 1024 // after each of the last commands
	hashEvery  = 1024 // indexes between two marks
	marksKept  = 64
)

// A hashPoint is the running hash after everything up to an index.
type hashPoint struct{ index, hash uint64 }

// hashes are the running hash as it was, since the state was opened.
type hashes struct {
	last  [hashesKept]hashPoint // a ring, by the number of the command
	n     uint64                // commands noted
	marks [marksKept]hashPoint  // by index divided by hashEvery
}

// add notes the hash after the command at index.
func (h *hashes) add(index, hash uint64) {
	if h.n > 0 {
		// The hash before this command is that of the last mark it passes, too.
		before := h.last[(h.n-1)%hashesKept]
		if at := (index - 1) / hashEvery * hashEvery; at >= before.index {
			h.marks[at/hashEvery%marksKept] = hashPoint{at, before.hash}
		}
	}
	h.last[h.n%hashesKept] = hashPoint{index, hash}
	h.n++
}

// at returns the hash after everything up to index, if it is known.
func (h *hashes) at(index uint64) (uint64, bool) {
	if m := h.marks[index/hashEvery%marksKept]; m.index == index && index > 0 {
		return m.hash, true
	}
	above := ^uint64(0) // no command is known to lie between a point and this
	for i := range min(h.n, hashesKept) {
		p := h.last[(h.n-1-i)%hashesKept]
		if p.index == index || p.index < index && index < above && i > 0 {
			return p.hash, true
		}
		above = p.index
	}
	return 0, false
}

// HashAt implements State.
func (s *shard) HashAt(index uint64) (hash uint64, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.m.hashes.at(index)
}
