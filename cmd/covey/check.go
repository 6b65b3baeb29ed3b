package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"github.com/covey-mail/covey/node"
	"github.com/covey-mail/covey/node/admin"
)

type checkCmd struct {
	dataFlags
	Cluster bool `help:"Compare the replicas of every shard with each other instead, through a node that runs."`
}

// Run checks the data folder: through the node if one runs on it, else itself.
func (c *checkCmd) Run(ctx context.Context, io stdio) error {
	if c.Cluster {
		return c.compare(ctx, io)
	}
	dir, err := c.dir()
	if err != nil {
		return err
	}
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("there is no data folder %s", dir)
	}
	res, err := c.check(ctx, dir)
	if err != nil {
		return err
	}
	if c.JSON {
		if err := io.json(res); err != nil {
			return err
		}
	} else {
		fmt.Fprintf(io.out, "%d shards, %s of messages checked\n", res.Shards, bytes64(res.LiveBytes))
		for _, p := range res.Problems {
			fmt.Fprintln(io.out, p)
		}
	}
	if n := len(res.Problems); n > 0 {
		return fmt.Errorf("%d problems: do not delete anything; see docs/operating.md, «A check found damage»", n)
	}
	return nil
}

func (c *checkCmd) check(ctx context.Context, dir string) (admin.CheckResult, error) {
	cfg := node.DefaultConfig(dir, 0)
	res, err := node.Check(ctx, cfg)
	if !errors.Is(err, node.ErrLocked) {
		return res, err
	}
	client := admin.NewClient(filepath.Clean(dir))
	defer client.Close()
	return admin.Call[admin.CheckResult](ctx, client, admin.NodeCheck, admin.Empty{})
}

// compare compares the replicas of all shards.
func (c *checkCmd) compare(ctx context.Context, io stdio) error {
	list, err := call[[]admin.Comparison](ctx, c.dataFlags, admin.Compare, admin.Empty{})
	if err != nil {
		return err
	}
	if c.JSON {
		err = io.json(list)
	} else {
		err = io.table("shard index node hash state", comparedRows(list))
	}
	if err != nil {
		return err
	}
	differ := 0
	for _, s := range list {
		if s.Differ {
			differ++
		}
	}
	if differ > 0 {
		return fmt.Errorf("the replicas of %d shards differ: see docs/operating.md, «Replicas differ»", differ)
	}
	return nil
}

func comparedRows(list []admin.Comparison) (rows [][]string) {
	for _, s := range list {
		for _, r := range s.Replicas {
			hash, state := r.Hash, "ok"
			switch {
			case r.Differs:
				state = "DIFFERS"
			case r.Error != "":
				hash, state = "-", "not compared: "+r.Error
			case len(s.Replicas) == 1:
				state = "alone"
			}
			rows = append(rows, []string{strconv.FormatUint(uint64(s.Shard), 10), strconv.FormatUint(s.Index, 10), r.Node, hash, state})
		}
	}
	return rows
}
