package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync/atomic"
	"time"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/internal/durable"
)

// diskEvery is how often the free space is looked at. What is taken in between
// two looks must fit into the reserve.
const diskEvery = 250 * time.Millisecond

// disk watches the free space of the data folder. Below the reserve the node
// takes no new data; reading, deleting and compaction go on in what is left, and
// when other programs take even that, the reserve file is given up for them. What a
// start needs lies in a file of its own, for other programs may take the reserve
// as soon as it is given up.
type disk struct {
	dir     string
	space   func(dir string) (int64, error) // durable.Free
	keep    int64                           // bytes that intake leaves free
	reserve *durable.Reserve
	start   *durable.Reserve // given up by a start that finds no reserve, never by a node that runs
	log     *slog.Logger
	full    atomic.Bool
	free    atomic.Int64
}

// openDisk takes the reserve. On a disk that is full already it is left for
// later: the node starts, takes nothing in, and lets mail be deleted.
func openDisk(f *folder, space func(string) (int64, error), keep int64, log *slog.Logger) (*disk, error) {
	d := &disk{dir: f.dir, space: space, keep: keep, log: log.With("component", "disk")}
	d.reserve = durable.NewReserve(f.fs, f.path("reserve"), keep)
	d.start = durable.NewReserve(f.fs, f.path("reserve.start"), keep/16)
	if err := d.hold(f); err != nil {
		return nil, fmt.Errorf("take disk reserve: %w", err)
	}
	found := d.reserve.Held()
	if err := d.look(); err != nil {
		return nil, err
	}
	if d.full.Load() && !found {
		if err := d.start.Release(); err != nil {
			return nil, err
		}
	}
	return d, nil
}

// hold takes the reserve if it is there, or if there is room for it: to try without
// would take the last of what the start has.
func (d *disk) hold(f *folder) error {
	free, err := d.space(d.dir)
	if err != nil {
		return fmt.Errorf("read free space of %s: %w", d.dir, err)
	}
	if _, err := f.fs.Stat(f.path("reserve")); errors.Is(err, os.ErrNotExist) && free < d.keep {
		return nil
	}
	if err := d.reserve.Hold(); !errors.Is(err, covey.DiskFull) {
		return err
	}
	return nil
}

// look reads the free space and decides.
func (d *disk) look() error {
	free, err := d.space(d.dir)
	if err != nil {
		return fmt.Errorf("read free space of %s: %w", d.dir, err)
	}
	d.free.Store(free)
	d.decide(free)
	return nil
}

// decide keeps two thresholds apart, so that a disk at the edge does not flap:
// intake stops when less than a sixteenth of the reserve is free beside the
// reserve, and begins again when an eighth is.
func (d *disk) decide(free int64) {
	stop, resume := d.keep/16, d.keep/8
	if !d.reserve.Held() {
		// The room that the reserve will take again does not count.
		stop, resume = stop+d.keep, resume+d.keep
	}
	switch full := d.full.Load(); {
	case !full && free < stop:
		d.full.Store(true)
		d.log.Error("disk is full: no new mail is taken; free space, or delete mail", "free", free, "dir", d.dir)
	case full && free >= resume:
		if err := d.reserve.Hold(); err != nil {
			return // less room than it looked; the next look decides again
		}
		d.full.Store(false)
		d.log.Info("disk has room again: mail is taken", "free", free)
	}
	if d.full.Load() && d.reserve.Held() {
		// Deleting needs room, for the log and the databases.
		if err := d.reserve.Release(); err != nil {
			d.log.Error("disk reserve cannot be released", "err", err)
		}
	}
	if !d.full.Load() && free >= resume && !d.start.Held() {
		_ = d.start.Hold() // no room: the next look tries again
	}
}

// watch looks until ctx ends.
func (d *disk) watch(ctx context.Context) {
	tick := time.NewTicker(diskEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if err := d.look(); err != nil {
				d.log.Error("free space cannot be read", "err", err)
			}
		}
	}
}

// room returns covey.DiskFull while no new data may be stored.
func (d *disk) room() error {
	if d.full.Load() {
		return covey.Errorf(covey.DiskFull, "disk of %s is full", d.dir)
	}
	return nil
}
