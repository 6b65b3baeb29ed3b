package directory

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"

	"zombiezen.com/go/sqlite"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/internal/durable/durabletest"
	"github.com/covey-mail/covey/internal/durable/durabletest/sqlitedisk"
	"github.com/covey-mail/covey/storage/seglog"
)

// A plugged directory lies on a disk whose power may go. Copies of it stand still
// until it is unplugged.
type plugged struct {
	*State
	vfs  *sqlitedisk.VFS
	gate chan struct{} // closed: copies go on
}

// plug opens the directory on a disk.
func plug(disk *durabletest.Disk) (*plugged, error) {
	vfs, err := sqlitedisk.Register(disk)
	if err != nil {
		return nil, err
	}
	p := &plugged{vfs: vfs, gate: make(chan struct{})}
	fsys := &durabletest.Watched{FS: disk, Read: func(string) { <-p.gate }} // SQLite reads past it
	if err = fsys.MkdirAll("/node", 0o700); err == nil {
		p.State, err = OpenState(Config{Path: "/node/directory.db", FS: fsys, VFS: vfs.Name()})
	}
	if err != nil {
		return nil, errors.Join(err, vfs.Close())
	}
	return p, nil
}

// unplug closes all, whatever becomes of that.
func (p *plugged) unplug() {
	close(p.gate)
	_ = p.State.Close()
	if err := p.vfs.Close(); err != nil {
		panic(err)
	}
}

// apply applies those of cmds that are not.
func (p *plugged) apply(cmds []seglog.Command) (err error) {
	defer func() {
		if f, ok := recover().(error); ok {
			err = f
		}
	}()
	for _, c := range cmds {
		if c.Index > p.Applied() {
			p.Apply([]seglog.Command{c})
		}
	}
	return nil
}

// work applies commands with checkpoints and a copy in between, and returns the index
// up to which the log needs to keep none.
func (p *plugged) work(cmds []seglog.Command) (kept uint64, err error) {
	for i := range len(cmds) / 10 {
		if err := p.apply(cmds[i*10 : i*10+10]); err != nil {
			return kept, err
		}
		switch i % 3 {
		case 0:
			p.mu.Lock()
			err = p.commitLocked()
			p.mu.Unlock()
		case 1:
			var index uint64
			if index, err = p.Checkpoint(); err == nil {
				kept = index
			}
		}
		if i == 4 && err == nil {
			_, err = p.Snapshot() // from now on a checkpoint leaves the database as it is
		}
		if err != nil {
			return kept, err
		}
	}
	return kept, nil
}

// F-09: what a checkpoint was acknowledged for is there after a power cut at any
// operation, and the rest of the log makes of it what it was.
func TestF09_PowerCuts(t *testing.T) {
	cmds := history(100)
	whole := durabletest.NewDisk()
	p, err := plug(whole)
	if err != nil {
		t.Fatal(err)
	}
	if kept, err := p.work(cmds); err != nil || kept < cmds[79].Index {
		t.Fatalf("checkpoints up to %d, error %v", kept, err)
	}
	_, hash := p.Hash()
	p.unplug()
	step := 1
	if testing.Short() {
		step = 5
	}
	for op := 0; op < whole.Ops(); op += step {
		if err := cutPower(t.Context(), cmds, hash, op, seedOf(op)); err != nil {
			t.Fatalf("power cut at operation %d of %d: %v", op, whole.Ops(), err)
		}
	}
}

// seedOf returns a seed for an operation: every other loses all that can be lost.
func seedOf(op int) uint64 {
	if op%2 == 0 {
		return 0
	}
	return uint64(op)
}

// cutPower works until the power goes and says what is wrong after the next start.
func cutPower(ctx context.Context, cmds []seglog.Command, hash uint64, op int, seed uint64) error {
	disk := durabletest.NewDisk()
	disk.StopAfter(op)
	var kept uint64
	if p, err := plug(disk); err == nil {
		kept, _ = p.work(cmds)
		p.unplug()
	}
	disk.Crash(seed)
	p, err := plug(disk)
	if err != nil {
		return err
	}
	defer p.unplug()
	if applied := p.Applied(); applied < kept {
		return fmt.Errorf("%d is applied, a checkpoint was at %d", applied, kept)
	}
	if err := errors.Join(p.Check(ctx)...); err != nil {
		return err
	}
	if err := p.apply(cmds); err != nil {
		return err
	}
	if _, h := p.Hash(); h != hash {
		return fmt.Errorf("the directory is another than it was")
	}
	return nil
}

// F-16: after a sync that failed nothing is written any more, in a checkpoint that
// nobody asked for too. SQLite would do the next one with a log that is not on the
// disk, and a power cut in the middle of that leaves no database.
func TestF16_FailedSyncOfALongLog(t *testing.T) {
	disk := durabletest.NewDisk()
	p, err := plug(disk)
	if err != nil {
		t.Fatal(err)
	}
	cmds := []seglog.Command{{Index: 1, Data: Encode(Found{Cluster: covey.ClusterID{1}, Shards: 3})}, {Index: 2, Data: Encode(AddDomain{Name: "a.example"})}}
	for i := range commitEvery {
		accounts := make([]NewAccount, 30)
		for j := range accounts {
			accounts[j].Address = covey.Address{Local: fmt.Sprintf("%d.%d.%s", j, i, strings.Repeat("x", 50)), Domain: "a.example"}
		}
		cmds = append(cmds, seglog.Command{Index: uint64(i + 3), Data: Encode(AddAccounts{Accounts: accounts})})
	}
	// The first sync is of the log's header.
	disk.Inject(durabletest.Fault{Op: durabletest.Sync, Match: "directory.db-wal", After: 1, Err: syscall.EIO})
	if err := p.apply(cmds); sqlite.ErrCode(err) != sqlite.ResultIOErrFsync {
		t.Errorf("a commit of %d octets: %v", p.db.source.LogSize(), err)
	}
	if _, err := p.Checkpoint(); sqlite.ErrCode(err) != sqlite.ResultIOErrFsync {
		t.Errorf("a checkpoint after it: %v", err)
	}
	p.unplug()
	disk.Crash(2)
	if p, err = plug(disk); err != nil {
		t.Fatal(err)
	}
	defer p.unplug()
	if err := errors.Join(p.Check(t.Context())...); err != nil {
		t.Error(err)
	}
}

// F-16: nor is anything written when the directory is closed after that: SQLite makes a
// checkpoint of its own then.
func TestF16_CloseAfterAFailedSync(t *testing.T) {
	cmds := history(200)
	for op := range 30 {
		disk := durabletest.NewDisk()
		p, err := plug(disk)
		if err != nil {
			t.Fatal(err)
		}
		if err := p.apply(cmds[:100]); err != nil {
			t.Fatal(err)
		}
		kept, err := p.Checkpoint()
		if err == nil {
			err = p.apply(cmds[100:])
		}
		if err != nil {
			t.Fatal(err)
		}
		disk.Inject(durabletest.Fault{Op: durabletest.Sync, Match: "directory.db-wal", After: 1, Err: syscall.EIO})
		if _, err := p.Checkpoint(); sqlite.ErrCode(err) != sqlite.ResultIOErrFsync {
			t.Fatal(err)
		}
		disk.StopAfter(op)
		p.unplug()
		disk.Crash(uint64(op) + 2)
		if p, err = plug(disk); err != nil {
			t.Fatalf("power cut at operation %d of closing: %v", op, err)
		}
		if err := errors.Join(p.Check(t.Context())...); err != nil || p.Applied() < kept {
			t.Errorf("power cut at operation %d of closing: %d is applied, a checkpoint was at %d; %v", op, p.Applied(), kept, err)
		}
		p.unplug()
	}
}
