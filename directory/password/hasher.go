package password

import (
	"context"
	"runtime"

	"github.com/covey-mail/covey"
)

// A Hasher does the expensive work, a bounded number of hashes at a time, so that
// a storm of log-ins leaves processor and memory to the mail. It may be used by
// any number of goroutines.
type Hasher struct {
	slots chan struct{}
}

// NewHasher returns a Hasher that works on n passwords at a time, GOMAXPROCS if n
// is not positive.
func NewHasher(n int) *Hasher {
	if n <= 0 {
		n = runtime.GOMAXPROCS(0)
	}
	return &Hasher{slots: make(chan struct{}, n)}
}

// acquire waits for a slot until ctx ends.
func (h *Hasher) acquire(ctx context.Context) error {
	select {
	case h.slots <- struct{}{}:
		return nil
	case <-ctx.Done():
		return covey.Errorf(covey.Unavailable, "wait to hash a password: %w", ctx.Err())
	}
}

func (h *Hasher) release() { <-h.slots }

// Hash returns a new hash of password. It waits for a slot until ctx ends, which
// is Unavailable.
func (h *Hasher) Hash(ctx context.Context, password string) (string, error) {
	if err := Acceptable(password); err != nil {
		return "", err
	}
	if err := h.acquire(ctx); err != nil {
		return "", err
	}
	defer h.release()
	return newHash(password), nil
}

// Verify reports whether password matches hash. A hash that cannot be parsed is
// an error; so is the end of ctx before there was a slot (Unavailable). A
// password longer than MaxPassword matches nothing.
func (h *Hasher) Verify(ctx context.Context, hash, password string) (bool, error) {
	v, err := parse(hash)
	if err != nil {
		return false, err
	}
	if len(password) > MaxPassword {
		return false, nil
	}
	if err := h.acquire(ctx); err != nil {
		return false, err
	}
	defer h.release()
	return v.verify(password), nil
}

// Scram returns a new SCRAM-SHA-256 verifier of password, in the form that
// ParseScram reads. It waits as Hash does.
func (h *Hasher) Scram(ctx context.Context, password string) (string, error) {
	if err := Acceptable(password); err != nil {
		return "", err
	}
	if err := h.acquire(ctx); err != nil {
		return "", err
	}
	defer h.release()
	return newScram(password).String(), nil
}
