package replica

import (
	"context"
	"errors"
	"slices"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/internal/snapshot"
)

// A fetch is a copy of the state on its way from the leader. The message that
// offers it is not shown to the core before the copy is whole, verified and
// durable, so that all that the core then has to wait for is its installation.
// One goroutine does the fetching; the loop holds at most one of a group.
type fetch struct {
	group  *group
	from   covey.NodeID
	id     uint64
	index  uint64 // that the copy is as of
	cancel context.CancelFunc
	chunks uint64 // how many there are; once they all have come

	// Of the loop.
	message   *raftpb.Message // the newest that offers the copy
	cancelled bool
	whole     bool // all chunks are here, and the leader is not needed any more

	restorer snapshot.Restorer // once it is staged
	verdict  chan bool         // holds one: the core took the copy
}

const (
	chunkTimeout    = 30 * time.Second // for one chunk
	fetchPause      = 100 * time.Millisecond
	maxFetchPause   = 2 * time.Second
	aliveEvery      = time.Second // that the leader hears of a follower that stages
	fetchAfterFault = 5           // election timeouts between a fetch that failed and the next
)

// copyOffered takes in a leader's message that offers a copy.
func (l *loop) copyOffered(g *group, from covey.NodeID, m *raftpb.Message) {
	_, can := g.sm.(Snapshotter)
	meta := m.GetSnapshot().GetMetadata()
	f := g.fetch
	switch {
	case g.dead || !can || l.h.cfg.Transport == nil || l.drainBy != 0 || m.GetTerm() < g.term || g.installing != nil || g.staged != nil:
		// The leader offers it again.
	case g.blank() && position{meta.GetIndex(), meta.GetTerm()}.behind(g.former):
		// It was offered to a former life, which had more.
	case meta.GetIndex() <= g.committed:
		l.step(g, m) // the core says how far this replica is
	case f == nil && l.ticks >= g.fetchAfter && l.fetching < maxOffers:
		l.startFetch(g, from, m)
	case f == nil:
	case f.from == from && f.id == copyID(m):
		f.message = m
	case f.from == from && f.whole:
		// The leader has given up, but the copy is here.
	default:
		g.offered = m
		f.stop()
	}
}

func (f *fetch) stop() {
	f.cancelled = true
	f.cancel()
}

func (l *loop) startFetch(g *group, from covey.NodeID, m *raftpb.Message) {
	ctx, cancel := context.WithCancel(l.fetchCtx)
	index := m.GetSnapshot().GetMetadata().GetIndex()
	f := &fetch{group: g, from: from, id: copyID(m), index: index, cancel: cancel, message: m, verdict: make(chan bool, 1)}
	g.fetch = f
	l.fetching++
	g.out.Info("take in a copy of the state", "from", from.String(), "index", index)
	g.publish()
	g.taking.Add(1)
	l.fetchers.Go(func() {
		defer g.taking.Done()
		defer cancel()
		g.h.events.put(fetched{f, f.run(ctx)})
	})
}

// run takes the copy in, and returns when the core took it or it is forgotten.
func (f *fetch) run(ctx context.Context) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = asFault(f.group.id, "take in a copy", v)
		}
	}()
	r, err := f.group.sm.(Snapshotter).Restore()
	if err != nil {
		return err
	}
	if err := f.stage(ctx, r); err != nil {
		return errors.Join(err, r.Abort())
	}
	f.restorer = r
	if !f.group.h.events.put(staged{f}) || !<-f.verdict {
		return errors.Join(errNotTaken, r.Abort())
	}
	return nil
}

// errNotTaken is no fault: the core does not need the copy any more.
var errNotTaken = errors.New("the copy came too late")

// stage fetches the chunks and makes the copy durable.
func (f *fetch) stage(ctx context.Context, r snapshot.Restorer) error {
	for {
		b, err := f.chunk(ctx)
		if err != nil {
			return err
		}
		if len(b) == 0 {
			break
		}
		if err := r.WriteChunk(b); err != nil {
			return err
		}
		f.group.h.metrics.copyBytes.WithLabelValues("received").Add(float64(len(b)))
		f.chunks++
	}
	f.group.h.events.put(whole{f})
	alive := f.keepAlive(ctx)
	index, err := r.Stage()
	alive()
	if err != nil {
		return err
	}
	if index > f.index {
		return covey.Errorf(covey.Corrupt, "the copy is of %d, and was offered as of %d", index, f.index)
	}
	return nil
}

// chunk fetches the next chunk, again and again while the leader cannot be
// reached. The leader keeps the copy for a while.
func (f *fetch) chunk(ctx context.Context) ([]byte, error) {
	g := f.group
	began, pause := time.Now(), fetchPause
	for {
		b, err := f.ask(ctx, chunkTimeout)
		switch {
		case err == nil && len(b) > snapshot.ChunkSize:
			return nil, covey.Errorf(covey.Corrupt, "a chunk of %d octets", len(b))
		case err == nil:
			return b, nil
		case ctx.Err() != nil || errors.Is(err, covey.NotFound) || time.Since(began) > copyIdle:
			return nil, err
		}
		g.out.Debug("fetch a chunk again", "from", f.from.String(), "chunk", f.chunks, "error", err)
		if !wait(ctx, pause) {
			return nil, ctx.Err()
		}
		pause = min(2*pause, maxFetchPause)
	}
}

func (f *fetch) ask(ctx context.Context, timeout time.Duration) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	return f.group.h.cfg.Transport.Fetch(ctx, f.from, SnapshotRequest{Group: f.group.id, ID: f.id, Chunk: f.chunks})
}

// keepAlive goes on asking for what comes behind the last chunk, so that the
// leader sees that this node is at work, until the function that it returns is
// called.
func (f *fetch) keepAlive(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() { // stop waits for it
		defer close(done)
		for wait(ctx, aliveEvery) {
			_, _ = f.ask(ctx, chunkTimeout) // what it says changes nothing
		}
	}()
	return func() { cancel(); <-done }
}

// wait waits, and reports whether ctx did not end meanwhile.
func wait(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// whole tells the loop that all chunks of a copy are here.
type whole struct{ fetch *fetch }

func (e whole) handle(*loop) { e.fetch.whole = true }
func (e whole) drop(*loop)   {}

// staged tells the loop that a copy is durable.
type staged struct{ fetch *fetch }

// handle shows the core the message that offered the copy. What it comes up with
// is seen in this turn.
func (e staged) handle(l *loop) {
	f, g := e.fetch, e.fetch.group
	if g.dead || g.fetch != f || f.cancelled {
		f.verdict <- false
		return
	}
	g.staged = f
	l.step(g, f.message)
}

func (e staged) drop(*loop) { e.fetch.verdict <- false }

// settleCopy is called when the core has had its say about a copy that it was
// shown, and drops it if it did not take it.
func (g *group) settleCopy() {
	if g.staged != nil {
		g.staged.verdict <- false
		g.staged = nil
	}
}

// fetched tells the loop that a fetch is over.
type fetched struct {
	fetch *fetch
	err   error // nil: the core took the copy
}

func (e fetched) handle(l *loop) {
	f, g := e.fetch, e.fetch.group
	l.fetching--
	if g.fetch == f {
		g.fetch = nil
	}
	switch {
	case e.err == nil:
	case f.cancelled || errors.Is(e.err, errNotTaken):
		l.h.metrics.copies.WithLabelValues("dropped").Inc()
		g.out.Info("copy of the state dropped", "from", f.from.String(), "reason", e.err)
	default:
		l.h.metrics.copies.WithLabelValues("failed").Inc()
		g.fetchAfter = l.ticks + fetchAfterFault*uint64(l.h.cfg.ElectionTicks)
		if errors.Is(e.err, covey.NotFound) { // it is offered another
			g.fetchAfter = 0
		}
		g.out.Warn("copy of the state failed", "from", f.from.String(), "error", e.err)
	}
	g.publish()
	if m := g.offered; m != nil {
		g.offered = nil
		l.copyOffered(g, covey.NodeID(m.GetFrom()), m)
	}
}

func (e fetched) drop(*loop) {}

// dropOldCopy ends the fetch of a copy whose leader leads no more.
func (g *group) dropOldCopy() {
	if f := g.fetch; f != nil && g.term > f.message.GetTerm() {
		f.stop()
	}
}

// endCopy ends whatever is under way when the group stops on this node.
func (g *group) endCopy() {
	g.settleCopy()
	g.offered, g.installing = nil, nil
	if g.fetch != nil {
		g.fetch.stop()
	}
}

// offersCopy reports whether a message offers a copy of the state that this node
// could take in.
func offersCopy(m *raftpb.Message, node covey.NodeID) bool {
	s := m.GetSnapshot()
	meta := s.GetMetadata()
	cs := meta.GetConfState()
	return m.GetTerm() != 0 && len(m.GetEntries()) == 0 && len(s.GetData()) == 8 &&
		meta.GetIndex() > 0 && meta.GetIndex() < maxIndex && meta.GetTerm() > 0 && meta.GetTerm() <= m.GetTerm() &&
		soundConf(cs) && slices.Contains(slices.Concat(cs.GetVoters(), cs.GetLearners(), cs.GetVotersOutgoing()), uint64(node))
}

const (
	maxMembers = 1000    // of a group, that a peer tells of
	maxIndex   = 1 << 62 // of an entry, as in the log
)

// soundConf reports whether a membership is one that the core does not panic
// over.
func soundConf(cs *raftpb.ConfState) bool {
	voters := slices.Concat(cs.GetVoters(), cs.GetVotersOutgoing())
	if len(cs.GetVoters()) == 0 || len(members(cs)) > maxMembers || slices.Contains(members(cs), 0) {
		return false
	}
	for _, list := range [][]uint64{cs.GetVoters(), cs.GetLearners(), cs.GetVotersOutgoing(), cs.GetLearnersNext()} {
		sorted := slices.Clone(list)
		slices.Sort(sorted)
		if len(slices.Compact(sorted)) != len(list) {
			return false
		}
	}
	for _, id := range cs.GetLearners() {
		if slices.Contains(voters, id) {
			return false
		}
	}
	for _, id := range cs.GetLearnersNext() {
		if !slices.Contains(cs.GetVotersOutgoing(), id) || slices.Contains(cs.GetVoters(), id) {
			return false
		}
	}
	return len(cs.GetVotersOutgoing()) > 0 || !cs.GetAutoLeave()
}
