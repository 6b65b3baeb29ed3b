package storagetest

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/storage"
	"github.com/covey-mail/covey/storage/seglog"
)

func testDeliver(t *testing.T, open Opener) {
	t.Run("mailbox", func(t *testing.T) {
		d := newDriver(t, open)
		d.create(1, "Lists/go")
		for _, c := range []struct{ asked, want string }{
			{"INBOX", "INBOX"}, {"inbox", "INBOX"}, {"Junk", "Junk"}, {"Lists/go", "Lists/go"},
			{"Lists/rust", "INBOX"}, {"", "INBOX"}, {"bad\x00name", "INBOX"},
		} {
			r := d.must(d.delivery(1, c.asked, "x"))
			if want := d.mailbox(1, c.want); r.Placed[0].Mailbox != want.ID || r.Placed[0].UID != want.UIDNext-1 {
				t.Errorf("to %q: placed %+v, want the last of %q %+v", c.asked, r.Placed, c.want, want)
			}
		}
		if use := d.mailbox(1, "Junk").Use; use != storage.Junk {
			t.Errorf("use of Junk is %d", use)
		}
	})
	t.Run("content", func(t *testing.T) {
		d := newDriver(t, open)
		c := d.delivery(1, "INBOX", "hello\r\n")
		c.Recipients[0].Prefix = []byte("Delivered-To: a@b\r\n")
		c.Recipients = append(c.Recipients, storage.Recipient{Account: 2, Mailbox: "INBOX"})
		r := d.must(c)
		body := covey.BodyID(1)
		want := storage.Message{
			UID: 1, ModSeq: 2, Date: noon, Size: 7 + 19, Prefix: c.Recipients[0].Prefix, Body: body, Summary: c.Summary,
		}
		d.same("first copy", d.messages(storage.Query{Mailbox: r.Placed[0].Mailbox, Summary: true}), []storage.Message{want})
		want.Size, want.Prefix = 7, nil
		d.same("second copy", d.messages(storage.Query{Mailbox: r.Placed[1].Mailbox, Summary: true}), []storage.Message{want})
		if got := d.bytes(body); got != "hello\r\n" {
			t.Errorf("body is %q", got)
		}
		if a, err := d.state.Account(1); err != nil || a.Bytes != 26 || a.Messages != 1 {
			t.Errorf("account is %+v, error %v", a, err)
		}
	})
	t.Run("empty body", func(t *testing.T) {
		d := newDriver(t, open)
		d.deliver(1, "INBOX", 1)
		r := d.must(d.delivery(1, "INBOX", ""))
		if r.Placed[0].UID != 2 || d.bytes(2) != "" {
			t.Errorf("placed %+v", r.Placed)
		}
	})
	t.Run("invalid", func(t *testing.T) {
		d := newDriver(t, open)
		for _, spoil := range []func(*storage.Deliver){
			func(c *storage.Deliver) { c.Recipients = nil },
			func(c *storage.Deliver) { c.Recipients[0].Account = 0 },
			func(c *storage.Deliver) { c.Recipients[0].Prefix = bytes.Repeat([]byte("x"), 1025) },
			func(c *storage.Deliver) { c.Body.Size++ },
			func(c *storage.Deliver) { c.Body = inline(strings.Repeat("x", storage.ChunkSize+1)) },
			func(c *storage.Deliver) { c.Body = storage.Body{Upload: d.id(), Chunks: 1, Size: 1} },
			func(c *storage.Deliver) { c.Body = storage.Body{Chunks: 1 << 31, Size: 1} },
		} {
			c := d.delivery(1, "INBOX", "x")
			spoil(&c)
			d.refuse(c, covey.Invalid)
		}
	})
}

// bytes reads a body back.
func (d *driver) bytes(id covey.BodyID) string {
	d.t.Helper()
	extents, err := d.state.Body(id)
	if err != nil {
		d.t.Fatal(err)
	}
	var b []byte
	for _, e := range extents {
		p := make([]byte, e.Length)
		if err := d.log.Read(e, p); err != nil {
			d.t.Fatal(err)
		}
		b = append(b, p...)
	}
	return string(b)
}

// again returns a delivery of the same bytes as any other of its.
func again(d *driver, to ...covey.AccountID) storage.Deliver {
	c := d.delivery(1, "INBOX", "same bytes")
	c.Hash, c.Recipients = [16]byte{1, 2, 3}, nil
	for _, a := range to {
		c.Recipients = append(c.Recipients, storage.Recipient{Account: a, Mailbox: "INBOX"})
	}
	return c
}

// testOpen is about messages of the same bytes whose senders are still there.
func testOpen(t *testing.T, open Opener) {
	t.Run("a shard in doubt does nothing", func(t *testing.T) {
		d := newDriver(t, open)
		first, second := again(d, 1), again(d, 1)
		d.must(first)
		second.Asks, second.Recipients = true, append(second.Recipients, storage.Recipient{Account: 2, Mailbox: "Junk"})
		d.same("doubts", d.must(second).Doubts, []covey.DeliveryID{first.ID})
		second.Lost = []covey.DeliveryID{first.ID}
		if p := d.must(second).Placed; !p[0].Repeat || p[1].Repeat || p[1].UID != 1 {
			t.Errorf("a resend is placed %+v", p)
		}
	})
	t.Run("apart", func(t *testing.T) {
		d := newDriver(t, open)
		first, second := again(d, 1), again(d, 1)
		d.must(first)
		second.Asks, second.Apart = true, []covey.DeliveryID{first.ID}
		if p := d.must(second).Placed[0]; p.Repeat || p.UID != 2 {
			t.Errorf("sent twice on purpose, the second is placed %+v", p)
		}
		// Both are lost, and come again, in whatever order.
		third, fourth := again(d, 1), again(d, 1)
		third.Asks, third.Lost = true, []covey.DeliveryID{first.ID, second.ID}
		fourth.Asks, fourth.Lost, fourth.Apart = true, third.Lost, []covey.DeliveryID{third.ID}
		if p := d.must(third).Placed[0]; !p.Repeat || p.UID != 2 {
			t.Errorf("the first resend is placed %+v", p)
		}
		if p := d.must(fourth).Placed[0]; !p.Repeat || p.UID != 1 {
			t.Errorf("the second resend is placed %+v", p)
		}
		// One of them is confirmed. The other is recognised still.
		d.must(storage.Confirm{IDs: []covey.DeliveryID{fourth.ID}})
		fifth := again(d, 1)
		fifth.Asks = true
		d.same("doubts", d.must(fifth).Doubts, []covey.DeliveryID{third.ID})
		fifth.Confirmed = []covey.DeliveryID{third.ID}
		if p := d.must(fifth).Placed[0]; p.Repeat || p.UID != 3 {
			t.Errorf("sent on purpose, it is placed %+v", p)
		}
	})
}

// testRepeat is about messages that come again because a reply was lost.
func testRepeat(t *testing.T, open Opener) {
	t.Run("same id", func(t *testing.T) {
		d := newDriver(t, open)
		c := d.delivery(1, "INBOX", "x")
		first := d.must(c).Placed[0]
		d.deliver(1, "INBOX", 1)
		first.Repeat = true
		d.same("retry", d.must(c).Placed, []storage.Placed{first})
		d.same("UIDs", d.uids(first.Mailbox), []covey.UID{1, 2})
	})
	t.Run("L-03/recipient three times", func(t *testing.T) {
		d := newDriver(t, open)
		p := d.must(again(d, 1, 1, 1)).Placed
		want := p[0]
		want.Repeat = true
		d.same("placed", p[1:], []storage.Placed{want, want})
		d.same("UIDs", d.uids(want.Mailbox), []covey.UID{1})
	})
	t.Run("L-05/resend to the rest", func(t *testing.T) {
		d := newDriver(t, open)
		first := d.must(again(d, 1, 2, 3))
		second := d.must(again(d, 2, 3, 4))
		for i, repeat := range []bool{true, true, false} {
			if second.Placed[i].Repeat != repeat {
				t.Errorf("recipient %d: placed %+v", i, second.Placed[i])
			}
		}
		// The second try's reply arrived: what its recipients get next was sent on
		// purpose. The first recipient's reply is still open.
		c := again(d, 1, 2, 3, 4)
		c.Confirmed = []covey.DeliveryID{{Node: 1, Boot: 1, Seq: 2}}
		third := d.must(c)
		for i, repeat := range []bool{true, false, false, false} {
			if third.Placed[i].Repeat != repeat {
				t.Errorf("after the confirmation, recipient %d: placed %+v", i, third.Placed[i])
			}
		}
		if first.Placed[0].UID != third.Placed[0].UID {
			t.Errorf("UID %d became %d", first.Placed[0].UID, third.Placed[0].UID)
		}
	})
	t.Run("confirmed", func(t *testing.T) {
		d := newDriver(t, open)
		c := again(d, 1)
		d.must(c)
		next := again(d, 1)
		next.Confirmed = []covey.DeliveryID{c.ID, {Node: 9}}
		if p := d.must(next).Placed[0]; p.Repeat || p.UID != 2 {
			t.Errorf("a message sent twice on purpose is placed %+v", p)
		}
	})
	t.Run("confirmed by itself", func(t *testing.T) {
		d := newDriver(t, open)
		c := again(d, 1)
		d.must(c)
		d.must(storage.Confirm{IDs: []covey.DeliveryID{c.ID, {Node: 9}}})
		if p := d.must(again(d, 1)).Placed[0]; p.Repeat || p.UID != 2 {
			t.Errorf("a message sent twice on purpose is placed %+v", p)
		}
	})
	t.Run("age", func(t *testing.T) {
		for _, c := range []struct {
			age    time.Duration
			repeat bool
		}{{5*24*time.Hour - time.Second, true}, {5*24*time.Hour + time.Second, false}} {
			d := newDriver(t, open)
			first := again(d, 1)
			d.must(first)
			d.now = d.now.Add(c.age)
			if p := d.must(again(d, 1)).Placed[0]; p.Repeat != c.repeat {
				t.Errorf("after %v: placed %+v, want repeat %v", c.age, p, c.repeat)
			}
		}
	})
	t.Run("other mailbox", func(t *testing.T) {
		d := newDriver(t, open)
		c := again(d, 1)
		d.must(c)
		c.ID, c.Recipients[0].Mailbox = d.id(), "Junk"
		if p := d.must(c).Placed[0]; p.Repeat {
			t.Errorf("placed %+v", p)
		}
		d.must(storage.DeleteMailbox{Account: 1, Name: "Junk"})
		c.ID = d.id()
		if p := d.must(c).Placed[0]; p.Repeat {
			t.Errorf("into a mailbox made anew: placed %+v", p)
		}
	})
	t.Run("chunks of a retry", func(t *testing.T) {
		d := newDriver(t, open)
		c := again(d, 1)
		c.Body = d.upload(3, 100)
		d.must(c)
		c.Body = d.upload(3, 100)
		d.must(c)
		c.ID, c.Body = d.id(), d.upload(3, 100)
		d.must(c)
		if n := d.liveBytes(); n != 300 {
			t.Errorf("%d bytes are live, want those of one message, 300", n)
		}
	})
}

// upload sends n chunks of size octets each and returns the body they make.
func (d *driver) upload(n, size int) storage.Body {
	d.t.Helper()
	b := storage.Body{Upload: d.id(), Chunks: uint32(n), Size: int64(n * size)}
	for i := range n {
		d.must(storage.Chunk{Upload: b.Upload, N: uint32(i), Time: d.now, Data: bytes.Repeat([]byte{byte('a' + i)}, size)})
	}
	return b
}

func (d *driver) liveBytes() int64 {
	d.t.Helper()
	live, err := d.state.Live()
	if err != nil {
		d.t.Fatal(err)
	}
	var sum int64
	for _, n := range live {
		sum += n.Bytes
	}
	return sum
}

func testChunks(t *testing.T, open Opener) {
	t.Run("in order", func(t *testing.T) {
		d := newDriver(t, open)
		id := d.id()
		for _, n := range []uint32{2, 0, 1, 0} {
			d.must(storage.Chunk{Upload: id, N: n, Time: d.now, Data: []byte{'a' + byte(n)}})
		}
		c := d.delivery(1, "INBOX", "")
		c.Body = storage.Body{Upload: id, Chunks: 3, Size: 3}
		d.must(c)
		if got := d.bytes(covey.BodyID(5)); got != "abc" {
			t.Errorf("body is %q", got)
		}
		c.ID = d.id()
		d.refuse(c, covey.Invalid) // taken
	})
	t.Run("missing", func(t *testing.T) {
		d := newDriver(t, open)
		b := d.upload(2, 10)
		c := d.delivery(1, "INBOX", "")
		for _, bad := range []storage.Body{
			{Upload: b.Upload, Chunks: 3, Size: 30}, {Upload: b.Upload, Chunks: 2, Size: 19},
			{Upload: b.Upload, Chunks: 2, Size: 20, Inline: []byte("x")}, {Upload: d.id(), Chunks: 2, Size: 20},
		} {
			c.Body = bad
			d.refuse(c, covey.Invalid)
		}
		c.Body = b
		d.must(c)
	})
	t.Run("invalid", func(t *testing.T) {
		d := newDriver(t, open)
		d.refuse(storage.Chunk{Upload: d.id(), Time: d.now}, covey.Invalid)
		d.refuse(storage.Chunk{Upload: d.id(), Time: d.now, Data: make([]byte, storage.ChunkSize+1)}, covey.Invalid)
		d.refuse(storage.Chunk{Upload: d.id(), N: storage.MaxChunks, Time: d.now, Data: []byte("x")}, covey.Invalid)
	})
	t.Run("abort", func(t *testing.T) {
		d := newDriver(t, open)
		b := d.upload(2, 10)
		d.must(storage.Abort{Upload: b.Upload})
		d.must(storage.Abort{Upload: b.Upload})
		if n := d.liveBytes(); n != 0 {
			t.Errorf("%d bytes are live", n)
		}
	})
	t.Run("expiry", func(t *testing.T) {
		d := newDriver(t, open)
		b := d.upload(2, 10)
		d.now = d.now.Add(time.Hour)
		kept := d.upload(1, 5)
		if n := d.liveBytes(); n != 25 {
			t.Errorf("after an hour %d bytes are live, want 25", n)
		}
		d.now = d.now.Add(time.Second)
		d.deliver(1, "INBOX", 1)
		c := d.delivery(1, "INBOX", "")
		c.Body = b
		d.refuse(c, covey.Invalid)
		c.Body = kept
		d.must(c)
	})
}

func testAppend(t *testing.T, open Opener) {
	d := newDriver(t, open)
	date := time.Date(1999, 12, 31, 23, 59, 59, 0, time.UTC)
	c := storage.Append{
		Account: 1, Mailbox: "Drafts", Time: noon, Date: date, Quota: 100, Summary: []byte("s"),
		Flags: covey.NewFlags(covey.Seen|covey.Draft, "$Later"), Body: inline("twelve bytes"),
	}
	r := d.must(c)
	mb := d.mailbox(1, "Drafts")
	d.same("mailbox", r.Mailbox, mb)
	d.same("mailbox", mb, storage.Mailbox{
		ID: 1, Account: 1, Name: "Drafts", Use: storage.Drafts, UIDValidity: uint32(noon.Unix()), UIDNext: 2,
		HighestModSeq: 2, Messages: 1, Bytes: 12, Keywords: []string{"$Later"},
	})
	d.same("message", d.messages(storage.Query{Mailbox: mb.ID}), []storage.Message{
		{UID: 1, ModSeq: 2, Flags: c.Flags, Date: date, Size: 12, Body: 1},
	})
	t.Run("I-24/missing mailbox", func(t *testing.T) {
		c := c
		c.Mailbox = "Nowhere"
		d.refuse(c, covey.NotFound)
		c.Mailbox = "/"
		d.refuse(c, covey.Invalid)
	})
	t.Run("I-24/quota", func(t *testing.T) {
		c := c
		c.Quota = 23
		d.refuse(c, covey.OverQuota)
		c.Quota = 24
		d.must(c)
		c.Quota = 0
		d.must(c)
	})
	t.Run("invalid", func(t *testing.T) {
		bad := c
		bad.Body.Size = 11
		d.refuse(bad, covey.Invalid)
		bad = c
		bad.Account = 0
		d.refuse(bad, covey.Invalid)
		bad = c
		bad.Body = storage.Body{Upload: d.id(), Chunks: 1, Size: 9}
		d.refuse(bad, covey.Invalid)
	})
	t.Run("chunks", func(t *testing.T) {
		c := c
		c.Quota, c.Body = 0, d.upload(3, 7)
		d.must(c)
		index, _ := d.state.Hash()
		if got := d.bytes(covey.BodyID(index)); got != "aaaaaaabbbbbbbccccccc" {
			t.Errorf("body is %q", got)
		}
	})
}

// testClocks gives commands times that jump.
func testClocks(t *testing.T, open Opener) {
	for _, jump := range []time.Duration{time.Hour, -time.Hour, 5 * 24 * time.Hour, -5 * 24 * time.Hour, 200 * 365 * 24 * time.Hour} {
		t.Run("F-33/"+jump.String(), func(t *testing.T) {
			d := newDriver(t, open)
			before := d.create(1, "a")
			d.deliver(1, "a", 2)
			d.now = d.now.Add(jump)
			d.deliver(1, "a", 2)
			d.must(storage.DeleteMailbox{Account: 1, Name: "a"})
			d.now = noon
			after := d.create(1, "a")
			if after.UIDValidity <= before.UIDValidity || after.ID <= before.ID {
				t.Errorf("%+v came after %+v", after, before)
			}
			c := d.delivery(1, "a", "")
			c.Body = d.upload(2, 10)
			d.must(c) // uploads go on, whatever the clock was
		})
	}
}

func testPlace(t *testing.T, open Opener) {
	d := newDriver(t, open)
	d.log.SegmentSize = 1 << 10
	big := strings.Repeat("b", 600)
	for range 5 {
		d.must(d.delivery(1, "INBOX", big))
	}
	pending := d.upload(2, 700)
	spread := d.delivery(2, "INBOX", "")
	spread.Body = d.upload(3, 500)
	d.must(spread)

	live, err := d.state.Live()
	if err != nil || len(live) < 3 {
		t.Fatalf("live is %v, error %v; want several segments", live, err)
	}
	met := map[string]int{}
	for segment := range live {
		var after storage.Resident
		for {
			list, err := d.state.Residents(segment, after, 1)
			if err != nil {
				t.Fatal(err)
			}
			if len(list) == 0 {
				break
			}
			after = list[0]
			met[after.String()]++
			d.moveOut(after, segment)
		}
	}
	if len(met) != 5+2+1 {
		t.Errorf("met %v", met)
	}
	now, err := d.state.Live()
	for segment := range live {
		if now[segment] != (storage.Usage{}) {
			t.Errorf("segment %d has %+v live after all were moved, error %v", segment, now[segment], err)
		}
	}
	c := d.delivery(1, "INBOX", "")
	c.Body = pending
	d.must(c)
	d.must(storage.DropAccount{Account: 1})
	d.must(storage.DropAccount{Account: 2})
	if live, err := d.state.Live(); len(live) > 0 || err != nil {
		t.Errorf("with nothing left live is %v, error %v", live, err)
	}
}

// moveOut moves what r has in a segment, then tries the same again, which is
// stale by then.
func (d *driver) moveOut(r storage.Resident, segment uint64) {
	d.t.Helper()
	d.log.SegmentSize = 1
	mv := storage.Move{Resident: r}
	for _, e := range r.Extents {
		if e.Segment == segment {
			p := make([]byte, e.Length)
			if err := d.log.Read(e, p); err != nil {
				d.t.Fatal(err)
			}
			e = d.log.Put(p)
		}
		mv.To = append(mv.To, e)
	}
	if err := d.state.Move([]storage.Move{mv}); err != nil {
		d.t.Fatal(err)
	}
	stale := storage.Move{Resident: r, To: []seglog.Extent{{Segment: 99, Length: 1}}}
	if err := d.state.Move([]storage.Move{stale}); err != nil {
		d.t.Fatal(err)
	}
	if r.Body > 0 {
		if got, err := d.state.Body(r.Body); !cmp.Equal(got, mv.To) || err != nil {
			d.t.Errorf("%s lies at %v, error %v; want %v", r, got, err, mv.To)
		}
	}
	missing := storage.Move{Resident: storage.Resident{Body: 1 << 40}, To: mv.To}
	if err := d.state.Move([]storage.Move{missing, {Resident: storage.Resident{Upload: d.id()}, To: mv.To}}); err != nil {
		d.t.Errorf("move of what is not there: %v", err)
	}
	if _, err := d.state.Body(1 << 40); !errors.Is(err, covey.NotFound) {
		d.t.Errorf("body that is not there: %v", err)
	}
}
