package node

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/node/route"
	"github.com/covey-mail/covey/replica"
)

// notYet takes proposals from some time on, and says with an error what is the
// matter before.
type notYet struct {
	from time.Time
	err  error
}

func (n notYet) Propose(context.Context, covey.ShardID, []byte) (any, error) {
	if time.Now().Before(n.from) {
		return nil, n.err
	}
	return "done", nil
}

func (n notYet) ReadIndex(context.Context, covey.ShardID) error { return nil }

func TestPatient(t *testing.T) {
	moving := covey.Errorf(covey.Unavailable, "no leader: %w", replica.ErrNotLeading)
	unknown := covey.Errorf(covey.Unknown, "it may be done")
	for _, tt := range []struct {
		after time.Duration
		err   error
		want  error
		waits time.Duration // at most
	}{
		{0, moving, nil, 0},
		{time.Second, moving, nil, time.Second + 50*time.Millisecond},
		{time.Minute, moving, moving, route.Patience + 50*time.Millisecond},
		{time.Second, unknown, unknown, 0}, // twice would be twice
	} {
		synctest.Test(t, func(t *testing.T) {
			began := time.Now()
			_, err := patient{notYet{began.Add(tt.after), tt.err}}.Propose(t.Context(), 0, nil)
			if took := time.Since(began); !errors.Is(err, tt.want) || took > tt.waits {
				t.Errorf("after %v: %v in %v, want %v within %v", tt.after, err, took, tt.want, tt.waits)
			}
		})
	}
}
