package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/covey-mail/covey/bench"
	"github.com/covey-mail/covey/test/process"
)

// A build is the covey binary of this tree, in a folder that also takes the data.
type build struct {
	options
	dir string
	bin string
}

func newBuild(o options) (*build, error) {
	parent := o.dir
	if parent == "" {
		parent = workplace()
	}
	dir, err := os.MkdirTemp(parent, "covey-figures-")
	if err != nil {
		return nil, err
	}
	b := &build{options: o, dir: dir}
	if err = os.Chmod(dir, 0o755); err == nil { // Dovecot's processes have users of their own
		b.bin, err = process.Build(dir)
	}
	if err != nil {
		return nil, errors.Join(err, b.remove())
	}
	return b, nil
}

func (b *build) remove() error { return os.RemoveAll(b.dir) }

// workplace is the folder for temporary files, unless that is in memory.
func workplace() string {
	dir := os.TempDir()
	if inMemory(dir) {
		if cache, err := os.UserCacheDir(); err == nil && os.MkdirAll(cache, 0o755) == nil {
			return cache
		}
	}
	return dir
}

// one measures one row.
func (b *build) one(ctx context.Context, r row) (rep report, err error) {
	rep = report{Row: r.name, Short: b.short, Machine: b.machine(), Began: time.Now().UTC().Truncate(time.Second)}
	l := &lab{options: b.options, row: r.name, dir: filepath.Join(b.dir, r.name), bin: b.bin}
	if err := os.Mkdir(l.dir, 0o755); err != nil {
		return rep, err
	}
	defer func() {
		l.end()
		err = errors.Join(err, os.RemoveAll(l.dir))
	}()
	l.say("%s", r.what)
	began := time.Now()
	rep.Figures, err = r.run(ctx, l)
	rep.Seconds = time.Since(began).Round(time.Second / 10).Seconds()
	return rep, errors.Join(err, ctx.Err())
}

// machine says what the figures are worth nothing without.
func (b *build) machine() string {
	s := fmt.Sprintf("%d × %s, %s MiB, %s %s, %s, %s, data on %s; covey %s", runtime.NumCPU(), cpuModel(), memory(),
		runtime.GOOS, version("uname", "-r"), runtime.Version(), network(), filesystem(b.dir), version("git", "describe", "--tags", "--always", "--dirty"))
	if executable(dovecotBin) {
		s += "; dovecot " + version(dovecotBin, "--version")
	}
	return s
}

func cpuModel() string { return procField("/proc/cpuinfo", "model name", "CPUs") }

func memory() string {
	kib, _, _ := strings.Cut(procField("/proc/meminfo", "MemTotal", "0 kB"), " ")
	var n int
	_, _ = fmt.Sscan(kib, &n) // 0 says that it is not known
	return fmt.Sprint(n / 1024)
}

// procField returns what stands after the colon in the first line of name that
// begins with field.
func procField(name, field, otherwise string) string {
	f, err := os.Open(name)
	if err != nil {
		return otherwise
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if key, value, ok := strings.Cut(lines.Text(), ":"); ok && strings.TrimSpace(key) == field {
			return strings.TrimSpace(value)
		}
	}
	return otherwise
}

// A lab is what a row works with. Its folder is removed afterwards.
type lab struct {
	options
	row   string
	dir   string
	bin   string
	stops []func()
}

// end stops what still runs, the youngest first.
func (l *lab) end() {
	for _, stop := range slices.Backward(l.stops) {
		stop()
	}
}

// say tells on standard error what is being done.
func (l *lab) say(format string, args ...any) {
	fmt.Fprintf(os.Stderr, l.row+": "+format+"\n", args...)
}

// lasting is how long a load runs: as the command line says, or full, or short.
func (l *lab) lasting(full, short time.Duration) time.Duration {
	switch {
	case l.duration > 0:
		return l.duration
	case l.short:
		return short
	}
	return full
}

// connsOf is how many connections there are: as the command line says, or full.
func (l *lab) connsOf(full int) int {
	if l.conns > 0 {
		return l.conns
	}
	return full
}

// count is full, or with -short short.
func (l *lab) count(full, short int) int {
	if l.short {
		return short
	}
	return full
}

// covey starts a node in a new data folder and gives it the accounts. All is as
// by default but the number of connections from one address and what env says, as
// NAME=value.
func (l *lab) covey(ctx context.Context, accounts []account, env ...string) (*server, error) {
	dir, err := os.MkdirTemp(l.dir, "data-")
	if err != nil {
		return nil, err
	}
	s, err := l.start(dir, env...)
	if err != nil {
		return nil, err
	}
	if _, err = s.node.Covey(ctx, "", "domain", "add", domain); err == nil {
		_, err = s.node.Covey(ctx, userLines(accounts), "user", "import", "-")
	}
	return s, err
}

// start starts a node on a data folder that may have something in it.
func (l *lab) start(dir string, env ...string) (*server, error) {
	return l.keep(startCovey(l.bin, dir, env...))
}

// A few POP3 sessions that meet in one mailbox change nothing; more failures than
// this share make the figures worthless.
const failuresAllowed = 0.005

// load runs a load and tells how it goes. What would make its figures worthless is
// an error.
func (l *lab) load(ctx context.Context, cfg bench.Config) (*bench.Result, error) {
	const every = 10 * time.Second
	cfg.ProgressEvery = every
	cfg.Progress = func(p bench.Progress) {
		l.say("%s %s %v: %d done, %.0f/s", cfg.Protocol, p.Phase, p.Elapsed.Round(time.Second), p.Done, p.Rate)
	}
	res, err := bench.Run(ctx, cfg)
	if err == nil {
		err = errors.Join(res.Err(), ctx.Err())
	}
	if err == nil && float64(res.Failed) > failuresAllowed*float64(res.Done) {
		err = fmt.Errorf("%d of %d operations failed: %s", res.Failed, res.Failed+res.Done, res.Failures[0].What)
	}
	if err == nil && res.Short > 0 {
		err = fmt.Errorf("%d sessions found too little mail", res.Short)
	}
	if err != nil {
		return nil, fmt.Errorf("%s to %s: %w", cfg.Protocol, cfg.Addr, err)
	}
	return res, nil
}

const tmpfs = 0x01021994

// inMemory reports whether dir is on no disk.
func inMemory(dir string) bool {
	var st syscall.Statfs_t
	return syscall.Statfs(dir, &st) == nil && uint32(st.Type) == tmpfs
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
	case tmpfs:
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
