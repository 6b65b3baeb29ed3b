package storagetest

import (
	"context"
	"errors"
	"testing"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/storage"
)

func testRead(t *testing.T, open Opener) {
	d := newDriver(t, open)
	id := d.fill(600)
	t.Run("I-15/sets", func(t *testing.T) {
		for _, c := range []struct {
			uids []storage.UIDRange
			want int
		}{
			{nil, 541}, {all, 541}, {runs(1, 9), 9}, {runs(10, 10), 0}, {runs(600, 1<<32-1), 1}, {runs(7, 3), 0},
			{runs(0, 2), 2}, {runs(20, 21, 1, 2, 2, 5), 6}, {[]storage.UIDRange{}, 0}, {everyOther(20000), 300},
		} {
			got := d.messages(storage.Query{Mailbox: id, UIDs: c.uids})
			if len(got) != c.want {
				t.Errorf("%v: %d messages, want %d", c.uids[:min(4, len(c.uids))], len(got), c.want)
			}
			for i := 1; i < len(got); i++ {
				if got[i].UID <= got[i-1].UID {
					t.Fatalf("%v: UID %d after %d", c.uids, got[i].UID, got[i-1].UID)
				}
			}
		}
	})
	t.Run("since", func(t *testing.T) {
		r := d.must(storage.StoreFlags{Account: 1, Mailbox: id, UIDs: runs(5, 5, 599, 599), Op: storage.AddFlags, Flags: covey.Flags{System: covey.Seen}})
		if got := d.messages(storage.Query{Mailbox: id, Since: r.ModSeq - 1}); len(got) != 2 || got[1].UID != 599 {
			t.Errorf("changed are %+v", got)
		}
		if got := d.messages(storage.Query{Mailbox: id, Since: 401}); len(got) != 181+1 {
			t.Errorf("%d messages changed since 401", len(got))
		}
	})
	t.Run("summary", func(t *testing.T) {
		for _, m := range d.messages(storage.Query{Mailbox: id, UIDs: runs(1, 2)}) {
			if m.Summary != nil {
				t.Errorf("summary %q was not asked for", m.Summary)
			}
		}
	})
	t.Run("again", func(t *testing.T) {
		// What was read before is as it is now, also where only part of it changed.
		for _, change := range []storage.Command{
			storage.StoreFlags{Account: 1, Mailbox: id, UIDs: runs(590, 592), Op: storage.AddFlags, Flags: covey.NewFlags(covey.Flagged, "k")},
			storage.Expunge{Account: 1, Mailbox: id, UIDs: runs(594, 594)},
			storage.StoreFlags{Account: 1, Mailbox: id, UIDs: runs(590, 600), Op: storage.SetFlags},
			storage.Confirm{},
		} {
			q := storage.Query{Mailbox: id, UIDs: runs(588, 600)}
			d.must(change)
			want := d.messages(q)
			q.Summary = true
			got := d.messages(q)
			for i := range got {
				if len(got[i].Summary) == 0 {
					t.Errorf("message %d has no summary", got[i].UID)
				}
				got[i].Summary = nil
			}
			d.same("read", got, want)
		}
	})
	t.Run("ends", func(t *testing.T) {
		stop, n := errors.New("stop"), 0
		err := d.state.Messages(t.Context(), storage.Query{Mailbox: id}, func(*storage.Message) error {
			n++
			return stop
		})
		if err != stop || n != 1 {
			t.Errorf("error %v after %d messages", err, n)
		}
		ctx, cancel := context.WithCancel(t.Context())
		n = 0
		err = d.state.Messages(ctx, storage.Query{Mailbox: id}, func(*storage.Message) error {
			n++
			cancel()
			return nil
		})
		if !errors.Is(err, context.Canceled) || n >= 541 {
			t.Errorf("error %v after %d messages", err, n)
		}
	})
	t.Run("beside the writer", func(t *testing.T) {
		n := 0
		err := d.state.Messages(t.Context(), storage.Query{Mailbox: id}, func(m *storage.Message) error {
			if n++; n == 1 {
				d.must(storage.Expunge{Account: 1, Mailbox: id, UIDs: runs(500, 599)})
				d.deliver(1, "INBOX", 2)
			}
			return nil
		})
		if err != nil || n != 541-90+2 {
			t.Errorf("%d messages, error %v", n, err)
		}
	})
	t.Run("not there", func(t *testing.T) {
		err := d.state.Messages(t.Context(), storage.Query{Mailbox: 99}, nil)
		_, bodyErr := d.state.Body(1 << 40)
		_, _, _, viewErr := d.state.View(2, id)
		_, changesErr := d.state.Changes(1, 99, 0)
		for _, err := range []error{err, bodyErr, viewErr, changesErr} {
			if !errors.Is(err, covey.NotFound) {
				t.Errorf("error %v, want not found", err)
			}
		}
		if a, err := d.state.Account(77); err != nil || a.Messages != 0 {
			t.Errorf("account %+v, error %v", a, err)
		}
		if list, err := d.state.Mailboxes(77); err != nil || len(list) != 0 {
			t.Errorf("mailboxes %+v, error %v", list, err)
		}
	})
}

// testView opens a mailbox after each change, as what is kept of it in memory has
// to follow them all.
func testView(t *testing.T, open Opener) {
	d := newDriver(t, open)
	id := d.deliver(1, "INBOX", 10)
	seen := func(op storage.FlagOp, uids ...covey.UID) storage.StoreFlags {
		return storage.StoreFlags{Account: 1, Mailbox: id, UIDs: runs(uids...), Op: op, Flags: covey.Flags{System: covey.Seen}}
	}
	expunge := func(uids ...covey.UID) storage.Expunge {
		return storage.Expunge{Account: 1, Mailbox: id, UIDs: runs(uids...)}
	}
	for _, step := range []struct {
		what   string
		cmd    storage.Command // nil: none
		uids   []storage.UIDRange
		unseen covey.UID
	}{
		{"ten messages", nil, runs(1, 10), 1},
		{"the first are seen", seen(storage.AddFlags, 1, 6), runs(1, 10), 7},
		{"one is not", seen(storage.SetFlags, 1, 10), runs(1, 10), 0},
		{"one of them again not", seen(storage.RemoveFlags, 4, 5), runs(1, 10), 4},
		{"the first unseen goes", expunge(4, 4), runs(1, 3, 5, 10), 5},
		{"several go", expunge(1, 1, 6, 7, 10, 10), runs(2, 3, 5, 5, 8, 9), 5},
		{"all are seen", seen(storage.AddFlags, 1, 100), runs(2, 3, 5, 5, 8, 9), 0},
		{"one is delivered", d.delivery(1, "INBOX", "x"), runs(2, 3, 5, 5, 8, 9, 11, 11), 11},
		{"some are moved", storage.Copy{Account: 1, Mailbox: id, UIDs: runs(3, 8), To: "Trash", Move: true}, runs(2, 2, 9, 9, 11, 11), 11},
		{"and within the mailbox", storage.Copy{Account: 1, Mailbox: id, UIDs: runs(9, 9), To: "INBOX", Move: true}, runs(2, 2, 11, 12), 11},
		{"nothing is left", expunge(1, 100), nil, 0},
		{"one comes", d.delivery(1, "INBOX", "y"), runs(13, 13), 13},
		{"INBOX is renamed", storage.RenameMailbox{Account: 1, From: "INBOX", To: "old", Time: d.now}, nil, 0},
	} {
		if step.cmd != nil {
			d.must(step.cmd)
		}
		_, uids, unseen, err := d.state.View(1, id)
		if err != nil || unseen != step.unseen {
			t.Errorf("%s: first unseen %d, want %d; error %v", step.what, unseen, step.unseen, err)
		}
		d.same(step.what, uids, step.uids)
	}
}

func everyOther(n covey.UID) []storage.UIDRange {
	var list []storage.UIDRange
	for uid := covey.UID(1); uid < n; uid += 2 {
		list = append(list, storage.UIDRange{First: uid, Last: uid})
	}
	return list
}

func testChanges(t *testing.T, open Opener) {
	d := newDriver(t, open)
	id := d.deliver(1, "INBOX", 300)
	uids := func(list []storage.Message) []storage.UIDRange {
		var out []storage.UIDRange
		for _, m := range list {
			out = append(out, runs(m.UID, m.UID)...)
		}
		return out
	}
	start := d.mailbox(1, "INBOX").HighestModSeq
	d.must(storage.StoreFlags{Account: 1, Mailbox: id, UIDs: runs(7, 7, 3, 3), Op: storage.AddFlags, Flags: covey.Flags{System: covey.Seen}})
	d.must(storage.Expunge{Account: 1, Mailbox: id, UIDs: runs(5, 6, 100, 100)})
	d.deliver(1, "INBOX", 1)
	for _, c := range []struct {
		since    covey.ModSeq
		changed  []storage.UIDRange
		expunged []storage.UIDRange
	}{
		{start, runs(3, 3, 7, 7, 301, 301), runs(5, 6, 100, 100)},
		{start + 1, runs(301, 301), runs(5, 6, 100, 100)},
		{start + 2, runs(301, 301), nil},
		{start + 3, nil, nil},
		{start + 99, nil, nil},
		{start - 1, runs(3, 3, 7, 7, 300, 300, 301, 301), runs(5, 6, 100, 100)},
	} {
		got, err := d.state.Changes(1, id, c.since)
		if err != nil {
			t.Fatal(err)
		}
		d.same("changed", uids(got.Changed), c.changed)
		d.same("expunged", got.Expunged, c.expunged)
		d.same("mailbox", got.Mailbox, d.mailbox(1, "INBOX"))
	}
	got, err := d.state.Changes(1, id, 0)
	if len(got.Changed) != 298 || err != nil {
		t.Errorf("%d messages since the start, error %v", len(got.Changed), err)
	}
	// Changes to very many messages at once, and many changes, are told as well.
	r := d.must(storage.StoreFlags{Account: 1, Mailbox: id, UIDs: everyOther(300), Op: storage.AddFlags, Flags: covey.Flags{System: covey.Flagged}})
	if got, _ := d.state.Changes(1, id, r.ModSeq-1); len(got.Changed) != 149 {
		t.Errorf("%d messages changed at once", len(got.Changed))
	}
}
