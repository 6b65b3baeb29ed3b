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
			_, err := patient{proposer: notYet{began.Add(tt.after), tt.err}}.Propose(t.Context(), 0, nil)
			if took := time.Since(began); !errors.Is(err, tt.want) || took > tt.waits {
				t.Errorf("after %v: %v in %v, want %v within %v", tt.after, err, took, tt.want, tt.waits)
			}
		})
	}
}

// A reader waits for a leader as long as the table does, and no longer.
func TestPatientReader(t *testing.T) {
	moving := covey.Errorf(covey.Unavailable, "no leader: %w", replica.ErrNotLeading)
	for _, tt := range []struct {
		after, known time.Duration // when the group has a leader, and when the table
		want         error
		waits        time.Duration // at most
	}{
		{0, 0, nil, 0},
		{time.Second, time.Second, nil, time.Second + 10*time.Millisecond},
		{time.Second, 0, nil, time.Second + 10*time.Millisecond},
		{time.Minute, 0, moving, route.Patience + 10*time.Millisecond},
		{time.Minute, time.Minute, moving, route.Patience},
	} {
		synctest.Test(t, func(t *testing.T) {
			began, table := time.Now(), route.NewTable()
			timer := time.AfterFunc(tt.known, func() { table.Learn(0, 1, 1) })
			defer timer.Stop()
			err := patient{notYet{began.Add(tt.after), moving}, table.Leader}.ReadIndex(t.Context(), 0)
			if took := time.Since(began); !errors.Is(err, tt.want) || took > tt.waits {
				t.Errorf("%+v: %v in %v", tt, err, took)
			}
		})
	}
	table := route.NewTable()
	table.SetVoters(0, []covey.NodeID{1, 2, 3})
	table.Lost(2)
	table.Lost(3)
	began := time.Now()
	if err := (patient{notYet{began.Add(time.Minute), moving}, table.Leader}).ReadIndex(t.Context(), 0); !errors.Is(err, moving) || time.Since(began) > time.Second {
		t.Errorf("without a quorum: %v in %v, want no wait", err, time.Since(began))
	}
}
