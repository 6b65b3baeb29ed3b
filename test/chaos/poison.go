package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/internal/mutant"
	"github.com/covey-mail/covey/node/admin"
)

// poisoned is F-45, which ends a run, for it takes a shard away for good: every
// node is started with a program that panics over one delivery. That shard must
// stop and say so; the others, and the nodes, also after a restart, must not.
var poisoned = fault{name: "F-45", what: "a command that panics on every replica"}

// poison does F-45, with the clients paused at its beginning and at its end.
func (c *cluster) poison(ctx context.Context) error {
	began := time.Now()
	for _, h := range c.hosts {
		if err := h.stop(25 * time.Second); err != nil {
			c.ledger.report(brokenSession, "%v", err)
		}
		h.bin = c.poisonBin
		if err := h.start(); err != nil {
			return err
		}
	}
	if err := c.await(ctx, recoverLimit, "recovered cluster", c.settled); err != nil {
		c.ledger.report(unrecovered, "%v", err)
		return nil
	}
	victim := c.load.users[0]
	if err := c.administer(victim); err == nil {
		c.ledger.report(untruthful, "the delivery that panics was acknowledged")
	}
	shard := c.ledger.shards[victim]
	c.load.resume()
	err := c.await(ctx, recoverLimit, "poisoned shard that says so, beside others that go on", func() error { return c.onlyStopped(shard, began) })
	if err == nil {
		h := c.random()
		h.kill()
		restarted := time.Now()
		if err = h.start(); err == nil {
			err = c.await(ctx, recoverLimit, "shards that go on after a restart", func() error { return c.onlyStopped(shard, restarted) })
		}
	}
	c.load.pause()
	if err != nil {
		c.ledger.report(unrecovered, "%v", err)
	}
	for _, h := range c.hosts {
		if n := h.crashed.Load(); n > 0 {
			c.ledger.report(crashed, "%s ended by itself, %d times: %s", h.name, n, h.lastWords())
		}
	}
	c.ledger.sums.fault(poisoned.name).Times++
	fmt.Printf("round %d, %s %s, %.1f s: shard %d has stopped, the others go on\n",
		c.ledger.sums.Rounds, poisoned.name, poisoned.what, time.Since(began).Seconds(), shard)
	c.tell()
	return nil
}

// administer delivers the message that panics.
func (c *cluster) administer(user string) error {
	s, err := smtpOpen(c.hosts[0], false)
	if err != nil {
		return err
	}
	defer s.close()
	accepted, refused, err := s.begin([]string{user})
	if err != nil || len(accepted) == 0 {
		return errors.Join(err, refused[user], errRefused)
	}
	return s.finish("Subject: "+mutant.PoisonWord+"\r\n\r\nCheers.\r\n", accepted)[0]
}

// onlyStopped reports what differs from one shard that has stopped everywhere it is
// led, and others that took mail since a moment.
func (c *cluster) onlyStopped(shard int, since time.Time) error {
	for _, h := range c.hosts {
		s, err := call[admin.Status](h, admin.NodeStatus, admin.Empty{})
		if err != nil {
			return fmt.Errorf("%s: %w", h.name, err)
		}
		i := slices.IndexFunc(s.Shards, func(g admin.Shard) bool { return g.ID == covey.ShardID(shard) })
		if i < 0 || s.Shards[i].Stopped == "" {
			return fmt.Errorf("%s does not say that shard %d has stopped", h.name, shard)
		}
		for _, g := range s.Shards {
			if g.Stopped != "" && g.ID != covey.ShardID(shard) {
				return fmt.Errorf("%s says that shard %d has stopped: %s", h.name, g.ID, g.Stopped)
			}
		}
	}
	return c.ledger.deliveredSince(since, shard)
}
