package main

import (
	"bytes"
	"context"
	"encoding/json"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/covey-mail/covey/node"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// serve runs a small node with one listener and returns its folder.
func serve(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	cfg := node.DefaultConfig(dir, 0)
	cfg.Node.Hostname = "mail.example.org"
	cfg.Cluster.Shards, cfg.Limits.DiskReserve = 2, 1<<20
	cfg.Listen = node.ListenConfig{SMTP: []string{"127.0.0.1:0"}}
	n, err := node.Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Stop(); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// A result is what a command did.
type result struct {
	code     int
	out, err string
}

// covey runs a command line with standard input.
func covey(t *testing.T, in string, args ...string) result {
	t.Helper()
	var out, errs bytes.Buffer
	code := run(t.Context(), args, stdio{strings.NewReader(in), &out, &errs})
	return result{code, out.String(), errs.String()}
}

// ok runs a command line that must succeed and returns what it printed.
func ok(t *testing.T, in string, args ...string) string {
	t.Helper()
	r := covey(t, in, args...)
	if r.code != 0 || r.err != "" {
		t.Fatalf("covey %s: status %d\n%s", strings.Join(args, " "), r.code, r.err)
	}
	return r.out
}

// fails runs a command line that must fail with status 1 and returns its error.
func fails(t *testing.T, in string, args ...string) string {
	t.Helper()
	r := covey(t, in, args...)
	if r.code != 1 || !strings.HasPrefix(r.err, "covey: ") {
		t.Fatalf("covey %s: status %d, %q; want 1 and an error", strings.Join(args, " "), r.code, r.err)
	}
	return r.err
}

// decoded is ok for a command that prints JSON.
func decoded[T any](t *testing.T, in string, args ...string) T {
	t.Helper()
	var v T
	text := ok(t, in, append(args, "--json")...)
	dec := json.NewDecoder(strings.NewReader(text))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&v); err != nil {
		t.Fatalf("covey %s: %v in\n%s", strings.Join(args, " "), err, text)
	}
	return v
}

// lines gathers output and can be waited on.
type lines struct {
	mu   sync.Mutex // guards text
	text string
	grew chan struct{}
}

func newLines() *lines { return &lines{grew: make(chan struct{}, 1)} }

// Write implements io.Writer.
func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text += string(p)
	select {
	case l.grew <- struct{}{}:
	default:
	}
	return len(p), nil
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text
}

// await waits until the text has what is wanted.
func (l *lines) await(t *testing.T, want string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for !strings.Contains(l.String(), want) {
		select {
		case <-l.grew:
		case <-ctx.Done():
			t.Fatalf("no %q in\n%s", want, l)
		}
	}
}
