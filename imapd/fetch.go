package imapd

import (
	"context"
	"errors"
	"io"
	"slices"
	"strconv"

	"github.com/emersion/go-imap/v2"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/internal/message"
	"github.com/covey-mail/covey/mailbox"
	"github.com/covey-mail/covey/storage"
)

// How many messages are read from the index at a time, so that a client that
// takes its time holds up nobody and little is held in memory.
const (
	batchPlain = 500
	batchLarge = 32
)

// pieceSize is how much of a message is read at a time.
const pieceSize = 16 << 10

// A fetcher answers one FETCH.
type fetcher struct {
	s    *session
	q    *fetchQuery
	seen bool          // FETCH sets \Seen
	need storage.Query // what is asked of the index

	out   []byte // the response being made, less what was written of it
	begun bool   // some of it was written
	sep   string // before the next item of it
	parts []part // of the message
}

// A part is a fetchPart of one message.
type part struct {
	r    io.Reader
	size int64
}

// fetchMessages shows messages (RFC 3501 section 6.4.5).
func (s *session) fetchMessages(q *fetchQuery) error {
	uids, err := s.targets(q.set, q.uid)
	if err != nil {
		return err
	}
	return s.fetch(uids, q)
}

func (s *session) fetch(uids []storage.UIDRange, q *fetchQuery) error {
	f := &fetcher{s: s, q: q, seen: !s.readOnly && q.setsSeen(), out: s.g.s.buffer()}
	defer func() { s.g.s.release(f.out) }()
	f.need.Summary, f.need.Extents = q.envelope || q.structured(), len(q.parts) > 0
	n := uint32(batchPlain)
	if f.need.Summary || f.need.Extents {
		n = batchLarge
	}
	for len(uids) > 0 {
		f.need.UIDs, uids = take(uids, n)
		if err := f.batch(); err != nil {
			return s.answer("FETCH", err)
		}
	}
	return nil
}

func (q *fetchQuery) setsSeen() bool {
	return slices.ContainsFunc(q.parts, func(p fetchPart) bool {
		return p.body != nil && !p.body.Peek || p.binary != nil && !p.binary.Peek
	})
}

// structured reports whether the structure of the message is needed.
func (q *fetchQuery) structured() bool {
	return q.structure || q.body || slices.ContainsFunc(q.parts, func(p fetchPart) bool { return !p.whole() })
}

// whole reports whether the part is the message as it is, or a piece of that.
func (p *fetchPart) whole() bool {
	return p.body != nil && len(p.body.Part) == 0 && p.body.Specifier == imap.PartSpecifierNone
}

// batch reads some messages and shows them.
func (f *fetcher) batch() error {
	msgs, err := f.s.messages(f.s.g.ctx, f.need)
	if err != nil {
		return err
	}
	var marked map[covey.UID]covey.Flags
	if f.seen {
		marked = f.markSeen(msgs)
	}
	for _, m := range msgs {
		flags, ok := marked[m.UID]
		if ok {
			m.Flags = flags
		}
		if err := f.message(m, ok); err != nil {
			return err
		}
	}
	return nil
}

// messages returns some messages of the view.
func (s *session) messages(ctx context.Context, q storage.Query) ([]*storage.Message, error) {
	var msgs []*storage.Message
	err := s.view.Messages(ctx, q, func(m *storage.Message) error {
		msgs = append(msgs, m)
		return nil
	})
	return msgs, err
}

// markSeen sets \Seen where it is not set, and returns the flags that those
// messages have then. A mailbox that can be read but not changed just now is
// still read.
func (f *fetcher) markSeen(msgs []*storage.Message) map[covey.UID]covey.Flags {
	var uids []storage.UIDRange
	for _, m := range msgs {
		if m.Flags.System&covey.Seen == 0 {
			uids = append(uids, storage.UIDRange{First: m.UID, Last: m.UID})
		}
	}
	if len(uids) == 0 {
		return nil
	}
	uids = joinRanges(uids)
	ctx, cancel := f.s.op()
	defer cancel()
	seen := covey.Flags{System: covey.Seen}
	_, err := f.s.view.Store(ctx, mailbox.Flags{UIDs: uids, Op: storage.AddFlags, Flags: seen})
	if err == nil {
		msgs, err = f.s.messages(ctx, storage.Query{UIDs: uids})
	}
	if err != nil {
		f.s.replyLog("FETCH", err)
		return nil
	}
	marked := make(map[covey.UID]covey.Flags, len(msgs))
	for _, m := range msgs {
		marked[m.UID] = m.Flags
	}
	return marked
}

// message shows one message. What fails before anything of it was written can be
// told to the client; a response once begun must be finished.
func (f *fetcher) message(m *storage.Message, marked bool) error {
	seq := f.s.view.Seq(m.UID)
	if seq == 0 {
		return nil
	}
	f.out = append(appendNumber(append(f.out[:0], "* "...), seq), " FETCH ("...)
	f.begun, f.sep = false, ""
	f.attributes(m, marked)
	err := f.contents(m)
	if err == nil {
		f.out = append(f.out, ")\r\n"...)
		err = f.write()
	} else if f.begun {
		f.s.g.abort()
	}
	return err
}

// write writes what there is of a response.
func (f *fetcher) write() error {
	_, err := f.s.g.Write(f.out)
	f.out, f.begun = f.out[:0], true
	return err
}

// item begins an item.
func (f *fetcher) item(name string) {
	f.out = append(append(append(f.out, f.sep...), name...), ' ')
	f.sep = " "
}

// attributes appends what the index knows.
func (f *fetcher) attributes(m *storage.Message, marked bool) {
	if f.q.uids {
		f.item("UID")
		f.out = appendNumber(f.out, uint32(m.UID))
	}
	if f.q.flags || marked {
		f.item("FLAGS")
		f.out = appendFlags(f.out, m.Flags)
	}
	if f.q.date {
		f.item("INTERNALDATE")
		f.out = append(appendDateTime(append(f.out, '"'), m.Date), '"')
	}
	if f.q.size {
		f.item("RFC822.SIZE")
		f.out = strconv.AppendInt(f.out, m.Size, 10)
	}
}

// contents appends what the summary knows, and the parts.
func (f *fetcher) contents(m *storage.Message) error {
	var sum *message.Summary
	var err error
	if f.q.structured() {
		if sum, err = message.Decode(m.Summary); err != nil {
			return err
		}
	}
	if err := f.open(m, sum); err != nil {
		return err
	}
	if f.q.envelope {
		f.item("ENVELOPE")
		if f.out, err = message.AppendEnvelope(f.out, m.Summary); err != nil {
			return err
		}
	}
	if f.q.body {
		f.item("BODY")
		f.out = sum.AppendBody(f.out)
	}
	if f.q.structure {
		f.item("BODYSTRUCTURE")
		f.out = sum.AppendBodyStructure(f.out)
	}
	for i := range f.parts {
		if err := f.part(&f.q.parts[i], f.parts[i]); err != nil {
			return err
		}
	}
	return nil
}

// open prepares the parts of a message.
func (f *fetcher) open(m *storage.Message, sum *message.Summary) error {
	f.parts = f.parts[:0]
	if len(f.q.parts) == 0 {
		return nil
	}
	c, err := f.s.view.Content(f.s.g.ctx, m)
	if err != nil {
		return err
	}
	for i := range f.q.parts {
		var opened part
		switch p := &f.q.parts[i]; {
		case p.whole():
			opened.r, opened.size = message.Whole(c, m.Size, p.body.Partial)
		case p.body != nil:
			opened.r, opened.size, err = sum.Section(c, len(m.Prefix), p.body)
		case p.count:
			opened.size, err = sum.BinarySize(c, len(m.Prefix), p.binary.Part)
			err = unknownCTE(err)
		default:
			opened.r, opened.size, err = sum.Binary(c, len(m.Prefix), p.binary)
			err = unknownCTE(err)
		}
		if err != nil {
			return err
		}
		f.parts = append(f.parts, opened)
	}
	return nil
}

// part appends a part, and writes meanwhile what is too much to be held.
func (f *fetcher) part(p *fetchPart, opened part) error {
	f.item(p.name)
	if p.count {
		f.out = strconv.AppendInt(f.out, min(opened.size, 1<<32-1), 10)
		return nil
	}
	if p.binary != nil {
		f.out = append(f.out, '~') // a literal8 (RFC 3516 section 7)
	}
	f.out = append(strconv.AppendInt(append(f.out, '{'), opened.size, 10), "}\r\n"...)
	for left := opened.size; left > 0; {
		if len(f.out) > pieceSize {
			if err := f.write(); err != nil {
				return err
			}
		}
		n := int(min(left, pieceSize))
		f.out = slices.Grow(f.out, n)
		piece := f.out[len(f.out) : len(f.out)+n]
		if _, err := io.ReadFull(opened.r, piece); err != nil {
			return err
		}
		f.out = f.out[:len(f.out)+n]
		left -= int64(n)
	}
	return nil
}

// unknownCTE is RFC 3516 section 4.3.
func unknownCTE(err error) error {
	if errors.Is(err, covey.Invalid) {
		return no(imap.ResponseCodeUnknownCTE, "Unknown transfer encoding")
	}
	return err
}
