package storage

import (
	"container/list"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/storage/seglog"
)

// Limits on chunks that no message has taken yet.
const (
	uploadFor  = 3600    // seconds of the shard's clock after the last chunk
	MaxChunks  = 1 << 16 // of one body
	maxPending = 1 << 16 // of the shard; beyond, a chunk is refused with covey.Limit
)

// uploads is the bodies of which chunks have arrived.
type uploads struct {
	byID    map[covey.DeliveryID]*upload
	byTime  *list.List // of *upload, the one whose last chunk is oldest first
	pending int        // chunks in all
}

// An upload is the chunks of one body.
type upload struct {
	id     covey.DeliveryID
	last   int64 // the shard's clock when its last new chunk came
	chunks map[uint32]seglog.Extent
	place  *list.Element
}

func newUploads() uploads {
	return uploads{byID: map[covey.DeliveryID]*upload{}, byTime: list.New()}
}

// add takes a chunk that is not there yet, and returns its upload.
func (u *uploads) add(id covey.DeliveryID, n uint32, e seglog.Extent, clock int64) *upload {
	up := u.byID[id]
	if up == nil {
		up = &upload{id: id, chunks: map[uint32]seglog.Extent{}}
		up.place = u.byTime.PushBack(up)
		u.byID[id] = up
	}
	up.chunks[n], up.last = e, clock
	u.byTime.MoveToBack(up.place)
	u.pending++
	return up
}

func (u *uploads) drop(up *upload) {
	delete(u.byID, up.id)
	u.byTime.Remove(up.place)
	u.pending -= len(up.chunks)
}

// oldest returns the upload that has waited longest, nil if there is none.
func (u *uploads) oldest() *upload {
	if e := u.byTime.Front(); e != nil {
		return e.Value.(*upload)
	}
	return nil
}

// chunk applies a Chunk.
func (m *machine) chunk(c *Chunk) error {
	if len(c.Data) == 0 || len(c.Data) > ChunkSize || c.N >= MaxChunks {
		return covey.Errorf(covey.Invalid, "chunk %d of %d octets", c.N, len(c.Data))
	}
	m.tick(c.Time)
	if up := m.uploads.byID[c.Upload]; up != nil {
		if _, ok := up.chunks[c.N]; ok {
			return nil
		}
	}
	if m.uploads.pending >= maxPending {
		return covey.Errorf(covey.Limit, "%d chunks wait for their messages", m.uploads.pending)
	}
	e := m.tail(len(c.Data), c.Sum)
	m.t.addChunk(m.uploads.add(c.Upload, c.N, e, m.meta.clock), c.N, e)
	return nil
}

// tail returns where the last n octets of the command being applied lie.
func (m *machine) tail(n int, sum uint32) seglog.Extent {
	p := m.entry.Place
	return seglog.Extent{Segment: p.Segment, Offset: p.Offset + uint32(len(m.entry.Data)-n), Length: uint32(n), Sum: sum}
}

func (m *machine) dropUpload(id covey.DeliveryID) {
	if up := m.uploads.byID[id]; up != nil {
		m.uploads.drop(up)
		m.t.dropUpload(up)
	}
}

func (m *machine) expireUploads() {
	for up := m.uploads.oldest(); up != nil && up.last+uploadFor < m.meta.clock; up = m.uploads.oldest() {
		m.dropUpload(up.id)
	}
}

// body checks that the bytes of a body are all there and returns where. The
// result is valid until the next call.
func (m *machine) body(b *Body) ([]seglog.Extent, error) {
	if b.Chunks == 0 {
		if int64(len(b.Inline)) != b.Size || len(b.Inline) > ChunkSize {
			return nil, covey.Errorf(covey.Invalid, "body of %d octets comes with %d", b.Size, len(b.Inline))
		}
		m.extent[0] = m.tail(len(b.Inline), b.Sum)
		return m.extent[:min(1, len(b.Inline))], nil
	}
	up := m.uploads.byID[b.Upload]
	if up == nil || len(b.Inline) > 0 || int(b.Chunks) > len(up.chunks) {
		return nil, covey.Errorf(covey.Invalid, "body in %d chunks of %s, which are not there", b.Chunks, b.Upload)
	}
	var size int64
	list := make([]seglog.Extent, b.Chunks)
	for n := range list {
		e, ok := up.chunks[uint32(n)]
		if !ok {
			return nil, covey.Errorf(covey.Invalid, "chunk %d of %s is not there", n, b.Upload)
		}
		list[n] = e
		size += int64(e.Length)
	}
	if size != b.Size {
		return nil, covey.Errorf(covey.Invalid, "body of %d octets comes with %d", b.Size, size)
	}
	return list, nil
}
