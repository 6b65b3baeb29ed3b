// Command covey is a clustered mail server: one program that serves, administers
// and checks a node. Each subcommand has a file of its own; `covey help` lists
// them.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"syscall"

	"github.com/alecthomas/kong"

	"github.com/covey-mail/covey/internal/timerslack"
)

// version is set by the linker.
var version = "dev"

type commands struct {
	Demo    demoCmd    `cmd:"" help:"Run one node on high ports in a temporary folder, with accounts to try."`
	Serve   serveCmd   `cmd:"" help:"Run a node."`
	Domain  domainCmd  `cmd:"" help:"Domains that mail is taken for."`
	User    userCmd    `cmd:"" help:"Accounts."`
	Alias   aliasCmd   `cmd:"" help:"Addresses that lead to others."`
	Passwd  passwdCmd  `cmd:"" help:"Set an account's password."`
	Node    nodeCmd    `cmd:"" help:"Nodes of the cluster."`
	Cluster clusterCmd `cmd:"" help:"Settings of the whole cluster."`
	Queue   queueCmd   `cmd:"" help:"Mail that waits for shards that cannot take it."`
	Secret  secretCmd  `cmd:"" help:"The secret that the nodes of a cluster share."`
	Status  statusCmd  `cmd:"" help:"Show the state of the node."`
	Health  healthCmd  `cmd:"" help:"Exit with 0 if the node is ready, else say why not."`
	Bench   benchCmd   `cmd:"" help:"Drive load at any mail server and measure it."`
	Check   checkCmd   `cmd:"" help:"Verify every checksum and invariant of a data folder."`
	Version versionCmd `cmd:"" help:"Print the version."`
}

func main() {
	if len(os.Args) > 1 && slices.Contains([]string{"serve", "demo", "bench"}, os.Args[1]) {
		_ = timerslack.Widen(os.Environ()) // without it all works, slower
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// A second signal kills, as without us.
	context.AfterFunc(ctx, stop)
	os.Exit(run(ctx, os.Args[1:], stdio{os.Stdin, os.Stdout, os.Stderr}))
}

// run parses args and runs the subcommand. It returns the exit status: 0, 1 for
// a failure, 2 for a command line that makes no sense.
func run(ctx context.Context, args []string, io stdio) int {
	if len(args) > 0 && args[0] == "help" {
		args = append(slices.Clone(args[1:]), "--help")
	}
	var cli commands
	exit := -1
	parser, err := kong.New(&cli, kong.Name("covey"), kong.Description("A clustered mail server."),
		kong.Writers(io.out, io.err), kong.Exit(func(code int) { exit = code }),
		kong.BindTo(ctx, (*context.Context)(nil)), kong.Bind(io))
	if err != nil {
		panic(err) // the command table above is wrong
	}
	kctx, err := parser.Parse(args)
	if exit >= 0 {
		return exit
	}
	if err != nil {
		fmt.Fprintf(io.err, "covey: %v\nSee: covey help\n", err)
		return 2
	}
	if err := kctx.Run(); err != nil {
		fmt.Fprintf(io.err, "covey: %v\n", err)
		return 1
	}
	return 0
}
