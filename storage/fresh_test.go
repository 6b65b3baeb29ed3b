package storage

import (
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/storage/seglog"
)

// An accountSet answers as a map does.
func TestAccountSet(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s, want := accountSet{}, map[covey.AccountID]bool{}
		id := rapid.OneOf(rapid.Uint64Range(0, 200), rapid.Uint64Range(4090, 4100), rapid.Uint64())
		for range rapid.IntRange(0, 100).Draw(t, "n") {
			one := covey.AccountID(id.Draw(t, "id"))
			if s.has(one) != want[one] {
				t.Fatalf("%d: %v, want %v", one, s.has(one), want[one])
			}
			if rapid.IntRange(0, 2).Draw(t, "drop") > 0 {
				s.drop(one)
				delete(want, one)
			} else {
				s.add(one)
				want[one] = true
			}
		}
		if s.len() != len(want) {
			t.Fatalf("%d accounts, want %d", s.len(), len(want))
		}
		for one := range want {
			s.drop(one)
		}
		if len(s) != 0 {
			t.Fatalf("%d pages are left of an empty set", len(s))
		}
	})
}

// Rows that wait are there for whoever asks next, and dropped by whoever drops
// them, each time without a question before that had them written.
func TestFreshRows(t *testing.T) {
	path := filepath.Join(t.TempDir(), "shard")
	s := open(t, Config{Path: path})
	d := s.m.t.(*database)
	d.subscribe(5, "Sent")
	d.subscribe(5, "INBOX")
	d.subscribe(5, "INBOX")
	if got := d.subscriptions(5); !cmp.Equal(got, []string{"INBOX", "Sent"}) {
		t.Errorf("subscriptions are %v", got)
	}
	d.subscribe(5, "Junk")
	d.unsubscribe(5, "Junk")
	d.putAccount(&account{id: 5, lastValidity: 9})
	d.putAccount(&account{id: 6})
	d.dropAccount(6)
	mb := &mailbox{Mailbox: Mailbox{ID: 1, Account: 5, Name: "INBOX", UIDValidity: 9, UIDNext: 1, HighestModSeq: 1}}
	d.putMailbox(mb)
	mb.Name = "Other"
	d.putMailbox(mb)
	gone := &mailbox{Mailbox: Mailbox{ID: 2, Account: 5, Name: "INBOX", UIDValidity: 9, UIDNext: 1, HighestModSeq: 1}}
	d.putMailbox(gone)
	d.dropMailbox(gone)
	if list := d.mailboxes(5, ""); len(list) != 1 || list[0] != mb || d.mailboxNamed(5, "INBOX") != nil {
		t.Errorf("mailboxes are %+v", list)
	}
	s.m.meta.lastMailbox = 2
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, Config{Path: path})
	d = s.m.t.(*database)
	if a, b := d.account(5), d.account(6); a == nil || a.lastValidity != 9 || a.mailboxes != 1 || b != nil {
		t.Errorf("accounts are %+v and %+v", a, b)
	}
	if got := d.subscriptions(5); !cmp.Equal(got, []string{"INBOX", "Sent"}) {
		t.Errorf("subscriptions are %v when opened again", got)
	}
	for _, err := range s.Check(t.Context()) {
		t.Error(err)
	}
}

// New accounts do not wait without bound for a commit.
func TestFreshRowsAreBounded(t *testing.T) {
	s := open(t, Config{Path: filepath.Join(t.TempDir(), "shard")})
	d := s.m.t.(*database)
	for i := range uint64(3*mostFresh + 5) {
		s.Apply([]seglog.Command{deliver(i+1, covey.AccountID(i+1))})
		if n := len(d.fresh.mailboxes); n >= mostFresh {
			t.Fatalf("%d mailboxes wait", n)
		}
	}
	if len(d.fresh.mailboxes) == 0 || len(d.fresh.accounts) == 0 || len(d.fresh.subscriptions) == 0 {
		t.Error("nothing waits")
	}
	if a := d.account(1); a == nil || a.messages != 1 {
		t.Errorf("the first account is %+v", a)
	}
	for _, err := range s.Check(t.Context()) {
		t.Error(err)
	}
}
