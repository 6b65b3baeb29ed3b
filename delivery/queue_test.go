package delivery_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/delivery"
	"github.com/covey-mail/covey/mailbox/mailboxtest"
	"github.com/covey-mail/covey/storage"
)

// bigText is longer than one command takes.
var bigText = "Subject: big\r\n\r\n" + strings.Repeat("many octets\r\n", 50_000)

// A post is three shards with a, b and c, one in each, and a Queue that leads the
// first.
type post struct {
	fixture
	t       *testing.T
	queue   *delivery.Queue
	metrics *delivery.QueueMetrics
	tick    chan time.Time
	term    uint64 // in which shard 1 is led, as the shard sees it
	removed map[covey.AccountID]bool
	cut     map[covey.ShardID]covey.Kind // shards that take nothing, and what is said of it
	aborts  int                          // uploads given up
}

// inPost runs fn in a bubble of its own, in which it can wait for what is under way.
func inPost(t *testing.T, fn func(*testing.T, *post)) {
	synctest.Test(t, func(t *testing.T) {
		c := mailboxtest.New(t, 3)
		p := &post{
			t: t, metrics: delivery.NewQueueMetrics(), tick: make(chan time.Time), term: 4,
			removed: make(map[covey.AccountID]bool), cut: make(map[covey.ShardID]covey.Kind),
		}
		p.fixture = fixture{delivery.New(delivery.Config{
			Directory: people{"a": {person(1, 1, "a")}, "b": {person(2, 2, "b")}, "c": {person(3, 3, "c")}, "bb": {person(4, 2, "bb")}},
			Mailboxes: c.Service, Shards: c, Now: c.Now,
		}), c}
		p.queue = p.newQueue()
		c.Fail(p.refuse)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); p.queue.Run(ctx, p.tick) }()
		p.queue.Lead(1, p.term)
		fn(t, p)
		cancel()
		<-done
	})
}

func (p *post) newQueue() *delivery.Queue {
	return delivery.NewQueue(delivery.QueueConfig{
		Delivery: p.Service, Metrics: p.metrics,
		Removed: func(id covey.AccountID) (bool, error) { return p.removed[id], nil },
		Propose: func(ctx context.Context, id covey.ShardID, term uint64, cmd storage.Command) error {
			if id != 1 || term != p.term {
				return covey.Errorf(covey.Unavailable, "shard %d is not led in term %d", id, term)
			}
			_, err := p.c.Propose(ctx, id, cmd)
			return err
		},
	})
}

func (p *post) refuse(id covey.ShardID, cmd storage.Command) error {
	kind, cut := p.cut[id]
	switch cmd.(type) {
	case storage.Abort:
		p.aborts++
	case storage.Deliver, storage.Chunk:
		if cut {
			return covey.Errorf(kind, "shard %d", id)
		}
	}
	return nil
}

// send delivers as SMTP does.
func (p *post) send(text string, locals ...string) delivery.Receipt {
	p.t.Helper()
	rec, err := p.Deliver(p.t.Context(), delivery.Envelope{
		From: covey.Address{Local: "s", Domain: "example.net"}, Recipients: p.recipients(p.t, locals...),
		Header: []byte("Received: x\r\n"), Together: true,
	}, strings.NewReader(text))
	if err != nil {
		p.t.Fatal(err)
	}
	return rec
}

// taken reports it unless every recipient's outcome is good.
func (p *post) taken(rec delivery.Receipt, queued int) {
	p.t.Helper()
	for i, err := range rec.Outcomes {
		if err != nil {
			p.t.Errorf("recipient %d: %v", i, err)
		}
	}
	if rec.Queued != queued {
		p.t.Errorf("%d accounts are queued, want %d", rec.Queued, queued)
	}
}

// leaveB sends text to a and b, while b's shard takes nothing, so that b's waits in the
// queue; the sender has heard.
func (p *post) leaveB(text string) {
	p.t.Helper()
	p.cut[2] = covey.Unavailable
	rec := p.send(text, "a", "b")
	p.taken(rec, 1)
	p.heard(rec)
	delete(p.cut, 2)
}

// work lets the queue try everything once.
func (p *post) work() {
	p.queue.Kick()
	synctest.Wait()
}

// waiting returns what waits in the queue of shard 1.
func (p *post) waiting() []storage.Queued {
	p.t.Helper()
	r, err := p.c.Local(1)
	if err != nil {
		p.t.Fatal(err)
	}
	list, err := r.Queue(0, 100)
	if err != nil {
		p.t.Fatal(err)
	}
	return list
}

// copies reports it unless a, b and c have so many messages.
func (p *post) copies(a, b, c int) {
	p.t.Helper()
	got := []int{len(p.inbox(p.t, 1, 1)), len(p.inbox(p.t, 2, 2)), len(p.inbox(p.t, 3, 3))}
	if diff := cmp.Diff([]int{a, b, c}, got); diff != "" {
		p.t.Errorf("messages of a, b and c (-want +got):\n%s", diff)
	}
}

// heard confirms a receipt, and has all shards be told.
func (p *post) heard(rec delivery.Receipt) {
	p.Confirm(rec)
	p.tell()
}

// tell has all shards be told what was confirmed.
func (p *post) tell() {
	ctx, cancel := context.WithCancel(p.t.Context())
	cancel()
	p.Run(ctx, nil)
}

// S-31 with several shards: some take the message, the others get it from the
// queue; the sender hears 250.
func TestRestIsQueued(t *testing.T) {
	for _, text := range []string{text, bigText, ""} {
		inPost(t, func(t *testing.T, p *post) {
			p.cut[2], p.cut[3] = covey.Unavailable, covey.Unknown
			rec := p.send(text, "b", "a", "c", "bb")
			p.taken(rec, 3)
			p.work()
			p.copies(1, 0, 0)
			delete(p.cut, 2)
			p.work()
			p.copies(1, 1, 0)
			q := p.waiting()
			if len(q) != 1 || len(q[0].Rest) != 1 || q[0].Rest[0].Address != "c@example.org" || q[0].Sender != "s@example.net" || q[0].ID != rec.ID {
				t.Errorf("in the queue: %+v", q)
			}
			delete(p.cut, 3)
			p.work()
			p.work()
			p.copies(1, 1, 1)
			for id, local := range map[covey.AccountID]string{2: "b", 4: "bb", 3: "c"} {
				shard := covey.ShardID(min(id, 3))
				if id == 4 {
					shard = 2
				}
				if diff := cmp.Diff([]string{stored(local, text)}, p.inbox(t, id, shard)); diff != "" {
					t.Errorf("%s has (-want +got):\n%.300s", local, diff)
				}
			}
			if q := p.waiting(); len(q) != 0 {
				t.Errorf("left in the queue: %+v", q)
			}
		})
	}
}

// With LMTP, which has a reply for each recipient, nothing is queued.
func TestApartNothingIsQueued(t *testing.T) {
	inPost(t, func(t *testing.T, p *post) {
		p.cut[2] = covey.Unavailable
		rec := p.deliver(t, text, "a", "b")
		if rec.Outcomes[0] != nil || !errors.Is(rec.Outcomes[1], covey.Unavailable) || rec.Queued != 0 {
			t.Errorf("receipt %+v", rec)
		}
		if q := p.waiting(); len(q) != 0 {
			t.Errorf("in the queue: %+v", q)
		}
	})
}

// Nothing is said to be taken that is not durable somewhere.
func TestNotQueued(t *testing.T) {
	enqueue := func(kind covey.Kind, shards ...covey.ShardID) func(*post) {
		return func(p *post) {
			p.cut[2] = covey.Unavailable
			p.c.Fail(func(id covey.ShardID, cmd storage.Command) error {
				if _, ok := cmd.(storage.Enqueue); ok {
					for _, s := range shards {
						if s == id {
							return covey.Errorf(kind, "not queued")
						}
					}
				}
				return p.refuse(id, cmd)
			})
		}
	}
	for _, tt := range []struct {
		name   string
		set    func(*post)
		queued int
	}{
		{"no shard took it", func(p *post) { p.cut[1], p.cut[2], p.cut[3] = covey.Unavailable, covey.Unavailable, covey.Unknown }, 0},
		{"the first refuses", enqueue(covey.Limit, 1), 1},
		{"all refuse", enqueue(covey.Unavailable, 1, 3), 0},
		{"it is not known", enqueue(covey.Unknown, 1), 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inPost(t, func(t *testing.T, p *post) {
				tt.set(p)
				rec := p.send(text, "a", "b", "c")
				if rec.Queued != tt.queued {
					t.Errorf("%d accounts queued, want %d", rec.Queued, tt.queued)
				}
				if bad := rec.Outcomes[1] != nil; bad != (tt.queued == 0) {
					t.Errorf("outcomes %v", rec.Outcomes)
				}
			})
		})
	}
}

// Before every node knows queues, nobody makes one.
func TestQueueWaitsForAllNodes(t *testing.T) {
	c := mailboxtest.New(t, 2)
	f := fixture{delivery.New(delivery.Config{
		Directory: people{"a": {person(1, 1, "a")}, "b": {person(2, 2, "b")}},
		Mailboxes: c.Service, Shards: c, Now: c.Now, Queue: func() bool { return false },
	}), c}
	var newer []storage.Command
	c.Fail(func(id covey.ShardID, cmd storage.Command) error {
		if storage.Encode(cmd)[0] > 1 {
			newer = append(newer, cmd)
		}
		if id == 2 {
			return covey.Errorf(covey.Unavailable, "no quorum")
		}
		return nil
	})
	f.Confirm(f.deliver(t, text, "a"))
	rec, err := f.Deliver(t.Context(), delivery.Envelope{Recipients: f.recipients(t, "a", "b"), Together: true}, strings.NewReader(text))
	if err != nil || !errors.Is(rec.Outcomes[1], covey.Unavailable) {
		t.Errorf("receipt %+v, error %v", rec, err)
	}
	f.Confirm(rec)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	f.Run(ctx, nil)
	if len(newer) > 0 {
		t.Errorf("commands that older nodes do not know: %+v", newer)
	}
}

// The leader dies when the target has the message and before that is marked: the
// next one's try is recognised, and marked.
func TestMarkIsLost(t *testing.T) {
	inPost(t, func(t *testing.T, p *post) {
		p.cut[2] = covey.Unavailable
		p.taken(p.send(text, "a", "b"), 1)
		delete(p.cut, 2)
		p.c.Fail(func(id covey.ShardID, cmd storage.Command) error {
			if _, ok := cmd.(storage.Dequeue); ok {
				return covey.Errorf(covey.Unknown, "lost")
			}
			return nil
		})
		p.work()
		p.copies(1, 1, 0)
		if q := p.waiting(); len(q) != 1 {
			t.Fatalf("in the queue: %+v", q)
		}
		p.c.Fail(nil)
		p.term++
		p.queue.Lead(1, p.term)
		p.work()
		p.copies(1, 1, 0)
		if q := p.waiting(); len(q) != 0 {
			t.Errorf("left in the queue: %+v", q)
		}
	})
}

// The target takes the message, and its answer is lost.
func TestAnswerIsLost(t *testing.T) {
	inPost(t, func(t *testing.T, p *post) {
		p.cut[2] = covey.Unavailable
		p.taken(p.send(text, "a", "b"), 1)
		delete(p.cut, 2)
		p.c.Lose(func(id covey.ShardID, cmd storage.Command) bool {
			_, ok := cmd.(storage.Deliver)
			return ok && id == 2
		})
		p.work()
		p.c.Lose(nil)
		if q := p.waiting(); len(q) != 1 {
			t.Fatalf("in the queue: %+v", q)
		}
		p.work()
		p.copies(1, 1, 0)
		if q := p.waiting(); len(q) != 0 {
			t.Errorf("left in the queue: %+v", q)
		}
	})
}

// Who led the shard in an earlier term marks nothing.
func TestOldTermMarksNothing(t *testing.T) {
	inPost(t, func(t *testing.T, p *post) {
		p.cut[2] = covey.Unavailable
		p.taken(p.send(text, "a", "b"), 1)
		delete(p.cut, 2)
		p.term++ // the queue has not heard of it
		p.work()
		if q := p.waiting(); len(q) != 1 {
			t.Errorf("marked in an old term: %+v", q)
		}
		p.queue.Lead(1, 0)
		p.term--
		p.work()
		if q := p.waiting(); len(q) != 1 {
			t.Errorf("worked off without leading: %+v", q)
		}
		p.queue.Lead(1, p.term)
		p.work()
		if q := p.waiting(); len(q) != 0 {
			t.Errorf("left in the queue: %+v", q)
		}
		p.copies(1, 1, 0)
	})
}

// A tenure that ends while a try is under way ends the try.
func TestTenureEndsATry(t *testing.T) {
	inPost(t, func(t *testing.T, p *post) {
		p.cut[2] = covey.Unavailable
		p.taken(p.send(text, "a", "b"), 1)
		began := time.Now()
		q := delivery.NewQueue(delivery.QueueConfig{
			Delivery: p.Service,
			Removed:  func(covey.AccountID) (bool, error) { return true, nil },
			Propose: func(ctx context.Context, _ covey.ShardID, _ uint64, _ storage.Command) error {
				<-ctx.Done()
				return covey.Errorf(covey.Unknown, "%w", ctx.Err())
			},
		})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); q.Run(ctx, nil) }()
		q.Lead(1, 1)
		q.Kick()
		synctest.Wait()
		q.Lead(1, 0)
		synctest.Wait()
		cancel()
		<-done
		if took := time.Since(began); took != 0 {
			t.Errorf("it took %v", took)
		}
	})
}

// A sender that did not hear the 250 sends again, be it to all recipients at once or
// to each by itself, and hears then; the queue comes last.
func TestResendOvertakesTheQueue(t *testing.T) {
	for _, again := range [][]string{{"a b"}, {"a", "b"}, {"b", "a"}, {"b"}} {
		for _, hear := range []bool{true, false} {
			t.Run(fmt.Sprintf("%q heard %v", again, hear), func(t *testing.T) {
				inPost(t, func(t *testing.T, p *post) {
					p.cut[2] = covey.Unavailable
					p.taken(p.send(text, "a", "b"), 1) // and the reply is lost
					delete(p.cut, 2)
					for _, to := range again {
						rec := p.send(text, strings.Fields(to)...)
						p.taken(rec, 0)
						if hear {
							p.heard(rec)
						}
					}
					p.work()
					p.copies(1, 1, 0)
					if q := p.waiting(); len(q) != 0 {
						t.Errorf("left in the queue: %+v", q)
					}
				})
			})
		}
	}
}

// The 451 after an Enqueue whose outcome is unknown, which was done after all.
func TestResendAfterUnknownEnqueue(t *testing.T) {
	inPost(t, func(t *testing.T, p *post) {
		p.cut[2] = covey.Unavailable
		p.c.Lose(func(_ covey.ShardID, cmd storage.Command) bool { _, ok := cmd.(storage.Enqueue); return ok })
		rec := p.send(text, "a", "b")
		if !errors.Is(rec.Outcomes[1], covey.Unavailable) || len(p.waiting()) != 1 {
			t.Fatalf("receipt %+v, in the queue %+v", rec, p.waiting())
		}
		p.c.Lose(nil)
		delete(p.cut, 2)
		rec = p.send(text, "a", "b")
		p.taken(rec, 0)
		p.heard(rec)
		p.work()
		p.copies(1, 1, 0)
	})
}

// What is sent again on purpose, after a 250 that was heard, is a second message,
// before the queue is worked off and after it.
func TestSentTwiceOnPurpose(t *testing.T) {
	inPost(t, func(t *testing.T, p *post) {
		p.leaveB(text)
		p.heard(p.send(text, "a", "b"))
		p.work()
		p.copies(2, 2, 0)
		p.tell()
		p.heard(p.send(text, "a", "b"))
		p.copies(3, 3, 0)
	})
}

// Another sender has sent the same to the same mailbox while the queue waited. If it
// is still there that is another message; if it is gone, perhaps without the reply, it
// is taken for the one that the queue brings.
func TestSameBytesBesideTheQueue(t *testing.T) {
	for _, text := range []string{text, bigText} {
		for there, want := range map[bool]int{true: 2, false: 1} {
			inPost(t, func(t *testing.T, p *post) {
				p.leaveB(text)
				other, err := p.Deliver(p.t.Context(), delivery.Envelope{
					From: covey.Address{Local: "s", Domain: "example.net"}, Recipients: p.recipients(p.t, "b"), Together: true,
					Here: func() bool { return there },
				}, strings.NewReader(text))
				if err != nil {
					t.Fatal(err)
				}
				p.taken(other, 0)
				p.aborts = 0
				p.work()
				p.copies(1, want, 0)
				// The shard had doubts about the one whose sender is gone, and was asked twice.
				if left := text == bigText && !there; left != (p.aborts == 1) {
					t.Errorf("%d uploads were given up, want one: %v", p.aborts, left)
				}
				if q := p.waiting(); len(q) != 0 {
					t.Errorf("left in the queue: %+v", q)
				}
			})
		}
	}
}

// The recipient who has the message removes it, from INBOX or with the account: the
// others get it all the same.
func TestBodyOutlivesTheFirstCopy(t *testing.T) {
	inPost(t, func(t *testing.T, p *post) {
		p.cut[2], p.cut[3] = covey.Unavailable, covey.Unavailable
		p.taken(p.send(text, "a", "b", "c"), 2)
		v, err := p.c.Service.Account(1, 1, 0).Open(t.Context(), "INBOX")
		if err != nil {
			t.Fatal(err)
		}
		v.Close()
		for _, cmd := range []storage.Command{
			storage.Expunge{Account: 1, Mailbox: 1, UIDs: []storage.UIDRange{{First: 1, Last: 1}}}, storage.DropAccount{Account: 1},
		} {
			if _, err := p.c.Propose(t.Context(), 1, cmd); err != nil {
				t.Fatal(err)
			}
			delete(p.cut, 2+covey.ShardID(len(p.inbox(t, 2, 2))))
			p.work()
		}
		p.copies(0, 1, 1)
	})
}

// Of an account that was removed meanwhile nothing is delivered, and nothing is left.
func TestRemovedAccountIsDropped(t *testing.T) {
	inPost(t, func(t *testing.T, p *post) {
		p.cut[2] = covey.Unavailable
		p.taken(p.send(text, "a", "b", "bb"), 2)
		p.removed[2] = true
		delete(p.cut, 2)
		p.work()
		p.copies(1, 0, 0)
		if n := len(p.inbox(t, 4, 2)); n != 1 {
			t.Errorf("bb has %d messages", n)
		}
		if q := p.waiting(); len(q) != 0 {
			t.Errorf("left in the queue: %+v", q)
		}
	})
}

// While a shard is away its deliveries are tried ever more seldom, and it alone holds
// up nobody; an operator sees what waits and why.
func TestPausesGrow(t *testing.T) {
	inPost(t, func(t *testing.T, p *post) {
		p.cut[2], p.cut[3] = covey.Unavailable, covey.Unavailable
		var tries []time.Duration
		began := p.c.Now()
		p.c.Fail(func(id covey.ShardID, cmd storage.Command) error {
			if _, ok := cmd.(storage.Deliver); ok && id == 2 {
				tries = append(tries, time.Duration(len(tries)))
			}
			return p.refuse(id, cmd)
		})
		for range 3 {
			p.taken(p.send(strings.Replace(text, "body", fmt.Sprint("body ", p.c.Now()), 1), "a", "b", "c"), 2)
		}
		tries = nil
		delete(p.cut, 3)
		for range 30 * 60 { // half an hour, a second each
			p.c.Advance(time.Second)
			p.tick <- time.Time{}
			synctest.Wait()
		}
		p.copies(3, 0, 3)
		if n := len(tries); n < 3*28 || n > 3*45 {
			t.Errorf("%d tries of three deliveries in half an hour", n)
		}
		list, err := p.queue.List(1, 2)
		if err != nil || len(list) != 2 {
			t.Fatalf("list %+v, error %v", list, err)
		}
		for _, w := range list {
			if w.Tries < 28 || !errors.Is(w.Err, covey.Unavailable) || len(w.Rest) != 1 || w.Rest[0].Address != "b@example.org" || w.Time.Before(began) {
				t.Errorf("waiting: %+v", w)
			}
		}
		if _, err := p.queue.List(2, 2); !errors.Is(err, covey.Unavailable) {
			t.Errorf("list of a shard that is led elsewhere: %v", err)
		}
		delete(p.cut, 2)
		p.work()
		p.copies(3, 3, 3)
	})
}
