package storage

import (
	"path/filepath"
	"testing"

	"github.com/covey-mail/covey/storage/seglog"
)

// The hash at an index is the same whether a state has been open since, was closed
// in between, or is another implementation.
func TestHashAt(t *testing.T) {
	cfg := Config{Path: filepath.Join(t.TempDir(), "shard")}
	memory, disk := OpenMemory(Config{}), State(open(t, cfg))
	if h, ok := memory.HashAt(0); !ok || h != 0 {
		t.Errorf("hash of nothing is %x, %v", h, ok)
	}
	for i := uint64(1); i <= 20; i++ {
		for _, s := range []State{memory, disk} {
			s.Apply([]seglog.Command{deliver(2*i, 1)})
		}
		if i == 10 {
			if err := disk.Close(); err != nil {
				t.Fatal(err)
			}
			disk = open(t, cfg)
		}
	}
	for i := uint64(20); i <= 40; i++ {
		a, ok := memory.HashAt(i)
		b, also := disk.HashAt(i)
		if !ok || !also || a != b || a == 0 {
			t.Errorf("hash at %d is %x, %v and %x, %v", i, a, ok, b, also)
		}
	}
	for _, s := range []State{memory, disk} {
		if h, ok := s.HashAt(41); ok {
			t.Errorf("a hash at 41 is known: %x", h)
		}
	}
	if h, ok := disk.HashAt(19); ok {
		t.Errorf("a hash at 19 is known after opening at 20: %x", h)
	}
}
