package mailbox_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/mailbox"
	"github.com/covey-mail/covey/mailbox/mailboxtest"
	"github.com/covey-mail/covey/storage"
	"github.com/covey-mail/covey/storage/seglog"
)

const hello = "From: a@example.org\r\nSubject: hello\r\n\r\nbody\r\n"

func account(c *mailboxtest.Cluster) *mailbox.Account { return c.Service.Account(7, 1, 0) }

func appendTo(t *testing.T, a *mailbox.Account, name, text string) storage.Placed {
	t.Helper()
	p, err := a.Append(t.Context(), name, mailbox.AppendMessage{}, strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func names(t *testing.T, a *mailbox.Account) []string {
	t.Helper()
	list, err := a.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, f := range list {
		n := f.Name
		if f.ID != 0 {
			n += "*"
		}
		if !f.Exists {
			n += "?"
		}
		out = append(out, n)
	}
	return out
}

// Default folders are shown from the start and made when they are first used.
func TestDefaultFolders(t *testing.T) {
	c := mailboxtest.New(t, 1)
	a := account(c)
	if diff := cmp.Diff([]string{"Archive", "Drafts", "INBOX", "Junk", "Sent", "Trash"}, names(t, a)); diff != "" {
		t.Error(diff)
	}
	appendTo(t, a, "Sent", hello)
	if _, err := a.Status(t.Context(), "inbox"); err != nil {
		t.Error(err)
	}
	if err := a.Create(t.Context(), "Junk", 0); !errors.Is(err, covey.Exists) {
		t.Errorf("create of a default folder: %v, want Exists", err)
	}
	if err := a.Delete(t.Context(), "Drafts"); err != nil {
		t.Error(err)
	}
	if err := a.Subscribe(t.Context(), "Later"); err != nil {
		t.Error(err)
	}
	if err := a.Rename(t.Context(), "Archive", "Old/2025"); err != nil {
		t.Error(err)
	}
	want := []string{"Archive?", "INBOX*", "Junk", "Later?", "Old*", "Old/2025*", "Sent*", "Trash"}
	if diff := cmp.Diff(want, names(t, a)); diff != "" {
		t.Error(diff)
	}
	if _, err := a.Open(t.Context(), "Drafts"); !errors.Is(err, covey.NotFound) {
		t.Errorf("open of a deleted default folder: %v, want NotFound", err)
	}
	if err := a.Create(t.Context(), "Drafts", 0); err != nil {
		t.Error(err)
	}
	if m, err := a.Status(t.Context(), "Drafts"); err != nil || m.Use != storage.Drafts {
		t.Errorf("made again: %+v, %v, want its special use back", m, err)
	}
}

func TestAppendErrors(t *testing.T) {
	c := mailboxtest.New(t, 1)
	a := c.Service.Account(7, 1, 100)
	ctx := t.Context()
	if _, err := a.Append(ctx, "Nowhere", mailbox.AppendMessage{}, strings.NewReader(hello)); !errors.Is(err, covey.NotFound) {
		t.Errorf("I-24: append to a missing mailbox: %v", err)
	}
	if _, err := a.Append(ctx, "INBOX", mailbox.AppendMessage{}, strings.NewReader(strings.Repeat("x", 101))); !errors.Is(err, covey.OverQuota) {
		t.Errorf("I-24: append over quota: %v", err)
	}
	if _, err := a.Append(ctx, "INBOX", mailbox.AppendMessage{Size: 200}, neverRead{t}); !errors.Is(err, covey.OverQuota) {
		t.Errorf("announced size over quota: %v", err)
	}
	cut := errors.New("cut")
	if _, err := a.Append(ctx, "INBOX", mailbox.AppendMessage{}, io.MultiReader(strings.NewReader("x"), failing{cut})); !errors.Is(err, cut) {
		t.Errorf("append with a broken reader: %v", err)
	}
	if m, err := a.Status(ctx, "INBOX"); err != nil || m.Messages != 0 {
		t.Errorf("after failures: %+v, %v, want nothing stored", m, err)
	}
}

type neverRead struct{ t *testing.T }

func (r neverRead) Read([]byte) (int, error) {
	r.t.Error("message was read although it does not fit")
	return 0, io.EOF
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

// A message larger than one command travels in chunks and reads back the same,
// from any offset.
func TestLargeMessages(t *testing.T) {
	for _, size := range []int{0, 1, storage.ChunkSize - 1, storage.ChunkSize, storage.ChunkSize + 1, 3*storage.ChunkSize + 17} {
		c := mailboxtest.New(t, 1)
		a := account(c)
		text := []byte("Subject: large\r\n\r\n")
		for i := 0; len(text) < size; i++ {
			text = append(text, byte('a'+i%26))
		}
		appendTo(t, a, "INBOX", string(text))
		v, err := a.Open(t.Context(), "INBOX")
		if err != nil {
			t.Fatal(err)
		}
		defer v.Close()
		content := contentOf(t, v, 1)
		if content.Size() != int64(len(text)) {
			t.Errorf("size %d, want %d", content.Size(), len(text))
		}
		got, err := io.ReadAll(io.NewSectionReader(content, 0, content.Size()))
		if err != nil || !bytes.Equal(got, text) {
			t.Errorf("size %d: content differs, %v", size, err)
		}
		whole := make([]byte, len(text)) // each run goes straight into it
		if n, err := content.ReadAt(whole, 0); err != nil || !bytes.Equal(whole, text) {
			t.Errorf("size %d: in one go %d octets, %v", size, n, err)
		}
		part := make([]byte, 40)
		off := int64(max(0, len(text)-30))
		n, err := content.ReadAt(part, off)
		if !errors.Is(err, io.EOF) || !bytes.Equal(part[:n], text[off:]) {
			t.Errorf("size %d: end reads %q, %v", size, part[:n], err)
		}
	}
}

// A place that compaction has changed is looked up again, and what does not match
// its checksum is left in nobody's buffer.
func TestContentMovedOrDamaged(t *testing.T) {
	c := mailboxtest.New(t, 1)
	a := account(c)
	appendTo(t, a, "INBOX", hello)
	v := open(t, a, "INBOX")
	m := theMessage(t, v)
	read := func(size int) (string, error) {
		content, err := v.Content(t.Context(), m)
		if err != nil {
			t.Fatal(err)
		}
		p := make([]byte, size)
		n, err := content.ReadAt(p, 0)
		if strings.Trim(string(p[n:]), "\x00") != "" {
			t.Errorf("%q beside %d octets read", p, n)
		}
		return string(p[:n]), err
	}
	for _, size := range []int{1, len(hello)} { // by a buffer of its own, and straight
		place := m.Extents[0]
		m.Extents[0].Segment = 77
		if got, err := read(size); err != nil || got != hello[:size] {
			t.Errorf("moved: %q, error %v", got, err)
		}
		m.Extents[0] = place
	}
	c.Damage(m.Extents[0])
	for _, size := range []int{1, len(hello)} {
		if got, err := read(size); covey.KindOf(err) != covey.Corrupt || got != "" {
			t.Errorf("damaged: %q, error %v", got, err)
		}
	}
	m.Extents[0].Length--
	if _, err := v.Content(t.Context(), m); covey.KindOf(err) != covey.Corrupt {
		t.Errorf("of another size: %v", err)
	}
}

// A body that is damaged, or lies nowhere any more, is repaired when it is read.
func TestContentRepaired(t *testing.T) {
	c := mailboxtest.New(t, 1)
	a := account(c)
	appendTo(t, a, "INBOX", hello)
	v := open(t, a, "INBOX")
	m, content := theMessage(t, v), contentOf(t, v, 1)
	r, err := c.Local(1)
	if err != nil {
		t.Fatal(err)
	}
	place := m.Extents
	lost := []seglog.Extent{place[0]}
	lost[0].Segment = 77
	move := func(from, to []seglog.Extent) {
		if err := r.(storage.Placer).Move([]storage.Move{{Resident: storage.Resident{Body: m.Body, Extents: from}, To: to}}); err != nil {
			t.Fatal(err)
		}
	}
	for _, tt := range []struct {
		name           string
		damage, repair func()
		want           covey.Kind
	}{
		{"damaged", func() { c.Damage(place[0]) }, func() { c.Damage(place[0]) }, covey.Corrupt},
		{"gone", func() { move(place, lost) }, func() { move(lost, place) }, covey.Unavailable},
	} {
		asked := 0
		works := false
		c.Repair(func(id covey.ShardID, body covey.BodyID) error {
			if asked++; id != 1 || body != m.Body {
				t.Errorf("%s: body %d of shard %d was to be repaired", tt.name, body, id)
			}
			if works {
				tt.repair()
			}
			return nil
		})
		tt.damage()
		content := contentOf(t, v, 1)
		p := make([]byte, len(hello))
		if n, err := content.ReadAt(p, 0); n != 0 || covey.KindOf(err) != tt.want || asked != 1 {
			t.Errorf("%s: a repair that does not help: %d octets, %v; repaired %d times", tt.name, n, err, asked)
		}
		works = true
		if n, err := content.ReadAt(p, 0); string(p[:n]) != hello || err != nil || asked != 2 {
			t.Errorf("%s: got %q, %v; repaired %d times", tt.name, p[:n], err, asked)
		}
	}
	c.Repair(nil)
	c.Damage(place[0])
	if n, err := content.ReadAt(make([]byte, 1), 0); n != 0 || covey.KindOf(err) != covey.Corrupt || !strings.Contains(err.Error(), "no other replica") {
		t.Errorf("repair refused: %d octets, %v", n, err)
	}
}

// theMessage returns the only message of a view, with its extents.
func theMessage(t *testing.T, v *mailbox.View) (m *storage.Message) {
	t.Helper()
	err := v.Messages(t.Context(), storage.Query{Extents: true}, func(one *storage.Message) error {
		m = one
		return nil
	})
	if err != nil || m == nil {
		t.Fatal(err)
	}
	return m
}

func contentOf(t *testing.T, v *mailbox.View, seq uint32) *mailbox.Content {
	t.Helper()
	var content *mailbox.Content
	q := storage.Query{UIDs: v.Span(seq, seq), Extents: seq%2 == 1}
	err := v.Messages(t.Context(), q, func(m *storage.Message) (err error) {
		content, err = v.Content(context.Background(), m)
		return err
	})
	if err != nil || content == nil {
		t.Fatalf("content of message %d: %v", seq, err)
	}
	return content
}

// Chunks of an upload that breaks off are dropped.
func TestBrokenUploadLeavesNoChunks(t *testing.T) {
	c := mailboxtest.New(t, 1)
	aborted := false
	c.Fail(func(_ covey.ShardID, cmd storage.Command) error {
		_, is := cmd.(storage.Abort)
		aborted = aborted || is
		return nil
	})
	big := strings.NewReader(strings.Repeat("x", 2*storage.ChunkSize))
	cut := errors.New("cut")
	if _, err := account(c).Append(t.Context(), "INBOX", mailbox.AppendMessage{}, io.MultiReader(big, failing{cut})); !errors.Is(err, cut) {
		t.Errorf("got %v, want the reader's error", err)
	}
	if !aborted {
		t.Error("the chunks were not dropped")
	}
}

func TestLockMaildrop(t *testing.T) {
	c := mailboxtest.New(t, 2)
	a := account(c)
	release, err := a.LockMaildrop()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := account(c).LockMaildrop(); !errors.Is(err, covey.InUse) {
		t.Errorf("P-03: second lock: %v, want InUse", err)
	}
	if other, err := c.Service.Account(7, 2, 0).LockMaildrop(); err != nil {
		t.Errorf("lock of another shard's account: %v", err)
	} else {
		other()
	}
	release()
	release()
	again, err := a.LockMaildrop()
	if err != nil {
		t.Fatalf("after release: %v", err)
	}
	again()
}

func TestInsistRetriesUnknownOnly(t *testing.T) {
	c := mailboxtest.New(t, 1)
	tries := 0
	c.Fail(func(covey.ShardID, storage.Command) error {
		if tries++; tries < 3 {
			return covey.Errorf(covey.Unknown, "lost")
		}
		return nil
	})
	cmd := storage.CreateMailbox{Account: 7, Name: "x", Time: time.Unix(1, 0)}
	if _, err := c.Service.Insist(t.Context(), 1, cmd); err != nil || tries != 3 {
		t.Errorf("%d tries, %v, want three and success", tries, err)
	}
	c.Fail(func(covey.ShardID, storage.Command) error { return covey.Errorf(covey.Unavailable, "no quorum") })
	if _, err := c.Service.Insist(t.Context(), 1, cmd); !errors.Is(err, covey.Unavailable) {
		t.Errorf("got %v, want Unavailable at once", err)
	}
	tries = 0
	c.Fail(func(covey.ShardID, storage.Command) error {
		if tries++; tries == 1 {
			return covey.Errorf(covey.Unknown, "lost")
		}
		return covey.Errorf(covey.Unavailable, "no quorum")
	})
	if _, err := c.Service.Insist(t.Context(), 1, cmd); covey.KindOf(err) != covey.Unknown {
		t.Errorf("got %v, want Unknown: the first try may yet be done", err)
	}
}
