package mailbox

import (
	"context"
	"crypto/sha256"
	"hash"
	"io"
	"time"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/internal/message"
	"github.com/covey-mail/covey/storage"
)

// abortTimeout bounds how long the end of a broken upload may take.
const abortTimeout = 5 * time.Second

// An Upload takes in one message for one or more shards: it reads it once, makes
// the summary on the way, and sends what does not fit one command ahead in
// chunks. It is for one goroutine.
//
//	up := s.NewUpload(shards, header)
//	defer up.Close()
//	err := up.ReadFrom(ctx, data)
//	… propose a command with up.Body() and up.Summary() to each shard …
//	up.Keep()
type Upload struct {
	s       *Service
	shards  []covey.ShardID
	failed  map[covey.ShardID]error // those that could not take a chunk; nil: none
	id      covey.DeliveryID
	mem     *memory // nil once closed
	buf     []byte  // the part of the message not sent yet, starting with the header put in front
	read    int     // how much of buf the parser has taken
	body    storage.Body
	summary *message.Summary
	ctx     context.Context // of the ReadFrom under way
	src     io.Reader
	sending chan error // not nil: a chunk is on its way, and its outcome comes here
	keep    bool
}

// memory is what an upload needs that is worth using again for the next one: an
// 8 KiB message would else cost 32 KiB of fresh memory.
type memory struct {
	buf    []byte
	spare  []byte // filled while buf is sent; nil until a message needs it
	parser message.Parser
	sum    hash.Hash
}

func newMemory() any { return &memory{buf: make([]byte, 0, 16<<10), sum: sha256.New()} }

// NewUpload begins the upload of a message that starts with header, which may be
// nil and is not kept.
func (s *Service) NewUpload(shards []covey.ShardID, header []byte) *Upload {
	u := &Upload{s: s, shards: shards, id: s.cfg.Uploads.Next(), mem: s.memory.Get().(*memory)}
	u.mem.sum.Reset()
	u.buf = append(u.mem.buf[:0], header...)
	return u
}

// ID returns the delivery id that the upload's commands carry.
func (u *Upload) ID() covey.DeliveryID { return u.id }

// ReadFrom reads r to its end. An error of r is returned as it is; if no shard could
// take a chunk, its error says so by its Kind. One that could not is left out from
// then on, as Err says.
func (u *Upload) ReadFrom(ctx context.Context, r io.Reader) error {
	u.ctx, u.src = ctx, r
	err := u.readAll()
	if serr := u.sent(); err == nil {
		err = serr
	}
	return err
}

func (u *Upload) readAll() error {
	summary, err := u.mem.parser.Parse(parserSide{u})
	if err != nil {
		return err
	}
	u.summary = summary
	u.body.Size += int64(len(u.buf))
	if u.body.Chunks == 0 {
		u.body.Inline = u.buf
		return nil
	}
	u.body.Upload = u.id
	if len(u.buf) == 0 {
		return nil // it ended with a chunk
	}
	return u.send()
}

// parserSide is the message as the parser reads it; reading drives the upload.
type parserSide struct{ u *Upload }

// Read implements io.Reader.
func (p parserSide) Read(b []byte) (int, error) {
	u := p.u
	if u.read == len(u.buf) {
		if err := u.fill(); err != nil {
			return 0, err
		}
	}
	n := copy(b, u.buf[u.read:])
	u.read += n
	return n, nil
}

// fill reads more of the message into buf, first sending buf away if it is full.
func (u *Upload) fill() error {
	if len(u.buf) >= storage.ChunkSize {
		u.body.Size += int64(len(u.buf))
		if err := u.send(); err != nil {
			return err
		}
	}
	if len(u.buf) == cap(u.buf) {
		u.buf = append(make([]byte, 0, min(2*cap(u.buf), storage.ChunkSize)), u.buf...)
	}
	n, err := u.src.Read(u.buf[len(u.buf):cap(u.buf)])
	u.mem.sum.Write(u.buf[len(u.buf) : len(u.buf)+n])
	u.buf = u.buf[:len(u.buf)+n]
	if n > 0 {
		return nil // an error beside data comes again
	}
	if err == nil {
		err = io.ErrNoProgress
	}
	return err
}

// send has buf proposed as the next chunk, once the one before is done: at most one
// is on its way, while the next is read. Nothing is sent any more when no shard
// could take the one before.
func (u *Upload) send() error {
	if err := u.sent(); err != nil {
		return err
	}
	chunk := storage.Chunk{Upload: u.id, N: u.body.Chunks, Time: u.s.cfg.Now(), Data: u.buf}
	ctx, done := u.ctx, make(chan error, 1)
	u.sending = done
	go func() { done <- u.propose(ctx, chunk) }() // sent waits for it
	if u.mem.spare == nil {
		u.mem.spare = make([]byte, 0, storage.ChunkSize)
	}
	u.body.Chunks++
	u.buf, u.mem.spare, u.read = u.mem.spare[:0], u.buf, 0
	return nil
}

// propose proposes a chunk to every shard that has all before it. The error is of
// one of the shards if none has. failed is its own meanwhile.
func (u *Upload) propose(ctx context.Context, c storage.Chunk) error {
	var failed error
	for _, id := range u.shards {
		if u.failed[id] != nil {
			continue
		}
		_, err := u.s.Insist(ctx, id, c)
		if err == nil {
			continue
		}
		if u.failed == nil {
			u.failed = make(map[covey.ShardID]error)
		}
		u.failed[id], failed = err, err
	}
	if len(u.failed) == len(u.shards) {
		return failed
	}
	return nil
}

// sent waits for the chunk that is on its way, if there is one, and returns what
// became of it.
func (u *Upload) sent() error {
	if u.sending == nil {
		return nil
	}
	err := <-u.sending
	u.sending = nil
	return err
}

// Err returns why a shard does not have all of the body, after ReadFrom; no command
// there can refer to it.
func (u *Upload) Err(shard covey.ShardID) error { return u.failed[shard] }

// Summary returns the summary of the message, after ReadFrom.
func (u *Upload) Summary() *message.Summary { return u.summary }

// Body returns the body for the command that refers to it, after ReadFrom. It
// aliases the upload's memory and is good until Close.
func (u *Upload) Body() storage.Body { return u.body }

// Sum returns the SHA-256 of what was read, without the header put in front. It is
// asked for before Close.
func (u *Upload) Sum() (sum [sha256.Size]byte) {
	u.mem.sum.Sum(sum[:0])
	return sum
}

// Keep says that a command now refers to the chunks.
func (u *Upload) Keep() { u.keep = true }

// Close ends the upload and drops the chunks unless Keep was called; if that does
// not succeed they expire by themselves. Later calls do nothing.
func (u *Upload) Close() {
	if u.mem == nil {
		return
	}
	_ = u.sent() // it holds on to the memory; ReadFrom has told
	u.mem.buf = u.buf
	u.s.memory.Put(u.mem)
	u.mem, u.buf, u.body.Inline = nil, nil, nil
	if u.keep || u.body.Chunks == 0 {
		return
	}
	u.s.abort(u.id, u.shards...)
}
