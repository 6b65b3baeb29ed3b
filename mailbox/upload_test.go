package mailbox_test

import (
	"crypto/sha256"
	"strings"
	"testing"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/internal/message"
	"github.com/covey-mail/covey/mailbox"
	"github.com/covey-mail/covey/mailbox/mailboxtest"
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
