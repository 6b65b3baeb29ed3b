package main

import (
	"context"
	"fmt"
	"runtime"
	"strconv"
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
	if err := io.table("node address version state since role leads replicas free", peerRows(s.Peers)); err != nil {
		return err
	}
	fmt.Fprintln(io.out)
	return io.table("shard leader term applied commit live queued state", shardRows(s.Shards))
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
			strconv.Itoa(p.Leads), strconv.Itoa(p.Replicas), bytes64(p.DiskFree),
		}
	}
	return rows
}

func shardRows(shards []admin.Shard) [][]string {
	rows := make([][]string, len(shards))
	for i, g := range shards {
		state, leader := "ok", g.Leader
		if leader == "" {
			state, leader = "no leader", "-"
		}
		if g.Stopped != "" {
			state = "stopped: " + g.Stopped
		}
		rows[i] = []string{
			strconv.FormatUint(uint64(g.ID), 10), leader, strconv.FormatUint(g.Term, 10),
			strconv.FormatUint(g.Applied, 10), strconv.FormatUint(g.Commit, 10), bytes64(g.LiveData), queuedText(g), state,
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

type versionCmd struct{}

// Run prints the version.
func (versionCmd) Run(io stdio) error {
	_, err := fmt.Fprintf(io.out, "covey %s %s %s/%s\n", version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
	return err
}
