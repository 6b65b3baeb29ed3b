package storagetest

import (
	"slices"
	"strings"
	"testing"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/storage"
)

func testNames(t *testing.T, open Opener) {
	d := newDriver(t, open)
	deep := strings.Repeat("d/", storage.MaxNameDepth)
	for _, c := range []struct{ name, want string }{
		{"a", "a"}, {".", "."}, {"..", ".."}, {"../x", "../x"}, {"b/../../c", "b/../../c"}, {"&AAA", "&AAA"},
		{"inBox/Sub", "INBOX/Sub"}, {"INBOXES", "INBOXES"}, {"x/inbox", "x/inbox"},
		{"é", "é"}, {"e\u0301", "e\u0301"}, {"\u202eabc", "\u202eabc"}, {"zero\u200bwidth", "zero\u200bwidth"},
		{strings.Repeat("x", 255), strings.Repeat("x", 255)}, {deep[:len(deep)-1], deep[:len(deep)-1]},
		{"/etc/passwd", ""}, {"", ""}, {"/", ""}, {"a//b", ""}, {"a/", ""}, {"nul\x00", ""}, {"cr\r", ""}, {"del\x7f", ""},
		{"bad\xff", ""}, {strings.Repeat("x", 256), ""}, {strings.Repeat("abc/", 1024) + "x", ""}, {deep + "d", ""},
	} {
		cmd := storage.CreateMailbox{Account: 1, Name: c.name, Time: noon}
		if c.want == "" {
			d.refuse(cmd, covey.Invalid)
			d.gone(1, c.name)
			d.refuse(storage.RenameMailbox{Account: 1, From: "a", To: c.name}, covey.Invalid)
			d.refuse(storage.DeleteMailbox{Account: 1, Name: c.name}, covey.Invalid)
			d.refuse(storage.Subscribe{Account: 1, Name: c.name, On: true}, covey.Invalid)
			continue
		}
		if got := d.must(cmd).Mailbox.Name; got != c.want {
			t.Errorf("I-22: %q became %q", c.name, got)
		}
		d.mailbox(1, c.name)
	}
}

// names returns the account's mailboxes, those that cannot be selected in
// parentheses.
func (d *driver) names(a covey.AccountID) string {
	d.t.Helper()
	list, err := d.state.Mailboxes(a)
	if err != nil {
		d.t.Fatal(err)
	}
	var b strings.Builder
	for _, mb := range list {
		name := mb.Name
		if mb.NoSelect {
			name = "(" + name + ")"
		}
		if mb.ID == 0 {
			name = "-" + name
		}
		if mb.Subscribed {
			name += "*"
		}
		b.WriteString(" " + name)
	}
	return strings.TrimPrefix(b.String(), " ")
}

func testCreate(t *testing.T, open Opener) {
	t.Run("levels", func(t *testing.T) {
		d := newDriver(t, open)
		mb := d.create(1, "Archive/2024/May")
		if d.names(1) != "Archive* Archive/2024 Archive/2024/May" || d.mailbox(1, "Archive").Use != storage.Archive {
			t.Errorf("mailboxes are %s", d.names(1))
		}
		d.same("mailbox", mb, storage.Mailbox{
			ID: 3, Account: 1, Name: "Archive/2024/May", UIDValidity: uint32(noon.Unix()) + 2, UIDNext: 1, HighestModSeq: 1,
		})
	})
	t.Run("use", func(t *testing.T) {
		d := newDriver(t, open)
		d.must(storage.CreateMailbox{Account: 1, Name: "Gesendet", Use: storage.Sent, Time: noon})
		if use := d.mailbox(1, "Gesendet").Use; use != storage.Sent {
			t.Errorf("use is %d", use)
		}
		d.refuse(storage.CreateMailbox{Account: 1, Name: "x", Use: 99, Time: noon}, covey.Invalid)
		d.refuse(storage.CreateMailbox{Name: "x", Time: noon}, covey.Invalid)
	})
	t.Run("I-23/exists", func(t *testing.T) {
		d := newDriver(t, open)
		mb := d.create(1, "a")
		c := storage.CreateMailbox{Account: 1, Name: "a", Time: noon}
		d.refuse(c, covey.Exists)
		c.IfMissing = true
		d.same("mailbox", d.must(c).Mailbox, mb)
		c.Account = 2
		if got := d.must(c).Mailbox; got.ID == mb.ID {
			t.Errorf("two accounts share mailbox %d", mb.ID)
		}
	})
	t.Run("most", func(t *testing.T) {
		d := newDriver(t, open)
		c := storage.CreateMailbox{Account: 1, Name: "a/b", Time: noon, Most: 1}
		d.refuse(c, covey.Limit)
		c.Most = 2
		d.must(c)
		c.Name = "a/c"
		d.refuse(c, covey.Limit)
		d.must(storage.DeleteMailbox{Account: 1, Name: "a/b"})
		d.must(c)
	})
}

func testDelete(t *testing.T, open Opener) {
	t.Run("R-04/made again", func(t *testing.T) {
		d := newDriver(t, open)
		before := d.create(1, "a")
		d.deliver(1, "a", 3)
		d.must(storage.DeleteMailbox{Account: 1, Name: "a"})
		d.gone(1, "a")
		after := d.create(1, "a")
		if after.ID <= before.ID || after.UIDValidity <= before.UIDValidity || after.Messages != 0 {
			t.Errorf("%+v came after %+v", after, before)
		}
		if _, _, _, err := d.state.View(1, before.ID); covey.KindOf(err) != covey.NotFound {
			t.Errorf("I-31: view of the deleted one: %v", err)
		}
		if a, err := d.state.Account(1); a.Messages != 0 || a.Bytes != 0 || err != nil {
			t.Errorf("account holds %+v, error %v", a, err)
		}
	})
	t.Run("I-23/refused", func(t *testing.T) {
		d := newDriver(t, open)
		d.deliver(1, "INBOX", 1)
		d.refuse(storage.DeleteMailbox{Account: 1, Name: "inbox"}, covey.Denied)
		d.refuse(storage.DeleteMailbox{Account: 1, Name: "nothing"}, covey.NotFound)
	})
	t.Run("I-23/with children", func(t *testing.T) {
		d := newDriver(t, open)
		before := d.create(1, "a")
		d.create(1, "a/b/c")
		d.create(1, "ab")
		d.deliver(1, "a", 2)
		d.must(storage.DeleteMailbox{Account: 1, Name: "a"})
		if got := d.names(1); got != "(a) a/b a/b/c ab" {
			t.Errorf("mailboxes are %s", got)
		}
		if _, _, _, err := d.state.View(1, before.ID); covey.KindOf(err) != covey.NotFound {
			t.Errorf("view: %v", err)
		}
		d.refuse(storage.DeleteMailbox{Account: 1, Name: "a"}, covey.Denied)
		d.refuse(storage.Append{Account: 1, Mailbox: "a", Time: noon, Body: inline("x")}, covey.NotFound)
		d.must(storage.DeleteMailbox{Account: 1, Name: "a/b"})
		d.must(storage.DeleteMailbox{Account: 1, Name: "a/b/c"})
		if got := d.names(1); got != "ab" {
			t.Errorf("mailboxes are %s", got)
		}
	})
	t.Run("name made a mailbox", func(t *testing.T) {
		d := newDriver(t, open)
		d.create(1, "a/b")
		old := d.mailbox(1, "a")
		d.must(storage.DeleteMailbox{Account: 1, Name: "a"})
		mb := d.create(1, "a")
		if mb.NoSelect || mb.UIDValidity <= old.UIDValidity || d.names(1) != "a a/b" {
			t.Errorf("mailbox is %+v, all are %s", mb, d.names(1))
		}
	})
	t.Run("default folders", func(t *testing.T) {
		d := newDriver(t, open)
		hidden := func(want ...string) {
			t.Helper()
			if a, err := d.state.Account(1); !slices.Equal(a.Hidden, want) || err != nil {
				t.Errorf("hidden are %q, error %v; want %q", a.Hidden, err, want)
			}
		}
		d.must(storage.DeleteMailbox{Account: 1, Name: "Trash"})
		d.refuse(storage.DeleteMailbox{Account: 1, Name: "Trash"}, covey.NotFound)
		d.deliver(1, "Junk", 1)
		d.must(storage.DeleteMailbox{Account: 1, Name: "Junk"})
		hidden("Junk", "Trash")
		d.deliver(1, "Junk", 1)
		hidden("Trash")
		d.create(1, "Trash")
		hidden()
	})
}

func testRename(t *testing.T, open Opener) {
	rename := func(d *driver, from, to string) storage.RenameMailbox {
		return storage.RenameMailbox{Account: 1, From: from, To: to, Time: d.now}
	}
	t.Run("tree", func(t *testing.T) {
		d := newDriver(t, open)
		d.create(1, "a/b/c")
		d.create(1, "ab")
		id := d.deliver(1, "a/b", 2)
		before := d.mailbox(1, "a/b")
		d.must(rename(d, "a/b", "x/y"))
		if got := d.names(1); got != "a ab x x/y x/y/c" {
			t.Errorf("mailboxes are %s", got)
		}
		after := d.mailbox(1, "x/y")
		after.Name = before.Name
		d.same("mailbox but for its name", after, before)
		d.same("UIDs", d.uids(id), []covey.UID{1, 2})
		d.gone(1, "a/b")
		d.gone(1, "a/b/c")
		if made := d.create(1, "a/b"); made.UIDValidity <= before.UIDValidity {
			t.Errorf("R-04: UIDVALIDITY %d of the new one, %d of the old", made.UIDValidity, before.UIDValidity)
		}
	})
	t.Run("I-23/refused", func(t *testing.T) {
		d := newDriver(t, open)
		d.create(1, "a/b")
		d.create(1, "c")
		d.refuse(rename(d, "a", "c"), covey.Exists)
		d.refuse(rename(d, "a", "a"), covey.Exists)
		d.refuse(rename(d, "a", "Inbox"), covey.Exists)
		d.refuse(rename(d, "a", "a/b/d"), covey.Denied)
		d.refuse(rename(d, "nothing", "d"), covey.NotFound)
		d.refuse(rename(d, "a\x00", "d"), covey.Invalid)
		d.create(1, strings.Repeat("l/", 30)+"l")
		d.refuse(rename(d, "l", "a/b/c"), covey.Limit)
	})
	t.Run("inbox", func(t *testing.T) {
		d := newDriver(t, open)
		id := d.deliver(1, "INBOX", 3)
		d.must(storage.StoreFlags{Account: 1, Mailbox: id, UIDs: runs(2, 2), Op: storage.AddFlags, Flags: covey.NewFlags(covey.Seen, "k")})
		d.create(1, "INBOX/sub")
		d.must(rename(d, "inbox", "old/mail"))
		if got := d.names(1); got != "INBOX* INBOX/sub old old/mail" {
			t.Errorf("mailboxes are %s", got)
		}
		old, inbox := d.mailbox(1, "old/mail"), d.mailbox(1, "INBOX")
		if inbox.ID != id || inbox.Messages != 0 || inbox.UIDNext != 4 || old.Messages != 3 || old.Unseen != 2 || len(old.Keywords) != 1 {
			t.Errorf("INBOX is %+v, old %+v", inbox, old)
		}
		d.must(rename(d, "INBOX", "empty"))
		d.refuse(rename(d, "INBOX", "empty"), covey.Exists)
	})
	t.Run("default folders", func(t *testing.T) {
		d := newDriver(t, open)
		d.must(rename(d, "Trash", "Bin"))
		d.must(rename(d, "Bin", "Junk"))
		if a, _ := d.state.Account(1); d.names(1) != "Junk* -Trash*" || len(a.Hidden) != 1 || d.mailbox(1, "Junk").Use != storage.Junk {
			t.Errorf("mailboxes are %s, account %+v", d.names(1), a)
		}
		d.refuse(rename(d, "Trash", "x"), covey.NotFound)
	})
	t.Run("last child", func(t *testing.T) {
		d := newDriver(t, open)
		d.create(1, "a/b")
		d.must(storage.DeleteMailbox{Account: 1, Name: "a"})
		d.must(rename(d, "a/b", "c"))
		if got := d.names(1); got != "c" {
			t.Errorf("mailboxes are %s", got)
		}
	})
}

func testSubscribe(t *testing.T, open Opener) {
	d := newDriver(t, open)
	d.create(1, "b")
	d.create(1, "c")
	for _, name := range []string{"b", "inbox", "d/e", "a", "a"} {
		d.must(storage.Subscribe{Account: 1, Name: name, On: true})
	}
	if got := d.names(1); got != "-INBOX* -a* b* c -d/e*" {
		t.Errorf("names are %s", got)
	}
	d.must(storage.DeleteMailbox{Account: 1, Name: "b"})
	for _, name := range []string{"a", "d/e", "never"} {
		d.must(storage.Subscribe{Account: 1, Name: name})
	}
	if got := d.names(1); got != "-INBOX* -b* c" {
		t.Errorf("names are %s", got)
	}
	d.refuse(storage.Subscribe{Name: "x", On: true}, covey.Invalid)
	t.Run("default folders", func(t *testing.T) { testSubscribeDefault(t, open) })
}

// testSubscribeDefault: whatever makes a default folder subscribes to it; after
// that it is the client's to say.
func testSubscribeDefault(t *testing.T, open Opener) {
	d := newDriver(t, open)
	d.deliver(1, "INBOX", 1)
	d.create(1, "Archive/2024")
	d.create(1, "spam")
	d.must(storage.RenameMailbox{Account: 1, From: "spam", To: "Junk", Time: noon})
	if got := d.names(1); got != "Archive* Archive/2024 INBOX* Junk*" {
		t.Errorf("names are %s", got)
	}
	d.must(storage.Subscribe{Account: 1, Name: "INBOX"})
	d.deliver(1, "INBOX", 1)
	if got := d.names(1); got != "Archive* Archive/2024 INBOX Junk*" {
		t.Errorf("names are %s: a delivery subscribed to INBOX again", got)
	}
}

func testDropAccount(t *testing.T, open Opener) {
	d := newDriver(t, open)
	for a := covey.AccountID(1); a <= 2; a++ {
		d.deliver(a, "INBOX", 3)
		d.create(a, "a/b")
		d.must(storage.DeleteMailbox{Account: a, Name: "a"})
		d.must(storage.Subscribe{Account: a, Name: "x", On: true})
	}
	both := d.delivery(1, "INBOX", "shared")
	both.Recipients = append(both.Recipients, storage.Recipient{Account: 2, Mailbox: "INBOX"})
	d.must(both)
	d.must(storage.DropAccount{Account: 1})
	d.must(storage.DropAccount{Account: 1})
	if a, err := d.state.Account(1); d.names(1) != "" || a.Messages != 0 || a.Bytes != 0 || err != nil {
		t.Errorf("left are %q, account %+v, error %v", d.names(1), a, err)
	}
	if got := d.names(2); got != "INBOX* (a) a/b -x*" || d.mailbox(2, "INBOX").Messages != 4 {
		t.Errorf("the other account has %s", got)
	}
	if want := int64(3*len("message 0\r\n") + len("shared")); d.liveBytes() != want {
		t.Errorf("%d bytes are live, want %d", d.liveBytes(), want)
	}
}

// fill makes a mailbox of n messages with gaps, and returns its id.
func (d *driver) fill(n int) covey.MailboxID {
	d.t.Helper()
	id := d.deliver(1, "INBOX", n)
	for uid := covey.UID(10); int(uid) < n; uid += 10 {
		d.must(storage.Expunge{Account: 1, Mailbox: id, UIDs: runs(uid, uid)})
	}
	return id
}
