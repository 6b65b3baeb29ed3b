package powercut

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/covey-mail/covey/test/process"
)

// fill writes files until the disk has not a byte left, again and again for a
// time: what the node gives up for deletions is taken too. free removes them.
func (d *disk) fill(during time.Duration) (free func() error, err error) {
	var names []string
	free = func() (err error) {
		for _, name := range names {
			if rerr := os.Remove(name); !errors.Is(rerr, os.ErrNotExist) { // a power cut may take it
				err = errors.Join(err, rerr)
			}
		}
		return err
	}
	block := make([]byte, 64<<10)
	for until := time.Now().Add(during); time.Now().Before(until); {
		name := filepath.Join(d.dir, fmt.Sprintf("fill%d", len(names)))
		f, err := os.Create(name)
		if errors.Is(err, unix.ENOSPC) {
			continue // not even a name: full
		}
		if err != nil {
			return free, err
		}
		names = append(names, name)
		for err == nil {
			_, err = f.Write(block)
		}
		if cerr := f.Close(); !errors.Is(err, unix.ENOSPC) || cerr != nil {
			return free, errors.Join(err, cerr)
		}
		<-time.After(50 * time.Millisecond) // the node may take what it finds
	}
	return free, nil
}

// Other programs fill the disk while mail comes in. Nothing that was
// acknowledged is lost, no shard stops, and when there is room again mail is
// taken without a restart; in every other round the power fails first.
func TestF21_DiskFilledByOthers(t *testing.T) {
	n := min(rounds(t), 10) // they teach less than power cuts
	bin := build(t)
	d := newDisk(t, 400<<20)
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
	for round := range n {
		stop := l.load(node, uint64(round)*1000)
		wait(time.Second, node)
		free, err := d.fill(3 * time.Second)
		if err != nil {
			t.Fatal(err)
		}
		if round%2 == 1 {
			if err := d.cutUnder(node); err != nil {
				t.Fatal(err)
			}
			node.Kill()
			stop()
			d.remount(t)
			again, err := process.Launch(bin, data, settings...)
			if err != nil {
				t.Fatalf("round %d: %v", round, err)
			}
			node = again
			stop = l.load(node, uint64(round)*1000+500)
		}
		if err := free(); err != nil {
			t.Fatal(err)
		}
		before := l.count()
		for until := time.Now().Add(20 * time.Second); l.count() < before+50 && time.Now().Before(until); {
			wait(100*time.Millisecond, node)
		}
		stop()
		if got := l.count(); got < before+50 {
			t.Errorf("round %d: %d messages taken in 20 s after there was room again", round, got-before)
		}
		problems, err := l.verify(node.Addr("pop3"), users)
		if err != nil {
			t.Fatalf("round %d: %v\n%s", round, err, node.Log())
		}
		for _, p := range problems {
			t.Errorf("round %d: %s", round, p)
		}
		if log := node.Log(); t.Failed() || strings.Contains(log, "group stopped") {
			t.Fatalf("round %d; log of the node:\n%s", round, log)
		}
	}
	if err := node.Stop(); err != nil {
		t.Errorf("stop: %v", err)
	}
	if out, err := node.Covey(t.Context(), "", "check"); err != nil {
		t.Errorf("check: %v\n%s", err, out)
	}
}
