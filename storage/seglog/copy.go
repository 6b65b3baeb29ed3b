package seglog

import (
	"fmt"

	"github.com/covey-mail/covey"
)

// maxCopy is how much CopyBodies writes at a time, so that it does not hold up
// other writers for long.
const maxCopy = 1 << 20

// CopyBodies copies the bytes at each extent into the active segment and returns
// their new places, in the same order and with the same sums, when they are on
// stable storage. Bytes that do not match their Sum are covey.Corrupt; give one,
// or damage is copied unseen. On an error the copies made so far are garbage in
// the log, and the old places hold.
func (l *Log) CopyBodies(from []Extent) ([]Extent, error) {
	to := make([]Extent, 0, len(from))
	var b Batch
	for len(from) > 0 {
		n, err := l.readBodies(&b, from)
		if err != nil {
			return nil, err
		}
		if to, err = l.writeBodies(&b, from[:n], to); err != nil {
			return nil, err
		}
		from = from[n:]
	}
	l.write.Lock()
	defer l.write.Unlock()
	if err := l.Err(); err != nil {
		return nil, err
	}
	if err := l.sync(); err != nil {
		return nil, err
	}
	return to, nil
}

// readBodies fills b with the first of the extents, and says how many.
func (l *Log) readBodies(b *Batch, from []Extent) (int, error) {
	b.Reset()
	for i, e := range from {
		if i > 0 && b.Bytes()+int(e.Length) > maxCopy {
			return i, nil
		}
		if e.Length > maxPayload {
			return 0, covey.Errorf(covey.Invalid, "copy bodies: segment %d at %d: %d bytes", e.Segment, e.Offset, e.Length)
		}
		p := make([]byte, e.Length)
		if err := l.Read(e, p); err != nil {
			return 0, fmt.Errorf("copy bodies: %w", err)
		}
		b.body(e, p)
	}
	return len(from), nil
}

// writeBodies writes b and appends the places of its records to to.
func (l *Log) writeBodies(b *Batch, from, to []Extent) ([]Extent, error) {
	l.write.Lock()
	defer l.write.Unlock()
	if err := l.Err(); err != nil {
		return nil, err
	}
	if err := l.put(b, Buffered); err != nil {
		return nil, err
	}
	base := l.active.end - int64(len(b.buf))
	for i, e := range from {
		e.Segment, e.Offset = l.active.number, uint32(base+b.changes[i].at+recordHeader)
		to = append(to, e)
	}
	return to, nil
}
