package replica

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/internal/durable/durabletest"
	"github.com/covey-mail/covey/internal/simnet"
)

// inForwarding is inCluster with a group 0 whose proposals go to the leader, and
// a group 1 whose do not.
func inForwarding(t *testing.T, n, voters int, fn func(c *cluster)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		c := prepareCluster(t, 1, n, voters, 2)
		c.cfg.Forward = []covey.ShardID{0}
		c.start()
		fn(c)
		c.end()
	})
}

func TestEveryMemberProposes(t *testing.T) {
	inForwarding(t, 4, 3, func(c *cluster) {
		leader := c.leader(0, 1, 2, 3)
		if err := leader.host.ChangeMembers(c.t.Context(), 0, []MemberChange{{4, Learner}}); err != nil {
			c.t.Fatal(err)
		}
		advance(c.t, time.Second)
		var want []string
		for _, p := range c.nodes {
			want = append(want, fmt.Sprintf("from %d", p.id))
			p.mustPropose(0, want[len(want)-1])
		}
		c.agree(0)
		for _, p := range c.nodes {
			wantCommands(c.t, p.machines[0], want...)
		}
		elsewhere := c.leader(1, 1, 2, 3)
		err := c.node(c.others(elsewhere.id)[0]).propose(1, time.Second, "x")
		wantKind(c.t, "in a group that does not forward", err, covey.Unavailable)
	})
}

// A network that loses messages and brings them twice costs time and nothing
// else.
func TestForwardingInBadWeather(t *testing.T) {
	inForwarding(t, 3, 3, func(c *cluster) {
		leader := c.leader(0, c.all()...)
		c.net.SetWeather(simnet.Weather{Loss: 0.2, Duplicate: 0.5, MaxDelay: 50 * time.Millisecond})
		var mu sync.Mutex
		outcome := map[string]error{}
		var wg sync.WaitGroup
		for _, id := range c.others(leader.id) {
			for i := range 40 {
				wg.Go(func() {
					command := fmt.Sprintf("%d/%d", id, i)
					err := c.node(id).propose(0, time.Minute, command)
					mu.Lock()
					defer mu.Unlock()
					outcome[command] = err
				})
			}
		}
		wg.Wait()
		c.net.SetWeather(simnet.Weather{})
		count := map[string]int{}
		for _, command := range c.agree(0).Commands {
			count[command]++
		}
		done := 0
		for command, err := range outcome {
			n := count[command]
			switch {
			case n > 1:
				c.t.Errorf("%s was applied %d times", command, n)
			case err == nil && n == 0, covey.KindOf(err) == covey.Unavailable && err != nil && n > 0:
				c.t.Errorf("%s was applied %d times, and answered %v", command, n, err)
			case err == nil:
				done++
			}
		}
		if done < 40 {
			c.t.Errorf("only %d of 80 were done", done)
		}
	})
}

// A leader that is lost on the way leaves its callers in doubt for a bounded
// time, whatever their own deadline.
func TestLeaderLostOnTheWay(t *testing.T) {
	for _, cut := range []string{"both ways", "answers", "questions"} {
		t.Run(cut, func(t *testing.T) {
			inForwarding(t, 3, 3, func(c *cluster) {
				leader := c.leader(0, c.all()...)
				p := c.node(c.others(leader.id)[0])
				began := time.Now()
				if cut != "questions" {
					c.net.Cut(leader.id, p.id)
				}
				if cut != "answers" {
					c.net.Cut(p.id, leader.id)
				}
				err := p.propose(0, time.Hour, "in doubt")
				if took := time.Since(began); took > 8*time.Second {
					c.t.Errorf("the caller learned it after %v", took)
				}
				if err != nil {
					wantKind(c.t, "the leader is lost", err, covey.Unknown)
				}
				c.net.Heal()
				c.leader(0, c.all()...)
				c.waitFor("leader at the member", func() bool { return p.status(0).Leader != 0 })
				p.mustPropose(0, "after")
				c.agree(0)
			})
		})
	}
}

func TestForwardingWithoutLeader(t *testing.T) {
	inForwarding(t, 3, 3, func(c *cluster) {
		p := c.leader(0, c.all()...)
		c.net.Split([]covey.NodeID{1}, []covey.NodeID{2}, []covey.NodeID{3})
		c.waitFor("end of leadership", func() bool { return p.status(0).Leader == 0 })
		for _, p := range c.nodes {
			c.waitFor("loss of the leader", func() bool { return p.status(0).Leader == 0 })
			wantKind(c.t, "no leader", p.propose(0, time.Hour, "x"), covey.Unavailable)
		}
		c.net.Heal()
		c.leader(0, c.all()...).mustPropose(0, "y")
		if got := c.agree(0).Commands; len(got) != 1 {
			c.t.Errorf("applied %v", got)
		}
	})
}

// What the leader refuses, its members' callers learn: it was not done.
func TestForwardedRefusal(t *testing.T) {
	inForwarding(t, 3, 3, func(c *cluster) {
		leader := c.leader(0, c.all()...)
		leader.mustPropose(0, "before")
		p := c.node(c.others(leader.id)[0])
		leader.disk.Inject(durabletest.Fault{Op: durabletest.Write, Err: errNoSpace, Times: -1})
		go leader.propose(0, time.Second, "on the way")
		advance(c.t, 500*time.Millisecond)
		wantKind(c.t, "the leader's disk is full", p.propose(0, time.Minute, "x"), covey.DiskFull)
		leader.disk.Heal()
		c.waitFor("end", func() bool { return c.leader(0, c.all()...).propose(0, time.Second, "after") == nil })
		for _, command := range c.agree(0).Commands {
			if command == "x" {
				c.t.Error("a command was refused and applied")
			}
		}
	})
}

// A proposal that the leader accepted, and whose place another leader's entry
// took, was definitely not done.
func TestOverriddenForwardedProposal(t *testing.T) {
	inForwarding(t, 5, 5, func(c *cluster) {
		old := c.leader(0, c.all()...)
		rest := c.others(old.id)
		with, others := rest[0], rest[1:]
		c.net.Split([]covey.NodeID{old.id, with}, others)
		done := make(chan error, 1)
		go func() { done <- c.node(with).propose(0, time.Hour, "overridden") }()
		c.waitFor("end of the old leadership", func() bool { return !old.leads(0) })
		c.waitFor("new leader", func() bool {
			for _, id := range others {
				if c.node(id).leads(0) {
					return true
				}
			}
			return false
		})
		c.net.Heal()
		wantKind(c.t, "overridden proposal", <-done, covey.Unavailable)
	})
}

// A player is a node's transport in a test that plays the other nodes.
type player struct {
	mu      sync.Mutex
	sent    []Message
	fetched int
}

// fetches counts the calls of Fetch.
func (p *player) fetches() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.fetched
}

func (p *player) Send(_ covey.NodeID, messages []Message) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sent = append(p.sent, messages...)
}

// take returns what was sent since the last time.
func (p *player) take() []Message {
	synctest.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	sent := p.sent
	p.sent = nil
	return sent
}

func (p *player) answers() (all []Answer) {
	for _, m := range p.take() {
		if m.Answer != nil {
			all = append(all, *m.Answer)
		}
	}
	return all
}

// A leader gives one answer to a proposal, however often it comes, and none where
// it cannot know whether it came before.
func TestOneAnswerToAProposal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out := &player{}
		m := &recorder{}
		s := startSingle(t, durabletest.NewDisk(), "/log", Config{Transport: out}, m)
		term := s.host.Status()[0].Term
		ask := func(from covey.NodeID, term, nonce uint64) []Answer {
			s.host.Step(from, []Message{{Proposal: &Proposal{Term: term, Data: appendFrame(nil, 2, nonce, []byte("x"))}}})
			return out.answers()
		}
		first := ask(2, term, 7)
		if len(first) != 1 || first[0].Index == 0 || first[0].Nonce != 7 || first[0].Term != term {
			t.Fatalf("answers %+v", first)
		}
		if again := ask(2, term, 7); len(again) != 1 || again[0] != first[0] {
			t.Errorf("the second time %+v, was %+v", again, first)
		}
		if got := ask(2, term-1, 8); len(got) != 0 {
			t.Errorf("in a term that it knows nothing of: %+v", got)
		}
		if got := ask(3, term, 9); len(got) != 0 {
			t.Errorf("in another node's name: %+v", got)
		}
		wantCommands(t, m, "x")
		s.cancel()
		refused := ask(2, term, 10)
		for _, a := range append(refused, ask(2, term, 10)...) {
			if a.Index != 0 || a.Kind != covey.Unavailable {
				t.Errorf("a host that stops says %+v", a)
			}
		}
		s.mustStop()
	})
}

// What a leader remembers is bounded, and the oldest goes first.
func TestSeenIsBounded(t *testing.T) {
	var s seen
	s.reset(1)
	for nonce := range uint64(maxSeen + 10) {
		s.add(origin{2, nonce}, &verdict{})
	}
	if len(s.verdicts) != maxSeen || s.verdicts[origin{2, 9}] != nil || s.verdicts[origin{2, 10}] == nil {
		t.Errorf("%d are remembered", len(s.verdicts))
	}
}

// A member that was removed and came back in one term of the leader is not
// believed what its former life acknowledged.
func TestFormerLifeIsNotBelieved(t *testing.T) {
	inCluster(t, 3, 3, func(c *cluster) {
		leader := c.leader(0, c.all()...)
		leader.mustPropose(0, "one")
		c.agree(0)
		back := c.others(leader.id)[0]
		change := func(role Role) {
			c.t.Helper()
			if err := leader.host.ChangeMembers(c.t.Context(), 0, []MemberChange{{back, role}}); err != nil {
				c.t.Fatal(err)
			}
		}
		change(Removed)
		c.node(back).crash(0)
		change(Learner)
		status := leader.status(0)
		ack := func(since uint64) {
			leader.host.Step(back, []Message{{Since: since, Message: &raftpb.Message{
				Type: raftpb.MsgAppResp.Enum(), From: new(uint64(back)), To: new(uint64(leader.id)),
				Term: new(status.Term), Index: new(status.Last),
			}}})
			advance(c.t, 200*time.Millisecond)
		}
		match := func() uint64 {
			for _, f := range leader.status(0).Followers {
				if f.Node == back {
					return f.Match
				}
			}
			return 0
		}
		ack(0)
		if got := match(); got != 0 {
			c.t.Errorf("the leader believes that a new replica has %d", got)
		}
		ack(status.Last - 1)
		if got := match(); got != 0 {
			c.t.Errorf("the leader believes a replica of another life that it has %d", got)
		}
		ack(status.Last)
		if got := match(); got != status.Last {
			c.t.Errorf("the leader does not believe the new life: %d, want %d", got, status.Last)
		}
	})
}

// What a follower answers carries what the leader last said of its life.
func TestFollowerRepeatsItsLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out := &player{}
		s := newSingle(t, durabletest.NewDisk(), "/log", Config{Transport: out})
		s.machines = []*recorder{{}}
		if err := s.host.Add(0, s.machines[0], nil); err != nil {
			t.Fatal(err)
		}
		s.run()
		for _, step := range []struct{ term, since, want uint64 }{
			{5, 0, 0}, {5, 17, 17}, {5, 3, 17}, {6, 0, 0}, {6, 40, 40},
		} {
			s.host.Step(2, []Message{{Since: step.since, Message: message(raftpb.MsgHeartbeat, func(m *raftpb.Message) { m.Term = new(step.term) })}})
			sent := out.take()
			if len(sent) == 0 || sent[len(sent)-1].Since != step.want {
				t.Errorf("term %d, told %d: sent %+v, want since %d", step.term, step.since, sent, step.want)
			}
		}
		s.mustStop()
	})
}

func TestLearnerReads(t *testing.T) {
	inCluster(t, 4, 3, func(c *cluster) {
		leader := c.leader(0, 1, 2, 3)
		if err := leader.host.ChangeMembers(c.t.Context(), 0, []MemberChange{{4, Learner}}); err != nil {
			c.t.Fatal(err)
		}
		learner := c.node(4)
		c.waitFor("leader at the learner", func() bool { return learner.status(0).Leader != 0 })
		for i := range 5 {
			leader.mustPropose(0, fmt.Sprint(i))
			if err := learner.host.ReadIndex(c.t.Context(), 0); err != nil {
				c.t.Fatal(err)
			}
			if got := len(learner.machines[0].now().Commands); got != i+1 {
				c.t.Errorf("the learner reads %d commands of %d", got, i+1)
			}
		}
		// With the leader gone, a read waits for a bounded time.
		for _, p := range c.nodes[:3] {
			p.crash(0)
		}
		began := time.Now()
		for range 3 {
			wantKind(c.t, "read without leader", learner.host.ReadIndex(context.Background(), 0), covey.Unavailable)
		}
		if took := time.Since(began); took > 7*time.Second {
			c.t.Errorf("three reads failed after %v", took)
		}
		for _, p := range c.nodes[:3] {
			p.start()
		}
		c.leader(0, 1, 2, 3)
		c.waitFor("read at the learner", func() bool {
			ctx, cancel := context.WithTimeout(c.t.Context(), time.Second)
			defer cancel()
			return learner.host.ReadIndex(ctx, 0) == nil
		})
	})
}

// A single voter that was just elected does not know yet what it acknowledged in
// its last life, and must not tell a learner.
func TestLearnerReadsAfterTheVoterRestarted(t *testing.T) {
	inCluster(t, 2, 1, func(c *cluster) {
		voter, learner := c.node(1), c.node(2)
		c.leader(0, 1)
		if err := voter.host.ChangeMembers(c.t.Context(), 0, []MemberChange{{2, Learner}}); err != nil {
			c.t.Fatal(err)
		}
		voter.mustPropose(0, "one")
		c.agree(0)
		c.net.Split([]covey.NodeID{1}, []covey.NodeID{2})
		voter.mustPropose(0, "two")
		voter.crash(0)
		c.net.Heal()
		voter.prepare()
		release := voter.gate.hold(1) // the vote passes, the first entry of the term does not
		voter.run()
		began := time.Now()
		c.waitFor("election", func() bool { return voter.status(0).Leader == 1 })
		if took := time.Since(began); took > 200*time.Millisecond {
			c.t.Errorf("a group of one waited %v for a clock", took)
		}
		c.waitFor("leader at the learner", func() bool { return learner.status(0).Term == voter.status(0).Term })
		read := make(chan error, 1)
		go func() { read <- learner.host.ReadIndex(c.t.Context(), 0) }()
		advance(c.t, time.Second)
		release()
		if err := <-read; err != nil {
			c.t.Fatal(err)
		}
		wantCommands(c.t, learner.machines[0], "one", "two")
	})
}

// A follower answers what an old leader still had under way, to the same node,
// which leads again: that says nothing of its log, and the leader goes on looking
// where the logs meet.
func TestAnswerToAnEarlierTermIsPassedOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out := &player{}
		s := startSingle(t, durabletest.NewDisk(), "/log", Config{Transport: out}, &recorder{})
		s.mustPropose(0, "one", "two", "three")
		if err := s.host.ChangeMembers(t.Context(), 0, []MemberChange{{2, Learner}}); err != nil {
			t.Fatal(err)
		}
		status := s.host.Status()[0]
		var probe *raftpb.Message
		for _, m := range out.take() {
			if m.Message.GetType() == raftpb.MsgApp {
				probe = m.Message
			}
		}
		if probe == nil {
			t.Fatal("the learner is sent nothing")
		}
		answer := func(change func(m *raftpb.Message)) {
			s.host.Step(2, []Message{{Since: status.Last, Message: message(raftpb.MsgAppResp, func(m *raftpb.Message) {
				m.Term = new(status.Term)
				change(m)
			})}})
		}
		answer(func(*raftpb.Message) {})
		out.take()
		answer(func(m *raftpb.Message) {
			m.Index, m.Reject, m.RejectHint, m.LogTerm = new(probe.GetIndex()), new(true), new(probe.GetIndex()-1), new(status.Term)
		})
		for _, m := range out.take() {
			if m.Message.GetType() == raftpb.MsgApp {
				if got, want := m.Message.GetIndex(), probe.GetIndex()-1; got != want {
					t.Errorf("sent what follows %d, want what follows %d", got, want)
				}
				s.mustStop()
				return
			}
		}
		t.Fatal("the leader sends no more")
	})
}

// A proposal that the leader accepted waits for its quorum as the leader's own do.
func TestAcceptedProposalWaits(t *testing.T) {
	inForwarding(t, 3, 3, func(c *cluster) {
		leader := c.leader(0, c.all()...)
		var releases []func()
		for _, id := range c.others(leader.id) {
			releases = append(releases, c.node(id).gate.hold(0))
		}
		done := make(chan error, 1)
		go func() { done <- c.node(c.others(leader.id)[0]).propose(0, time.Hour, "slow") }()
		advance(c.t, 10*time.Second)
		for _, release := range releases {
			release()
		}
		if err := <-done; err != nil {
			c.t.Error(err)
		}
	})
}
