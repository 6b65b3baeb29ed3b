package snapshot

import (
	"bytes"
	"encoding/hex"
	"errors"
	"flag"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/internal/durable/durabletest"
)

var rewrite = flag.Bool("rewrite", false, "write golden samples")

// A piece is one as a test sends it.
type piece struct {
	Condition Condition
	Bytes     []byte
}

// A taken is what a Receiver handed on.
type taken struct {
	head     Header
	database []byte
	pieces   []piece
	refuse   error // of Begin
}

func (s *taken) Begin(h Header) error {
	s.head = h
	return s.refuse
}

func (s *taken) Database(p []byte) error {
	s.database = append(s.database, p...)
	return nil
}

func (s *taken) Piece(c Condition, p []byte) error {
	s.pieces = append(s.pieces, piece{c, bytes.Clone(p)})
	return nil
}

// noise returns n bytes that do not repeat.
func noise(n int) []byte {
	b := make([]byte, n)
	r := rand.New(rand.NewPCG(uint64(n), 1))
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

// send returns the stream of a database and pieces, and its header.
func send(t testing.TB, database []byte, pieces []piece) (*Stream, Header) {
	t.Helper()
	h := Header{Group: 3, Index: 77, Hash: 0x1234, Database: int64(len(database)), Pieces: int64(len(pieces))}
	var section []byte
	for _, p := range pieces {
		h.PieceBytes += int64(len(p.Bytes))
		section = append(AppendPieceHeader(section, p.Condition, len(p.Bytes)), p.Bytes...)
	}
	c, err := StartCopy(durabletest.NewDisk(), bytes.NewReader(database), h.Database, "/db.copy1")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	s := NewStream(h, c, bytes.NewReader(section))
	s.id = 0x0807060504030201
	return s, h
}

// chunks returns all chunks of a stream.
func chunks(t testing.TB, s *Stream) [][]byte {
	t.Helper()
	var list [][]byte
	for n := uint64(0); ; n++ {
		b, err := s.ReadChunk(n)
		if err == io.EOF {
			return list
		}
		if err != nil {
			t.Fatalf("chunk %d: %v", n, err)
		}
		if len(b) > ChunkSize {
			t.Fatalf("chunk %d has %d octets", n, len(b))
		}
		list = append(list, b)
	}
}

func manyPieces() []piece {
	var list []piece
	for i := range 60 {
		c := Sound
		if i == 7 {
			c = Damaged
		}
		list = append(list, piece{c, noise(1 + i*i*70)})
	}
	return append(list, piece{Sound, noise(PieceSize)}, piece{Sound, noise(1)})
}

func TestStream(t *testing.T) {
	for _, tt := range []struct {
		name     string
		database int
		pieces   []piece
	}{
		{"least", 1, nil},
		{"no pieces", 3 << 20, nil},
		{"pieces", 4096, manyPieces()},
		{"one chunk filled", payloadSize - headerSize - endSize, nil},
		{"one octet more", payloadSize - headerSize - endSize + 1, nil},
		{"piece header cut in two", payloadSize - headerSize - 2, []piece{{Sound, []byte("x")}}},
		{"large", 5<<20 + 17, manyPieces()},
	} {
		t.Run(tt.name, func(t *testing.T) {
			database := noise(tt.database)
			s, h := send(t, database, tt.pieces)
			all := chunks(t, s)
			var got taken
			r := NewReceiver(&got)
			for i, b := range all {
				if err := r.End(); !errors.Is(err, covey.Corrupt) {
					t.Fatalf("end before chunk %d: %v", i, err)
				}
				r.err = nil // which End keeps
				if err := r.WriteChunk(b); err != nil {
					t.Fatalf("chunk %d: %v", i, err)
				}
			}
			if err := r.End(); err != nil {
				t.Fatal(err)
			}
			if got.head != h || !bytes.Equal(got.database, database) {
				t.Errorf("header %+v, want %+v; database of %d octets", got.head, h, len(got.database))
			}
			if !reflect.DeepEqual(got.pieces, tt.pieces) { // cmp.Diff of so much takes seconds
				t.Error("pieces differ")
			}
			// Any chunk can be read again, in any order.
			for _, i := range rand.New(rand.NewPCG(1, 1)).Perm(len(all)) {
				if b, err := s.ReadChunk(uint64(i)); err != nil || !bytes.Equal(b, all[i]) {
					t.Errorf("chunk %d differs when it is read again, error %v", i, err)
				}
			}
			for _, n := range []uint64{uint64(len(all)), 1 << 40, 1<<64 - 1} {
				if b, err := s.ReadChunk(n); err != io.EOF || b != nil {
					t.Errorf("chunk %d: %d octets, error %v", n, len(b), err)
				}
			}
			if err := r.WriteChunk(all[0]); !errors.Is(err, covey.Corrupt) {
				t.Errorf("a chunk after the last: %v", err)
			}
		})
	}
}

// receive writes chunks until one is refused, and returns why, or what End says.
func receive(list [][]byte) error {
	r := NewReceiver(&taken{})
	for _, b := range list {
		if err := r.WriteChunk(b); err != nil {
			return err
		}
	}
	return r.End()
}

func TestBadChunks(t *testing.T) {
	s, _ := send(t, noise(1<<20), manyPieces())
	all := chunks(t, s)
	if len(all) < 4 {
		t.Fatalf("only %d chunks", len(all))
	}
	other, _ := send(t, noise(1<<20), manyPieces())
	other.id++
	foreign := chunks(t, other)
	last := len(all) - 1
	for name, list := range map[string][][]byte{
		"nothing":                 {},
		"last is missing":         all[:last],
		"first is missing":        all[1:],
		"one left out":            {all[0], all[2]},
		"one twice":               {all[0], all[0]},
		"one of another copy":     {all[0], foreign[1]},
		"cut off":                 append(all[:last:last], all[last][:len(all[last])-1]),
		"empty":                   {nil},
		"header alone":            {all[0][:chunkHeader]},
		"first of two, too short": {resign(all[0][:chunkHeader+10])},
		"too long":                {make([]byte, ChunkSize+1)},
		"short, with a good sum":  {resign(all[0][:100])},
	} {
		if err := receive(list); !errors.Is(err, covey.Corrupt) {
			t.Errorf("%s: %v, want covey.Corrupt", name, err)
		}
	}
	// Every octet is covered.
	for i, b := range all {
		for _, at := range []int{0, 8, 16, chunkHeader, len(b) / 2, len(b) - 1} {
			bad := bytes.Clone(b)
			bad[at] ^= 4
			list := append(append(all[:i:i], bad), all[i+1:]...)
			if err := receive(list); !errors.Is(err, covey.Corrupt) {
				t.Errorf("chunk %d with octet %d flipped: %v", i, at, err)
			}
		}
	}
}

// resign makes the checksum of a chunk right.
func resign(b []byte) []byte {
	b = bytes.Clone(b)
	_, id, n, _ := parseChunk(b)
	signChunk(b, id, n)
	return b
}

// cut makes chunks of a stream's octets, whatever these are.
func cut(stream []byte) [][]byte {
	var list [][]byte
	for n := uint64(0); len(stream) > 0; n++ {
		k := min(len(stream), payloadSize)
		b := append(make([]byte, chunkHeader), stream[:k]...)
		signChunk(b, 5, n)
		list, stream = append(list, b), stream[k:]
	}
	return list
}

// whole returns a small stream's octets.
func whole(t testing.TB) []byte {
	t.Helper()
	s, _ := send(t, []byte("database"), []piece{{Sound, []byte("one")}, {Damaged, []byte("second")}})
	return chunks(t, s)[0][chunkHeader:]
}

// A peer with good checksums is not believed either.
func TestBadStreams(t *testing.T) {
	good := whole(t)
	if err := receive(cut(good)); err != nil {
		t.Fatal(err)
	}
	const pieces = headerSize + 8
	for _, tt := range []struct {
		name string
		at   int
		with string
	}{
		{"magic", 0, "X"},
		{"version", 8, "\x02"},
		{"no database", 32, "\x00"},
		{"database too large", 39, "\x01"},
		{"database negative", 39, "\xff"},
		{"pieces negative", 47, "\xff"},
		{"piece bytes negative", 55, "\xff"},
		{"fewer pieces than bytes need", 48, "\xff\xff\xff"},
		{"more pieces than bytes", 40, "\x10"},
		{"reserved", 56, "\x01"},
		{"type of a piece", pieces, "\x03"},
		{"piece without octets", pieces + 1, "\x00"},
		{"piece too long", pieces + 1, "\x01\x00\x04"},
		{"piece longer than all", pieces + 1, "\x0a"},
		{"pieces too short together", pieces + 1, "\x02"},
		{"sum of the database", len(good) - 1, "\x00"},
		{"database", headerSize, "x"},
		{"end", len(good) - 5, "\x01"},
	} {
		bad := bytes.Clone(good)
		copy(bad[tt.at:], tt.with)
		if bytes.Equal(bad, good) {
			t.Fatalf("%s: nothing changed", tt.name)
		}
		if err := receive(cut(bad)); !errors.Is(err, covey.Corrupt) {
			t.Errorf("%s: %v, want covey.Corrupt", tt.name, err)
		}
	}
	if err := receive(cut(append(bytes.Clone(good), 0))); !errors.Is(err, covey.Corrupt) {
		t.Errorf("an octet too many: %v", err)
	}
}

func TestSinkRefuses(t *testing.T) {
	r := NewReceiver(&taken{refuse: covey.Errorf(covey.DiskFull, "no room")})
	for range 2 {
		if err := r.WriteChunk(cut(whole(t))[0]); !errors.Is(err, covey.DiskFull) {
			t.Errorf("error %v", err)
		}
	}
	if err := r.End(); !errors.Is(err, covey.DiskFull) {
		t.Errorf("error of End: %v", err)
	}
}

func TestGolden(t *testing.T) {
	s, _ := send(t, []byte("database"), []piece{{Sound, []byte("one")}, {Damaged, []byte("second")}})
	got := hex.Dump(chunks(t, s)[0])
	name := filepath.Join("testdata", "chunk.hex")
	if *rewrite {
		if err := os.WriteFile(name, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(strings.Split(string(want), "\n"), strings.Split(got, "\n")); d != "" {
		t.Errorf("chunk differs from the one that was written once (-want +got):\n%s", d)
	}
}

// A counter takes a stream and keeps nothing.
type counter struct {
	t               *testing.T
	head            Header
	database, bytes int64
	pieces          int64
}

func (c *counter) Begin(h Header) error {
	c.head = h
	return h.valid()
}

func (c *counter) Database(p []byte) error {
	c.database += int64(len(p))
	return nil
}

func (c *counter) Piece(_ Condition, p []byte) error {
	c.pieces++
	c.bytes += int64(len(p))
	if len(p) == 0 || len(p) > PieceSize || c.database != c.head.Database {
		c.t.Errorf("piece of %d octets after %d of the database", len(p), c.database)
	}
	return nil
}

// FuzzReceiver gives a Receiver octets in chunks with good checksums, and then
// as they are.
func FuzzReceiver(f *testing.F) {
	f.Add(whole(f))
	f.Add(cut(whole(f))[0])
	f.Fuzz(func(t *testing.T, stream []byte) {
		c := &counter{t: t}
		r := NewReceiver(c)
		var err error
		for _, b := range cut(stream) {
			if err = r.WriteChunk(b); err != nil {
				break
			}
		}
		if c.database > c.head.Database || c.pieces > c.head.Pieces || c.bytes > c.head.PieceBytes {
			t.Errorf("more came than %+v: %+v", c.head, c)
		}
		if err == nil && r.End() == nil && int64(len(stream)) != c.head.Size() {
			t.Errorf("a stream of %d octets is whole, though it says %d", len(stream), c.head.Size())
		}
		if err := NewReceiver(c).WriteChunk(stream); err != nil && covey.KindOf(err) != covey.Corrupt {
			t.Errorf("error %v", err)
		}
	})
}
