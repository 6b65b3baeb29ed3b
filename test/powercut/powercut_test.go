package powercut

import (
	"bufio"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/covey-mail/covey/internal/mutant"
	"github.com/covey-mail/covey/test/process"
)

// settings make the rare frequent: checkpoints, and compaction of small segments.
var settings = []string{
	"COVEY_LIMITS_CHECKPOINT_EVERY=300ms", "COVEY_LIMITS_COMPACT_EVERY=200ms", "COVEY_LIMITS_SEGMENT_SIZE=1048576",
	"COVEY_CLUSTER_SHARDS=4", "COVEY_LIMITS_DISK_RESERVE=16777216",
}

var users = []string{"u0", "u1", "u2", "u3", "u4", "u5"}

func rounds(t *testing.T) int {
	t.Helper()
	n, err := strconv.Atoi(os.Getenv("COVEY_POWERCUT_ROUNDS"))
	if err != nil {
		t.Skip("run by: make powercut ROUNDS=20")
	}
	if os.Geteuid() != 0 {
		t.Skip("needs root, for a file system of its own")
	}
	return n
}

func build(t *testing.T) string {
	t.Helper()
	bin, err := process.Build(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return bin
}

// stamp is how reports tell moments apart.
const stamp = "15:04:05.000000"

// TestPowerCut cuts the power of a node under load, again and again.
func TestPowerCut(t *testing.T) {
	n := rounds(t)
	bin := build(t)
	d := newDisk(t, 2<<30)
	data := filepath.Join(d.dir, "data")
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	node, err := process.Launch(bin, data, settings...)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { node.Kill() }()
	if err := node.AddUsers(t.Context(), "example.org", users...); err != nil {
		t.Fatal(err)
	}
	l, compacted := newLedger(), 0
	for round := range n {
		after := time.Duration(200+r.IntN(2800)) * time.Millisecond
		stop := l.load(node, r.Uint64())
		wait(after, node)
		compacted += removedSegments(node)
		cutAt := time.Now()
		if err := d.cutUnder(node); err != nil {
			t.Fatal(err)
		}
		node.Kill()
		stop()
		d.remount(t)
		if r.IntN(3) == 0 { // once more, while it recovers
			cutDuringStart(t, d, bin, data, time.Duration(r.IntN(300))*time.Millisecond)
		}
		again, err := process.Launch(bin, data, settings...)
		if err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		node = again
		problems, err := l.verify(node.Addr("pop3"), users)
		if err != nil {
			t.Fatalf("round %d: %v\n%s", round, err, node.Log())
		}
		for _, p := range problems {
			t.Errorf("round %d (cut after %v, at %s): %s", round, after, cutAt.Format(stamp), p)
		}
		if t.Failed() {
			t.Fatalf("seed %d; log of the node:\n%s", seed, node.Log())
		}
		t.Logf("round %d: cut after %v, %d acknowledged so far, all there", round, after, l.acked)
	}
	if compacted < n {
		t.Errorf("%d segments were removed in %d rounds: compaction did not run", compacted, n)
	}
	if l.acked < 10*n {
		t.Errorf("only %d messages were acknowledged in %d rounds: the load did not run", l.acked, n)
	}
	if out, err := node.Covey(t.Context(), "", "check"); err != nil {
		t.Errorf("check: %v\n%s", err, out)
	}
}

// removedSegments reads from a node's metrics how many segments compaction
// removed since it started; 0 if they cannot be read.
func removedSegments(node *process.Node) (n int) {
	resp, err := http.Get("http://" + node.Addr("metrics") + "/metrics")
	if err != nil {
		return 0
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		if v, ok := strings.CutPrefix(lines.Text(), "covey_compact_removed_segments_total "); ok {
			n, _ = strconv.Atoi(v)
		}
	}
	return n
}

// load runs the clients; stop ends them and waits.
func (l *ledger) load(node *process.Node, seed uint64) (stop func()) {
	done := make(chan struct{})
	var wg sync.WaitGroup
	for i := range uint64(6) {
		wg.Go(func() { l.sender(seed+i, node.Addr("smtp"), "EHLO", users, done) })
	}
	for i := range uint64(2) {
		wg.Go(func() { l.sender(seed+100+i, node.Addr("lmtp"), "LHLO", users, done) })
	}
	wg.Go(func() { l.eater(node.Addr("pop3"), users, done) })
	return func() { close(done); wg.Wait() }
}

// wait lets the load run for a time, or until the node ends by itself.
func wait(d time.Duration, node *process.Node) {
	select {
	case <-time.After(d):
	case <-node.Exited():
	}
}

// cutDuringStart starts the node, cuts the power before or shortly after it is
// ready, and mounts again.
func cutDuringStart(t *testing.T, d *disk, bin, data string, after time.Duration) {
	t.Helper()
	cut := make(chan error, 1)
	go func() {
		timer := time.NewTimer(after)
		<-timer.C
		cut <- d.cut()
	}()
	node, _ := process.Launch(bin, data, settings...) // may not get that far
	if err := <-cut; err != nil {
		t.Fatal(err)
	}
	if node != nil {
		node.Kill()
	}
	d.remount(t)
}

// TestPowerCutAtFirstStart cuts the power at each stage of making a data folder.
func TestPowerCutAtFirstStart(t *testing.T) {
	n := rounds(t)
	bin := build(t)
	for i := range min(n, 20) {
		t.Run(fmt.Sprintf("after-%dms", i*15), func(t *testing.T) {
			d := newDisk(t, 512<<20)
			data := filepath.Join(d.dir, "data")
			cutDuringStart(t, d, bin, data, time.Duration(i*15)*time.Millisecond)
			node, err := process.Launch(bin, data, settings...)
			if err != nil {
				t.Fatal(err)
			}
			defer node.Kill()
			if err := node.AddUsers(t.Context(), "example.org", "u0"); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// TestPowerCutCatchesMissingFsync runs a program whose log is never synced and
// expects to be told of lost mail, or of a folder that cannot be started: a test
// that passes such a program shows nothing.
func TestPowerCutCatchesMissingFsync(t *testing.T) {
	rounds(t)
	bin, err := process.BuildMutant(t.TempDir(), mutant.LogSync)
	if err != nil {
		t.Fatal(err)
	}
	d := newDisk(t, 1<<30)
	data := filepath.Join(d.dir, "data")
	node, err := process.Launch(bin, data, settings...)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { node.Kill() }()
	if err := node.AddUsers(t.Context(), "example.org", users...); err != nil {
		t.Fatal(err)
	}
	l := newLedger()
	for round := range 5 {
		stop := l.load(node, uint64(round))
		wait(time.Second, node)
		if err := d.cutUnder(node); err != nil {
			t.Fatal(err)
		}
		node.Kill()
		stop()
		d.remount(t)
		again, err := process.Launch(bin, data, settings...)
		if err != nil {
			t.Logf("round %d: the node does not start, as expected: %.300s", round, err)
			return
		}
		node = again
		problems, err := l.verify(node.Addr("pop3"), users)
		if err != nil || len(problems) > 0 {
			t.Logf("round %d: %d problems, as expected, %v", round, len(problems), err)
			return
		}
	}
	t.Errorf("%d messages were acknowledged without a single fsync of the log, and none was missed", l.acked)
}
