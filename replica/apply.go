package replica

import (
	"errors"
	"fmt"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/internal/mutant"
	"github.com/covey-mail/covey/storage/seglog"
)

// A work is something for the goroutine that owns a group's state machine:
// committed entries, or one of the others.
type work struct {
	entries    []*raftpb.Entry
	responses  []*raftpb.Message // for the core, once they are applied
	checkpoint func(error)       // told the outcome
	confIndex  uint64            // the entry that brought the membership: of entries, or that a copy is to have
	conf       *raftpb.ConfState // with entries that changed it
	offer      bool              // a copy for followers is wanted
	close      *offer            // one that is not
	install    *installation
	leave      bool // the group is gone: the last work
}

// applied tells the loop that entries are applied.
type applied struct {
	group     *group
	responses []*raftpb.Message
}

func (applied) drop(*loop) {}

func (a applied) handle(l *loop) {
	for _, m := range a.responses {
		l.step(a.group, m)
	}
	a.group.changeApplied()
	l.elect(a.group)
}

// handToApply queues committed entries for the state machine. The core bounds
// how many bytes can be under way. Entries behind a membership change wait until
// that membership is on disk: a state ahead of it would have the change repeated
// at the next start.
func (l *loop) handToApply(g *group, m *raftpb.Message) {
	w := work{entries: m.GetEntries(), responses: m.GetResponses()}
	changed := false
	for _, e := range w.entries {
		if e.GetType() != raftpb.EntryNormal {
			l.applyChange(g, e)
			changed = true
		}
	}
	if changed {
		w.conf, w.confIndex = g.conf, g.confIndex
	}
	l.h.metrics.applyQueue.Add(float64(len(w.entries)))
	if changed || g.holding > 0 {
		g.holding++
		l.gather.works = append(l.gather.works, heldWork{g, w})
		return
	}
	g.work.put(w)
}

// applyAll works off the group's queue until it is closed. It is the goroutine
// that owns the state machine.
func (g *group) applyAll() {
	var items []work
	for {
		var open bool
		items, open = g.work.take(items)
		for _, w := range items {
			g.do(w)
		}
		if len(items) > 0 {
			continue
		}
		if !open {
			return
		}
		<-g.work.wake
	}
}

func (g *group) do(w work) {
	g.h.metrics.applyQueue.Sub(float64(len(w.entries)))
	switch {
	case w.leave:
		g.leave()
		return
	case w.close != nil:
		g.closeCopy(w.close)
		return
	}
	if err := g.fault(); err != nil {
		if w.checkpoint != nil {
			w.checkpoint(covey.Errorf(covey.Unavailable, "shard %d has stopped: %w", g.id, err))
		}
		g.forgo(w, err)
		return
	}
	switch {
	case w.checkpoint != nil:
		w.checkpoint(g.checkpoint())
	case w.offer:
		g.offer(w.confIndex)
	case w.install != nil:
		if err := g.install(w.install); err == nil {
			g.h.events.put(installed{g})
		} else if !errors.Is(err, errStopping) {
			g.fail(err)
		}
	default:
		if err := g.apply(w.entries); err != nil {
			g.fail(err)
			return
		}
		if w.conf != nil {
			g.applyConf, g.applyConfIndex = w.conf, w.confIndex
		}
		g.h.events.put(applied{g, w.responses})
	}
}

// forgo gives up a work of a group that has stopped.
func (g *group) forgo(w work, reason error) {
	switch {
	case w.offer:
		g.h.offers.open.Add(-1)
		g.h.events.put(opened{g, nil, reason})
	case w.install != nil:
		if err := w.install.restorer.Abort(); err != nil {
			g.out.Warn("abort copy", "error", err)
		}
	}
}

// apply applies committed entries and answers those who wait for them. The
// group's mutex is not held while the state machine works.
func (g *group) apply(entries []*raftpb.Entry) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = asFault(g.id, fmt.Sprintf("apply entries %d to %d", entries[0].GetIndex(), entries[len(entries)-1].GetIndex()), v)
		}
	}()
	began := time.Now()
	commands, nonces, err := g.commands(entries)
	if err != nil {
		return err
	}
	results, err := g.run(commands)
	if errors.Is(err, covey.DiskFull) {
		results, err = g.recover(err, commands)
	}
	if err != nil {
		return err
	}
	if len(results) != len(commands) {
		return covey.Errorf(covey.Internal, "%d commands gave %d results", len(commands), len(results))
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	for i, nonce := range nonces {
		if p := g.waiting[nonce]; p != nil && nonce != 0 {
			g.answerLocked(p, results[i], nil)
		}
	}
	g.appliedLocked(entries[len(entries)-1].GetIndex())
	g.wakeReadersLocked()
	g.h.metrics.applySeconds.Observe(time.Since(began).Seconds())
	return nil
}

// run has the state machine apply commands. An error it panics with is returned.
func (g *group) run(commands []seglog.Command) (results []any, err error) {
	if len(commands) == 0 {
		return nil, nil
	}
	defer func() {
		if v := recover(); v != nil {
			if err, _ = v.(error); err == nil {
				panic(v)
			}
		}
	}()
	return g.sm.Apply(commands), nil
}

// recover has the state machine go on when it found no room on the disk: what
// it had not made durable comes from the log again, then commands, whose results
// are returned. Stopping the group instead would outlast the full disk.
func (g *group) recover(cause error, commands []seglog.Command) (results []any, err error) {
	g.out.Error("no room for the state: it goes on in memory", "error", cause)
	g.mu.Lock()
	last := g.applied
	g.mu.Unlock()
	err = g.sm.Recover(func(after uint64, apply func([]seglog.Command) []any) error {
		if err := g.replay(after, last, apply); err != nil {
			return err
		}
		if len(commands) > 0 {
			results = apply(commands)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("recover: %w", err)
	}
	return results, nil
}

// replay applies the log's entries above after, up to last. They are all there:
// the log keeps what is above the last checkpoint.
func (g *group) replay(after, last uint64, apply func([]seglog.Command) []any) error {
	after = max(after, g.covered)
	for after < last {
		entries, err := g.log.Entries(after+1, last+1, maxMessageBytes)
		if err != nil {
			return fmt.Errorf("entries from %d: %w", after+1, err)
		}
		commands, _, err := g.commands(entries)
		if err != nil {
			return err
		}
		if len(commands) > 0 {
			apply(commands)
		}
		after += uint64(len(entries))
	}
	return nil
}

// commands unwraps entries. The nonce is 0 where another node proposed.
func (g *group) commands(entries []*raftpb.Entry) ([]seglog.Command, []uint64, error) {
	commands := make([]seglog.Command, 0, len(entries))
	nonces := make([]uint64, 0, len(entries))
	bytes := int64(0)
	for _, e := range entries {
		if e.GetType() != raftpb.EntryNormal || len(e.GetData()) == 0 {
			continue
		}
		node, nonce, cmd, err := splitFrame(e.GetData())
		if err != nil {
			return nil, nil, fmt.Errorf("entry %d: %w", e.GetIndex(), err)
		}
		if mutant.Is(mutant.SkipCommand) && node != g.h.cfg.Node && e.GetIndex()%50 == 0 {
			continue
		}
		place, err := g.h.cfg.Log.Place(g.id, e.GetIndex())
		if err != nil {
			return nil, nil, fmt.Errorf("place of entry %d: %w", e.GetIndex(), err)
		}
		place.Offset += frameSize
		place.Length -= frameSize
		place.Sum = 0
		if node != g.h.cfg.Node {
			nonce = 0
		}
		commands = append(commands, seglog.Command{Index: e.GetIndex(), Data: cmd, Place: place})
		nonces = append(nonces, nonce)
		bytes += int64(len(e.GetData()))
	}
	g.sinceCheckpoint.Add(bytes)
	return commands, nonces, nil
}

// checkpoint makes the state durable and tells the log what it need not keep.
func (g *group) checkpoint() (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = asFault(g.id, "checkpoint", v)
			g.fail(err)
		}
		outcome := "done"
		if err != nil {
			outcome = "failed"
		}
		g.h.metrics.checkpoints.WithLabelValues(outcome).Inc()
	}()
	g.sinceCheckpoint.Store(0)
	index, err := g.sm.Checkpoint()
	if err != nil {
		// Due again, at the next turn of this group.
		g.sinceCheckpoint.Add(1)
		if errors.Is(err, covey.DiskFull) {
			if _, rerr := g.recover(err, nil); rerr != nil {
				g.fail(rerr)
			}
		}
		return fmt.Errorf("checkpoint shard %d: %w", g.id, err)
	}
	g.h.cfg.Log.Applied(g.id, g.pinned(index))
	return nil
}

func (g *group) closeMachine() (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = asFault(g.id, "close", v)
		}
	}()
	g.closed = true
	for len(g.copies) > 0 {
		g.closeCopy(g.copies[0])
	}
	if err := g.sm.Close(); err != nil {
		return fmt.Errorf("close shard %d: %w", g.id, err)
	}
	return nil
}
