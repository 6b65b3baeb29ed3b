package replica

import (
	"encoding/binary"
	"errors"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"go.etcd.io/raft/v3/tracker"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/internal/snapshot"
)

const (
	// maxOffers bounds the copies that a node has open for others, and those that
	// it takes in.
	maxOffers = 2

	// copyIdle is how long a copy is kept for a follower that does not come for it.
	copyIdle = time.Minute
)

// An offer is a copy of a group's state that followers may fetch from this
// leader. The core's message to a follower names it; the follower asks for its
// chunks (Host.ServeSnapshot). Followers that need one at the same time share it.
type offer struct {
	group     *group
	id        uint64
	snap      snapshot.Snapshot
	meta      *raftpb.SnapshotMetadata
	confIndex uint64 // of the entry that brought meta's membership
	opened    uint64 // tick
	broken    atomic.Bool

	reading sync.Mutex // held while a chunk is read

	mu     sync.Mutex // guards the following; held for moments
	takers map[covey.NodeID]*taker
}

// A taker is a follower that was told of an offer.
type taker struct {
	told  uint64 // tick of the last message
	asked uint64 // tick at which it last asked for a chunk, or was told first
}

// offers are the copies that a node has for others, over all groups.
type offers struct {
	open atomic.Int32 // those not closed yet, or about to be opened

	mu   sync.Mutex // guards byID
	byID map[uint64]*offer
}

func (s *offers) find(id uint64) *offer {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.byID[id]
}

func (s *offers) set(id uint64, o *offer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if o == nil {
		delete(s.byID, id)
	} else {
		s.byID[id] = o
	}
}

// reserve takes a place for one more, if there is one.
func (s *offers) reserve() bool {
	if s.open.Add(1) <= maxOffers {
		return true
	}
	s.open.Add(-1)
	return false
}

// ServeSnapshot returns a chunk of a copy that this node offered to the node
// from, which must be authenticated: at most snapshot.ChunkSize bytes, none after
// the last. It blocks on the disk and may be called by several goroutines.
// NotFound: there is no such copy any more, and a new one has to be offered.
func (h *Host) ServeSnapshot(from covey.NodeID, req SnapshotRequest) ([]byte, error) {
	o := h.offers.find(req.ID)
	if o == nil || o.group.id != req.Group || !o.touch(from, h.now.Load()) {
		return nil, covey.Errorf(covey.NotFound, "shard %d: copy %x is not there for node %s", req.Group, req.ID, from)
	}
	o.reading.Lock()
	b, err := o.snap.ReadChunk(req.Chunk)
	o.reading.Unlock()
	o.touch(from, h.now.Load())
	switch {
	case errors.Is(err, io.EOF):
		return nil, nil
	case err != nil:
		o.broken.Store(true)
		return nil, covey.Errorf(covey.NotFound, "shard %d: copy %x: %w", req.Group, req.ID, err)
	}
	h.metrics.copyBytes.WithLabelValues("sent").Add(float64(len(b)))
	return b, nil
}

// touch notes that a follower asks, and reports whether it may.
func (o *offer) touch(node covey.NodeID, now uint64) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	t := o.takers[node]
	if t != nil {
		t.asked = now
	}
	return t != nil
}

// tell notes that the core has a follower told.
func (o *offer) tell(node covey.NodeID, now uint64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.takers[node] == nil {
		o.takers[node] = &taker{asked: now}
	}
	o.takers[node].told = now
}

// offerFor is asked by the core for a copy to send. If there is none that will
// do, the applier is told to open one, and the core asks again with the
// follower's next heartbeat.
func (l *loop) offerFor(g *group) (*raftpb.Snapshot, error) {
	first, err := g.log.FirstIndex()
	if err != nil {
		return nil, err
	}
	for _, o := range g.offers {
		// One of an older membership may not have the follower that it is for.
		if o.confIndex == g.confIndex && o.meta.GetIndex()+1 >= first && !o.broken.Load() {
			return &raftpb.Snapshot{Metadata: o.meta, Data: binary.LittleEndian.AppendUint64(nil, o.id)}, nil
		}
	}
	if g.opening || g.dead || l.ticks < g.openAfter || l.drainBy != 0 || !l.h.offers.reserve() {
		return nil, raft.ErrSnapshotTemporarilyUnavailable
	}
	g.opening = true
	g.work.put(work{offer: true, confIndex: g.confIndex})
	return nil, raft.ErrSnapshotTemporarilyUnavailable
}

// offer opens a copy of the state as of a membership, and tells the loop.
func (g *group) offer(confIndex uint64) {
	o, err := g.openCopy(confIndex)
	if err != nil {
		g.h.offers.open.Add(-1)
	}
	if !g.h.events.put(opened{g, o, err}) && o != nil {
		g.closeCopy(o)
	}
}

func (g *group) openCopy(confIndex uint64) (o *offer, err error) {
	defer func() {
		if v := recover(); v != nil {
			err = asFault(g.id, "open copy", v)
			g.fail(err)
		}
	}()
	snap, err := g.sm.(Snapshotter).Snapshot()
	if err != nil {
		if errors.Is(err, covey.DiskFull) {
			if _, rerr := g.recover(err, nil); rerr != nil {
				g.fail(rerr)
			}
		}
		return nil, err
	}
	o = &offer{group: g, id: g.h.nonce.Add(1), snap: snap, takers: map[covey.NodeID]*taker{}}
	err = g.describe(o)
	if err == nil && o.confIndex != confIndex {
		err = covey.Errorf(covey.Unavailable, "the copy has the membership of %d, not of %d", o.confIndex, confIndex)
	}
	if err != nil {
		return nil, errors.Join(err, snap.Close())
	}
	g.copies = append(g.copies, o)
	return o, nil
}

// describe finds out as of which entry a copy is: the last one applied, which
// need not be a command. The state machine may have given a copy that it had
// opened before, and which is described already.
func (g *group) describe(o *offer) error {
	if index := o.snap.Index(); index != g.sm.Applied() {
		for _, other := range g.copies {
			if other.snap.Index() == index {
				o.meta, o.confIndex = other.meta, other.confIndex
				return nil
			}
		}
		return covey.Errorf(covey.Unavailable, "the copy is of %d, which was applied long ago", index)
	}
	g.mu.Lock()
	index := g.applied
	g.mu.Unlock()
	if g.applyConfIndex > index {
		return covey.Errorf(covey.Unavailable, "the membership is as of %d, and only %d is applied", g.applyConfIndex, index)
	}
	term, err := g.log.Term(index)
	if err != nil {
		return err
	}
	o.meta = &raftpb.SnapshotMetadata{Index: new(index), Term: new(term), ConfState: g.applyConf}
	o.confIndex = g.applyConfIndex
	return nil
}

// closeCopy gives back what a copy holds. It is called by the applier, and by Run
// after it.
func (g *group) closeCopy(o *offer) {
	g.copies = slices.DeleteFunc(g.copies, func(c *offer) bool { return c == o })
	g.h.offers.open.Add(-1)
	if err := o.snap.Close(); err != nil {
		g.out.Warn("close copy", "error", err)
	}
}

// pinned returns up to which index the log may forget: who takes in a copy needs
// what follows it.
func (g *group) pinned(index uint64) uint64 {
	for _, o := range g.copies {
		index = min(index, o.meta.GetIndex())
	}
	return index
}

// opened tells the loop of a copy.
type opened struct {
	group *group
	offer *offer // nil: there is none
	err   error
}

func (e opened) handle(l *loop) {
	g, o := e.group, e.offer
	g.opening = false
	if o == nil {
		g.openAfter = l.ticks + uint64(l.h.cfg.ElectionTicks)
		if covey.KindOf(e.err) == covey.Unavailable { // until what is under way is applied, or copied
			g.openAfter = l.ticks + max(1, uint64(l.h.cfg.ElectionTicks)/5)
		}
		g.out.Info("no copy for a follower yet", "error", e.err)
		return
	}
	o.opened = l.ticks
	g.offers = append(g.offers, o)
	l.h.offers.set(o.id, o)
	if g.dead {
		l.withdraw(g, o)
	}
}

func (e opened) drop(*loop) {
	if e.offer != nil {
		e.group.closeCopy(e.offer)
	}
}

// noteOffered notes which copy a message of the core offers.
func (l *loop) noteOffered(g *group, m *raftpb.Message) {
	id := copyID(m)
	for _, o := range g.offers {
		if o.id == id {
			o.tell(covey.NodeID(m.GetTo()), l.ticks)
			g.out.Info("follower needs a copy of the state", "follower", covey.NodeID(m.GetTo()).String(), "index", o.meta.GetIndex())
		}
	}
}

func copyID(m *raftpb.Message) uint64 {
	if data := m.GetSnapshot().GetData(); len(data) == 8 {
		return binary.LittleEndian.Uint64(data)
	}
	return 0
}

// tickOffers closes copies that nobody needs any more, and has the core look
// again at followers that do not come for one, or for whom there is none: it
// finds out what they have, and offers them a copy if they still need it.
func (l *loop) tickOffers(g *group, members map[covey.NodeID]tracker.Progress) {
	waits := map[covey.NodeID]bool{}
	for node, pr := range members {
		if pr.State == tracker.StateSnapshot {
			waits[node] = true
		}
	}
	for _, o := range slices.Clone(g.offers) {
		if !l.serves(g, o, members, waits) || o.broken.Load() {
			l.withdraw(g, o)
		}
	}
	for node := range waits {
		g.rn.ReportSnapshot(uint64(node), raft.SnapshotFailure)
	}
}

// serves reports whether an offer is still of use. It takes out of waits those who
// come for it, and lets go of followers that have what they need, or have gone.
func (l *loop) serves(g *group, o *offer, members map[covey.NodeID]tracker.Progress, waits map[covey.NodeID]bool) bool {
	again := 2 * uint64(l.h.cfg.ElectionTicks)
	idle := max(again, uint64(copyIdle/l.h.cfg.Tick))
	o.mu.Lock()
	defer o.mu.Unlock()
	taken := len(o.takers) > 0
	for node, t := range o.takers {
		pr, member := members[node]
		if !member || l.ticks-t.asked > idle || pr.Match >= o.meta.GetIndex() {
			delete(o.takers, node)
		} else if l.ticks-max(t.asked, t.told) <= again && !o.broken.Load() {
			delete(waits, node)
		}
	}
	return len(o.takers) > 0 || !taken && g.leads && l.ticks-o.opened <= 2*again
}

// withdraw ends an offer.
func (l *loop) withdraw(g *group, o *offer) {
	g.offers = slices.DeleteFunc(g.offers, func(c *offer) bool { return c == o })
	l.h.offers.set(o.id, nil)
	if !g.work.put(work{close: o}) {
		g.closeCopy(o)
	}
}
