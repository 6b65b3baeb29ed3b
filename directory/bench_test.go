package directory_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/directory"
	"github.com/covey-mail/covey/directory/directorytest"
)

// million returns a directory of a million accounts and how to name one.
func million(b *testing.B) (*directory.Service, func(i int) covey.Address) {
	b.Helper()
	const n = 1_000_000
	s := directorytest.New(b)
	directorytest.Add(b, s, "first@example.org", "")
	start := time.Now()
	for at := 0; at < n; at += 50_000 {
		var file bytes.Buffer
		for i := range 50_000 {
			fmt.Fprintf(&file, "user%d@example.org %s\n", at+i, cheap)
		}
		if done, err := s.Import(b.Context(), &file, 0, nil); err != nil || done.Added != 50_000 {
			b.Fatal(done, err)
		}
	}
	b.Logf("imported %d accounts in %v", n, time.Since(start))
	return s, func(i int) covey.Address {
		return covey.Address{Local: fmt.Sprintf("user%d", i%n), Domain: "example.org"}
	}
}

func BenchmarkResolveOfAMillion(b *testing.B) {
	s, addr := million(b)
	b.Run("miss", func(b *testing.B) {
		for b.Loop() {
			if _, err := s.Resolve(b.Context(), addr(rand.Int())); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("hit", func(b *testing.B) {
		for b.Loop() {
			if _, err := s.Resolve(b.Context(), addr(rand.IntN(1000))); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("unknown", func(b *testing.B) {
		for b.Loop() {
			to := covey.Address{Local: fmt.Sprintf("no%d", rand.Int()), Domain: "example.org"}
			if _, err := s.Resolve(b.Context(), to); covey.KindOf(err) != covey.NotFound {
				b.Fatal(err)
			}
		}
	})
}
