package replica

import (
	"fmt"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/internal/durable/durabletest"
)

// errNoSpace is what a full disk says.
var errNoSpace error = syscall.ENOSPC

// What waits while the disk works, over all groups, shares the next fsync.
func TestGroupCommit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate := &syncGate{FS: durabletest.NewDisk()}
		machines := []*recorder{{}, {}, {}, {}}
		s := startSingle(t, gate, "/log", Config{}, machines...)
		release := gate.hold(0)
		var wg sync.WaitGroup
		wg.Go(func() { s.mustPropose(0, "first") })
		synctest.Wait()
		before := gate.syncs.Load() // the one that is held
		for i := range 64 {
			wg.Go(func() { s.mustPropose(covey.ShardID(i%4), fmt.Sprint("c", i)) })
		}
		synctest.Wait()
		for i, m := range machines {
			if got := m.now().Commands; len(got) != 0 {
				t.Errorf("group %d applied %v before it was on disk", i, got)
			}
		}
		release()
		wg.Wait()
		if got := gate.syncs.Load() - before; got != 1 {
			t.Errorf("64 proposals of 4 groups took %d fsyncs, want 1", got)
		}
		s.mustStop()
	})
}

// A lone proposal costs one fsync, and an idle host none.
func TestOneSyncForOneProposal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate := &syncGate{FS: durabletest.NewDisk()}
		s := startSingle(t, gate, "/log", Config{}, &recorder{}, &recorder{})
		before := gate.syncs.Load()
		for i := range 10 {
			s.mustPropose(covey.ShardID(i%2), fmt.Sprint("c", i))
		}
		if got := gate.syncs.Load() - before; got != 10 {
			t.Errorf("10 proposals, one after the other, took %d fsyncs", got)
		}
		advance(t, time.Hour)
		if got := gate.syncs.Load() - before; got != 10 {
			t.Errorf("an idle hour took %d fsyncs", got-10)
		}
		s.mustStop()
	})
}

// Power may go at any operation of the disk: every command that was answered is
// there at the next start, once and in its place, and the log opens.
func TestCrashKeepsWhatWasAnswered(t *testing.T) {
	for after := 1; after < 60; after += 2 {
		t.Run(fmt.Sprintf("after=%d", after), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { crashAfter(t, after) })
		})
	}
}

func crashAfter(t *testing.T, after int) {
	disk := durabletest.NewDisk()
	m := &recorder{}
	s := startSingle(t, disk, "/log", Config{}, m)
	disk.StopAfter(after)
	var mu sync.Mutex
	var answered []string
	var wg sync.WaitGroup
	for caller := range 3 {
		wg.Go(func() {
			for i := 0; ; i++ {
				command := fmt.Sprintf("%d/%d", caller, i)
				if err := s.propose(0, command); err != nil {
					return // once the disk is gone, none succeeds
				}
				mu.Lock()
				answered = append(answered, command)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	next := m.restarted()
	if err := s.stop(); err == nil {
		t.Fatal("Run ended well without a disk")
	}
	disk.Crash(uint64(after))
	s = startSingle(t, disk, "/log", Config{}, next)
	count := map[string]int{}
	for _, c := range next.now().Commands {
		count[c]++
	}
	for _, c := range answered {
		if count[c] != 1 {
			t.Errorf("%s was answered and is there %d times", c, count[c])
		}
	}
	s.mustPropose(0, "after")
	s.mustStop()
}

// A full disk is waited out: callers learn it, the batch that found it is written
// once there is room, and nothing is lost.
func TestDiskFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := durabletest.NewDisk()
		m := &recorder{}
		s := startSingle(t, disk, "/log", Config{}, m)
		disk.Inject(durabletest.Fault{Op: durabletest.Write, Err: errNoSpace, Times: -1})
		done := make(chan error, 1)
		go func() { done <- s.propose(0, "waits") }()
		synctest.Wait()
		wantKind(t, "proposal on a full disk", s.propose(0, "refused"), covey.DiskFull)
		if err := s.host.ReadIndex(t.Context(), 0); err != nil {
			t.Errorf("reading does not need the disk: %v", err)
		}
		advance(t, time.Minute)
		disk.Heal()
		if err := <-done; err != nil {
			t.Errorf("the proposal that waited: %v", err)
		}
		s.mustPropose(0, "after")
		wantCommands(t, m, "waits", "after")
		s.mustStop()
	})
}

// A host that is told to stop while the disk is full stops all the same.
func TestStopWhileDiskFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := durabletest.NewDisk()
		s := startSingle(t, disk, "/log", Config{}, &recorder{})
		disk.Inject(durabletest.Fault{Op: durabletest.Write, Err: errNoSpace, Times: -1})
		done := make(chan error, 1)
		go func() { done <- s.propose(0, "waits") }()
		synctest.Wait()
		began := time.Now()
		s.cancel()
		wantKind(t, "proposal that waited", <-done, covey.Unknown)
		<-s.ended
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("it took %v", took)
		}
		disk.Heal()
		s.log.Close()
	})
}

// The commit index reaches the disk without a write of its own, and what a
// checkpoint made durable is never asked of the log again.
func TestAppliedSurvivesWithoutCommitIndex(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := durabletest.NewDisk()
		m := &recorder{}
		s := startSingle(t, disk, "/log", Config{}, m)
		s.mustPropose(0, "one", "two")
		if err := s.host.Checkpoint(t.Context(), 0); err != nil {
			t.Fatal(err)
		}
		next := m.restarted()
		disk.Crash(0)
		s.cancel()
		<-s.ended
		s.log.Close()
		s = startSingle(t, disk, "/log", Config{}, next)
		if diff := cmp.Diff(m.now(), next.now()); diff != "" {
			t.Errorf("after restart (-before +after):\n%s", diff)
		}
		s.mustPropose(0, "three")
		wantCommands(t, next, "one", "two", "three")
		s.mustStop()
	})
}

// After a start, a group of one is elected before it knows what it acknowledged
// before: a read must wait for that.
func TestReadAfterRestartWaitsForTheTerm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate := &syncGate{FS: durabletest.NewDisk()}
		m := &recorder{}
		s := startSingle(t, gate, "/log", Config{}, m)
		s.mustPropose(0, "one", "two")
		next := m.restarted()
		s.mustStop()
		s = newSingle(t, gate, "/log", Config{}, next)
		release := gate.hold(1) // the vote passes, the first entry of the term does not
		s.run()
		if lead := s.host.Status()[0].Leader; lead != 1 {
			t.Fatalf("led by %s", lead)
		}
		read := make(chan error, 1)
		go func() { read <- s.host.ReadIndex(t.Context(), 0) }()
		synctest.Wait()
		select {
		case err := <-read:
			t.Errorf("ReadIndex returned %v; applied: %v", err, next.now().Commands)
			read <- err
		default:
		}
		release()
		if err := <-read; err != nil {
			t.Error(err)
		}
		wantCommands(t, next, "one", "two")
		s.mustStop()
	})
}
