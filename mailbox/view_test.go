package mailbox_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/mailbox"
	"github.com/covey-mail/covey/mailbox/mailboxtest"
	"github.com/covey-mail/covey/storage"
)

func open(t *testing.T, a *mailbox.Account, name string) *mailbox.View {
	t.Helper()
	v, err := a.Open(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(v.Close)
	return v
}

// updates polls and prints what a session would be told.
func updates(t *testing.T, v *mailbox.View, o mailbox.PollOptions) []string {
	t.Helper()
	ups, err := v.Poll(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, u := range ups {
		switch {
		case u.Expunge != 0:
			out = append(out, fmt.Sprintf("%d EXPUNGE", u.Expunge))
		case u.Message != nil:
			out = append(out, fmt.Sprintf("%d FETCH %v %v", u.Seq, u.Message.Flags.System, u.Message.Flags.Keywords))
		default:
			out = append(out, fmt.Sprintf("%d EXISTS", u.Exists))
		}
	}
	return out
}

func TestViewTellsWhatOthersDid(t *testing.T) {
	c := mailboxtest.New(t, 1)
	a := account(c)
	for range 4 {
		appendTo(t, a, "INBOX", hello)
	}
	mine, other := open(t, a, "INBOX"), open(t, a, "INBOX")
	if mine.Len() != 4 || mine.FirstUnseen() != 1 || mine.UID(4) != 4 || mine.Seq(3) != 3 {
		t.Fatalf("view has %d messages, first unseen %d", mine.Len(), mine.FirstUnseen())
	}
	all := mailbox.PollOptions{Expunge: true, Sync: true}
	if got := updates(t, mine, all); got != nil {
		t.Errorf("nothing happened, told %q", got)
	}
	flag := mailbox.Flags{UIDs: other.Span(2, 3), Op: storage.AddFlags, Flags: covey.NewFlags(covey.Deleted, "Work")}
	if _, err := other.Store(t.Context(), flag); err != nil {
		t.Fatal(err)
	}
	select {
	case <-mine.Changed():
	default:
		t.Error("not woken")
	}
	want := []string{"2 FETCH 8 [Work]", "3 FETCH 8 [Work]"}
	if diff := cmp.Diff(want, updates(t, mine, all)); diff != "" {
		t.Error(diff)
	}
	if got := updates(t, other, all); got != nil {
		t.Errorf("own change is told back: %q", got)
	}
	if _, err := other.ExpungeDeleted(t.Context(), other.Span(1, 4)); err != nil {
		t.Fatal(err)
	}
	appendTo(t, a, "INBOX", hello)
	appendTo(t, a, "INBOX", hello)
	// I-29: no EXPUNGE while a command like FETCH runs; numbers stay as they were.
	if diff := cmp.Diff([]string{"6 EXISTS"}, updates(t, mine, mailbox.PollOptions{})); diff != "" {
		t.Error(diff)
	}
	if mine.UID(2) != 2 || mine.UID(6) != 6 {
		t.Error("sequence numbers moved without an EXPUNGE")
	}
	if diff := cmp.Diff([]string{"3 EXPUNGE", "2 EXPUNGE"}, updates(t, mine, all)); diff != "" {
		t.Error(diff)
	}
	if mine.Len() != 4 || mine.UID(2) != 4 {
		t.Errorf("%d messages, second is %d", mine.Len(), mine.UID(2))
	}
}

func TestViewOfDeletedMailbox(t *testing.T) {
	c := mailboxtest.New(t, 1)
	a := account(c)
	if err := a.Create(t.Context(), "Box", 0); err != nil {
		t.Fatal(err)
	}
	v := open(t, a, "Box")
	if err := a.Delete(t.Context(), "Box"); err != nil {
		t.Fatal(err)
	}
	if _, err := v.Poll(t.Context(), mailbox.PollOptions{}); !errors.Is(err, covey.NotFound) {
		t.Errorf("I-31: poll of a deleted mailbox: %v, want NotFound", err)
	}
	if err := a.Create(t.Context(), "Box", 0); err != nil {
		t.Fatal(err)
	}
	if _, err := v.Poll(t.Context(), mailbox.PollOptions{}); !errors.Is(err, covey.NotFound) {
		t.Errorf("I-31: poll after another was made under the name: %v, want NotFound", err)
	}
}

func TestCopyAndMove(t *testing.T) {
	c := mailboxtest.New(t, 1)
	a := account(c)
	appendTo(t, a, "INBOX", hello)
	appendTo(t, a, "INBOX", hello)
	v := open(t, a, "INBOX")
	if _, err := v.Copy(t.Context(), v.Span(1, 2), "Nowhere"); !errors.Is(err, covey.NotFound) {
		t.Errorf("I-24: copy to a missing mailbox: %v", err)
	}
	res, err := v.Copy(t.Context(), v.Span(1, 2), "Archive")
	if err != nil || len(res.Placed) != 2 || res.Placed[1].Source != 2 || res.Placed[1].UID != 2 {
		t.Fatalf("copy: %+v, %v", res, err)
	}
	if res, err = v.Move(t.Context(), v.Span(1, 1), "Trash"); err != nil || len(res.UIDs) != 1 {
		t.Fatalf("move: %+v, %v", res, err)
	}
	if diff := cmp.Diff([]string{"1 EXPUNGE"}, updates(t, v, mailbox.PollOptions{Expunge: true})); diff != "" {
		t.Error(diff)
	}
	full := c.Service.Account(7, 1, 10)
	fv := open(t, full, "INBOX")
	if _, err := fv.Copy(t.Context(), fv.Span(1, 1), "Archive"); !errors.Is(err, covey.OverQuota) {
		t.Errorf("I-24: copy over quota: %v", err)
	}
}

// A damaged body is refused, not served.
func TestDamagedBody(t *testing.T) {
	c := mailboxtest.New(t, 1)
	a := account(c)
	appendTo(t, a, "INBOX", hello)
	r, err := c.Local(1)
	if err != nil {
		t.Fatal(err)
	}
	extents, err := r.Body(1)
	if err != nil {
		extents, err = r.Body(2) // the mailbox was made first
	}
	if err != nil {
		t.Fatal(err)
	}
	c.Damage(extents[0])
	v := open(t, a, "INBOX")
	if _, err := contentOf(t, v, 1).ReadAt(make([]byte, 4), 0); !errors.Is(err, covey.Corrupt) {
		t.Errorf("F-14: read of a damaged body: %v, want Corrupt", err)
	}
}

// TestClientNeverDiverges runs random changes through two sessions and compares
// each session's list, kept from updates alone, with the mailbox.
func TestClientNeverDiverges(t *testing.T) {
	for seed := range uint64(30) {
		r := rand.New(rand.NewPCG(seed, 3))
		c := mailboxtest.New(t, 1)
		a := account(c)
		views := []*mailbox.View{open(t, a, "INBOX"), open(t, a, "INBOX")}
		clients := make([]client, 2)
		for range 120 {
			k := r.IntN(2)
			v := views[k]
			act(t, r, a, v)
			clients[k].follow(t, v, mailbox.PollOptions{Expunge: r.IntN(2) == 0})
		}
		for k, v := range views {
			clients[k].follow(t, v, mailbox.PollOptions{Expunge: true})
			clients[k].compare(t, seed, v)
		}
	}
}

// act makes one random change, or none.
func act(t *testing.T, r *rand.Rand, a *mailbox.Account, v *mailbox.View) {
	t.Helper()
	at := uint32(r.IntN(int(v.Len())+1) + 1)
	var err error
	switch r.IntN(6) {
	case 0, 1:
		_, err = a.Append(t.Context(), "INBOX", mailbox.AppendMessage{}, strings.NewReader(hello))
	case 2:
		_, err = v.Remove(t.Context(), v.Span(at, at+1))
	case 3:
		_, err = v.Move(t.Context(), v.Span(at, at), "Trash")
	case 4:
		_, err = v.Store(t.Context(), mailbox.Flags{UIDs: v.Span(at, at+2), Op: storage.SetFlags, Flags: covey.NewFlags(covey.SystemFlags(r.IntN(32)))})
	}
	if err != nil {
		t.Fatal(err)
	}
}

// client is what a mail program believes: how many messages there are.
type client struct{ n uint32 }

func (c *client) follow(t *testing.T, v *mailbox.View, o mailbox.PollOptions) {
	t.Helper()
	ups, err := v.Poll(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	for _, u := range ups {
		switch {
		case u.Expunge != 0:
			if !o.Expunge || u.Expunge > c.n {
				t.Fatalf("EXPUNGE %d of %d, allowed %v", u.Expunge, c.n, o.Expunge)
			}
			c.n--
		case u.Exists != 0:
			if u.Exists <= c.n {
				t.Fatalf("EXISTS %d after %d", u.Exists, c.n)
			}
			c.n = u.Exists
		case u.Seq == 0 || u.Seq > c.n || v.UID(u.Seq) != u.Message.UID:
			t.Fatalf("FETCH of %d of %d", u.Seq, c.n)
		}
	}
	if c.n != v.Len() {
		t.Fatalf("client believes in %d messages, the view in %d", c.n, v.Len())
	}
}

func (c *client) compare(t *testing.T, seed uint64, v *mailbox.View) {
	t.Helper()
	seq := uint32(0)
	err := v.Messages(t.Context(), storage.Query{}, func(m *storage.Message) error {
		if seq++; v.UID(seq) != m.UID {
			t.Errorf("seed %d: number %d is UID %d, the mailbox has %d", seed, seq, v.UID(seq), m.UID)
		}
		return nil
	})
	if err != nil || seq != c.n {
		t.Errorf("seed %d: mailbox has %d messages, client believes %d, %v", seed, seq, c.n, err)
	}
}

// TestHolds: a change of flags may be left out exactly when it would change nothing.
func TestHolds(t *testing.T) {
	c := mailboxtest.New(t, 1)
	a := account(c)
	for range 3 {
		appendTo(t, a, "INBOX", hello)
	}
	v := open(t, a, "INBOX")
	change := func(op storage.FlagOp, system covey.SystemFlags, keywords ...string) mailbox.Flags {
		return mailbox.Flags{UIDs: v.Span(1, 2), Op: op, Flags: covey.NewFlags(system, keywords...)}
	}
	for _, f := range []mailbox.Flags{
		change(storage.AddFlags, covey.Seen|covey.Flagged),
		{UIDs: v.Span(2, 2), Op: storage.AddFlags, Flags: covey.NewFlags(0, "Work")},
	} {
		if _, err := v.Store(t.Context(), f); err != nil {
			t.Fatal(err)
		}
	}
	for _, tt := range []struct {
		f    mailbox.Flags
		want bool
	}{
		{change(storage.AddFlags, covey.Seen), true},
		{change(storage.AddFlags, covey.Seen|covey.Flagged), true},
		{change(storage.AddFlags, covey.Seen|covey.Deleted), false},
		{change(storage.AddFlags, 0), true},
		{change(storage.AddFlags, covey.Seen, "Work"), false},
		{change(storage.RemoveFlags, covey.Deleted), true},
		{change(storage.RemoveFlags, covey.Deleted|covey.Seen), false},
		{change(storage.SetFlags, covey.Seen|covey.Flagged), false}, // the second has a keyword
		{mailbox.Flags{UIDs: v.Span(1, 1), Op: storage.SetFlags, Flags: covey.NewFlags(covey.Seen | covey.Flagged)}, true},
		{mailbox.Flags{UIDs: v.Span(1, 1), Op: storage.SetFlags, Flags: covey.NewFlags(covey.Seen)}, false},
		{mailbox.Flags{UIDs: v.Span(1, 3), Op: storage.AddFlags, Flags: covey.NewFlags(covey.Seen)}, false},
	} {
		before, err := a.Status(t.Context(), "INBOX")
		if err != nil {
			t.Fatal(err)
		}
		got, err := v.Holds(t.Context(), tt.f)
		if err != nil || got != tt.want {
			t.Errorf("%+v: %t, error %v; want %t", tt.f, got, err, tt.want)
		}
		if !got {
			continue
		}
		if _, err := v.Store(t.Context(), tt.f); err != nil {
			t.Fatal(err)
		}
		if after, err := a.Status(t.Context(), "INBOX"); err != nil || after.HighestModSeq != before.HighestModSeq {
			t.Errorf("%+v changed something: MODSEQ %d after %d, error %v", tt.f, after.HighestModSeq, before.HighestModSeq, err)
		}
	}
}
