package storagetest

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/covey-mail/covey"
)

// RunReopen holds an implementation that keeps its state to what has to survive
// Close, and the end of the process at any moment. Its files are all in the
// folder of Config.Path, with names that begin with that of Path.
func RunReopen(t *testing.T, open Opener) {
	t.Run("closed", func(t *testing.T) { testClosed(t, open) })
	t.Run("queue", func(t *testing.T) { testQueueReopened(t, open) })
	t.Run("crashed", func(t *testing.T) { testCrashed(t, open) })
}

// testClosed closes and opens again between commands.
func testClosed(t *testing.T, open Opener) {
	d := newDriver(t, open)
	reopen := func() {
		t.Helper()
		if err := d.state.Close(); err != nil {
			t.Fatal(err)
		}
		if err := d.state.Close(); err != nil {
			t.Errorf("close a second time: %v", err)
		}
		index := d.state.Applied()
		d.state = open(t, d.cfg)
		if got := d.state.Applied(); got != index {
			t.Fatalf("applied is %d after opening, was %d", got, index)
		}
	}
	id := d.fill(50)
	c := d.delivery(1, "INBOX", "x")
	c.Hash[0] = 1
	d.must(c)
	pending := d.upload(3, 10)
	reopen()
	d.same("retry", d.must(c).Placed[0].Repeat, true)
	c.ID = d.id()
	d.same("resend", d.must(c).Placed[0].Repeat, true)
	reopen()
	c.ID, c.Confirmed = d.id(), []covey.DeliveryID{c.ID}
	d.same("sent on purpose", d.must(c).Placed[0].Repeat, false)
	big := d.delivery(1, "INBOX", "")
	big.Body = pending
	d.must(big)
	reopen()
	// The mailbox's recent changes are read from the database now.
	changes, err := d.state.Changes(1, id, 0)
	if len(changes.Changed) != 46+3 || err != nil {
		t.Errorf("%d messages changed since the start, error %v", len(changes.Changed), err)
	}
	d.deliver(1, "INBOX", 1)
}

// testCrashed compares the state with the reference while taking its files away
// from under it, as they are, again and again: commands above Applied are
// applied again, and take effect once.
func testCrashed(t *testing.T, open Opener) {
	rapid.Check(t, func(rt *rapid.T) {
		w := newWorld(t, rt, open)
		rt.Repeat(map[string]func(*rapid.T){
			"command": w.command,
			"another": w.command, // twice as often as the rest
			"read":    w.read,
			"disturb": w.disturb,
		})
		w.finish()
	})
}

// disturb does what a node does to a state now and then.
func (w *world) disturb(rt *rapid.T) {
	switch rapid.IntRange(0, 5).Draw(rt, "disturbance") {
	case 0:
		index, err := w.state.Checkpoint()
		if err != nil || index != w.ref.Applied() {
			rt.Fatalf("checkpoint at %d, error %v; applied %d", index, err, w.ref.Applied())
		}
		w.durable = index
	case 1:
		w.crash(rt)
	case 2:
		if err := w.state.Close(); err != nil {
			rt.Fatal(err)
		}
		w.durable = w.ref.Applied()
		w.again(rt)
	default:
		w.command(rt)
	}
}

// crash goes on with a copy of the state's files.
func (w *world) crash(rt *rapid.T) {
	old := w.cfg.Path
	w.cfg.Path = w.t.TempDir() + "/shard"
	files, err := filepath.Glob(old + "*")
	if err != nil || len(files) == 0 {
		rt.Fatalf("no files at %s, error %v", old, err)
	}
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			rt.Fatal(err)
		}
		if err := os.WriteFile(w.cfg.Path+strings.TrimPrefix(f, old), data, 0o600); err != nil {
			rt.Fatal(err)
		}
	}
	if err := w.state.Close(); err != nil {
		rt.Fatal(err)
	}
	w.again(rt)
}

// again opens the state and applies what it does not have.
func (w *world) again(rt *rapid.T) {
	w.state = w.open(w.t, w.cfg)
	if got := w.state.Applied(); got < w.durable {
		rt.Fatalf("applied is %d, though a checkpoint said %d", got, w.durable)
	}
	w.state.Apply(w.log.After(w.state.Applied()))
	if d := cmp.Diff(dump(w.t, w.ref), dump(w.t, w.state)); d != "" {
		rt.Fatalf("after opening (-reference +got):\n%s", d)
	}
	i, h := w.state.Hash()
	if wantI, wantH := w.ref.Hash(); i != wantI || h != wantH {
		rt.Fatalf("hash is %d/%x, want %d/%x", i, h, wantI, wantH)
	}
}
