package node

import (
	"errors"
	"log/slog"
	"os"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/internal/durable"
	"github.com/covey-mail/covey/node/admin"
)

func TestDiskDecides(t *testing.T) {
	const keep = 64 << 10
	f := certFolder(t)
	var free int64 = 10 * keep
	space := func(string) (int64, error) { return free, nil }
	d, err := openDisk(f, space, keep, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	for i, step := range []struct {
		free int64
		full bool
		held bool
	}{
		{keep, false, true},
		{keep / 16, false, true},
		{keep/16 - 1, true, false},        // stop, and give the reserve up
		{keep, true, false},               // that is the reserve
		{keep + keep/8 - 1, true, false},  // not yet
		{keep + keep/8, false, true},      // again, with the reserve
		{keep / 8, false, true},           // no flapping at the edge
		{0, true, false},                  // others took all
		{keep + keep/16 + 1, true, false}, // between the thresholds
		{100 * keep, false, true},
	} {
		free = step.free
		if err := d.look(); err != nil {
			t.Fatal(err)
		}
		if d.full.Load() != step.full || d.reserve.Held() != step.held {
			t.Errorf("step %d, %d free: full %v, reserve held %v; want %v, %v", i, step.free, d.full.Load(), d.reserve.Held(), step.full, step.held)
		}
		if err := d.room(); errors.Is(err, covey.DiskFull) != step.full {
			t.Errorf("step %d: room says %v", i, err)
		}
		if _, err := os.Stat(f.path("reserve")); (err == nil) != step.held {
			t.Errorf("step %d: reserve file: %v", i, err)
		}
	}
	d.space = func(string) (int64, error) { return 0, errors.New("no such disk") }
	if err := d.look(); err == nil || d.full.Load() {
		t.Errorf("a failed look: %v, full %v; want an error and no decision", err, d.full.Load())
	}
}

// F-21: what a start needs is kept while the node runs, whatever others take, and
// given up by the start that finds nothing else.
func TestF21_RoomForTheStart(t *testing.T) {
	const keep = 64 << 10
	f := certFolder(t)
	var free int64
	start := func(now int64, reserve, room bool) *disk {
		t.Helper()
		free = now
		d, err := openDisk(f, func(string) (int64, error) { return free, nil }, keep, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		for name, want := range map[string]bool{"reserve": reserve, "reserve.start": room} {
			if _, err := os.Stat(f.path(name)); (err == nil) != want {
				t.Errorf("started with %d free: %s: %v, want it there: %v", now, name, err, want)
			}
		}
		return d
	}
	start(0, false, false)          // a new folder on a full disk
	d := start(10*keep, true, true) // an ordinary start
	free = 0
	if err := d.look(); err != nil {
		t.Fatal(err)
	}
	if d.reserve.Held() || !d.start.Held() {
		t.Errorf("on a full disk: reserve held %v, room for the start %v", d.reserve.Held(), d.start.Held())
	}
	d = start(0, false, false)
	free = 10 * keep
	if err := d.look(); err != nil {
		t.Fatal(err)
	}
	if !d.reserve.Held() || !d.start.Held() {
		t.Errorf("with room again: reserve held %v, room for the start %v", d.reserve.Held(), d.start.Held())
	}
	start(0, false, true) // the reserve is given up first
}

// F-21: a full disk refuses new data, lets mail be read and deleted, and ends by
// itself.
func TestF21_DiskFull(t *testing.T) {
	var free atomic.Int64
	free.Store(1 << 30)
	cfg := config(t.TempDir())
	n := runOn(t, cfg, System{FS: durable.OS(), Free: func(string) (int64, error) { return free.Load(), nil }})
	addUsers(t, n)
	for _, s := range []string{"one", "two", "three"} {
		send(t, n, s)
	}
	status := func() admin.Status { return call[admin.Status](t, n, admin.NodeStatus, admin.Empty{}) }

	free.Store(0)
	waitFor(t, "the disk to be full", func() bool { return status().DiskFull })
	if n.disk.reserve.Held() {
		t.Error("the reserve is kept on a full disk")
	}
	d := dial(t, n, "smtp")
	d.expect("220 ")
	d.say("EHLO client.example.net", "250 ", "MAIL FROM:<carol@example.net>", "452 4.3.1")
	im := imap(t, n, "imap")
	if got := im.say("a3 APPEND INBOX {3+}\r\nx\r\n", "a3 NO"); strings.Contains(got, "OVERQUOTA") || !strings.Contains(got, "UNAVAILABLE") {
		t.Errorf("APPEND: got %q, want NO [UNAVAILABLE]", got)
	}
	im.say(`a4 STORE 1 +FLAGS (\Deleted)`, "a4 OK", "a5 EXPUNGE", "a5 OK", "a6 FETCH 1:* BODY.PEEK[]", "a6 OK", "a7 LOGOUT", "a7 OK")
	p := pop(t, n)
	p.say("RETR 1", "+OK")
	if _, err := p.ReadDotLines(); err != nil {
		t.Error(err)
	}
	p.say("DELE 1", "+OK", "QUIT", "+OK")
	if got := messages(t, n); got != 1 {
		t.Errorf("%d messages left, want 1", got)
	}
	if err := n.readyErr(); err != nil {
		t.Errorf("not ready: %v; reading must go on", err)
	}

	free.Store(1 << 30)
	waitFor(t, "room again", func() bool { return !status().DiskFull })
	send(t, n, "four")
	if got := messages(t, n); got != 2 {
		t.Errorf("%d messages, want 2", got)
	}
}

// F-21: a node that was stopped by a full disk starts on it.
func TestF21_StartOnAFullDisk(t *testing.T) {
	cfg := config(t.TempDir())
	n := withUsers(t, cfg)
	send(t, n, "one")
	if err := n.Stop(); err != nil {
		t.Fatal(err)
	}
	cfg.Limits.Quota = 1 << 20
	n = runOn(t, cfg, System{FS: durable.OS(), Free: func(string) (int64, error) { return 0, nil }})
	if _, err := os.Stat(n.folder.path("reserve")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("reserve: %v, want it given up before the start was counted", err)
	}
	p := pop(t, n)
	p.say("DELE 1", "+OK", "QUIT", "+OK")
	if got := messages(t, n); got != 0 {
		t.Errorf("%d messages, want none", got)
	}
}
