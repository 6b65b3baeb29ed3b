package storage

import (
	"path/filepath"
	"testing"

	"github.com/covey-mail/covey/storage/seglog"
)

func TestHashAt(t *testing.T) {
	s := OpenMemory(Config{})
	want := map[uint64]uint64{0: 0}
	check := func(index uint64, known bool) {
		t.Helper()
		got, ok := s.HashAt(index)
		if ok != known || ok && got != want[index] {
			t.Errorf("hash at %d is %x, %v; want %x, %v", index, got, ok, want[index], known)
		}
	}
	check(0, true)
	check(1, false)
	index, last := uint64(0), uint64(0)
	for n := range 70 * hashEvery {
		next := index + 1 + uint64(n%5)/4*2 // now and then two indexes are not commands
		for ; index < next; index++ {
			want[index] = last
		}
		s.Apply([]seglog.Command{entry(index, Abort{})})
		_, last = s.Hash()
		want[index] = last
	}
	check(index, true)
	check(index+1, false) // not yet: it may bring a command
	for i := index - 1000; i < index; i++ {
		check(i, true)
	}
	check(index-hashesKept*2-7, false)
	newest := (index - 1) / hashEvery * hashEvery
	for i := range uint64(marksKept) {
		check(newest-i*hashEvery, true)
	}
	check(newest-marksKept*hashEvery, false)
	check(newest-3*hashEvery+1, false)
	// A replica that has just been opened knows where it stands.
	d := open(t, Config{Path: filepath.Join(t.TempDir(), "shard")})
	d.Apply([]seglog.Command{entry(5000, Abort{})})
	_, h := d.Hash()
	d.Close()
	again := open(t, d.cfg)
	again.Apply([]seglog.Command{entry(5003, Abort{})})
	for i, known := range map[uint64]bool{4999: false, 5000: true, 5002: true, 4096: false, 5004: false} {
		if got, ok := again.HashAt(i); ok != known || ok && got != h {
			t.Errorf("after opening, hash at %d is %x, %v", i, got, ok)
		}
	}
}
