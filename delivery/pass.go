package delivery

import (
	"errors"
	"slices"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/storage"
)

// passSlice is how many deliveries of a queue are looked at together.
const passSlice = 64

// A pass goes through the queue of one shard once.
type pass struct {
	q    *Queue
	t    *tenure
	from storage.Reader
	all  bool                    // whether or not it is time for them
	down map[covey.ShardID]error // that did not take anything in this pass
}

// pass tries what it is time for in the queue of a shard. It returns when all of
// that has an outcome, or the tenure is over.
func (q *Queue) pass(t *tenure) {
	p := &pass{q: q, t: t, down: make(map[covey.ShardID]error)}
	q.mu.Lock()
	p.all, t.soon = t.soon, false
	q.mu.Unlock()
	if err := p.run(); err != nil && t.ctx.Err() == nil {
		q.cfg.Logger.Warn("the queue of a shard cannot be read", "shard", uint32(t.shard), "err", err)
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	t.busy = false
}

func (p *pass) run() (err error) {
	// A new leader may have yet to apply what its predecessor committed.
	if p.from, err = p.q.cfg.Delivery.cfg.Shards.Read(p.t.ctx, p.t.shard); err != nil {
		return err
	}
	for after := uint64(0); p.t.ctx.Err() == nil; {
		list, err := p.from.Queue(after, passSlice)
		if err != nil || len(list) == 0 {
			return err
		}
		for i := range list {
			after = list[i].Index
			if p.t.ctx.Err() == nil && p.due(list[i].ID) {
				p.note(list[i].ID, p.deliver(&list[i]))
			}
		}
	}
	return nil
}

func (p *pass) due(id covey.DeliveryID) bool {
	p.q.mu.Lock()
	defer p.q.mu.Unlock()
	return p.all || !p.q.cfg.Delivery.cfg.Now().Before(p.t.past[id].next)
}

// note takes down what became of a try.
func (p *pass) note(id covey.DeliveryID, err error) {
	p.q.mu.Lock()
	defer p.q.mu.Unlock()
	if err == nil {
		delete(p.t.past, id)
		return
	}
	is := p.t.past[id]
	is.tries, is.err = is.tries+1, err
	is.next = p.q.cfg.Delivery.cfg.Now().Add(pause(is.tries))
	p.t.past[id] = is
}

// deliver brings a delivery to the shards of all its recipients that are left, and
// returns the last error.
func (p *pass) deliver(one *storage.Queued) (last error) {
	for len(one.Rest) > 0 && p.t.ctx.Err() == nil {
		to := one.Rest[0].Shard
		i := slices.IndexFunc(one.Rest, func(r storage.Rest) bool { return r.Shard != to })
		if i < 0 {
			i = len(one.Rest)
		}
		rest := one.Rest[:i]
		one.Rest = one.Rest[i:]
		err := p.down[to]
		if err == nil {
			err = p.bring(one, to, rest)
		}
		if err == nil {
			continue
		}
		last = err
		if p.t.ctx.Err() == nil {
			p.q.cfg.Metrics.Failed.Inc()
		}
	}
	return last
}

// bring delivers to the recipients that are in one shard, and then marks them. If
// the mark is lost, or this process ends before, the next try is recognised by the
// shard, and marked then.
func (p *pass) bring(one *storage.Queued, to covey.ShardID, rest []storage.Rest) error {
	rcpts, gone, err := p.recipients(one, rest)
	if err != nil {
		return err
	}
	if len(rcpts) > 0 {
		if err := p.take(one, to, rcpts); err != nil {
			return err
		}
	}
	heard, err := p.heard(one)
	if err != nil {
		return err
	}
	done := storage.Dequeue{ID: one.ID}
	for _, r := range rest {
		done.Accounts = append(done.Accounts, r.Account)
	}
	if err := p.q.cfg.Propose(p.t.ctx, p.t.shard, p.t.term, done); err != nil {
		return err
	}
	if heard && len(rcpts) > 0 {
		// Not a hash to recognise a resend by any more: there will be none.
		p.q.cfg.Delivery.confirmed.add(to, one.ID)
	}
	p.report(one, to, rcpts, gone)
	return nil
}

// recipients returns those of rest that are still there, and the others.
func (p *pass) recipients(one *storage.Queued, rest []storage.Rest) (rcpts []storage.Recipient, gone []storage.Rest, err error) {
	for _, r := range rest {
		removed, err := p.q.cfg.Removed(r.Account)
		if err != nil {
			return nil, nil, err
		}
		if removed {
			gone = append(gone, r)
			continue
		}
		rcpts = append(rcpts, storage.Recipient{Account: r.Account, Mailbox: r.Mailbox, Prefix: prefix(one.Sender, r.Address)})
	}
	return rcpts, gone, nil
}

// take has a shard take the message under the id that it came with, so that it does
// so once. A sender that has heard does not come again: what the shard has from one
// that is still there is another message then, not this one by another way.
func (p *pass) take(one *storage.Queued, to covey.ShardID, rcpts []storage.Recipient) error {
	s := p.q.cfg.Delivery
	err := s.cfg.Reachable(p.t.ctx, to)
	if err == nil {
		cmd := storage.Deliver{ID: one.ID, Time: one.Time, Hash: one.Hash, Recipients: rcpts, Late: !one.Heard, Asks: one.Heard}
		err = s.settle(p.t.ctx, to, cmd, func(cmd storage.Deliver) (*storage.Result, error) {
			return s.cfg.Mailboxes.Forward(p.t.ctx, p.from, one.Body, to, cmd)
		})
	}
	if errors.Is(err, covey.Unavailable) || errors.Is(err, covey.Unknown) {
		p.down[to] = err // nobody waits for it twice in a pass
	}
	return err
}

// heard reports whether the sender is known by now to have heard of the delivery.
func (p *pass) heard(one *storage.Queued) (bool, error) {
	list, err := p.from.Queue(one.Index-1, 1)
	return len(list) > 0 && list[0].ID == one.ID && list[0].Heard, err
}

func (p *pass) report(one *storage.Queued, to covey.ShardID, rcpts []storage.Recipient, gone []storage.Rest) {
	m := p.q.cfg.Metrics
	m.Delivered.Add(float64(len(rcpts)))
	m.Dropped.Add(float64(len(gone)))
	log := p.q.cfg.Logger.With("delivery", one.ID.String(), "shard", uint32(p.t.shard), "to", uint32(to),
		"waited", p.q.cfg.Delivery.cfg.Now().Sub(one.Time))
	if len(rcpts) > 0 {
		log.Info("delivered from the queue", "rcpts", len(rcpts))
	}
	for _, r := range gone {
		log.Warn("dropped from the queue: the account was removed", "account", uint64(r.Account))
	}
}
