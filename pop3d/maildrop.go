package pop3d

import (
	"context"
	"math/bits"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/mailbox"
	"github.com/covey-mail/covey/storage"
)

// A maildrop is INBOX as a session found it at log-in, and what it has marked
// for removal since. Message numbers run from 1 to view.Len.
type maildrop struct {
	view    *mailbox.View
	release func()          // gives back the lock
	box     storage.Mailbox // at log-in
	marks   []uint64        // bit n-1 of it: message n is marked; nil: none ever was
	marked  uint32

	next  uint32            // the message after the one that was asked for last
	ahead []storage.Message // found ahead of their time, ascending
	reach uint32            // how many were asked for then
}

// Clients ask for one message after the other, and a query for several costs little
// more than one for a single message. mostAhead bounds what a session holds.
const (
	firstAhead = 4
	mostAhead  = 16
)

// openMaildrop locks and opens an account's INBOX; covey.InUse if another
// session has it.
func openMaildrop(ctx context.Context, a *mailbox.Account) (*maildrop, error) {
	release, err := a.LockMaildrop()
	if err != nil {
		return nil, err
	}
	view, err := a.Open(ctx, storage.Inbox)
	if err != nil {
		release()
		return nil, err
	}
	return &maildrop{view: view, release: release, box: view.Mailbox()}, nil
}

func (d *maildrop) close() {
	d.view.Close()
	d.release()
}

// isMarked reports whether message n, which exists, is marked.
func (d *maildrop) isMarked(n uint32) bool {
	return d.marks != nil && d.marks[(n-1)/64]>>((n-1)%64)&1 != 0
}

// mark marks message n, which exists and is not marked.
func (d *maildrop) mark(n uint32) {
	if d.marks == nil {
		d.marks = make([]uint64, (d.view.Len()+63)/64)
	}
	d.marks[(n-1)/64] |= 1 << ((n - 1) % 64)
	d.marked++
}

func (d *maildrop) unmarkAll() { d.marks, d.marked = nil, 0 }

// markedUIDs returns the UIDs that are marked, ascending, neighbours joined.
func (d *maildrop) markedUIDs() []storage.UIDRange {
	var out []storage.UIDRange
	for i, word := range d.marks {
		for ; word != 0; word &= word - 1 {
			uid := d.view.UID(uint32(i*64+bits.TrailingZeros64(word)) + 1)
			if k := len(out); k > 0 && out[k-1].Last+1 == uid {
				out[k-1].Last = uid
			} else {
				out = append(out, storage.UIDRange{First: uid, Last: uid})
			}
		}
	}
	return out
}

// octets returns the size of all that is not marked.
func (d *maildrop) octets(ctx context.Context) (int64, error) {
	left := d.box.Bytes
	if d.marked == 0 {
		return left, nil
	}
	ctx, cancel := context.WithTimeout(ctx, commandTime)
	defer cancel()
	err := d.view.Messages(ctx, storage.Query{UIDs: d.markedUIDs()}, func(m *storage.Message) error {
		left -= m.Size
		return nil
	})
	return left, err
}

// A listed message is a number and a size.
type listed struct {
	n    uint32
	size int64
}

// sizes appends to out the messages numbered from first to last that are still
// there and are not marked.
func (d *maildrop) sizes(ctx context.Context, first, last uint32, out []listed) ([]listed, error) {
	err := d.view.Messages(ctx, storage.Query{UIDs: d.view.Span(first, last)}, func(m *storage.Message) error {
		if n := d.view.Seq(m.UID); n != 0 && !d.isMarked(n) {
			out = append(out, listed{n, m.Size})
		}
		return nil
	})
	return out, err
}

// message finds message n, which exists; covey.NotFound if IMAP has removed it
// since. In a row of calls it may be found as it was a few calls ago.
func (d *maildrop) message(ctx context.Context, n uint32) (*storage.Message, error) {
	if m := d.found(n); m != nil {
		return m, nil
	}
	switch {
	case n == 1:
		d.reach = firstAhead
	case n != d.next:
		d.reach = 1
	case d.reach == 1:
		d.reach = firstAhead
	default:
		d.reach = min(2*d.reach, mostAhead)
	}
	d.ahead = d.ahead[:0]
	q := storage.Query{UIDs: d.view.Span(n, min(n+d.reach-1, d.view.Len())), Extents: true}
	err := d.view.Messages(ctx, q, func(m *storage.Message) error {
		d.ahead = append(d.ahead, *m)
		return nil
	})
	if err != nil {
		return nil, err
	}
	if m := d.found(n); m != nil {
		return m, nil
	}
	return nil, covey.Errorf(covey.NotFound, "message %d is gone", n)
}

// found returns message n if it is among those found ahead; good until the next
// call of message.
func (d *maildrop) found(n uint32) *storage.Message {
	uid := d.view.UID(n)
	for i := range d.ahead {
		if d.ahead[i].UID == uid {
			d.next = n + 1
			return &d.ahead[i]
		}
	}
	return nil
}

// remove removes what is marked, all in one command. Nothing marked is a
// success. What IMAP removed before is not missed.
func (d *maildrop) remove(ctx context.Context) error {
	if d.marked == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, commandTime)
	defer cancel()
	_, err := d.view.Remove(ctx, d.markedUIDs())
	return err
}
