package delivery_test

import (
	"context"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/delivery"
	"github.com/covey-mail/covey/storage"
)

// send delivers text to a for a sender that may be there.
func (f fixture) send(t *testing.T, here *atomic.Bool) delivery.Receipt {
	t.Helper()
	rec, err := f.Deliver(t.Context(), delivery.Envelope{
		From: covey.Address{Local: "s", Domain: "example.net"}, Recipients: f.recipients(t, "a"), Here: here.Load,
	}, strings.NewReader(text))
	if err != nil || rec.Outcomes[0] != nil {
		t.Errorf("Deliver: %v, outcomes %v", err, rec.Outcomes)
	}
	return rec
}

func connected() *atomic.Bool {
	here := new(atomic.Bool)
	here.Store(true)
	return here
}

// Who sends the same bytes over several connections at once means several
// messages.
func TestSameBytesAtOnce(t *testing.T) {
	f := setUp(t)
	const senders, each = 16, 4
	var all sync.WaitGroup
	for range senders {
		all.Go(func() {
			for range each {
				f.Confirm(f.send(t, connected()))
			}
		})
	}
	all.Wait()
	if n := len(f.inbox(t, 1, 1)); n != senders*each {
		t.Errorf("%d messages of %d", n, senders*each)
	}
}

// A sender that is gone may come again; which of several it is makes no difference.
func TestSenderIsGone(t *testing.T) {
	f := setUp(t)
	stays, goes := connected(), connected()
	f.send(t, stays)
	lost := f.send(t, goes)
	want := func(what string, n int) {
		t.Helper()
		if got := len(f.inbox(t, 1, 1)); got != n {
			t.Errorf("%s: %d messages, want %d", what, got, n)
		}
	}
	want("two on purpose", 2)
	goes.Store(false) // nobody has noticed but the kernel
	again := f.send(t, connected())
	want("a resend", 2)
	f.Lost(lost)
	f.Confirm(again)
	third := f.send(t, connected())
	want("on purpose", 3)
	f.Lost(third)
	f.send(t, connected())
	want("a resend after the session's end", 3)
}

// A shard knows deliveries of other nodes, whose senders only those can tell of.
func TestSenderAtAnotherNode(t *testing.T) {
	there := covey.DeliveryID{Node: 99, Boot: 1, Seq: 1}
	for name, x := range map[string]struct {
		apart []covey.DeliveryID
		err   error
		want  int
	}{
		"there":   {apart: []covey.DeliveryID{there}, want: 2},
		"gone":    {want: 1},
		"unknown": {err: covey.Errorf(covey.Unavailable, "no link"), want: 1},
	} {
		t.Run(name, func(t *testing.T) {
			f := setUp(t)
			var asked int
			svc := delivery.New(delivery.Config{
				Directory: people{"a": {person(1, 1, "a")}}, Mailboxes: f.c.Service, Shards: f.c, Now: f.c.Now,
				Ask: func(_ context.Context, node covey.NodeID, _ [16]byte, shard covey.ShardID) ([]covey.DeliveryID, error) {
					if asked++; node != 99 || shard != 1 {
						t.Errorf("node %s was asked about shard %d", node, shard)
					}
					return x.apart, x.err
				},
			})
			// What the other node delivers first.
			var first storage.Deliver
			f.c.Fail(func(_ covey.ShardID, cmd storage.Command) error {
				first = cmd.(storage.Deliver)
				return covey.Errorf(covey.Denied, "not by this node")
			})
			_, _ = svc.Deliver(t.Context(), delivery.Envelope{
				From: covey.Address{Local: "s", Domain: "example.net"}, Recipients: f.recipients(t, "a"),
			}, strings.NewReader(text))
			f.c.Fail(nil)
			first.ID = there
			if _, err := f.c.Propose(t.Context(), 1, first); err != nil {
				t.Fatal(err)
			}

			fixture{svc, f.c}.send(t, connected())
			if asked != 1 {
				t.Errorf("the other node was asked %d times", asked)
			}
			if got := len(f.inbox(t, 1, 1)); got != x.want {
				t.Errorf("%d messages, want %d", got, x.want)
			}
		})
	}
}
