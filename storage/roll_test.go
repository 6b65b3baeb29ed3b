package storage

import (
	"slices"
	"testing"

	"github.com/covey-mail/covey"
)

// TestRollsAreBounded keeps more of mailboxes than there is room for: what is
// there stays true, whatever went.
func TestRollsAreBounded(t *testing.T) {
	l := newRolls()
	gaps := func(n int) (uids []UIDRange) {
		for i := range covey.UID(n) {
			uids = append(uids, UIDRange{2*i + 1, 2*i + 1})
		}
		return uids
	}
	check := func(what string, want ...covey.MailboxID) {
		t.Helper()
		size := 0
		var have []covey.MailboxID
		for id, r := range l.of {
			size += rollCost + len(r.uids)
			have = append(have, id)
		}
		slices.Sort(have)
		if size != l.size || size > maxRolls || !slices.Equal(have, want) {
			t.Errorf("%s: rolls of %v take %d words, counted as %d; want those of %v", what, have, size, l.size, want)
		}
	}
	l.keep(1, &roll{uids: gaps(maxRolls / 2)})
	l.keep(2, &roll{uids: gaps(maxRolls / 4)})
	check("two fit", 1, 2)
	l.keep(3, &roll{uids: gaps(maxRolls)})
	check("too large by itself", 1, 2)
	l.keep(3, &roll{uids: gaps(maxRolls / 2)})
	check("a third", 3)
	l.keep(4, &roll{uids: gaps(maxRolls/2 - 2*rollCost)})
	check("exactly full", 3, 4)
	l.add(4, 1<<30)
	check("one message more")
	l.keep(5, &roll{uids: []UIDRange{{1, maxRolls}}})
	l.remove(5, gaps(maxRolls/2))
	check("removal leaves gaps", 5)
	l.keep(6, &roll{uids: []UIDRange{{1, 2 * maxRolls}}})
	l.remove(6, gaps(maxRolls))
	check("too many", 5)
}
