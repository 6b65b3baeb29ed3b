package replica

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/internal/simnet"
	"github.com/covey-mail/covey/internal/snapshot"
)

// inTruncating is inCluster with logs that keep nothing for followers. Nodes
// beyond the voters have no group yet.
func inTruncating(t *testing.T, n, voters int, fn func(c *cluster)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		c := prepareCluster(t, 1, n, voters, 1)
		c.log.Keep = -1
		c.cfg.CheckpointEvery = time.Second
		for _, p := range c.nodes[voters:] {
			p.machines[0] = nil
		}
		c.start()
		fn(c)
		c.end()
	})
}

// fill proposes n commands of some size, and waits until the log has forgotten
// them.
func (c *cluster) fill(leader *peer, n int) {
	c.t.Helper()
	for i := range n {
		leader.mustPropose(0, fmt.Sprintf("%d %s", i, strings.Repeat("x", 200)))
	}
	c.waitFor("truncation", func() bool {
		first, _ := leader.log.Group(0).FirstIndex()
		return first > leader.status(0).Applied-uint64(n)/2
	})
}

func (c *cluster) change(leader *peer, changes ...MemberChange) {
	c.t.Helper()
	if err := leader.host.ChangeMembers(c.t.Context(), 0, changes); err != nil {
		c.t.Fatal(err)
	}
}

func TestJoinByCopy(t *testing.T) {
	inTruncating(t, 4, 3, func(c *cluster) {
		leader := c.leader(0, 1, 2, 3)
		c.fill(leader, 50)
		joiner := c.node(4)
		joiner.join(0)
		c.change(leader, MemberChange{4, Learner})
		seen := map[bool]bool{}
		c.waitFor("copy", func() bool {
			synctest.Wait()
			for _, f := range leader.status(0).Followers {
				if f.Node == 4 && f.Snapshot {
					seen[true] = true
				}
			}
			return joiner.machines[0].Installed() != nil
		})
		c.agree(0)
		c.change(leader, MemberChange{4, Voter})
		leader.mustPropose(0, "after")
		if err := joiner.host.ReadIndex(c.t.Context(), 0); err != nil {
			c.t.Error(err)
		}
		if got := joiner.machines[0].now().Commands; len(got) != 51 {
			c.t.Errorf("the new voter has %d commands", len(got))
		}
		// It goes on by its own log and state.
		joiner.crash(0)
		joiner.start()
		c.agree(0)
		if diff := cmp.Diff([]covey.NodeID{1, 2, 3, 4}, joiner.status(0).Voters); diff != "" {
			c.t.Errorf("voters at node 4 (-want +got):\n%s", diff)
		}
		if got := joiner.machines[0].stages; got != 0 {
			c.t.Errorf("after a restart it took in %d copies", got)
		}
		if got := metric(c.t, leader.host, "copy_bytes_total", "sent"); got == 0 {
			c.t.Error("no bytes counted")
		}
	})
}

// A follower that was away so long that the log does not reach back gets a copy
// and then the log, and needs no second copy although commands go on.
func TestF40_FollowerLeftBehind(t *testing.T) {
	inTruncating(t, 3, 3, func(c *cluster) {
		leader := c.leader(0, c.all()...)
		leader.mustPropose(0, "first")
		c.agree(0)
		behind := c.node(c.others(leader.id)[0])
		behind.crash(0)
		c.fill(leader, 50)
		leader.machines[0].chunk = 100 // some 130 chunks, a second or so
		behind.start()
		for i := range 200 {
			leader.mustPropose(0, fmt.Sprintf("beside %d", i))
			advance(c.t, 10*time.Millisecond)
		}
		c.agree(0)
		if got := behind.machines[0].stages; got != 1 {
			c.t.Errorf("it took %d copies", got)
		}
		if n := len(leader.machines[0].copies); n != 0 {
			c.t.Errorf("%d copies are still open", n)
		}
		if got := metric(c.t, behind.host, "copies_total", "installed"); got != 1 {
			c.t.Errorf("%v installations counted", got)
		}
	})
}

// copying starts a follower that needs a copy, and waits until some of it is
// there.
func copying(c *cluster) (leader, behind *peer) {
	c.t.Helper()
	leader = c.leader(0, c.all()...)
	behind = c.node(c.others(leader.id)[0])
	behind.crash(0)
	c.fill(leader, 50)
	leader.machines[0].chunk = 50
	behind.start()
	c.waitFor("part of the copy", func() bool { return len(behind.port.requests()) > 20 })
	if !behind.status(0).Receiving {
		c.t.Errorf("status %+v", behind.status(0))
	}
	return leader, behind
}

// restarts counts how often a node began to fetch a copy.
func restarts(p *peer) (n int) {
	last := uint64(1)
	for _, r := range p.port.requests() {
		if r.Chunk == 0 && last != 0 {
			n++
		}
		last = r.Chunk
	}
	return n
}

// A fetch that is interrupted goes on where it was.
func TestFetchIsResumed(t *testing.T) {
	inTruncating(t, 3, 3, func(c *cluster) {
		leader, behind := copying(c)
		for range 3 {
			c.net.Split([]covey.NodeID{leader.id}, []covey.NodeID{behind.id})
			advance(c.t, 4*time.Second)
			c.net.Heal()
			advance(c.t, 2*time.Second)
		}
		c.agree(0)
		if n := restarts(behind); n != 1 {
			c.t.Errorf("the copy was begun %d times", n)
		}
	})
}

// Chunks that are lost are asked for again.
func TestFetchInBadWeather(t *testing.T) {
	inTruncating(t, 3, 3, func(c *cluster) {
		_, behind := copying(c)
		c.net.SetWeather(simnet.Weather{Loss: 0.1, Duplicate: 0.3, MaxDelay: 20 * time.Millisecond})
		c.waitFor("copy", func() bool { return behind.machines[0].Installed() != nil })
		c.net.SetWeather(simnet.Weather{})
		c.agree(0)
	})
}

// When another node leads, the copy is begun anew from that one.
func TestLeaderChangesDuringFetch(t *testing.T) {
	inTruncating(t, 3, 3, func(c *cluster) {
		leader, behind := copying(c)
		old := leader.machines[0]
		next := c.node(c.others(leader.id)[1])
		if next == behind {
			c.t.Fatal("the wrong node is behind")
		}
		if err := leader.host.TransferLeader(c.t.Context(), 0, next.id); err != nil {
			c.t.Fatal(err)
		}
		c.agree(0)
		if n := restarts(behind); n < 2 {
			c.t.Errorf("the copy was begun %d times", n)
		}
		advance(c.t, 5*time.Second)
		if n := len(old.copies); n != 0 {
			c.t.Errorf("a node that leads no more has %d copies open", n)
		}
	})
}

func TestFollowerCrashesDuringFetch(t *testing.T) {
	inTruncating(t, 3, 3, func(c *cluster) {
		_, behind := copying(c)
		behind.crash(3)
		behind.start()
		c.agree(0)
	})
}

func TestLeaderCrashesDuringFetch(t *testing.T) {
	inTruncating(t, 3, 3, func(c *cluster) {
		leader, _ := copying(c)
		leader.crash(3)
		leader.start()
		c.agree(0)
	})
}

func TestHostStopsDuringFetch(t *testing.T) {
	inTruncating(t, 3, 3, func(c *cluster) {
		_, behind := copying(c)
		behind.shutDown()
		behind.start()
		c.waitFor("part of the copy", func() bool { return len(behind.port.requests()) > 20 })
		c.end() // leader and follower, in the middle
	})
}

// A group that leaves in the middle takes what is there of the copy along.
func TestRemoveDuringFetch(t *testing.T) {
	inTruncating(t, 3, 3, func(c *cluster) {
		leader, behind := copying(c)
		machine := behind.machines[0]
		if err := behind.leave(0); err != nil {
			c.t.Fatal(err)
		}
		if machine.restoring != nil {
			c.t.Error("a copy is still being taken in")
		}
		leader.mustPropose(0, "after")
		advance(c.t, 2*time.Minute)
		if n := len(leader.machines[0].copies); n != 0 {
			c.t.Errorf("after two minutes %d copies are open for a follower that does not come", n)
		}
	})
}

// A copy that is not what was sent is not installed, and another is fetched.
func TestC08_CorruptCopy(t *testing.T) {
	for name, corrupt := range map[string]func([]byte) []byte{
		"other octets": func(b []byte) []byte { return bytes.ReplaceAll(b, []byte("xx"), []byte("yy")) },
		"cut short":    func(b []byte) []byte { return b[:len(b)/2] },
		"ends early":   func([]byte) []byte { return nil },
		"too large":    func([]byte) []byte { return make([]byte, snapshot.ChunkSize+1) },
	} {
		t.Run(name, func(t *testing.T) {
			inTruncating(t, 3, 3, func(c *cluster) {
				_, behind := copying(c)
				behind.port.corruptBy(corrupt)
				c.waitFor("failure", func() bool { return metric(c.t, behind.host, "copies_total", "failed") > 0 })
				if behind.machines[0].Installed() != nil {
					c.t.Error("it was installed")
				}
				behind.port.corruptBy(nil)
				c.agree(0)
			})
		})
	}
}

// Without room the installation waits, and nothing else does.
func TestNoRoomToInstall(t *testing.T) {
	inTruncating(t, 3, 3, func(c *cluster) {
		leader, behind := copying(c)
		m := behind.machines[0]
		m.mu.Lock()
		m.installErr = errNoRoom
		m.mu.Unlock()
		leader.mustPropose(0, "after")
		c.agree(0)
		if m.installErr != nil {
			c.t.Error("nothing was installed")
		}
	})
}

// A host that waits for room to install stops all the same.
func TestStopWithoutRoomToInstall(t *testing.T) {
	inTruncating(t, 3, 3, func(c *cluster) {
		_, behind := copying(c)
		m := behind.machines[0]
		m.mu.Lock()
		m.installErr, m.installFull = errNoRoom, true
		m.mu.Unlock()
		c.waitFor("staged copy", func() bool { m.mu.Lock(); defer m.mu.Unlock(); return m.stages > 0 })
		advance(c.t, 3*time.Second)
		behind.shutDown()
		behind.start()
		c.agree(0)
	})
}

// A state machine that cannot install stops its group.
func TestInstallFails(t *testing.T) {
	inTruncating(t, 3, 3, func(c *cluster) {
		leader, behind := copying(c)
		m := behind.machines[0]
		m.mu.Lock()
		m.installErr = errors.New("broken")
		m.mu.Unlock()
		c.waitFor("fault", func() bool { return behind.status(0).Fault != nil })
		leader.mustPropose(0, "the others go on")
		behind.crash(0)
		behind.start()
		c.agree(0)
	})
}

// A follower whose copy nobody serves any more is offered another.
func TestBrokenCopyIsReplaced(t *testing.T) {
	inTruncating(t, 3, 3, func(c *cluster) {
		leader, behind := copying(c)
		m := leader.machines[0]
		m.mu.Lock()
		open := slices.Clone(m.copies)
		m.mu.Unlock()
		for _, o := range open {
			o.Close()
		}
		c.agree(0)
		if n := restarts(behind); n < 2 {
			c.t.Errorf("the copy was begun %d times", n)
		}
	})
}

// The log keeps what follows a copy for as long as someone comes for it.
func TestCopyHoldsTheLog(t *testing.T) {
	inTruncating(t, 3, 3, func(c *cluster) {
		leader, behind := copying(c)
		firsts := func() uint64 { first, _ := leader.log.Group(0).FirstIndex(); return first }
		before := firsts()
		for i := range 20 {
			leader.mustPropose(0, fmt.Sprint("more ", i))
		}
		behind.crash(0)
		advance(c.t, 30*time.Second)
		if first := firsts(); first > before+2 {
			c.t.Errorf("the log begins at %d, and the copy ended before %d", first, before)
		}
		advance(c.t, time.Minute)
		leader.mustPropose(0, "again")
		advance(c.t, 3*time.Second)
		if first := firsts(); first < before+20 {
			c.t.Errorf("with the copy given up, the log still begins at %d", first)
		}
		if n := len(leader.machines[0].copies); n != 0 {
			c.t.Errorf("%d copies are open", n)
		}
		behind.start()
		c.agree(0)
	})
}

// A copy is for those to whom it was offered.
func TestServeSnapshotRefuses(t *testing.T) {
	inTruncating(t, 4, 3, func(c *cluster) {
		leader, behind := copying4(c)
		id := behind.port.requests()[0].ID
		for name, ask := range map[string]struct {
			from covey.NodeID
			req  SnapshotRequest
		}{
			"a stranger":    {4, SnapshotRequest{0, id, 0}},
			"another group": {behind.id, SnapshotRequest{1, id, 0}},
			"another copy":  {behind.id, SnapshotRequest{0, id + 1, 0}},
		} {
			_, err := leader.host.ServeSnapshot(ask.from, ask.req)
			wantKind(c.t, name, err, covey.NotFound)
		}
		b, err := leader.host.ServeSnapshot(behind.id, SnapshotRequest{0, id, 1 << 40})
		if len(b) != 0 || err != nil {
			c.t.Errorf("behind the end: %d octets, %v", len(b), err)
		}
		c.waitFor("copy", func() bool { return behind.machines[0].Installed() != nil })
		advance(c.t, time.Second)
		_, err = leader.host.ServeSnapshot(behind.id, SnapshotRequest{0, id, 0})
		wantKind(c.t, "after the end", err, covey.NotFound)
	})
}

// copying4 is copying with a fourth node that has nothing to do with it.
func copying4(c *cluster) (leader, behind *peer) {
	c.t.Helper()
	leader = c.leader(0, 1, 2, 3)
	for _, p := range c.nodes[:3] {
		if p != leader {
			behind = p
		}
	}
	behind.crash(0)
	c.fill(leader, 50)
	leader.machines[0].chunk = 50
	behind.start()
	c.waitFor("part of the copy", func() bool { return len(behind.port.requests()) > 5 })
	return leader, behind
}

// Two members that come one after the other each get a copy whose membership has
// them, though the second asks while the first is being served.
func TestTwoJoin(t *testing.T) {
	for _, shared := range []bool{false, true} {
		t.Run(fmt.Sprintf("shared=%t", shared), func(t *testing.T) {
			inTruncating(t, 5, 3, func(c *cluster) {
				leader := c.leader(0, 1, 2, 3)
				c.fill(leader, 50)
				leader.machines[0].chunk, leader.machines[0].shared = 100, shared
				for _, id := range []covey.NodeID{4, 5} {
					c.node(id).join(0)
					c.change(leader, MemberChange{id, Learner})
					advance(c.t, 300*time.Millisecond)
				}
				c.agree(0)
				for _, id := range []covey.NodeID{4, 5} {
					if got := c.node(id).machines[0].stages; got != 1 {
						c.t.Errorf("node %d took %d copies", id, got)
					}
				}
			})
		})
	}
}

// However many groups a node leads whose followers need copies, it has few open
// at a time, and all are served.
func TestOffersAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const groups = 5
		c := prepareCluster(t, 1, 2, 1, groups)
		c.log.Keep, c.cfg.CheckpointEvery = -1, time.Second
		for i := range c.node(2).machines {
			c.node(2).machines[i] = nil
		}
		c.start()
		leader, joiner := c.node(1), c.node(2)
		for id := range covey.ShardID(groups) {
			c.leader(id, 1)
			for i := range 20 {
				leader.mustPropose(id, fmt.Sprint(i))
			}
			leader.machines[id].chunk = 50
			joiner.join(id)
			if err := leader.host.ChangeMembers(t.Context(), id, []MemberChange{{2, Learner}}); err != nil {
				t.Fatal(err)
			}
		}
		most := int32(0)
		c.waitFor("copies", func() bool {
			most = max(most, leader.host.offers.open.Load())
			for id := range groups {
				if joiner.machines[id].Installed() == nil {
					return false
				}
			}
			return true
		})
		if most == 0 || most > maxOffers {
			t.Errorf("%d copies were open at a time, at most %d are allowed", most, maxOffers)
		}
		for id := range covey.ShardID(groups) {
			c.agree(id)
		}
		c.end()
	})
}

// A read at a replica without a state waits, and sees everything.
func TestReadAtJoiner(t *testing.T) {
	inTruncating(t, 4, 3, func(c *cluster) {
		leader := c.leader(0, 1, 2, 3)
		c.fill(leader, 30)
		joiner := c.node(4)
		joiner.join(0)
		ctx, cancel := context.WithTimeout(c.t.Context(), time.Second)
		defer cancel()
		wantKind(c.t, "read before it is a member", joiner.host.ReadIndex(ctx, 0), covey.Unavailable)
		wantKind(c.t, "proposal", joiner.propose(0, time.Second, "x"), covey.Unavailable)
		c.change(leader, MemberChange{4, Learner})
		c.waitFor("read", func() bool {
			ctx, cancel := context.WithTimeout(c.t.Context(), time.Second)
			defer cancel()
			return joiner.host.ReadIndex(ctx, 0) == nil
		})
		if got := len(joiner.machines[0].now().Commands); got != 30 {
			c.t.Errorf("the read sees %d commands", got)
		}
	})
}
