package seglog

import (
	"bytes"
	"fmt"
	"testing"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/covey-mail/covey"
)

// entry makes an entry whose data tells where it belongs.
func entry(term, index uint64, size int) *raftpb.Entry {
	data := bytes.Repeat(fmt.Appendf(nil, "%d/%d ", term, index), size/4+1)[:size]
	return &raftpb.Entry{Term: new(term), Index: new(index), Data: data}
}

func entries(term, from, to uint64, size int) []*raftpb.Entry {
	var list []*raftpb.Entry
	for i := from; i <= to; i++ {
		list = append(list, entry(term, i, size))
	}
	return list
}

func openTest(t *testing.T, cfg Config) *Log {
	t.Helper()
	l, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func mustWrite(t *testing.T, l *Log, fill func(b *Batch)) {
	t.Helper()
	var b Batch
	fill(&b)
	if err := l.Write(&b, true); err != nil {
		t.Fatal(err)
	}
}

// wantEntries checks that a group has exactly the entries given.
func wantEntries(t *testing.T, l *Log, id covey.ShardID, want []*raftpb.Entry) {
	t.Helper()
	g := l.Group(id)
	first, _ := g.FirstIndex()
	last, _ := g.LastIndex()
	if len(want) == 0 {
		if last >= first {
			t.Errorf("group %d: entries %d to %d, want none", id, first, last)
		}
		return
	}
	if first != want[0].GetIndex() || last != want[len(want)-1].GetIndex() {
		t.Fatalf("group %d: entries %d to %d, want %d to %d", id, first, last, want[0].GetIndex(), want[len(want)-1].GetIndex())
	}
	got, err := g.Entries(first, last+1, 1<<62)
	if err != nil {
		t.Fatal(err)
	}
	for i, e := range got {
		w := want[i]
		if e.GetIndex() != w.GetIndex() || e.GetTerm() != w.GetTerm() || e.GetType() != w.GetType() || !bytes.Equal(e.GetData(), w.GetData()) {
			t.Errorf("group %d: entry %d: got term %d, %d bytes; want term %d, %d bytes", id, w.GetIndex(), e.GetTerm(), len(e.GetData()), w.GetTerm(), len(w.GetData()))
		}
	}
}

func TestReopen(t *testing.T) {
	for _, size := range []int64{4 << 10, 64 << 10, 64 << 20} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			cfg := Config{Dir: t.TempDir(), SegmentSize: size}
			l := openTest(t, cfg)
			var one, two []*raftpb.Entry
			for i := uint64(1); i <= 40; i++ {
				mustWrite(t, l, func(b *Batch) {
					a, c := entries(1, 3*i-2, 3*i, 100), entries(2, i, i, int(i))
					b.Append(1, a)
					b.Append(2, c)
					b.HardState(1, &raftpb.HardState{Term: new(uint64(1)), Vote: new(uint64(7)), Commit: new(3 * i)})
					one, two = append(one, a...), append(two, c...)
				})
			}
			for range 2 {
				wantEntries(t, l, 1, one)
				wantEntries(t, l, 2, two)
				hs, _, _ := l.Group(1).InitialState()
				if hs.GetCommit() != 120 || hs.GetVote() != 7 || hs.GetTerm() != 1 {
					t.Errorf("hard state %v", hs)
				}
				if err := l.Close(); err != nil {
					t.Fatal(err)
				}
				l = openTest(t, cfg)
			}
			if err := l.Verify(1, 1); err != nil {
				t.Error(err)
			}
		})
	}
}
