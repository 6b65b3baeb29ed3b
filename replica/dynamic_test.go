package replica

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/internal/durable"
	"github.com/covey-mail/covey/internal/durable/durabletest"
	"github.com/covey-mail/covey/storage/seglog"
)

func TestAddWhileRunning(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := startSingle(t, durable.OS(), t.TempDir(), Config{}, &recorder{})
		late := &recorder{read: s.log.Read}
		if err := s.host.Add(1, late, []covey.NodeID{1}); err != nil {
			t.Fatal(err)
		}
		s.machines = append(s.machines, late)
		wantKind(t, "added twice", s.host.Add(1, &recorder{}, []covey.NodeID{1}), covey.Exists)
		s.mustPropose(1, "one")
		wantCommands(t, late, "one")
		if status := s.host.Status(); len(status) != 2 || status[1].Leader != 1 {
			t.Errorf("Status = %+v", status)
		}
		s.mustStop()
		if len(late.durable.Commands) != 1 {
			t.Error("the group that came late was stopped without a checkpoint")
		}
		refused := &recorder{}
		wantKind(t, "added after the end", s.host.Add(2, refused, nil), covey.Unavailable)
		if refused.closed != 0 {
			t.Error("a state machine was closed that still is the caller's")
		}
	})
}

// A group that is added when Run is about to end is closed by it.
func TestAddBeforeRunThatEndsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSingle(t, durabletest.NewDisk(), "/log", Config{}, &recorder{}, &recorder{})
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		s.cancel = cancel
		go func() { s.ended <- s.host.Run(ctx) }()
		s.mustStop()
	})
}

// leaderships records what Config.Led says.
type leaderships struct {
	mu   sync.Mutex
	list []Leadership
}

func (l *leaderships) note(e Leadership) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.list = append(l.list, e)
}

func (l *leaderships) all() []Leadership {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]Leadership(nil), l.list...)
}

func TestLedTellsEveryChange(t *testing.T) {
	var seen leaderships
	synctest.Test(t, func(t *testing.T) {
		s := startSingle(t, durabletest.NewDisk(), "/log", Config{Led: seen.note}, &recorder{}, &recorder{panicOn: "poison"})
		s.mustPropose(0, "one")
		s.propose(1, "poison")
		synctest.Wait()
		s.mustStop()
	})
	var one []Leadership
	for _, e := range seen.all() {
		if e.Group == 1 {
			one = append(one, e)
		}
	}
	want := []Leadership{{1, 0, 2}, {1, 1, 2}, {1, 0, 2}}
	if diff := cmp.Diff(want, one); diff != "" {
		t.Errorf("of the group that stopped (-want +got):\n%s", diff)
	}
}

func TestLedFollowsTheLeader(t *testing.T) {
	var seen leaderships
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 1, 3, 3, 1)
		old := c.leader(0, c.all()...)
		witness := c.node(c.others(old.id)[0])
		witness.crash(0)
		c.cfg.Led = seen.note
		witness.start()
		c.leader(0, c.all()...).mustPropose(0, "one")
		c.waitFor("news of the old leader", func() bool { return witness.status(0).Leader == old.id })
		old.crash(0)
		c.leader(0, c.others(old.id)...)
		list, status := seen.all(), witness.status(0)
		if last := list[len(list)-1]; last != (Leadership{0, status.Leader, status.Term}) {
			t.Errorf("told last %+v, but the status is %+v", last, status)
		}
		term, leader := uint64(0), map[uint64]covey.NodeID{}
		for _, e := range list {
			if e.Term < term || leader[e.Term] != 0 && e.Leader != 0 && leader[e.Term] != e.Leader {
				t.Errorf("told %+v after term %d", e, term)
			}
			if term = e.Term; e.Leader != 0 {
				leader[term] = e.Leader
			}
		}
		c.end()
	})
}

func TestUnknownGroupIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		type call struct {
			group covey.ShardID
			from  covey.NodeID
		}
		var calls []call
		cfg := Config{Unknown: func(id covey.ShardID, from covey.NodeID) { calls = append(calls, call{id, from}) }}
		s := startSingle(t, durabletest.NewDisk(), "/log", cfg, &recorder{})
		s.host.Step(2, []Message{
			{Group: 7, Message: message(raftpb.MsgHeartbeat, nil)},
			{Group: 0, Message: message(raftpb.MsgVote, nil)},
			{Group: 8, Message: message(raftpb.MsgHup, nil)}, // no sound peer sends it
		})
		if diff := cmp.Diff([]call{{7, 2}}, calls, cmp.AllowUnexported(call{})); diff != "" {
			t.Errorf("told (-want +got):\n%s", diff)
		}
		s.mustStop()
	})
}

func TestStatusOfFollowers(t *testing.T) {
	inCluster(t, 3, 3, func(c *cluster) {
		leader := c.leader(0, c.all()...)
		leader.mustPropose(0, "one")
		advance(c.t, time.Second)
		away := c.others(leader.id)[1]
		want := func(active bool, match uint64) {
			c.t.Helper()
			var all []Follower
			for i, id := range c.others(leader.id) {
				f := Follower{Node: id, Match: leader.status(0).Last, Active: true}
				if i == 1 {
					f.Active, f.Match = active, match
				}
				all = append(all, f)
			}
			if diff := cmp.Diff(all, leader.status(0).Followers); diff != "" {
				c.t.Errorf("followers (-want +got):\n%s", diff)
			}
		}
		had := leader.status(0).Last
		want(true, had)
		c.net.Split([]covey.NodeID{away}, c.others(away))
		leader.mustPropose(0, "two")
		advance(c.t, 4*time.Second)
		want(false, had)
		if got := c.node(away).status(0).Followers; got != nil {
			c.t.Errorf("one that does not lead has followers %+v", got)
		}
		c.net.Heal()
		c.agree(0)
	})
}

// Whoever waits when the host stops is told, also without a deadline of its own.
func TestStopAnswersWhoeverWaits(t *testing.T) {
	inCluster(t, 3, 3, func(c *cluster) {
		leader := c.leader(0, c.all()...)
		c.net.Split([]covey.NodeID{1}, []covey.NodeID{2}, []covey.NodeID{3})
		answers := make(chan error, 3)
		go func() { answers <- leader.host.ReadIndex(context.Background(), 0) }()
		go func() {
			answers <- leader.host.ChangeMembers(context.Background(), 0, []MemberChange{{9, Learner}})
		}()
		synctest.Wait()
		leader.cancel()
		// Whatever comes when the loop is about to end.
		go func() {
			<-leader.ended
			answers <- leader.host.TransferLeader(context.Background(), 0, c.others(leader.id)[0])
			leader.ended <- nil
		}()
		for range 3 {
			if err := <-answers; err == nil {
				c.t.Error("something was done that could not be")
			}
		}
	})
}

func TestRemove(t *testing.T) {
	inCluster(t, 3, 3, func(c *cluster) {
		leader := c.leader(0, c.all()...)
		leader.mustPropose(0, "one")
		gone := c.node(c.others(leader.id)[0])
		if err := leader.host.ChangeMembers(c.t.Context(), 0, []MemberChange{{gone.id, Removed}}); err != nil {
			c.t.Fatal(err)
		}
		wantKind(c.t, "the leader", leader.host.Remove(c.t.Context(), 0), covey.Invalid)
		wantKind(c.t, "a stranger", gone.host.Remove(c.t.Context(), 9), covey.NotFound)
		machine, term := gone.machines[0], gone.status(0).Term
		machine.mu.Lock()
		machine.checkErr = fmt.Errorf("a state that leaves is not checkpointed")
		machine.mu.Unlock()
		if err := gone.leave(0); err != nil {
			c.t.Fatal(err)
		}
		if machine.closed != 1 || machine.checks != 0 {
			c.t.Errorf("the state machine was closed %d times after %d checkpoints", machine.closed, machine.checks)
		}
		wantKind(c.t, "twice", gone.host.Remove(c.t.Context(), 0), covey.NotFound)
		wantKind(c.t, "proposal", gone.propose(0, time.Second, "x"), covey.NotFound)
		if len(gone.host.Status()) != 0 {
			c.t.Errorf("Status = %+v", gone.host.Status())
		}
		leader.mustPropose(0, "two")
		gone.crash(0)
		gone.start()
		if !gone.log.Group(0).Empty() {
			c.t.Error("after a restart the group is back")
		}
		gone.join(0)
		if got := gone.status(0); got.Term != term || got.Leader != 0 || len(got.Voters) != 0 || got.Fault != nil {
			c.t.Errorf("the group that came back: %+v, want term %d", got, term)
		}
		advance(c.t, 10*time.Second)
		if got := gone.status(0); got.Term != term {
			c.t.Errorf("without a membership it went to term %d", got.Term)
		}
		leader.mustPropose(0, "three")
	})
}

// Whoever waits for a group that leaves is told.
func TestRemoveAnswersWhoeverWaits(t *testing.T) {
	inCluster(t, 3, 3, func(c *cluster) {
		leader := c.leader(0, c.all()...)
		gone := c.node(c.others(leader.id)[0])
		read := make(chan error, 1)
		c.net.Split([]covey.NodeID{gone.id}, c.others(gone.id))
		go func() { read <- gone.host.ReadIndex(context.Background(), 0) }()
		synctest.Wait()
		if err := gone.leave(0); err != nil {
			c.t.Fatal(err)
		}
		wantKind(c.t, "read", <-read, covey.Unavailable)
	})
}

// A group that stopped over a fault can be taken away too.
func TestRemoveAfterFault(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &recorder{panicOn: "poison"}
		s := startSingle(t, durabletest.NewDisk(), "/log", Config{}, m)
		wantKind(t, "poison", s.propose(0, "poison"), covey.Internal)
		synctest.Wait() // the loop hears of the fault after who waited
		if err := s.host.Remove(t.Context(), 0); err != nil {
			t.Fatal(err)
		}
		s.mustStop()
	})
}

// An asker is the transport of a node that is asked for its vote.
type asker struct {
	mu      sync.Mutex
	granted map[covey.NodeID]bool
}

func (a *asker) Send(to covey.NodeID, messages []Message) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, m := range messages {
		if m.Message.GetType() == raftpb.MsgVoteResp && !m.Message.GetReject() {
			a.granted[to] = true
		}
	}
}

func (a *asker) asks(h *Host, from covey.NodeID, term uint64) bool {
	h.Step(from, []Message{{Message: message(raftpb.MsgVote, func(m *raftpb.Message) {
		m.From, m.Term, m.Index, m.LogTerm = new(uint64(from)), new(term), new(uint64(50)), new(uint64(4))
	})}})
	synctest.Wait()
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.granted[from]
}

// A replica that comes back with nothing does not vote, in no term.
func TestBlankReplicaDoesNotVote(t *testing.T) {
	for _, restart := range []bool{false, true} {
		t.Run(fmt.Sprintf("restart=%t", restart), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				disk := durabletest.NewDisk()
				a := &asker{granted: map[covey.NodeID]bool{}}
				start := func() *single {
					s := newSingle(t, disk, "/log", Config{Transport: a})
					s.machines = []*recorder{{}}
					return s
				}
				s := start()
				if err := s.host.Add(0, s.machines[0], []covey.NodeID{1, 2, 3}); err != nil {
					t.Fatal(err)
				}
				s.run()
				if !a.asks(s.host, 2, 5) {
					t.Fatal("the first candidate got no vote")
				}
				if err := s.host.Remove(t.Context(), 0); err != nil {
					t.Fatal(err)
				}
				if restart {
					s.mustStop()
					s = start()
					s.run()
				} else {
					s.machines[0] = &recorder{}
				}
				if err := s.host.Add(0, s.machines[0], nil); err != nil {
					t.Fatal(err)
				}
				if a.asks(s.host, 3, 5) || a.asks(s.host, 3, 6) {
					t.Error("a replica that has nothing has voted")
				}
				if got := s.host.Status()[0].Term; got != 5 {
					t.Errorf("it is in term %d, was in 5", got)
				}
				s.mustStop()
			})
		})
	}
}

// A majority committed something with the help of a replica that then leaves and
// comes back with nothing. It must not help a node to be elected that neither has
// that, nor knows that the other left.
func TestReturnedReplicaElectsNobodyOverWhatItHelpedToCommit(t *testing.T) {
	inTruncating(t, 3, 3, func(c *cluster) {
		leader := c.leader(0, c.all()...)
		leader.mustPropose(0, "before")
		c.agree(0)
		cut, back := c.node(c.others(leader.id)[0]), c.node(c.others(leader.id)[1])
		c.net.Split([]covey.NodeID{cut.id}, []covey.NodeID{leader.id, back.id})
		leader.mustPropose(0, "committed by two")
		c.change(leader, MemberChange{back.id, Removed})
		leader.crash(0)
		if err := back.leave(0); err != nil {
			c.t.Fatal(err)
		}
		back.join(0)
		c.net.Heal()
		advance(c.t, time.Minute)
		if cut.leads(0) {
			c.t.Error("a node leads that misses what was committed")
		}
		leader.start()
		c.leader(0, leader.id, cut.id).mustPropose(0, "after")
		c.change(c.leader(0, leader.id, cut.id), MemberChange{back.id, Voter})
		got := c.agree(0).Commands
		if diff := cmp.Diff([]string{"before", "committed by two", "after"}, got); diff != "" {
			c.t.Errorf("applied (-want +got):\n%s", diff)
		}
	})
}

// A copy that was offered to a former life is not taken in if that had more: the
// replica would vote on less than others count on.
func TestCopyForAFormerLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk, out := durabletest.NewDisk(), &player{}
		s := newSingle(t, disk, "/log", Config{Transport: out})
		var b seglog.Batch
		b.Leave(0, &raftpb.HardState{Term: new(uint64(5))}, 50, 5)
		if err := s.log.Write(&b, seglog.Synced); err != nil {
			t.Fatal(err)
		}
		s.machines = []*recorder{{}}
		if err := s.host.Add(0, s.machines[0], nil); err != nil {
			t.Fatal(err)
		}
		s.run()
		for i, test := range []struct {
			index, term uint64
			want        bool
		}{{49, 5, false}, {60, 4, false}, {50, 5, true}, {20, 6, true}} {
			before := out.fetches()
			s.host.Step(2, []Message{{Message: message(raftpb.MsgSnap, func(m *raftpb.Message) {
				m.Term = new(uint64(6 + i))
				m.Snapshot = &raftpb.Snapshot{Data: make([]byte, 8), Metadata: &raftpb.SnapshotMetadata{
					Index: new(test.index), Term: new(test.term), ConfState: &raftpb.ConfState{Voters: []uint64{1, 2}},
				}}
			})}})
			advance(t, 20*time.Second)
			if got := out.fetches() > before; got != test.want {
				t.Errorf("a copy of %d in term %d: fetched = %t", test.index, test.term, got)
			}
		}
		s.mustStop()
	})
}

// Power may go at any moment of a removal: the group is there as it was, or it is
// gone and keeps its term.
func TestCrashDuringRemoval(t *testing.T) {
	for after := range 8 {
		inCluster(t, 3, 3, func(c *cluster) {
			leader := c.leader(0, c.all()...)
			leader.mustPropose(0, "one")
			c.agree(0)
			gone := c.node(c.others(leader.id)[0])
			term := gone.status(0).Term
			gone.disk.StopAfter(after)
			err := gone.host.Remove(c.t.Context(), 0)
			gone.crash(uint64(after))
			log, openErr := seglog.Open(seglog.Config{Dir: "/log", FS: gone.disk, SegmentSize: 256 << 10})
			if openErr != nil {
				c.t.Fatal(openErr)
			}
			g := log.Group(0)
			hs, cs, _ := g.InitialState()
			last, _ := g.LastIndex()
			switch {
			case err == nil && !g.Empty():
				c.t.Errorf("after %d: removed, and back", after)
			case hs.GetTerm() != term:
				c.t.Errorf("after %d: term %d, was %d", after, hs.GetTerm(), term)
			case g.Empty() && last < 3:
				c.t.Errorf("after %d: gone, and said to have had only %d", after, last)
			case !g.Empty() && (last < 3 || len(cs.GetVoters()) != 3):
				c.t.Errorf("after %d: ends at %d, members %v", after, last, cs)
			}
			log.Close()
		})
	}
}

// A data folder of a program whose logs began at 0 goes on, whether or not
// anything happened in it.
func TestLogThatBeganAtZero(t *testing.T) {
	for _, entries := range []uint64{0, 1, 2} {
		t.Run(fmt.Sprint(entries), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				disk := durabletest.NewDisk()
				m := &recorder{}
				s := newSingle(t, disk, "/log", Config{})
				s.machines = []*recorder{m}
				var b seglog.Batch
				b.ConfState(0, &raftpb.ConfState{Voters: []uint64{1}}, 0)
				var want []string
				if entries > 0 {
					b.HardState(0, &raftpb.HardState{Term: new(uint64(1)), Vote: new(uint64(1)), Commit: new(uint64(0))})
					b.Append(0, []*raftpb.Entry{{Index: new(uint64(1)), Term: new(uint64(1))}})
				}
				if entries > 1 {
					b.Append(0, []*raftpb.Entry{{Index: new(uint64(2)), Term: new(uint64(1)), Data: appendFrame(nil, 1, 9, []byte("old"))}})
					want = append(want, "old")
				}
				if err := s.log.Write(&b, seglog.Synced); err != nil {
					t.Fatal(err)
				}
				m.read = s.log.Read
				if err := s.host.Add(0, m, []covey.NodeID{1}); err != nil {
					t.Fatal(err)
				}
				if first, err := (&logView{Group: s.log.Group(0)}).FirstIndex(); err != nil || first != 2 {
					t.Errorf("the core sees entries from %d (%v), want 2", first, err)
				}
				s.run()
				s.mustPropose(0, "new")
				wantCommands(t, m, append(want, "new")...)
				s.mustStop()
			})
		})
	}
}
