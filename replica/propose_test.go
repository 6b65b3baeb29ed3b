package replica

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/covey-mail/covey/internal/durable"
)

// TestEntriesOutliveTheirProposals: the memory that carried a command to the core
// is used for the next one, while the entry is still read from the cache.
func TestEntriesOutliveTheirProposals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := startSingle(t, durable.OS(), t.TempDir(), Config{}, &recorder{})
		defer s.mustStop()
		var want []string
		for i := range 20 {
			want = append(want, fmt.Sprint(i)+strings.Repeat("x", 100-i))
			s.mustPropose(0, want[i])
		}
		last, err := s.log.Group(0).LastIndex()
		if err != nil {
			t.Fatal(err)
		}
		entries, err := s.log.Group(0).Entries(firstIndex+1, last+1, maxMessageBytes)
		if err != nil {
			t.Fatal(err)
		}
		entries = entries[len(entries)-len(want):]
		for i, e := range entries {
			if _, _, cmd, err := splitFrame(e.GetData()); err != nil || string(cmd) != want[i] {
				t.Errorf("entry %d became %q, %v, want %q", e.GetIndex(), cmd, err, want[i])
			}
		}
	})
}
