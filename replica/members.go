package replica

import (
	"context"
	"encoding/binary"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"go.etcd.io/raft/v3/tracker"
	"google.golang.org/protobuf/proto"

	"github.com/covey-mail/covey"
)

// A Role is what a node is to a group.
type Role uint8

const (
	Voter   Role = iota + 1 // counts for the quorum
	Learner                 // gets all entries, does not count
	Removed                 // gets nothing
)

// A MemberChange gives a node a role.
type MemberChange struct {
	Node covey.NodeID
	Role Role
}

// A change is a membership change that a caller waits for.
type change struct {
	nonce    uint64
	done     chan error // holds one
	logged   bool
	applied  bool
	last     uint64 // entry with which it is complete, a joint configuration ended; 0: not yet
	deadline uint64 // tick at which its outcome counts as unknown
}

// A call is run by the loop, and sends on done when there is an outcome.
type call struct {
	group *group
	done  chan error
	run   func(*loop)
}

func (c call) handle(l *loop) { c.run(l) }
func (c call) drop(*loop)     { c.done <- c.group.refuse(refusedStopping, "stopping") }

// ChangeMembers gives nodes new roles, all at once: several changes go through a
// joint configuration, in which both majorities must agree. It returns when the
// last of it is applied and the next change may be made. A node that becomes a
// member must hold the group, added without a membership if it is new there, and
// gets from the leader what it lacks: entries, or a copy of the state.
//
// Unavailable: not done, among others because this node does not lead, or because
// too few of those who would vote answer it and have a state: a node that comes
// with nothing has to be a learner first. InUse: another change is under way.
// Invalid: this node would lose its vote; hand over with TransferLeader first.
// Unknown: it may yet be done.
func (h *Host) ChangeMembers(ctx context.Context, id covey.ShardID, changes []MemberChange) error {
	g, err := h.group(id)
	if err != nil {
		return err
	}
	c := &change{nonce: h.nonce.Add(1), done: make(chan error, 1)}
	cc, err := confChange(changes, c.nonce)
	if err != nil {
		return err
	}
	if !h.events.put(call{g, c.done, func(l *loop) { l.proposeChange(g, c, cc) }}) {
		return g.refuse(refusedStopping, "stopping")
	}
	select {
	case err := <-c.done:
		return err
	case <-ctx.Done():
		return covey.Errorf(covey.Unknown, "change members of shard %d: %w", id, ctx.Err())
	}
}

func confChange(changes []MemberChange, nonce uint64) (*raftpb.ConfChangeV2, error) {
	cc := &raftpb.ConfChangeV2{Context: binary.LittleEndian.AppendUint64(nil, nonce)}
	for _, c := range changes {
		var typ raftpb.ConfChangeType
		switch c.Role {
		case Voter:
			typ = raftpb.ConfChangeAddNode
		case Learner:
			typ = raftpb.ConfChangeAddLearnerNode
		case Removed:
			typ = raftpb.ConfChangeRemoveNode
		default:
			return nil, covey.Errorf(covey.Invalid, "role %d", c.Role)
		}
		if c.Node == 0 || raft.IsLocalMsgTarget(uint64(c.Node)) {
			return nil, covey.Errorf(covey.Invalid, "node id %s cannot be used", c.Node)
		}
		cc.Changes = append(cc.Changes, &raftpb.ConfChangeSingle{Type: typ.Enum(), NodeId: new(uint64(c.Node))})
	}
	if len(cc.Changes) == 0 {
		return nil, covey.Errorf(covey.Invalid, "no change of members")
	}
	return cc, nil
}

func (l *loop) proposeChange(g *group, c *change, cc *raftpb.ConfChangeV2) {
	switch {
	case g.dead || l.drainBy != 0:
		c.done <- g.refuse(refusedStopping, "stopping")
		return
	case !g.leads:
		c.done <- g.dropped()
		return
	case !g.keepsVote(cc):
		c.done <- covey.Errorf(covey.Invalid, "shard %d: the leader cannot take its own vote: hand over first", g.id)
		return
	case g.change != nil:
		c.done <- covey.Errorf(covey.InUse, "shard %d: another change of members is under way", g.id)
		return
	case !g.electable(cc, l.ticks):
		c.done <- covey.Errorf(covey.Unavailable, "shard %d: too few of those who would vote answer and have a state", g.id)
		return
	}
	c.deadline = l.ticks + 10*uint64(l.h.cfg.ElectionTicks)
	g.change = c
	l.guard(g, func() {
		if err := g.rn.ProposeConfChange(cc); err != nil {
			g.endChange(g.dropped())
		}
	})
	l.mark(g)
}

// keepsVote reports whether this node still votes after a change. A leader that
// voted itself out would step down before the others know that they may go on
// without it; of two voters, the other could then never be elected. It also
// keeps a group from losing its last voter, which the core notices only once
// that is committed.
func (g *group) keepsVote(cc *raftpb.ConfChangeV2) bool {
	votes := g.votes(g.h.cfg.Node)
	for _, c := range cc.GetChanges() {
		if c.GetNodeId() == uint64(g.h.cfg.Node) {
			votes = c.GetType() == raftpb.ConfChangeAddNode
		}
	}
	return votes
}

// electable reports whether, after a change, those who answer this node and have a
// state are a majority of the voters. Otherwise the group, should it lose its
// leader, would wait for a node that is gone, or for one without a state, which
// does not vote and gets a state from a leader alone: it could stand still for
// ever (found by the simulation). Who has not answered for half an election timeout
// is not counted: it may be gone.
func (g *group) electable(cc *raftpb.ConfChangeV2, now uint64) bool {
	voters := map[uint64]bool{}
	for _, id := range g.conf.GetVoters() {
		voters[id] = true
	}
	for _, c := range cc.GetChanges() {
		delete(voters, c.GetNodeId())
		if c.GetType() == raftpb.ConfChangeAddNode {
			voters[c.GetNodeId()] = true
		}
	}
	self, able := uint64(g.h.cfg.Node), 0
	g.rn.WithProgress(func(id uint64, _ raft.ProgressType, pr tracker.Progress) {
		if voters[id] && (id == self || pr.Match > 0 && g.heardWithin(covey.NodeID(id), now, (g.h.cfg.ElectionTicks+1)/2)) {
			able++
		}
	})
	return able > len(voters)/2
}

// changeLogged learns whether the core took the change: one it does not allow
// now leaves an empty entry in its place.
func (g *group) changeLogged(entries []*raftpb.Entry) {
	if g.change == nil || g.change.logged {
		return
	}
	for _, e := range entries {
		if cc := decodeChange(e); cc != nil && g.change.matches(cc) {
			g.change.logged = true
			return
		}
	}
	if len(entries) > 0 {
		g.endChange(covey.Errorf(covey.Unavailable, "shard %d: the membership cannot be changed now", g.id))
	}
}

func (c *change) matches(cc *raftpb.ConfChangeV2) bool {
	return len(cc.GetContext()) == 8 && binary.LittleEndian.Uint64(cc.GetContext()) == c.nonce
}

// decodeChange returns the membership change in an entry, nil if there is none.
func decodeChange(e *raftpb.Entry) *raftpb.ConfChangeV2 {
	switch e.GetType() {
	case raftpb.EntryConfChange:
		cc := &raftpb.ConfChange{}
		if proto.Unmarshal(e.GetData(), cc) == nil {
			return cc.AsV2()
		}
	case raftpb.EntryConfChangeV2:
		cc := &raftpb.ConfChangeV2{}
		if proto.Unmarshal(e.GetData(), cc) == nil {
			return cc
		}
	}
	return nil
}

// applyChange makes a committed membership change effective, unless the log's
// membership is that new already, and has it written.
func (l *loop) applyChange(g *group, e *raftpb.Entry) {
	if e.GetIndex() <= g.confIndex {
		return
	}
	cc := decodeChange(e)
	if cc == nil {
		panic(covey.Errorf(covey.Corrupt, "entry %d is no membership change", e.GetIndex()))
	}
	before := g.conf
	g.conf = g.rn.ApplyConfChange(cc)
	g.confIndex, g.confAt = e.GetIndex(), l.ticks
	g.noteMembers(before)
	l.gather.records.ConfState(g.id, g.conf, g.confIndex)
	l.gather.sync = true
	g.publishMembers()
	g.out.Info("members", "voters", nodeIDs(g.conf.GetVoters()), "learners", nodeIDs(g.conf.GetLearners()), "leaving", nodeIDs(g.conf.GetVotersOutgoing()), "index", g.confIndex)
	if c := g.change; c != nil {
		c.applied = c.applied || c.matches(cc)
		if c.applied && len(g.conf.GetVotersOutgoing()) == 0 {
			c.last = g.confIndex
		}
	}
	g.publish()
}

// changeApplied answers a change that is complete, once the core knows that its
// entries are applied: until then it allows no other.
func (g *group) changeApplied() {
	if c := g.change; c != nil && c.last != 0 && g.rn.BasicStatus().Applied >= c.last {
		g.endChange(nil)
	}
}

// endChange answers the membership change under way, if there is one.
func (g *group) endChange(err error) {
	if g.change != nil {
		g.change.done <- err
		g.change = nil
	}
}

func (g *group) tickChange(now uint64) {
	if g.change != nil && now >= g.change.deadline {
		g.endChange(covey.Errorf(covey.Unknown, "shard %d: the change of members takes too long", g.id))
	}
}

// TransferLeader asks the group's leader, if this node is it, to hand over to
// another voter, and returns at once: Status tells when it has happened. New
// proposals are refused meanwhile; if the other does not take over within an
// election timeout, this node leads on. Unavailable if this node does not lead, or
// if the members changed a moment ago: who has not heard yet that they have cannot
// campaign. Invalid if the other is no voter.
func (h *Host) TransferLeader(ctx context.Context, id covey.ShardID, to covey.NodeID) error {
	g, err := h.group(id)
	if err != nil {
		return err
	}
	done := make(chan error, 1)
	ask := func(l *loop) {
		switch {
		case g.dead:
			done <- g.refuse(refusedStopped, "stopped")
		case !g.leads:
			done <- g.dropped()
		case !g.votes(to):
			done <- covey.Errorf(covey.Invalid, "shard %d: node %s is no voter", id, to)
		case l.ticks-g.confAt <= 2*uint64(h.cfg.HeartbeatTicks):
			done <- covey.Errorf(covey.Unavailable, "shard %d: its members have changed just now", id)
		default:
			l.guard(g, func() { g.rn.TransferLeader(uint64(to)) })
			l.mark(g)
			done <- nil
		}
	}
	if !h.events.put(call{g, done, ask}) {
		return g.refuse(refusedStopping, "stopping")
	}
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return covey.Errorf(covey.Unknown, "transfer shard %d: %w", id, ctx.Err())
	}
}

func (g *group) votes(node covey.NodeID) bool {
	for _, v := range g.conf.GetVoters() {
		if v == uint64(node) {
			return true
		}
	}
	return false
}

// handOver gives leadership to the voter that has most of the log, if there is
// one that answers.
func (g *group) handOver() {
	if to := g.heir(); g.leads && to != 0 {
		g.rn.TransferLeader(to)
	}
}

// heir returns the voter fittest to lead instead of this node, 0 if there is
// none.
func (g *group) heir() uint64 {
	var heir, match uint64
	g.rn.WithProgress(func(id uint64, typ raft.ProgressType, pr tracker.Progress) {
		if id != uint64(g.h.cfg.Node) && typ == raft.ProgressTypePeer && pr.RecentActive && pr.Match >= match {
			heir, match = id, pr.Match
		}
	})
	return heir
}
