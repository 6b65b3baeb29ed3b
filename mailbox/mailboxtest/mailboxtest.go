// Package mailboxtest gives tests a working mailbox.Service without Raft, disk
// or clock: shards in memory, to which a command is applied the moment it is
// proposed.
package mailboxtest

import (
	"context"
	"hash/crc32"
	"sync"
	"testing"
	"time"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/mailbox"
	"github.com/covey-mail/covey/storage"
	"github.com/covey-mail/covey/storage/seglog"
)

// A Cluster is mailbox shards in memory; it implements mailbox.Shards. It is
// safe for concurrent use.
type Cluster struct {
	Service *mailbox.Service

	mu     sync.Mutex // guards the following fields
	states map[covey.ShardID]storage.State
	index  uint64
	log    []byte // entries as a log would hold them; extents point into it
	fail   func(covey.ShardID, storage.Command) error
	lose   func(covey.ShardID, storage.Command) bool
	repair func(covey.ShardID, covey.BodyID) error
	now    time.Time
}

// New returns a cluster of shards 1 to n, closed when the test ends. Its clock
// starts at a fixed time and moves a second with each command.
func New(t testing.TB, n int) *Cluster {
	t.Helper()
	c := &Cluster{
		states: make(map[covey.ShardID]storage.State),
		now:    time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
	}
	c.Service = mailbox.New(mailbox.Config{
		Shards: c, Bodies: bodies{c}, Uploads: mailbox.NewSequence(1, 1), Now: c.Now, Repair: c.mend,
	})
	for id := covey.ShardID(1); id <= covey.ShardID(n); id++ {
		c.states[id] = storage.OpenMemory(storage.Config{
			Shard:   id,
			Changed: func(_ covey.AccountID, box covey.MailboxID) { c.Service.Changed(id, box) },
		})
	}
	t.Cleanup(func() {
		for _, s := range c.states {
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		}
	})
	return c
}

// Now is the cluster's clock.
func (c *Cluster) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

// Advance moves the clock.
func (c *Cluster) Advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// Fail makes fn decide, from now on, whether a command is refused before it is
// applied; nil lets all pass.
func (c *Cluster) Fail(fn func(covey.ShardID, storage.Command) error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.fail = fn
}

// Lose makes fn decide, from now on, whether the result of a command that was
// applied is lost on its way back; nil lets all arrive.
func (c *Cluster) Lose(fn func(covey.ShardID, storage.Command) bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lose = fn
}

// Propose implements mailbox.Shards.
func (c *Cluster) Propose(ctx context.Context, id covey.ShardID, cmd storage.Command) (*storage.Result, error) {
	if err := ctx.Err(); err != nil {
		return nil, covey.Errorf(covey.Unknown, "propose: %w", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	st, ok := c.states[id]
	if !ok {
		return nil, covey.Errorf(covey.Unavailable, "no shard %d", id)
	}
	if c.fail != nil {
		if err := c.fail(id, cmd); err != nil {
			return nil, err
		}
	}
	c.index++
	c.now = c.now.Add(time.Second)
	data := storage.Encode(cmd)
	at := seglog.Extent{Segment: 1, Offset: uint32(len(c.log)), Length: uint32(len(data))}
	c.log = append(c.log, data...)
	res := st.Apply([]seglog.Command{{Index: c.index, Data: data, Place: at}})[0].(*storage.Result)
	if c.lose != nil && c.lose(id, cmd) {
		return nil, covey.Errorf(covey.Unknown, "the result of a command for shard %d was lost", id)
	}
	return res, res.Err
}

// Read implements mailbox.Shards.
func (c *Cluster) Read(_ context.Context, id covey.ShardID) (storage.Reader, error) {
	return c.Local(id)
}

// Local implements mailbox.Shards.
func (c *Cluster) Local(id covey.ShardID) (storage.Reader, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	st, ok := c.states[id]
	if !ok {
		return nil, covey.Errorf(covey.Unavailable, "no shard %d", id)
	}
	return st, nil
}

// Repair makes fn repair bodies from now on.
func (c *Cluster) Repair(fn func(covey.ShardID, covey.BodyID) error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.repair = fn
}

func (c *Cluster) mend(_ context.Context, id covey.ShardID, body covey.BodyID) error {
	c.mu.Lock()
	fn := c.repair
	c.mu.Unlock()
	if fn == nil {
		return covey.Errorf(covey.Unavailable, "no other replica of shard %d", id)
	}
	return fn(id, body)
}

// Damage changes a byte of what lies at e, so that its checksum no longer holds;
// a second time it holds again.
func (c *Cluster) Damage(e seglog.Extent) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.log[e.Offset] ^= 1
}

// bodies is mailbox.Bodies over what a cluster was given.
type bodies struct{ c *Cluster }

// Read implements mailbox.Bodies.
func (b bodies) Read(e seglog.Extent, p []byte) error {
	c := b.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if e.Segment != 1 || int(e.Offset)+len(p) > len(c.log) {
		return covey.Errorf(covey.NotFound, "no segment %d", e.Segment)
	}
	copy(p, c.log[e.Offset:])
	if e.Sum != 0 && crc32.Checksum(p, crc32.MakeTable(crc32.Castagnoli)) != e.Sum {
		return covey.Errorf(covey.Corrupt, "checksum of %+v", e)
	}
	return nil
}
