package delivery

import (
	"context"
	"crypto/sha256"
	"io"
	"slices"
	"strings"
	"sync"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/directory"
	"github.com/covey-mail/covey/internal/message"
	"github.com/covey-mail/covey/mailbox"
	"github.com/covey-mail/covey/storage"
)

// An Envelope is a transaction without its data.
type Envelope struct {
	From       covey.Address // the zero Address for <>
	Recipients []Recipient   // at least one
	Header     []byte        // lines to put in front, each with CRLF: Received and the like
}

// A Receipt is what became of a transaction.
type Receipt struct {
	ID       covey.DeliveryID
	Size     int64   // bytes of the message with e.Header
	Outcomes []error // one per recipient, in order; nil: durable
	shards   []covey.ShardID
}

// Deliver reads a message from data to its end and puts it into the mailboxes of
// e.Recipients. An error is one of the data or of the message as a whole, and
// nothing was stored; else each recipient has an outcome.
func (s *Service) Deliver(ctx context.Context, e Envelope, data io.Reader) (Receipt, error) {
	if err := s.cfg.Room(); err != nil {
		return Receipt{}, err
	}
	p := makePlan(e)
	up := s.cfg.Mailboxes.NewUpload(p.shards(), e.Header)
	defer up.Close()
	if err := up.ReadFrom(ctx, data); err != nil {
		return Receipt{}, err
	}
	sum := up.Summary()
	if sum.Received > MaxReceived {
		return Receipt{}, covey.Errorf(covey.Loop, "message passed %d hosts", sum.Received)
	}
	p.cutLoops(sum, e.Recipients)
	s.commit(ctx, e, p, up)
	rec := Receipt{ID: up.ID(), Size: sum.Size, Outcomes: p.outcomes(e.Recipients)}
	for _, d := range p.parts {
		if d.err == nil && len(d.rcpts) > 0 {
			rec.shards = append(rec.shards, d.shard)
		}
	}
	return rec, nil
}

// commit proposes each part to its shard, all at once.
func (s *Service) commit(ctx context.Context, e Envelope, p *plan, up *mailbox.Upload) {
	cmd := storage.Deliver{
		ID: up.ID(), Time: s.cfg.Now(), Hash: fingerprint(e.From, up.Sum()),
		Summary: up.Summary().Encode(), Body: up.Body(),
	}
	if len(p.parts) == 1 { // most messages
		s.commitPart(ctx, &p.parts[0], cmd)
	} else {
		s.commitParts(ctx, p.parts, cmd)
	}
	// A part whose outcome is unknown may yet need the chunks.
	for _, part := range p.parts {
		if part.err == nil || covey.KindOf(part.err) == covey.Unknown {
			up.Keep()
		}
	}
}

func (s *Service) commitParts(ctx context.Context, parts []part, cmd storage.Deliver) {
	var wg sync.WaitGroup
	for i := range parts {
		wg.Go(func() { s.commitPart(ctx, &parts[i], cmd) })
	}
	wg.Wait()
}

func (s *Service) commitPart(ctx context.Context, part *part, cmd storage.Deliver) {
	if len(part.rcpts) == 0 {
		return
	}
	cmd.Recipients = part.rcpts
	cmd.Confirmed = s.confirmed.take(part.shard)
	_, part.err = s.cfg.Mailboxes.Insist(ctx, part.shard, cmd)
	if part.err != nil {
		s.confirmed.add(part.shard, cmd.Confirmed...)
	}
}

// fingerprint is what a resend of the same message has in common with the first:
// the reverse-path and the data as received. The mailbox is compared beside it.
func fingerprint(from covey.Address, data [sha256.Size]byte) (out [16]byte) {
	b := append(make([]byte, 0, 256), from.String()...)
	b = append(append(b, 0), data[:]...)
	sum := sha256.Sum256(b)
	copy(out[:], sum[:])
	return out
}

// A plan is a transaction split by shard.
type plan struct {
	parts  []part
	looped map[covey.AccountID]bool
}

// part is what goes to one shard: each account once, however many recipients
// lead to it.
type part struct {
	shard covey.ShardID
	rcpts []storage.Recipient
	err   error
}

func makePlan(e Envelope) *plan {
	p := new(plan)
	returnPath := "Return-Path: <" + e.From.String() + ">\r\n"
	for _, r := range e.Recipients {
		for _, t := range r.Targets {
			p.add(t, returnPath)
		}
	}
	return p
}

// add puts an account into its shard's part. The lines that its copy begins with
// are not those of other copies, which would show who else has it: the return
// path comes first (RFC 5321 section 4.4).
func (p *plan) add(t directory.Account, returnPath string) {
	i := slices.IndexFunc(p.parts, func(d part) bool { return d.shard == t.Shard })
	if i < 0 {
		i = len(p.parts)
		p.parts = append(p.parts, part{shard: t.Shard})
	}
	d := &p.parts[i]
	if slices.ContainsFunc(d.rcpts, func(r storage.Recipient) bool { return r.Account == t.ID }) {
		return
	}
	prefix := make([]byte, 0, len(returnPath)+64)
	prefix = append(append(append(append(prefix, returnPath...), "Delivered-To: "...), t.Address.String()...), "\r\n"...)
	d.rcpts = append(d.rcpts, storage.Recipient{Account: t.ID, Mailbox: storage.Inbox, Prefix: prefix})
}

func (p *plan) shards() []covey.ShardID {
	ids := make([]covey.ShardID, len(p.parts))
	for i, d := range p.parts {
		ids[i] = d.shard
	}
	return ids
}

// cutLoops takes out the accounts that the message was delivered to before.
func (p *plan) cutLoops(sum *message.Summary, rcpts []Recipient) {
	if len(sum.DeliveredTo) == 0 {
		return
	}
	p.looped = make(map[covey.AccountID]bool)
	for _, r := range rcpts {
		for _, t := range r.Targets {
			to := t.Address.String()
			if slices.ContainsFunc(sum.DeliveredTo, func(s string) bool { return strings.EqualFold(s, to) }) {
				p.looped[t.ID] = true
			}
		}
	}
	for i := range p.parts {
		d := &p.parts[i]
		d.rcpts = slices.DeleteFunc(d.rcpts, func(r storage.Recipient) bool { return p.looped[r.Account] })
	}
}

// outcomes folds the parts back onto the recipients: a recipient is delivered
// when every account it leads to is, and of several errors a temporary one
// counts, since only that brings the message again.
func (p *plan) outcomes(rcpts []Recipient) []error {
	out := make([]error, len(rcpts))
	for i, r := range rcpts {
		for _, t := range r.Targets {
			err := p.outcome(t)
			if err != nil && (out[i] == nil || temporary(err)) {
				out[i] = err
			}
		}
	}
	return out
}

func (p *plan) outcome(t directory.Account) error {
	if p.looped[t.ID] {
		return covey.Errorf(covey.Loop, "message was delivered to %s before", t.Address)
	}
	for _, d := range p.parts {
		if d.shard == t.Shard {
			return d.err
		}
	}
	return nil
}
