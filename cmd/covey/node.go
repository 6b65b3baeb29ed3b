package main

import (
	"bufio"
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/covey-mail/covey/node/admin"
)

type nodeCmd struct {
	Drain   nodeDrainCmd   `cmd:"" help:"Move all replicas away from a node."`
	Remove  nodeRemoveCmd  `cmd:"" help:"Move all replicas away from a node and end its membership."`
	Replace nodeReplaceCmd `cmd:"" help:"Put one node in the place of another and end the membership of the other."`
}

// moveFlags are those of commands that wait until replicas have moved.
type moveFlags struct {
	dataFlags
	NoWait bool `help:"Begin, and do not wait until it is done."`
}

type (
	nodeDrainCmd struct {
		moveFlags
		Node string `arg:"" help:"The node's id, from covey status."`
		Undo bool   `help:"Let the node have replicas again."`
	}
	nodeRemoveCmd struct {
		moveFlags
		Node       string `arg:"" help:"The node's id, from covey status."`
		AcceptLoss bool   `help:"Give up the mail of which a dead node has the only replica, after listing the accounts and asking."`
	}
	nodeReplaceCmd struct {
		moveFlags
		Old string `arg:"" help:"The node that goes."`
		New string `arg:"" help:"The node that takes its place; it has joined already."`
	}
)

// Run drains the node.
func (c *nodeDrainCmd) Run(ctx context.Context, io stdio) error {
	req := admin.NodeRequest{Node: c.Node, Undo: c.Undo}
	text := "node " + c.Node + " holds no replicas"
	if c.Undo {
		text = "node " + c.Node + " may have replicas again"
	}
	return c.move(ctx, io, admin.NodeDrain, req, text)
}

// Run removes the node.
func (c *nodeRemoveCmd) Run(ctx context.Context, io stdio) error {
	if c.AcceptLoss {
		if err := c.confirmLoss(ctx, io); err != nil {
			return err
		}
	}
	req := admin.NodeRequest{Node: c.Node, AcceptLoss: c.AcceptLoss}
	return c.move(ctx, io, admin.NodeRemove, req, "node "+c.Node+" removed")
}

// confirmLoss lists the accounts that lose their mail, and has the operator say
// yes.
func (c *nodeRemoveCmd) confirmLoss(ctx context.Context, io stdio) error {
	loss, err := call[admin.Loss](ctx, c.dataFlags, admin.NodeLoss, admin.NodeRequest{Node: c.Node})
	if err != nil || len(loss.Shards) == 0 {
		return err // the node says why it cannot be, or there is nothing to lose
	}
	total := 0
	for _, shard := range loss.Shards {
		for page := (admin.ShardPage{Shard: shard}); ; {
			users, err := call[[]admin.User](ctx, c.dataFlags, admin.UserInShard, page)
			if err != nil {
				return err
			}
			if len(users) == 0 {
				break
			}
			for _, u := range users {
				fmt.Fprintln(io.out, u.Address)
				page.After = u.ID
			}
			total += len(users)
		}
	}
	fmt.Fprintf(io.err, "The %d accounts above lose all their mail, in %d shards; the accounts themselves stay.\nIf the disk of node %s can still be read, start it again instead. Type yes to go on: ",
		total, len(loss.Shards), c.Node)
	answer, _ := bufio.NewReader(io.in).ReadString('\n') // an error leaves what is no yes
	if strings.TrimSpace(answer) != "yes" {
		return fmt.Errorf("nothing was done: %q is not yes", strings.TrimSpace(answer))
	}
	return nil
}

// Run replaces the node.
func (c *nodeReplaceCmd) Run(ctx context.Context, io stdio) error {
	return c.move(ctx, io, admin.NodeReplace, admin.NodeRequest{Node: c.Old, By: c.New}, "node "+c.Old+" replaced by "+c.New)
}

// move asks for an operation until it is done, and tells how far it is.
func (f moveFlags) move(ctx context.Context, io stdio, op string, req admin.NodeRequest, text string) error {
	var last admin.NodeMove
	for left := -1; ; {
		m, err := call[admin.NodeMove](ctx, f.dataFlags, op, req)
		if left >= 0 && ctx.Err() == nil && admin.Temporary(err) {
			m, err = last, nil // it has begun: on with it when it can be
		}
		if err != nil {
			return err
		}
		last = m
		req.AcceptLoss = false // what was to be given up has begun anew
		if m.Done {
			return done(io, f.dataFlags, nil, text)
		}
		if f.NoWait {
			return done(io, f.dataFlags, nil, strconv.Itoa(len(m.Shards))+" shards are moving away")
		}
		if len(m.Shards) != left {
			left = len(m.Shards)
			fmt.Fprintf(io.err, "%d shards have yet to move\n", left)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Second):
		}
	}
}

type clusterCmd struct {
	Set clusterSetCmd `cmd:"" help:"Change settings, or show them."`
}

type clusterSetCmd struct {
	dataFlags
	Quota        *size          `help:"Most that accounts may hold which are made without a quota of their own; 0 for no limit."`
	Replicas     *int           `help:"Replicas wanted of each mailbox shard: 1, 3 or 5." placeholder:"N"`
	RebuildAfter *time.Duration `help:"A node gone for so long has its replicas rebuilt elsewhere." placeholder:"DURATION"`
}

// Run changes the settings and prints all of them.
func (c *clusterSetCmd) Run(ctx context.Context, io stdio) error {
	req := admin.Settings{Quota: (*int64)(c.Quota), Replicas: c.Replicas}
	if c.RebuildAfter != nil {
		seconds := int64(*c.RebuildAfter / time.Second)
		req.RebuildAfter = &seconds
	}
	is, err := call[admin.Settings](ctx, c.dataFlags, admin.ClusterSet, req)
	if err != nil {
		return err
	}
	if c.JSON {
		return io.json(is)
	}
	quota := "none"
	if *is.Quota > 0 {
		quota = bytes64(*is.Quota)
	}
	return io.table("replicas rebuild_after quota", [][]string{
		{strconv.Itoa(*is.Replicas), (time.Duration(*is.RebuildAfter) * time.Second).String(), quota},
	})
}
