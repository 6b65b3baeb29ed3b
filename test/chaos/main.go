// Command chaos runs a cluster of real processes, breaks it in every way of
// faults.go while clients use it, and checks that what they were told is true.
//
//	chaos [-for 2m] [-seed N] [-only F-02,F-09] [-state FILE]
//
// Each node has a network namespace of its own and its data folder on an ext4
// file system of its own, in a file; all hang on one bridge, on which the clients
// sit too. The program runs itself again in new network, mount and process
// namespaces, so that with it, however it ends, the nodes, mounts and networks
// go as well; only cgroups and the folder of images are removed by hand.
//
// A run is a sequence of rounds. In each, clients deliver, append, flag, move,
// expunge and delete while one fault is injected and healed (run.go); then the
// cluster must serve again, the clients pause, and everything is read and
// compared with the ledger of what they were told (ledger.go, verify.go) and
// each account's history is tried for linearizability (internal/history). The seed
// gives the order of faults and all that the harness draws; processes and
// networks have a will of their own, so a seed replays a schedule, not an
// interleaving.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/covey-mail/covey/internal/mutant"
	"github.com/covey-mail/covey/test/process"
)

// options are the command line's.
type options struct {
	seed   uint64
	length time.Duration
	hold   time.Duration // how long a fault lasts, more or less
	only   string
	state  string
	nodes  int
	shards int
	rate   int
	dir    string
	bin    string
	// poisonBin is a program for F-45; empty: the run goes without.
	poisonBin string
	keep      bool
	untilBad  bool
}

func (o *options) flags(fs *flag.FlagSet) {
	fs.Uint64Var(&o.seed, "seed", 1, "seed of the schedule")
	fs.DurationVar(&o.length, "for", 2*time.Minute, "begin no round after this time")
	fs.DurationVar(&o.hold, "hold", 3*time.Second, "how long a fault lasts; long ones are scaled to it")
	fs.StringVar(&o.only, "only", "", "names of faults, with commas: no others")
	fs.StringVar(&o.state, "state", "", "file with the sums of the run so far: go on from there, and add")
	fs.IntVar(&o.nodes, "nodes", 3, "nodes of the cluster")
	fs.IntVar(&o.shards, "shards", 8, "mailbox shards")
	fs.IntVar(&o.rate, "rate", 40, "deliveries a second")
	fs.StringVar(&o.dir, "dir", "", "folder for disks and logs; by default a temporary one, removed when all is well")
	fs.StringVar(&o.bin, "bin", "", "covey binary; by default it is built")
	fs.StringVar(&o.poisonBin, "poison-bin", "", "covey binary for F-45, which ends the run; by default it is built")
	fs.BoolVar(&o.keep, "keep", false, "keep the folder")
	fs.BoolVar(&o.untilBad, "until-bad", false, "end at the first violation")
}

// inner says in the environment that the namespaces are there.
const inner = "COVEY_CHAOS_INNER"

func main() {
	var o options
	o.flags(flag.CommandLine)
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var err error
	switch {
	case os.Getenv(inner) != "":
		err = enter()
		if err == nil {
			err = run(ctx, o)
		}
	case cannot() != "":
		fmt.Println("chaos: skipped:", cannot())
	case flag.Arg(0) == "mutants":
		err = mutants(ctx, o, flag.Args()[1:])
	default:
		err = outer(ctx, o)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "chaos:", err)
		os.Exit(1)
	}
}

// cannot says why this machine cannot run it; empty if it can.
func cannot() string {
	if os.Geteuid() != 0 {
		return "it needs root, for network namespaces and loop mounts"
	}
	for _, tool := range []string{"ip", "tc", "nft", "nsenter", "prlimit", "mkfs.ext4", "mount", "umount"} {
		if _, err := exec.LookPath(tool); err != nil {
			return tool + " is not installed"
		}
	}
	cmd := exec.Command("true")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS | unix.CLONE_NEWPID}
	if err := cmd.Run(); err != nil {
		return "no namespaces: " + err.Error()
	}
	return ""
}

// outer prepares the folder and the binary, runs this program again in its
// namespaces, and removes what outlives those.
func outer(ctx context.Context, o options) (err error) {
	if o.dir == "" {
		if o.dir, err = os.MkdirTemp("", "covey-chaos-"); err != nil {
			return err
		}
	} else if err := os.MkdirAll(o.dir, 0o700); err != nil {
		return err
	}
	if o.bin == "" {
		if o.bin, err = process.Build(o.dir); err != nil {
			return err
		}
	}
	if o.poisonBin == "" && (o.only == "" && !o.untilBad || slices.Contains(strings.Split(o.only, ","), poisoned.name)) {
		dir := filepath.Join(o.dir, "poison")
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
		if o.poisonBin, err = process.BuildMutant(dir, mutant.Poison); err != nil {
			return err
		}
	}
	runtime.LockOSThread() // Pdeathsig is about the thread
	cmd := exec.CommandContext(ctx, "/proc/self/exe", append(os.Args[1:], "-dir", o.dir, "-bin", o.bin, "-poison-bin", o.poisonBin)...)
	cmd.Env = append(os.Environ(), inner+"=1")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = time.Minute
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS | unix.CLONE_NEWPID,
		Pdeathsig:  syscall.SIGKILL,
	}
	err = cmd.Run()
	removeCgroups(filepath.Base(o.dir))
	switch {
	case err == nil && !o.keep:
		return os.RemoveAll(o.dir)
	case err != nil:
		fmt.Println("logs of the nodes are in", o.dir)
		images, _ := filepath.Glob(filepath.Join(o.dir, "*.image"))
		for _, name := range images {
			err = errors.Join(err, os.Remove(name))
		}
	}
	return err
}

// enter finishes what the new namespaces need before anything else runs.
func enter() error {
	if err := os.Unsetenv(inner); err != nil {
		return err
	}
	for _, line := range []string{
		"mount --make-rprivate /",
		"mount -t proc proc /proc",
		"mkdir -p /run/netns",
		"mount -t tmpfs tmpfs /run/netns",
		"ip link set lo up",
	} {
		if err := sh(line); err != nil {
			return err
		}
	}
	return nil
}

// sh runs a command of words without quotes.
func sh(line string) error {
	f := strings.Fields(line)
	if out, err := exec.Command(f[0], f[1:]...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", line, err, strings.TrimSpace(string(out)))
	}
	return nil
}
