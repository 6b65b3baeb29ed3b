package mailbox

import (
	"sync"

	"github.com/covey-mail/covey"
)

// locks are the POP3 maildrop locks (RFC 1939 section 4) of the accounts whose
// sessions run on this node.
type locks struct {
	mu   *sync.Mutex // guards held
	held map[lockKey]struct{}
}

type lockKey struct {
	shard covey.ShardID
	id    covey.AccountID
}

func newLocks() locks {
	return locks{mu: new(sync.Mutex), held: make(map[lockKey]struct{})}
}

// LockMaildrop takes the account's exclusive POP3 lock, InUse if another session
// holds it. release may be called more than once.
func (a *Account) LockMaildrop() (release func(), err error) {
	l, k := a.s.locks, lockKey{a.shard, a.id}
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, taken := l.held[k]; taken {
		return nil, covey.Errorf(covey.InUse, "maildrop is locked by another POP3 session")
	}
	l.held[k] = struct{}{}
	return sync.OnceFunc(func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.held, k)
	}), nil
}
