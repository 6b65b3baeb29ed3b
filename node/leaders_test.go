package node

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func FuzzLeaders(f *testing.F) {
	f.Add(encodeLeaders([]ledShard{{0, 2, 7}, {maxShards, 1 << 60, 8}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		list, err := decodeLeaders(b)
		if err != nil {
			return
		}
		again, err := decodeLeaders(encodeLeaders(list))
		if d := cmp.Diff(list, again, cmp.AllowUnexported(ledShard{})); d != "" || err != nil {
			t.Errorf("(-want +got), error %v:\n%s", err, d)
		}
	})
}
