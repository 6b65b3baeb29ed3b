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
// operator, or a log-in, should not notice a hand-over of the directory. Nobody waits
// where there has been no leader for long.
type patient struct {
	proposer
	leader func(context.Context, covey.ShardID) (covey.NodeID, error) // as of route.Table
}

// Propose implements directory.Proposer.
func (p patient) Propose(ctx context.Context, id covey.ShardID, cmd []byte) (v any, err error) {
	err = p.until(ctx, id, func() error {
		v, err = p.proposer.Propose(ctx, id, cmd)
		return err
	})
	return v, err
}

// ReadIndex implements directory.Proposer.
func (p patient) ReadIndex(ctx context.Context, id covey.ShardID) error {
	return p.until(ctx, id, func() error { return p.proposer.ReadIndex(ctx, id) })
}

// until tries for as long as somebody may come to lead, and returns the last error.
func (p patient) until(ctx context.Context, id covey.ShardID, try func() error) error {
	const again = 10 * time.Millisecond // the group may know of a leader later than the table
	for end := time.Now().Add(route.Patience); ; {
		err := try()
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
