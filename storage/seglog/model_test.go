package seglog

import (
	"bytes"
	"fmt"
	"maps"
	"slices"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/covey-mail/covey"
)

// A model is what a log should hold.
type model map[covey.ShardID]*modelGroup

type modelGroup struct {
	prev    position
	ents    []*raftpb.Entry // from prev.index+1 on, Applied or not
	hard    hardState
	conf    *raftpb.ConfState
	applied uint64
}

func (m model) group(id covey.ShardID) *modelGroup {
	if m[id] == nil {
		m[id] = &modelGroup{}
	}
	return m[id]
}

func (g *modelGroup) last() uint64 { return g.prev.index + uint64(len(g.ents)) }

func (m model) clone() model {
	c := model{}
	for id, g := range m {
		h := *g
		h.ents = slices.Clone(g.ents)
		c[id] = &h
	}
	return c
}

// apply does what one record does.
func (m model) apply(c *change) {
	if c.kind == kindBodyCopy {
		return
	}
	g := m.group(c.group)
	switch c.kind {
	case kindEntry:
		g.ents = append(g.ents[:c.index-g.prev.index-1:c.index-g.prev.index-1], c.ent)
	case kindHardState:
		g.hard = hardState{c.term, c.vote, c.index}
	case kindConfState:
		g.conf = c.conf
	case kindSnapshot:
		g.prev, g.ents, g.conf = position{c.index, c.term}, nil, c.conf
		g.applied = c.index
		if len(c.conf.GetVoters()) == 0 {
			g.conf = nil
		}
	}
}

// steps returns the changes of a batch in the order in which they are written.
func steps(b *Batch) []change {
	list := append(slices.Clone(b.changes[:len(b.changes):len(b.changes)]), b.late...)
	if b.fixed > 0 {
		list = append(slices.Clone(b.changes[:b.fixedN]), b.late...)
	}
	return list
}

// match tells how a log differs from the model, nil if it does not. The log may
// have fewer of the entries that were applied.
func (m model) match(l *Log) error {
	ids := append(slices.Collect(maps.Keys(m)), l.Groups()...)
	slices.Sort(ids)
	for _, id := range slices.Compact(ids) {
		g := m[id]
		if g == nil {
			g = &modelGroup{} // nothing may be there
		}
		if err := g.match(l.Group(id)); err != nil {
			return fmt.Errorf("group %d: %w", id, err)
		}
	}
	return nil
}

func (m *modelGroup) match(g *Group) error {
	first, _ := g.FirstIndex()
	last, _ := g.LastIndex()
	if first <= m.prev.index || first > m.applied+1 || last != m.last() {
		return fmt.Errorf("entries %d to %d, want %d to %d, of which %d are applied", first, last, m.prev.index+1, m.last(), m.applied)
	}
	hs, cs, _ := g.InitialState()
	if got := (hardState{hs.GetTerm(), hs.GetVote(), hs.GetCommit()}); got != m.hard {
		return fmt.Errorf("hard state %v, want %v", got, m.hard)
	}
	if err := cs.Equivalent(raftpb.EnsureConfState(cloneConf(m.conf))); err != nil {
		return err
	}
	term, err := g.Term(first - 1)
	if want := m.term(first - 1); err != nil || term != want {
		return fmt.Errorf("term of %d, before the first: %d, %v; want %d", first-1, term, err, want)
	}
	if last < first {
		return nil
	}
	got, err := g.Entries(first, last+1, 1<<62)
	if err != nil {
		return err
	}
	for i, e := range got {
		if err := sameEntry(e, m.ents[first-m.prev.index-1+uint64(i)]); err != nil {
			return err
		}
	}
	return nil
}

func (m *modelGroup) term(index uint64) uint64 {
	if index == m.prev.index {
		return m.prev.term
	}
	return m.ents[index-m.prev.index-1].GetTerm()
}

func sameEntry(got, want *raftpb.Entry) error {
	if got.GetIndex() != want.GetIndex() || got.GetTerm() != want.GetTerm() || got.GetType() != want.GetType() || !bytes.Equal(got.GetData(), want.GetData()) {
		return fmt.Errorf("entry %d of term %d with %d bytes, want entry %d of term %d with %d bytes",
			got.GetIndex(), got.GetTerm(), len(got.GetData()), want.GetIndex(), want.GetTerm(), len(want.GetData()))
	}
	return nil
}
