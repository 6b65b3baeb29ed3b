package mailbox

import (
	"context"
	"errors"
	"time"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/storage"
)

// How long a command whose outcome is unknown is asked for again.
const (
	tryTimeout   = 2 * time.Second
	totalTimeout = 60 * time.Second
	tryPause     = 50 * time.Millisecond // a try may end at once
)

// Insist proposes a command that is recognised when it comes twice (Deliver,
// Chunk) until its outcome is definite, for at most 60 seconds, each try for at
// most two. covey.Unknown after that. covey.Unavailable ends it at once, and stays
// so only if no try before may yet be done.
func (s *Service) Insist(ctx context.Context, id covey.ShardID, cmd storage.Command) (*storage.Result, error) {
	unknown := false
	// One context a try and none for the whole: nearly all need one try.
	for end := time.Now().Add(totalTimeout); ; {
		try, cancel := context.WithTimeout(ctx, min(tryTimeout, time.Until(end)))
		res, err := s.cfg.Shards.Propose(try, id, cmd)
		cancel()
		if err == nil || !errors.Is(err, covey.Unknown) || ctx.Err() != nil || time.Until(end) <= 0 {
			if unknown && errors.Is(err, covey.Unavailable) {
				// This try was not done; an earlier one may yet be.
				err = covey.Errorf(covey.Unknown, "after an unknown outcome: %w", err)
			}
			return res, err
		}
		unknown = true
		select {
		case <-ctx.Done(): // the next try says so
		case <-time.After(tryPause):
		}
	}
}
