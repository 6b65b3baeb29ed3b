package node

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/node/admin"
	"github.com/covey-mail/covey/node/compare"
	"github.com/covey-mail/covey/storage"
)

// A node alone has nothing to compare its replicas with, and nobody to have a
// damaged body from.
func TestAlone(t *testing.T) {
	n := run(t, config(t.TempDir()))
	list := call[[]admin.Comparison](t, n, admin.Compare, admin.Empty{})
	if len(list) != 3 {
		t.Fatalf("%d shards were compared, want 3", len(list))
	}
	for i, c := range list {
		if c.Differ || len(c.Replicas) != 1 || c.Replicas[0].Error != "" || (c.Index > 0) != (i == 0) {
			t.Errorf("%+v", c)
		}
	}
	if b, err := n.fetchPart(t.Context(), 1, storage.Part{Body: 1}); !errors.Is(err, covey.Unavailable) {
		t.Errorf("a part from nobody: %q, %v", b, err)
	}
	for _, req := range []partRequest{{shard: 1, body: 77}, {shard: 99, body: 1}} {
		if b, err := n.servePart(t.Context(), 2, req.encode()); !errors.Is(err, covey.NotFound) {
			t.Errorf("%+v: %q, %v", req, b, err)
		}
	}
	if _, err := n.serveHash(t.Context(), 2, hashRequest{shard: 99}.encode()); !errors.Is(err, covey.NotFound) {
		t.Errorf("hash of another shard: %v", err)
	}
}

// FuzzPeerRequests reads what nodes ask each other about bodies and hashes.
func FuzzPeerRequests(f *testing.F) {
	f.Add(partRequest{3, 1 << 40, 9}.encode())
	f.Add(hashRequest{16, 1 << 50}.encode())
	f.Add(encodeAnswer(compare.Answer{Applied: 5, Known: true, Hash: 1<<64 - 1}))
	f.Fuzz(func(t *testing.T, b []byte) {
		if p, err := decodePart(b); err == nil {
			if again, err := decodePart(p.encode()); again != p || err != nil || p.n >= storage.MaxChunks {
				t.Errorf("%+v is %+v, error %v", p, again, err)
			}
		}
		if h, err := decodeHash(b); err == nil {
			if again, err := decodeHash(h.encode()); again != h || err != nil {
				t.Errorf("%+v is %+v, error %v", h, again, err)
			}
		}
		if a, err := decodeAnswer(b); err == nil {
			again, err := decodeAnswer(encodeAnswer(a))
			if d := cmp.Diff(a, again); d != "" || err != nil {
				t.Errorf("(-want +got), error %v:\n%s", err, d)
			}
		}
	})
}
