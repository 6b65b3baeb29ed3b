// Package process runs the real binary for tests: it builds it once, starts
// nodes with a data folder and ports of their own on loopback, and runs
// subcommands against them.
package process

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/covey-mail/covey/internal/mutant"
)

// startTimeout bounds how long a node may take to say that it is ready; CI
// machines are slow and shared.
const startTimeout = 60 * time.Second

// Build compiles cmd/covey into dir and returns the binary's path.
func Build(dir string) (string, error) { return build(dir) }

// BuildMutant compiles cmd/covey with a planted bug.
func BuildMutant(dir string, bug mutant.Bug) (string, error) {
	return build(dir, "-tags", "mutant", "-ldflags", "-X github.com/covey-mail/covey/internal/mutant.planted="+string(bug))
}

func build(dir string, flags ...string) (string, error) {
	bin := filepath.Join(dir, "covey")
	cmd := exec.Command("go", append(append([]string{"build"}, flags...), "-o", bin, "github.com/covey-mail/covey/cmd/covey")...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build covey: %w\n%s", err, out)
	}
	return bin, nil
}

// A Node is a running `covey serve`.
type Node struct {
	Data string

	bin   string
	cmd   *exec.Cmd
	addrs map[string][]string
	done  chan struct{} // closed when the process has been waited for
	err   error         // of Wait; read after done
	log   tail
}

// Services are the listeners that a test node has, each on a free port.
var services = []string{"smtp", "submission", "submissions", "lmtp", "imap", "imaps", "pop3", "pop3s", "metrics"}

// Start starts a node on the data folder and waits until it is ready. env are
// further COVEY_… settings as NAME=value. The node is killed when the test ends.
func Start(t testing.TB, bin, data string, env ...string) *Node {
	t.Helper()
	n, err := Launch(bin, data, env...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		n.Kill()
		if t.Failed() {
			t.Logf("log of the node:\n%s", n.Log())
		}
	})
	return n
}

// Launch is Start for callers without a test. The node must be killed or stopped.
func Launch(bin, data string, env ...string) (*Node, error) {
	n := &Node{Data: data, bin: bin, addrs: make(map[string][]string), done: make(chan struct{}), log: tail{most: maxLog / tailPiece}}
	n.cmd = exec.Command(bin, "serve", "--data", data)
	n.cmd.Env = os.Environ()
	for _, s := range services {
		addr := "127.0.0.1:0"
		if s == "lmtp" {
			addr += ",unix:" + filepath.Join(data, "lmtp.sock")
		}
		n.cmd.Env = append(n.cmd.Env, "COVEY_LISTEN_"+strings.ToUpper(s)+"="+addr)
	}
	n.cmd.Env = append(n.cmd.Env, "COVEY_NODE_HOSTNAME=mail.example.org",
		"COVEY_LISTEN_PEER=127.0.0.1:0", "COVEY_LISTEN_GOSSIP=127.0.0.1:0")
	n.cmd.Env = append(n.cmd.Env, env...)
	n.cmd.Stderr = &n.log
	out, err := n.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := n.cmd.Start(); err != nil {
		return nil, err
	}
	ready := make(chan bool, 1)
	go n.watch(out, ready)
	select {
	case ok := <-ready:
		if ok {
			return n, nil
		}
		<-n.done
		return nil, fmt.Errorf("covey serve ended before it was ready: %v\n%s", n.err, n.Log())
	case <-time.After(startTimeout):
		n.Kill()
		return nil, fmt.Errorf("covey serve was not ready after %v\n%s", startTimeout, n.Log())
	}
}

// watch reads standard output to its end and then waits for the process.
func (n *Node) watch(out io.Reader, ready chan<- bool) {
	defer close(n.done)
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		f := strings.Fields(lines.Text())
		switch {
		case len(f) == 3 && f[0] == "listening":
			n.addrs[f[1]] = append(n.addrs[f[1]], f[2])
		case len(f) == 1 && f[0] == "ready":
			ready <- true
		}
	}
	n.err = n.cmd.Wait()
	select {
	case ready <- false:
	default:
	}
}

// maxLog bounds what is kept of a log: under load a node writes a line for each
// message.
const maxLog = 32 << 20

// Log returns what the node has logged, of a long log the end.
func (n *Node) Log() string { return n.log.String() }

// Addr returns the first TCP address of a service.
func (n *Node) Addr(service string) string {
	if a := n.addrs[service]; len(a) > 0 {
		return a[0]
	}
	return ""
}

// PID returns the process id.
func (n *Node) PID() int { return n.cmd.Process.Pid }

// State says how the process ended; nil as long as it runs.
func (n *Node) State() *os.ProcessState {
	select {
	case <-n.done:
		return n.cmd.ProcessState
	default:
		return nil
	}
}

// Exited is closed when the process has ended.
func (n *Node) Exited() <-chan struct{} { return n.done }

// Kill ends the process at once, as a crash of the program would, and waits.
func (n *Node) Kill() {
	_ = n.cmd.Process.Kill()
	<-n.done
}

// Freeze takes the processor away from the process (SIGSTOP) and returns when none
// of its threads runs: what is in a system call ends there. Only Kill follows.
func (n *Node) Freeze() error { return Freeze(n.cmd.Process) }

// Freeze is Node.Freeze for any process.
func Freeze(p *os.Process) error { return freeze(p, "TtDZX") }

// FreezeIdle is Freeze that also waits until no thread is in a system call. Where the
// process goes on after its disk was shut down, it must: an fdatasync that is under way
// then may return success for what is lost.
func FreezeIdle(p *os.Process) error { return freeze(p, "TtZX") }

// freeze waits until every thread is in one of the states (proc(5)).
func freeze(p *os.Process, states string) error {
	if err := p.Signal(syscall.SIGSTOP); err != nil {
		return err
	}
	for end := time.Now().Add(startTimeout); time.Now().Before(end); {
		if frozen(p.Pid, states) {
			return nil
		}
		<-time.After(time.Millisecond)
	}
	return fmt.Errorf("process %d still runs %v after SIGSTOP", p.Pid, startTimeout)
}

// frozen reports whether every thread is in one of the states: stopped, gone, or in a
// wait in the kernel (D) that it comes out of stopped.
func frozen(pid int, states string) bool {
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
	if err != nil {
		return false
	}
	for _, name := range tasks {
		stat, err := os.ReadFile(name)
		if err != nil {
			continue // the thread has ended
		}
		_, rest, _ := strings.Cut(string(stat), ") ")
		if rest != "" && !strings.ContainsRune(states, rune(rest[0])) {
			return false
		}
	}
	return true
}

// Stop ends the process with SIGTERM and returns its error.
func (n *Node) Stop() error {
	if err := n.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	<-n.done
	return n.err
}

// Covey runs a subcommand against the node, with stdin as its standard input, and
// returns its standard output.
func (n *Node) Covey(ctx context.Context, stdin string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, n.bin, append(args, "--data", n.Data)...)
	cmd.Stdin = strings.NewReader(stdin)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("covey %s: %w: %s", strings.Join(args, " "), err, errs.String())
	}
	return out.String(), nil
}

// AddUsers makes a domain and accounts in it; each has its name as password.
func (n *Node) AddUsers(ctx context.Context, domain string, names ...string) error {
	if _, err := n.Covey(ctx, "", "domain", "add", domain); err != nil {
		return err
	}
	for _, name := range names {
		if _, err := n.Covey(ctx, name+"\n", "user", "add", name+"@"+domain); err != nil {
			return err
		}
	}
	return nil
}
