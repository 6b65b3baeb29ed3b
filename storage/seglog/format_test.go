package seglog

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"flag"
	"hash/crc32"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/internal/durable/durabletest"
)

var rewrite = flag.Bool("rewrite", false, "rewrite the golden samples in testdata")

const goldenSalt = 0x0123456789abcdef

// golden compares data with a file of hexadecimal dump.
func golden(t *testing.T, name string, data []byte) {
	t.Helper()
	path := filepath.Join("testdata", name+".hex")
	got := hex.Dump(data)
	if *rewrite {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s: what is written changed: data that exists cannot be read any more (-want +got)\n%s", name, diff)
	}
}

func sampleHeader() *header {
	conf := &raftpb.ConfState{Voters: []uint64{1, 300}, Learners: []uint64{4}, VotersOutgoing: []uint64{5, 6}, LearnersNext: []uint64{7}, AutoLeave: new(true)}
	return &header{number: 3, salt: goldenSalt, prevEnd: 1 << 20, groups: []groupState{
		{group: 0, prev: position{70, 2}, last: 1000, hard: hardState{term: 3, vote: 9, commit: 999}, conf: conf, confIndex: 77},
		{group: 16, last: 2},
	}}
}

// sampleBatch has every record that a Write can make.
func sampleBatch() *Batch {
	var b Batch
	b.Append(1, []*raftpb.Entry{
		{Term: new(uint64(2)), Index: new(uint64(8)), Data: []byte("an entry")},
		{Term: new(uint64(2)), Index: new(uint64(9)), Type: raftpb.EntryType_EntryConfChangeV2.Enum(), Data: []byte("conf")},
		{Term: new(uint64(2)), Index: new(uint64(10))},
	})
	b.Snapshot(2, &raftpb.SnapshotMetadata{Index: new(uint64(500)), Term: new(uint64(6)), ConfState: &raftpb.ConfState{Voters: []uint64{1, 2, 3}}})
	b.first(3, position{40, 1})
	b.body(Extent{Segment: 1, Offset: 4096}, []byte("a body"))
	b.HardState(1, &raftpb.HardState{Term: new(uint64(2)), Vote: new(uint64(0xabcdef)), Commit: new(uint64(8))})
	b.ConfState(1, &raftpb.ConfState{Voters: []uint64{1}}, 9)
	b.seal()
	return &b
}

func sampleSegment() []byte {
	h := sampleHeader()
	data := h.encode()
	b := sampleBatch()
	start := int64(len(data))
	b.sign(h.salt, start, start)
	data = append(data, b.buf...)
	return append(data, encodeFooter(sampleItems(b, start), h.salt, int64(len(data)))...)
}

func sampleItems(b *Batch, start int64) []item {
	var items []item
	for i := range b.changes {
		if c := &b.changes[i]; c.kind == kindEntry {
			items = append(items, itemOf(&c.record, start+c.at))
		}
	}
	return items
}

func TestGolden(t *testing.T) {
	golden(t, "header", sampleHeader().encode())
	golden(t, "segment", sampleSegment())
	b := sampleBatch()
	b.sign(goldenSalt, 128, 128)
	seen := map[kind]bool{kindBatch: true}
	golden(t, "record-1-batch", b.buf[:recordHeader])
	names := map[kind]string{
		kindEntry: "record-2-entry", kindHardState: "record-3-hard-state", kindConfState: "record-4-membership",
		kindFirst: "record-5-first", kindSnapshot: "record-6-snapshot", kindBodyCopy: "record-7-body-copy",
	}
	for i := range b.changes {
		c := &b.changes[i]
		if seen[c.kind] {
			continue
		}
		seen[c.kind] = true
		golden(t, names[c.kind], b.buf[c.at:c.at+c.size()])
	}
	var leave Batch
	leave.Leave(4, &raftpb.HardState{Term: new(uint64(7)), Vote: new(uint64(3)), Commit: new(uint64(88))}, 90, 6)
	leave.seal()
	leave.sign(goldenSalt, 128, 128)
	golden(t, "record-6-leave", leave.buf[recordHeader:])
	foot := encodeFooter(sampleItems(b, 128), goldenSalt, 1024)
	golden(t, "record-8-footer", foot[:len(foot)-recordHeader])
	golden(t, "record-9-trailer", foot[len(foot)-recordHeader:])
	if len(seen) != len(names)+1 {
		t.Errorf("%d of %d kinds of record are in the sample", len(seen), len(names)+1)
	}
}

// What an earlier version wrote opens as what it meant.
func TestGoldenOpens(t *testing.T) {
	dump, err := os.ReadFile(filepath.Join("testdata", "segment.hex"))
	if err != nil {
		t.Fatal(err)
	}
	disk := durabletest.NewDisk()
	cfg := Config{Dir: "/log", FS: disk}
	if err := disk.MkdirAll(cfg.Dir, 0o700); err != nil {
		t.Fatal(err)
	}
	f, err := disk.Open("/log/"+segmentName(3), os.O_RDWR|os.O_CREATE, 0)
	if err != nil {
		t.Fatal(err)
	}
	data := undump(t, dump)
	// Group 0 has its entries in earlier segments: without them the log is not
	// whole, so the sample is opened as of a header that keeps none.
	h, err := parseHeader(data[:headerLen(t, data)])
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(describe(sampleHeader()), describe(h)); diff != "" {
		t.Errorf("header: %s", diff)
	}
	if _, err := f.WriteAt(data, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(cfg); covey.KindOf(err) != covey.Corrupt {
		t.Errorf("open without the segments before: %v, want covey.Corrupt", err)
	}
	if faults := Check(cfg); faults != nil {
		t.Error(faults)
	}
	size, _ := f.Size()
	end, items, err := readFooter(f, &segment{number: 3, salt: h.salt, start: int64(headerLen(t, data)), size: size})
	if err != nil || len(items) != 3 || items[0].index != 8 || items[1].entry != raftpb.EntryType_EntryConfChangeV2 {
		t.Errorf("footer: end %d, items %v, %v", end, items, err)
	}
}

func headerLen(t *testing.T, data []byte) int {
	t.Helper()
	n, err := headerLength(data)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// undump is the inverse of hex.Dump.
func undump(t *testing.T, dump []byte) []byte {
	t.Helper()
	var data []byte
	for line := range bytes.Lines(dump) {
		if len(line) < 60 {
			continue
		}
		p, err := hex.DecodeString(string(bytes.ReplaceAll(line[10:58], []byte(" "), nil)))
		if err != nil {
			t.Fatal(err)
		}
		data = append(data, p...)
	}
	return data
}

// describe makes a header comparable.
func describe(h *header) any {
	type group struct {
		ID               covey.ShardID
		Prev             [2]uint64
		Last, ConfIndex  uint64
		Term, Vote, Done uint64
		Conf             string
	}
	var list []group
	for _, g := range h.groups {
		list = append(list, group{g.group, [2]uint64{g.prev.index, g.prev.term}, g.last, g.confIndex, g.hard.term, g.hard.vote, g.hard.commit, string(appendConf(nil, g.conf))})
	}
	return map[string]any{"number": h.number, "salt": h.salt, "end": h.prevEnd, "groups": list}
}

// A record is good only at its place, in its segment.
func TestRecordIsTiedToItsPlace(t *testing.T) {
	var p [recordHeader]byte
	r := record{kind: kindEntry, group: 7, index: 1, term: 2, length: 3, sum: 4}
	r.put(p[:])
	sign(p[:], goldenSalt, 4096)
	for _, tt := range []struct {
		name   string
		salt   uint64
		offset int64
		want   error
	}{
		{"its place", goldenSalt, 4096, nil},
		{"elsewhere", goldenSalt, 4104, errSum},
		{"another segment", goldenSalt + 1, 4096, errSum},
	} {
		got, err := parseRecord(p[:], tt.salt, tt.offset)
		if err != tt.want || (err == nil && got != r) {
			t.Errorf("%s: %+v, %v; want %v", tt.name, got, err, tt.want)
		}
	}
}

func TestRecordLimits(t *testing.T) {
	for _, tt := range []struct {
		name string
		r    record
	}{
		{"type 0", record{}},
		{"type unknown", record{kind: numKinds}},
		{"entry too long", record{kind: kindEntry, length: maxPayload + 1}},
		{"hard state too long", record{kind: kindHardState, length: 9}},
		{"membership too long", record{kind: kindConfState, length: maxConf + 1}},
		{"batch with payload", record{kind: kindBatch, length: 1}},
		{"index out of reach", record{kind: kindFirst, index: maxIndex + 1}},
		{"entry type unknown", record{kind: kindEntry, entry: 3}},
	} {
		var p [recordHeader]byte
		tt.r.put(p[:])
		sign(p[:], 1, 2)
		if _, err := parseRecord(p[:], 1, 2); err != errFields {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}

func FuzzHeader(f *testing.F) {
	f.Add(sampleHeader().encode())
	f.Add((&header{number: 1}).encode())
	f.Add([]byte(magic))
	f.Fuzz(func(t *testing.T, p []byte) {
		// The sum is made right, or nothing behind it would be reached.
		if len(p) >= headerFixed {
			p = append(bytes.Clone(p), make([]byte, pad(int64(len(p)))-int64(len(p)))...)
			binary.LittleEndian.PutUint32(p[12:], uint32(len(p)))
			binary.LittleEndian.PutUint32(p[44:], fileHeaderSum(p))
		}
		h, err := parseHeader(p)
		if err != nil {
			return
		}
		again, err := parseHeader(h.encode())
		if err != nil {
			t.Fatalf("what was read cannot be written and read: %v", err)
		}
		if diff := cmp.Diff(describe(h), describe(again)); diff != "" {
			t.Error(diff)
		}
	})
}

func FuzzFooter(f *testing.F) {
	b := sampleBatch()
	foot := encodeFooter(sampleItems(b, 128), goldenSalt, 1024)
	f.Add(foot[recordHeader:len(foot)-recordHeader], uint64(3))
	f.Add([]byte{}, uint64(0))
	f.Fuzz(func(t *testing.T, p []byte, n uint64) {
		r := record{kind: kindFooter, index: n, length: uint32(len(p)), sum: crc32.Checksum(p, castagnoli)}
		items, err := parseFooter(r, p, 128, 1024)
		if err != nil {
			return
		}
		if uint64(len(items)) != n {
			t.Fatalf("%d items, want %d", len(items), n)
		}
		at := int64(128)
		for _, it := range items {
			if int64(it.offset) < at || int64(it.offset)+int64(it.length)+recordHeader > 1024 {
				t.Fatalf("item %+v lies outside the records", it)
			}
			at = int64(it.offset)
		}
	})
}

// FuzzScan opens a log whose only segment has a good header and arbitrary bytes
// behind it; records among them are given right sums if resign is odd.
func FuzzScan(f *testing.F) {
	b := sampleBatch()
	head := (&header{number: 1, salt: goldenSalt}).encode()
	start := int64(len(head))
	b.sign(goldenSalt, start, start)
	f.Add(bytes.Clone(b.buf), byte(0))
	f.Add(append(bytes.Clone(b.buf), encodeFooter(sampleItems(b, start), goldenSalt, start+int64(len(b.buf)))...), byte(0))
	f.Add(append(make([]byte, 64), b.buf...), byte(1))
	f.Add([]byte("From: nobody"), byte(0))
	f.Fuzz(func(t *testing.T, p []byte, resign byte) {
		data := append(bytes.Clone(head), p...)
		if resign%2 == 1 {
			for off := start; off+recordHeader <= int64(len(data)); {
				r := data[off:]
				sign(r, goldenSalt, off)
				off += recordHeader + pad(int64(binary.LittleEndian.Uint32(r[8:])))
			}
		}
		l, cfg, err := revive(t, data)
		if err != nil {
			if covey.KindOf(err) != covey.Corrupt {
				t.Fatalf("open: %v", err)
			}
			return
		}
		defer l.Close()
		for _, id := range l.Groups() {
			g := l.Group(id)
			first, _ := g.FirstIndex()
			last, _ := g.LastIndex()
			if first > last+1 {
				t.Fatalf("group %d: first %d, last %d", id, first, last)
			}
			if first > last {
				continue
			}
			if _, err := g.Entries(first, last+1, 1<<62); err != nil {
				t.Fatalf("group %d: entries %d to %d: %v", id, first, last, err)
			}
		}
		Check(cfg)
	})
}
