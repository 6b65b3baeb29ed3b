package storage

import (
	"cmp"
	"slices"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/storage/seglog"
)

// A Placer tells and changes where a shard's bodies lie in its node's log. None
// of it is replicated, or part of the running hash. Its methods may be called by
// any number of goroutines.
type Placer interface {
	// Live returns what bodies and pending chunks of this shard take of each
	// segment; segments with nothing are left out. The map is the caller's.
	Live() (map[uint64]Usage, error)

	// Residents returns the bodies and pending chunks that have bytes in a
	// segment, in an order that does not change, from the first after one
	// returned before (zero: from the start), at most most.
	Residents(segment uint64, after Resident, most int) ([]Resident, error)

	// Move replaces where bodies and chunks lie. One that is gone or lies
	// elsewhere than Resident.Extents says is left as it is. The change survives
	// a crash once a Checkpoint after it has returned; until then either place
	// may come back.
	Move([]Move) error
}

// Usage is what is live in a segment.
type Usage struct {
	Bytes   int64
	Extents int64 // how many runs of bytes these are
}

// A usage map is what is live per segment. It holds no zero Usage.
type usage map[uint64]Usage

// count adds sign times an extent.
func (u usage) count(e seglog.Extent, sign int64) {
	n := u[e.Segment]
	n.Bytes += sign * int64(e.Length)
	n.Extents += sign
	if n == (Usage{}) {
		delete(u, e.Segment)
		return
	}
	u[e.Segment] = n
}

// A Resident is a body, or a chunk that no message has taken yet.
type Resident struct {
	Body    covey.BodyID // 0: a chunk
	Upload  covey.DeliveryID
	N       uint32
	Extents []seglog.Extent // all of it, in order
}

// A Move says where a resident lies from now on.
type Move struct {
	Resident
	To []seglog.Extent // all of it, in order
}

func compareChunks(a, b Resident) int {
	return cmp.Or(
		cmp.Compare(a.Upload.Node, b.Upload.Node), cmp.Compare(a.Upload.Boot, b.Upload.Boot),
		cmp.Compare(a.Upload.Seq, b.Upload.Seq), cmp.Compare(a.N, b.N))
}

// indexSegment returns the first of list that lies in a segment, or -1.
func indexSegment(list []seglog.Extent, segment uint64) int {
	return slices.IndexFunc(list, func(e seglog.Extent) bool { return e.Segment == segment })
}

// Live implements Placer.
func (s *shard) Live() (map[uint64]Usage, error) {
	var out map[uint64]Usage
	err := s.read(func() error {
		out = s.m.t.live()
		return nil
	})
	return out, err
}

// Residents implements Placer.
func (s *shard) Residents(segment uint64, after Resident, most int) ([]Resident, error) {
	var list []Resident
	err := s.read(func() error {
		if after.Body > 0 || after.Upload == (covey.DeliveryID{}) {
			for _, id := range s.m.t.residents(segment, after.Body, most) {
				extents, _ := s.m.t.extents(id)
				list = append(list, Resident{Body: id, Extents: extents})
			}
			after = Resident{}
		}
		if len(list) < most {
			chunks := s.m.uploads.in(segment, after)
			list = append(list, chunks[:min(len(chunks), most-len(list))]...)
		}
		return nil
	})
	return list, err
}

// in returns the chunks in a segment that come after one.
func (u *uploads) in(segment uint64, after Resident) []Resident {
	var list []Resident
	for id, up := range u.byID {
		for n, e := range up.chunks {
			r := Resident{Upload: id, N: n, Extents: []seglog.Extent{e}}
			if e.Segment == segment && (after.Upload == covey.DeliveryID{} || compareChunks(r, after) > 0) {
				list = append(list, r)
			}
		}
	}
	slices.SortFunc(list, compareChunks)
	return list
}

// Move implements Placer.
func (s *shard) Move(moves []Move) error {
	return s.read(func() error {
		for _, mv := range moves {
			if mv.Body > 0 {
				if now, ok := s.m.t.extents(mv.Body); ok && slices.Equal(now, mv.Extents) {
					s.m.t.moveBody(mv.Body, mv.Extents, mv.To)
				}
				continue
			}
			up := s.m.uploads.byID[mv.Upload]
			if up == nil || len(mv.To) != 1 || !slices.Equal(mv.Extents, []seglog.Extent{up.chunks[mv.N]}) {
				continue
			}
			up.chunks[mv.N] = mv.To[0]
			s.m.t.moveChunk(up, mv.N, mv.Extents[0], mv.To[0])
		}
		return nil
	})
}
