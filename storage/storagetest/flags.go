package storagetest

import (
	"fmt"
	"strings"
	"testing"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/storage"
)

func testFlags(t *testing.T, open Opener) {
	t.Run("operations", func(t *testing.T) {
		d := newDriver(t, open)
		id := d.deliver(1, "INBOX", 3)
		for i, c := range []struct {
			op    storage.FlagOp
			flags covey.Flags
			want  covey.Flags
		}{
			{storage.AddFlags, covey.NewFlags(covey.Seen, "b", "a"), covey.NewFlags(covey.Seen, "a", "b")},
			{storage.AddFlags, covey.NewFlags(covey.Deleted, "A", "c"), covey.NewFlags(covey.Seen|covey.Deleted, "a", "b", "c")},
			{storage.RemoveFlags, covey.NewFlags(covey.Seen|covey.Draft, "B", "never"), covey.NewFlags(covey.Deleted, "a", "c")},
			{storage.SetFlags, covey.NewFlags(covey.Flagged, "C"), covey.NewFlags(covey.Flagged, "c")},
			{storage.SetFlags, covey.Flags{}, covey.Flags{}},
		} {
			r := d.must(storage.StoreFlags{Account: 1, Mailbox: id, UIDs: runs(2, 2), Op: c.op, Flags: c.flags})
			d.same("result", r, &storage.Result{UIDs: runs(2, 2), ModSeq: covey.ModSeq(5 + i)})
			got := d.messages(storage.Query{Mailbox: id, UIDs: runs(2, 2)})[0]
			if !got.Flags.Equal(c.want) || got.ModSeq != r.ModSeq {
				t.Errorf("step %d: message has %+v at %d, want %+v", i, got.Flags, got.ModSeq, c.want)
			}
		}
		d.same("keywords", d.mailbox(1, "INBOX").Keywords, []string{"a", "b", "c"})
	})
	t.Run("counts", func(t *testing.T) {
		d := newDriver(t, open)
		id := d.deliver(1, "INBOX", 4)
		d.must(storage.StoreFlags{Account: 1, Mailbox: id, UIDs: runs(1, 2), Op: storage.AddFlags, Flags: covey.Flags{System: covey.Seen}})
		d.must(storage.StoreFlags{Account: 1, Mailbox: id, UIDs: runs(2, 3), Op: storage.AddFlags, Flags: covey.Flags{System: covey.Deleted}})
		mb, _, unseen, err := d.state.View(1, id)
		if mb.Unseen != 2 || mb.Deleted != 2 || unseen != 3 || err != nil {
			t.Errorf("%d unseen, %d deleted, first unseen %d, error %v", mb.Unseen, mb.Deleted, unseen, err)
		}
	})
	t.Run("unchanged", func(t *testing.T) {
		d := newDriver(t, open)
		id := d.deliver(1, "INBOX", 2)
		c := storage.StoreFlags{Account: 1, Mailbox: id, UIDs: runs(1, 1), Op: storage.AddFlags, Flags: covey.Flags{System: covey.Seen}}
		d.must(c)
		d.same("again", d.must(c), &storage.Result{UIDs: runs(1, 1)})
		c.UIDs = runs(7, 9, 0, 0, 5, 3)
		d.same("none there", d.must(c), &storage.Result{})
	})
	t.Run("conditional", func(t *testing.T) {
		d := newDriver(t, open)
		id := d.deliver(1, "INBOX", 4) // ModSeq 2 … 5
		r := d.must(storage.StoreFlags{
			Account: 1, Mailbox: id, UIDs: all, Op: storage.AddFlags, Flags: covey.Flags{System: covey.Seen},
			UnchangedSince: 3, Conditional: true,
		})
		d.same("result", r, &storage.Result{UIDs: runs(1, 2), Conflicts: runs(3, 4), ModSeq: 6})
	})
	t.Run("many", func(t *testing.T) {
		d := newDriver(t, open)
		id := d.deliver(1, "INBOX", 700) // several slices
		r := d.must(storage.StoreFlags{Account: 1, Mailbox: id, UIDs: all, Op: storage.AddFlags, Flags: covey.Flags{System: covey.Seen}})
		d.same("result", r, &storage.Result{UIDs: runs(1, 700), ModSeq: 702})
		if mb := d.mailbox(1, "INBOX"); mb.Unseen != 0 {
			t.Errorf("%d unseen", mb.Unseen)
		}
	})
	t.Run("I-31/refused", func(t *testing.T) {
		d := newDriver(t, open)
		id := d.deliver(1, "INBOX", 1)
		c := storage.StoreFlags{Account: 1, Mailbox: id, UIDs: all, Op: 3}
		d.refuse(c, covey.Invalid)
		c.Op, c.Flags.System = storage.AddFlags, 0x80
		d.refuse(c, covey.Invalid)
		c.Flags.System, c.Account = covey.Seen, 2
		d.refuse(c, covey.NotFound)
		c.Account, c.Mailbox = 1, id+1
		d.refuse(c, covey.NotFound)
	})
}

func testKeywords(t *testing.T, open Opener) {
	words := func(prefix string, n int) []string {
		var list []string
		for i := range n {
			list = append(list, fmt.Sprintf("%s%d", prefix, i))
		}
		return list
	}
	store := func(id covey.MailboxID, uid covey.UID, list ...string) storage.StoreFlags {
		return storage.StoreFlags{Account: 1, Mailbox: id, UIDs: runs(uid, uid), Op: storage.AddFlags, Flags: covey.Flags{Keywords: list}}
	}
	t.Run("I-25/form", func(t *testing.T) {
		d := newDriver(t, open)
		id := d.deliver(1, "INBOX", 1)
		for _, bad := range []string{"", "a b", "a(", `\Recent`, `\*`, "a]", "ä", "a\x00", "%", `"`} {
			d.refuse(store(id, 1, bad), covey.Invalid)
		}
		d.refuse(store(id, 1, strings.Repeat("x", covey.MaxKeywordLength+1)), covey.Limit)
		d.refuse(store(id, 1, strings.Repeat("x", 10<<10)), covey.Limit)
		d.must(store(id, 1, strings.Repeat("x", covey.MaxKeywordLength)))
	})
	t.Run("I-25/on one message", func(t *testing.T) {
		d := newDriver(t, open)
		id := d.deliver(1, "INBOX", 1)
		d.refuse(store(id, 1, words("k", covey.MaxKeywords+1)...), covey.Limit)
		d.refuse(store(id, 1, words("k", 10000)...), covey.Limit)
		d.must(store(id, 1, words("k", covey.MaxKeywords)...))
		d.refuse(store(id, 1, "one-more"), covey.Limit)
		d.must(store(id, 1, "K0"))
	})
	t.Run("I-25/in one mailbox", func(t *testing.T) {
		d := newDriver(t, open)
		id := d.deliver(1, "INBOX", 9)
		for i := range 4 {
			d.must(store(id, covey.UID(i+1), words(fmt.Sprintf("w%d-", i), 64)...))
		}
		d.refuse(store(id, 9, "one-more"), covey.Limit)
		d.refuse(storage.Append{Account: 1, Mailbox: "INBOX", Time: noon, Flags: covey.NewFlags(0, "one-more")}, covey.Limit)
		d.must(store(id, 9, "W0-1"))
		if n := len(d.mailbox(1, "INBOX").Keywords); n != storage.MaxMailboxKeywords {
			t.Errorf("%d keywords", n)
		}
		d.deliver(1, "Junk", 1)
		junk := d.mailbox(1, "Junk").ID
		d.must(store(junk, 1, "one-more"))
		d.refuse(storage.Copy{Account: 1, Mailbox: junk, UIDs: all, To: "INBOX", Time: noon}, covey.Limit)
	})
	t.Run("spelling", func(t *testing.T) {
		d := newDriver(t, open)
		id := d.deliver(1, "INBOX", 2)
		d.must(store(id, 1, "$Forwarded"))
		d.must(store(id, 2, "$FORWARDED"))
		d.same("keywords", d.messages(storage.Query{Mailbox: id})[1].Flags.Keywords, []string{"$Forwarded"})
		d.must(storage.Append{Account: 1, Mailbox: "Sent", Time: noon, Flags: covey.NewFlags(0, "$forwarded")})
		d.must(storage.Copy{Account: 1, Mailbox: id, UIDs: all, To: "Sent", Time: noon})
		d.same("keywords of the copies' mailbox", d.mailbox(1, "Sent").Keywords, []string{"$forwarded"})
	})
}

func testExpunge(t *testing.T, open Opener) {
	t.Run("only deleted", func(t *testing.T) {
		d := newDriver(t, open)
		id := d.deliver(1, "INBOX", 5)
		d.must(storage.StoreFlags{Account: 1, Mailbox: id, UIDs: runs(2, 4), Op: storage.AddFlags, Flags: covey.Flags{System: covey.Deleted}})
		r := d.must(storage.Expunge{Account: 1, Mailbox: id, UIDs: runs(4, 5, 1, 2), OnlyDeleted: true})
		d.same("result", r, &storage.Result{UIDs: runs(2, 2, 4, 4), ModSeq: 8})
		d.same("left", d.uids(id), []covey.UID{1, 3, 5})
		changes, err := d.state.Changes(1, id, 7)
		d.same("expunged", changes.Expunged, runs(2, 2, 4, 4))
		if err != nil || len(changes.Changed) > 0 {
			t.Errorf("changes %+v, error %v", changes, err)
		}
	})
	t.Run("P-12/twice", func(t *testing.T) {
		d := newDriver(t, open)
		id := d.deliver(1, "INBOX", 1)
		c := storage.Expunge{Account: 1, Mailbox: id, UIDs: all}
		d.must(c)
		d.same("second", d.must(c), &storage.Result{})
	})
	t.Run("R-04/UIDs are not used again", func(t *testing.T) {
		d := newDriver(t, open)
		id := d.deliver(1, "INBOX", 3)
		d.must(storage.Expunge{Account: 1, Mailbox: id, UIDs: all})
		d.deliver(1, "INBOX", 1)
		d.same("UIDs", d.uids(id), []covey.UID{4})
		if n := d.liveBytes(); n != int64(len("message 0\r\n")) {
			t.Errorf("%d bytes are live", n)
		}
	})
	t.Run("many runs", func(t *testing.T) {
		d := newDriver(t, open)
		id := d.deliver(1, "INBOX", 2300)
		start := d.mailbox(1, "INBOX").HighestModSeq
		for uid := covey.UID(1); uid <= 2300; uid += 2 {
			d.must(storage.Expunge{Account: 1, Mailbox: id, UIDs: runs(uid, uid)})
		}
		recent, err := d.state.Changes(1, id, start+1150-10)
		if n := len(recent.Expunged); n != 10 || err != nil {
			t.Errorf("after the last ten: %d runs, error %v", n, err)
		}
		early, err := d.state.Changes(1, id, start+10)
		if n := len(early.Expunged); n != 1150 || err != nil {
			t.Errorf("from before what is kept: %d runs, want all 1150; error %v", n, err)
		}
	})
	t.Run("I-31/refused", func(t *testing.T) {
		d := newDriver(t, open)
		id := d.deliver(1, "INBOX", 1)
		d.refuse(storage.Expunge{Account: 2, Mailbox: id, UIDs: all}, covey.NotFound)
	})
}

func testCopy(t *testing.T, open Opener) {
	t.Run("copy", func(t *testing.T) {
		d := newDriver(t, open)
		id := d.deliver(1, "INBOX", 4)
		d.must(storage.StoreFlags{Account: 1, Mailbox: id, UIDs: runs(2, 2), Op: storage.AddFlags, Flags: covey.NewFlags(covey.Seen, "k")})
		d.create(1, "To")
		r := d.must(storage.Copy{Account: 1, Mailbox: id, UIDs: runs(4, 9, 2, 2), To: "To", Time: noon})
		to := d.mailbox(1, "To")
		d.same("result", r, &storage.Result{
			Placed: []storage.Placed{
				{Mailbox: to.ID, UIDValidity: to.UIDValidity, Source: 2, UID: 1},
				{Mailbox: to.ID, UIDValidity: to.UIDValidity, Source: 4, UID: 2},
			},
			Mailbox: to, ModSeq: 2,
		})
		if to.Unseen != 1 || to.Messages != 2 {
			t.Errorf("destination is %+v", to)
		}
		got := d.messages(storage.Query{Mailbox: to.ID, Summary: true})
		d.same("flags", got[0].Flags, covey.NewFlags(covey.Seen, "k"))
		d.same("summary", string(got[1].Summary), "summary of message 3\r\n")
		d.same("left", d.uids(id), []covey.UID{1, 2, 3, 4})
		// The copies share their bodies, which go with the last of them.
		d.must(storage.Expunge{Account: 1, Mailbox: id, UIDs: all})
		if n := d.liveBytes(); n != 22 {
			t.Errorf("%d bytes are live, want 22", n)
		}
		d.must(storage.DeleteMailbox{Account: 1, Name: "To"})
		if n := d.liveBytes(); n != 0 {
			t.Errorf("%d bytes are live, want none", n)
		}
	})
	t.Run("move", func(t *testing.T) {
		d := newDriver(t, open)
		id := d.deliver(1, "INBOX", 3)
		r := d.must(storage.Copy{Account: 1, Mailbox: id, UIDs: runs(1, 2), To: "Trash", Time: noon, Quota: 1, Move: true})
		d.same("gone", r.UIDs, runs(1, 2))
		d.same("left", d.uids(id), []covey.UID{3})
		if trash := d.mailbox(1, "Trash"); trash.Messages != 2 || trash.Use != storage.Trash {
			t.Errorf("Trash is %+v", trash)
		}
		changes, err := d.state.Changes(1, id, r.ModSeq-1)
		d.same("expunged", changes.Expunged, runs(1, 2))
		if a, _ := d.state.Account(1); a.Messages != 3 || err != nil {
			t.Errorf("account holds %+v, error %v", a, err)
		}
	})
	t.Run("within one mailbox", func(t *testing.T) {
		d := newDriver(t, open)
		id := d.deliver(1, "INBOX", 600)
		d.must(storage.Copy{Account: 1, Mailbox: id, UIDs: all, To: "INBOX", Time: noon})
		if mb := d.mailbox(1, "INBOX"); mb.Messages != 1200 || mb.UIDNext != 1201 {
			t.Errorf("after a copy: %+v", mb)
		}
		r := d.must(storage.Copy{Account: 1, Mailbox: id, UIDs: runs(1, 1199), To: "INBOX", Time: noon, Move: true})
		_, uids, _, err := d.state.View(1, id)
		d.same("UIDs after a move", uids, runs(1200, 2399))
		if r.ModSeq != r.Mailbox.HighestModSeq || err != nil {
			t.Errorf("one command made changes %d and %d, error %v", r.ModSeq, r.Mailbox.HighestModSeq, err)
		}
	})
	t.Run("I-24/refused", func(t *testing.T) {
		d := newDriver(t, open)
		id := d.deliver(1, "INBOX", 2)
		c := storage.Copy{Account: 1, Mailbox: id, UIDs: all, To: "Nowhere", Time: noon}
		d.refuse(c, covey.NotFound)
		c.To, c.Quota = "Trash", 43
		d.refuse(c, covey.OverQuota)
		c.Quota, c.Account = 0, 2
		d.refuse(c, covey.NotFound)
		c.Account, c.UIDs = 1, runs(8, 9)
		d.same("of nothing", d.must(c), &storage.Result{})
		d.gone(1, "Trash")
	})
}
