package route

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/replica"
	"github.com/covey-mail/covey/storage"
)

const shard = covey.ShardID(3)

func TestLeaderIsKnownAtOnce(t *testing.T) {
	table := NewTable()
	table.Learn(shard, 4, 7)
	table.Learn(shard, 3, 8) // older
	if got, err := table.Leader(t.Context(), shard); got != 7 || err != nil {
		t.Errorf("Leader = %v, %v; want node 7", got, err)
	}
	table.Learn(shard, 5, 8)
	if got, err := table.Leader(t.Context(), shard); got != 8 || err != nil {
		t.Errorf("Leader = %v, %v; want node 8", got, err)
	}
}

// What gossip says is believed until a member of the group says otherwise, however
// new it pretends to be.
func TestGossipIsAHint(t *testing.T) {
	table := NewTable()
	want := func(leader covey.NodeID, term uint64) {
		t.Helper()
		if got, in := table.Known(shard); got != leader || in != term {
			t.Errorf("node %s in term %d, want node %s in %d", got, in, leader, term)
		}
	}
	table.Hear(shard, 3, 7)
	want(7, 0)
	table.Learn(shard, 4, 8)
	want(8, 4)
	table.Hear(shard, 3, 7) // older
	want(8, 4)
	table.Hear(shard, 5, 9)
	want(9, 4)
	table.Learn(shard, 4, 0) // of a member that has not heard yet
	want(9, 4)
	table.Learn(shard, 5, 9)
	want(9, 5)
	table.Hear(shard, 1<<40, 7) // a lie
	want(7, 5)
	table.Disproved(shard, 7)
	table.Learn(shard, 5, 9)
	want(9, 5)
	table.Hear(shard, 1<<40, 7) // again
	want(9, 5)
	table.Hear(shard, 6, 8) // true, but what gossip said before was newer
	want(9, 5)
	table.Lost(9)
	table.Hear(shard, 6, 8) // better than a leader that is gone
	want(8, 5)
}

// One who comes early waits for the election; one who comes when the shard has
// been without a leader for long does not.
func TestNobodyWaitsLongerThanPatience(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table := NewTable()
		table.SetVoters(shard, []covey.NodeID{7, 8, 9})
		table.Learn(shard, 4, 7)
		table.Lost(7)
		begin := time.Now()
		_, err := table.Leader(t.Context(), shard)
		if waited := time.Since(begin); !errors.Is(err, covey.Unavailable) || waited != Patience {
			t.Errorf("error %v after %v, want Unavailable after %v", err, waited, Patience)
		}
		begin = time.Now()
		if _, err := table.Leader(t.Context(), shard); err == nil || time.Since(begin) != 0 {
			t.Errorf("error %v after %v, want one at once", err, time.Since(begin))
		}
	})
}

func TestElectionEndsTheWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table := NewTable()
		table.Learn(shard, 4, 7)
		table.Lost(7)
		go func() {
			<-time.After(time.Second)
			table.Learn(shard, 5, 8)
		}()
		begin := time.Now()
		if got, err := table.Leader(t.Context(), shard); got != 8 || err != nil || time.Since(begin) != time.Second {
			t.Errorf("Leader = %v, %v after %v; want node 8 after a second", got, err, time.Since(begin))
		}
	})
}

// Without a quorum there is nothing to wait for: with one replica on a dead node
// the refusal comes at once (design section 8).
func TestNoQuorumIsRefusedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, tt := range []struct{ voters, down []covey.NodeID }{
			{[]covey.NodeID{7}, []covey.NodeID{7}},
			{[]covey.NodeID{7, 8, 9}, []covey.NodeID{7, 9}},
		} {
			table := NewTable()
			table.SetVoters(shard, tt.voters)
			table.Learn(shard, 4, 7)
			for _, n := range tt.down {
				table.Lost(n)
			}
			begin := time.Now()
			if _, err := table.Leader(t.Context(), shard); !errors.Is(err, covey.Unavailable) || time.Since(begin) != 0 {
				t.Errorf("%v of %v down: error %v after %v, want Unavailable at once", tt.down, tt.voters, err, time.Since(begin))
			}
			table.Back(7)
			if got, err := table.Leader(t.Context(), shard); got != 7 || err != nil {
				t.Errorf("back again: Leader = %v, %v; want node 7", got, err)
			}
		}
	})
}

// fakeGroups answers proposals as told.
type fakeGroups func(cmd []byte) (any, error)

func (f fakeGroups) Propose(_ context.Context, _ covey.ShardID, cmd []byte) (any, error) {
	return f(cmd)
}
func (f fakeGroups) ReadIndex(context.Context, covey.ShardID) error { return nil }

// cluster is nodes 1…n with a Table each; calls go straight to the other's Serve.
func cluster(n int, groups func(self covey.NodeID) Groups) map[covey.NodeID]*Shards {
	all := make(map[covey.NodeID]*Shards)
	for id := covey.NodeID(1); id <= covey.NodeID(n); id++ {
		all[id] = NewShards(Config{
			Self: id, Table: NewTable(), Groups: groups(id),
			Local: func(covey.ShardID) (storage.Reader, bool) { return nil, false },
			Call: func(ctx context.Context, to covey.NodeID, request ...[]byte) ([]byte, error) {
				var whole []byte
				for _, p := range request {
					whole = append(whole, p...)
				}
				return all[to].Serve(ctx, id, whole)
			},
		})
	}
	return all
}

// leads returns Groups of nodes of which only leader takes proposals, and counts
// what it took.
func leads(leader covey.NodeID, taken *int) func(covey.NodeID) Groups {
	return func(self covey.NodeID) Groups {
		return fakeGroups(func([]byte) (any, error) {
			if self != leader {
				return nil, covey.Errorf(covey.Unavailable, "node %s: %w", self, replica.ErrNotLeading)
			}
			*taken++
			return new(storage.Result), nil
		})
	}
}

func TestRedirectIsFollowedOnce(t *testing.T) {
	var taken int
	nodes := cluster(3, leads(3, &taken))
	nodes[1].cfg.Table.Learn(shard, 4, 2) // wrong
	nodes[2].cfg.Table.Learn(shard, 5, 3)
	nodes[3].cfg.Table.Learn(shard, 5, 3)
	if _, err := nodes[1].Propose(t.Context(), shard, storage.DropAccount{Account: 1}); err != nil || taken != 1 {
		t.Fatalf("error %v, taken %d times; want once", err, taken)
	}
	if got, term := nodes[1].cfg.Table.Known(shard); got != 3 || term != 5 {
		t.Errorf("node 1 believes in %v in term %d, want node 3 in 5", got, term)
	}
}

// Where nobody takes a command, it is refused after Patience; nothing was done.
func TestNobodyLeads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var taken int
		nodes := cluster(3, leads(0, &taken))
		nodes[1].cfg.Table.Learn(shard, 4, 2)
		nodes[2].cfg.Table.Learn(shard, 5, 3)
		nodes[3].cfg.Table.Learn(shard, 6, 2)
		begin := time.Now()
		_, err := nodes[1].Propose(t.Context(), shard, storage.DropAccount{Account: 1})
		if waited := time.Since(begin); !errors.Is(err, covey.Unavailable) || waited > Patience+mostPause {
			t.Errorf("error %v after %v, want Unavailable after %v", err, waited, Patience)
		}
	})
}

// A leader that hands over takes nothing; who waits a moment finds the next.
func TestHandOverIsWaitedFor(t *testing.T) {
	for _, from := range []covey.NodeID{1, 2} {
		synctest.Test(t, func(t *testing.T) {
			var taken int
			var leader atomic.Uint64
			nodes := cluster(2, func(self covey.NodeID) Groups {
				return fakeGroups(func(cmd []byte) (any, error) {
					return leads(covey.NodeID(leader.Load()), &taken)(self).Propose(t.Context(), shard, cmd)
				})
			})
			nodes[1].cfg.Table.Learn(shard, 4, 2)
			nodes[2].cfg.Table.Learn(shard, 4, 2)
			go func() {
				<-time.After(time.Second)
				leader.Store(1)
				nodes[1].cfg.Table.Learn(shard, 5, 1)
				nodes[2].cfg.Table.Learn(shard, 5, 1)
			}()
			begin := time.Now()
			_, err := nodes[from].Propose(t.Context(), shard, storage.DropAccount{Account: 1})
			if waited := time.Since(begin); err != nil || taken != 1 || waited > time.Second+2*mostPause { // once for the redirect
				t.Errorf("from node %s: error %v, taken %d times after %v; want once after a second", from, err, taken, waited)
			}
		})
	}
}

// A peer that cannot be reached has done nothing: the next leader gets the command.
func TestBrokenLinkIsGoneRound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var taken int
		nodes := cluster(3, leads(3, &taken))
		call := nodes[1].cfg.Call
		nodes[1].cfg.Call = func(ctx context.Context, to covey.NodeID, request ...[]byte) ([]byte, error) {
			if to == 2 {
				return nil, covey.Errorf(covey.Unavailable, "no link")
			}
			return call(ctx, to, request...)
		}
		nodes[1].cfg.Table.Learn(shard, 4, 2)
		go func() {
			<-time.After(time.Second)
			nodes[1].cfg.Table.Learn(shard, 5, 3)
		}()
		if _, err := nodes[1].Propose(t.Context(), shard, storage.DropAccount{Account: 1}); err != nil || taken != 1 {
			t.Errorf("error %v, taken %d times; want once", err, taken)
		}
	})
}

// A leader's own word travels back; nothing is tried elsewhere.
func TestRefusalTravels(t *testing.T) {
	for _, kind := range []covey.Kind{covey.Unknown, covey.DiskFull, covey.OverQuota, covey.Unavailable} {
		calls := 0
		nodes := cluster(2, func(covey.NodeID) Groups {
			return fakeGroups(func([]byte) (any, error) {
				calls++
				return &storage.Result{}, covey.Errorf(kind, "no")
			})
		})
		nodes[1].cfg.Table.Learn(shard, 4, 2)
		nodes[2].cfg.Table.Learn(shard, 4, 2)
		if _, err := nodes[1].Propose(t.Context(), shard, storage.DropAccount{Account: 1}); !errors.Is(err, kind) || calls != 1 {
			t.Errorf("error %v after %d proposals, want %v after one", err, calls, kind)
		}
	}
}

func FuzzServe(f *testing.F) {
	f.Add([]byte{3, 0, 0, 0, 1, 1}, []byte{replyMoved, 5, 3})
	f.Add([]byte{3, 0, 0, 0, 1, 1}, []byte{replyRefused, 2, 'n', 'o'})
	f.Fuzz(func(t *testing.T, request, reply []byte) {
		var taken int
		s := cluster(1, leads(1, &taken))[1]
		_, _ = s.Serve(t.Context(), 2, request)
		if res, err := s.read(reply, 2, shard); (res == nil) == (err == nil) {
			t.Errorf("read(%x) = %v, %v", reply, res, err)
		}
	})
}
