// Package storagetest is the suite that every implementation of storage.State
// has to pass: what each command does and refuses, what readers see, and that
// the running hash and all that can be read are those of the reference in
// memory.
//
// A test drives a state with commands through a Log of its own. When it ends,
// the state is checked for broken invariants, and the same commands are applied
// to storage.OpenMemory and everything is compared.
package storagetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/storage"
	"github.com/covey-mail/covey/storage/seglog"
)

// An Opener opens the state that cfg.Path names; for an implementation that
// keeps anything, the same again as long as the path is the same.
type Opener func(t testing.TB, cfg storage.Config) storage.State

// A Carrier takes a state to another node by a copy and closes it. It returns the
// state there, whose bodies lie in the log again.
type Carrier func(t testing.TB, s storage.State, log *Log) storage.State

// part is a part of the suite.
type part struct {
	name string
	run  func(*testing.T, Opener)
}

// Run holds an implementation to the suite.
func Run(t *testing.T, open Opener) {
	for _, p := range append(parts(), part{"place", testPlace}) {
		t.Run(p.name, func(t *testing.T) { p.run(t, open) })
	}
}

// RunCarried holds an implementation to the suite while its states are carried
// elsewhere all the time. Where bodies lie is then another matter, and left out;
// the random commands are too when tests are to be short.
func RunCarried(t *testing.T, open Opener, carry Carrier) {
	carried := func(t testing.TB, cfg storage.Config) storage.State {
		return &carriedState{State: open(t, cfg), carry: carry}
	}
	for _, p := range parts() {
		if p.name != "random" || !testing.Short() {
			t.Run(p.name, func(t *testing.T) { p.run(t, carried) })
		}
	}
}

// A carriedState is carried now and then, between two commands.
type carriedState struct {
	storage.State
	carry Carrier
	n     int // commands so far
}

// travel carries a state if it is to be and its time has come: after 5, 50
// and 500 commands, for each journey waits for the disk many times.
func travel(t testing.TB, s storage.State, log *Log) {
	c, ok := s.(*carriedState)
	if !ok {
		return
	}
	if c.n++; c.n == 5 || c.n == 50 || c.n == 500 {
		c.State = c.carry(t, c.State, log)
	}
}

func parts() []part {
	return []part{
		{"deliver", testDeliver}, {"repeat", testRepeat}, {"open", testOpen}, {"append", testAppend}, {"chunks", testChunks},
		{"flags", testFlags}, {"keywords", testKeywords}, {"expunge", testExpunge}, {"copy", testCopy},
		{"names", testNames}, {"create", testCreate}, {"delete", testDelete}, {"rename", testRename},
		{"subscribe", testSubscribe}, {"drop", testDropAccount}, {"clocks", testClocks},
		{"read", testRead}, {"view", testView}, {"changes", testChanges}, {"queue", testQueue}, {"random", testRandom},
	}
}

// Shard is the shard that the suite's states are of.
const Shard covey.ShardID = 3

// noon is the time of the first command of a test.
var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// accounts are those that the suite's commands speak of.
const accounts = 4

// A driver applies commands to a state.
type driver struct {
	t     testing.TB
	open  Opener
	cfg   storage.Config
	log   *Log
	state storage.State
	now   time.Time
	seq   uint64
}

func newDriver(t testing.TB, open Opener) *driver {
	t.Helper()
	d := &driver{
		t: t, open: open, log: &Log{}, now: noon,
		cfg: storage.Config{Shard: Shard, Path: filepath.Join(t.TempDir(), "shard")},
	}
	d.state = open(t, d.cfg)
	t.Cleanup(d.finish)
	return d
}

// finish checks the state and compares it with the reference.
func (d *driver) finish() {
	d.t.Helper()
	if !d.t.Failed() {
		d.compare(d.reference())
	}
	if err := d.state.Close(); err != nil {
		d.t.Errorf("close: %v", err)
	}
}

// reference returns a state in memory after the same commands.
func (d *driver) reference() storage.State {
	ref := storage.OpenMemory(d.cfg)
	ref.Apply(d.log.After(0))
	return ref
}

func (d *driver) compare(ref storage.State) {
	d.t.Helper()
	for _, err := range d.state.Check(context.Background()) {
		d.t.Errorf("check: %v", err)
	}
	for _, err := range storage.CheckBodies(context.Background(), d.state, d.log) {
		d.t.Errorf("check bodies: %v", err)
	}
	i, h := d.state.Hash()
	wantI, wantH := ref.Hash()
	if i != wantI || h != wantH {
		d.t.Errorf("hash is %d/%x, want %d/%x as in the reference", i, h, wantI, wantH)
	}
	if diff := cmp.Diff(dump(d.t, ref), dump(d.t, d.state)); diff != "" {
		d.t.Errorf("state differs from the reference (-want +got):\n%s", diff)
	}
}

// apply applies one command.
func (d *driver) apply(c storage.Command) *storage.Result {
	r := d.state.Apply([]seglog.Command{d.log.Append(c)})[0].(*storage.Result)
	travel(d.t, d.state, d.log)
	return r
}

// must applies a command that is to succeed.
func (d *driver) must(c storage.Command) *storage.Result {
	d.t.Helper()
	r := d.apply(c)
	if r.Err != nil {
		d.t.Fatalf("%T: %v", c, r.Err)
	}
	return r
}

// refuse applies a command that is to fail with a kind and to change nothing.
func (d *driver) refuse(c storage.Command, kind covey.Kind) {
	d.t.Helper()
	before := dump(d.t, d.state)
	r := d.apply(c)
	if !errors.Is(r.Err, kind) {
		d.t.Errorf("%+v: error %v, want kind %q", c, r.Err, kind)
	}
	if diff := cmp.Diff(before, dump(d.t, d.state)); diff != "" {
		d.t.Errorf("%T was refused and changed (-before +after):\n%s", c, diff)
	}
}

// id returns a delivery id that was not used before.
func (d *driver) id() covey.DeliveryID {
	d.seq++
	return covey.DeliveryID{Node: 1, Boot: 1, Seq: d.seq}
}

// delivery returns a Deliver of text to one mailbox.
func (d *driver) delivery(a covey.AccountID, mailbox, text string) storage.Deliver {
	return storage.Deliver{
		ID: d.id(), Time: d.now, Summary: []byte("summary of " + text),
		Recipients: []storage.Recipient{{Account: a, Mailbox: mailbox}},
		Body:       inline(text),
	}
}

// deliver puts n messages into a mailbox and returns its id.
func (d *driver) deliver(a covey.AccountID, mailbox string, n int) covey.MailboxID {
	d.t.Helper()
	var id covey.MailboxID
	for i := range n {
		id = d.must(d.delivery(a, mailbox, fmt.Sprintf("message %d\r\n", i))).Placed[0].Mailbox
	}
	return id
}

func inline(text string) storage.Body {
	return storage.Body{Inline: []byte(text), Size: int64(len(text))}
}

// create makes a mailbox.
func (d *driver) create(a covey.AccountID, name string) storage.Mailbox {
	d.t.Helper()
	return d.must(storage.CreateMailbox{Account: a, Name: name, Time: d.now}).Mailbox
}

// mailbox returns a mailbox that has to be there.
func (d *driver) mailbox(a covey.AccountID, name string) storage.Mailbox {
	d.t.Helper()
	mb, err := d.state.Mailbox(a, name)
	if err != nil {
		d.t.Fatalf("mailbox %q of account %d: %v", name, a, err)
	}
	return mb
}

// gone reports it if there is a mailbox.
func (d *driver) gone(a covey.AccountID, name string) {
	d.t.Helper()
	if mb, err := d.state.Mailbox(a, name); !errors.Is(err, covey.NotFound) {
		d.t.Errorf("mailbox %q of account %d: %+v, error %v; want it not found", name, a, mb, err)
	}
}

// messages returns what a query selects.
func (d *driver) messages(q storage.Query) []storage.Message {
	d.t.Helper()
	return messages(d.t, d.state, q)
}

func messages(t testing.TB, state storage.State, q storage.Query) []storage.Message {
	t.Helper()
	var list []storage.Message
	err := state.Messages(context.Background(), q, func(m *storage.Message) error {
		list = append(list, *m)
		return nil
	})
	if err != nil {
		t.Fatalf("messages %+v: %v", q, err)
	}
	return list
}

// uids returns the UIDs in a mailbox, one by one.
func (d *driver) uids(id covey.MailboxID) []covey.UID {
	d.t.Helper()
	var list []covey.UID
	for _, m := range d.messages(storage.Query{Mailbox: id}) {
		list = append(list, m.UID)
	}
	return list
}

// same compares two values.
func (d *driver) same(what string, got, want any) {
	d.t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		d.t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

// runs makes ranges of pairs of UIDs.
func runs(pairs ...covey.UID) []storage.UIDRange {
	var list []storage.UIDRange
	for i := 0; i < len(pairs); i += 2 {
		list = append(list, storage.UIDRange{First: pairs[i], Last: pairs[i+1]})
	}
	return list
}

var all = runs(1, 1<<32-1)

// A picture is all that readers can see of a state, but for where bodies lie.
type picture struct {
	Accounts  []storage.Account
	Mailboxes []storage.Mailbox
	Views     map[covey.MailboxID]view
	Bodies    map[covey.BodyID]int64 // their sizes
	Queue     []storage.Queued
	Summaries []string // of what is queued
}

type view struct {
	Mailbox  storage.Mailbox
	UIDs     []storage.UIDRange
	Unseen   covey.UID
	Messages []storage.Message
	Expunged []storage.UIDRange
}

func dump(t testing.TB, state storage.State) picture {
	t.Helper()
	p := picture{Views: map[covey.MailboxID]view{}, Bodies: map[covey.BodyID]int64{}}
	for a := covey.AccountID(1); a <= accounts; a++ {
		account, err := state.Account(a)
		if err != nil {
			t.Fatalf("account %d: %v", a, err)
		}
		p.Accounts = append(p.Accounts, account)
		list, err := state.Mailboxes(a)
		if err != nil {
			t.Fatalf("mailboxes of account %d: %v", a, err)
		}
		p.Mailboxes = append(p.Mailboxes, list...)
		for _, mb := range list {
			if mb.ID > 0 && !mb.NoSelect {
				p.Views[mb.ID] = look(t, state, mb, p.Bodies)
			}
		}
	}
	p.Queue = queueOf(t, state)
	for _, q := range p.Queue {
		sum, err := state.Summary(q.Body)
		if err != nil {
			t.Fatalf("summary of body %d: %v", q.Body, err)
		}
		p.Summaries = append(p.Summaries, string(sum))
	}
	return p
}

func look(t testing.TB, state storage.State, mb storage.Mailbox, bodies map[covey.BodyID]int64) view {
	t.Helper()
	var v view
	var err error
	if v.Mailbox, v.UIDs, v.Unseen, err = state.View(mb.Account, mb.ID); err != nil {
		t.Fatalf("view of mailbox %d: %v", mb.ID, err)
	}
	v.Messages = messages(t, state, storage.Query{Mailbox: mb.ID, Summary: true})
	changes, err := state.Changes(mb.Account, mb.ID, 0)
	if err != nil {
		t.Fatalf("changes of mailbox %d: %v", mb.ID, err)
	}
	v.Expunged = changes.Expunged
	located := messages(t, state, storage.Query{Mailbox: mb.ID, Extents: true})
	both := messages(t, state, storage.Query{Mailbox: mb.ID, Summary: true, Extents: true})
	for i, m := range v.Messages {
		extents, err := state.Body(m.Body)
		if err != nil {
			t.Fatalf("body %d: %v", m.Body, err)
		}
		if !slices.Equal(located[i].Extents, extents) || !slices.Equal(both[i].Extents, extents) || !bytes.Equal(both[i].Summary, m.Summary) {
			t.Errorf("body %d lies at %v, with its message %v; with the summary too: %+v", m.Body, extents, located[i].Extents, both[i])
		}
		bodies[m.Body] = 0
		for _, e := range extents {
			bodies[m.Body] += int64(e.Length)
		}
	}
	return v
}
