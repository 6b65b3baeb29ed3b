package storagetest

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/storage"
)

// queueable delivers a message and returns what puts the rest of its recipients
// into the queue.
func (d *driver) queueable(text string) storage.Enqueue {
	d.t.Helper()
	c := d.delivery(1, "INBOX", text)
	c.Hash = [16]byte{byte(d.seq), 1}
	d.must(c)
	return storage.Enqueue{
		ID: c.ID, Time: c.Time, Hash: c.Hash, Sender: "s@example.net",
		Rest: []storage.Rest{{Shard: 5, Account: 7, Mailbox: "INBOX", Address: "b@example.org"}, {Shard: 6, Account: 8, Mailbox: "Junk", Address: "c@example.org"}},
	}
}

// queue returns all that is queued.
func (d *driver) queue() []storage.Queued {
	d.t.Helper()
	return queueOf(d.t, d.state)
}

func queueOf(t testing.TB, state storage.State) []storage.Queued {
	t.Helper()
	var all []storage.Queued
	for after := uint64(0); ; {
		list, err := state.Queue(after, 2)
		if err != nil {
			t.Fatal(err)
		}
		if len(list) == 0 {
			break
		}
		all = append(all, list...)
		after = list[len(list)-1].Index
	}
	n, oldest, err := state.QueueLength()
	if err != nil || n != len(all) || n > 0 && !oldest.Equal(all[0].Time) {
		t.Errorf("the queue has %d deliveries, the oldest of %v, error %v; read %+v", n, oldest, err, all)
	}
	return all
}

// empty makes the INBOX of an account empty.
func (d *driver) empty(a covey.AccountID) {
	d.t.Helper()
	d.must(storage.Expunge{Account: a, Mailbox: d.mailbox(a, "INBOX").ID, UIDs: all})
}

func testQueue(t *testing.T, open Opener) {
	t.Run("body", func(t *testing.T) { testQueueBody(t, open) })
	t.Run("refused", func(t *testing.T) { testQueueRefused(t, open) })
	t.Run("rest", func(t *testing.T) {
		d := newDriver(t, open)
		first, second := d.queueable("one"), d.queueable("two")
		d.must(first)
		d.must(second)
		d.must(first) // its outcome was unknown
		d.must(storage.Dequeue{ID: second.ID, Accounts: []covey.AccountID{8, 9}})
		second.Rest = second.Rest[:1]
		want := []storage.Queued{{Enqueue: first, Index: 3, Body: 1}, {Enqueue: second, Index: 4, Body: 2}}
		d.same("queue", d.queue(), want)
		d.must(storage.Dequeue{ID: first.ID, Accounts: []covey.AccountID{8, 7}})
		d.same("queue", d.queue(), want[1:])
		d.must(storage.Dequeue{ID: first.ID, Accounts: []covey.AccountID{8}})
		d.must(storage.Confirm{IDs: []covey.DeliveryID{first.ID, second.ID}})
		want[1].Heard = true
		d.same("queue", d.queue(), want[1:])
	})
	t.Run("of a resend", func(t *testing.T) {
		d := newDriver(t, open)
		c := d.delivery(1, "INBOX", "x")
		c.Hash[0] = 1
		d.must(c)
		c.ID = d.id() // recognised: its message is the first one's
		d.must(c)
		e := storage.Enqueue{ID: c.ID, Time: c.Time, Hash: c.Hash, Rest: []storage.Rest{{Shard: 5, Account: 7}}}
		d.must(e)
		d.empty(1)
		if q := d.queue(); len(q) != 1 || q[0].Body != 1 || d.bytes(1) != "x" {
			t.Errorf("queue %+v, body %q", q, d.bytes(q[0].Body))
		}
	})
	t.Run("late", func(t *testing.T) { testLate(t, open) })
}

// testQueueBody is about the bytes, which stay as long as the queue needs them.
func testQueueBody(t *testing.T, open Opener) {
	d := newDriver(t, open)
	d.log.SegmentSize = 100
	small := d.queueable("small")
	big := d.delivery(1, "INBOX", "")
	big.Body = d.upload(3, 70)
	d.must(big)
	d.must(small)
	d.must(storage.Enqueue{ID: big.ID, Time: big.Time, Rest: small.Rest})
	d.empty(1)
	d.must(storage.DropAccount{Account: 1})
	queued := d.queue()
	if got := d.bytes(queued[0].Body); got != "small" {
		t.Errorf("body is %q", got)
	}
	want := strings.Repeat("a", 70) + strings.Repeat("b", 70) + strings.Repeat("c", 70)
	if got := d.bytes(queued[1].Body); got != want {
		t.Errorf("body is %q", got)
	}
	if sum, err := d.state.Summary(queued[0].Body); string(sum) != "summary of small" || err != nil {
		t.Errorf("summary %q, error %v", sum, err)
	}
	live, err := d.state.Live()
	if err != nil {
		t.Fatal(err)
	}
	moved := 0
	for segment := range live {
		list, err := d.state.Residents(segment, storage.Resident{}, 10)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range list {
			d.moveOut(r, segment)
			moved++
		}
	}
	if got := d.bytes(queued[1].Body); got != want || moved < 3 {
		t.Errorf("body is %q after %d moves", got, moved)
	}
	for _, q := range queued {
		d.must(storage.Dequeue{ID: q.ID, Accounts: []covey.AccountID{7, 8}})
		if _, err := d.state.Body(q.Body); !errors.Is(err, covey.NotFound) {
			t.Errorf("body of a delivery that is done: %v", err)
		}
		if _, err := d.state.Summary(q.Body); !errors.Is(err, covey.NotFound) {
			t.Errorf("summary of a delivery that is done: %v", err)
		}
	}
	if n := d.liveBytes(); n != 0 {
		t.Errorf("%d bytes are live", n)
	}
}

func testQueueRefused(t *testing.T, open Opener) {
	d := newDriver(t, open)
	good := d.queueable("x")
	for _, spoil := range []func(*storage.Enqueue){
		func(c *storage.Enqueue) { c.Rest = nil },
		func(c *storage.Enqueue) { c.Rest[0].Account = 0 },
		func(c *storage.Enqueue) { c.Rest[0].Shard = 0 },
		func(c *storage.Enqueue) { c.Rest[0].Address = strings.Repeat("x", 401) },
		func(c *storage.Enqueue) { c.Rest[0].Mailbox = strings.Repeat("x", 401) },
		func(c *storage.Enqueue) { c.Sender = strings.Repeat("x", 401) },
	} {
		c := good
		c.Rest = append([]storage.Rest(nil), good.Rest...)
		spoil(&c)
		d.refuse(c, covey.Invalid)
	}
	unknown := good
	unknown.ID = d.id()
	d.refuse(unknown, covey.NotFound)
	d.empty(1)
	d.refuse(good, covey.NotFound) // its message is gone
	confirmed := d.queueable("y")
	d.must(storage.Confirm{IDs: []covey.DeliveryID{confirmed.ID}})
	d.refuse(confirmed, covey.NotFound)
	many := d.queueable("z")
	many.Rest = make([]storage.Rest, 1<<16+1)
	for i := range many.Rest {
		many.Rest[i] = storage.Rest{Shard: 5, Account: covey.AccountID(i + 1)}
	}
	d.refuse(many, covey.Limit)
	many.Rest = many.Rest[1:]
	d.must(many)
	d.refuse(d.queueable("one more"), covey.Limit)
	accounts := make([]covey.AccountID, len(many.Rest))
	for i, r := range many.Rest {
		accounts[i] = r.Account
	}
	d.must(storage.Dequeue{ID: many.ID, Accounts: accounts})
	d.must(d.queueable("again"))
}

// testLate is about a message that comes from another shard's queue, when its
// sender may have sent it again meanwhile.
func testLate(t *testing.T, open Opener) {
	for _, tt := range []struct {
		name   string
		after  time.Duration // of the resend, behind the first try
		spoil  func(resend, late *storage.Deliver, confirm *storage.Confirm)
		repeat bool
	}{
		{"resent and heard", time.Minute, nil, true},
		{"at once, by a node whose clock is slow", -time.Minute, nil, true},
		{"sent before", -time.Hour, nil, false},
		{"heard long ago, and no longer in doubt", time.Minute, func(_, late *storage.Deliver, _ *storage.Confirm) { late.Late = false }, false},
		{"before all nodes remember", time.Minute, func(_, _ *storage.Deliver, c *storage.Confirm) { c.Remember = false }, false},
		{"other message", time.Minute, func(resend, _ *storage.Deliver, _ *storage.Confirm) { resend.Hash[5] = 1 }, false},
		{"other mailbox", time.Minute, func(resend, _ *storage.Deliver, _ *storage.Confirm) { resend.Recipients[0].Mailbox = "Junk" }, false},
		{"without a hash", time.Minute, func(resend, late *storage.Deliver, _ *storage.Confirm) {
			resend.Hash, late.Hash = [16]byte{}, [16]byte{}
		}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := newDriver(t, open)
			late := d.delivery(2, "INBOX", "text")
			late.Hash, late.Late = [16]byte{9}, true
			d.now = d.now.Add(tt.after)
			resend := d.delivery(2, "INBOX", "text")
			resend.Hash = late.Hash
			confirm := storage.Confirm{IDs: []covey.DeliveryID{resend.ID}, Remember: true}
			if tt.spoil != nil {
				tt.spoil(&resend, &late, &confirm)
			}
			d.must(resend)
			d.must(confirm)
			if p := d.must(late).Placed[0]; p.Repeat != tt.repeat {
				t.Errorf("placed %+v, want repeat %v", p, tt.repeat)
			}
			if p := d.must(late).Placed[0]; !p.Repeat {
				t.Errorf("the second time placed %+v", p)
			}
			if !tt.repeat {
				return
			}
			third := d.delivery(2, "INBOX", "text")
			third.Hash = late.Hash
			if p := d.must(third).Placed[0]; p.Repeat {
				t.Errorf("sent on purpose: placed %+v", p)
			}
		})
	}
}

// testQueueReopened is about what the queue is after a start, and what is
// remembered of confirmed deliveries.
func testQueueReopened(t *testing.T, open Opener) {
	d := newDriver(t, open)
	reopen := func() {
		t.Helper()
		if err := d.state.Close(); err != nil {
			t.Fatal(err)
		}
		d.state = open(t, d.cfg)
	}
	first, second := d.queueable("one"), d.queueable("two")
	d.must(first)
	d.must(second)
	want := d.queue()
	reopen()
	if diff := cmp.Diff(want, d.queue()); diff != "" {
		t.Errorf("-before +after:\n%s", diff)
	}
	d.must(storage.Dequeue{ID: first.ID, Accounts: []covey.AccountID{7}})
	d.must(storage.Confirm{IDs: []covey.DeliveryID{second.ID}})
	want = d.queue()
	reopen()
	if diff := cmp.Diff(want, d.queue()); diff != "" {
		t.Errorf("-before +after:\n%s", diff)
	}
	late := d.delivery(2, "INBOX", "text")
	late.Hash, late.Late = [16]byte{9}, true
	for i := range 3 {
		c := d.delivery(2, "INBOX", "text")
		c.Hash = [16]byte{9, byte(i)}
		d.must(c)
		d.must(storage.Confirm{IDs: []covey.DeliveryID{c.ID}, Remember: true})
		reopen()
	}
	d.same("late", d.must(late).Placed[0].Repeat, true)
}
