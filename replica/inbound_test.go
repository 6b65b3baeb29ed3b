package replica

import (
	"testing"
	"testing/synctest"
	"time"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/internal/durable/durabletest"
)

func message(typ raftpb.MessageType, change func(m *raftpb.Message)) *raftpb.Message {
	m := &raftpb.Message{Type: typ.Enum(), From: new(uint64(2)), To: new(uint64(1)), Term: new(uint64(5))}
	if change != nil {
		change(m)
	}
	return m
}

func entry(index, term uint64) *raftpb.Entry {
	return &raftpb.Entry{Index: new(index), Term: new(term), Data: appendFrame(nil, 2, index, []byte("x"))}
}

// appending makes an append of entries behind entry 3 of term 4.
func appending(entries ...*raftpb.Entry) *raftpb.Message {
	return message(raftpb.MsgApp, func(m *raftpb.Message) {
		m.Index, m.LogTerm, m.Entries = new(uint64(3)), new(uint64(4)), entries
	})
}

func TestAcceptable(t *testing.T) {
	h := &Host{cfg: Config{Node: 1}}
	tests := []struct {
		name string
		m    *raftpb.Message
		want bool
	}{
		{"nothing", nil, false},
		{"heartbeat", message(raftpb.MsgHeartbeat, nil), true},
		{"vote", message(raftpb.MsgVote, nil), true},
		{"without term", message(raftpb.MsgVote, func(m *raftpb.Message) { m.Term = nil }), false},
		{"from another", message(raftpb.MsgVote, func(m *raftpb.Message) { m.From = new(uint64(3)) }), false},
		{"to another", message(raftpb.MsgVote, func(m *raftpb.Message) { m.To = new(uint64(3)) }), false},
		{"with responses", message(raftpb.MsgVote, func(m *raftpb.Message) { m.Responses = []*raftpb.Message{{}} }), false},
		{"own affair", message(raftpb.MsgHup, nil), false},
		{"storage's affair", message(raftpb.MsgStorageAppendResp, nil), false},
		{"proposal", message(raftpb.MsgProp, func(m *raftpb.Message) { m.Entries = []*raftpb.Entry{entry(1, 1)} }), false},
		{"transfer", message(raftpb.MsgTransferLeader, nil), false},
		{"unknown type", message(raftpb.MessageType(99), nil), false},
		{"snapshot", message(raftpb.MsgSnap, func(m *raftpb.Message) {
			m.Snapshot = &raftpb.Snapshot{Metadata: &raftpb.SnapshotMetadata{Index: new(uint64(9))}}
		}), false},
		{"append", appending(entry(4, 4), entry(5, 5)), true},
		{"empty append", appending(), true},
		{"gap", appending(entry(4, 4), entry(6, 5)), false},
		{"gap before", appending(entry(5, 5)), false},
		{"term falls", appending(entry(4, 5), entry(5, 4)), false},
		{"term of the future", appending(entry(4, 6)), false},
		{"no entry", appending(nil), false},
		{"unknown entry", appending(&raftpb.Entry{Index: new(uint64(4)), Term: new(uint64(5)), Type: raftpb.EntryType(9).Enum()}), false},
		{"read", message(raftpb.MsgReadIndex, func(m *raftpb.Message) { m.Entries = []*raftpb.Entry{{}} }), true},
		{"read without context", message(raftpb.MsgReadIndex, nil), false},
		{"answer without context", message(raftpb.MsgReadIndexResp, nil), false},
		{"short heartbeat context", message(raftpb.MsgHeartbeatResp, func(m *raftpb.Message) { m.Context = []byte{1} }), false},
	}
	for _, test := range tests {
		if got := h.acceptable(2, Message{Message: test.m}); got != test.want {
			t.Errorf("%s: acceptable = %t", test.name, got)
		}
	}
}

// Messages beyond the bound are dropped, and the node goes on.
func TestInboundIsBounded(t *testing.T) {
	h := &Host{cfg: Config{Node: 1, MaxInboundBytes: 1000}, metrics: NewMetrics(), events: newQueue[event](),
		groups: map[covey.ShardID]*group{0: {}}}
	for range 20 {
		h.Step(2, []Message{{Group: 0, Message: message(raftpb.MsgHeartbeat, nil)}})
	}
	if got := h.events.depth(); got == 0 || got > 8 {
		t.Errorf("%d messages wait, want what fits into 1,000 octets", got)
	}
	h.Step(2, []Message{{Group: 7, Message: message(raftpb.MsgHeartbeat, nil)}})
	if got := metric(t, h, "inbound_dropped_total"); got != float64(21-h.events.depth()) {
		t.Errorf("%v dropped messages counted", got)
	}
}

// A leader that has committed what this node does not have, although the node
// said so once, is met by stopping the group, not by ending the process.
func TestImpossibleCommitStopsTheGroup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := startSingle(t, durabletest.NewDisk(), "/log", Config{}, &recorder{}, &recorder{})
		s.mustPropose(0, "one")
		s.host.Step(2, []Message{{Group: 0, Message: message(raftpb.MsgHeartbeat, func(m *raftpb.Message) { m.Commit = new(uint64(99)) })}})
		synctest.Wait()
		if s.host.Status()[0].Fault == nil {
			t.Error("the group goes on")
		}
		wantKind(t, "proposal", s.propose(0, "two"), covey.Unavailable)
		s.mustPropose(1, "others go on")
		s.mustStop()
	})
}

// An entry that is no frame was written by nobody we know: the group stops before
// it.
func TestForeignEntryStopsTheGroup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := startSingle(t, durabletest.NewDisk(), "/log", Config{}, &recorder{})
		status := s.host.Status()[0]
		e := &raftpb.Entry{Index: new(status.Last + 1), Term: new(status.Term + 1), Data: []byte("no frame")}
		s.host.Step(2, []Message{{Group: 0, Message: message(raftpb.MsgApp, func(m *raftpb.Message) {
			m.Term, m.Index, m.LogTerm = new(status.Term+1), new(status.Last), new(status.Term)
			m.Commit, m.Entries = new(status.Last+1), []*raftpb.Entry{e}
		})}})
		synctest.Wait()
		wantKind(t, "fault", s.host.Status()[0].Fault, covey.Corrupt)
		s.mustStop()
	})
}

// What follows a change of members is not applied before the new membership is on
// disk.
func TestMembershipBeforeWhatFollows(t *testing.T) {
	inCluster(t, 2, 2, func(c *cluster) {
		c.net.Split([]covey.NodeID{1}, []covey.NodeID{2}) // node 2 is played by the test
		p := c.node(1)
		step := func(typ raftpb.MessageType, commit uint64, entries ...*raftpb.Entry) {
			p.host.Step(2, []Message{{Group: 0, Message: message(typ, func(m *raftpb.Message) {
				m.Term, m.Commit, m.Entries = new(uint64(2)), new(commit), entries
				m.Index, m.LogTerm = new(uint64(firstIndex)), new(uint64(firstTerm))
			})}})
			synctest.Wait()
		}
		cc, err := confChange([]MemberChange{{3, Learner}}, 1)
		if err != nil {
			c.t.Fatal(err)
		}
		data, err := proto.Marshal(cc)
		if err != nil {
			c.t.Fatal(err)
		}
		change := &raftpb.Entry{Index: new(uint64(2)), Term: new(uint64(2)), Type: raftpb.EntryConfChangeV2.Enum(), Data: data}
		step(raftpb.MsgApp, 0, change, entry(3, 2), entry(4, 2))
		release := p.gate.hold(0)
		step(raftpb.MsgHeartbeat, 2)
		step(raftpb.MsgHeartbeat, 4)
		if got := p.machines[0].now().Commands; len(got) != 0 {
			c.t.Errorf("%q is applied", got)
		}
		release()
		synctest.Wait()
		wantCommands(c.t, p.machines[0], "x", "x")
		if _, index := p.log.Group(0).ConfState(); index != 2 {
			c.t.Errorf("the membership on disk is as of %d", index)
		}
	})
}

// Several changes of members may come to be applied at once, as at a follower that
// catches up: each is made.
func TestSeveralChangesAtOnce(t *testing.T) {
	inCluster(t, 2, 2, func(c *cluster) {
		c.net.Split([]covey.NodeID{1}, []covey.NodeID{2}) // node 2 is played by the test
		p := c.node(1)
		var entries []*raftpb.Entry
		for i, change := range []MemberChange{{3, Learner}, {4, Learner}, {3, Removed}} {
			cc, err := confChange([]MemberChange{change}, uint64(i))
			if err != nil {
				c.t.Fatal(err)
			}
			data, err := proto.Marshal(cc)
			if err != nil {
				c.t.Fatal(err)
			}
			entries = append(entries, &raftpb.Entry{Index: new(uint64(i) + 2), Term: new(uint64(2)), Type: raftpb.EntryConfChangeV2.Enum(), Data: data})
		}
		p.host.Step(2, []Message{{Group: 0, Message: message(raftpb.MsgApp, func(m *raftpb.Message) {
			m.Term, m.Commit, m.Entries = new(uint64(2)), new(uint64(4)), entries
			m.Index, m.LogTerm = new(uint64(firstIndex)), new(uint64(firstTerm))
		})}})
		advance(c.t, time.Second)
		if got := p.status(0); got.Applied != 4 || len(got.Learners) != 1 || got.Learners[0] != 4 {
			c.t.Errorf("after three changes at once: %+v", got)
		}
		if _, index := p.log.Group(0).ConfState(); index != 4 {
			c.t.Errorf("the membership on disk is as of %d", index)
		}
	})
}

// FuzzStep shows a node bytes as a peer might send them. Whatever they are, the
// node stays up; at worst it stops the one group that they are for.
func FuzzStep(f *testing.F) {
	for _, m := range []*raftpb.Message{
		message(raftpb.MsgHeartbeat, nil), message(raftpb.MsgVote, nil), message(raftpb.MsgPreVote, nil),
		message(raftpb.MsgTimeoutNow, nil), message(raftpb.MsgAppResp, nil), appending(entry(4, 4)),
		message(raftpb.MsgReadIndex, func(m *raftpb.Message) { m.Entries = []*raftpb.Entry{{}} }),
		message(raftpb.MsgHeartbeatResp, func(m *raftpb.Message) { m.Context = make([]byte, 8) }),
	} {
		b, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m := &raftpb.Message{}
		if proto.Unmarshal(b, m) != nil {
			return
		}
		synctest.Test(t, func(t *testing.T) {
			s := startSingle(t, durabletest.NewDisk(), "/log", Config{}, &recorder{}, &recorder{})
			s.host.Step(covey.NodeID(m.GetFrom()), []Message{{Group: 0, Message: m}, {Group: 0, Message: m}})
			synctest.Wait()
			s.mustPropose(1, "still up")
			s.mustStop()
		})
	})
}
