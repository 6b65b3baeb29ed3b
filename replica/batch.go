package replica

import (
	"errors"
	"time"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/internal/mutant"
	"github.com/covey-mail/covey/storage/seglog"
)

// A batch is what the groups want written together, and what may happen once it
// is.
type batch struct {
	records   seglog.Batch
	entries   int
	sync      seglog.Durability // has to be on stable storage before anything in it is promised
	responses []response        // to be delivered afterwards, in order
	works     []heldWork        // to be applied afterwards, in order
	err       error             // set by the writer
}

// A response is a message that the core wants delivered after a write.
type response struct {
	group   *group
	message *raftpb.Message
}

type heldWork struct {
	group *group
	work  work
}

func (b *batch) reset() {
	b.records.Reset()
	clear(b.responses)
	clear(b.works)
	b.entries, b.sync, b.responses, b.works, b.err = 0, seglog.Buffered, b.responses[:0], b.works[:0], nil
}

// gatherAppend takes a message to the append thread into the batch. A hard state
// that moves the commit index alone needs no write of its own: a replica that
// forgets it learns it again from the leader, or by being elected.
func (l *loop) gatherAppend(g *group, m *raftpb.Message, mustSync bool) {
	b := l.gather
	if len(m.GetEntries()) > 0 {
		b.records.Append(g.id, m.GetEntries())
		b.entries += len(m.GetEntries())
	}
	if m.Term != nil {
		g.hard = &raftpb.HardState{Term: m.Term, Vote: new(m.GetVote()), Commit: new(m.GetCommit())}
		if !g.hardMarked {
			g.hardMarked = true
			l.hard = append(l.hard, g)
		}
	}
	b.sync = b.sync || seglog.Durability(mustSync)
	for _, r := range m.GetResponses() {
		if mutant.Is(mutant.EarlyAppend) && r.GetTo() != uint64(l.h.cfg.Node) {
			l.post(g, r)
			continue
		}
		b.responses = append(b.responses, response{g, r})
	}
}

// submit gives the gathered batch to the writer if it is idle. A batch that
// needs no write is delivered on the spot, and submit returns true: the groups
// have to be looked at again.
func (l *loop) submit() bool {
	if l.writing {
		return false
	}
	b := l.gather
	if !b.sync && !(len(l.hard) > 0 && l.ticks-l.flushed >= flushTicks) {
		if len(b.responses) == 0 && len(b.works) == 0 {
			return false
		}
		// All they depend on was in earlier batches, which are written.
		l.gather, l.spare = l.spare, l.gather
		l.deliver(b)
		b.reset()
		return true
	}
	for _, g := range l.hard {
		b.records.HardState(g.id, g.hard)
		g.hardMarked = false
	}
	l.hard = l.hard[:0]
	l.gather, l.spare = l.spare, nil
	l.writing, l.since, l.flushed = true, l.ticks, l.ticks
	l.jobs <- b
	return false
}

// complete deals with a batch that is written.
func (l *loop) complete(b *batch) {
	l.writing = false
	l.release()
	l.deliver(b)
	b.reset()
	l.spare = b
}

// deliver does what had to wait for the batch.
func (l *loop) deliver(b *batch) {
	for _, r := range b.responses {
		if r.group.dead {
			continue
		}
		if r.message.GetTo() != uint64(l.h.cfg.Node) {
			l.post(r.group, r.message)
			continue
		}
		l.step(r.group, r.message)
		if mutant.Is(mutant.QuorumOfOne) && r.group.leads {
			l.assumeQuorum(r.group, r.message.GetIndex())
		}
	}
	for _, w := range b.works {
		w.group.holding--
		w.group.work.put(w.work)
	}
}

// assumeQuorum makes the core believe that every follower has what this leader has.
// Only a program with a planted bug does.
func (l *loop) assumeQuorum(g *group, index uint64) {
	for _, v := range g.conf.GetVoters() {
		if v != uint64(l.h.cfg.Node) {
			l.step(g, &raftpb.Message{
				Type: raftpb.MsgAppResp.Enum(), From: new(v), To: new(uint64(l.h.cfg.Node)), Term: new(g.term), Index: new(index),
			})
		}
	}
}

// step hands a message to the core.
func (l *loop) step(g *group, m *raftpb.Message) {
	l.guard(g, func() {
		if err := g.rn.Step(m); err != nil && !errors.Is(err, raft.ErrProposalDropped) {
			g.out.Debug("message ignored", "type", m.GetType().String(), "from", m.GetFrom(), "error", err)
		}
	})
	l.mark(g)
}

const (
	fullBackoff    = 100 * time.Millisecond
	maxFullBackoff = 2 * time.Second
)

// writeAll writes batches until jobs is closed. It is the writer's goroutine.
func (l *loop) writeAll(end <-chan struct{}) {
	for b := range l.jobs {
		m := l.h.metrics
		m.batchEntries.Observe(float64(b.entries))
		m.batchBytes.Observe(float64(b.records.Bytes()))
		began := time.Now()
		b.err = l.write(b, end)
		if b.sync && b.err == nil {
			m.syncSeconds.Observe(time.Since(began).Seconds())
		}
		l.written <- b
	}
}

// write writes one batch. A full disk is waited out: nothing of the batch is
// there, and new proposals are refused meanwhile.
func (l *loop) write(b *batch, end <-chan struct{}) error {
	log := l.h.cfg.Log
	err := log.Write(&b.records, b.sync)
	if mutant.Is(mutant.FullDisk) && covey.KindOf(err) == covey.DiskFull {
		return nil
	}
	if err == nil || covey.KindOf(err) != covey.DiskFull {
		return err
	}
	l.h.full.Store(true)
	defer l.h.full.Store(false)
	l.h.cfg.Logger.Error("log has no room: waiting", "error", err)
	pause := time.NewTimer(fullBackoff)
	defer pause.Stop()
	for wait := fullBackoff; ; wait = min(2*wait, maxFullBackoff) {
		pause.Reset(wait)
		select {
		case <-pause.C:
		case <-end:
			return err
		}
		if err = log.Write(&b.records, b.sync); err == nil {
			l.h.cfg.Logger.Info("log has room again")
			return nil
		}
		if covey.KindOf(err) != covey.DiskFull {
			return err
		}
	}
}
