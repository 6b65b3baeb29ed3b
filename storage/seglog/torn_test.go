package seglog

import (
	"os"
	"path/filepath"
	"testing"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/covey-mail/covey/internal/durable"
)

// A batch that a crash cut short is gone as a whole: a follower takes in a new
// term with its first entry, and one that woke with the entry alone would find
// its vote in that term missing, as if its log were damaged.
func TestF13_TornBatchIsGoneAsAWhole(t *testing.T) {
	dir := t.TempDir()
	open := func() *Log {
		l, err := Open(Config{Dir: dir, SegmentSize: 4 << 10})
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	write := func(l *Log, index, term uint64) {
		var b Batch
		b.Append(1, []*raftpb.Entry{{Index: new(index), Term: new(term), Data: []byte("x")}})
		b.HardState(1, &raftpb.HardState{Term: new(term), Vote: new(uint64(7)), Commit: new(index - 1)})
		if index == 2 { // the last there is, and all that it changes
			b.Snapshot(2, &raftpb.SnapshotMetadata{Index: new(uint64(9)), Term: new(term), ConfState: &raftpb.ConfState{Voters: []uint64{7}}})
		}
		if err := l.Write(&b, Synced); err != nil {
			t.Fatal(err)
		}
	}
	l := open()
	write(l, 1, 1)
	sure := l.active.end
	write(l, 2, 2)
	end := l.active.end
	l.closeFiles() // as a crash does: Close would vouch for the end

	name := filepath.Join(dir, segmentName(1))
	whole, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	for cut := end - align; cut >= sure; cut -= align {
		torn := append(append([]byte(nil), whole[:cut]...), make([]byte, int64(len(whole))-cut)...)
		if err := durable.WriteFile(durable.OS(), name, torn, 0o600); err != nil {
			t.Fatal(err)
		}
		l := open()
		last, _ := l.Group(1).LastIndex()
		hs, _, _ := l.Group(1).InitialState()
		first, _ := l.Group(2).FirstIndex()
		if last != 1 || hs.GetTerm() != 1 || first != 1 || len(l.items) != 1 {
			t.Fatalf("cut at %d of %d to %d: entries to %d, term %d, group 2 from %d, %d items; want what was there before the batch",
				cut, sure, end, last, hs.GetTerm(), first, len(l.items))
		}
		write(l, 2, 3)
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		if faults := Check(l.cfg); faults != nil {
			t.Fatalf("cut at %d, then written on: %v", cut, faults)
		}
	}
}
