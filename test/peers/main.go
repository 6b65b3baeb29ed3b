// Command peers lays one Covey node beside the servers it is measured against:
// Postfix's smtp-sink, which throws mail away, and Dovecot, which keeps it in
// Maildirs. All run on loopback and get the same load in turn, round by round; it
// prints medians, ratios and what each message cost its server in CPU time and
// bytes written. What it starts it stops. A server that is missing is named, and
// its rows are left out.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"github.com/covey-mail/covey/test/process"
)

// options come from the command line.
type options struct {
	rounds   int
	duration time.Duration
	conns    int
	users    int
	readers  int
	dir      string
	prefix   string
	json     string
}

func main() {
	var o options
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = os.TempDir()
	}
	flag.IntVar(&o.rounds, "rounds", 3, "rounds; medians are printed")
	flag.DurationVar(&o.duration, "duration", 20*time.Second, "of each load in each round")
	flag.IntVar(&o.conns, "conns", 64, "connections")
	flag.IntVar(&o.users, "users", 1000, "accounts that messages are sent to")
	flag.IntVar(&o.readers, "readers", 1000, "accounts that are read, with 25 messages each")
	flag.StringVar(&o.dir, "dir", "", "where the servers keep their data; a new temporary folder if empty")
	flag.StringVar(&o.prefix, "prefix", filepath.Join(cache, "covey-peers"), "where Debian's postfix is unpacked if smtp-sink is not installed")
	flag.StringVar(&o.json, "json", "", "also write all results to this file")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal kills
	if err := run(ctx, o); err != nil {
		fmt.Fprintf(os.Stderr, "peers: %v\n", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) (err error) {
	if o.rounds < 1 || o.conns < 1 || o.users < 1 || o.readers < 1 || o.duration <= 0 {
		return errors.New("rounds, connections, users, readers and duration must be more than nothing")
	}
	if o.readers < 4*o.conns {
		return fmt.Errorf("%d connections need at least %d readers: a POP3 mailbox has one session at a time", o.conns, 4*o.conns)
	}
	dir, err := os.MkdirTemp(o.dir, "covey-peers-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if err := os.Chmod(dir, 0o755); err != nil { // Dovecot's processes have users of their own
		return err
	}
	bin, err := process.Build(dir)
	if err != nil {
		return err
	}
	accounts := append(makeAccounts("user", o.users), makeAccounts("reader", o.readers)...)
	peers, missing := start(ctx, o, dir, bin, accounts)
	defer func() {
		for _, s := range peers {
			s.stop()
		}
	}()
	if peers["covey"] == nil {
		return missing
	}
	describe(o, dir, bin, peers)
	if missing != nil {
		fmt.Printf("left out: %v\n", missing)
	}
	b := &board{options: o, servers: peers, seed: uint64(time.Now().UnixNano())}
	if err := b.play(ctx); err != nil {
		return err
	}
	return b.print(os.Stdout)
}

// start starts the servers that can be; the error says what is missing.
func start(ctx context.Context, o options, dir, bin string, accounts []account) (map[string]*server, error) {
	peers := make(map[string]*server)
	var missing []error
	add := func(s *server, err error) {
		if err != nil {
			missing = append(missing, err)
			return
		}
		peers[s.name] = s
	}
	add(startSMTPSink(ctx, o.prefix))
	add(startDovecot(ctx, filepath.Join(dir, "dovecot"), accounts))
	add(startCovey(ctx, bin, filepath.Join(dir, "covey-data"), accounts))
	return peers, errors.Join(missing...)
}

// describe prints what the figures are worth nothing without.
func describe(o options, dir, bin string, peers map[string]*server) {
	fmt.Printf("%d CPUs, %s %s, %s, data on %s\n", runtime.NumCPU(), runtime.GOOS, version("uname", "-r"), runtime.Version(), filesystem(dir))
	fmt.Printf("%s", version(bin, "version"))
	if peers["dovecot"] != nil {
		fmt.Printf("; dovecot %s", version(dovecotBin, "--version"))
	}
	fmt.Printf("\n%d × %v each, %d connections, messages of 8 KiB, %d accounts\n\n", o.rounds, o.duration, o.conns, o.users)
}

// filesystem names the kind that dir is on: in memory, an fsync costs nothing.
func filesystem(dir string) string {
	var st syscall.Statfs_t
	if err := syscall.Statfs(dir, &st); err != nil {
		return "an unknown file system"
	}
	switch uint32(st.Type) {
	case 0xef53:
		return "ext4"
	case 0x01021994:
		return "tmpfs, IN MEMORY: nothing here says anything about disks; use -dir"
	case 0x58465342:
		return "xfs"
	case 0x9123683e:
		return "btrfs"
	case 0x794c7630:
		return "overlayfs"
	}
	return fmt.Sprintf("file system type %#x", uint32(st.Type))
}
