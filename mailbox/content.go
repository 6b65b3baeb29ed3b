package mailbox

import (
	"context"
	"errors"
	"io"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/storage"
	"github.com/covey-mail/covey/storage/seglog"
)

// Content is the bytes of one message: an io.ReaderAt over its prefix and body
// that reads and verifies one run of the log at a time, at most
// storage.ChunkSize bytes. It is for one goroutine; nothing needs closing.
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

// Content opens the bytes of a message of the view's mailbox.
func (v *View) Content(ctx context.Context, m *storage.Message) (*Content, error) {
	c := &Content{s: v.a.s, shard: v.at.shard, id: m.Body, prefix: m.Prefix, size: m.Size, have: -1}
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

// ReadAt implements io.ReaderAt. Bytes that do not match their checksum are
// covey.Corrupt and are not returned.
func (c *Content) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 || off >= c.size {
		return 0, io.EOF
	}
	n := 0
	if off < int64(len(c.prefix)) {
		n = copy(p, c.prefix[off:])
	}
	for n < len(p) && off+int64(n) < c.size {
		at := off + int64(n)
		i := c.runAt(at)
		if err := c.load(i); err != nil {
			return n, err
		}
		n += copy(p[n:], c.buf[at-c.runs[i].start:])
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// runAt returns the index of the run that holds offset at, which is past the
// prefix and before the end.
func (c *Content) runAt(at int64) int {
	for i := len(c.runs) - 1; ; i-- {
		if c.runs[i].start <= at && c.runs[i].at.Length > 0 {
			return i
		}
	}
}

// load reads run i into buf. A run that compaction moved meanwhile is looked up
// again.
func (c *Content) load(i int) error {
	const tries = 4
	for range tries {
		if c.have == i {
			return nil
		}
		e := c.runs[i].at
		if cap(c.buf) < int(e.Length) {
			c.buf = make([]byte, e.Length)
		}
		c.buf, c.have = c.buf[:e.Length], -1
		err := c.s.cfg.Bodies.Read(e, c.buf)
		if err == nil {
			c.have = i
			return nil
		}
		if !errors.Is(err, covey.NotFound) {
			return err
		}
		if err := c.locate(context.Background()); err != nil {
			return err
		}
	}
	return covey.Errorf(covey.Unavailable, "body %d of shard %d keeps moving", c.id, c.shard)
}
