// Package mailbox turns mailbox operations into shard commands and gives
// sessions the read side: folders, messages, contents, and a view of one mailbox
// with the sequence numbers that a session has been told.
//
// It keeps no mail of its own. State is written by proposing a command to the
// account's shard and read from the replica of it on this node, which must be
// the shard's leader for what it reads to be current; Shards.Read makes sure.
// Front ends and delivery come here; nothing here knows a protocol.
package mailbox

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/storage"
	"github.com/covey-mail/covey/storage/seglog"
)

// Shards reaches the mailbox shards of the cluster. All methods may be called
// concurrently.
type Shards interface {
	// Propose returns the result of a command once it is committed by a quorum
	// and applied. A refusal by the command itself is returned as the error and
	// changed nothing; covey.Unavailable means certainly not done, covey.Unknown
	// that it may yet be.
	Propose(ctx context.Context, id covey.ShardID, cmd storage.Command) (*storage.Result, error)

	// Read returns the shard's state after everything committed before the call
	// was applied to it; covey.Unavailable if that cannot be had here and now.
	Read(ctx context.Context, id covey.ShardID) (storage.Reader, error)

	// Local returns the shard's state on this node as far as it is applied.
	Local(id covey.ShardID) (storage.Reader, error)
}

// Bodies reads runs of message bytes from the node's log; *seglog.Log is one.
type Bodies interface {
	// Read fills p with the bytes of e after checking them. covey.NotFound: they
	// have been moved, look the place up again. covey.Corrupt: they are damaged.
	Read(e seglog.Extent, p []byte) error
}

// Config is what a Service needs. Shards and Bodies are required.
type Config struct {
	Shards Shards
	Bodies Bodies

	// Repair replaces what is damaged of a body by what another replica has. It
	// blocks for a bounded time. Nil: there are no others.
	Repair func(context.Context, covey.ShardID, covey.BodyID) error

	// Room returns covey.DiskFull while no new data may be stored. Nil: there is
	// always room.
	Room func() error

	// Uploads numbers the uploads and deliveries of this node. Required.
	Uploads *Sequence

	MaxMailboxes uint32           // per account; 0: 10,000
	Now          func() time.Time // nil: time.Now
	Logger       *slog.Logger     // nil: discard
}

// A Service is safe for concurrent use.
type Service struct {
	cfg    Config
	hub    hub
	locks  locks
	memory sync.Pool // of *memory
}

// New returns a Service. It does no I/O.
func New(cfg Config) *Service {
	if cfg.Room == nil {
		cfg.Room = func() error { return nil }
	}
	if cfg.MaxMailboxes == 0 {
		cfg.MaxMailboxes = 10000
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &Service{cfg: cfg, hub: newHub(), locks: newLocks(), memory: sync.Pool{New: newMemory}}
}

// Changed wakes the views of a mailbox. It is meant for storage.Config.Changed
// and does not block.
func (s *Service) Changed(shard covey.ShardID, id covey.MailboxID) { s.hub.wake(place{shard, id}) }

// Account returns a handle on an account's mailboxes. quota is in bytes, 0 for
// none. No I/O; the handle needs no closing.
func (s *Service) Account(id covey.AccountID, shard covey.ShardID, quota int64) *Account {
	return &Account{s: s, id: id, shard: shard, quota: quota}
}

// place names a mailbox within the node.
type place struct {
	shard covey.ShardID
	id    covey.MailboxID
}
