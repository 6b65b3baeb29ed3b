package main

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// Cgroups of version 1, one for each host and controller, made when first used.
const (
	cgroups      = "/sys/fs/cgroup"
	cgroupPrefix = "covey-chaos-"
)

// hasController reports whether a controller of version 1 is there.
func hasController(name, file string) bool {
	_, err := os.Stat(filepath.Join(cgroups, name, file))
	return err == nil || name == "blkio" && controllerMadeBelow(name, file)
}

// controllerMadeBelow looks in a new group, for the root lacks some files.
func controllerMadeBelow(name, file string) bool {
	dir := filepath.Join(cgroups, name, cgroupPrefix+"probe")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return false
	}
	defer os.Remove(dir)
	_, err := os.Stat(filepath.Join(dir, file))
	return err == nil
}

// confine puts the host's process into a group and sets a value there.
func (h *host) confine(controller, file, value string) error {
	dir := filepath.Join(cgroups, controller, cgroupPrefix+filepath.Base(filepath.Dir(h.mnt))+"-"+h.name)
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, file), []byte(value), 0); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(h.pid())), 0)
}

// removeCgroups removes the groups of this and of broken runs. Those of another run
// that goes on have processes in them, or are made again.
func removeCgroups(mine string) {
	for _, c := range []string{"cpu", "blkio"} {
		dirs, _ := filepath.Glob(filepath.Join(cgroups, c, cgroupPrefix+"*"))
		for _, d := range dirs {
			for range 20 { // processes that were killed leave in their own time
				if os.Remove(d) == nil || !strings.Contains(d, mine) {
					break
				}
				<-time.After(50 * time.Millisecond)
			}
		}
	}
}
