package storage

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"time"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/storage/seglog"
)

// A Compactor gives back the room that deleted messages take in the node's log.
// Of a segment that is mostly dead it copies the live bodies forward, tells the
// shards where these are now, and removes the segment.
//
// A crash at any moment loses nothing: copies are on stable storage before a
// shard hears of them, and a segment goes only after every shard has an fsynced
// checkpoint in which nothing points into it.
type Compactor struct {
	cfg     CompactorConfig
	metrics *CompactorMetrics
	shards  map[covey.ShardID]Placer // when it was last looked at what is live
	damaged map[uint64]Usage         // segments with bodies that cannot be copied, and what was live in them then
}

// A CompactorConfig says what to compact. Log, Shards and Checkpoint are
// required.
type CompactorConfig struct {
	Log *seglog.Log

	// Shards returns those whose bodies are in Log: all of them. It is asked
	// before each decision, since one that comes while a pass is under way may
	// have bodies in a segment that was being written when the pass began. The map
	// is the Compactor's.
	Shards func() map[covey.ShardID]Placer

	// Damaged is told of each body that could not be copied because it is
	// damaged; see Repair. It must not block. Nil: it is only logged.
	Damaged func(covey.ShardID, covey.BodyID)

	// Checkpoint makes a group's state durable and tells Log so; it is called for
	// every group that Log knows.
	Checkpoint func(context.Context, covey.ShardID) error

	// Tick starts a pass each time it delivers. Required by Run only.
	Tick <-chan time.Time

	// PassBytes bounds what one pass copies; the segment under way is finished.
	// 0: 256 MiB.
	PassBytes int64

	Metrics *CompactorMetrics // nil: not reported
	Logger  *slog.Logger      // nil: silent
}

const (
	// extentOverhead is what a body costs in the log beside its bytes once it was
	// copied. Without it a segment of small bodies would look half dead for ever.
	extentOverhead = 48

	// moveBytes and moveBodies bound what is copied between two looks at a shard.
	moveBytes  = 4 << 20
	moveBodies = 1024
)

// NewCompactor returns a Compactor that has not begun.
func NewCompactor(cfg CompactorConfig) (*Compactor, error) {
	if cfg.Log == nil || cfg.Shards == nil || cfg.Checkpoint == nil {
		return nil, covey.Errorf(covey.Invalid, "compactor without a log, shards or checkpoints")
	}
	if cfg.PassBytes <= 0 {
		cfg.PassBytes = 256 << 20
	}
	if cfg.Metrics == nil {
		cfg.Metrics = NewCompactorMetrics()
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Damaged == nil {
		cfg.Damaged = func(covey.ShardID, covey.BodyID) {}
	}
	cfg.Logger = cfg.Logger.With("component", "compactor")
	return &Compactor{cfg: cfg, metrics: cfg.Metrics, damaged: map[uint64]Usage{}}, nil
}

// Run makes a pass at each tick until ctx ends, and returns nil then. A pass
// that fails is logged, and tried again at the next tick: a full disk may have
// room by then. It returns the reason when the log has failed for good.
func (c *Compactor) Run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-c.cfg.Tick:
		}
		err := c.Pass(ctx)
		if logErr := c.cfg.Log.Err(); logErr != nil {
			return fmt.Errorf("compact: %w", logErr)
		}
		if err != nil && ctx.Err() == nil {
			c.cfg.Logger.Warn("compaction did not finish", "error", err)
		}
	}
}

// Pass compacts what is worth it now. It blocks on the disk; when ctx ends it
// stops between two batches and returns ctx's error. It is not to be called
// beside itself or Run.
func (c *Compactor) Pass(ctx context.Context) error {
	list, err := c.candidates()
	if err != nil || len(list) == 0 {
		return err
	}
	if slices.ContainsFunc(list, func(s candidate) bool { return s.Needed }) {
		// Perhaps only for want of a checkpoint.
		if err := c.checkpoint(ctx); err != nil {
			return err
		}
		if list, err = c.candidates(); err != nil {
			return err
		}
	}
	list = slices.DeleteFunc(list, func(s candidate) bool { return s.Needed })
	if len(list) == 0 {
		return nil
	}
	if list, err = c.evacuate(ctx, list); err != nil {
		return err
	}
	return c.remove(ctx, list)
}

// A candidate is a sealed segment that is mostly dead.
type candidate struct {
	seglog.SegmentInfo
	live Usage
}

// cost returns what the live bodies would take once copied.
func (s candidate) cost() int64 { return s.live.Bytes + s.live.Extents*extentOverhead }

// candidates returns the segments worth compacting, those that give back the
// most for what they cost first.
func (c *Compactor) candidates() ([]candidate, error) {
	live, err := c.live()
	if err != nil {
		return nil, err
	}
	var list []candidate
	var disk, used int64
	for _, info := range c.cfg.Log.Segments() {
		s := candidate{info, live[info.Number]}
		disk += s.Size
		used += s.live.Bytes
		if s.Sealed && !s.Held && !c.givenUp(s) && 2*s.cost() < s.Size {
			list = append(list, s)
		}
	}
	c.metrics.LogBytes.Set(float64(disk))
	c.metrics.LiveBytes.Set(float64(used))
	slices.SortStableFunc(list, func(a, b candidate) int {
		return cmp.Compare(float64(a.cost())/float64(a.Size), float64(b.cost())/float64(b.Size))
	})
	return list, nil
}

// givenUp reports whether a segment has damaged bodies. When something in it has
// changed since they were met, it is worth another try: they may be repaired.
func (c *Compactor) givenUp(s candidate) bool {
	was, met := c.damaged[s.Number]
	return met && was == s.live
}

// live adds up what all shards have in each segment.
func (c *Compactor) live() (map[uint64]Usage, error) {
	c.shards = c.cfg.Shards()
	sum := map[uint64]Usage{}
	for id, shard := range c.shards {
		one, err := shard.Live()
		if err != nil {
			return nil, fmt.Errorf("live bytes of shard %d: %w", id, err)
		}
		for segment, n := range one {
			t := sum[segment]
			sum[segment] = Usage{t.Bytes + n.Bytes, t.Extents + n.Extents}
		}
	}
	return sum, nil
}

// evacuate copies the live bodies of segments forward, as many as a pass may,
// and returns those segments that it got through.
func (c *Compactor) evacuate(ctx context.Context, list []candidate) ([]candidate, error) {
	left := c.cfg.PassBytes
	for i, s := range list {
		if left <= 0 {
			return list[:i], nil
		}
		for _, id := range slices.Sorted(maps.Keys(c.shards)) {
			n, err := c.moveOut(ctx, id, s.Number)
			if err != nil {
				return nil, fmt.Errorf("compact segment %d of shard %d: %w", s.Number, id, err)
			}
			left -= n
		}
	}
	return list, nil
}

// moveOut moves one shard's bodies out of a segment and returns how many bytes
// it copied.
func (c *Compactor) moveOut(ctx context.Context, id covey.ShardID, segment uint64) (int64, error) {
	var after Resident
	var copied int64
	for {
		if err := ctx.Err(); err != nil {
			return copied, err
		}
		list, err := c.shards[id].Residents(segment, after, moveBodies)
		if err != nil || len(list) == 0 {
			return copied, err
		}
		list = list[:batch(list, segment)]
		after = list[len(list)-1]
		n, err := c.move(id, segment, list)
		if err != nil {
			return copied, err
		}
		copied += n
	}
}

// batch returns how many of the residents to copy at once, at least one.
func batch(list []Resident, segment uint64) int {
	var size int64
	for i, r := range list {
		for _, e := range r.Extents {
			if e.Segment == segment {
				size += int64(e.Length)
			}
		}
		if size > moveBytes && i > 0 {
			return i
		}
	}
	return len(list)
}

// move copies what residents have in a segment and tells the shard.
func (c *Compactor) move(id covey.ShardID, segment uint64, list []Resident) (int64, error) {
	var from []seglog.Extent
	var size int64
	for _, r := range list {
		for _, e := range r.Extents {
			if e.Segment == segment {
				from = append(from, e)
				size += int64(e.Length)
			}
		}
	}
	to, err := c.cfg.Log.CopyBodies(from)
	if errors.Is(err, covey.Corrupt) {
		return c.moveSound(id, segment, list, err)
	}
	if err != nil {
		return 0, err
	}
	moves := make([]Move, len(list))
	for i, r := range list {
		moves[i] = Move{Resident: r, To: slices.Clone(r.Extents)}
		for j := range r.Extents {
			if r.Extents[j].Segment == segment {
				moves[i].To[j], to = to[0], to[1:]
			}
		}
	}
	c.metrics.Moved.Add(float64(size))
	return size, c.shards[id].Move(moves)
}

// moveSound moves residents one by one, because at least one of them is damaged.
// A damaged one stays, and with it the segment, until it is repaired.
func (c *Compactor) moveSound(id covey.ShardID, segment uint64, list []Resident, err error) (int64, error) {
	if len(list) == 1 {
		r := list[0]
		c.cfg.Logger.Error("a body is damaged; its segment is kept", "shard", uint32(id), "body", r.String(), "segment", segment, "error", err)
		c.damaged[segment] = Usage{} // dead says what stays
		if r.Body > 0 {
			c.cfg.Damaged(id, r.Body)
		}
		return 0, nil
	}
	var copied int64
	for _, r := range list {
		n, err := c.move(id, segment, []Resident{r})
		if err != nil {
			return copied, err
		}
		copied += n
	}
	return copied, nil
}

// checkpoint makes the state of every group in the log durable.
func (c *Compactor) checkpoint(ctx context.Context) error {
	for _, id := range c.cfg.Log.Groups() {
		if err := c.cfg.Checkpoint(ctx, id); err != nil {
			return fmt.Errorf("checkpoint group %d: %w", id, err)
		}
	}
	return nil
}

// remove removes the segments that nothing points into. Nothing did before the
// checkpoint, which therefore made it durable; and nothing does after it, so no
// command that was not in it has changed that. One that comes later is above
// Applied, and the log refuses.
func (c *Compactor) remove(ctx context.Context, list []candidate) error {
	list, err := c.dead(list)
	if err != nil || len(list) == 0 {
		return err
	}
	if err := c.checkpoint(ctx); err != nil {
		return err
	}
	if list, err = c.dead(list); err != nil {
		return err
	}
	for _, s := range list {
		err := c.cfg.Log.Remove(s.Number)
		if errors.Is(err, covey.InUse) {
			continue
		}
		if err != nil {
			return err
		}
		c.metrics.Removed.Inc()
		c.cfg.Logger.Info("removed a segment", "segment", s.Number, "bytes", s.Size, "moved", s.live.Bytes)
	}
	return nil
}

// dead returns those of list that nothing points into.
func (c *Compactor) dead(list []candidate) ([]candidate, error) {
	live, err := c.live()
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(list, func(s candidate) bool {
		left := live[s.Number]
		if _, met := c.damaged[s.Number]; met {
			c.damaged[s.Number] = left
		}
		if left == (Usage{}) {
			delete(c.damaged, s.Number)
		}
		return left != Usage{}
	}), nil
}
