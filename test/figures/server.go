package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/covey-mail/covey/internal/timerslack"
	"github.com/covey-mail/covey/test/process"
)

// A server is one of those measured, running.
type server struct {
	name  string
	pid   int
	addr  map[string]string       // by protocol
	dir   string                  // of its data; empty: it keeps none
	node  *process.Node           // Covey's; nil for others
	stop  func()                  // waits until it has ended; again does nothing
	state func() *os.ProcessState // how it ended; for after stop
}

// startCovey starts a node on a data folder. All is as by default but what env says
// and the number of connections from one address.
func startCovey(bin, dir string, env ...string) (*server, error) {
	n, err := process.Launch(bin, dir, append([]string{"COVEY_LIMITS_PER_ADDRESS=4000"}, env...)...)
	if err != nil {
		return nil, err
	}
	stop := sync.OnceFunc(func() {
		if n.Stop() != nil {
			n.Kill()
		}
	})
	addr := make(map[string]string)
	for _, p := range []string{"smtp", "submission", "submissions", "lmtp", "pop3", "pop3s", "imap", "imaps", "metrics"} {
		addr[p] = n.Addr(p)
	}
	return &server{name: "covey", pid: n.PID(), addr: addr, dir: dir, node: n, stop: stop, state: n.State}, nil
}

// startTimeout bounds how long a server may take to listen.
const startTimeout = 20 * time.Second

// launch starts cmd and waits until it listens on all addresses.
func launch(ctx context.Context, name string, cmd *exec.Cmd, addr map[string]string) (*server, error) {
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	// Covey's own choice is not its peers'.
	if err := timerslack.Spare(cmd.Start); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	s := &server{name: name, pid: cmd.Process.Pid, addr: addr, state: func() *os.ProcessState { return cmd.ProcessState }}
	s.stop = sync.OnceFunc(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-ended:
		case <-time.After(startTimeout):
			_ = cmd.Process.Kill()
			<-ended
		}
	})
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for _, a := range addr {
		if err := listening(ctx, a, ended); err != nil {
			s.stop()
			return nil, fmt.Errorf("start %s: %w: %s", name, err, bytes.TrimSpace(output.Bytes()))
		}
	}
	return s, nil
}

// listening waits until addr takes a connection. An end of the process is put
// back for whoever waits for it.
func listening(ctx context.Context, addr string, ended chan error) error {
	for {
		c, err := net.Dial("tcp", addr)
		if err == nil {
			return c.Close()
		}
		select {
		case err := <-ended:
			ended <- err
			return fmt.Errorf("it ended (%v)", err)
		case <-ctx.Done():
			return fmt.Errorf("nothing listens on %s: %w", addr, ctx.Err())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// freeAddr returns a loopback address that nothing listens on.
func freeAddr() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

// startSMTPSink starts Postfix's smtp-sink, which takes mail and keeps none.
func startSMTPSink(ctx context.Context, prefix string) (*server, error) {
	bin, libs, err := findSMTPSink(ctx, prefix)
	if err != nil {
		return nil, err
	}
	addr, err := freeAddr()
	if err != nil {
		return nil, err
	}
	args := []string{addr, "1024"}
	if os.Geteuid() == 0 {
		args = append([]string{"-u", "nobody"}, args...)
	}
	cmd := exec.Command(bin, args...)
	if libs != "" {
		cmd.Env = append(os.Environ(), "LD_LIBRARY_PATH="+libs)
	}
	return launch(ctx, "smtp-sink", cmd, map[string]string{"smtp": addr})
}

// findSMTPSink returns the program and the folder of its libraries, if that is
// not where the linker looks. If it is not installed, Debian's package is unpacked
// into prefix, which installs nothing and runs none of its scripts.
func findSMTPSink(ctx context.Context, prefix string) (bin, libs string, err error) {
	for _, dir := range []string{"/usr/sbin", "/usr/libexec/postfix", "/usr/local/sbin"} {
		if bin := filepath.Join(dir, "smtp-sink"); executable(bin) {
			return bin, "", nil
		}
	}
	bin, libs = filepath.Join(prefix, "usr/sbin/smtp-sink"), filepath.Join(prefix, "usr/lib/postfix")
	if executable(bin) {
		return bin, libs, nil
	}
	if err := unpack(ctx, "postfix", prefix); err != nil {
		return "", "", fmt.Errorf("smtp-sink is missing, and Debian's package could not be unpacked (%w): install postfix", err)
	}
	if !executable(bin) {
		return "", "", errors.New("smtp-sink is missing, and not in Debian's package postfix: install it")
	}
	return bin, libs, nil
}

func executable(path string) bool {
	st, err := os.Stat(path)
	return err == nil && st.Mode().IsRegular() && st.Mode()&0o111 != 0
}

func unpack(ctx context.Context, pkg, prefix string) error {
	if err := os.MkdirAll(prefix, 0o755); err != nil {
		return err
	}
	download := exec.CommandContext(ctx, "apt-get", "download", "-q", pkg)
	download.Dir = prefix
	if out, err := download.CombinedOutput(); err != nil {
		return fmt.Errorf("apt-get download: %w: %s", err, bytes.TrimSpace(out))
	}
	debs, err := filepath.Glob(filepath.Join(prefix, pkg+"_*.deb"))
	if err != nil || len(debs) == 0 {
		return fmt.Errorf("apt-get download left no package in %s", prefix)
	}
	if out, err := exec.CommandContext(ctx, "dpkg", "-x", debs[0], prefix).CombinedOutput(); err != nil {
		return fmt.Errorf("dpkg -x: %w: %s", err, bytes.TrimSpace(out))
	}
	return nil
}

// version returns the first line that a program prints about itself.
func version(bin string, args ...string) string {
	out, err := exec.Command(bin, args...).Output()
	if err != nil {
		return "unknown"
	}
	line, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
	return line
}
