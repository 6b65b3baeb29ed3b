package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/covey-mail/covey/bench"
)

var coldRow = row{
	name: "cluster-cold",
	what: "from starting all nodes after a power cut of all to a delivery to every shard",
	run:  runCold,
}

// A coldTest has each node's data on a file system of its own that can lose power.
type coldTest struct {
	*cluster
	disks []*looped // nil without root: then the processes are killed, and the kernel keeps what it has
	users int
	shard map[string]string

	ready []float64 // seconds until every shard had taken a message
	first []float64 // until one had
}

const (
	coldLoad = 20 * time.Second // before each cut
	coldWait = 60 * time.Second // for every shard
	coldRate = 200
)

func runCold(ctx context.Context, l *lab) ([]figure, error) {
	t := &coldTest{users: l.count(320, 96)}
	cfg := clusterConfig{users: t.users}
	if os.Geteuid() == 0 {
		for i := range 3 {
			d, err := newLooped(filepath.Join(l.dir, fmt.Sprintf("disk%d", i)))
			if err != nil {
				return nil, err
			}
			l.stops = append(l.stops, d.release)
			t.disks, cfg.dirs = append(t.disks, d), append(cfg.dirs, d.data())
		}
	}
	var err error
	if t.cluster, err = l.newCluster(ctx, cfg); err != nil {
		return nil, err
	}
	if t.shard, err = t.groups(ctx); err != nil {
		return nil, err
	}
	for n := range l.roundsOf(5) {
		if err := t.one(ctx); err != nil {
			return nil, fmt.Errorf("power cut %d: %w", n+1, err)
		}
	}
	return t.figures(), nil
}

// one cuts the power under load, gives it back and sends mail until every shard
// takes it.
func (t *coldTest) one(ctx context.Context) error {
	load := t.deliveries(t.users)
	load.Duration = t.lasting(coldLoad, 3*time.Second)
	if _, err := t.during(ctx, load, load.Duration*3/4, t.cut); err != nil {
		return err
	}
	if err := t.remount(); err != nil {
		return err
	}
	probe := t.deliveries(t.users)
	probe.Groups, probe.Conns, probe.Rate = t.shard, openConns, coldRate
	probe.Duration = coldWait
	probing, cancel := context.WithCancel(ctx)
	defer cancel()
	seen := make(map[string]bool)
	probe.Timeline = func(m bench.Moment) { // every shard has taken one: that is enough
		if m.Group != "" && m.Done > 0 {
			if seen[m.Group] = true; len(seen) == t.shards {
				cancel()
			}
		}
	}
	var res *bench.Result
	err := together(
		func() (err error) { res, err = bench.Run(probing, probe); return err },
		func() error { return t.each(t.startNode) },
	)
	if err != nil {
		return err
	}
	if len(seen) < t.shards {
		return fmt.Errorf("after %v %d of %d shards take mail: %s", coldWait, len(seen), t.shards, summary(res))
	}
	t.note(res)
	return t.settle(ctx)
}

// note takes down when the shards took their first message: the longest time
// without one is that before it.
func (t *coldTest) note(res *bench.Result) {
	var last float64
	for _, g := range res.Groups {
		last = max(last, g.Gap.Seconds)
	}
	t.ready, t.first = append(t.ready, last), append(t.first, res.Gap.Seconds)
	t.say("every shard takes mail after %.1f s", last)
}

// cut takes the power away from all nodes: first the processors of all, then the
// disks.
func (t *coldTest) cut() error {
	if t.disks != nil {
		if err := t.each(func(i int) error { return t.nodes[i].node.Freeze() }); err != nil {
			return err
		}
		for _, d := range t.disks {
			if err := d.cut(); err != nil {
				return err
			}
		}
	}
	for i := range t.nodes {
		t.kill(i)
	}
	return nil
}

func (t *coldTest) remount() error {
	for _, d := range t.disks {
		if err := d.remount(); err != nil {
			return err
		}
	}
	return nil
}

func (t *coldTest) figures() []figure {
	how := "ext4 in files, shut down without a flush of the journal"
	if t.disks == nil {
		how = "NO POWER CUT, which needs root: processes killed"
	}
	return []figure{
		{Name: "every shard takes mail, longest", Value: percentile(t.ready, 1), Unit: "s", Goal: 30, Most: true, Note: fmt.Sprintf("%d times; %s", len(t.ready), how)},
		{Name: "every shard takes mail, median", Value: middle(t.ready), Unit: "s", Note: spread(t.ready)},
		{Name: "the first takes mail, median", Value: middle(t.first), Unit: "s"},
	}
}

// A looped is an ext4 file system in a file.
type looped struct{ image, dir string }

// Numbers of linux/fs.h and xfs_fs.h, which ext4 shares; and the size, of which
// only what is written takes room.
const (
	fsIOCShutdown   = 0x8004587d
	shutdownNoFlush = 2
	loopedSize      = 4 << 30
)

// newLooped makes and mounts one below base. It must be released.
func newLooped(base string) (*looped, error) {
	d := &looped{image: base + ".image", dir: base}
	f, err := os.Create(d.image)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(f.Truncate(loopedSize), f.Close(), os.Mkdir(d.dir, 0o700), run("mkfs.ext4", "-q", "-F", d.image), d.mount()); err != nil {
		return nil, err
	}
	return d, nil
}

func run(name string, args ...string) error {
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}

func (d *looped) mount() error { return run("mount", "-o", "loop", d.image, d.dir) }

// data is a folder on it.
func (d *looped) data() string { return filepath.Join(d.dir, "data") }

// cut has the kernel forget what was not synced. A process that still writes there
// must not be believed any more.
func (d *looped) cut() error {
	f, err := os.Open(d.dir)
	if err != nil {
		return err
	}
	defer f.Close()
	how := uint32(shutdownNoFlush)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), fsIOCShutdown, uintptr(unsafe.Pointer(&how))); errno != 0 {
		return fmt.Errorf("FS_IOC_SHUTDOWN: %w", errno)
	}
	return nil
}

func (d *looped) remount() error { return errors.Join(run("umount", d.dir), d.mount()) }

func (d *looped) release() { _ = run("umount", "-l", d.dir) }
