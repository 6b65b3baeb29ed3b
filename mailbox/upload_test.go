package mailbox_test

import (
	"crypto/sha256"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/internal/message"
	"github.com/covey-mail/covey/mailbox"
	"github.com/covey-mail/covey/mailbox/mailboxtest"
	"github.com/covey-mail/covey/storage"
)

// TestUploadsShareNothing ends one upload before the next begins: what came of
// the first is not touched by the second, nor by the first being closed twice.
func TestUploadsShareNothing(t *testing.T) {
	c := mailboxtest.New(t, 1)
	take := func(message string) (*mailbox.Upload, *message.Summary, [sha256.Size]byte) {
		up := c.Service.NewUpload([]covey.ShardID{1}, []byte("Received: x\r\n"))
		if err := up.ReadFrom(t.Context(), strings.NewReader(message)); err != nil {
			t.Fatal(err)
		}
		return up, up.Summary(), up.Sum()
	}
	const one, two = "Subject: one\r\n\r\nfirst\r\n", "Subject: two\r\n\r\nsecond\r\n"
	up, summary, sum := take(one)
	up.Close()
	up.Close()
	left, _, _ := take(two)
	right, _, again := take(one)
	if got := string(left.Body().Inline); got != "Received: x\r\n"+two {
		t.Errorf("body of an upload under way became %q", got)
	}
	if sum != sha256.Sum256([]byte(one)) || again != sum {
		t.Error("sums are not those of what was read")
	}
	if summary.Header.Subject != "one" {
		t.Errorf("subject became %q", summary.Header.Subject)
	}
	left.Close()
	right.Close()
}

// A reads is a message of n octets that tells how much of it was taken.
type reads struct {
	left int
	took chan int // octets taken by each read
}

func (r *reads) Read(p []byte) (int, error) {
	if r.left == 0 {
		return 0, io.EOF
	}
	n := min(len(p), r.left)
	r.left -= n
	r.took <- n
	return n, nil
}

// TestUploadReadsWhileAChunkIsOnItsWay holds the first chunk back until the whole of
// the second was read.
func TestUploadReadsWhileAChunkIsOnItsWay(t *testing.T) {
	c := mailboxtest.New(t, 1)
	r := &reads{left: 3 * storage.ChunkSize, took: make(chan int)}
	var sent []uint32
	c.Fail(func(_ covey.ShardID, cmd storage.Command) error {
		chunk := cmd.(storage.Chunk)
		if sent = append(sent, chunk.N); chunk.N == 0 {
			for taken := 0; taken < storage.ChunkSize; {
				taken += <-r.took
			}
			go func() { // ends with the channel
				for range r.took {
				}
			}()
		}
		return nil
	})
	go func() {
		for taken := 0; taken < storage.ChunkSize; { // what fills the first chunk
			taken += <-r.took
		}
	}()
	up := c.Service.NewUpload([]covey.ShardID{1}, nil)
	defer up.Close()
	up.Keep()
	err := up.ReadFrom(t.Context(), r)
	close(r.took)
	if err != nil || up.Body().Chunks != 3 || !slices.Equal(sent, []uint32{0, 1, 2}) {
		t.Errorf("sent %v, %d chunks, %v; want three in order", sent, up.Body().Chunks, err)
	}
}

// TestUploadEndsWithTheChunkThatFailed fails the chunk that is on its way while the
// message goes on, or has come to its end.
func TestUploadEndsWithTheChunkThatFailed(t *testing.T) {
	for fails := range uint32(3) {
		c := mailboxtest.New(t, 1)
		most := uint32(0)
		c.Fail(func(_ covey.ShardID, cmd storage.Command) error {
			chunk, ok := cmd.(storage.Chunk)
			if !ok {
				return nil
			}
			if most = max(most, chunk.N); chunk.N == fails {
				return covey.Errorf(covey.DiskFull, "full")
			}
			return nil
		})
		up := c.Service.NewUpload([]covey.ShardID{1}, nil)
		err := up.ReadFrom(t.Context(), strings.NewReader(strings.Repeat("x", 3*storage.ChunkSize)))
		if !errors.Is(err, covey.DiskFull) || !errors.Is(up.Err(1), covey.DiskFull) {
			t.Errorf("chunk %d fails: %v, for its shard %v; want DiskFull", fails, err, up.Err(1))
		}
		up.Close()
		if most != fails {
			t.Errorf("chunk %d was sent after %d had failed", most, fails)
		}
	}
}
