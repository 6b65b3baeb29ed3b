package main

import (
	"context"
	"fmt"
	"strconv"
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
		Node string `arg:"" help:"The node's id, from covey status."`
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
	return c.move(ctx, io, admin.NodeRemove, admin.NodeRequest{Node: c.Node}, "node "+c.Node+" removed")
}

// Run replaces the node.
func (c *nodeReplaceCmd) Run(ctx context.Context, io stdio) error {
	return c.move(ctx, io, admin.NodeReplace, admin.NodeRequest{Node: c.Old, By: c.New}, "node "+c.Old+" replaced by "+c.New)
}

// move asks for an operation until it is done, and tells how far it is.
func (f moveFlags) move(ctx context.Context, io stdio, op string, req admin.NodeRequest, text string) error {
	for left := -1; ; {
		m, err := call[admin.NodeMove](ctx, f.dataFlags, op, req)
		if err != nil {
			return err
		}
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
