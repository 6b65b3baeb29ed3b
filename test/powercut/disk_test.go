// Package powercut pulls the plug of a node under load, or fills its disk, and
// checks that what it acknowledged is there afterwards, once and byte for byte,
// under the same UIDs.
//
// The data folder lies on an ext4 file system in a file. FS_IOC_SHUTDOWN without
// a log flush makes the kernel forget what was not synced, as a power cut does;
// then the process is killed, the file system mounted again, and the node
// started. It is run by `make powercut` and needs root; without
// COVEY_POWERCUT_ROUNDS in the environment its tests skip.
package powercut

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/covey-mail/covey/test/process"
)

// Numbers of linux/fs.h and xfs_fs.h, which ext4 shares.
const (
	fsIOCShutdown   = 0x8004587d
	shutdownNoFlush = 2
)

// disk is a file system of its own that can lose power.
type disk struct {
	image, dir string
}

func newDisk(t *testing.T, bytes int64) *disk {
	t.Helper()
	base := t.TempDir()
	d := &disk{image: filepath.Join(base, "image"), dir: filepath.Join(base, "mnt")}
	f, err := os.Create(d.image)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(bytes); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(d.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("mkfs.ext4", "-q", "-F", d.image).CombinedOutput(); err != nil {
		t.Fatalf("mkfs.ext4: %v\n%s", err, out)
	}
	d.mount(t)
	t.Cleanup(func() { _ = exec.Command("umount", "-l", d.dir).Run() })
	return d
}

func (d *disk) mount(t *testing.T) {
	t.Helper()
	if out, err := exec.Command("mount", "-o", "loop", d.image, d.dir).CombinedOutput(); err != nil {
		t.Fatalf("mount: %v\n%s", err, out)
	}
}

// cutUnder takes the power away from a node and its disk at once. The processor
// goes first: an fdatasync that is under way while the ioctl shuts the journal
// down can return success for what is lost (seen with ext4, for some milliseconds),
// and a machine without power sends no reply.
func (d *disk) cutUnder(node *process.Node) error {
	if err := node.Freeze(); err != nil {
		return err
	}
	return d.cut()
}

// cut takes the power away from the disk: nothing that was not synced will be
// there again. A node that still runs must not be believed any more.
func (d *disk) cut() error {
	f, err := os.Open(d.dir)
	if err != nil {
		return err
	}
	defer f.Close()
	how := uint32(shutdownNoFlush)
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), fsIOCShutdown, uintptr(unsafe.Pointer(&how)))
	if errno != 0 {
		return fmt.Errorf("FS_IOC_SHUTDOWN: %w", errno)
	}
	return nil
}

// remount brings the file system back after cut; no process may use it.
func (d *disk) remount(t *testing.T) {
	t.Helper()
	if out, err := exec.Command("umount", d.dir).CombinedOutput(); err != nil {
		t.Fatalf("umount: %v\n%s", err, out)
	}
	d.mount(t)
}
