package mailbox

import (
	"context"
	"errors"
	"math"
	"sync"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/storage"
)

// A View is what one session has been told of one mailbox. Its sequence numbers
// move only in Poll. Methods may be called concurrently, but a session's order
// of calls is its own affair.
type View struct {
	a       *Account
	at      place
	changed chan struct{}

	mu     sync.Mutex            // guards the following fields
	box    storage.Mailbox       // as of modseq
	uids   uidList               // as the session was told
	unseen covey.UID             // first unseen message when opened
	modseq covey.ModSeq          // everything up to here is in uids or in gone
	gone   []storage.UIDRange    // expunged, not yet told
	own    map[covey.ModSeq]bool // flag changes whose effect the session knows
	closed bool
}

// An Update is one thing to tell a session, in the order of Poll's slice.
type Update struct {
	Expunge uint32           // sequence number of a message that is gone, if not 0
	Exists  uint32           // the new number of messages, if not 0
	Message *storage.Message // whose flags are now these, if not nil
	Seq     uint32           // of Message
}

// PollOptions say what a Poll may and must do.
type PollOptions struct {
	Expunge bool // sequence numbers may change (RFC 9051 section 7.5.1)
	Sync    bool // see everything committed before the call (NOOP, IDLE)
}

// Open opens a view of a mailbox; a default folder is made if this is its first
// use. NotFound if there is no such mailbox. The view must be closed.
func (a *Account) Open(ctx context.Context, name string) (*View, error) {
	r, m, err := a.find(ctx, name)
	if err != nil {
		return nil, err
	}
	v := &View{a: a, at: place{a.shard, m.ID}, own: make(map[covey.ModSeq]bool)}
	// Subscribed before reading, so that no change falls between.
	v.changed = a.s.hub.subscribe(v.at)
	box, runs, unseen, err := r.View(a.id, m.ID)
	if err != nil {
		v.Close()
		return nil, err
	}
	v.box, v.uids, v.unseen, v.modseq = box, newUIDList(runs), unseen, box.HighestModSeq
	return v, nil
}

// Close releases the view. It may be called twice.
func (v *View) Close() {
	v.mu.Lock()
	defer v.mu.Unlock()
	if !v.closed {
		v.closed = true
		v.a.s.hub.unsubscribe(v.at, v.changed)
	}
}

// Changed holds a token when the mailbox may have changed since the last Poll.
func (v *View) Changed() <-chan struct{} { return v.changed }

// Mailbox returns the mailbox as of the last Poll.
func (v *View) Mailbox() storage.Mailbox {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.box
}

// FirstUnseen returns the sequence number of the first message that had no
// \Seen when the view was opened, 0 if there was none.
func (v *View) FirstUnseen() uint32 { return v.Seq(v.unseen) }

// Len returns how many messages the session believes there are.
func (v *View) Len() uint32 {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.uids.n
}

// UID returns the UID with a sequence number, 0 if there is none.
func (v *View) UID(seq uint32) covey.UID {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.uids.uid(seq)
}

// LastUID returns the highest UID of the view, 0 if it is empty.
func (v *View) LastUID() covey.UID {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.uids.last()
}

// Seq returns the sequence number of a UID, 0 if it is not in the view.
func (v *View) Seq(uid covey.UID) uint32 {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.uids.seq(uid)
}

// Span returns the UIDs with the sequence numbers from first to last, both
// included, cut to what there is.
func (v *View) Span(first, last uint32) []storage.UIDRange {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.uids.span(first, last)
}

// Within returns the part of the view that lies in set, which is ascending and
// disjoint.
func (v *View) Within(set []storage.UIDRange) []storage.UIDRange {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.uids.within(set)
}

// Poll brings the view up to date and returns what to tell the session.
// NotFound: the mailbox was deleted.
func (v *View) Poll(ctx context.Context, o PollOptions) ([]Update, error) {
	r, err := v.reader(ctx, o.Sync)
	if err != nil {
		return nil, err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	for v.own[v.modseq+1] { // nothing to learn from it
		v.modseq++
	}
	ch, err := r.Changes(v.a.id, v.at.id, v.modseq)
	if err != nil {
		return nil, err
	}
	v.gone = append(v.gone, ch.Expunged...)
	v.box, v.modseq = ch.Mailbox, ch.Mailbox.HighestModSeq
	var ups []Update
	if o.Expunge {
		ups = v.expungeLocked(ups)
	}
	return v.changedLocked(ups, ch.Changed), nil
}

func (v *View) reader(ctx context.Context, sync bool) (storage.Reader, error) {
	if sync {
		return v.a.s.cfg.Shards.Read(ctx, v.at.shard)
	}
	return v.a.s.cfg.Shards.Local(v.at.shard)
}

func (v *View) expungeLocked(ups []Update) []Update {
	if len(v.gone) == 0 {
		return ups
	}
	for _, seq := range v.uids.remove(normalize(v.gone)) {
		ups = append(ups, Update{Expunge: seq})
	}
	v.gone = nil
	return ups
}

// changedLocked takes in new messages and new flags.
func (v *View) changedLocked(ups []Update, changed []storage.Message) []Update {
	last, before := v.uids.last(), v.uids.n
	old := 0
	for i := range changed {
		if changed[i].UID > last {
			v.uids.add(changed[i].UID)
		} else {
			old = i + 1
		}
	}
	if v.uids.n != before {
		ups = append(ups, Update{Exists: v.uids.n})
	}
	for i := range changed[:old] {
		m := &changed[i]
		if seq := v.uids.seq(m.UID); seq != 0 && !v.own[m.ModSeq] {
			ups = append(ups, Update{Message: m, Seq: seq})
		}
	}
	clear(v.own)
	return ups
}

// Messages calls fn for the messages of the mailbox whose UID is in uids, which
// is ascending and disjoint; one that is gone meanwhile is left out.
func (v *View) Messages(ctx context.Context, q storage.Query, fn func(*storage.Message) error) error {
	r, err := v.a.s.cfg.Shards.Local(v.at.shard)
	if err != nil {
		return err
	}
	q.Mailbox = v.at.id
	return r.Messages(ctx, q, fn)
}

// Flags is a change of flags.
type Flags struct {
	UIDs  []storage.UIDRange
	Op    storage.FlagOp
	Flags covey.Flags
}

// Store changes flags. The next Poll does not report this change: the caller
// knows of it.
func (v *View) Store(ctx context.Context, f Flags) (*storage.Result, error) {
	res, err := v.a.s.cfg.Shards.Propose(ctx, v.at.shard, storage.StoreFlags{
		Account: v.a.id, Mailbox: v.at.id, UIDs: f.UIDs, Op: f.Op, Flags: f.Flags,
	})
	if err == nil && res.ModSeq != 0 {
		v.mu.Lock()
		v.own[res.ModSeq] = true
		v.mu.Unlock()
	}
	return res, err
}

// Holds reports whether the messages have the flags already that a Store of f would
// give them, as of everything committed before the call. A Store can then be left
// out. With keywords it does not look, and says false.
func (v *View) Holds(ctx context.Context, f Flags) (bool, error) {
	if len(f.Flags.Keywords) > 0 {
		return false, nil
	}
	r, err := v.reader(ctx, false)
	if err != nil {
		return false, err
	}
	before, err := r.Changes(v.a.id, v.at.id, math.MaxInt64)
	if err != nil {
		return false, err
	}
	err = r.Messages(ctx, storage.Query{Mailbox: v.at.id, UIDs: f.UIDs}, func(m *storage.Message) error {
		if !f.held(m.Flags) {
			return errNotHeld
		}
		return nil
	})
	if errors.Is(err, errNotHeld) {
		return false, nil
	} else if err != nil {
		return false, err
	}
	// Nothing may have happened since that another node has acknowledged.
	if r, err = v.reader(ctx, true); err != nil {
		return false, err
	}
	after, err := r.Changes(v.a.id, v.at.id, math.MaxInt64)
	return err == nil && after.Mailbox.HighestModSeq == before.Mailbox.HighestModSeq, err
}

var errNotHeld = errors.New("message has other flags")

// held reports whether a message with flags m is as f would make it.
func (f *Flags) held(m covey.Flags) bool {
	switch f.Op {
	case storage.AddFlags:
		return f.Flags.System&^m.System == 0
	case storage.RemoveFlags:
		return f.Flags.System&m.System == 0
	}
	return f.Flags.System == m.System && len(m.Keywords) == 0
}

// ExpungeDeleted removes those messages of uids that carry \Deleted. The next
// Poll tells which they were.
func (v *View) ExpungeDeleted(ctx context.Context, uids []storage.UIDRange) (*storage.Result, error) {
	return v.a.s.cfg.Shards.Propose(ctx, v.at.shard, storage.Expunge{
		Account: v.a.id, Mailbox: v.at.id, UIDs: uids, OnlyDeleted: true,
	})
}

// Remove removes the messages of uids, all in one command.
func (v *View) Remove(ctx context.Context, uids []storage.UIDRange) (*storage.Result, error) {
	return v.a.s.cfg.Shards.Propose(ctx, v.at.shard, storage.Expunge{
		Account: v.a.id, Mailbox: v.at.id, UIDs: uids,
	})
}

// Copy copies messages to another mailbox of the account, all or none. NotFound
// if there is no such mailbox, OverQuota, DiskFull.
func (v *View) Copy(ctx context.Context, uids []storage.UIDRange, to string) (*storage.Result, error) {
	if err := v.a.s.cfg.Room(); err != nil {
		return nil, err
	}
	return v.copy(ctx, uids, storage.Copy{To: to, Quota: v.a.quota})
}

// Move moves messages to another mailbox of the account in one command.
func (v *View) Move(ctx context.Context, uids []storage.UIDRange, to string) (*storage.Result, error) {
	return v.copy(ctx, uids, storage.Copy{To: to, Move: true})
}

func (v *View) copy(ctx context.Context, uids []storage.UIDRange, c storage.Copy) (*storage.Result, error) {
	c.Account, c.Mailbox, c.UIDs, c.Time = v.a.id, v.at.id, uids, v.a.s.cfg.Now()
	return v.a.s.cfg.Shards.Propose(ctx, v.at.shard, c)
}
