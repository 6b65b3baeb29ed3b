package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"time"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/membership"
)

// memberCommand runs this program as a member that only gossips, set up as a node
// sets it up.
const memberCommand = "gossip-member"

const gossipPort = "7946"

// runMember gossips as node args[0] of args[1] until ctx ends, and writes what it
// sees of others: node, state and nanoseconds of Unix time.
func runMember(ctx context.Context, args []string, w io.Writer) error {
	if len(args) != 2 {
		return errors.New("want the member's number and how many there are")
	}
	id, err := strconv.Atoi(args[0])
	count, err2 := strconv.Atoi(args[1])
	if err := errors.Join(err, err2); err != nil {
		return err
	}
	var seeds []string
	for i := range count {
		seeds = append(seeds, net.JoinHostPort(gossipAddr(i+1), gossipPort))
	}
	failed := make(chan error, 1)
	g, err := membership.Start(membership.Config{
		Self:    membership.Member{ID: covey.NodeID(id), Peer: net.JoinHostPort(gossipAddr(id), "7947"), Version: "figures"},
		Cluster: covey.ClusterID{1}, Keys: [][]byte{bytes.Repeat([]byte{1}, 32)}, Bind: seeds[id-1],
		Seeds: func() []string { return seeds },
		Changed: func(m membership.Member) {
			if _, err := fmt.Fprintln(w, uint64(m.ID), m.State, time.Now().UnixNano()); err != nil {
				select {
				case failed <- err:
				default:
				}
			}
		},
	})
	if err != nil {
		return err
	}
	defer g.Close()
	select {
	case <-ctx.Done():
		return nil
	case err := <-failed:
		return err
	}
}
