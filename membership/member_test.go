package membership

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/covey-mail/covey"
)

// fullest is as long as a description can be.
func fullest() Member {
	return Member{
		ID: 1<<64 - 1, Peer: strings.Repeat("h", maxPeer-6) + ":65535",
		Version: strings.Repeat("v", maxText), Zone: strings.Repeat("z", maxText),
		Load: Load{1<<64 - 1, 1<<64 - 1, 1<<64 - 1, 1<<64 - 1},
	}
}

func TestMeta(t *testing.T) {
	for _, m := range []Member{
		{ID: 1, Peer: "10.0.0.1:7947"},
		{ID: 0xabcdef, Peer: "[::1]:1", Version: "v1.2", Zone: "north", Load: Load{1, 2, 3, 4}},
		fullest(),
	} {
		b := encodeMeta(m)
		if len(b) > maxMeta {
			t.Errorf("%d octets, at most %d", len(b), maxMeta)
		}
		got, err := decodeMeta(b)
		if diff := cmp.Diff(m, got); diff != "" || err != nil {
			t.Errorf("%v %s", err, diff)
		}
		later, err := decodeMeta(append(b[:len(b):len(b)], 0))
		if len(b) < maxMeta && (err != nil || later != m) {
			t.Errorf("with what a later version may append: %v", err)
		}
	}
}

// TestMetaGolden keeps the form that other versions read.
func TestMetaGolden(t *testing.T) {
	want := "\x01\x02\x00\x00\x00\x00\x00\x00\x00\x03a:1\x01v\x01z\x01\x02\x03\x80\x01"
	m := Member{ID: 2, Peer: "a:1", Version: "v", Zone: "z", Load: Load{1, 2, 3, 128}}
	if got := string(encodeMeta(m)); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestMetaRefused(t *testing.T) {
	good := Member{ID: 1, Peer: "10.0.0.1:7947"}
	with := func(edit func(*Member)) []byte {
		m := good
		edit(&m)
		return encodeMeta(m)
	}
	tests := map[string]struct {
		meta []byte
		kind covey.Kind
	}{
		"nothing":            {nil, covey.Corrupt},
		"another version":    {append([]byte{2}, encodeMeta(good)[1:]...), covey.Corrupt},
		"cut off":            {encodeMeta(good)[:20], covey.Corrupt},
		"too long":           {make([]byte, maxMeta+1), covey.Limit},
		"no id":              {with(func(m *Member) { m.ID = 0 }), covey.Invalid},
		"no port":            {with(func(m *Member) { m.Peer = "10.0.0.1" }), covey.Invalid},
		"no host":            {with(func(m *Member) { m.Peer = ":1" }), covey.Invalid},
		"port 0":             {with(func(m *Member) { m.Peer = "h:0" }), covey.Invalid},
		"port too large":     {with(func(m *Member) { m.Peer = "h:65536" }), covey.Invalid},
		"address with a tab": {with(func(m *Member) { m.Peer = "h\t:1" }), covey.Invalid},
		"version too long":   {with(func(m *Member) { m.Version = strings.Repeat("v", maxText+1) }), covey.Invalid},
		"zone not UTF-8":     {with(func(m *Member) { m.Zone = "\xff" }), covey.Invalid},
		"zone with newline":  {with(func(m *Member) { m.Zone = "a\nb" }), covey.Invalid},
	}
	for name, tt := range tests {
		if _, err := decodeMeta(tt.meta); !errors.Is(err, tt.kind) {
			t.Errorf("%s: %v, want %v", name, err, tt.kind)
		}
	}
}

func FuzzMeta(f *testing.F) {
	f.Add(encodeMeta(Member{ID: 1, Peer: "10.0.0.1:7947", Version: "v", Zone: "z"}))
	f.Add(encodeMeta(fullest()))
	f.Add([]byte{1, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := decodeMeta(b)
		if err != nil {
			return
		}
		again, err := decodeMeta(encodeMeta(m))
		if err != nil || again != m {
			t.Errorf("%+v becomes %+v, %v", m, again, err)
		}
	})
}

func TestLeadersGolden(t *testing.T) {
	want := "\x01\x02\x03\x04\x05\x00\x00\x00\x00\x00\x00\x00\x01\x80\x02\x01\x06\x00\x00\x00\x00\x00\x00\x00\x00"
	got := encodeLeaders([]Leader{{3, 4, 5, true}, {256, 1, 6, false}})
	if string(got) != want {
		t.Errorf("got %q, want %q", got, want)
	}
	ls, err := decodeLeaders(got)
	if diff := cmp.Diff([]Leader{{3, 4, 5, true}, {256, 1, 6, false}}, ls); diff != "" || err != nil {
		t.Errorf("%v %s", err, diff)
	}
}

func TestLeadersRefused(t *testing.T) {
	good := encodeLeaders([]Leader{{1, 1, 1, true}})
	many := encodeLeaders(make([]Leader, maxShards+1))
	tests := map[string][]byte{
		"nothing":         nil,
		"another version": append([]byte{2}, good[1:]...),
		"cut off":         good[:len(good)-1],
		"left over":       append(good[:len(good):len(good)], 0),
		"count too large": {leadersVersion, 200, 1, 1, 1},
		"too many":        many,
		"no boolean":      append(bytes.Clone(good[:len(good)-1]), 2),
	}
	for name, b := range tests {
		if ls, err := decodeLeaders(b); err == nil {
			t.Errorf("%s: %v", name, ls)
		}
	}
}

func TestNonsense(t *testing.T) {
	for _, l := range []Leader{{maxShards, 1, 1, true}, {1, 0, 1, true}, {1, 1, 0, true}} {
		if l.sensible() {
			t.Errorf("%v is sensible", l)
		}
	}
	if l := (Leader{maxShards - 1, 1, 1, true}); !l.sensible() {
		t.Errorf("%v is not", l)
	}
	// A shard that does not fit is not taken for another one.
	ls, err := decodeLeaders([]byte("\x01\x01\x81\x80\x80\x80\x10\x01\x01\x00\x00\x00\x00\x00\x00\x00\x01"))
	if err != nil || ls[0].sensible() {
		t.Errorf("shard 2^32+1: %v, %v", ls, err)
	}
}

func FuzzLeaders(f *testing.F) {
	f.Add(encodeLeaders([]Leader{{1, 2, 3, true}}))
	f.Add(encodeLeaders(nil))
	f.Add([]byte{1, 255, 255, 3})
	f.Fuzz(func(t *testing.T, b []byte) {
		ls, err := decodeLeaders(b)
		if err != nil {
			return
		}
		for _, l := range ls {
			if l.Shard > maxShards {
				t.Errorf("shard %d", l.Shard)
			}
		}
		again, err := decodeLeaders(encodeLeaders(ls))
		if diff := cmp.Diff(ls, again); diff != "" || err != nil {
			t.Errorf("%v %s", err, diff)
		}
	})
}

// TestBeats is the rule of terms.
func TestBeats(t *testing.T) {
	known := Leader{1, 5, 2, true}
	lost := Leader{1, 5, 2, false}
	tests := []struct {
		name   string
		l, old Leader
		want   bool
	}{
		{"nothing known", known, Leader{}, true},
		{"the same", known, known, false},
		{"higher term", Leader{1, 6, 3, true}, known, true},
		{"higher term without quorum", Leader{1, 6, 3, false}, known, true},
		{"lower term", Leader{1, 4, 3, true}, known, false},
		{"another in the same term", Leader{1, 5, 3, true}, known, false},
		{"another without quorum in the same term", Leader{1, 5, 3, false}, known, false},
		{"quorum lost", lost, known, true},
		{"quorum never comes back in a term", known, lost, false},
	}
	for _, tt := range tests {
		if got := tt.l.beats(tt.old); got != tt.want {
			t.Errorf("%s: %v", tt.name, got)
		}
	}
}
