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

func (n notYet) ReadIndex(ctx context.Context, id covey.ShardID) error {
	_, err := n.Propose(ctx, id, nil)
	return err
}

// What was not done for want of a leader is tried again for as long as the table
// says that one may come.
func TestPatient(t *testing.T) {
	const again = 10 * time.Millisecond
	moving := covey.Errorf(covey.Unavailable, "no leader: %w", replica.ErrNotLeading)
	unknown := covey.Errorf(covey.Unknown, "it may be done")
	for _, tt := range []struct {
		after, known time.Duration // when the group has a leader, and when the table
		err          error
		want         error
		waits        time.Duration // at most
	}{
		{0, 0, moving, nil, 0},
		{time.Second, time.Second, moving, nil, time.Second + again},
		{time.Second, 0, moving, nil, time.Second + again},
		{time.Minute, 0, moving, moving, route.Patience + again},
		{time.Minute, time.Minute, moving, moving, route.Patience},
		{time.Second, 0, unknown, unknown, 0}, // twice would be twice
	} {
		for name, try := range map[string]func(context.Context, patient) error{
			"propose": func(ctx context.Context, p patient) error { _, err := p.Propose(ctx, 0, nil); return err },
			"read":    func(ctx context.Context, p patient) error { return p.ReadIndex(ctx, 0) },
		} {
			synctest.Test(t, func(t *testing.T) {
				began, table := time.Now(), route.NewTable()
				learn := time.AfterFunc(tt.known, func() { table.Learn(0, 1, 1) })
				defer learn.Stop()
				err := try(t.Context(), patient{notYet{began.Add(tt.after), tt.err}, table.Leader})
				if took := time.Since(began); !errors.Is(err, tt.want) || took > tt.waits {
					t.Errorf("%s, a leader after %v, known after %v: %v in %v, want %v within %v", name, tt.after, tt.known, err, took, tt.want, tt.waits)
				}
			})
		}
	}
}

// Without a quorum nobody waits at all.
func TestPatienceNeedsAQuorum(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		moving := covey.Errorf(covey.Unavailable, "no leader: %w", replica.ErrNotLeading)
		began, table := time.Now(), route.NewTable()
		table.SetVoters(0, []covey.NodeID{1, 2, 3})
		table.Lost(2)
		table.Lost(3)
		p := patient{notYet{began.Add(time.Minute), moving}, table.Leader}
		if err := p.ReadIndex(t.Context(), 0); !errors.Is(err, moving) || time.Since(began) > 0 {
			t.Errorf("%v in %v, want no wait", err, time.Since(began))
		}
	})
}
