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

// patient tries again what surely was not done because nobody led just then: an
// operator, or a log-in, should not notice a hand-over of the directory.
type patient struct {
	proposer
	leader func(context.Context, covey.ShardID) (covey.NodeID, error) // as of route.Table
}

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

// ReadIndex implements directory.Proposer. Log-ins are many and wait for no leader
// that has been missing for long.
func (p patient) ReadIndex(ctx context.Context, id covey.ShardID) error {
	const again = 10 * time.Millisecond // the group may know later than the table
	for end := time.Now().Add(route.Patience); ; {
		err := p.proposer.ReadIndex(ctx, id)
		if !errors.Is(err, replica.ErrNotLeading) || time.Now().After(end) {
			return err
		}
		if _, none := p.leader(ctx, id); none != nil {
			return err
		}
		select {
		case <-time.After(again):
		case <-ctx.Done():
			return err
		}
	}
}
