package main

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/covey-mail/covey/node/admin"
)

type statusCmd struct{ dataFlags }

// Run prints the node's state.
func (c *statusCmd) Run(ctx context.Context, io stdio) error {
	s, err := call[admin.Status](ctx, c.dataFlags, admin.NodeStatus, admin.Empty{})
	if err != nil {
		return err
	}
	if c.JSON {
		return io.json(s)
	}
	state := "starting"
	if s.Ready {
		state = "ready"
	}
	if s.DiskFull {
		state = "disk full: takes no new mail until space is freed in " + s.Data
	}
	fmt.Fprintf(io.out, "node %s (%s), covey %s, %s since %s\n", s.Node, s.Hostname, s.Version, state, s.Started.Format(time.RFC3339))
	fmt.Fprintf(io.out, "data %s: %s free, log %s in %d segments\n", s.Data, bytes64(s.DiskFree), bytes64(s.LogBytes), s.Segments)
	fmt.Fprintf(io.out, "%d domains, %d accounts\n\n", s.Domains, s.Accounts)
	rows := make([][]string, 0, len(s.Listen))
	for _, l := range s.Listen {
		rows = append(rows, []string{l.Service, l.Address})
	}
	if err := io.table("service address", rows); err != nil {
		return err
	}
	fmt.Fprintln(io.out)
	if err := io.table("node address version state since role leads replicas clients free log", peerRows(s.Peers)); err != nil {
		return err
	}
	fmt.Fprintln(io.out)
	return io.table("shard leader term applied commit lag live queued state replicas", shardRows(s.Shards))
}

func peerRows(peers []admin.Peer) [][]string {
	rows := make([][]string, len(peers))
	for i, p := range peers {
		address := p.Address
		if address == "" {
			address = "-"
		}
		rows[i] = []string{
			p.Node, address, p.Version, p.State, p.Since.Format(time.DateTime), p.Role,
			strconv.Itoa(p.Leads), strconv.Itoa(p.Replicas), strconv.FormatInt(p.Connections, 10), bytes64(p.DiskFree), bytes64(p.LogBytes),
		}
	}
	return rows
}

func shardRows(shards []admin.Shard) [][]string {
	rows := make([][]string, len(shards))
	for i, g := range shards {
		leader := g.Leader
		if leader == "" {
			leader = "-"
		}
		var lag uint64
		for _, r := range g.Replicas {
			lag = max(lag, r.Lag)
		}
		rows[i] = []string{
			strconv.FormatUint(uint64(g.ID), 10), leader, strconv.FormatUint(g.Term, 10),
			strconv.FormatUint(g.Applied, 10), strconv.FormatUint(g.Commit, 10), strconv.FormatUint(lag, 10),
			bytes64(g.LiveData), queuedText(g), shardState(g), replicaList(g),
		}
	}
	return rows
}

// queuedText is how many deliveries wait in a shard, and since when.
func queuedText(g admin.Shard) string {
	if g.Oldest == nil {
		return strconv.Itoa(g.Queued)
	}
	return fmt.Sprintf("%d since %s", g.Queued, g.Oldest.Local().Format(time.DateTime))
}

// shardState says in a few words how a shard is.
func shardState(g admin.Shard) string {
	switch {
	case g.Stopped != "":
		return "stopped: " + g.Stopped
	case len(g.Differ) > 0:
		return "REPLICAS DIFFER on " + strings.Join(g.Differ, ", ") + ": see docs/operating.md, «Replicas differ»"
	case g.Leader == "":
		return "no leader"
	case moving(g):
		return "moving"
	case slices.ContainsFunc(g.Replicas, func(r admin.Replica) bool { return r.Silent }):
		return "degraded"
	}
	return "ok"
}

// moving reports whether the voters of a shard are not yet those that are wanted.
func moving(g admin.Shard) bool {
	var voters []string
	for _, r := range g.Replicas {
		if !r.Learner {
			voters = append(voters, r.Node)
		}
	}
	wanted := slices.Clone(g.Wanted)
	slices.Sort(voters)
	slices.Sort(wanted)
	return len(wanted) > 0 && !slices.Equal(voters, wanted)
}

// replicaList names the replicas of a shard, with what is special about each.
func replicaList(g admin.Shard) string {
	var list []string
	for _, r := range g.Replicas {
		var marks []string
		if r.Learner {
			marks = append(marks, "learner")
		}
		if r.Copying {
			marks = append(marks, "copying")
		}
		if r.Silent {
			marks = append(marks, "silent")
		}
		if len(marks) > 0 {
			list = append(list, r.Node+" ("+strings.Join(marks, ", ")+")")
		} else {
			list = append(list, r.Node)
		}
	}
	return strings.Join(list, " ")
}

type versionCmd struct{}

// Run prints the version.
func (versionCmd) Run(io stdio) error {
	_, err := fmt.Fprintf(io.out, "covey %s %s %s/%s\n", version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
	return err
}
