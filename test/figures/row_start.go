package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

var startRow = row{
	name: "start",
	what: "time and memory until a node with 1,000,000 messages of 50,000 accounts is ready",
	run:  runStart,
}

// A starting is how a node came up.
type starting struct {
	seconds  float64
	resident float64 // MiB when ready
	peak     float64 // MiB until then
}

func runStart(ctx context.Context, l *lab) ([]figure, error) {
	store, err := l.fill(ctx)
	if err != nil {
		return nil, err
	}
	var clean []starting
	for range l.roundsOf(3) {
		s, at, err := l.startTimed(store)
		if err != nil {
			return nil, err
		}
		clean = append(clean, at)
		if err := s.node.Stop(); err != nil {
			return nil, fmt.Errorf("stop the node: %w", err)
		}
	}
	cold, err := l.startCold(store)
	if err != nil {
		return nil, err
	}
	crashed, err := l.startCrashed(ctx, store)
	if err != nil {
		return nil, err
	}
	return startFigures(store, clean, cold, crashed), nil
}

func startFigures(store *filledStore, clean []starting, cold, crashed starting) []figure {
	var seconds, resident, peak []float64
	for _, s := range clean {
		seconds, resident, peak = append(seconds, s.seconds), append(resident, s.resident), append(peak, s.peak)
	}
	what := fmt.Sprintf("%d messages of %d accounts", store.Messages, store.Accounts)
	killed := "killed in the middle of intake"
	return []figure{
		{Name: "start after a clean stop", Value: middle(seconds), Unit: "s", Goal: 10, Most: true, Note: fmt.Sprintf("%s; median of %d", what, len(clean))},
		{Name: "resident when ready", Value: slices.Max(resident), Unit: "MiB", Goal: 300, Most: true, Note: "the most of all starts"},
		{Name: "resident at the peak", Value: slices.Max(peak), Unit: "MiB", Goal: 300, Most: true, Note: "VmHWM, until it is ready"},
		{Name: "start, nothing in the page cache", Value: cold.seconds, Unit: "s"},
		{Name: "start after a crash", Value: crashed.seconds, Unit: "s", Note: killed},
		{Name: "resident when ready, after a crash", Value: crashed.resident, Unit: "MiB", Note: killed},
	}
}

// startTimed starts the node of a store, counting from before there is a process.
func (l *lab) startTimed(store *filledStore) (*server, starting, error) {
	began := time.Now()
	s, err := l.start(store.data())
	if err != nil {
		return nil, starting{}, err
	}
	at := starting{seconds: time.Since(began).Seconds()}
	at.resident, at.peak, err = memoryOf(s.pid)
	return s, at, err
}

// startCold starts it with nothing of its data in the page cache.
func (l *lab) startCold(store *filledStore) (starting, error) {
	if err := dropCache(store.data()); err != nil {
		return starting{}, err
	}
	s, at, err := l.startTimed(store)
	if err == nil {
		err = s.node.Stop()
	}
	return at, err
}

// startCrashed starts it after it was killed while it took mail.
func (l *lab) startCrashed(ctx context.Context, store *filledStore) (starting, error) {
	s, err := l.start(store.data())
	if err != nil {
		return starting{}, err
	}
	cfg := l.intake(s, store.Accounts)
	cfg.Duration = l.lasting(10*time.Second, time.Second)
	res, err := l.load(ctx, cfg)
	if err != nil {
		return starting{}, err
	}
	s.node.Kill()
	if err := store.add(res.Done); err != nil {
		return starting{}, err
	}
	s, at, err := l.startTimed(store)
	if err == nil {
		err = s.node.Stop()
	}
	return at, err
}

// memoryOf returns what is resident of a process and what was at most, in MiB.
func memoryOf(pid int) (resident, peak float64, err error) {
	// The peak last, so that it is not less.
	for _, read := range []struct {
		field string
		to    *float64
	}{{"VmRSS", &resident}, {"VmHWM", &peak}} {
		text, _, _ := strings.Cut(procField(fmt.Sprintf("/proc/%d/status", pid), read.field, ""), " ")
		kib, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return 0, 0, fmt.Errorf("memory of process %d: %s is %q", pid, read.field, text)
		}
		*read.to = float64(kib) / 1024
	}
	return resident, peak, nil
}

// dropCache has the kernel forget the files below dir, which are on the disk.
func dropCache(dir string) error {
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		return errors.Join(f.Sync(), unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED), f.Close())
	})
}
