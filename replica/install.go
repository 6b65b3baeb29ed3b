package replica

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/internal/snapshot"
	"github.com/covey-mail/covey/internal/wire"
	"github.com/covey-mail/covey/storage/seglog"
)

// An install is a copy that the core took and that becomes the state. Until it
// is, nothing more is written for the group: what the core wants written waits.
type install struct {
	meta *raftpb.SnapshotMetadata
	held []heldAppend // the first has the snapshot
}

type heldAppend struct {
	message  *raftpb.Message
	mustSync bool
}

// An installation is an install as the applier sees it.
type installation struct {
	restorer snapshot.Restorer
	meta     *raftpb.SnapshotMetadata
}

// append takes a message to the append thread.
func (l *loop) append(g *group, m *raftpb.Message, mustSync bool) {
	switch {
	case !raft.IsEmptySnap(m.GetSnapshot()):
		l.install(g, m, mustSync)
	case g.installing != nil:
		g.installing.held = append(g.installing.held, heldAppend{m, mustSync})
	default:
		l.gatherAppend(g, m, mustSync)
	}
}

// install has the applier replace the state by the copy that the core took. It
// comes after all that was applied before, and after the log has all that this
// group wants written so far: see record.
func (l *loop) install(g *group, m *raftpb.Message, mustSync bool) {
	f := g.staged
	if f == nil {
		panic(covey.Errorf(covey.Internal, "a snapshot at %d that nobody fetched", m.GetSnapshot().GetMetadata().GetIndex()))
	}
	g.staged, g.fetch = nil, nil
	f.verdict <- true
	meta := m.GetSnapshot().GetMetadata()
	g.installing = &install{meta: meta, held: []heldAppend{{m, mustSync}}}
	g.conf, g.confIndex = meta.GetConfState(), meta.GetIndex()
	g.publishMembers()
	g.publish()
	g.holding++
	l.gather.works = append(l.gather.works, heldWork{g, work{install: &installation{f.restorer, meta}}})
}

// installed tells the loop that a copy is the state, and durable.
type installed struct{ group *group }

// handle has the log say so, in one batch with the hard state that came with it.
func (e installed) handle(l *loop) {
	g := e.group
	if g.dead || g.installing == nil {
		return
	}
	in := g.installing
	g.installing = nil
	l.h.metrics.copies.WithLabelValues("installed").Inc()
	g.out.Info("copy of the state installed", "index", in.meta.GetIndex())
	l.gather.records.Snapshot(g.id, in.meta)
	l.gather.sync = true
	for _, h := range in.held {
		l.gatherAppend(g, h.message, h.mustSync)
	}
	g.publish()
	l.mark(g)
}

func (installed) drop(*loop) {}

// install replaces the state by a copy.
func (g *group) install(in *installation) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = asFault(g.id, "install copy", v)
		}
	}()
	rec, err := g.record(in.meta)
	if err != nil {
		return err
	}
	for wait := fullBackoff; ; wait = min(2*wait, maxFullBackoff) {
		err := g.sm.(Snapshotter).Install(in.restorer, rec)
		if err == nil {
			break
		}
		if !errors.Is(err, covey.DiskFull) {
			return errors.Join(fmt.Errorf("install copy: %w", err), in.restorer.Abort())
		}
		g.out.Error("no room for the copy of the state: waiting", "error", err)
		if !g.pause(wait) {
			return errors.Join(errStopping, in.restorer.Abort())
		}
	}
	index := in.meta.GetIndex()
	g.covered, g.applyConf, g.applyConfIndex = index, in.meta.GetConfState(), index
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, p := range g.waiting {
		if p.stepped && p.index <= index {
			g.answerLocked(p, nil, covey.Errorf(covey.Unknown, "shard %d: a copy of the state came, which may contain it", g.id))
		}
	}
	g.applied = index
	g.wakeReadersLocked()
	return nil
}

// pause waits, unless the group or the host stops.
func (g *group) pause(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return g.fault() == nil
	case <-g.h.stopped:
		return false
	}
}

// A record is what a state machine keeps of the copy that it took in: which it
// was, and how the group's log was then. A crash between the installation and the
// log's mark of it leaves a log that is just so, and a state that is ahead of it;
// Add then makes the mark. A log that is otherwise has lost something.
//
// Its encoding: one octet version (1); last index, term, vote and length of the
// rest as varints; the protocol buffer raftpb.SnapshotMetadata.
type record struct {
	last, term, vote uint64 // of the log, before
	meta             *raftpb.SnapshotMetadata
}

const recordVersion = 1

// record returns the record of an installation that is about to be made. All that
// the group had to write has been written.
func (g *group) record(meta *raftpb.SnapshotMetadata) ([]byte, error) {
	hs, _, err := g.log.InitialState()
	if err != nil {
		return nil, err
	}
	last, err := g.log.LastIndex()
	if err != nil {
		return nil, err
	}
	return (&record{last: last, term: hs.GetTerm(), vote: hs.GetVote(), meta: meta}).encode()
}

func (r *record) encode() ([]byte, error) {
	meta, err := proto.Marshal(r.meta)
	if err != nil {
		return nil, err
	}
	b := []byte{recordVersion}
	b = wire.AppendUint(b, r.last)
	b = wire.AppendUint(b, r.term)
	b = wire.AppendUint(b, r.vote)
	return wire.AppendBytes(b, meta), nil
}

// parseRecord decodes a record; nil if there is none.
func parseRecord(b []byte) (*record, error) {
	if len(b) == 0 {
		return nil, nil
	}
	r := wire.NewReader(b)
	if v := r.Byte(); v != recordVersion {
		return nil, covey.Errorf(covey.Corrupt, "record of a copy has version %d, this program reads version %d", v, recordVersion)
	}
	rec := &record{last: r.Uint(), term: r.Uint(), vote: r.Uint(), meta: &raftpb.SnapshotMetadata{}}
	meta := r.Bytes()
	if err := r.End(); err != nil {
		return nil, fmt.Errorf("record of a copy: %w", err)
	}
	if err := proto.Unmarshal(meta, rec.meta); err != nil {
		return nil, covey.Errorf(covey.Corrupt, "record of a copy: %w", err)
	}
	if rec.meta.GetIndex() == 0 || rec.meta.GetIndex() >= maxIndex || rec.meta.GetTerm() == 0 || !soundConf(rec.meta.GetConfState()) {
		return nil, covey.Errorf(covey.Corrupt, "record of a copy: impossible membership or index %d", rec.meta.GetIndex())
	}
	return rec, nil
}

// unmarked reports whether a log is as it was before the installation, and so
// lacks the mark of it. The state has applied nothing since.
func (r *record) unmarked(log *seglog.Group, applied uint64) (bool, error) {
	if r == nil || applied > r.meta.GetIndex() {
		return false, nil
	}
	hs, _, err := log.InitialState()
	if err != nil {
		return false, err
	}
	last, err := log.LastIndex()
	if err != nil || last != r.last || hs.GetTerm() != r.term || hs.GetVote() != r.vote {
		return false, err
	}
	first, err := log.FirstIndex()
	if err != nil || first > r.meta.GetIndex()+1 {
		return false, err
	}
	term, err := log.Term(r.meta.GetIndex())
	switch {
	case errors.Is(err, raft.ErrUnavailable):
		return true, nil
	case err != nil:
		return false, err
	}
	return term != r.meta.GetTerm(), nil
}

// mend makes the mark of an installation that a crash prevented.
func (g *group) mend(r *record) error {
	missing, err := r.unmarked(g.log, g.sm.Applied())
	if err != nil || !missing {
		return err
	}
	var b seglog.Batch
	b.Snapshot(g.id, r.meta)
	// The node voted in no later term than the log says.
	hs := &raftpb.HardState{Term: new(r.term), Vote: new(r.vote), Commit: r.meta.Index}
	if r.meta.GetTerm() > r.term {
		hs.Term, hs.Vote = r.meta.Term, nil
	}
	b.HardState(g.id, hs)
	if err := g.h.cfg.Log.Write(&b, seglog.Synced); err != nil {
		return fmt.Errorf("mark installed copy: %w", err)
	}
	g.out.Info("marked the copy of the state that was installed before a crash", "index", r.meta.GetIndex())
	return nil
}

// recorded returns what a state machine keeps of the copy that it took in.
func recorded(sm StateMachine) []byte {
	if s, ok := sm.(Snapshotter); ok {
		return slices.Clone(s.Installed())
	}
	return nil
}
