package peer

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/covey-mail/covey"
)

// BenchmarkCall8KiB is what a delivery to another node costs here: 8 KiB there,
// a few octets back, 64 at a time, over TLS on loopback.
func BenchmarkCall8KiB(b *testing.B) {
	x, y, _ := pair(b)
	y.Handle(waitMethod, func(context.Context, covey.NodeID, []byte) ([]byte, error) { return []byte("done"), nil })
	req := make([]byte, 8<<10)
	b.SetBytes(int64(len(req)))
	b.ReportAllocs()
	mustCall(b, x.Net, y.id, echoMethod, "up")
	b.ResetTimer()
	var next atomic.Int64
	var wg sync.WaitGroup
	for range 64 {
		wg.Go(func() {
			for next.Add(1) <= int64(b.N) {
				if _, err := x.Call(b.Context(), y.id, waitMethod, req); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}

// BenchmarkCallAlone is the round trip of a small call, one at a time.
func BenchmarkCallAlone(b *testing.B) {
	x, y, _ := pair(b)
	mustCall(b, x.Net, y.id, echoMethod, "up")
	b.ReportAllocs()
	b.ResetTimer()
	for range b.N {
		if _, err := x.Call(b.Context(), y.id, echoMethod, []byte("x")); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkPost sends messages of 1 KiB as fast as they are taken.
func BenchmarkPost(b *testing.B) {
	x, y, _ := pair(b)
	const window = 1000
	room := make(chan struct{}, window)
	y.HandlePost(1, func(covey.NodeID, []byte) { <-room })
	mustCall(b, x.Net, y.id, echoMethod, "up")
	msg := make([]byte, 1<<10)
	b.SetBytes(int64(len(msg)))
	b.ReportAllocs()
	b.ResetTimer()
	for range b.N {
		room <- struct{}{}
		x.Post(y.id, 1, msg)
	}
	for range window { // until all have arrived
		room <- struct{}{}
	}
}

// BenchmarkBulk carries chunks of a snapshot, 1 MiB, four at a time.
func BenchmarkBulk(b *testing.B) {
	x, y, _ := pair(b)
	chunk := make([]byte, 1<<20)
	y.Handle(FirstBulk, func(context.Context, covey.NodeID, []byte) ([]byte, error) { return chunk, nil })
	mustCall(b, x.Net, y.id, echoBulk, "up")
	b.SetBytes(int64(len(chunk)))
	b.ResetTimer()
	var next atomic.Int64
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for next.Add(1) <= int64(b.N) {
				if _, err := x.Call(b.Context(), y.id, FirstBulk); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}
