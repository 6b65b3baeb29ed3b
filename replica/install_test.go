package replica

import (
	"bytes"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/internal/durable/durabletest"
	"github.com/covey-mail/covey/storage/seglog"
)

// Power may go at any operation of the disk while a copy is taken in: the staged
// copy, its renaming, the log's mark. What is found is the old state or the new
// one, the log fits it, and what the leader was told is there.
func TestF11_CrashWhileACopyIsTakenIn(t *testing.T) {
	var log countingHandler
	crashes := map[string]int{}
	for after := range 18 {
		for _, seed := range []uint64{0, 1, 2, 3} {
			inTruncating(t, 3, 3, func(c *cluster) {
				c.cfg.Logger = slog.New(&log)
				leader := c.leader(0, c.all()...)
				leader.mustPropose(0, "first")
				c.agree(0)
				behind := c.node(c.others(leader.id)[0])
				behind.crash(0)
				c.fill(leader, 30)
				leader.machines[0].chunk = 100
				behind.start()
				c.waitFor("copy on its way", func() bool { return behind.status(0).Receiving })
				behind.disk.StopAfter(after)
				advance(c.t, 3*time.Second)
				copied := false
				for _, f := range leader.status(0).Followers {
					copied = copied || f.Node == behind.id && f.Match > 20
				}
				behind.crash(seed)
				state := newRecorder(behind.disk, "/state-0")
				found, err := foundLog(behind, state)
				if err != nil {
					c.t.Errorf("after %d, seed %d: %v", after, seed, err)
				}
				crashes[found]++
				if copied && found != "copy and mark" {
					c.t.Errorf("after %d, seed %d: the leader was told, and there is %s", after, seed, found)
				}
				behind.start()
				leader.mustPropose(0, "after")
				c.agree(0)
			})
		}
	}
	t.Log(crashes)
	for _, want := range []string{"nothing", "copy without mark", "copy and mark"} {
		if crashes[want] == 0 {
			t.Errorf("no crash left %s", want)
		}
	}
	if log.count("marked the copy of the state that was installed before a crash") != crashes["copy without mark"] {
		t.Errorf("%d marks were made afterwards, want %d", log.count("marked the copy of the state that was installed before a crash"), crashes["copy without mark"])
	}
}

// foundLog tells what a crash left of a copy.
func foundLog(p *peer, state *recorder) (string, error) {
	if state.fault != nil {
		return "", state.fault
	}
	log, err := seglog.Open(seglog.Config{Dir: "/log", FS: p.disk, SegmentSize: 256 << 10, Keep: -1})
	if err != nil {
		return "", err
	}
	defer log.Close()
	if err := Connected(log.Group(0), state.Applied(), state.Installed()); err != nil {
		return "", err
	}
	rec, err := parseRecord(state.Installed())
	if err != nil || rec == nil {
		return "nothing", err
	}
	if missing, err := rec.unmarked(log.Group(0), state.Applied()); err != nil || missing {
		return "copy without mark", err
	}
	return "copy and mark", nil
}

func sampleRecord() *record {
	return &record{last: 50, term: 5, vote: 2, meta: &raftpb.SnapshotMetadata{
		Index: new(uint64(100)), Term: new(uint64(6)), ConfState: &raftpb.ConfState{Voters: []uint64{1, 2, 3}},
	}}
}

func mustEncode(t testing.TB, r *record) []byte {
	t.Helper()
	b, err := r.encode()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// A log that is just as it was before an installation lacks only the mark of it.
// Any other that does not fit the state has lost something.
func TestUnmarkedInstallation(t *testing.T) {
	old := func(b *seglog.Batch) {
		b.Snapshot(0, &raftpb.SnapshotMetadata{Index: new(uint64(40)), Term: new(uint64(5)), ConfState: &raftpb.ConfState{Voters: []uint64{1, 2}}})
		var entries []*raftpb.Entry
		for i := uint64(41); i <= 50; i++ {
			entries = append(entries, entry(i, 5))
		}
		b.Append(0, entries)
		b.HardState(0, &raftpb.HardState{Term: new(uint64(5)), Vote: new(uint64(2)), Commit: new(uint64(45))})
	}
	mark := func(b *seglog.Batch) {
		b.Snapshot(0, sampleRecord().meta)
		b.HardState(0, &raftpb.HardState{Term: new(uint64(6)), Commit: new(uint64(100))})
	}
	for _, test := range []struct {
		name    string
		applied uint64
		write   []func(b *seglog.Batch)
		change  func(r *record)
		want    covey.Kind
		first   uint64
	}{
		{name: "no mark", applied: 99, write: []func(*seglog.Batch){old}, want: fine, first: 101},
		{name: "marked", applied: 99, write: []func(*seglog.Batch){old, mark}, want: fine, first: 101},
		{name: "another vote", applied: 99, write: []func(*seglog.Batch){old}, change: func(r *record) { r.vote = 3 }, want: covey.Corrupt},
		{name: "another term", applied: 99, write: []func(*seglog.Batch){old}, change: func(r *record) { r.term = 6 }, want: covey.Corrupt},
		{name: "shorter log", applied: 99, write: []func(*seglog.Batch){old}, change: func(r *record) { r.last = 60 }, want: covey.Corrupt},
		{name: "more was applied", applied: 101, write: []func(*seglog.Batch){old}, want: covey.Corrupt},
		{name: "nothing left", applied: 99, want: covey.Corrupt},
		{name: "other entries up to there", applied: 45, write: []func(*seglog.Batch){old}, change: func(r *record) {
			r.meta.Index = new(uint64(48))
		}, want: fine, first: 49},
		{name: "the same entries", applied: 45, write: []func(*seglog.Batch){old}, change: func(r *record) {
			r.meta.Index, r.meta.Term = new(uint64(48)), new(uint64(5))
		}, want: fine, first: 41},
	} {
		t.Run(test.name, func(t *testing.T) {
			log, err := seglog.Open(seglog.Config{Dir: "/log", FS: durabletest.NewDisk(), SegmentSize: 256 << 10})
			if err != nil {
				t.Fatal(err)
			}
			defer log.Close()
			for _, write := range test.write {
				var b seglog.Batch
				write(&b)
				if err := log.Write(&b, seglog.Synced); err != nil {
					t.Fatal(err)
				}
			}
			r := sampleRecord()
			if test.change != nil {
				test.change(r)
			}
			m := &recorder{chain: chain{Index: test.applied}, meta: mustEncode(t, r)}
			checked := Connected(log.Group(0), test.applied, m.meta)
			h := newHost(t, Config{Node: 1, Log: log})
			added := h.Add(0, m, nil)
			if test.want != fine {
				wantKind(t, "Connected", checked, test.want)
				wantKind(t, "Add", added, test.want)
				return
			}
			if checked != nil || added != nil {
				t.Fatalf("Connected: %v, Add: %v", checked, added)
			}
			first, _ := log.Group(0).FirstIndex()
			if first != test.first {
				t.Errorf("the log begins at %d, want %d", first, test.first)
			}
			if hs, _, _ := log.Group(0).InitialState(); hs.GetTerm() < r.meta.GetTerm() || hs.GetTerm() == 5 && hs.GetVote() != 2 || hs.GetTerm() == 6 && hs.GetVote() != 0 {
				t.Errorf("hard state %v", hs)
			}
			if got := h.Status()[0]; got.Applied < test.applied || len(got.Voters) == 0 {
				t.Errorf("status %+v", got)
			}
		})
	}
}

// fine is no error.
const fine = covey.Kind(255)

func TestRecord(t *testing.T) {
	want := sampleRecord()
	got, err := parseRecord(mustEncode(t, want))
	if err != nil || got.last != 50 || got.term != 5 || got.vote != 2 || got.meta.GetIndex() != 100 || len(got.meta.GetConfState().GetVoters()) != 3 {
		t.Errorf("%+v, %v", got, err)
	}
	if got, err := parseRecord(nil); got != nil || err != nil {
		t.Errorf("none: %v, %v", got, err)
	}
	bad := sampleRecord()
	bad.meta.ConfState = nil
	for name, b := range map[string][]byte{
		"other version": {2, 0}, "cut off": mustEncode(t, want)[:5], "longer": append(mustEncode(t, want), 0),
		"no members": mustEncode(t, bad),
	} {
		_, err := parseRecord(b)
		wantKind(t, name, err, covey.Corrupt)
	}
}

// FuzzRecord shows the decoder octets of a damaged database.
func FuzzRecord(f *testing.F) {
	f.Add(mustEncode(f, sampleRecord()))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := parseRecord(b)
		if err != nil || r == nil {
			return
		}
		again, err := parseRecord(mustEncode(t, r))
		if err != nil || !bytes.Equal(mustEncode(t, again), mustEncode(t, r)) {
			t.Errorf("%x: %v", b, err)
		}
	})
}

func TestSoundConf(t *testing.T) {
	ids := func(ids ...uint64) []uint64 { return ids }
	many := make([]uint64, maxMembers+1)
	for i := range many {
		many[i] = uint64(i) + 1
	}
	for i, test := range []struct {
		conf *raftpb.ConfState
		want bool
	}{
		{&raftpb.ConfState{}, false},
		{&raftpb.ConfState{Voters: ids(1)}, true},
		{&raftpb.ConfState{Voters: ids(1, 2), Learners: ids(3)}, true},
		{&raftpb.ConfState{Voters: ids(1, 1)}, false},
		{&raftpb.ConfState{Voters: ids(0)}, false},
		{&raftpb.ConfState{Voters: ids(1), Learners: ids(1)}, false},
		{&raftpb.ConfState{Voters: ids(1), VotersOutgoing: ids(1, 2), LearnersNext: ids(2), AutoLeave: new(true)}, true},
		{&raftpb.ConfState{Voters: ids(1), LearnersNext: ids(2)}, false},
		{&raftpb.ConfState{Voters: ids(1, 2), VotersOutgoing: ids(2), LearnersNext: ids(2)}, false},
		{&raftpb.ConfState{Voters: ids(1), VotersOutgoing: ids(2), Learners: ids(2)}, false},
		{&raftpb.ConfState{Voters: ids(1), AutoLeave: new(true)}, false},
		{&raftpb.ConfState{Voters: many}, false},
	} {
		if got := soundConf(test.conf); got != test.want {
			t.Errorf("%d: %s: sound = %t", i, fmt.Sprint(test.conf), got)
		}
	}
}
