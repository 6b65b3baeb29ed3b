package main

import (
	"context"
	"fmt"
	"math"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"github.com/covey-mail/covey/node"
)

type serveCmd struct {
	Config     string `help:"Configuration file (TOML)." placeholder:"FILE"`
	Data       string `help:"Data folder; made if it is not there." placeholder:"DIR"`
	PortOffset int    `help:"Number added to each default port, for several nodes on one host." placeholder:"N"`

	Join       []string `help:"Join the cluster of the node at this peer address; may be given again, or as a list with commas." placeholder:"HOST:PORT"`
	SecretFile string   `help:"File with the secret that all nodes of a cluster share; by default cluster.secret in the data folder." placeholder:"FILE"`
	Init       bool     `help:"Make a cluster of the nodes in --join, if this is the first of them and none of the others has one."`
	Replicas   int      `help:"Replicas wanted of each mailbox shard: 1, 3 or 5." placeholder:"N"`
}

// flags returns the keys of the configuration that the command line gives.
func (c *serveCmd) flags() map[string]string {
	given := make(map[string]string)
	if len(c.Join) > 0 {
		given["cluster.join"] = strings.Join(c.Join, ",")
	}
	if c.SecretFile != "" {
		given["cluster.secret_file"] = c.SecretFile
	}
	if c.Init {
		given["cluster.init"] = "true"
	}
	if c.Replicas != 0 {
		given["cluster.replicas"] = strconv.Itoa(c.Replicas)
	}
	return given
}

// Run serves until ctx ends. That may be while the node starts, and is no error then
// either.
func (c *serveCmd) Run(ctx context.Context, io stdio) error {
	cfg, err := source{file: c.Config, data: c.Data, offset: c.PortOffset, flags: c.flags(), getenv: os.LookupEnv}.load()
	if err != nil {
		return err
	}
	cfg.Version = version
	cfg.Files = openFiles()
	// To standard error, so that standard output has only the lines that a script
	// waits for.
	log, flush := logger(io.err, cfg.Node.Debug)
	defer flush()
	cfg.Logger = log
	n, err := node.Start(ctx, cfg)
	switch {
	case err != nil && ctx.Err() != nil: // it may wait for other nodes for as long as there are none
		log.Info("told to stop before it served", "err", err)
		return nil
	case err != nil:
		return err
	}
	var pacing sync.WaitGroup
	defer pacing.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	pacing.Go(func() { newCollector().pace(ctx) })
	for _, l := range n.Listening() {
		fmt.Fprintf(io.out, "listening %s %s\n", l.Service, l.Address)
	}
	fmt.Fprintln(io.out, "ready")
	notify("READY=1")
	select {
	case <-ctx.Done():
	case <-n.Failed():
	}
	notify("STOPPING=1")
	return n.Stop()
}

// openFiles returns how many files the process may have open, 0 for any number.
// It raises the limit first as far as that goes without privileges.
func openFiles() int {
	var lim syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &lim); err != nil {
		return 0
	}
	if raised := (syscall.Rlimit{Cur: lim.Max, Max: lim.Max}); syscall.Setrlimit(syscall.RLIMIT_NOFILE, &raised) == nil {
		lim = raised
	}
	return int(min(lim.Cur, math.MaxInt32))
}

// notify tells systemd, if it started us, about the state of the service
// (sd_notify(3)). No one else is concerned when that does not succeed.
func notify(state string) {
	path := os.Getenv("NOTIFY_SOCKET")
	if path == "" {
		return
	}
	if strings.HasPrefix(path, "@") {
		path = "\x00" + path[1:]
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return
	}
	defer conn.Close()
	_, _ = conn.Write([]byte(state))
}
