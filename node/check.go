package node

import (
	"context"
	"errors"
	"fmt"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/directory"
	"github.com/covey-mail/covey/internal/durable"
	"github.com/covey-mail/covey/node/admin"
	"github.com/covey-mail/covey/storage"
	"github.com/covey-mail/covey/storage/seglog"
)

// Check verifies every checksum and invariant of a data folder that no node runs
// on. ErrLocked if one does. The error tells why there could be no check; what a
// check found is in the result.
//
// What the databases have not applied yet is not missing: the log has it, and is
// checked record by record.
func Check(ctx context.Context, cfg Config) (admin.CheckResult, error) {
	if err := cfg.validate(); err != nil {
		return admin.CheckResult{}, err
	}
	f, err := openOldFolder(durable.OS(), cfg.Node.Data)
	if err != nil {
		return admin.CheckResult{}, err
	}
	defer f.Close()
	c := checker{ctx: ctx}
	logConfig := seglog.Config{Dir: f.path("log"), Keep: -1}
	c.problems("log", seglog.Check(logConfig))
	log, err := seglog.Open(logConfig)
	if err != nil {
		c.problem("log", err)
		return c.res, nil
	}
	defer log.Close()
	if st, err := directory.OpenState(directory.Config{Path: f.path("directory.db")}); err != nil {
		c.problem("directory", err)
	} else {
		c.problems("directory", st.Check(ctx))
		c.problem("directory", st.Close())
	}
	for id := covey.ShardID(1); id <= covey.ShardID(f.self.Shards); id++ {
		st, err := storage.Open(storage.Config{Shard: id, Path: f.shardPath(id)})
		if err != nil {
			c.problem(fmt.Sprintf("shard %d", id), err)
			continue
		}
		c.shard(id, st, log)
		c.problem(fmt.Sprintf("shard %d", id), st.Close())
	}
	return c.res, ctx.Err()
}

// check is Check for the running node. The log is checked by what the bodies and
// the groups read from it; its older records are left to a check at rest.
func (n *Node) check(ctx context.Context) admin.CheckResult {
	c := checker{ctx: ctx}
	c.problems("directory", n.directoryState.Check(ctx))
	for id := covey.ShardID(1); id <= covey.ShardID(n.folder.self.Shards); id++ {
		c.shard(id, n.shards.states[id], n.seglog)
	}
	return c.res
}

// checker gathers what a check finds.
type checker struct {
	ctx context.Context
	res admin.CheckResult
}

func (c *checker) shard(id covey.ShardID, st storage.State, log *seglog.Log) {
	name := fmt.Sprintf("shard %d", id)
	c.res.Shards++
	c.problems(name, st.Check(c.ctx))
	c.problems(name, storage.CheckBodies(c.ctx, st, log))
	live, err := st.Live()
	c.problem(name, err)
	for _, bytes := range live {
		c.res.LiveBytes += bytes.Bytes
	}
}

func (c *checker) problems(where string, errs []error) {
	for _, err := range errs {
		c.problem(where, err)
	}
}

// problem notes an error; nil is none.
func (c *checker) problem(where string, err error) {
	if err != nil && !errors.Is(err, context.Canceled) {
		c.res.Problems = append(c.res.Problems, where+": "+err.Error())
	}
}
