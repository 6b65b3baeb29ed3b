//go:build unix

package durable

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// Free returns how many bytes a process without privileges can still write to
// the file system that path is on.
func Free(path string) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return 0, fmt.Errorf("free space at %s: %w", path, err)
	}
	return int64(st.Bavail) * int64(st.Bsize), nil
}
