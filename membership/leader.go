package membership

import (
	"cmp"
	"encoding/binary"
	"maps"
	"slices"
	"strconv"
	"sync"

	"github.com/hashicorp/memberlist"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/internal/wire"
)

// A Leader is what is known of a shard's leadership: the newest term that
// somebody announced, and who led in it.
type Leader struct {
	Shard  covey.ShardID
	Term   uint64
	Node   covey.NodeID // 0: nobody is known to lead
	Quorum bool         // false: it led, and then heard no majority any more
}

// beats reports whether l is news to who knows old. Leading in a term is lost
// once and for all, so that of the same term the loss is news.
func (l Leader) beats(old Leader) bool {
	if l.Term != old.Term {
		return l.Term > old.Term
	}
	return l.Node == old.Node && old.Quorum && !l.Quorum
}

const (
	maxShards      = 65536
	leadersVersion = 1
	leaderSize     = 11 // octets that a leader takes at least
)

func encodeLeaders(ls []Leader) []byte {
	b := wire.AppendUint([]byte{leadersVersion}, uint64(len(ls)))
	for _, l := range ls {
		b = wire.AppendUint(b, uint64(l.Shard))
		b = wire.AppendUint(b, l.Term)
		b = binary.LittleEndian.AppendUint64(b, uint64(l.Node))
		b = wire.AppendBool(b, l.Quorum)
	}
	return b
}

// decodeLeaders is the inverse of encodeLeaders, of foreign bytes. Any leader it
// returns may be nonsense.
func decodeLeaders(b []byte) ([]Leader, error) {
	r := wire.NewReader(b)
	if r.Byte() != leadersVersion {
		r.Fail("version of leaders")
	}
	n := r.Count(leaderSize)
	if n > maxShards {
		return nil, covey.Errorf(covey.Limit, "%d leaders at once", n)
	}
	ls := make([]Leader, 0, n)
	for range n {
		shard := r.Uint()
		l := Leader{Term: r.Uint(), Node: covey.NodeID(r.Uint64()), Quorum: r.Bool()}
		l.Shard = covey.ShardID(min(shard, maxShards))
		ls = append(ls, l)
	}
	return ls, r.End()
}

// sensible reports whether l may be true.
func (l Leader) sensible() bool { return l.Shard < maxShards && l.Term > 0 && l.Node != 0 }

// leaders is the table of who leads, and the queue of what others do not know
// yet. Its methods may be called from several goroutines.
type leaders struct {
	queue memberlist.TransmitLimitedQueue

	mu      sync.Mutex // guards the following; the queue's lock nests inside
	table   map[covey.ShardID]Leader
	changed map[covey.ShardID]bool // of these LeaderChanged is to be told
	encoded []byte                 // the table; nil if it is to be encoded
}

func newLeaders(members func() int) *leaders {
	return &leaders{
		queue:   memberlist.TransmitLimitedQueue{NumNodes: members, RetransmitMult: retransmitMult},
		table:   map[covey.ShardID]Leader{},
		changed: map[covey.ShardID]bool{},
	}
}

// merge takes news into the table and reports whether there was any. Those for
// which pass is true are passed on; it is told the news and what was known.
func (t *leaders) merge(ls []Leader, pass func(l, old Leader) bool) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	news := false
	for _, l := range ls {
		old := t.table[l.Shard]
		if !l.beats(old) {
			continue
		}
		t.setLocked(l)
		news = true
		if pass(l, old) {
			t.queue.QueueBroadcast(announcement(l))
		}
	}
	return news
}

func (t *leaders) setLocked(l Leader) {
	if l.Node == 0 {
		delete(t.table, l.Shard)
	} else {
		t.table[l.Shard] = l
	}
	t.changed[l.Shard] = true
	t.encoded = nil
}

// forget drops what a node led.
func (t *leaders) forget(id covey.NodeID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for s, l := range t.table {
		if l.Node == id {
			t.setLocked(Leader{Shard: s})
		}
	}
}

// news returns what changed since it was last asked, by shard.
func (t *leaders) news() []Leader {
	t.mu.Lock()
	defer t.mu.Unlock()
	var ls []Leader
	for s := range t.changed {
		l := t.table[s]
		l.Shard = s
		ls = append(ls, l)
	}
	clear(t.changed)
	slices.SortFunc(ls, func(a, b Leader) int { return cmp.Compare(a.Shard, b.Shard) })
	return ls
}

func (t *leaders) all() map[covey.ShardID]Leader {
	t.mu.Lock()
	defer t.mu.Unlock()
	return maps.Clone(t.table)
}

// state returns the encoding of all leaders. It is not to be changed.
func (t *leaders) state() []byte {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.encoded == nil {
		t.encoded = encodeLeaders(slices.Collect(maps.Values(t.table)))
	}
	return t.encoded
}

// announcement is a Leader in the queue of broadcasts. A newer one for the same
// shard takes its place there.
type announcement Leader

// Invalidates implements memberlist.Broadcast.
func (a announcement) Invalidates(b memberlist.Broadcast) bool {
	o, ok := b.(announcement)
	return ok && o.Shard == a.Shard
}

// Name implements memberlist.NamedBroadcast.
func (a announcement) Name() string { return strconv.FormatUint(uint64(a.Shard), 10) }

// Message implements memberlist.Broadcast.
func (a announcement) Message() []byte { return encodeLeaders([]Leader{Leader(a)}) }

// Finished implements memberlist.Broadcast.
func (a announcement) Finished() {}
