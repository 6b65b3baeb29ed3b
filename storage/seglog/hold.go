package seglog

import (
	"fmt"

	"github.com/covey-mail/covey"
)

// A Hold keeps segments from being removed: those of bodies that somebody is
// reading who will not look them up again, and those of bodies that nothing
// refers to yet. It is for one goroutine at a time. What is held is forgotten
// with the process.
type Hold struct {
	log      *Log
	segments map[uint64]bool // nil: released
}

// Hold keeps segments from removal until Release. One that is gone already is
// passed over: reading from it says so.
func (l *Log) Hold(segments ...uint64) *Hold {
	h := &Hold{log: l, segments: map[uint64]bool{}}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, n := range segments {
		if l.find(n) != nil {
			h.keepLocked(n)
		}
	}
	return h
}

func (h *Hold) keepLocked(number uint64) {
	if !h.segments[number] {
		h.segments[number] = true
		h.log.held[number]++
	}
}

// Release lets the segments go. It may be called twice.
func (h *Hold) Release() {
	l := h.log
	l.mu.Lock()
	defer l.mu.Unlock()
	for n := range h.segments {
		if l.held[n]--; l.held[n] == 0 {
			delete(l.held, n)
		}
	}
	h.segments = nil
}

// Append writes bodies that came from elsewhere and returns their places and
// sums, in the same order. The segments they are in are held too. They are on
// stable storage after the next Write that is Synced, be it of an empty Batch.
// On an error some may be in the log, as garbage.
func (h *Hold) Append(bodies [][]byte) ([]Extent, error) {
	places := make([]Extent, 0, len(bodies))
	var b Batch
	for len(bodies) > 0 {
		n, err := fillBodies(&b, bodies)
		if err != nil {
			return nil, err
		}
		if places, err = h.write(&b, places); err != nil {
			return nil, err
		}
		bodies = bodies[n:]
	}
	return places, nil
}

// fillBodies fills b with the first of the bodies, and says how many.
func fillBodies(b *Batch, bodies [][]byte) (int, error) {
	b.Reset()
	for i, p := range bodies {
		if i > 0 && b.Bytes()+len(p) > maxCopy {
			return i, nil
		}
		if len(p) > maxPayload {
			return 0, covey.Errorf(covey.TooBig, "append bodies: %d bytes, at most %d are allowed", len(p), maxPayload)
		}
		b.body(Extent{}, p)
	}
	return len(bodies), nil
}

// write writes b and appends the places of its bodies to places. The segment is
// held before it can be sealed, and so before it can be removed.
func (h *Hold) write(b *Batch, places []Extent) ([]Extent, error) {
	l := h.log
	l.write.Lock()
	defer l.write.Unlock()
	if h.segments == nil {
		return nil, covey.Errorf(covey.Invalid, "append bodies: the hold was released")
	}
	if err := l.Err(); err != nil {
		return nil, err
	}
	if err := l.put(b, Buffered); err != nil {
		return nil, fmt.Errorf("append bodies: %w", err)
	}
	l.mu.Lock()
	h.keepLocked(l.active.number)
	l.mu.Unlock()
	base := l.active.end - int64(len(b.buf))
	for i := range b.changes {
		c := &b.changes[i]
		places = append(places, Extent{
			Segment: l.active.number, Offset: uint32(base + c.at + recordHeader), Length: c.length, Sum: c.sum,
		})
	}
	return places, nil
}
