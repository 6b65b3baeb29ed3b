package snapshot

// A copy of a state, version 1, as it travels from one node to another. All
// numbers are little endian; sums are CRC32C (Castagnoli).
//
// Chunk n holds octets n*payload to (n+1)*payload of the stream; only the last
// is shorter.
//
//	 0  8  random number of this copy: chunks of another do not fit in
//	 8  8  n
//	16  4  sum of octets 0 to 16 and of the payload
//	20     payload, at most 1 MiB less 20
//
// Stream: header, database, pieces, end.
//
// Header:
//
//	 0  8  "CoveyCpy"
//	 8  4  version, 1
//	12  4  Raft group
//	16  8  index of the last command in the copy
//	24  8  running hash of the state; 0: it has none
//	32  8  octets of the database
//	40  8  number of pieces
//	48  8  octets of all pieces
//	56  8  0
//
// Database: the octets of an SQLite file to which nothing of a write-ahead log
// is to be added. What in it is the sender's own (where bodies lie, what was
// installed) is for the receiver to replace.
//
// Piece: bytes that the database refers to and does not hold. Which, in which
// order, the state machine knows from the database.
//
//	 0  1  type: 1 sound; 2 damaged at the sender, the octets are those that were
//	       found, or zeros
//	 1  4  length, 1 to 256 KiB
//	 5     the octets
//
// End:
//
//	 0  1  3
//	 1  4  sum of the database

import (
	"encoding/binary"
	"hash/crc32"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/internal/wire"
)

const (
	magic       = "CoveyCpy"
	version     = 1
	headerSize  = 64
	chunkHeader = 20
	payloadSize = ChunkSize - chunkHeader
	pieceHeader = 5
	endSize     = pieceHeader
	endMark     = 3
)

// PieceSize bounds a piece, in bytes.
const PieceSize = 256 << 10

// PieceOverhead is what a piece takes of the stream beside its bytes.
const PieceOverhead = pieceHeader

// What a reader accepts.
const (
	maxDatabase = 1 << 40
	maxPieces   = 1 << 40 // in number
	maxBytes    = 1 << 50 // of pieces
)

// A Condition says whether a piece is as it should be. The numbers are in the
// stream.
type Condition uint8

const (
	Sound   Condition = 1
	Damaged Condition = 2 // already at the sender, which found it by its checksum
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// A Header tells what a stream holds.
type Header struct {
	Group      covey.ShardID
	Index      uint64 // of the last command in it
	Hash       uint64 // running hash of the state; 0: it has none
	Database   int64  // bytes
	Pieces     int64  // number
	PieceBytes int64
}

// Size returns the length of the stream.
func (h *Header) Size() int64 {
	return headerSize + h.Database + h.Pieces*pieceHeader + h.PieceBytes + endSize
}

// valid reports whether a header can be one.
func (h *Header) valid() error {
	if h.Database < 1 || h.Database > maxDatabase || h.Pieces < 0 || h.Pieces > maxPieces ||
		h.PieceBytes < h.Pieces || h.PieceBytes > maxBytes || (h.PieceBytes+PieceSize-1)/PieceSize > h.Pieces {
		return covey.Errorf(covey.Corrupt, "copy of %d octets, %d pieces of %d octets in all", h.Database, h.Pieces, h.PieceBytes)
	}
	return nil
}

func (h *Header) encode() []byte {
	le := binary.LittleEndian
	b := append(make([]byte, 0, headerSize), magic...)
	b = le.AppendUint32(b, version)
	b = le.AppendUint32(b, uint32(h.Group))
	for _, v := range []uint64{h.Index, h.Hash, uint64(h.Database), uint64(h.Pieces), uint64(h.PieceBytes), 0} {
		b = le.AppendUint64(b, v)
	}
	return b
}

func parseHeader(b []byte) (Header, error) {
	r := wire.NewReader(b)
	if string(r.Raw(len(magic))) != magic {
		return Header{}, covey.Errorf(covey.Corrupt, "not a copy of a state")
	}
	if v := r.Uint32(); v != version {
		return Header{}, covey.Errorf(covey.Corrupt, "copy has version %d, this program reads version %d", v, version)
	}
	h := Header{
		Group: covey.ShardID(r.Uint32()), Index: r.Uint64(), Hash: r.Uint64(),
		Database: int64(r.Uint64()), Pieces: int64(r.Uint64()), PieceBytes: int64(r.Uint64()),
	}
	if r.Uint64() != 0 {
		r.Fail("header of a copy")
	}
	if err := r.End(); err != nil {
		return Header{}, err
	}
	return h, h.valid()
}

// AppendPieceHeader appends what goes before the n bytes of a piece.
func AppendPieceHeader(b []byte, c Condition, n int) []byte {
	return binary.LittleEndian.AppendUint32(append(b, byte(c)), uint32(n))
}

func appendEnd(b []byte, sum uint32) []byte {
	return binary.LittleEndian.AppendUint32(append(b, endMark), sum)
}

// signChunk fills in the header of chunk n, whose payload is there.
func signChunk(b []byte, id, n uint64) {
	le := binary.LittleEndian
	le.PutUint64(b, id)
	le.PutUint64(b[8:], n)
	le.PutUint32(b[16:], chunkSum(b))
}

func chunkSum(b []byte) uint32 {
	return crc32.Update(crc32.Checksum(b[:16], castagnoli), castagnoli, b[chunkHeader:])
}

// parseChunk returns the payload of a chunk, and the copy and number it has.
func parseChunk(b []byte) (payload []byte, id, n uint64, err error) {
	if len(b) <= chunkHeader || len(b) > ChunkSize {
		return nil, 0, 0, covey.Errorf(covey.Corrupt, "chunk of %d octets", len(b))
	}
	le := binary.LittleEndian
	if le.Uint32(b[16:]) != chunkSum(b) {
		return nil, 0, 0, covey.Errorf(covey.Corrupt, "chunk does not match its checksum")
	}
	return b[chunkHeader:], le.Uint64(b), le.Uint64(b[8:]), nil
}
