package replica

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"time"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/covey-mail/covey"
)

// flushTicks is how long a commit index that nothing else has to be written with
// stays in memory.
const flushTicks = 10

// A loop is the one goroutine that steps every group of a Host. It never waits
// for a disk that writes, nor for a state machine.
type loop struct {
	h     *Host
	ticks uint64
	inbox []event // of the last turn; reused

	groups   []*group       // in the order in which they came
	appliers sync.WaitGroup // theirs

	fetching int             // copies that are on their way here
	fetchers sync.WaitGroup  // who take them in
	fetchCtx context.Context // ends them

	dirty  []*group // may have something to do
	hard   []*group // have a hard state that is in no batch yet
	outbox map[covey.NodeID][]Message
	late   map[covey.NodeID][]Message // for the outbox, once the log is written

	// One batch is gathered while the other is written.
	gather, spare *batch
	jobs          chan *batch // to the writer; never more than one
	written       chan *batch // back from it
	writing       bool
	since         uint64 // tick at which writing began
	flushed       uint64 // tick of the last write

	checkpointing *group // nil: none
	drainBy       uint64 // tick at which the host stops whatever still waits; 0: not stopping
}

func newLoop(h *Host) *loop {
	return &loop{
		h: h, outbox: map[covey.NodeID][]Message{}, late: map[covey.NodeID][]Message{},
		gather: &batch{}, spare: &batch{},
		jobs: make(chan *batch, 1), written: make(chan *batch, 1),
	}
}

// run turns until ctx ends and what was under way is done, or the log fails.
func (l *loop) run(ctx context.Context) error {
	ticker := time.NewTicker(l.h.cfg.Tick)
	defer ticker.Stop()
	l.turn() // the groups that came before Run
	l.spread()
	stop := ctx.Done()
	for {
		l.turn()
		if l.drained() {
			return nil
		}
		select {
		case <-l.h.events.wake:
			// Whoever woke us is seldom alone: to let the others put theirs first
			// saves a quarter of the fsyncs under load (BenchmarkThreeNodes), and an
			// idle node has nobody to wait for.
			runtime.Gosched()
		case b := <-l.written:
			if b.err != nil {
				return fmt.Errorf("write log: %w", b.err)
			}
			l.complete(b)
		case <-ticker.C:
			l.tick()
		case <-l.h.cfg.Log.Failed():
			return fmt.Errorf("log failed: %w", l.h.cfg.Log.Err())
		case <-stop:
			stop = nil
			l.drain()
		}
	}
}

// spread spreads the checkpoints of the groups over their interval.
func (l *loop) spread() {
	for i, g := range l.groups {
		g.dueAt = l.checkpointTicks() * uint64(i+1) / uint64(len(l.groups))
	}
}

// turn takes in all that waits, lets the groups move, and sets the writer going
// if it is idle. What arrives meanwhile is for the next turn, and the batch that
// is gathered grows with it: that is the group commit.
func (l *loop) turn() {
	l.inbox, _ = l.h.events.take(l.inbox)
	for _, e := range l.inbox {
		e.handle(l)
	}
	for {
		l.advance()
		l.send()
		if !l.submit() {
			return
		}
	}
}

// mark has the group looked at in this turn.
func (l *loop) mark(g *group) {
	if !g.dirty && !g.dead {
		g.dirty = true
		l.dirty = append(l.dirty, g)
	}
}

// guard runs fn for a group that is alive. A panic in it, be it of the Raft core
// over a log that cannot be read or a message that cannot be, stops that group
// alone: the core's state is not to be trusted any more.
func (l *loop) guard(g *group, fn func()) {
	if g.dead {
		return
	}
	defer func() {
		if v := recover(); v != nil {
			g.fail(asFault(g.id, "raft", v))
			l.bury(g)
		}
	}()
	fn()
}

// bury forgets a group that has failed.
func (l *loop) bury(g *group) {
	g.dead = true
	err := covey.Errorf(covey.Unavailable, "shard %d has stopped: %w", g.id, g.fault())
	g.failReads(err)
	g.endChange(err)
	g.proposals, g.asked = nil, nil // answered by fail
	for len(g.offers) > 0 {
		l.withdraw(g, g.offers[0])
	}
	g.endCopy()
	g.lead, g.leads = 0, false
	g.publish()
	l.announce(g)
}

// advance lets every marked group move as far as it can.
func (l *loop) advance() {
	for len(l.dirty) > 0 {
		g := l.dirty[len(l.dirty)-1]
		l.dirty = l.dirty[:len(l.dirty)-1]
		g.dirty = false
		l.guard(g, func() {
			l.stepProposals(g)
			g.startRead(l.ticks)
			for g.rn.HasReady() {
				l.process(g, g.rn.Ready())
				// A leader may just have been found for what waits.
				l.stepProposals(g)
				g.startRead(l.ticks)
			}
			g.settleCopy()
		})
	}
}

// process deals with what a group has come up with. Messages in rd itself may
// leave before anything is on disk; those that promise something are inside the
// message to the append thread, and wait.
func (l *loop) process(g *group, rd raft.Ready) {
	if rd.HardState != nil {
		g.term, g.vote = rd.HardState.GetTerm(), rd.HardState.GetVote()
		g.committed = max(g.committed, rd.HardState.GetCommit())
	}
	if rd.SoftState != nil {
		l.led(g, rd.SoftState)
	}
	if g.announced != (Leadership{g.id, g.lead, g.term}) {
		g.leaderLost(l.ticks + 2*uint64(l.h.cfg.ElectionTicks))
	}
	g.dropOldCopy()
	l.noteEntries(g, rd.Entries)
	g.changeLogged(rd.Entries)
	// Before anything is handed out that could be acknowledged.
	g.publish()
	l.announce(g)
	for _, s := range rd.ReadStates {
		g.readConfirmed(s)
	}
	for _, m := range rd.Messages {
		switch m.GetTo() {
		case raft.LocalAppendThread:
			l.append(g, m, rd.MustSync)
		case raft.LocalApplyThread:
			l.handToApply(g, m)
		default:
			if m.GetType() == raftpb.MsgSnap {
				l.noteOffered(g, m)
			}
			l.post(g, m)
		}
	}
}

// nodeName is how a log line calls a node, 0 being none.
func nodeName(id covey.NodeID) string {
	if id == 0 {
		return "none"
	}
	return id.String()
}

// led takes note of who leads.
func (l *loop) led(g *group, s *raft.SoftState) {
	lead, leads := covey.NodeID(s.Lead), s.RaftState == raft.StateLeader
	if lead != g.lead {
		l.h.metrics.leaderChanges.Inc()
		g.out.Info("leader", "leader", nodeName(lead), "term", g.term)
	}
	if leads && !g.leads {
		g.termStart = 0
		clear(g.heard)
		clear(g.since)
		g.seen.reset(g.term)
	}
	if !leads && g.leads {
		g.lostAt = l.ticks
		g.leadershipLost(l.ticks + 2*uint64(l.h.cfg.ElectionTicks))
		g.termStart = 0
	}
	g.lead, g.leads = lead, leads
}

func (l *loop) tick() {
	l.ticks++
	l.h.now.Store(l.ticks)
	l.release()
	for _, g := range l.groups {
		l.guard(g, func() {
			g.rn.Tick()
			g.tickDoubt(l.ticks)
			g.tickReads(l.ticks)
			l.tickForwarded(g)
			g.giveUp(l.ticks)
			g.tickChange(l.ticks)
			l.tickFollowers(g)
		})
		l.mark(g)
	}
	l.handOverIfStalled()
	l.startCheckpoint()
}

// handOverIfStalled gives up leadership when the disk has not answered for two
// election timeouts: followers whose disks work serve better, and the entries
// that wait here can be committed without this node.
func (l *loop) handOverIfStalled() {
	if !l.writing || l.ticks-l.since <= 2*uint64(l.h.cfg.ElectionTicks) {
		return
	}
	for _, g := range l.groups {
		l.guard(g, func() { g.handOver() })
		l.mark(g)
	}
}

// drain begins the end: no more proposals, and leadership to others.
func (l *loop) drain() {
	l.h.stopping.Store(true)
	l.drainBy = l.ticks + 2*uint64(l.h.cfg.ElectionTicks)
	for _, g := range l.groups {
		l.guard(g, func() { g.handOver() })
		l.mark(g)
	}
}

// drained reports whether the loop may end: told to, and nothing is under way
// that someone waits for, or that took too long.
func (l *loop) drained() bool {
	if l.drainBy == 0 {
		return false
	}
	if l.ticks >= l.drainBy {
		return true
	}
	if l.writing || l.h.events.depth() > 0 {
		return false
	}
	for _, g := range l.groups {
		if g.removal != nil || !g.dead && (g.busy() || g.leads && g.heir() != 0) {
			return false
		}
	}
	return true
}

// busy reports whether a caller waits for the group.
func (g *group) busy() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.waiting) > 0
}

func (l *loop) checkpointTicks() uint64 {
	return max(1, uint64(l.h.cfg.CheckpointEvery/l.h.cfg.Tick))
}

// startCheckpoint has the first group that is due make a checkpoint, unless
// another is at it: they share one disk.
func (l *loop) startCheckpoint() {
	if l.checkpointing != nil {
		return
	}
	for _, g := range l.groups {
		bytes := g.sinceCheckpoint.Load()
		if g.dead || bytes == 0 || (bytes < l.h.cfg.CheckpointBytes && l.ticks < g.dueAt) {
			continue
		}
		l.checkpointing = g
		g.dueAt = l.ticks + l.checkpointTicks()
		g.work.put(work{checkpoint: func(err error) {
			if err != nil {
				g.out.Error("checkpoint", "error", err)
			}
			l.h.events.put(checkpointed{})
		}})
		return
	}
}

// checkpointed tells the loop that the checkpoint it asked for is over.
type checkpointed struct{}

func (checkpointed) handle(l *loop) { l.checkpointing = nil }
func (checkpointed) drop(*loop)     {}
