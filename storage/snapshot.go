package storage

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/internal/snapshot"
	"github.com/covey-mail/covey/internal/sqlitefile"
)

// Snapshot implements State. A copy is one of the database file, and the bodies
// in the log that it refers to, whose segments are held.
func (s *shard) Snapshot() (snapshot.Snapshot, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d, ok := s.m.t.(*database)
	err := s.broken
	if err == nil && (!ok || s.cfg.Log == nil) {
		err = covey.Errorf(covey.Invalid, "its bodies or its rows cannot be read from here")
	}
	var out snapshot.Snapshot
	if err == nil {
		out, err = s.copies.Open(s.m.meta.applied, func(n uint64) (snapshot.Copy, error) { return s.beginCopy(d, n) })
	}
	if err != nil {
		return nil, fmt.Errorf("copy shard %d: %w", s.cfg.Shard, err)
	}
	return out, nil
}

// beginCopy begins the nth copy. After the checkpoint the database file is the
// state, and stays so until the next one, which waits for the copy.
func (s *shard) beginCopy(d *database, n uint64) (snapshot.Copy, error) {
	if _, err := s.checkpoint(); err != nil {
		return snapshot.Copy{}, err
	}
	head := snapshot.Header{Group: s.cfg.Shard, Index: s.m.meta.applied, Hash: s.m.meta.hash}
	for _, u := range d.used {
		head.Pieces += u.Extents
		head.PieceBytes += u.Bytes
	}
	hold := s.cfg.Log.Hold(slices.Collect(maps.Keys(d.used))...)
	file, size, err := d.source.Copy(snapshot.CopyName(d.path, n))
	if err != nil {
		hold.Release()
		return snapshot.Copy{}, err
	}
	head.Database = size
	return snapshot.Copy{
		Header: head, File: file, Let: hold.Release,
		Pieces: &pieces{log: s.cfg.Log, file: file, shard: s},
	}, nil
}

// markBytes is how far marks are apart in the pieces of a copy.
const markBytes = 1 << 20

// pieces is the part of a copy's stream that comes from the log: an io.ReaderAt
// that is cheap to read in ascending order, and can go back to a mark anywhere.
// It takes 32 bytes for each MiB.
type pieces struct {
	log   BodyLog
	shard *shard
	file  *snapshot.FileCopy
	w     *walk  // over the copy; nil: it is not open yet
	start int64  // where the piece begins that w stands at
	buf   []byte // that piece with its header; empty: not read
	marks []mark // the piece that octet n*markBytes lies in, for each n that w has passed
}

type mark struct {
	start int64
	at    position
}

// ReadAt implements io.ReaderAt.
func (p *pieces) ReadAt(b []byte, off int64) (int, error) {
	if p.w == nil {
		if err := p.open(); err != nil {
			return 0, err
		}
	}
	n := 0
	for n < len(b) {
		p.seek(off + int64(n))
		if p.w.done() {
			if p.w.d.err != nil {
				return n, p.w.d.err
			}
			return n, io.EOF
		}
		if err := p.read(); err != nil {
			return n, err
		}
		n += copy(b[n:], p.buf[off+int64(n)-p.start:])
	}
	return n, nil
}

// open opens the copy of the database when it is whole.
func (p *pieces) open() error {
	if _, err := p.file.Sum(); err != nil {
		return err
	}
	name := p.file.Name()
	conn, err := sqlitefile.OpenImmutable(name, p.shard.cfg.VFS)
	if err != nil {
		return fmt.Errorf("open copy: %w", err)
	}
	p.w = newWalk(&database{conn: conn, path: name, source: snapshot.NewSource(nil, name)})
	p.note()
	return nil
}

// Close closes what open opened.
func (p *pieces) Close() error {
	if p.w == nil {
		return nil
	}
	return p.w.d.close()
}

// size returns the length of the piece that the walk stands at.
func (p *pieces) size() int64 { return snapshot.PieceOverhead + int64(p.w.extent().Length) }

// seek goes to the piece that octet off lies in, or to the end.
func (p *pieces) seek(off int64) {
	if i := min(off/markBytes, int64(len(p.marks))-1); i >= 0 {
		if m := p.marks[i]; off < p.start || m.start > p.start {
			p.start, p.buf = m.start, p.buf[:0]
			p.w.seek(m.at)
		}
	}
	for !p.w.done() && off >= p.start+p.size() {
		p.start += p.size()
		p.buf = p.buf[:0]
		p.w.next()
		p.note()
	}
}

// note sets a mark if one is due.
func (p *pieces) note() {
	for !p.w.done() && int64(len(p.marks))*markBytes < p.start+p.size() {
		p.marks = append(p.marks, mark{p.start, p.w.position()})
	}
}

// read has the piece in memory that the walk stands at.
func (p *pieces) read() error {
	if len(p.buf) > 0 {
		return nil
	}
	e := p.w.extent()
	if e.Length == 0 || e.Length > snapshot.PieceSize {
		return covey.Errorf(covey.Corrupt, "%s: extent of %d octets", p.w, e.Length)
	}
	b := snapshot.AppendPieceHeader(p.buf, snapshot.Sound, int(e.Length))
	b = append(b, make([]byte, e.Length)...)
	body := b[snapshot.PieceOverhead:]
	err := p.log.Read(e, body)
	if errors.Is(err, covey.Unavailable) {
		return err
	}
	if err != nil {
		// Without it no replica could ever be added, nor this body be repaired by
		// one that has it. The receiver keeps the checksum, by which it is found.
		p.shard.cfg.Logger.Error("a damaged body is copied as it is", "body", p.w.String(), "error", err)
		b[0] = byte(snapshot.Damaged)
		if e.Sum = 0; p.log.Read(e, body) != nil {
			clear(body)
		}
	}
	p.buf = b
	return nil
}
