package mailbox

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/storage"
	"github.com/covey-mail/covey/storage/seglog"
)

// Content is the bytes of one message: an io.ReaderAt over its prefix and body
// that reads and verifies one run of the log at a time, at most
// storage.ChunkSize bytes: into the caller's buffer if the run fits there, else
// into one of its own. It is for one goroutine; nothing needs closing.
type Content struct {
	s      *Service
	shard  covey.ShardID
	id     covey.BodyID
	prefix []byte
	size   int64
	runs   []run
	have   int    // index in runs of what buf holds, -1: nothing
	buf    []byte // verified bytes
}

// run is one extent and where in the message it starts.
type run struct {
	start int64
	at    seglog.Extent
}

// Content opens the bytes of a message of the view's mailbox. Where they lie is
// looked up unless m has its Extents.
func (v *View) Content(ctx context.Context, m *storage.Message) (*Content, error) {
	c := &Content{s: v.a.s, shard: v.at.shard, id: m.Body, prefix: m.Prefix, size: m.Size, have: -1}
	if m.Extents != nil {
		return c, c.lie(m.Extents)
	}
	return c, c.locate(ctx)
}

// locate looks up where the body lies now.
func (c *Content) locate(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	r, err := c.s.cfg.Shards.Local(c.shard)
	if err != nil {
		return err
	}
	extents, err := r.Body(c.id)
	if err != nil {
		return err
	}
	return c.lie(extents)
}

// lie takes in where the body lies.
func (c *Content) lie(extents []seglog.Extent) error {
	c.runs, c.have = c.runs[:0], -1
	at := int64(len(c.prefix))
	for _, e := range extents {
		c.runs = append(c.runs, run{at, e})
		at += int64(e.Length)
	}
	if at != c.size {
		return covey.Errorf(covey.Corrupt, "body %d of shard %d: %d bytes stored, %d expected", c.id, c.shard, at, c.size)
	}
	return nil
}

// Size returns the length of the message in bytes.
func (c *Content) Size() int64 { return c.size }

// ReadAt implements io.ReaderAt. Bytes that do not match their checksum, or are
// gone, are repaired from another replica; if that fails they are covey.Corrupt,
// or covey.Unavailable, and are not returned.
func (c *Content) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 || off >= c.size {
		return 0, io.EOF
	}
	n := 0
	if off < int64(len(c.prefix)) {
		n = copy(p, c.prefix[off:])
	}
	for tries, repaired := 0, false; n < len(p) && off+int64(n) < c.size; {
		got, err := c.readRun(p[n:], off+int64(n))
		n += got
		if errors.Is(err, covey.NotFound) { // compaction moved it: look it up again
			if tries++; tries < maxTries {
				err = c.locate(context.Background())
			} else {
				err = covey.Errorf(covey.Unavailable, "body %d of shard %d keeps moving, or is gone", c.id, c.shard)
			}
		}
		if (errors.Is(err, covey.Corrupt) || tries == maxTries) && !repaired {
			tries, repaired = 0, true
			err = c.repair(err)
		}
		if err != nil {
			return n, err
		}
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// repair has the body repaired because of why, and looks up where it lies then.
func (c *Content) repair(why error) error {
	if c.s.cfg.Repair == nil {
		return why
	}
	ctx := context.Background() // io.ReaderAt has none; Repair takes a bounded time
	if err := c.s.cfg.Repair(ctx, c.shard, c.id); err != nil {
		return fmt.Errorf("%w (repair: %v)", why, err)
	}
	return c.locate(ctx)
}

// maxTries is how often a run is looked for that is not where it was.
const maxTries = 4

// runAt returns the index of the run that holds offset at, which is past the
// prefix and before the end.
func (c *Content) runAt(at int64) int {
	for i := len(c.runs) - 1; ; i-- {
		if c.runs[i].start <= at && c.runs[i].at.Length > 0 {
			return i
		}
	}
}

// readRun reads from the run that holds offset at, up to its end or that of p.
func (c *Content) readRun(p []byte, at int64) (int, error) {
	i := c.runAt(at)
	r := c.runs[i]
	if c.have != i && at == r.start && len(p) >= int(r.at.Length) {
		p = p[:r.at.Length]
		if err := c.s.cfg.Bodies.Read(r.at, p); err != nil {
			clear(p) // nothing that was not verified
			return 0, err
		}
		return len(p), nil
	}
	if c.have != i {
		if cap(c.buf) < int(r.at.Length) {
			c.buf = make([]byte, r.at.Length)
		}
		c.buf, c.have = c.buf[:r.at.Length], -1
		if err := c.s.cfg.Bodies.Read(r.at, c.buf); err != nil {
			return 0, err
		}
		c.have = i
	}
	return copy(p, c.buf[at-r.start:]), nil
}
