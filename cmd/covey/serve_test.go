package main

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/alecthomas/kong"
	"github.com/google/go-cmp/cmp"
)

// inBackground runs a command line; end ends its context and returns its status.
func inBackground(t *testing.T, args ...string) (out, errs *lines, end func() int) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	out, errs = newLines(), newLines()
	var wg sync.WaitGroup
	code := -1
	wg.Go(func() { code = run(ctx, args, stdio{strings.NewReader(""), out, errs}) })
	end = func() int {
		cancel()
		wg.Wait()
		return code
	}
	t.Cleanup(func() { end() })
	return out, errs, end
}

func TestServeSaysWhereAndWhen(t *testing.T) {
	dir := t.TempDir()
	for _, s := range []string{"SMTP", "SUBMISSION", "SUBMISSIONS", "LMTP", "IMAP", "IMAPS", "POP3", "POP3S", "METRICS"} {
		t.Setenv("COVEY_LISTEN_"+s, "127.0.0.1:0")
	}
	t.Setenv("COVEY_LISTEN_LMTP", "127.0.0.1:0,unix:"+dir+"/lmtp.sock")
	t.Setenv("COVEY_LISTEN_PEER", "")
	t.Setenv("COVEY_LISTEN_GOSSIP", "")
	t.Setenv("COVEY_CLUSTER_SHARDS", "2")
	t.Setenv("COVEY_NODE_HOSTNAME", "mail.example.org")
	t.Setenv("COVEY_LIMITS_DISK_RESERVE", "1048576")
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(dir, "notify"), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	t.Setenv("NOTIFY_SOCKET", socket.LocalAddr().String())

	out, _, end := inBackground(t, "serve", "--data", dir)
	out.await(t, "ready\n")
	want := "listening smtp PORT\nlistening submission PORT\nlistening submissions PORT\nlistening lmtp PORT\n" +
		"listening lmtp unix:" + dir + "/lmtp.sock\nlistening imap PORT\nlistening imaps PORT\nlistening pop3 PORT\n" +
		"listening pop3s PORT\nlistening metrics PORT\nready\n"
	if d := cmp.Diff(want, regexp.MustCompile(`127\.0\.0\.1:\d+`).ReplaceAllString(out.String(), "PORT")); d != "" {
		t.Errorf("standard output (-want +got):\n%s", d)
	}
	if code := end(); code != 0 {
		t.Errorf("status %d after a signal, want 0", code)
	}
	for _, want := range []string{"READY=1", "STOPPING=1"} {
		if err := socket.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 100)
		n, err := socket.Read(buf)
		if err != nil || string(buf[:n]) != want {
			t.Errorf("service manager heard %q, %v; want %q", buf[:n], err, want)
		}
	}
}

// A node that waits for others may be told to stop, as any may.
func TestServeStopsBeforeItServes(t *testing.T) {
	dir := t.TempDir()
	for _, s := range []string{"PEER", "GOSSIP"} {
		t.Setenv("COVEY_LISTEN_"+s, "127.0.0.1:0")
	}
	t.Setenv("COVEY_LIMITS_DISK_RESERVE", "1048576")
	secret := filepath.Join(dir, "secret")
	ok(t, "", "secret", "new", secret)
	_, errs, end := inBackground(t, "serve", "--data", filepath.Join(dir, "data"), "--secret-file", secret, "--join", "127.0.0.1:1")
	errs.await(t, "waiting for other nodes")
	if code := end(); code != 0 || !strings.Contains(errs.String(), "told to stop before it served") {
		t.Errorf("status %d after a signal, want 0:\n%s", code, errs)
	}
}

func TestServeSaysWhyNot(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("COVEY_LISTEN_SMTP", "no port")
	r := covey(t, "", "serve", "--data", dir)
	if r.code != 1 || !strings.Contains(r.err, "[listen] smtp") || strings.Contains(r.out, "ready") {
		t.Errorf("got %+v", r)
	}
}

// What the command line says of the cluster reaches the node, which refuses it
// before it touches anything.
func TestServeFlags(t *testing.T) {
	for _, tt := range []struct{ args, says string }{
		{"--init", "[cluster] init needs the addresses of all nodes"},
		{"--replicas 2", "[cluster] replicas is 2: want 1, 3 or 5"},
		{"--join a:1 --join b:2,c", `[cluster] join: "c": want host:port`},
		{"--init --join a:1,a:1", `[cluster] join: "a:1" is there twice`},
	} {
		dir := filepath.Join(t.TempDir(), "data")
		r := covey(t, "", append([]string{"serve", "--data", dir}, strings.Fields(tt.args)...)...)
		if r.code != 1 || !strings.Contains(r.err, tt.says) {
			t.Errorf("%s: got %+v, want an error that says %q", tt.args, r, tt.says)
		}
		if _, err := os.Stat(dir); !os.IsNotExist(err) {
			t.Errorf("%s: %v, want no folder", tt.args, err)
		}
	}
}

func TestDemo(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	out, errs, end := inBackground(t, "demo")
	out.await(t, "Ctrl-C ends it, and removes the data.\n")
	var dir string
	for word := range strings.FieldsSeq(out.String()) {
		if strings.Contains(word, "covey-demo-") {
			dir = word
		}
	}
	if !strings.HasPrefix(dir, os.TempDir()) || strings.Contains(out.String(), "no value") {
		t.Errorf("folder %q in\n%s", dir, out)
	}
	list := ok(t, "", "user", "list", "--data", dir)
	if !strings.Contains(list, "alice@example.org") || !strings.Contains(list, "bob@example.org") {
		t.Errorf("accounts of the demo:\n%s", list)
	}
	if code := end(); code != 0 || errs.String() != "" {
		t.Errorf("status %d\n%s", code, errs)
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("the demo's folder: %v, want it gone", err)
	}
}

func TestDemoKeeps(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "kept")
	for range 2 {
		out, errs, end := inBackground(t, "demo", "--keep", dir)
		out.await(t, "Ctrl-C ends it.\n")
		if code := end(); code != 0 {
			t.Errorf("status %d\n%s", code, errs)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "node.toml")); err != nil {
		t.Error(err)
	}
}

func TestOpenFilesRaisesTheLimit(t *testing.T) {
	var before, after syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &before); err != nil {
		t.Fatal(err)
	}
	lower := syscall.Rlimit{Cur: min(before.Cur, 512), Max: before.Max}
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &lower); err != nil {
		t.Fatal(err)
	}
	n := openFiles()
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &after); err != nil {
		t.Fatal(err)
	}
	if after.Cur != before.Max || uint64(n) != min(after.Cur, 1<<31-1) {
		t.Errorf("limit %d, openFiles says %d; want %d", after.Cur, n, before.Max)
	}
}

// The unit must fit the program and the sample configuration.
func TestSystemdUnit(t *testing.T) {
	b, err := os.ReadFile("../../deploy/systemd/covey.service")
	if err != nil {
		t.Fatal(err)
	}
	set := map[string]string{}
	for line := range strings.Lines(string(b)) {
		if key, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok && !strings.HasPrefix(key, "#") {
			set[key] = value
		}
	}
	cfg, err := source{file: sample, getenv: environment(nil)}.load()
	if err != nil {
		t.Fatal(err)
	}
	if got := "/var/lib/" + set["StateDirectory"]; got != cfg.Node.Data || set["StateDirectoryMode"] != "0700" {
		t.Errorf("state in %s, mode %s; the sample configuration says %s", got, set["StateDirectoryMode"], cfg.Node.Data)
	}
	for key, want := range map[string]string{"Type": "notify", "AmbientCapabilities": "CAP_NET_BIND_SERVICE", "NoNewPrivileges": "yes"} {
		if set[key] != want {
			t.Errorf("%s=%s, want %s", key, set[key], want)
		}
	}
	parser, err := kong.New(&commands{}, kong.Exit(func(int) {}))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := parser.Parse(strings.Fields(set["ExecStart"])[1:]); err != nil {
		t.Errorf("ExecStart: %v", err)
	}
}
