package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/covey-mail/covey/node/admin"
	"github.com/covey-mail/covey/test/process"
)

// Ports of every node.
const (
	smtpPort   = "25"
	lmtpPort   = "24"
	imapsPort  = "993"
	pop3sPort  = "995"
	peerPort   = "7947"
	gossipPort = "7946"
)

// A host is one machine: a network namespace, a disk, and at most one process.
type host struct {
	name, ip   string // n1, 10.77.0.1
	image, mnt string
	data       string
	logName    string

	bin  string
	args []string // of covey serve, beside the data folder
	env  []string

	files int // most that the process may open; 0: as many as this one

	mu   sync.Mutex // guards proc
	proc *proc

	crashed atomic.Int32 // times the process ended by itself
}

// proc is one life of the host's process.
type proc struct {
	cmd   *exec.Cmd
	meant atomic.Bool   // the harness ends it
	done  chan struct{} // closed when it has been waited for
	ready chan struct{} // closed when it said that it is ready
}

// newHost makes host number i with its network and disk.
func newHost(o options, i int) (*host, error) {
	name := fmt.Sprintf("n%d", i)
	h := &host{
		name: name, ip: fmt.Sprintf("%s%d", subnet, i), bin: o.bin,
		image: filepath.Join(o.dir, name+".image"), mnt: filepath.Join(o.dir, name),
		logName: filepath.Join(o.dir, name+".log"),
	}
	h.data = filepath.Join(h.mnt, "data")
	if err := h.layCable(); err != nil {
		return nil, err
	}
	return h, h.format()
}

// start starts the process; it may not be ready for long.
func (h *host) start() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.proc != nil {
		return fmt.Errorf("%s runs already", h.name)
	}
	log, err := os.OpenFile(h.logName, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close() // the process has its own
	args := []string{"--net=/run/netns/" + h.name}
	if h.files > 0 {
		args = append(args, "prlimit", fmt.Sprintf("--nofile=%d", h.files))
	}
	args = append(append(args, h.bin, "serve", "--data", h.data), h.args...)
	p := &proc{cmd: exec.Command("nsenter", args...), done: make(chan struct{}), ready: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), h.env...)
	p.cmd.Stderr = log
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := p.cmd.Start(); err != nil {
		return err
	}
	fmt.Fprintf(log, "time=%s chaos: started\n", time.Now().Format(stamp))
	h.proc = p
	go func() { // ends with the process, for which kill and stop wait
		defer close(p.done)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			if lines.Text() == "ready" {
				close(p.ready)
			}
		}
		_ = p.cmd.Wait() // how it ended is in its log
		if !p.meant.Load() {
			h.crashed.Add(1)
		}
	}()
	return nil
}

func (h *host) current() *proc {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.proc
}

func (h *host) pid() int {
	if p := h.current(); p != nil {
		return p.cmd.Process.Pid
	}
	return 0
}

// running reports whether the process is there, frozen or not.
func (h *host) running() bool {
	p := h.current()
	if p == nil {
		return false
	}
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// end waits for the process, after something that ends it.
func (h *host) end(p *proc) {
	<-p.done
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.proc == p {
		h.proc = nil
	}
}

// kill ends the process at once; the disk keeps what the kernel has.
func (h *host) kill() {
	if p := h.current(); p != nil {
		p.meant.Store(true)
		_ = p.cmd.Process.Kill() // it may be gone already
		h.end(p)
	}
}

// stop ends the process with SIGTERM, as an operator does.
func (h *host) stop(within time.Duration) error {
	p := h.current()
	if p == nil {
		return nil
	}
	p.meant.Store(true)
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
		h.end(p)
		if !p.cmd.ProcessState.Success() {
			return fmt.Errorf("%s ended with %v after SIGTERM", h.name, p.cmd.ProcessState)
		}
		return nil
	case <-time.After(within):
		h.kill()
		return fmt.Errorf("%s was not through %v after SIGTERM", h.name, within)
	}
}

// freeze and thaw take the processor away and give it back.
func (h *host) freeze() error { return syscall.Kill(h.pid(), syscall.SIGSTOP) }
func (h *host) thaw() error   { return syscall.Kill(h.pid(), syscall.SIGCONT) }

// cutPower takes the power away from the machine: first the processor, for a
// process that still runs while the journal is shut down can be told of a
// success that is none; then the cable, so that peers see silence and no reset;
// then what the disk had not synced.
func (h *host) cutPower() error {
	p := h.current()
	if p != nil {
		p.meant.Store(true)
		if err := process.Freeze(p.cmd.Process); err != nil && h.running() {
			return err
		}
	}
	if err := errors.Join(h.unplug(), h.cutDisk()); err != nil {
		return err
	}
	h.kill()
	return h.umount()
}

// restorePower starts the machine again.
func (h *host) restorePower() error {
	return errors.Join(h.mount(), h.plug(), h.start())
}

// logf writes a line of the harness into the host's log.
func (h *host) logf(format string, args ...any) {
	log, err := os.OpenFile(h.logName, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return // the line is a help only
	}
	defer log.Close()
	fmt.Fprintf(log, "time=%s chaos: %s\n", time.Now().Format(stamp), fmt.Sprintf(format, args...))
}

// call asks the node's admin socket; a node that stands still does not answer.
func call[Resp any](h *host, op string, req any) (resp Resp, err error) {
	return callWithin[Resp](5*time.Second, h, op, req)
}

func callWithin[Resp any](limit time.Duration, h *host, op string, req any) (resp Resp, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	c := admin.NewClient(h.data)
	defer c.Close()
	return admin.Call[Resp](ctx, c, op, req)
}

// covey runs a subcommand against the node.
func (h *host) covey(ctx context.Context, stdin string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, h.bin, append(args, "--data", h.data)...)
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("covey %s on %s: %w: %s", strings.Join(args, " "), h.name, err, out)
	}
	return string(out), err
}

// stamp is how times are written, as the nodes' logs have them.
const stamp = "2006-01-02T15:04:05.000Z07:00"

// lastWords is the end of the host's log.
func (h *host) lastWords() string {
	b, err := os.ReadFile(h.logName)
	if err != nil {
		return err.Error()
	}
	const most = 1500
	return string(b[max(0, len(b)-most):])
}
