package main

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/node/admin"
)

func TestFilledStoreGoesOn(t *testing.T) {
	s := filledStore{folder: t.TempDir(), Accounts: 5, Size: 100}
	if err := os.MkdirAll(filepath.Join(s.data(), "of nobody knows whom"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := s.open(); err != nil {
		t.Fatal(err)
	}
	if list, err := os.ReadDir(s.data()); err != nil || len(list) > 0 {
		t.Errorf("a new store's data are %v, %v; want an empty folder", list, err)
	}
	for range 2 {
		if err := s.add(7); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(s.data(), "mail"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	again := filledStore{folder: s.folder, Accounts: 5, Size: 100}
	if err := again.open(); err != nil || again.Messages != 14 {
		t.Errorf("opened again: %v, %d messages; want 14", err, again.Messages)
	}
	if _, err := os.Stat(filepath.Join(s.data(), "mail")); err != nil {
		t.Errorf("what is known is gone: %v", err)
	}
	other := filledStore{folder: s.folder, Accounts: 6, Size: 100}
	if err := other.open(); err == nil || !strings.Contains(err.Error(), "has 5 accounts") {
		t.Errorf("with other accounts: %v", err)
	}
	if err := os.WriteFile(s.note(), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := again.open(); err == nil {
		t.Error("a broken note was taken")
	}
}

func TestFilledStoreNeedsRoom(t *testing.T) {
	s := filledStore{folder: t.TempDir(), Size: messageSize}
	if err := s.room(1); err != nil {
		t.Errorf("one message: %v", err)
	}
	if err := s.room(1 << 40); err == nil || !strings.Contains(err.Error(), "give another folder") {
		t.Errorf("8 PiB: %v", err)
	}
}

func TestMiddle(t *testing.T) {
	for want, values := range map[float64][]float64{3: {3}, 2: {3, 1}, 5: {9, 5, 1}, 2.5: {4, 1, 2, 3}} {
		if got := middle(values); got != want {
			t.Errorf("median of %v is %v, want %v", values, got, want)
		}
	}
}

func TestInPairs(t *testing.T) {
	// The last round was on a machine with half of its time for others.
	if got := inPairs([]float64{90, 80, 50}, []float64{100, 100, 50}); got != 0.9 {
		t.Errorf("median ratio %v, want 0.9", got)
	}
}

func TestStartFigures(t *testing.T) {
	clean := []starting{{3, 200, 210}, {1, 250, 260}, {2, 100, 310}}
	list := startFigures(&filledStore{}, clean, starting{seconds: 9}, starting{4, 350, 400})
	for i, want := range []float64{2, 250, 310, 9, 4, 350} {
		if list[i].Value != want {
			t.Errorf("%s: %v, want %v", list[i].Name, list[i].Value, want)
		}
	}
	if list[2].verdict() != "missed" || list[0].verdict() != "met" {
		t.Errorf("verdicts %q and %q", list[0].verdict(), list[2].verdict())
	}
}

func TestMemoryOfAProcess(t *testing.T) {
	resident, peak, err := memoryOf(os.Getpid())
	if err != nil || resident < 1 || peak < resident {
		t.Errorf("%v MiB, at most %v, %v", resident, peak, err)
	}
	if _, _, err := memoryOf(1 << 30); err == nil {
		t.Error("a process that is not there has memory")
	}
}

func TestDroppedFilesAreStillThere(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "a"), []byte("text"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := dropCache(dir); err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(filepath.Join(dir, "a")); err != nil || string(text) != "text" {
		t.Errorf("%q, %v", text, err)
	}
	if err := dropCache(filepath.Join(dir, "none")); err == nil {
		t.Error("a folder that is not there was dropped")
	}
}

// Deliveries may be so much ahead of deletions and no more, and deletions not at
// all.
func TestDayKeepsStep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &dayTest{undeleted: make(chan struct{}, 2*dayDeleted)}
		for range 2 * dayDeleted {
			if err := d.mayDeliver(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		more := make(chan error, 1)
		go func() { more <- d.mayDeliver(t.Context()) }()
		synctest.Wait()
		if len(more) > 0 || d.delivered.Load() != 2*dayDeleted {
			t.Errorf("one too many was delivered: %d", d.delivered.Load())
		}
		if err := d.mayDelete(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := <-more; err != nil {
			t.Error(err)
		}
		for range dayDeleted + 1 {
			<-d.undeleted
		}
		go func() { more <- d.mayDelete(t.Context()) }()
		synctest.Wait()
		if len(more) > 0 {
			t.Error("what had not been delivered was deleted")
		}
		for range dayDeleted {
			d.undeleted <- struct{}{}
		}
		if err := <-more; err != nil {
			t.Error(err)
		}
	})
}

func TestDiskUsed(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "below"), 0o700); err != nil {
		t.Fatal(err)
	}
	empty, err := diskUsed(dir)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(filepath.Join(dir, "below", "a"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.Write(make([]byte, 1<<20)); err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(1 << 30); err != nil { // a hole takes nothing
		t.Fatal(err)
	}
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	used, err := diskUsed(dir)
	if grown := used - empty; err != nil || grown < 1<<20 || grown > 2<<20 {
		t.Errorf("%v bytes more for 1 MiB, %v", grown, err)
	}
}

func TestScrape(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte("# HELP a Of a.\na 2.5\nb{of=\"x y\"} 7\nc_total 1e+06\n"))
	}))
	defer srv.Close()
	got, err := scrape(t.Context(), srv.Listener.Addr().String())
	if err != nil || got["a"] != 2.5 || got["c_total"] != 1e6 {
		t.Errorf("%v, %v", got, err)
	}
	srv.Close()
	if _, err := scrape(t.Context(), srv.Listener.Addr().String()); err == nil {
		t.Error("metrics of a node that is gone")
	}
}

func TestPick(t *testing.T) {
	user := func(name string, shard covey.ShardID) admin.User { return admin.User{Address: name, Shard: shard} }
	first, near, far := pick([]admin.User{user("a", 3), user("b", 5), user("c", 5), user("d", 3), user("e", 3)})
	if first != "a" || near != "d" || far != "b" {
		t.Errorf("%q, %q, %q; want a, d, b", first, near, far)
	}
	if _, near, far := pick([]admin.User{user("a", 3), user("b", 5)}); near != "" || far != "b" {
		t.Errorf("%q, %q; want none and b", near, far)
	}
}

func TestNeighbourFigures(t *testing.T) {
	idle := quiet{delivery: []float64{1, 2, 3}, fetch: []float64{1}}
	same := quiet{delivery: []float64{30, 2, 18}, fetch: []float64{11}}
	list := neighbourFigures(idle, same, idle, []float64{5})
	if list[0].Value != 9 || list[0].verdict() != "met" || list[1].Value != 11 || list[1].verdict() != "missed" {
		t.Errorf("%+v", list[:2])
	}
}
