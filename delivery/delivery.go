// Package delivery takes a message from a front end to the mailboxes of its
// recipients: who they are, one command per shard that holds any of them, and
// each recipient's own outcome.
//
// An outcome without error means: committed by a quorum of the recipient's shard
// and applied; or, where one reply speaks for all recipients, by that of a shard
// that has the message and will bring it (Queue). What the sender is told of it is
// the front end's affair; what the sender surely heard is reported back by Confirm,
// so that a message sent again after a lost reply is recognised and one sent twice
// on purpose is not. DESIGN.md says why.
package delivery

import (
	"context"
	"errors"
	"time"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/directory"
	"github.com/covey-mail/covey/mailbox"
)

// MaxReceived is how many Received fields a message may carry (RFC 5321 section
// 6.3); beyond, it is taken to go round in a loop.
const MaxReceived = 100

// Directory resolves recipients; *directory.Service is one.
type Directory interface {
	// Resolve returns the accounts that an address leads to, at least one.
	Resolve(ctx context.Context, to covey.Address) ([]directory.Account, error)
}

// Config is what a Service needs.
type Config struct {
	Directory Directory        // required
	Mailboxes *mailbox.Service // required
	Shards    mailbox.Shards   // required
	Room      func() error     // covey.DiskFull while nothing can be stored; nil: there is always room

	// Reachable returns nil if a shard can take messages now, perhaps after a wait
	// of two seconds at most. Nil: every shard always can.
	Reachable func(context.Context, covey.ShardID) error

	// Used returns what an account holds whose shard has no replica here, if the
	// shard's leader has said that it is over its quota; else 0. Nil: none is.
	Used func(covey.ShardID, covey.AccountID) int64

	// Queue reports whether every node of the cluster understands queues. Nil:
	// every one does.
	Queue func() bool

	// Ask has Apart called on another node. Nil: there is none.
	Ask func(ctx context.Context, node covey.NodeID, hash [16]byte, shard covey.ShardID) ([]covey.DeliveryID, error)

	Now func() time.Time // nil: time.Now
}

// A Service is safe for concurrent use.
type Service struct {
	cfg       Config
	confirmed confirmed
	senders   senders
}

// New returns a Service. It does no I/O.
func New(cfg Config) *Service {
	if cfg.Room == nil {
		cfg.Room = func() error { return nil }
	}
	if cfg.Reachable == nil {
		cfg.Reachable = func(context.Context, covey.ShardID) error { return nil }
	}
	if cfg.Used == nil {
		cfg.Used = func(covey.ShardID, covey.AccountID) int64 { return 0 }
	}
	if cfg.Queue == nil {
		cfg.Queue = func() bool { return true }
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Service{cfg: cfg, confirmed: newConfirmed(), senders: newSenders()}
}

// A Recipient is one accepted recipient of a transaction.
type Recipient struct {
	Address covey.Address       // as the peer gave it
	Targets []directory.Account // where it leads, at least one
}

// Recipient decides whether a recipient can be taken. NotFound: no such user;
// Denied: not a domain of ours; OverQuota: a mailbox it leads to is full;
// Unavailable: cannot be told, or its shard cannot be reached, now.
func (s *Service) Recipient(ctx context.Context, to covey.Address) (Recipient, error) {
	targets, err := s.cfg.Directory.Resolve(ctx, to)
	if err != nil {
		return Recipient{}, err
	}
	for _, t := range targets {
		if err := s.cfg.Reachable(ctx, t.Shard); err != nil {
			return Recipient{}, err
		}
		if err := s.hasRoom(t); err != nil {
			return Recipient{}, err
		}
	}
	return Recipient{Address: to, Targets: targets}, nil
}

// hasRoom checks the account's quota against what it holds. A message once
// taken is never refused for quota, so this is where it is refused.
func (s *Service) hasRoom(t directory.Account) error {
	if t.Quota == 0 {
		return nil
	}
	used, err := s.used(t)
	if err == nil && used >= t.Quota {
		err = covey.Errorf(covey.OverQuota, "account %s holds %d of %d bytes", t.Address, used, t.Quota)
	}
	return err
}

// used returns what an account holds, as far as this node knows.
func (s *Service) used(t directory.Account) (int64, error) {
	r, err := s.cfg.Shards.Local(t.Shard)
	if errors.Is(err, covey.Unavailable) { // its replicas are elsewhere
		return s.cfg.Used(t.Shard, t.ID), nil
	}
	if err != nil {
		return 0, err
	}
	is, err := r.Account(t.ID)
	return is.Bytes, err
}

// Room returns covey.DiskFull while no message can be stored, so that a sender
// is told before it sends the bytes.
func (s *Service) Room() error { return s.cfg.Room() }

// temporary reports whether the same delivery may succeed later.
func temporary(err error) bool {
	return errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) || covey.KindOf(err).Temporary()
}
