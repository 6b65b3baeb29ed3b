package delivery_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/delivery"
	"github.com/covey-mail/covey/directory"
	"github.com/covey-mail/covey/mailbox"
	"github.com/covey-mail/covey/mailbox/mailboxtest"
	"github.com/covey-mail/covey/storage"
)

// people is a directory of fixed accounts, spread over two shards; "both" leads
// to a and b, "twice" twice to a.
type people map[string][]directory.Account

func (p people) Resolve(_ context.Context, to covey.Address) ([]directory.Account, error) {
	if list, ok := p[to.Local]; ok {
		return list, nil
	}
	return nil, covey.Errorf(covey.NotFound, "no %s", to)
}

func person(id covey.AccountID, shard covey.ShardID, local string) directory.Account {
	return directory.Account{ID: id, Shard: shard, Address: covey.Address{Local: local, Domain: "example.org"}}
}

type fixture struct {
	*delivery.Service
	c *mailboxtest.Cluster
}

func setUp(t *testing.T) fixture {
	c := mailboxtest.New(t, 2)
	a, b, full := person(1, 1, "a"), person(2, 2, "b"), person(3, 1, "full")
	full.Quota = 1
	svc := delivery.New(delivery.Config{
		Directory: people{
			"a": {a}, "b": {b}, "c": {person(4, 1, "c")}, "full": {full}, "both": {a, b}, "twice": {a, a}, "withfull": {b, full},
		},
		Mailboxes: c.Service, Shards: c, Now: c.Now,
	})
	return fixture{svc, c}
}

func (f fixture) recipients(t *testing.T, locals ...string) []delivery.Recipient {
	t.Helper()
	var out []delivery.Recipient
	for _, l := range locals {
		r, err := f.Recipient(t.Context(), covey.Address{Local: l, Domain: "example.org"})
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, r)
	}
	return out
}

func (f fixture) deliver(t *testing.T, text string, locals ...string) delivery.Receipt {
	t.Helper()
	rec, err := f.Deliver(t.Context(), delivery.Envelope{
		From: covey.Address{Local: "s", Domain: "example.net"}, Recipients: f.recipients(t, locals...),
		Header: []byte("Received: x\r\n"),
	}, strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	return rec
}

// inbox returns the messages of an account.
func (f fixture) inbox(t *testing.T, id covey.AccountID, shard covey.ShardID) []string {
	t.Helper()
	v, err := f.c.Service.Account(id, shard, 0).Open(t.Context(), "INBOX")
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	var all []string
	err = v.Messages(t.Context(), storage.Query{}, func(m *storage.Message) error {
		content, err := v.Content(t.Context(), m)
		if err != nil {
			return err
		}
		b, err := io.ReadAll(io.NewSectionReader(content, 0, content.Size()))
		all = append(all, string(b))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

const text = "Subject: x\r\n\r\nbody\r\n"

func stored(to, text string) string {
	return "Return-Path: <s@example.net>\r\nDelivered-To: " + to + "@example.org\r\nReceived: x\r\n" + text
}

func TestEachRecipientOnce(t *testing.T) {
	f := setUp(t)
	rec := f.deliver(t, text, "a", "both", "twice", "b")
	if diff := cmp.Diff(4, len(rec.Outcomes)); diff != "" {
		t.Error(diff)
	}
	for i, err := range rec.Outcomes {
		if err != nil {
			t.Errorf("recipient %d: %v", i, err)
		}
	}
	if diff := cmp.Diff([]string{stored("a", text)}, f.inbox(t, 1, 1)); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{stored("b", text)}, f.inbox(t, 2, 2)); diff != "" {
		t.Error(diff)
	}
}

func TestRecipientErrors(t *testing.T) {
	f := setUp(t)
	f.deliver(t, text, "full")
	for local, want := range map[string]covey.Kind{"nobody": covey.NotFound, "full": covey.OverQuota, "withfull": covey.OverQuota} {
		if _, err := f.Recipient(t.Context(), covey.Address{Local: local, Domain: "example.org"}); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", local, err, want)
		}
	}
}

// faraway is a cluster whose shards have no replica on this node.
type faraway struct{ mailbox.Shards }

func (faraway) Local(id covey.ShardID) (storage.Reader, error) {
	return nil, covey.Errorf(covey.Unavailable, "shard %d is elsewhere", id)
}

// What is known here of shards that are elsewhere decides, recipient by recipient.
func TestRecipientsElsewhere(t *testing.T) {
	a, b, full, raised := person(1, 1, "a"), person(2, 2, "b"), person(3, 1, "full"), person(3, 1, "raised")
	a.Quota, full.Quota, raised.Quota = 1, 1, 2
	svc := delivery.New(delivery.Config{
		Directory: people{"a": {a}, "b": {b}, "full": {full}, "raised": {raised}},
		Mailboxes: mailboxtest.New(t, 1).Service, Shards: faraway{},
		Used: func(shard covey.ShardID, id covey.AccountID) int64 {
			if shard == full.Shard && id == full.ID {
				return 1
			}
			return 0
		},
		Reachable: func(_ context.Context, id covey.ShardID) error {
			if id == b.Shard {
				return covey.Errorf(covey.Unavailable, "shard %d has no quorum", id)
			}
			return nil
		},
	})
	for local, want := range map[string]error{"a": nil, "b": covey.Unavailable, "full": covey.OverQuota, "raised": nil} {
		if _, err := svc.Recipient(t.Context(), covey.Address{Local: local, Domain: "example.org"}); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", local, err, want)
		}
	}
}

// S-31 of the several-shard kind: what committed stays, what did not is
// temporary, and the resend finishes the rest without a second copy.
func TestPartialCommitAndResend(t *testing.T) {
	f := setUp(t)
	f.c.Fail(func(id covey.ShardID, _ storage.Command) error {
		if id == 2 {
			return covey.Errorf(covey.Unavailable, "no quorum")
		}
		return nil
	})
	rec := f.deliver(t, text, "a", "b", "both")
	if rec.Outcomes[0] != nil || !errors.Is(rec.Outcomes[1], covey.Unavailable) || !errors.Is(rec.Outcomes[2], covey.Unavailable) {
		t.Errorf("outcomes %v", rec.Outcomes)
	}
	f.c.Fail(nil)
	rec = f.deliver(t, text, "a", "b", "both")
	for i, err := range rec.Outcomes {
		if err != nil {
			t.Errorf("resend, recipient %d: %v", i, err)
		}
	}
	if n := len(f.inbox(t, 1, 1)); n != 1 {
		t.Errorf("a has %d copies after the resend, want one", n)
	}
	if n := len(f.inbox(t, 2, 2)); n != 1 {
		t.Errorf("b has %d copies, want one", n)
	}
}

// The same bytes sent again after a lost reply are one message; sent again after
// the reply was heard they are two.
func TestConfirmTellsResendFromSecondSending(t *testing.T) {
	f := setUp(t)
	f.deliver(t, text, "a")
	resent := f.deliver(t, text, "a")
	if n := len(f.inbox(t, 1, 1)); n != 1 {
		t.Errorf("R-02: %d copies after a resend, want one", n)
	}
	f.Confirm(resent)
	second := f.deliver(t, text, "a")
	if n := len(f.inbox(t, 1, 1)); n != 2 {
		t.Errorf("%d copies after one was sent on purpose, want two", n)
	}
	f.Confirm(second)
	f.deliver(t, strings.Replace(text, "body", "other", 1), "a")
	if n := len(f.inbox(t, 1, 1)); n != 3 {
		t.Errorf("%d messages, want three", n)
	}
}

// A confirmation reaches its shard although no delivery follows: before a copy
// sent on purpose through another node, or after a restart of this one.
func TestConfirmationsDoNotWaitForDeliveries(t *testing.T) {
	f := setUp(t)
	f.Confirm(f.deliver(t, text, "a"))
	told := make(chan storage.Confirm, 1)
	f.c.Fail(func(_ covey.ShardID, cmd storage.Command) error {
		if c, ok := cmd.(storage.Confirm); ok {
			told <- c
		}
		return nil
	})
	ctx, cancel := context.WithCancel(t.Context())
	tick, done := make(chan time.Time), make(chan struct{})
	go func() { defer close(done); f.Run(ctx, tick) }()
	tick <- time.Time{}
	tick <- time.Time{} // received once the first is dealt with: too early to tell
	if c := <-told; len(c.IDs) != 1 {
		t.Errorf("told %v, want one confirmation", c)
	}
	f.Confirm(f.deliver(t, strings.Replace(text, "body", "other", 1), "b"))
	cancel()
	if c := <-told; len(c.IDs) != 1 {
		t.Errorf("told %v at the end, want one confirmation", c)
	}
	<-done
}

// An outcome that is unknown is asked for again under the same id.
func TestUnknownIsRetriedUnderTheSameID(t *testing.T) {
	f := setUp(t)
	var ids []covey.DeliveryID
	f.c.Fail(func(_ covey.ShardID, cmd storage.Command) error {
		if d, ok := cmd.(storage.Deliver); ok {
			if ids = append(ids, d.ID); len(ids) < 3 {
				return covey.Errorf(covey.Unknown, "lost")
			}
		}
		return nil
	})
	rec := f.deliver(t, text, "a")
	if rec.Outcomes[0] != nil || len(ids) != 3 || ids[0] != ids[2] {
		t.Errorf("outcome %v after tries %v", rec.Outcomes, ids)
	}
}

func TestLoops(t *testing.T) {
	f := setUp(t)
	rec := f.deliver(t, "Delivered-To: A@example.org\r\n"+text, "a", "c")
	if !errors.Is(rec.Outcomes[0], covey.Loop) || rec.Outcomes[1] != nil {
		t.Errorf("S-52: outcomes %v, want a loop for a alone", rec.Outcomes)
	}
	if n := len(f.inbox(t, 1, 1)); n != 0 {
		t.Errorf("S-52: a has %d messages", n)
	}
	var hops strings.Builder
	for i := range delivery.MaxReceived + 1 {
		fmt.Fprintf(&hops, "Received: by host%d\r\n", i)
	}
	_, err := f.Deliver(t.Context(), delivery.Envelope{Recipients: f.recipients(t, "a")}, strings.NewReader(hops.String()+text))
	if !errors.Is(err, covey.Loop) {
		t.Errorf("S-51: %v, want Loop", err)
	}
}

func TestBrokenDataStoresNothing(t *testing.T) {
	f := setUp(t)
	cut := errors.New("cut")
	for _, size := range []int{10, 2 * storage.ChunkSize} {
		data := io.MultiReader(strings.NewReader(strings.Repeat("x", size)), failing{cut})
		_, err := f.Deliver(t.Context(), delivery.Envelope{Recipients: f.recipients(t, "both")}, data)
		if !errors.Is(err, cut) {
			t.Errorf("S-50: %v, want the reader's error", err)
		}
	}
	if n := len(f.inbox(t, 1, 1)) + len(f.inbox(t, 2, 2)); n != 0 {
		t.Errorf("S-50: %d messages stored", n)
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

func TestFullDiskRefusesBeforeReading(t *testing.T) {
	f := setUp(t)
	full := covey.Errorf(covey.DiskFull, "full")
	svc := delivery.New(delivery.Config{Directory: people{}, Mailboxes: f.c.Service, Shards: f.c, Room: func() error { return full }})
	_, err := svc.Deliver(t.Context(), delivery.Envelope{Recipients: f.recipients(t, "a")}, failing{errors.New("was read")})
	if !errors.Is(err, covey.DiskFull) {
		t.Errorf("F-21: %v, want DiskFull", err)
	}
}
