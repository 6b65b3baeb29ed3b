package node

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/directory"
	"github.com/covey-mail/covey/internal/durable"
	"github.com/covey-mail/covey/node/admin"
	"github.com/covey-mail/covey/replica"
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
		if len(c.res.Problems) == 0 { // else this one is said already
			c.problem("log", err)
		}
		return c.res, ctx.Err()
	}
	defer log.Close()
	c.atRest(f, log)
	return c.res, ctx.Err()
}

// atRest checks the databases.
func (c *checker) atRest(f *folder, log *seglog.Log) {
	if c.present("directory", f.path("directory.db"), log.Group(covey.DirectoryShard)) {
		if st, err := directory.OpenState(directory.Config{Path: f.path("directory.db")}); err != nil {
			c.problem("directory", err)
		} else {
			c.connected("directory", st, log.Group(covey.DirectoryShard))
			c.problems("directory", st.Check(c.ctx))
			c.problem("directory", st.Close())
		}
	}
	for id := covey.ShardID(1); id <= covey.ShardID(f.self.Shards); id++ {
		name := fmt.Sprintf("shard %d", id)
		if !c.present(name, f.shardPath(id), log.Group(id)) {
			continue
		}
		st, err := storage.Open(storage.Config{Shard: id, Path: f.shardPath(id)})
		if err != nil {
			c.problem(name, err)
			continue
		}
		c.connected(name, st, log.Group(id))
		c.shard(id, st, log)
		c.problem(name, st.Close())
	}
}

// present reports whether a database is there. Without one the log must have all
// of its group, as in a folder whose first start was cut short.
func (c *checker) present(name, path string, log *seglog.Group) bool {
	_, err := os.Stat(path)
	if !errors.Is(err, os.ErrNotExist) {
		return true // what else is wrong shows when it is opened
	}
	if err := replica.Connected(log, 0, nil); err != nil {
		c.problem(name, fmt.Errorf("%s is gone: %w", path, err))
	}
	return false
}

// connected checks that the log has all that a database has applied, and all
// that it has not. A start refuses a log that does not.
func (c *checker) connected(name string, st interface{ Applied() uint64 }, log *seglog.Group) {
	var installed []byte
	if s, ok := st.(interface{ Installed() []byte }); ok {
		installed = s.Installed()
	}
	c.problem(name, replica.Connected(log, st.Applied(), installed))
}

// check is Check for the running node. The log is checked by what the bodies and
// the groups read from it; its older records are left to a check at rest.
func (n *Node) check(ctx context.Context) admin.CheckResult {
	c := checker{ctx: ctx, damaged: n.scrubber.Suspect}
	c.problems("directory", n.directoryState.Check(ctx))
	for id := covey.ShardID(1); id <= covey.ShardID(n.folder.self.Shards); id++ {
		if st, ok := n.states.get(id); ok {
			c.shard(id, st, n.seglog)
		}
	}
	return c.res
}

// checker gathers what a check finds.
type checker struct {
	ctx     context.Context
	res     admin.CheckResult
	damaged func(covey.ShardID, covey.BodyID) // told of bodies that can be repaired; nil: they cannot
}

func (c *checker) shard(id covey.ShardID, st storage.State, log *seglog.Log) {
	name := fmt.Sprintf("shard %d", id)
	c.res.Shards++
	c.problems(name, st.Check(c.ctx))
	bad := storage.CheckBodies(c.ctx, st, log)
	c.problems(name, bad)
	for _, err := range bad {
		if body := (*storage.BodyError)(nil); errors.As(err, &body) && c.damaged != nil {
			c.damaged(id, body.Body)
		}
	}
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
