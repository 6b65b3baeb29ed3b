package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// syncedWrites appends 8 KiB to a file and syncs it, n times, and returns how many
// milliseconds each took.
func syncedWrites(dir string, n int) (took []float64, err error) {
	err = appending(dir, func(write func() (float64, error)) error {
		for range n {
			ms, err := write()
			if err != nil {
				return err
			}
			took = append(took, ms)
		}
		return nil
	})
	return took, err
}

// watchDisk appends and syncs 8 KiB five times a second until ctx ends, and
// returns the longest that it took, in seconds: what else uses the disk shows in it.
func watchDisk(ctx context.Context, dir string) (longest float64, err error) {
	err = appending(dir, func(write func() (float64, error)) error {
		for {
			ms, err := write()
			if err != nil {
				return err
			}
			longest = max(longest, ms/1000)
			if pause(ctx, 200*time.Millisecond) != nil {
				return nil
			}
		}
	})
	return longest, err
}

// appending gives a function a file to which it can append 8 KiB at a time; each
// is on the disk when write returns the milliseconds that it took.
func appending(dir string, do func(write func() (ms float64, err error)) error) (err error) {
	f, err := os.Create(filepath.Join(dir, "appended"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close(), os.Remove(f.Name())) }()
	block := make([]byte, messageSize)
	n := 0
	return do(func() (float64, error) {
		block[n%len(block)]++ // no two are the same
		began := time.Now()
		if _, err := f.WriteAt(block, int64(n)*messageSize); err != nil {
			return 0, err
		}
		if err := unix.Fdatasync(int(f.Fd())); err != nil {
			return 0, err
		}
		n++
		return float64(time.Since(began)) / float64(time.Millisecond), nil
	})
}
