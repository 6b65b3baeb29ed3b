package main

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/covey-mail/covey/bench"
)

var writtenRow = row{
	name: "written",
	what: "bytes written to disk per 8 KiB message, 50,000 accounts, 64 connections, final checkpoint included; Dovecot's beside it",
	run:  runWritten,
}

func runWritten(ctx context.Context, l *lab) ([]figure, error) {
	accounts := makeAccounts("user", l.count(50_000, 100))
	covey, err := l.covey(ctx, accounts)
	if err != nil {
		return nil, err
	}
	own, err := l.writing(ctx, covey, bench.SMTP, len(accounts))
	if err != nil {
		return nil, err
	}
	list := own.figures("Covey")
	list[0].Goal, list[0].Most = 2, true
	dovecot, err := l.dovecot(ctx, accounts)
	if err != nil {
		l.say("left out: %v", err)
		return list, nil
	}
	theirs, err := l.writing(ctx, dovecot, bench.LMTP, len(accounts))
	beside := theirs.figures("Dovecot")
	beside[0].Note += "; a first message makes its mailbox, and most are: peers shows what others cost"
	return append(list, beside...), err
}

// writes is what a server wrote for a load, as multiples of the messages' size.
type writes struct {
	messages int64
	life     float64 // by the process until it has ended
	load     float64 // by the process until the load had ended
	disk     float64 // by all on the disk; negative: not known
}

func (w writes) figures(name string) []figure {
	list := []figure{
		{Name: name + ": written over size", Value: w.life, Note: fmt.Sprintf("%d messages; write_bytes of the processes until they ended", w.messages)},
		{Name: name + ": before it was stopped", Value: w.load},
	}
	if w.disk >= 0 {
		list = append(list, figure{Name: name + ": the whole disk", Value: w.disk, Note: "the file system's journal included, and whoever else wrote"})
	}
	return list
}

// writing puts the load on the server, stops it and counts what it wrote.
func (l *lab) writing(ctx context.Context, s *server, p bench.Protocol, accounts int) (writes, error) {
	cfg := l.intake(s, accounts)
	cfg.Protocol, cfg.Addr, cfg.Duration = p, s.addr[string(p)], l.lasting(time.Minute, 2*time.Second)
	unix.Sync()
	disk := diskWrites(s.dir)
	before, err := writtenBy(s.pid)
	if err != nil {
		return writes{}, err
	}
	res, err := l.load(ctx, cfg)
	if err != nil {
		return writes{}, err
	}
	after, err := writtenBy(s.pid)
	if err != nil {
		return writes{}, err
	}
	s.stop()
	unix.Sync()
	size := float64(res.Done) * messageSize
	// A server of many processes may end before it has waited for all of them.
	life := max(writtenInLife(s.state()), after)
	w := writes{messages: res.Done, disk: -1, load: float64(after-before) / size, life: float64(life-before) / size}
	if end := diskWrites(s.dir); disk >= 0 && end >= 0 {
		w.disk = float64(end-disk) / size
	}
	return w, nil
}

// sector is what the kernel counts blocks in, whatever those of the disk are.
const sector = 512

// writtenInLife returns the bytes that a process that has ended and the children
// that it waited for caused to be written: write_bytes of proc_pid_io(5) at its
// end, which the kernel reports in blocks.
func writtenInLife(state *os.ProcessState) int64 {
	return state.SysUsage().(*syscall.Rusage).Oublock * sector
}

// writtenBy returns write_bytes of a process and those that come from it.
// Children that it has waited for are in its own.
func writtenBy(pid int) (int64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/io", pid))
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(text), "\nwrite_bytes: ")
	number, _, _ := strings.Cut(rest, "\n")
	sum, err := strconv.ParseInt(number, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("write_bytes of process %d: %w", pid, err)
	}
	children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	if err != nil {
		return 0, err
	}
	for _, child := range strings.Fields(string(children)) {
		p, err := strconv.Atoi(child)
		if err != nil {
			return 0, fmt.Errorf("children of process %d: %w", pid, err)
		}
		if n, err := writtenBy(p); err == nil { // else it has just ended
			sum += n
		}
	}
	return sum, nil
}

// diskWrites returns the bytes that have ever been written to the disk of dir, or
// -1 if it has none that the kernel counts for.
func diskWrites(dir string) int64 {
	var st syscall.Stat_t
	if syscall.Stat(dir, &st) != nil {
		return -1
	}
	text, err := os.ReadFile(fmt.Sprintf("/sys/dev/block/%d:%d/stat", unix.Major(st.Dev), unix.Minor(st.Dev)))
	if err != nil {
		return -1
	}
	f := strings.Fields(string(text)) // the kernel's Documentation/block/stat.rst
	if len(f) < 7 {
		return -1
	}
	sectors, err := strconv.ParseInt(f[6], 10, 64)
	if err != nil {
		return -1
	}
	return sectors * sector
}
