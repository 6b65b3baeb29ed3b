package bench

import (
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/covey-mail/covey"
)

// usage is what a process and all its children have used so far.
type usage struct {
	cpu      time.Duration // user and system
	written  int64         // write_bytes of /proc/PID/io; -1: may not be read
	resident int64         // bytes of memory, now
}

// tick is what /proc counts CPU time in: USER_HZ, 100 on every Linux.
const tick = 10 * time.Millisecond

func procFS() fs.FS { return os.DirFS("/proc") }

// readUsage adds up the process and its descendants. Children that have ended
// are in their parent's figures once it has waited for them.
func readUsage(proc fs.FS, pid int) (usage, error) {
	all, err := readStats(proc)
	if err != nil {
		return usage{}, err
	}
	if _, ok := all[pid]; !ok {
		return usage{}, covey.Errorf(covey.NotFound, "there is no process %d to account for", pid)
	}
	var sum usage
	for p, st := range all {
		if !descends(all, p, pid) {
			continue
		}
		sum.cpu += st.cpu
		sum.resident += st.resident
		if n := readWritten(proc, p); n < 0 || sum.written < 0 {
			sum.written = -1
		} else {
			sum.written += n
		}
	}
	return sum, nil
}

// descends reports whether p is root or comes from it. A depth no real tree has
// guards against a table that changed while it was read.
func descends(all map[int]procStat, p, root int) bool {
	for range 64 {
		if p == root {
			return true
		}
		st, ok := all[p]
		if !ok {
			return false
		}
		p = st.parent
	}
	return false
}

type procStat struct {
	parent   int
	cpu      time.Duration // with that of children waited for
	resident int64
}

func readStats(proc fs.FS) (map[int]procStat, error) {
	entries, err := fs.ReadDir(proc, ".")
	if err != nil {
		return nil, fmt.Errorf("read /proc: %w", err)
	}
	all := make(map[int]procStat)
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		text, err := fs.ReadFile(proc, e.Name()+"/stat")
		if err != nil {
			continue // it has ended
		}
		if st, ok := parseStat(string(text)); ok {
			all[pid] = st
		}
	}
	return all, nil
}

// parseStat reads proc_pid_stat(5). The name in parentheses may hold anything.
func parseStat(text string) (procStat, bool) {
	f := strings.Fields(text[strings.LastIndexByte(text, ')')+1:])
	if len(f) < 22 {
		return procStat{}, false
	}
	// f[0] is the third field of the manual page.
	number := func(field int) int64 {
		n, _ := strconv.ParseInt(f[field-3], 10, 64) // the kernel wrote it
		return n
	}
	ticks := number(14) + number(15) + number(16) + number(17)
	return procStat{
		parent: int(number(4)), cpu: time.Duration(ticks) * tick, resident: number(24) * int64(os.Getpagesize()),
	}, true
}

func readWritten(proc fs.FS, pid int) int64 {
	text, err := fs.ReadFile(proc, strconv.Itoa(pid)+"/io")
	if err != nil {
		return -1
	}
	for line := range strings.Lines(string(text)) {
		if v, ok := strings.CutPrefix(line, "write_bytes: "); ok {
			n, err := strconv.ParseInt(strings.TrimSpace(v), 10, 64)
			if err == nil {
				return n
			}
		}
	}
	return -1
}
