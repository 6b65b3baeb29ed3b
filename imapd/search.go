package imapd

import (
	"context"
	"errors"
	"io"
	"slices"
	"time"

	"github.com/emersion/go-imap/v2"
	"github.com/emersion/go-imap/v2/imapserver"

	"github.com/covey-mail/covey/internal/message"
	"github.com/covey-mail/covey/storage"
)

// Search finds messages. What to look for comes from the guard; see search.
func (s *session) Search(kind imapserver.NumKind, _ *imap.SearchCriteria, o *imap.SearchOptions) (*imap.SearchData, error) {
	if err := s.selected(); err != nil {
		return nil, err
	}
	program := s.g.search
	if program == nil {
		return nil, bad("Search without a program")
	}
	found, err := s.find(program)
	if err != nil {
		return nil, err
	}
	uid := kind == imapserver.NumKindUID
	data := &imap.SearchData{All: s.numbers(found, uid), Count: count(found)}
	if len(found) > 0 {
		data.Min, data.Max = uint32(found[0].First), uint32(found[len(found)-1].Last)
		if !uid {
			data.Min, data.Max = s.view.Seq(found[0].First), s.view.Seq(found[len(found)-1].Last)
		}
	}
	if program.save {
		s.saved = savedPart(found, o)
	}
	return data, nil
}

// savedPart is what $ stands for: with MIN or MAX and neither ALL nor COUNT, only
// those (RFC 5182 section 2.1).
func savedPart(found []storage.UIDRange, o *imap.SearchOptions) []storage.UIDRange {
	if len(found) == 0 || !o.ReturnMin && !o.ReturnMax || o.ReturnAll || o.ReturnCount {
		return found
	}
	var out []storage.UIDRange
	if first := found[0].First; o.ReturnMin {
		out = append(out, storage.UIDRange{First: first, Last: first})
	}
	if last := found[len(found)-1].Last; o.ReturnMax {
		out = append(out, storage.UIDRange{First: last, Last: last})
	}
	return joinRanges(out)
}

// numbers returns UIDs of the view as they are, or as sequence numbers.
func (s *session) numbers(found []storage.UIDRange, uid bool) imap.NumSet {
	if uid {
		set := make(imap.UIDSet, 0, len(found))
		for _, r := range found {
			set = append(set, imap.UIDRange{Start: imap.UID(r.First), Stop: imap.UID(r.Last)})
		}
		return set
	}
	var set imap.SeqSet
	for _, r := range found {
		for _, part := range s.view.Within([]storage.UIDRange{r}) {
			set.AddRange(s.view.Seq(part.First), s.view.Seq(part.Last))
		}
	}
	return set
}

// saveSearch does a SEARCH RETURN (SAVE), to which there is no untagged response.
func (g *guard) saveSearch(cmd command, program *search) *imap.Error {
	if g.session.view == nil {
		return bad("No mailbox is selected")
	}
	found, err := g.session.find(program)
	if err != nil {
		return reply(err)
	}
	g.session.saved = found
	_ = g.say(string(status(cmd.tag, okay("SEARCH completed, result saved")))) // a failure shows at the next read
	return nil
}

// find runs a program over the view, within Config.SearchTime. A failed search
// that was to be saved saves nothing (RFC 5182 section 2.1).
func (s *session) find(program *search) ([]storage.UIDRange, error) {
	m, err := s.compile(&program.key)
	if err != nil {
		return nil, err
	}
	if program.save {
		s.saved = nil
	}
	ctx, cancel := context.WithTimeout(s.g.ctx, s.g.s.cfg.SearchTime)
	defer cancel()
	found, err := m.run(ctx, s)
	if errors.Is(err, context.DeadlineExceeded) {
		s.g.s.cfg.Metrics.Refused.WithLabelValues("search").Inc()
		return nil, no(imap.ResponseCodeLimit, "Search takes too long")
	}
	if err != nil {
		return nil, s.answer("SEARCH", err)
	}
	return found, nil
}

// A matching is a searchKey made ready for one view: sets are UIDs of it, texts
// are folded, and what costs little comes first.
type matching struct {
	op      searchOp
	kids    []*matching
	uids    []storage.UIDRange
	key     *searchKey
	needle  *message.Needle
	cost    int
	summary bool // it, or a kid, looks at the summary
}

// Costs of a key: the index alone, the summary, the bytes of the message.
const (
	costIndex = iota
	costSummary
	costBytes
)

// compile makes a key ready.
func (s *session) compile(k *searchKey) (*matching, error) {
	m := &matching{op: k.op, key: k}
	switch k.op {
	case opSeq:
		if k.set.highest() > s.view.Len() {
			return nil, bad("No message with that number")
		}
		m.uids = s.resolve(k.set, false)
	case opUID:
		m.uids = s.resolve(k.set, true)
	case opSentSince, opSentBefore:
		m.cost = costSummary
	case opHeader:
		m.cost = costSummary
	case opBody, opText:
		m.cost = costBytes
	}
	if k.op == opHeader || k.op == opBody || k.op == opText {
		var err error
		if m.needle, err = message.NewNeedle(k.text); err != nil {
			return nil, no(imap.ResponseCodeLimit, "Search text too long")
		}
	}
	for i := range k.kids {
		kid, err := s.compile(&k.kids[i])
		if err != nil {
			return nil, err
		}
		m.kids = append(m.kids, kid)
		m.cost = max(m.cost, kid.cost)
	}
	slices.SortStableFunc(m.kids, func(a, b *matching) int { return a.cost - b.cost })
	m.summary = m.cost > costIndex
	return m, nil
}

// bounds returns UIDs outside which nothing matches.
func (m *matching) bounds(all []storage.UIDRange) []storage.UIDRange {
	switch m.op {
	case opNone:
		return nil
	case opSeq, opUID:
		return m.uids
	case opAnd:
		for _, k := range m.kids {
			all = intersect(all, k.bounds(all))
		}
	}
	return all
}

// run returns the UIDs of the messages that match.
func (m *matching) run(ctx context.Context, s *session) ([]storage.UIDRange, error) {
	uids := m.bounds(s.view.Span(1, s.view.Len()))
	if m.settled() {
		return uids, nil
	}
	n := uint32(batchPlain)
	if m.summary {
		n = batchLarge
	}
	var found []storage.UIDRange
	for len(uids) > 0 {
		var batch []storage.UIDRange
		batch, uids = take(uids, n)
		msgs, err := s.messages(ctx, storage.Query{UIDs: batch, Summary: m.summary})
		if err != nil {
			return nil, err
		}
		for _, msg := range msgs {
			c := &candidate{ctx: ctx, s: s, msg: msg}
			ok, err := m.match(c)
			if err != nil {
				return nil, err
			}
			if ok {
				found = joinRanges(append(found, storage.UIDRange{First: msg.UID, Last: msg.UID}))
			}
		}
	}
	return found, nil
}

// settled reports whether bounds says all.
func (m *matching) settled() bool {
	switch m.op {
	case opNone, opSeq, opUID:
		return true
	case opAnd:
		return !slices.ContainsFunc(m.kids, func(k *matching) bool { return !k.settled() })
	}
	return false
}

// A candidate is a message under search. What costs is had once.
type candidate struct {
	ctx context.Context
	s   *session
	msg *storage.Message
	sum *message.Summary
}

// match reports whether a message is as m wants it.
func (m *matching) match(c *candidate) (bool, error) {
	k, f := m.key, &c.msg.Flags
	switch m.op {
	case opAnd, opOr:
		return m.matchKids(c)
	case opNot:
		ok, err := m.kids[0].match(c)
		return !ok, err
	case opSeq, opUID:
		return contains(m.uids, c.msg.UID), nil
	case opFlags:
		return f.System&k.system != 0, nil
	case opKeyword:
		return f.Has(k.text), nil
	case opSince:
		return !day(c.msg.Date).Before(k.date), nil
	case opBefore:
		return day(c.msg.Date).Before(k.date), nil
	case opLarger:
		return c.msg.Size > k.size, nil
	case opSmaller:
		return c.msg.Size < k.size, nil
	case opNone:
		return false, nil
	}
	return m.matchContent(c)
}

func (m *matching) matchKids(c *candidate) (bool, error) {
	for _, k := range m.kids {
		ok, err := k.match(c)
		if err != nil {
			return false, err
		}
		if ok == (m.op == opOr) {
			return ok, nil
		}
	}
	return m.op == opAnd, nil
}

// day returns midnight of t's day, in the zone in which INTERNALDATE is shown.
func day(t time.Time) time.Time { return t.UTC().Truncate(24 * time.Hour) }

// matchContent is match for keys that look into the message.
func (m *matching) matchContent(c *candidate) (bool, error) {
	if err := c.ctx.Err(); err != nil {
		return false, err
	}
	if c.sum == nil {
		var err error
		if c.sum, err = message.Decode(c.msg.Summary); err != nil {
			return false, err
		}
	}
	src := message.Source{Prefix: len(c.msg.Prefix), Open: c.open}
	switch m.op {
	case opHeader:
		return c.sum.MatchHeader(src, m.key.field, m.needle)
	case opBody:
		return c.sum.MatchBody(src, m.needle)
	case opText:
		return c.sum.MatchText(src, m.needle)
	}
	sent, ok := c.sum.SentOn()
	switch {
	case !ok:
		return false, nil
	case m.op == opSentBefore:
		return sent.Before(m.key.date), nil
	}
	return !sent.Before(m.key.date), nil
}

// open gives a search the bytes of the message.
func (c *candidate) open() (io.ReaderAt, error) {
	content, err := c.s.view.Content(c.ctx, c.msg)
	if err != nil {
		return nil, err
	}
	return &timedReader{ctx: c.ctx, r: content}, nil
}

// A timedReader ends a search of a large message in time.
type timedReader struct {
	ctx context.Context
	r   io.ReaderAt
}

// ReadAt implements io.ReaderAt.
func (t *timedReader) ReadAt(p []byte, off int64) (int, error) {
	if err := t.ctx.Err(); err != nil {
		return 0, err
	}
	return t.r.ReadAt(p, off)
}
