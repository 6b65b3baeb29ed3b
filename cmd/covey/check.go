package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/covey-mail/covey/node"
	"github.com/covey-mail/covey/node/admin"
)

type checkCmd struct{ dataFlags }

// Run checks the data folder: through the node if one runs on it, else itself.
func (c *checkCmd) Run(ctx context.Context, io stdio) error {
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
