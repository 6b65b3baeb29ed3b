package delivery

import (
	"slices"
	"strings"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/directory"
	"github.com/covey-mail/covey/internal/message"
	"github.com/covey-mail/covey/storage"
)

// A plan is a transaction split by shard.
type plan struct {
	parts  []part
	looped map[covey.AccountID]bool
}

// part is what goes to one shard: each account once, however many recipients
// lead to it.
type part struct {
	shard  covey.ShardID
	rcpts  []storage.Recipient
	err    error
	queued bool // err was temporary, and another shard sees to it
}

// committed reports whether the shard has the message.
func (d *part) committed() bool { return d.err == nil && len(d.rcpts) > 0 && !d.queued }

// later reports whether the shard may take the message later.
func (d *part) later() bool { return d.err != nil && len(d.rcpts) > 0 && temporary(d.err) }

// rest returns the accounts of parts that may yet succeed.
func (p *plan) rest(rcpts []Recipient) (list []storage.Rest) {
	to := make(map[covey.AccountID]covey.Address)
	for _, r := range rcpts {
		for _, t := range r.Targets {
			to[t.ID] = t.Address
		}
	}
	for _, d := range p.parts {
		if !d.later() {
			continue
		}
		for _, r := range d.rcpts {
			list = append(list, storage.Rest{Shard: d.shard, Account: r.Account, Mailbox: r.Mailbox, Address: to[r.Account].String()})
		}
	}
	return list
}

// leave takes note that the rest is queued.
func (p *plan) leave() {
	for i := range p.parts {
		if d := &p.parts[i]; d.later() {
			d.err, d.queued = nil, true
		}
	}
}

func makePlan(e Envelope) *plan {
	p := new(plan)
	from := e.From.String()
	for _, r := range e.Recipients {
		for _, t := range r.Targets {
			p.add(t, from)
		}
	}
	return p
}

// add puts an account into its shard's part.
func (p *plan) add(t directory.Account, from string) {
	i := slices.IndexFunc(p.parts, func(d part) bool { return d.shard == t.Shard })
	if i < 0 {
		i = len(p.parts)
		p.parts = append(p.parts, part{shard: t.Shard})
	}
	d := &p.parts[i]
	if slices.ContainsFunc(d.rcpts, func(r storage.Recipient) bool { return r.Account == t.ID }) {
		return
	}
	d.rcpts = append(d.rcpts, storage.Recipient{Account: t.ID, Mailbox: storage.Inbox, Prefix: prefix(from, t.Address.String())})
}

// prefix returns the lines that a recipient's copy begins with. They are not those
// of other copies, which would show who else has it: the return path comes first
// (RFC 5321 section 4.4).
func prefix(from, to string) []byte {
	const path, delivered = "Return-Path: <", "Delivered-To: "
	b := make([]byte, 0, len(path)+len(from)+len(delivered)+len(to)+len(">\r\n\r\n"))
	b = append(append(append(b, path...), from...), ">\r\n"...)
	return append(append(append(b, delivered...), to...), "\r\n"...)
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
