package storage_test

import (
	"errors"
	"maps"
	"path/filepath"
	"slices"
	"testing"

	"github.com/covey-mail/covey/internal/durable/durabletest"
	"github.com/covey-mail/covey/storage"
	"github.com/covey-mail/covey/storage/seglog"
	"github.com/covey-mail/covey/storage/storagetest"
)

// TestSQLiteCarried holds states to the suite that go from node to node meanwhile.
func TestSQLiteCarried(t *testing.T) { storagetest.RunCarried(t, openHoused, carryOn) }

// A housed state has a log of its own, as on a node.
type housed struct {
	storage.State
	cfg storage.Config
}

// Close implements storage.State.
func (h housed) Close() error { return errors.Join(h.State.Close(), h.cfg.Log.Close()) }

func openHoused(t testing.TB, cfg storage.Config) storage.State {
	t.Helper()
	log, err := seglog.Open(seglog.Config{Dir: "/log", FS: durabletest.NewDisk(), SegmentSize: 64 << 10})
	if err != nil {
		t.Fatal(err)
	}
	cfg.Log = log
	return housed{openSQLite(t, cfg), cfg}
}

// carryOn implements storagetest.Carrier. The suite has bodies in a log of its
// own: they go into the node's for the journey, and back behind it.
func carryOn(t testing.TB, s storage.State, log *storagetest.Log) storage.State {
	t.Helper()
	from := s.(housed)
	hold := from.cfg.Log.Hold()
	defer hold.Release()
	relocate(t, from, log, func(b []byte) seglog.Extent {
		places, err := hold.Append([][]byte{b})
		if err != nil {
			t.Fatal(err)
		}
		return places[0]
	})
	cfg := from.cfg
	cfg.Path = filepath.Join(t.TempDir(), "shard")
	to := openHoused(t, cfg).(housed)
	snap, err := from.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	r, err := to.Restore()
	if err != nil {
		t.Fatal(err)
	}
	carry(t, snap, r, nil)
	if _, err := r.Stage(); err != nil {
		t.Fatal(err)
	}
	if err := to.Install(r, []byte("meta")); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(snap.Close(), from.Close()); err != nil {
		t.Fatal(err)
	}
	relocate(t, to, to.cfg.Log, log.Put)
	return to
}

// relocate moves all bodies and pending chunks of a state from one log to another.
func relocate(t testing.TB, s storage.State, from storage.BodyLog, put func([]byte) seglog.Extent) {
	t.Helper()
	live, err := s.Live()
	if err != nil {
		t.Fatal(err)
	}
	type key struct {
		body, node, boot, seq uint64
		n                     uint32
	}
	moves := map[key]storage.Move{} // one that lies in two segments is met twice
	for _, segment := range slices.Sorted(maps.Keys(live)) {
		list, err := s.Residents(segment, storage.Resident{}, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range list {
			k := key{uint64(r.Body), uint64(r.Upload.Node), r.Upload.Boot, r.Upload.Seq, r.N}
			if _, met := moves[k]; met {
				continue
			}
			m := storage.Move{Resident: r}
			for _, e := range r.Extents {
				b := make([]byte, e.Length)
				if err := from.Read(e, b); err != nil {
					t.Fatalf("%v: %v", r, err)
				}
				m.To = append(m.To, put(b))
			}
			moves[k] = m
		}
	}
	if err := s.Move(slices.Collect(maps.Values(moves))); err != nil {
		t.Fatal(err)
	}
}
