package delivery

import (
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"slices"
	"sync"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/mailbox"
	"github.com/covey-mail/covey/storage"
)

// An Envelope is a transaction without its data.
type Envelope struct {
	From       covey.Address // the zero Address for <>
	Recipients []Recipient   // at least one
	Header     []byte        // lines to put in front, each with CRLF: Received and the like

	// Together says that one reply speaks for all recipients, as in SMTP. Those
	// whose shard cannot take the message now are then left to the queue of a shard
	// that did take it. Without it each has its own outcome, as in LMTP.
	Together bool

	// Here reports whether the sender is still connected and its host takes what is
	// written to it. It may be called by any goroutine, also after the
	// end of the connection. Nil: that cannot be told.
	Here func() bool
}

// A Receipt is what became of a transaction.
type Receipt struct {
	ID       covey.DeliveryID
	Size     int64   // bytes of the message with e.Header
	Outcomes []error // one per recipient, in order; nil: durable
	Queued   int     // accounts that will get it later: durable too, in the queue of another shard
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
	if slices.ContainsFunc(rec.Outcomes, func(err error) bool { return err != nil && temporary(err) }) {
		s.senders.leave(rec.ID) // it comes again
	}
	for _, d := range p.parts {
		switch {
		case d.queued:
			rec.Queued += len(d.rcpts)
		case d.committed():
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
	if cmd.Asks = s.cfg.Queue(); cmd.Asks {
		s.senders.enter(&sender{id: cmd.ID, hash: cmd.Hash, shards: p.shards(), here: e.Here})
	}
	for i := range p.parts {
		p.parts[i].err = up.Err(p.parts[i].shard)
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
	if e.Together && len(p.parts) > 1 && s.cfg.Queue() {
		s.enqueue(ctx, p, storage.Enqueue{
			ID: cmd.ID, Time: cmd.Time, Hash: cmd.Hash, Sender: e.From.String(), Rest: p.rest(e.Recipients),
		})
	}
}

// enqueue leaves the parts that may yet succeed to the queue of a shard that has
// committed. If that cannot be had, or its outcome is unknown, they stay as they
// are: the sender comes again.
func (s *Service) enqueue(ctx context.Context, p *plan, q storage.Enqueue) {
	if len(q.Rest) == 0 {
		return
	}
	for _, part := range p.parts {
		if !part.committed() {
			continue
		}
		_, err := s.cfg.Mailboxes.Insist(ctx, part.shard, q)
		if err == nil {
			p.leave()
			return
		}
		if errors.Is(err, covey.Unknown) {
			return
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
	if len(part.rcpts) == 0 || part.err != nil {
		return
	}
	cmd.Recipients = part.rcpts
	cmd.Confirmed = s.confirmed.take(part.shard)
	cmd.Remember = len(cmd.Confirmed) > 0 && s.cfg.Queue()
	part.err = s.settle(ctx, part.shard, cmd, func(cmd storage.Deliver) (*storage.Result, error) {
		return s.cfg.Mailboxes.Insist(ctx, part.shard, cmd)
	})
	if part.err != nil {
		s.confirm(part.shard, cmd.Confirmed...)
	} else {
		s.senders.told(part.shard, cmd.Confirmed)
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
