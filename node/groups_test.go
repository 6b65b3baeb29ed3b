package node

import (
	"testing"

	"github.com/covey-mail/covey/replica"
)

// A follower that has nothing must not get a vote, though a short log lacks little.
func TestCaughtUp(t *testing.T) {
	for _, tt := range []struct {
		name      string
		follower  replica.Follower
		committed uint64
		want      bool
	}{
		{"has all", replica.Follower{Match: 900, Active: true}, 900, true},
		{"lacks little", replica.Follower{Match: 10_000 - behind, Active: true}, 10_000, true},
		{"lacks much", replica.Follower{Match: 10_000 - behind - 1, Active: true}, 10_000, false},
		{"has nothing of little", replica.Follower{Active: true}, 900, false},
		{"is silent", replica.Follower{Match: 900}, 900, false},
		{"gets a copy", replica.Follower{Match: 900, Active: true, Snapshot: true}, 900, false},
	} {
		if got := caughtUp(tt.follower, tt.committed); got != tt.want {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
	}
}
