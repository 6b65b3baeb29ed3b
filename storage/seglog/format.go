package seglog

// The format of a segment, version 1. All numbers are little endian; sums are
// CRC32C (Castagnoli).
//
// A segment is a file named by its number, sixteen hexadecimal digits and
// ".log". Numbers ascend and are never used twice. It is made under the suffix
// ".new" and renamed once its header is on stable storage, so that a ".log"
// without a good header is damage and never the trace of a crash.
//
//	header   records …   zeros to the preallocated size        the active segment
//	header   records …   footer   trailer                      a sealed segment
//
// Header. Its length is a multiple of 8.
//
//	 0  8  "CoveyLog"
//	 8  4  version, 1
//	12  4  length of the header, this included
//	16  8  number of the segment
//	24  8  salt, random: sums of records start from it, so that neither bytes of
//	       a deleted file nor a message that imitates records can pass for one
//	32  8  where the records of the segment before this one end; 0: there is none
//	40  4  number of groups
//	44  4  sum of the header without this field
//	48     for each group, in ascending order, as of the end of the segment before:
//	       varints group; index and term of the entry before the first one kept;
//	       index of the last entry; term, vote and commit of the hard state; index
//	       of the membership, length and bytes of it (see conf; none if empty)
//	       zeros up to a multiple of 8
//
// Record. It begins at a multiple of 8 and is followed by zeros up to the next.
// Forty octets of zero where a record could begin, or the end of the file, end
// the records.
//
//	 0  4  sum of octets 4 to 40, started from the upper half of
//	       (salt xor offset) * 0x9E3779B97F4A7C15, modulo 2^64
//	 4  4  sum of the payload
//	 8  4  length of the payload
//	12  1  type
//	13  1  type of the Raft entry (kindEntry only)
//	14  2  0x5EC0
//	16  4  group
//	20  4  0
//	24  8  index
//	32  8  term
//	40     payload
//
//	type           index, term                    payload
//	1 batch        offset known synced; length    none. Begins what one Write wrote:
//	               of the batch after this record  all of it counts, or nothing
//	2 entry        of the entry                   its data. An entry at an index that
//	                                              is there cuts off the old ones from it
//	3 hard state   commit, term                   vote, 8 octets
//	4 membership   as of this index               conf
//	5 first        of the last entry that is no   none
//	               longer needed
//	6 snapshot     of the state that came         conf. The group's log is empty behind
//	               from elsewhere; of the last    it. A conf without voters: the group
//	               entry of a group that left     has left
//	7 body copy    segment and offset it was      the bytes
//	               copied from; 0, 0: it came
//	               from another node
//	8 footer       number of items                the items, 32 octets each
//	9 trailer      offset of the footer; 0        none. The last 40 octets of the file
//
// Conf is a Raft membership: four lists (voters, learners, outgoing voters, next
// learners), each a varint count and varints, then one octet 0 or 1 (leave the
// joint membership by itself).
//
// Footer item, one for each entry record in the order of the file:
//
//	 0  4  group      8  8  index     24  4  offset of the record
//	 4  1  type       16 8  term      28  4  length of the payload
//	 5  3  0
//
// A payload's own sum is not salted, so that it can be taken when the payload is
// copied; the header's sum, which covers it, ties both to their place.

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"slices"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/internal/wire"
)

const (
	magic         = "CoveyLog"
	version       = 1
	headerFixed   = 48
	recordHeader  = 40
	recordMark    = 0x5EC0
	itemSize      = 32
	align         = 8
	segmentSuffix = ".log"
	newSuffix     = ".new"
)

// Limits that a reader enforces before it allocates.
const (
	maxHeader  = 16 << 20  // of a segment's header
	maxGroups  = 1 << 16   // of a node
	maxMembers = 1 << 10   // in each list of a membership
	maxConf    = 16 << 10  // octets of a membership
	maxPayload = 256 << 20 // of an entry or a body copy
	maxSegment = 1 << 31   // of a segment: offsets and lengths are 32 bits
	maxIndex   = 1 << 62   // of an entry, so that one more is never zero
)

// A kind is the type of a record. The numbers are on disk.
type kind uint8

const (
	kindBatch kind = iota + 1
	kindEntry
	kindHardState
	kindConfState
	kindFirst
	kindSnapshot
	kindBodyCopy
	kindFooter
	kindTrailer
	numKinds
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// A record is a record's header.
type record struct {
	kind   kind
	entry  raftpb.EntryType
	group  covey.ShardID
	index  uint64
	term   uint64
	length uint32 // of the payload
	sum    uint32 // of the payload
}

// size is how many octets the record takes, padding included.
func (r *record) size() int64 { return recordHeader + pad(int64(r.length)) }

func pad(n int64) int64 { return (n + align - 1) &^ (align - 1) }

// put encodes r without the sum of its header, which sign adds when the place
// is known. p has recordHeader octets.
func (r *record) put(p []byte) {
	le := binary.LittleEndian
	le.PutUint32(p[4:], r.sum)
	le.PutUint32(p[8:], r.length)
	p[12], p[13] = byte(r.kind), byte(r.entry)
	le.PutUint16(p[14:], recordMark)
	le.PutUint32(p[16:], uint32(r.group))
	le.PutUint32(p[20:], 0)
	le.PutUint64(p[24:], r.index)
	le.PutUint64(p[32:], r.term)
}

// sign fills in the header's sum for a record at offset in a segment with salt.
func sign(p []byte, salt uint64, offset int64) {
	binary.LittleEndian.PutUint32(p, headerSum(p, salt, offset))
}

func headerSum(p []byte, salt uint64, offset int64) uint32 {
	// Not a sum of the two as octets: they would escape to the heap, once for
	// each record.
	start := uint32((salt ^ uint64(offset)) * 0x9E3779B97F4A7C15 >> 32)
	return crc32.Update(start, castagnoli, p[4:recordHeader])
}

// errNoRecord says why octets are not a record.
type errNoRecord string

func (e errNoRecord) Error() string { return string(e) }

const (
	errShort  = errNoRecord("cut off")
	errSum    = errNoRecord("header does not match its checksum")
	errFields = errNoRecord("header has impossible fields")
	errBody   = errNoRecord("payload does not match its checksum")
)

// parseRecord decodes the header at p, which was read at offset.
func parseRecord(p []byte, salt uint64, offset int64) (record, error) {
	if len(p) < recordHeader {
		return record{}, errShort
	}
	le := binary.LittleEndian
	if le.Uint16(p[14:]) != recordMark || le.Uint32(p) != headerSum(p, salt, offset) {
		return record{}, errSum
	}
	r := record{
		sum: le.Uint32(p[4:]), length: le.Uint32(p[8:]), kind: kind(p[12]), entry: raftpb.EntryType(p[13]),
		group: covey.ShardID(le.Uint32(p[16:])), index: le.Uint64(p[24:]), term: le.Uint64(p[32:]),
	}
	if r.kind == 0 || r.kind >= numKinds || r.entry > raftpb.EntryType_EntryConfChangeV2 ||
		r.index > maxIndex || r.length > r.kind.maxPayload() {
		return record{}, errFields
	}
	return r, nil
}

func (k kind) maxPayload() uint32 {
	switch k {
	case kindEntry, kindBodyCopy:
		return maxPayload
	case kindHardState:
		return 8
	case kindConfState, kindSnapshot:
		return maxConf
	case kindFooter:
		return maxSegment
	}
	return 0
}

// A groupState is what a segment's header says of a group.
type groupState struct {
	group     covey.ShardID
	prev      position // the entry before the first one kept
	last      uint64   // index of the last entry; prev.index if there is none
	hard      hardState
	conf      *raftpb.ConfState // nil: none was ever written
	confIndex uint64
}

// A hardState is raftpb.HardState; the zero value is none.
type hardState struct{ term, vote, commit uint64 }

// A position is an entry's index and term.
type position struct{ index, term uint64 }

// A header begins a segment.
type header struct {
	number  uint64
	salt    uint64
	prevEnd int64
	groups  []groupState // ascending
}

// encode returns the header's octets.
func (h *header) encode() []byte {
	b := append(make([]byte, 0, headerFixed+64*len(h.groups)), magic...)
	b = binary.LittleEndian.AppendUint32(b, version)
	b = binary.LittleEndian.AppendUint32(b, 0)
	b = binary.LittleEndian.AppendUint64(b, h.number)
	b = binary.LittleEndian.AppendUint64(b, h.salt)
	b = binary.LittleEndian.AppendUint64(b, uint64(h.prevEnd))
	b = binary.LittleEndian.AppendUint32(b, uint32(len(h.groups)))
	b = binary.LittleEndian.AppendUint32(b, 0)
	for i := range h.groups {
		b = h.groups[i].append(b)
	}
	b = append(b, make([]byte, pad(int64(len(b)))-int64(len(b)))...)
	binary.LittleEndian.PutUint32(b[12:], uint32(len(b)))
	binary.LittleEndian.PutUint32(b[44:], fileHeaderSum(b))
	return b
}

func fileHeaderSum(b []byte) uint32 {
	return crc32.Update(crc32.Checksum(b[:44], castagnoli), castagnoli, b[headerFixed:])
}

func (g *groupState) append(b []byte) []byte {
	b = wire.AppendUint(b, uint64(g.group))
	b = wire.AppendUint(b, g.prev.index)
	b = wire.AppendUint(b, g.prev.term)
	b = wire.AppendUint(b, g.last)
	b = wire.AppendUint(b, g.hard.term)
	b = wire.AppendUint(b, g.hard.vote)
	b = wire.AppendUint(b, g.hard.commit)
	b = wire.AppendUint(b, g.confIndex)
	if g.conf == nil {
		return wire.AppendBytes(b, []byte(nil))
	}
	return wire.AppendBytes(b, appendConf(nil, g.conf))
}

// headerLength reads how long the header that starts with p is.
func headerLength(p []byte) (int, error) {
	if len(p) < headerFixed || string(p[:8]) != magic {
		return 0, covey.Errorf(covey.Corrupt, "not a segment of Covey's log")
	}
	if v := binary.LittleEndian.Uint32(p[8:]); v != version {
		return 0, covey.Errorf(covey.Corrupt, "segment has version %d, this program reads version %d", v, version)
	}
	n := binary.LittleEndian.Uint32(p[12:])
	if n < headerFixed || n > maxHeader || n%align != 0 {
		return 0, covey.Errorf(covey.Corrupt, "segment header of %d octets", n)
	}
	return int(n), nil
}

// parseHeader decodes a whole header.
func parseHeader(p []byte) (*header, error) {
	n, err := headerLength(p)
	if err != nil {
		return nil, err
	}
	if len(p) != n || binary.LittleEndian.Uint32(p[44:]) != fileHeaderSum(p) {
		return nil, covey.Errorf(covey.Corrupt, "segment header does not match its checksum")
	}
	r := wire.NewReader(p[16:44])
	h := &header{number: r.Uint64(), salt: r.Uint64(), prevEnd: int64(r.Uint64())}
	count := int(r.Uint32())
	r = wire.NewReader(p[headerFixed:])
	if count > maxGroups || count > r.Len() {
		return nil, covey.Errorf(covey.Corrupt, "segment header with %d groups", count)
	}
	h.groups = make([]groupState, count)
	for i := range h.groups {
		h.groups[i] = readGroup(r)
		if i > 0 && h.groups[i].group <= h.groups[i-1].group {
			r.Fail("groups out of order")
		}
	}
	if r.Err() != nil {
		return nil, fmt.Errorf("segment header: %w", r.Err())
	}
	if h.prevEnd < 0 || h.prevEnd > maxSegment || h.prevEnd%align != 0 {
		return nil, covey.Errorf(covey.Corrupt, "segment header: impossible end of the segment before")
	}
	return h, nil
}

func readGroup(r *wire.Reader) groupState {
	id := r.Uint()
	if id > 1<<32-1 {
		r.Fail("group")
	}
	g := groupState{group: covey.ShardID(id), prev: position{r.Uint(), r.Uint()}, last: r.Uint()}
	if g.last < g.prev.index || g.last > maxIndex {
		r.Fail("impossible last entry")
	}
	g.hard = hardState{term: r.Uint(), vote: r.Uint(), commit: r.Uint()}
	g.confIndex = r.Uint()
	if p := r.Bytes(); len(p) > 0 {
		cs, err := parseConf(p)
		if err != nil {
			r.Fail("membership")
		}
		g.conf = cs
	}
	return g
}

func appendConf(b []byte, cs *raftpb.ConfState) []byte {
	for _, list := range [][]uint64{cs.GetVoters(), cs.GetLearners(), cs.GetVotersOutgoing(), cs.GetLearnersNext()} {
		b = wire.AppendUint(b, uint64(len(list)))
		for _, id := range list {
			b = wire.AppendUint(b, id)
		}
	}
	return wire.AppendBool(b, cs.GetAutoLeave())
}

func parseConf(p []byte) (*raftpb.ConfState, error) {
	r := wire.NewReader(p)
	list := func() []uint64 {
		n := r.Count(1)
		if n > maxMembers {
			r.Fail("members")
		}
		if n == 0 || r.Err() != nil {
			return nil
		}
		ids := make([]uint64, n)
		for i := range ids {
			ids[i] = r.Uint()
		}
		return ids
	}
	cs := &raftpb.ConfState{Voters: list(), Learners: list(), VotersOutgoing: list(), LearnersNext: list()}
	cs.AutoLeave = new(r.Bool())
	if err := r.End(); err != nil {
		return nil, fmt.Errorf("membership: %w", err)
	}
	return cs, nil
}

// cloneConf returns a copy that shares nothing with cs; nil for nil.
func cloneConf(cs *raftpb.ConfState) *raftpb.ConfState {
	if cs == nil {
		return nil
	}
	return &raftpb.ConfState{
		Voters: slices.Clone(cs.GetVoters()), Learners: slices.Clone(cs.GetLearners()),
		VotersOutgoing: slices.Clone(cs.GetVotersOutgoing()), LearnersNext: slices.Clone(cs.GetLearnersNext()),
		AutoLeave: new(cs.GetAutoLeave()),
	}
}

// An item is a footer's note of an entry record.
type item struct {
	group  covey.ShardID
	entry  raftpb.EntryType
	index  uint64
	term   uint64
	offset uint32 // of the record
	length uint32 // of the payload
}

// itemOf is the note of the entry record r at offset.
func itemOf(r *record, offset int64) item {
	return item{
		group: r.group, entry: r.entry, index: r.index, term: r.term, offset: uint32(offset), length: r.length,
	}
}

func (it *item) put(p []byte) {
	le := binary.LittleEndian
	le.PutUint32(p, uint32(it.group))
	le.PutUint32(p[4:], uint32(it.entry))
	le.PutUint64(p[8:], it.index)
	le.PutUint64(p[16:], it.term)
	le.PutUint32(p[24:], it.offset)
	le.PutUint32(p[28:], it.length)
}

func parseItem(p []byte) item {
	le := binary.LittleEndian
	return item{
		group: covey.ShardID(le.Uint32(p)), entry: raftpb.EntryType(p[4]), index: le.Uint64(p[8:]),
		term: le.Uint64(p[16:]), offset: le.Uint32(p[24:]), length: le.Uint32(p[28:]),
	}
}

// encodeFooter returns footer and trailer for a segment whose records end at
// offset.
func encodeFooter(items []item, salt uint64, offset int64) []byte {
	foot := record{kind: kindFooter, index: uint64(len(items)), length: uint32(len(items) * itemSize)}
	b := make([]byte, foot.size()+recordHeader)
	for i := range items {
		items[i].put(b[recordHeader+i*itemSize:])
	}
	foot.sum = crc32.Checksum(b[recordHeader:recordHeader+int(foot.length)], castagnoli)
	foot.put(b)
	sign(b, salt, offset)
	t := b[foot.size():]
	(&record{kind: kindTrailer, index: uint64(offset)}).put(t)
	sign(t, salt, offset+foot.size())
	return b
}

// parseFooter decodes a footer's payload; r is its record. Records lie in
// [from, to).
func parseFooter(r record, p []byte, from, to int64) ([]item, error) {
	if r.kind != kindFooter || r.length%itemSize != 0 || int(r.length) != len(p) || r.index != uint64(len(p)/itemSize) {
		return nil, errFields
	}
	if crc32.Checksum(p, castagnoli) != r.sum {
		return nil, errBody
	}
	items := make([]item, len(p)/itemSize)
	for i := range items {
		it := parseItem(p[i*itemSize:])
		if it.index > maxIndex || int64(it.offset) < from || int64(it.offset)+recordHeader+int64(it.length) > to {
			return nil, errFields
		}
		items[i] = it
		from = int64(it.offset) + recordHeader + int64(it.length)
	}
	return items, nil
}
