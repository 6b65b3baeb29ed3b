package logon

import (
	"crypto/hmac"
	"crypto/sha256"
	"sync"
	"time"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/internal/recent"
	"github.com/covey-mail/covey/internal/wire"
)

// verifiedFor is how long a password that was right needs no hashing.
const verifiedFor = 10 * time.Minute

// verified remembers credentials that were right. It keeps no password, only a
// keyed hash of account, stored hash and password under a key that lives and dies
// with the process: a password that is changed changes the stored hash, and what
// was remembered is not found again.
type verified struct {
	secret []byte

	mu    sync.Mutex // guards until
	until *recent.Map[[sha256.Size]byte, time.Time]
}

func newVerified(entries int) *verified {
	return &verified{secret: newKey(), until: recent.New[[sha256.Size]byte, time.Time](entries)}
}

func (v *verified) key(id covey.AccountID, hash, pass string) (key [sha256.Size]byte) {
	mac := hmac.New(sha256.New, v.secret)
	mac.Write(wire.AppendBytes(wire.AppendUint(nil, uint64(id)), hash))
	mac.Write([]byte(pass))
	mac.Sum(key[:0])
	return key
}

func (v *verified) add(key [sha256.Size]byte, now time.Time) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.until.Store(key, now.Add(verifiedFor))
}

func (v *verified) has(key [sha256.Size]byte, now time.Time) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	until, ok := v.until.Load(key)
	return ok && now.Before(until)
}
