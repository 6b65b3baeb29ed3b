package imapd

import (
	"context"
	"errors"
	"io"

	"github.com/emersion/go-imap/v2"
	"github.com/emersion/go-imap/v2/imapserver"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/internal/message"
	"github.com/covey-mail/covey/mailbox"
	"github.com/covey-mail/covey/storage"
)

// How many messages are read from the index at a time, so that a client that
// takes its time holds up nobody and little is held in memory.
const (
	batchPlain   = 500
	batchSummary = 32
)

// A fetcher answers one FETCH.
type fetcher struct {
	s    *session
	w    *imapserver.FetchWriter
	o    *imap.FetchOptions
	seen bool // FETCH sets \Seen
}

// Fetch shows messages (RFC 3501 section 6.4.5).
func (s *session) Fetch(w *imapserver.FetchWriter, set imap.NumSet, o *imap.FetchOptions) error {
	uids, err := s.targets(set)
	if err != nil {
		return err
	}
	return s.fetch(w, uids, o)
}

func (s *session) fetch(w *imapserver.FetchWriter, uids []storage.UIDRange, o *imap.FetchOptions) error {
	f := &fetcher{s: s, w: w, o: o, seen: !s.readOnly && setsSeen(o)}
	n := uint32(batchPlain)
	if f.summary() {
		n = batchSummary
	}
	for len(uids) > 0 {
		var batch []storage.UIDRange
		batch, uids = take(uids, n)
		if err := f.batch(batch); err != nil {
			return s.answer("FETCH", err)
		}
	}
	return nil
}

func setsSeen(o *imap.FetchOptions) bool {
	for _, b := range o.BodySection {
		if !b.Peek {
			return true
		}
	}
	for _, b := range o.BinarySection {
		if !b.Peek {
			return true
		}
	}
	return false
}

// summary reports whether the summary is needed.
func (f *fetcher) summary() bool {
	return f.o.Envelope || f.o.BodyStructure != nil ||
		len(f.o.BodySection)+len(f.o.BinarySection)+len(f.o.BinarySectionSize) > 0
}

// batch reads some messages and shows them.
func (f *fetcher) batch(uids []storage.UIDRange) error {
	msgs, err := f.s.messages(f.s.g.ctx, storage.Query{UIDs: uids, Summary: f.summary()})
	if err != nil {
		return err
	}
	marked := make(map[covey.UID]covey.Flags)
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

// A section is a part of a message, ready to be written.
type section struct {
	r     io.Reader
	size  int64
	write func(*imapserver.FetchResponseWriter, int64) io.WriteCloser
}

// message shows one message. Everything that can fail for a reason that the
// client is told comes before the first octet: go-imap's writer holds a lock
// until it is closed, and a literal once begun must be finished.
func (f *fetcher) message(m *storage.Message, marked bool) error {
	seq := f.s.view.Seq(m.UID)
	if seq == 0 {
		return nil
	}
	var sum *message.Summary
	var sections []section
	var sizes []int64
	if f.summary() {
		var err error
		if sum, err = message.Decode(m.Summary); err != nil {
			return err
		}
		if sections, sizes, err = f.sections(m, sum); err != nil {
			return err
		}
	}
	w := f.w.CreateMessage(seq)
	f.attributes(w, m, marked)
	if f.o.Envelope {
		w.WriteEnvelope(sum.Envelope())
	}
	if f.o.BodyStructure != nil {
		w.WriteBodyStructure(sum.BodyStructure())
	}
	for i, b := range f.o.BinarySectionSize {
		w.WriteBinarySectionSize(b, uint32(min(sizes[i], 1<<32-1)))
	}
	for _, b := range sections {
		if err := b.copy(w); err != nil {
			f.s.g.abort()
			return errors.Join(err, w.Close())
		}
	}
	return w.Close()
}

// attributes writes what the index knows.
func (f *fetcher) attributes(w *imapserver.FetchResponseWriter, m *storage.Message, marked bool) {
	if f.o.UID {
		w.WriteUID(imap.UID(m.UID))
	}
	if f.o.Flags || marked {
		w.WriteFlags(imapFlags(m.Flags))
	}
	if f.o.InternalDate {
		w.WriteInternalDate(m.Date)
	}
	if f.o.RFC822Size {
		w.WriteRFC822Size(m.Size)
	}
}

// copy writes a section.
func (b *section) copy(w *imapserver.FetchResponseWriter) error {
	lit := b.write(w, b.size)
	_, err := io.Copy(lit, b.r)
	return errors.Join(err, lit.Close())
}

// sections prepares the sections that are asked for, and the sizes of BINARY.SIZE.
func (f *fetcher) sections(m *storage.Message, sum *message.Summary) ([]section, []int64, error) {
	if len(f.o.BodySection)+len(f.o.BinarySection)+len(f.o.BinarySectionSize) == 0 {
		return nil, nil, nil
	}
	c, err := f.content(m)
	if err != nil {
		return nil, nil, err
	}
	var out []section
	for _, b := range f.o.BodySection {
		r, size, err := sum.Section(c, len(m.Prefix), b)
		if err != nil {
			return nil, nil, err
		}
		out = append(out, section{r, size, func(w *imapserver.FetchResponseWriter, n int64) io.WriteCloser {
			return w.WriteBodySection(b, n)
		}})
	}
	for _, b := range f.o.BinarySection {
		r, size, err := sum.Binary(c, len(m.Prefix), b)
		if err != nil {
			return nil, nil, unknownCTE(err)
		}
		out = append(out, section{r, size, func(w *imapserver.FetchResponseWriter, n int64) io.WriteCloser {
			return w.WriteBinarySection(b, n)
		}})
	}
	var sizes []int64
	for _, b := range f.o.BinarySectionSize {
		n, err := sum.BinarySize(c, len(m.Prefix), b.Part)
		if err != nil {
			return nil, nil, unknownCTE(err)
		}
		sizes = append(sizes, n)
	}
	return out, sizes, nil
}

// content opens a message and makes sure that its first octets can be had.
func (f *fetcher) content(m *storage.Message) (*mailbox.Content, error) {
	ctx, cancel := context.WithTimeout(f.s.g.ctx, opTime)
	defer cancel()
	c, err := f.s.view.Content(ctx, m)
	if err != nil {
		return nil, err
	}
	if _, err := c.ReadAt(make([]byte, 1), int64(len(m.Prefix))); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	return c, nil
}

// unknownCTE is RFC 3516 section 4.3.
func unknownCTE(err error) error {
	if errors.Is(err, covey.Invalid) {
		return no(imap.ResponseCodeUnknownCTE, "Unknown transfer encoding")
	}
	return err
}
