package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Numbers of linux/fs.h and xfs_fs.h, which ext4 shares.
const (
	fsIOCShutdown   = 0x8004587d
	shutdownNoFlush = 2
	fsIOCFreeze     = 0xc0045877
	fsIOCThaw       = 0xc0045878
)

// diskSize bounds what a node may hold.
const diskSize = 1 << 30

// format makes the host's disk anew and mounts it; nothing may use the old one.
func (h *host) format() error {
	f, err := os.Create(h.image)
	if err != nil {
		return err
	}
	if err := errors.Join(f.Truncate(diskSize), f.Close()); err != nil {
		return err
	}
	if err := os.MkdirAll(h.mnt, 0o700); err != nil {
		return err
	}
	if err := sh("mkfs.ext4 -q -F -E lazy_itable_init=1,lazy_journal_init=1,nodiscard " + h.image); err != nil {
		return err
	}
	return h.mount()
}

func (h *host) mount() error { return sh("mount -o loop,noatime " + h.image + " " + h.mnt) }

func (h *host) umount() error {
	var err error
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); {
		if err = sh("umount " + h.mnt); err == nil {
			return nil
		}
		<-time.After(50 * time.Millisecond) // a dying process may hold it for a moment
	}
	return err
}

// ioctl applies an ioctl to the file system.
func (h *host) ioctl(request uintptr, arg uint32) error {
	f, err := os.Open(h.mnt)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), request, uintptr(unsafe.Pointer(&arg))); errno != 0 {
		return fmt.Errorf("ioctl %#x on %s: %w", request, h.mnt, errno)
	}
	return nil
}

// cutDisk makes the file system forget what was not synced; every write fails
// from now on.
func (h *host) cutDisk() error { return h.ioctl(fsIOCShutdown, shutdownNoFlush) }

// stallDisk holds every write until thawDisk.
func (h *host) stallDisk() error { return h.ioctl(fsIOCFreeze, 0) }
func (h *host) thawDisk() error  { return h.ioctl(fsIOCThaw, 0) }

// filler is the file that takes a disk's room; it lies beside the data folder.
func (h *host) filler() string { return filepath.Join(h.mnt, "filler") }

// fill takes all room of the disk but spare bytes.
func (h *host) fill(spare int64) error {
	f, err := os.OpenFile(h.filler(), os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		if errors.Is(err, unix.ENOSPC) {
			return nil
		}
		return err
	}
	defer f.Close()
	for {
		var st unix.Statfs_t
		if err := unix.Statfs(h.mnt, &st); err != nil {
			return err
		}
		room := int64(st.Bfree)*st.Bsize - spare //nolint:unconvert // Bsize differs between machines
		if room < st.Bsize {
			return nil
		}
		info, err := f.Stat()
		if err != nil {
			return err
		}
		for n := room; n >= st.Bsize; n /= 2 { // the file system needs blocks of its own
			err = unix.Fallocate(int(f.Fd()), 0, info.Size(), n)
			if !errors.Is(err, unix.ENOSPC) {
				break
			}
		}
		if errors.Is(err, unix.ENOSPC) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// free gives the room back.
func (h *host) free() error {
	if err := os.Remove(h.filler()); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// device is the loop device's number, as blkio wants it.
func (h *host) device() (string, error) {
	var st unix.Stat_t
	if err := unix.Stat(h.mnt, &st); err != nil {
		return "", err
	}
	return fmt.Sprintf("%d:%d", unix.Major(st.Dev), unix.Minor(st.Dev)), nil
}
