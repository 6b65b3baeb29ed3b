package seglog

import (
	"encoding/binary"
	"hash/crc32"
	"slices"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/covey-mail/covey"
)

// A Batch collects what one Write puts into the log. It belongs to one goroutine,
// which may use it again after Reset; the zero Batch is ready.
//
// Calls for one group take effect in their order. Hard states and memberships
// are written behind all entries of the batch, so that a batch that a crash cut
// short never leaves a commit index without its entries.
type Batch struct {
	buf     []byte   // the batch record, then the records; sums of headers are missing
	changes []change // in the order of buf
	late    []change // hard states and memberships, encoded by seal
	fixed   int      // length of buf and number of changes …
	fixedN  int      // … before seal added late; 0 while it has not
	vote    [8]byte  // payload that seal is making
}

// A change is a record and what it means to its group.
type change struct {
	record
	at   int64 // offset in buf
	vote uint64
	ent  *raftpb.Entry
	conf *raftpb.ConfState
}

// Append adds entries, which have consecutive indexes. An index that the log
// already has cuts off its old entries from there first. The data is copied; the
// entries themselves may be kept to serve reads and must not be changed any more.
func (b *Batch) Append(g covey.ShardID, ents []*raftpb.Entry) {
	for _, e := range ents {
		data := e.GetData()
		b.add(change{ent: e, record: record{
			kind: kindEntry, entry: e.GetType(), group: g, index: e.GetIndex(), term: e.GetTerm(),
		}}, data)
	}
}

// HardState sets the group's term, vote and commit index. The last call for a
// group counts.
func (b *Batch) HardState(g covey.ShardID, hs *raftpb.HardState) {
	b.late = append(b.late, change{vote: hs.GetVote(), record: record{
		kind: kindHardState, group: g, index: hs.GetCommit(), term: hs.GetTerm(),
	}})
}

// ConfState sets the group's membership as of the entry at index, which the
// group's state machine has applied. cs is copied.
func (b *Batch) ConfState(g covey.ShardID, cs *raftpb.ConfState, index uint64) {
	b.late = append(b.late, change{conf: cloneConf(cs), record: record{
		kind: kindConfState, group: g, index: index,
	}})
}

// Snapshot says that the state up to meta's index came from elsewhere and is on
// stable storage: the group's log restarts, empty, behind that index, with the
// snapshot's membership.
func (b *Batch) Snapshot(g covey.ShardID, meta *raftpb.SnapshotMetadata) {
	cs := cloneConf(raftpb.EnsureConfState(meta.GetConfState()))
	b.add(change{conf: cs, record: record{
		kind: kindSnapshot, group: g, index: meta.GetIndex(), term: meta.GetTerm(),
	}}, appendConf(nil, cs))
}

// Leave says that the group has left this node: it has no entries and no
// membership. Of hs the term and the vote stay for good, and so do index and term
// of the last entry: of a replica that comes back they tell where it must not
// vote. It comes after all other calls for the group.
func (b *Batch) Leave(g covey.ShardID, hs *raftpb.HardState, last, term uint64) {
	b.add(change{conf: &raftpb.ConfState{}, record: record{kind: kindSnapshot, group: g, index: last, term: term}}, appendConf(nil, &raftpb.ConfState{}))
	b.late = slices.DeleteFunc(b.late, func(c change) bool { return c.group == g })
	b.HardState(g, &raftpb.HardState{Term: hs.Term, Vote: hs.Vote})
}

// first notes that a group's entries up to p are not needed any more.
func (b *Batch) first(g covey.ShardID, p position) {
	b.add(change{record: record{kind: kindFirst, group: g, index: p.index, term: p.term}}, nil)
}

// body adds a copy of bytes that lie at from.
func (b *Batch) body(from Extent, data []byte) {
	b.add(change{record: record{kind: kindBodyCopy, index: from.Segment, term: uint64(from.Offset)}}, data)
}

// Reset empties the batch and keeps its memory, unless that is out of all
// proportion.
func (b *Batch) Reset() {
	clear(b.changes) // lets go of the entries
	clear(b.late)
	const most = 16 << 20
	if cap(b.buf) > most {
		b.buf = nil
	}
	*b = Batch{buf: b.buf[:0], changes: b.changes[:0], late: b.late[:0]}
}

// Empty reports whether there is nothing to write.
func (b *Batch) Empty() bool { return len(b.changes) == 0 && len(b.late) == 0 }

// Bytes returns about how many bytes Write will write.
func (b *Batch) Bytes() int { return len(b.buf) + len(b.late)*(recordHeader+align) }

// add appends a record and its payload.
func (b *Batch) add(c change, payload []byte) {
	if len(b.buf) == 0 {
		b.buf = append(b.buf, make([]byte, recordHeader)...)
	}
	b.unseal()
	c.at, c.length = int64(len(b.buf)), uint32(min(len(payload), maxPayload+1))
	c.sum = crc32.Checksum(payload, castagnoli)
	var head [recordHeader]byte
	c.put(head[:])
	b.buf = append(append(b.buf, head[:]...), payload...)
	var zeros [align]byte
	b.buf = append(b.buf, zeros[:pad(int64(len(payload)))-int64(len(payload))]...)
	b.changes = append(b.changes, c)
}

// seal adds the late records and the batch's own. It may be called again after
// Write refused the batch, and after more was added.
func (b *Batch) seal() {
	b.unseal()
	fixed, fixedN := len(b.buf), len(b.changes)
	for _, c := range b.late {
		payload := b.vote[:]
		if c.kind == kindHardState {
			binary.LittleEndian.PutUint64(payload, c.vote)
		} else {
			payload = appendConf(nil, c.conf)
		}
		b.add(c, payload)
	}
	b.fixed, b.fixedN = max(fixed, recordHeader), fixedN
}

func (b *Batch) unseal() {
	if b.fixed > 0 {
		b.buf, b.changes, b.fixed = b.buf[:b.fixed], b.changes[:b.fixedN], 0
	}
}

// sign completes the records for a place in a segment, whose bytes up to synced
// are known to be on stable storage.
func (b *Batch) sign(salt uint64, offset, synced int64) {
	own := record{kind: kindBatch, index: uint64(synced), term: uint64(len(b.buf) - recordHeader)}
	own.put(b.buf)
	sign(b.buf, salt, offset)
	for i := range b.changes {
		at := b.changes[i].at
		sign(b.buf[at:], salt, offset+at)
	}
}
