package storage

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/internal/durable"
	"github.com/covey-mail/covey/internal/durable/durabletest"
	"github.com/covey-mail/covey/storage/seglog"
)

// A stuck file system has files that cannot be read before the copy that reads
// them is given up.
type stuck struct {
	durable.FS
	shard chan *shard // the one that is copied
}

type stuckFile struct {
	durable.File
	of stuck
}

func (s stuck) Open(name string, flag int, perm os.FileMode) (durable.File, error) {
	f, err := s.FS.Open(name, flag, perm)
	return stuckFile{f, s}, err
}

func (f stuckFile) ReadAt(p []byte, off int64) (int, error) {
	if s, ok := <-f.of.shard; ok {
		close(f.of.shard)
		for s.m.t.(*database).source.Copying() {
			<-time.After(time.Millisecond)
		}
	}
	return f.File.ReadAt(p, off)
}

// A copy that cannot keep up is given up before the write-ahead log fills the
// disk.
func TestWALIsBoundedWhileCopied(t *testing.T) {
	if testing.Short() {
		t.Skip("writes 600 MB")
	}
	log, err := seglog.Open(seglog.Config{Dir: "/log", FS: durabletest.NewDisk()})
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	fsys := stuck{durable.OS(), make(chan *shard, 1)}
	s := open(t, Config{Path: filepath.Join(t.TempDir(), "shard"), Log: log, FS: fsys})
	index := uint64(0)
	load := func() {
		for range 100 {
			index++
			s.Apply([]seglog.Command{entry(index, Deliver{
				ID: covey.DeliveryID{Node: 1, Seq: index}, Time: noon, Recipients: []Recipient{{Account: 1, Mailbox: Inbox}},
				Summary: make([]byte, 200<<10), Confirmed: []covey.DeliveryID{{Node: 1, Seq: index - 1}},
			})})
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		s.commit()
	}
	load()
	from, err := s.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close()
	fsys.shard <- s
	d := s.m.t.(*database)
	most := int64(0)
	for d.source.Copying() {
		most = max(most, d.source.LogSize())
		load()
	}
	if most < 2*walLimit || most > walLimitCopying+2*walLimit {
		t.Errorf("the copy was given up when the log had %d bytes", most)
	}
	for n := uint64(0); err == nil; n++ {
		_, err = from.ReadChunk(n)
	}
	if !errors.Is(err, covey.Unavailable) {
		t.Errorf("the copy: %v", err)
	}
	for _, err := range s.Check(t.Context()) {
		t.Error(err)
	}
}
