// Package quota has every node know which accounts are over their quota, so that a
// recipient can be refused wherever mail for it arrives (design section 3.1).
//
// Whether an account is over is known where its shard is: the shard's leader looks
// at accounts that change, soon after they do, and at all of them slowly. It tells
// the others the accounts at fault with what they hold, a small list; a quota that
// is raised or lowered counts at once. The
// others ask for it (Watch, Serve): a call that is answered when there is something
// new. Nobody waits for any of this. What is not known yet does not refuse anything:
// an account may end over its quota by what arrives in a second or two.
//
// At most MaxAccounts accounts are told of, the first that were found.
package quota

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/directory"
	"github.com/covey-mail/covey/internal/recent"
)

// MaxAccounts bounds the accounts that one node tells of.
const MaxAccounts = 65_536

const (
	// roundEvery is the time between looks at what has changed, and between steps
	// of the slow look at all accounts.
	roundEvery = time.Second
	// stepAccounts is how many accounts such a step looks at.
	stepAccounts = 1000
	// again is the time from the end of a slow look to the next.
	again = 10 * time.Minute
	// quotaFor is how long an account's quota is remembered.
	quotaFor = time.Minute
	// maxTouched bounds the changed accounts of a shard that wait for a look. Those
	// beyond wait for the slow one, which begins anew.
	maxTouched = 65_536
)

// Config is what a Board works with. All of it is required.
type Config struct {
	Self     covey.NodeID
	Accounts interface {
		ByID(ctx context.Context, id covey.AccountID) (directory.Account, error)
		InShard(shard covey.ShardID, after covey.AccountID, limit int) ([]directory.Account, error)
	}

	// Led returns the shards that this node leads.
	Led func() []covey.ShardID

	// Leader returns the leader of a shard as far as known, 0 if it is not.
	Leader func(covey.ShardID) covey.NodeID

	// Used returns the bytes that an account of a shard holds, from its replica on
	// this node.
	Used func(covey.ShardID, covey.AccountID) (int64, error)
}

// A Board is what this node tells, and what it has heard. Its methods may be called
// by any number of goroutines.
type Board struct {
	cfg    Config
	quotas *recent.Map[covey.AccountID, quotaAt] // used by Run alone

	mu      sync.Mutex    // guards what follows
	version version       // of what is told
	news    bool          // there is something to tell that is not in version yet
	changed chan struct{} // closed when version changes
	led     map[covey.ShardID]*shard
	told    int // accounts over, of all shards in led
	heard   map[covey.NodeID]told
}

// A version tells two states of what a node tells apart, also those of two runs of
// it. The zero version is of nothing.
type version struct{ run, count uint64 }

// told is what one node has told: of each account that is over, what it holds.
type told map[covey.ShardID]map[covey.AccountID]int64

type quotaAt struct {
	quota int64
	at    time.Time
}

// A shard is one that this node leads.
type shard struct {
	touched  map[covey.AccountID]bool
	requoted map[covey.AccountID]int64 // their new quotas
	over     map[covey.AccountID]int64

	// The slow look: used by Run alone, but for anew.
	after covey.AccountID
	next  time.Time // no look before
	anew  bool      // too many were touched
}

// New returns a Board that knows nothing. It does no I/O.
func New(cfg Config) *Board {
	var run [8]byte
	_, _ = rand.Read(run[:]) // never fails (crypto/rand)
	return &Board{
		cfg: cfg, quotas: recent.New[covey.AccountID, quotaAt](MaxAccounts),
		version: version{run: binary.LittleEndian.Uint64(run[:]) | 1}, changed: make(chan struct{}),
		led: make(map[covey.ShardID]*shard), heard: make(map[covey.NodeID]told),
	}
}

// Touch says that an account of a shard has changed. It is called for each command
// that is applied, on every replica, and costs little.
func (b *Board) Touch(id covey.ShardID, account covey.AccountID) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.led[id]
	switch {
	case s == nil:
	case len(s.touched) < maxTouched:
		s.touched[account] = true
	case !s.touched[account]:
		s.anew = true
	}
}

// Requote says that an account has another quota now.
func (b *Board) Requote(a directory.Account) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.led[a.Shard]
	switch {
	case s == nil:
	case len(s.requoted) < maxTouched:
		s.requoted[a.ID] = a.Quota
	default:
		s.anew = true
	}
}

// Used returns what an account holds if the leader of its shard told that it was
// over its quota, else 0. It takes no more than a look into memory.
func (b *Board) Used(id covey.ShardID, account covey.AccountID) int64 {
	leader := b.cfg.Leader(id)
	b.mu.Lock()
	defer b.mu.Unlock()
	if leader == b.cfg.Self {
		if s := b.led[id]; s != nil {
			return s.over[account]
		}
		return 0
	}
	return b.heard[leader][id][account]
}

// Over returns how many accounts are over their quota in the shards led here.
func (b *Board) Over() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.told
}

// Run looks at the accounts of the shards led here, until ctx ends.
func (b *Board) Run(ctx context.Context) {
	tick := time.NewTicker(roundEvery)
	defer tick.Stop()
	for {
		b.round(ctx, time.Now())
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// round follows changes of leadership and looks at what was touched, and at some
// of the rest. What it finds is told once.
func (b *Board) round(ctx context.Context, now time.Time) {
	defer b.publish()
	b.follow()
	left := stepAccounts
	for id, s := range b.shards() {
		touched, requoted := b.take(s)
		for account, quota := range requoted {
			b.quotas.Store(account, quotaAt{quota, now})
			b.judge(id, s, account, quota)
		}
		for account := range touched {
			if ctx.Err() != nil {
				return
			}
			b.look(ctx, id, s, account, now)
		}
		left -= b.step(id, s, left, now)
	}
}

// follow brings led up to date. A shard that comes here brings what its last
// leader told: those accounts are looked at first.
func (b *Board) follow() {
	leads := b.cfg.Led()
	b.mu.Lock()
	defer b.mu.Unlock()
	for id, s := range b.led {
		if !slices.Contains(leads, id) {
			delete(b.led, id)
			if len(s.over) > 0 {
				b.told -= len(s.over)
				b.news = true
			}
		}
	}
	for _, id := range leads {
		if b.led[id] != nil {
			continue
		}
		s := &shard{
			touched: make(map[covey.AccountID]bool), requoted: make(map[covey.AccountID]int64), over: make(map[covey.AccountID]int64),
		}
		for _, from := range b.heard {
			for account := range from[id] {
				s.touched[account] = true
			}
		}
		b.led[id] = s
	}
}

func (b *Board) shards() map[covey.ShardID]*shard {
	b.mu.Lock()
	defer b.mu.Unlock()
	return maps.Clone(b.led)
}

// take returns what waits for a look.
func (b *Board) take(s *shard) (touched map[covey.AccountID]bool, requoted map[covey.AccountID]int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	touched, requoted = s.touched, s.requoted
	if len(touched) > 0 {
		s.touched = make(map[covey.AccountID]bool)
	}
	if len(requoted) > 0 {
		s.requoted = make(map[covey.AccountID]int64)
	}
	if s.anew {
		s.anew, s.after, s.next = false, 0, time.Time{}
	}
	return touched, requoted
}

// step looks at the next accounts of a shard, at most limit, and returns how many
// those were.
func (b *Board) step(id covey.ShardID, s *shard, limit int, now time.Time) int {
	if limit <= 0 || now.Before(s.next) {
		return 0
	}
	list, err := b.cfg.Accounts.InShard(id, s.after, limit)
	if err != nil {
		return 0 // the directory is closed, or has failed and said so
	}
	for _, a := range list {
		b.quotas.Store(a.ID, quotaAt{a.Quota, now})
		b.judge(id, s, a.ID, a.Quota)
		s.after = a.ID
	}
	if len(list) < limit {
		s.after, s.next = 0, now.Add(again)
	}
	return len(list)
}

// look judges an account that has changed.
func (b *Board) look(ctx context.Context, id covey.ShardID, s *shard, account covey.AccountID, now time.Time) {
	q, ok := b.quotas.Load(account)
	if !ok || now.Sub(q.at) >= quotaFor {
		a, err := b.cfg.Accounts.ByID(ctx, account)
		if err != nil && !errors.Is(err, covey.NotFound) {
			return
		}
		q = quotaAt{a.Quota, now} // one that was removed has none
		b.quotas.Store(account, q)
	}
	b.judge(id, s, account, q.quota)
}

// judge takes down whether an account is over its quota.
func (b *Board) judge(id covey.ShardID, s *shard, account covey.AccountID, quota int64) {
	var used int64
	if quota > 0 {
		var err error
		if used, err = b.cfg.Used(id, account); err != nil {
			return // the replica is gone, or going
		}
	}
	is := quota > 0 && used >= quota
	b.mu.Lock()
	defer b.mu.Unlock()
	was, listed := s.over[account]
	switch {
	case b.led[id] != s: // no longer
	case is && !listed && b.told < MaxAccounts:
		b.told++
		s.over[account] = used
		b.news = true
	case is && listed && used != was:
		s.over[account] = used // worth telling only with other news
	case !is && listed:
		b.told--
		delete(s.over, account)
		b.news = true
	}
}

// publish wakes those who wait for news, if there is any.
func (b *Board) publish() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.news {
		return
	}
	b.news = false
	b.version.count++
	close(b.changed)
	b.changed = make(chan struct{})
}
