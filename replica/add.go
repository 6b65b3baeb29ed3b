package replica

import (
	"fmt"
	"slices"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/storage/seglog"
)

// Add brings a group to this node, before Run or while it goes on. The Host owns
// sm from then on, and Run closes it; after an error it is still the caller's.
//
// voters is the membership that a new group begins with, the same on each of
// them, and matters only if the log holds nothing of the group. nil says that the
// group exists elsewhere: this node knows no membership of it, and waits until a
// leader that counts it as a member sends it a copy of the state, for which sm
// must be a Snapshotter. sm must then be empty too: what a removal that was cut
// short has left of it goes first, which is when seglog.Group.Empty is true and
// the state is not new.
//
// A log that does not reach what sm has applied, or does not connect to it, is
// damage and refused with Corrupt: the node promised what it no longer has and
// must be replaced.
func (h *Host) Add(id covey.ShardID, sm StateMachine, voters []covey.NodeID) error {
	return h.add(id, sm, voters, firstTerm)
}

// Found is Add for a group that begins once more, with this node alone, because
// all replicas that it had are lost. term must be above all that the lost ones can
// have had, so that nobody takes them for newer. The log must hold nothing of the
// group.
func (h *Host) Found(id covey.ShardID, sm StateMachine, term uint64) error {
	if !h.cfg.Log.Group(id).Empty() {
		return covey.Errorf(covey.Exists, "found shard %d: there is a log of it here", id)
	}
	return h.add(id, sm, []covey.NodeID{h.cfg.Node}, term)
}

func (h *Host) add(id covey.ShardID, sm StateMachine, voters []covey.NodeID, term uint64) error {
	h.adding.Lock()
	defer h.adding.Unlock()
	if _, err := h.group(id); err == nil {
		return covey.Errorf(covey.Exists, "add shard %d: it is there already", id)
	}
	g := &group{
		id: id, h: h, sm: sm,
		log:     h.cfg.Log.Group(id),
		work:    newQueue[work](),
		out:     h.cfg.Logger.With("shard", uint32(id)),
		waiting: map[uint64]*proposal{},
		heard:   map[covey.NodeID]uint64{},
		since:   map[covey.NodeID]uint64{},
		forward: slices.Contains(h.cfg.Forward, id),
	}
	if err := g.open(voters, term); err != nil {
		return fmt.Errorf("add shard %d: %w", id, err)
	}
	if !h.events.put(joined{g}) {
		return covey.Errorf(covey.Unavailable, "add shard %d: stopping", id)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.groups[id] = g
	h.order = append(h.order, g)
	return nil
}

// joined tells the loop of a group that was added.
type joined struct{ group *group }

// handle sets the group's applier going.
func (j joined) handle(l *loop) {
	g := j.group
	l.groups = append(l.groups, g)
	l.appliers.Go(g.applyAll)
	g.dueAt = l.ticks + l.checkpointTicks()
	g.log.SetSnapshots(nil)
	if _, ok := g.sm.(Snapshotter); ok && l.h.cfg.Transport != nil {
		g.log.SetSnapshots(func() (*raftpb.Snapshot, error) { return l.offerFor(g) })
	}
	l.elect(g)
	l.mark(g)
}

// elect has a node that is the whole group elect itself at once: nobody can
// object. The core refuses while a change of members is not applied.
func (l *loop) elect(g *group) {
	if g.lead != 0 || !g.solo() {
		return
	}
	l.guard(g, func() {
		if g.rn.BasicStatus().RaftState != raft.StateFollower {
			return
		}
		if err := g.rn.Campaign(); err != nil {
			g.out.Warn("campaign", "error", err)
		}
	})
}

// drop leaves the group to Run, which closes it.
func (j joined) drop(l *loop) { l.groups = append(l.groups, j.group) }

// firstIndex is what a new group's log begins behind: a place that no entry ever
// had. So a replica that begins with nothing, not even a membership, is never
// within reach of a leader's log, and is sent a copy of the state.
const firstIndex, firstTerm = 1, 1

// open checks the log against the state machine and makes the Raft core.
func (g *group) open(voters []covey.NodeID, term uint64) error {
	kept := recorded(g.sm)
	rec, err := parseRecord(kept)
	if err != nil {
		return err
	}
	if err := g.mend(rec); err != nil {
		return err
	}
	if err := g.found(voters, term); err != nil {
		return err
	}
	applied := g.sm.Applied()
	if err := Connected(g.log, applied, kept); err != nil {
		return err
	}
	hs, cs, err := g.log.InitialState()
	if err != nil {
		return err
	}
	last, err := g.lastEntry()
	if err != nil {
		return err
	}
	if g.log.Empty() {
		g.former = last
	} else {
		g.covered = covered(last.index, rec)
	}
	_, g.confIndex = g.log.ConfState()
	g.conf = cs
	g.applied = max(applied, g.covered)
	g.applyConf, g.applyConfIndex = cs, g.confIndex
	g.term, g.vote, g.committed = hs.GetTerm(), hs.GetVote(), max(hs.GetCommit(), g.applied)
	g.announced = Leadership{Group: g.id, Term: g.term}
	g.publishMembers()
	g.publish()
	start := &logView{Group: g.log, applied: g.applied}
	g.rn, err = newRawNode(g.id, g.h.cfg.raftConfig(start, g.applied, raftLogger{g.out}))
	return err
}

// found makes sure that the log has a membership, unless the group waits to hear
// of one.
func (g *group) found(voters []covey.NodeID, term uint64) error {
	last, err := g.log.LastIndex()
	if err != nil {
		return err
	}
	hs, cs, err := g.log.InitialState()
	if err != nil {
		return err
	}
	applied := g.sm.Applied()
	switch {
	case len(cs.GetVoters()) > 0 && last > 0:
		return nil
	case len(cs.GetVoters()) > 0 && applied == 0:
		// Founded by a program that began logs at 0, and nothing happened since.
		return g.begin(cs, hs, term)
	case !g.log.Empty() || applied != 0:
		return covey.Errorf(covey.Corrupt, "the log ends at %d, with members %v, but %d was applied: records are lost", last, cs.GetVoters(), applied)
	case voters == nil:
		return nil
	case !raft.IsEmptyHardState(hs) && hs.GetTerm() >= term:
		return covey.Errorf(covey.Corrupt, "the log holds no membership but was at term %d: the group is no new one", hs.GetTerm())
	}
	ids := make([]uint64, 0, len(voters))
	for _, v := range voters {
		ids = append(ids, uint64(v))
	}
	slices.Sort(ids)
	if len(ids) == 0 || ids[0] == 0 || len(slices.Compact(slices.Clone(ids))) != len(ids) {
		return covey.Errorf(covey.Invalid, "voters %v of a new group", voters)
	}
	return g.begin(&raftpb.ConfState{Voters: ids}, hs, term)
}

// begin writes the first membership, of which nothing was voted, so that no
// entry is needed to agree on it.
func (g *group) begin(cs *raftpb.ConfState, hs *raftpb.HardState, term uint64) error {
	vote := hs.GetVote()
	if term > hs.GetTerm() { // nobody has asked for one in it
		vote = 0
	}
	var b seglog.Batch
	b.Snapshot(g.id, &raftpb.SnapshotMetadata{Index: new(uint64(firstIndex)), Term: new(uint64(firstTerm)), ConfState: cs})
	b.HardState(g.id, &raftpb.HardState{
		Term: new(max(hs.GetTerm(), term)), Vote: new(vote), Commit: new(uint64(firstIndex)),
	})
	if err := g.h.cfg.Log.Write(&b, seglog.Synced); err != nil {
		return fmt.Errorf("write first membership: %w", err)
	}
	return nil
}

// newRawNode turns the core's panics over a log that cannot be read into errors.
func newRawNode(id covey.ShardID, cfg *raft.Config) (rn *raft.RawNode, err error) {
	defer func() {
		if v := recover(); v != nil {
			err = asFault(id, "start", v)
		}
	}()
	return raft.NewRawNode(cfg)
}

// Connected checks that a log has all that a state still needs, and has lost
// nothing that this node vouched for: Corrupt if not. The state has applied the
// commands up to an index, and was last installed with what Snapshotter.Installed
// returns, nil for none.
func Connected(log *seglog.Group, applied uint64, installed []byte) error {
	rec, err := parseRecord(installed)
	if err != nil {
		return err
	}
	if missing, err := rec.unmarked(log, applied); err != nil || missing {
		return err // Add mends it
	}
	hs, _, err := log.InitialState()
	if err != nil {
		return err
	}
	first, err := log.FirstIndex()
	if err != nil {
		return err
	}
	last, err := log.LastIndex()
	if err != nil {
		return err
	}
	if log.Empty() {
		if applied > 0 {
			return covey.Errorf(covey.Corrupt, "the log has nothing of the group, but %d was applied", applied)
		}
		return nil
	}
	applied = max(applied, covered(last, rec))
	switch {
	case last < applied:
		return covey.Errorf(covey.Corrupt, "the log ends at %d, but %d was applied: records are lost", last, applied)
	case first > applied+1:
		return covey.Errorf(covey.Corrupt, "the log begins at %d, but only %d was applied: the state is older than the log", first, applied)
	case hs.GetCommit() > last:
		return covey.Errorf(covey.Corrupt, "the log ends at %d, but %d was committed: records are lost", last, hs.GetCommit())
	}
	term, err := log.Term(last)
	if err != nil {
		return fmt.Errorf("term of entry %d: %w", last, err)
	}
	if term > hs.GetTerm() {
		return covey.Errorf(covey.Corrupt, "the last entry is of term %d, but the hard state of term %d: records are lost", term, hs.GetTerm())
	}
	return nil
}

// covered returns up to which index there is no command that the state could
// lack, in a log that ends at last: a copy covers the entries behind its last
// command too.
func covered(last uint64, rec *record) uint64 {
	index := min(last, firstIndex)
	if rec != nil {
		index = max(index, min(last, rec.meta.GetIndex()))
	}
	return index
}

// logView is the group's log as the core sees it.
type logView struct {
	*seglog.Group
	applied uint64 // when the core was made
}

// InitialState says that what was applied is committed, even if the commit index
// that says so never reached the disk.
func (v *logView) InitialState() (*raftpb.HardState, *raftpb.ConfState, error) {
	hs, cs, err := v.Group.InitialState()
	if err == nil && v.applied > hs.GetCommit() {
		hs = &raftpb.HardState{Term: new(hs.GetTerm()), Vote: new(hs.GetVote()), Commit: new(v.applied)}
	}
	return hs, cs, err
}

// FirstIndex hides the first entry of a log that began at 0, which is a leader's
// empty one, so that it is as one that begins behind firstIndex. A replica
// without a membership has a log that begins at 0, whatever it had before.
func (v *logView) FirstIndex() (uint64, error) {
	first, err := v.Group.FirstIndex()
	switch {
	case err != nil:
		return 0, err
	case v.Group.Empty():
		return 1, nil
	}
	return max(first, firstIndex+1), nil
}

// LastIndex implements raft.Storage.
func (v *logView) LastIndex() (uint64, error) {
	if v.Group.Empty() {
		return 0, nil
	}
	return v.Group.LastIndex()
}

// Term implements raft.Storage.
func (v *logView) Term(index uint64) (uint64, error) {
	switch {
	case !v.Group.Empty():
		return v.Group.Term(index)
	case index > 0:
		return 0, raft.ErrUnavailable
	}
	return 0, nil
}
