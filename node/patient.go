package node

import (
	"context"
	"errors"
	"time"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/node/route"
	"github.com/covey-mail/covey/replica"
)

// proposer is what patient makes patient; *replica.Host is one.
type proposer interface {
	Propose(ctx context.Context, id covey.ShardID, cmd []byte) (any, error)
	ReadIndex(ctx context.Context, id covey.ShardID) error
}

// patient proposes again what surely was not done because nobody led just then: an
// operator, or a log-in, should not notice a hand-over of the directory.
type patient struct{ proposer }

// Propose implements directory.Proposer.
func (p patient) Propose(ctx context.Context, id covey.ShardID, cmd []byte) (any, error) {
	const again = 50 * time.Millisecond
	for end := time.Now().Add(route.Patience); ; {
		v, err := p.proposer.Propose(ctx, id, cmd)
		if !errors.Is(err, replica.ErrNotLeading) || time.Now().After(end) {
			return v, err
		}
		select {
		case <-time.After(again):
		case <-ctx.Done():
			return nil, err
		}
	}
}
