package storage

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/storage/seglog"
)

// lookAgain is how often a body is looked up that compaction moves meanwhile.
const lookAgain = 4

// A BodyError says which body is damaged. CheckBodies returns it, wrapped in an
// error of kind covey.Corrupt.
type BodyError struct {
	Body covey.BodyID
	Err  error
}

// Error implements error.
func (e *BodyError) Error() string { return fmt.Sprintf("body %d: %v", e.Body, e.Err) }

// Unwrap returns the cause.
func (e *BodyError) Unwrap() error { return e.Err }

// A Part is one of those that a body consists of, and how it is known when it
// comes from elsewhere. Parts have at most ChunkSize bytes and are the same on
// each replica, but for where they lie.
type Part struct {
	Body   covey.BodyID
	N      int // from 0
	Length uint32
	Sum    uint32
}

// Matches reports whether b is the part.
func (p Part) Matches(b []byte) bool { return len(b) == int(p.Length) && checksum(b) == p.Sum }

// ReadPart returns part n of a body, for another replica whose own is damaged.
// NotFound: there is no such part, or no such body any more.
func ReadPart(state Reader, log BodyLog, id covey.BodyID, n int) ([]byte, error) {
	for range lookAgain {
		extents, err := state.Body(id)
		if err != nil {
			return nil, err
		}
		if n < 0 || n >= len(extents) {
			return nil, covey.Errorf(covey.NotFound, "part %d of body %d, which has %d", n, id, len(extents))
		}
		p := make([]byte, extents[n].Length)
		if err = log.Read(extents[n], p); err == nil {
			return p, nil
		}
		if !errors.Is(err, covey.NotFound) {
			return nil, fmt.Errorf("part %d of body %d: %w", n, id, err)
		}
	}
	return nil, covey.Errorf(covey.Unavailable, "body %d keeps moving", id)
}

// A Repair replaces damaged bodies of one shard by what other replicas have.
type Repair struct {
	State State
	Log   *seglog.Log // where the bodies of State are

	// Fetch returns a part as another replica has it. It is not believed: what it
	// returns must match.
	Fetch func(context.Context, Part) ([]byte, error)
}

// Body reads a body and replaces the parts that cannot be read, or do not match
// their checksums. It returns how many these were. NotFound: there is no such
// body here any more. Corrupt: what was fetched is not right either. It may run
// beside everything else.
//
// When it returns nil, the new parts are in the log, on stable storage; that they
// are used will survive a crash after the shard's next checkpoint.
func (r Repair) Body(ctx context.Context, id covey.BodyID) (int, error) {
	hold := r.Log.Hold()
	defer hold.Release() // the shard refers to them then
	var before []seglog.Extent
	for range lookAgain {
		now, err := r.State.Body(id)
		if err != nil {
			return 0, err
		}
		p := patient{id: id, extents: now, missing: slices.Equal(now, before), hold: hold}
		to, n, err := r.mend(ctx, p)
		if before = now; errors.Is(err, errMoved) {
			continue
		}
		if err != nil {
			return 0, fmt.Errorf("repair body %d: %w", id, err)
		}
		if n == 0 {
			return 0, nil
		}
		if err := r.State.Move([]Move{{Resident{Body: id, Extents: now}, to}}); err != nil {
			return 0, err
		}
		if is, err := r.State.Body(id); err != nil || slices.Equal(is, to) {
			return n, err
		}
	}
	return 0, covey.Errorf(covey.Unavailable, "repair body %d: it keeps moving", id)
}

// errMoved says that a body is not where it was found.
var errMoved = errors.New("moved")

// A patient is a body as it was found.
type patient struct {
	id      covey.BodyID
	extents []seglog.Extent
	missing bool // it was looked up twice: if its segment is gone, it is lost
	hold    *seglog.Hold
}

// mend returns where the body lies when its bad parts are replaced, and how many
// were.
func (r Repair) mend(ctx context.Context, p patient) (to []seglog.Extent, n int, err error) {
	to = slices.Clone(p.extents)
	for i, e := range p.extents {
		err := r.Log.Read(e, make([]byte, e.Length))
		switch {
		case err == nil:
			continue
		case errors.Is(err, covey.NotFound) && !p.missing:
			return nil, 0, errMoved
		case errors.Is(err, covey.Unavailable):
			return nil, 0, err
		}
		if to[i], err = r.replace(ctx, p, i); err != nil {
			return nil, 0, fmt.Errorf("part %d: %w", i, err)
		}
		n++
	}
	if n > 0 {
		err = r.Log.Write(&seglog.Batch{}, seglog.Synced)
	}
	return to, n, err
}

// replace fetches a part and puts it into the log.
func (r Repair) replace(ctx context.Context, p patient, part int) (seglog.Extent, error) {
	e := p.extents[part]
	want := Part{p.id, part, e.Length, e.Sum}
	b, err := r.Fetch(ctx, want)
	if errors.Is(err, covey.NotFound) { // which would say that the body is not here
		err = covey.Errorf(covey.Unavailable, "%v", err)
	}
	if err != nil {
		return e, err
	}
	if !want.Matches(b) {
		return e, covey.Errorf(covey.Corrupt, "%d octets that do not match the checksum", len(b))
	}
	places, err := p.hold.Append([][]byte{b})
	if err != nil {
		return e, err
	}
	return places[0], nil
}
