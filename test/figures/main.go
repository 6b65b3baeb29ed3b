// Command figures measures every figure of docs/performance.md, a command for
// each row:
//
//	go run ./test/figures ROW [flags]     one row
//	go run ./test/figures all [flags]     every row of one node in order
//	go run ./test/figures cluster [flags] every row of several nodes
//	go run ./test/figures peers [flags]   Covey beside smtp-sink and Dovecot
//	go run ./test/figures chart           draws what -json wrote
//
// All servers run on loopback, for root that of a network namespace made for it,
// with their data in a temporary folder that is removed afterwards; what it starts
// it stops. It prints the machine, the versions and the file system, and each figure
// beside its goal. A goal that is missed is no error: the exit status is 1 only if a
// row could not be measured.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/covey-mail/covey/internal/timerslack"
)

// options come from the command line.
type options struct {
	short    bool
	duration time.Duration // of each load; 0: the row's own
	rounds   int           // 0: the row's own
	conns    int           // 0: the row's own
	users    int           // of peers
	readers  int           // of peers
	dir      string        // where the servers keep their data
	filled   string        // the folder of the filled store; empty: made for the run and removed
	prefix   string
	json     string
}

func main() {
	_ = timerslack.Widen(os.Environ()) // without it the generator takes more from the servers
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal kills
	err := command(ctx, os.Args[1:], os.Stdout)
	switch {
	case errors.Is(err, flag.ErrHelp):
	case errors.Is(err, errSaid):
		os.Exit(1)
	case err != nil:
		fmt.Fprintf(os.Stderr, "figures: %v\n", err)
		os.Exit(1)
	}
}

// command runs what args say.
func command(ctx context.Context, args []string, w io.Writer) error {
	if len(args) == 0 || args[0] == "help" || args[0] == "-h" {
		return usage(w)
	}
	switch {
	case args[0] == discardCommand && len(args) == 2:
		return discard(ctx, args[1])
	case args[0] == gossipCommand:
		return runGossipLab(ctx, args[1:], w)
	case args[0] == memberCommand:
		return runMember(ctx, args[1:], w)
	case args[0] == "chart":
		return chart(args[1:])
	}
	o, err := parse(args[0], args[1:])
	if err != nil {
		return err
	}
	if done, err := isolated(ctx, o, args); done {
		return err
	}
	if err := openNetwork(); err != nil {
		return err
	}
	switch name := args[0]; name {
	case "peers":
		return peers(ctx, o, w)
	case "all":
		return measure(ctx, o, rows(), w)
	case "cluster":
		return measure(ctx, o, clusterRows(), w)
	default:
		for _, r := range slices.Concat(rows(), clusterRows()) {
			if r.name == name {
				return measure(ctx, o, []row{r}, w)
			}
		}
		return fmt.Errorf("there is no row %q: see go run ./test/figures help", name)
	}
}

// parse reads the flags that follow name.
func parse(name string, args []string) (options, error) {
	var o options
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = os.TempDir()
	}
	flags := flag.NewFlagSet(name, flag.ContinueOnError)
	flags.BoolVar(&o.short, "short", false, "only see that it works, in seconds: the figures mean nothing")
	flags.DurationVar(&o.duration, "duration", 0, "of each load; 0: as the row needs, peers 20s")
	flags.IntVar(&o.rounds, "rounds", 0, "rounds, of which medians are printed; 0: as the row needs, peers 3")
	flags.IntVar(&o.conns, "conns", 0, "connections; 0: as the row says, peers 64")
	flags.IntVar(&o.users, "users", 0, "peers: accounts that messages are sent to; 0: 1000")
	flags.IntVar(&o.readers, "readers", 0, "peers: accounts that are read, with 25 messages each; 0: 1000")
	flags.StringVar(&o.dir, "dir", "", "where the servers keep their data, in a folder made for it; empty: a temporary folder on a disk")
	flags.StringVar(&o.filled, "filled", "", "start, store: a folder for the store of 1,000,000 messages, made or filled up if need be, and kept; empty: made for this run")
	flags.StringVar(&o.prefix, "prefix", filepath.Join(cache, "covey-peers"), "where Debian's postfix is unpacked if smtp-sink is not installed")
	flags.StringVar(&o.json, "json", "", "also write the figures to this file; all and cluster skip the rows that it has")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	if flags.NArg() > 0 {
		return o, fmt.Errorf("%q is no flag", flags.Arg(0))
	}
	if o.rounds < 0 || o.conns < 0 || o.users < 0 || o.readers < 0 || o.duration < 0 {
		return o, errors.New("rounds, connections, users, readers and durations cannot be negative")
	}
	return o, nil
}

func usage(w io.Writer) error {
	fmt.Fprint(w, "go run ./test/figures ROW [flags]; -help after a row shows the flags\n\n")
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	for _, r := range slices.Concat(rows(), clusterRows()) {
		fmt.Fprintf(t, "  %s\t%s\n", r.name, r.what)
	}
	fmt.Fprintf(t, "  all\tall that need one node, in turn\n")
	fmt.Fprintf(t, "  cluster\tall that need several, in turn\n")
	fmt.Fprintf(t, "  peers\tthe same load on Covey, Postfix's smtp-sink and Dovecot\n")
	fmt.Fprintf(t, "  chart\ta drawing of what -json wrote\n")
	return t.Flush()
}
