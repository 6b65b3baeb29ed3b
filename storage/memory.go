package storage

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/storage/seglog"
)

// OpenMemory returns an empty shard that lives in memory: the reference that
// other implementations are held against, and what tests run on. Config.Path is
// not looked at. A checkpoint of it is nothing; once closed it is gone.
func OpenMemory(cfg Config) State {
	m := newMachine(newMemory())
	m.hashes.Add(0, 0)
	return newShard(cfg, m)
}

// memory is tables in maps. It never has a fault.
type memory struct {
	accounts  map[covey.AccountID]*account
	boxes     map[covey.MailboxID]*memoryBox
	byAccount map[covey.AccountID]*memoryAccount
	bodies    map[covey.BodyID]*memoryBody
	used      usage
}

// A memoryAccount is what an account has under names.
type memoryAccount struct {
	boxes         map[string]*mailbox
	subscriptions map[string]bool
}

// A memoryBox is a mailbox and what it holds.
type memoryBox struct {
	row      *mailbox
	name     string    // as putMailbox last saw it
	messages []Message // by UID, without summaries
	gone     []gone    // by ModSeq
}

// gone is one run of expunged UIDs.
type gone struct {
	modSeq covey.ModSeq
	uids   UIDRange
}

type memoryBody struct {
	refs    int
	size    int64
	extents []seglog.Extent
	summary []byte
}

func newMemory() *memory {
	return &memory{
		accounts:  map[covey.AccountID]*account{},
		boxes:     map[covey.MailboxID]*memoryBox{},
		byAccount: map[covey.AccountID]*memoryAccount{},
		bodies:    map[covey.BodyID]*memoryBody{},
		used:      usage{},
	}
}

func (t *memory) account(id covey.AccountID) *account { return t.accounts[id] }

func (t *memory) putAccount(a *account) { t.accounts[a.id] = a }

func (t *memory) dropAccount(id covey.AccountID) {
	delete(t.accounts, id)
	delete(t.byAccount, id)
}

func (t *memory) names(id covey.AccountID) *memoryAccount {
	a := t.byAccount[id]
	if a == nil {
		a = &memoryAccount{boxes: map[string]*mailbox{}, subscriptions: map[string]bool{}}
		t.byAccount[id] = a
	}
	return a
}

func (t *memory) mailbox(id covey.MailboxID) *mailbox {
	if b := t.boxes[id]; b != nil {
		return b.row
	}
	return nil
}

func (t *memory) mailboxNamed(id covey.AccountID, name string) *mailbox {
	if a := t.byAccount[id]; a != nil {
		return a.boxes[name]
	}
	return nil
}

func (t *memory) putMailbox(mb *mailbox) {
	a := t.names(mb.Account)
	b := t.boxes[mb.ID]
	if b == nil {
		b = &memoryBox{row: mb}
		t.boxes[mb.ID] = b
	} else {
		delete(a.boxes, b.name)
	}
	b.name = mb.Name
	a.boxes[mb.Name] = mb
}

func (t *memory) counted(*mailbox) {}

func (t *memory) dropMailbox(mb *mailbox) {
	delete(t.boxes, mb.ID)
	delete(t.names(mb.Account).boxes, mb.Name)
}

func (t *memory) mailboxes(id covey.AccountID, under string) []*mailbox {
	var list []*mailbox
	if a := t.byAccount[id]; a != nil {
		for name, mb := range a.boxes {
			if under == "" || strings.HasPrefix(name, under+"/") {
				list = append(list, mb)
			}
		}
	}
	slices.SortFunc(list, func(a, b *mailbox) int { return cmp.Compare(a.Name, b.Name) })
	return list
}

func (t *memory) subscriptions(id covey.AccountID) []string {
	if a := t.byAccount[id]; a != nil {
		return slices.Sorted(maps.Keys(a.subscriptions))
	}
	return nil
}

func (t *memory) subscribe(id covey.AccountID, name string) { t.names(id).subscriptions[name] = true }

func (t *memory) unsubscribe(id covey.AccountID, name string) {
	if a := t.byAccount[id]; a != nil {
		delete(a.subscriptions, name)
	}
}

// find returns where in a mailbox's messages uid is or would be.
func (b *memoryBox) find(uid covey.UID) int {
	i, _ := slices.BinarySearchFunc(b.messages, uid, func(m Message, uid covey.UID) int { return cmp.Compare(m.UID, uid) })
	return i
}

func (t *memory) messages(in *span, most int) []Message {
	b := t.boxes[in.mailbox]
	if b == nil {
		in.uids = nil
		return nil
	}
	var list []Message
	for len(in.uids) > 0 {
		r := in.uids[0]
		for i := b.find(r.First); i < len(b.messages) && b.messages[i].UID <= r.Last; i++ {
			m := b.messages[i]
			if m.ModSeq <= in.since {
				continue
			}
			if len(list) == most {
				in.uids[0].First = m.UID
				return list
			}
			m.Prefix = slices.Clone(m.Prefix)
			m.Flags.Keywords = slices.Clone(m.Flags.Keywords)
			body := t.bodies[m.Body]
			if in.summary && body != nil {
				m.Summary = slices.Clone(body.summary)
			}
			if in.extents && body != nil {
				m.Extents = slices.Clone(body.extents)
			}
			list = append(list, m)
		}
		in.uids = in.uids[1:]
	}
	return list
}

func (t *memory) addMessage(id covey.MailboxID, msg *Message) {
	m := *msg
	m.Date = m.Date.UTC()
	m.Prefix = slices.Clone(m.Prefix)
	m.Flags.Keywords = slices.Clone(m.Flags.Keywords)
	t.boxes[id].messages = append(t.boxes[id].messages, m)
}

func (t *memory) setFlags(id covey.MailboxID, msg *Message) {
	b := t.boxes[id]
	m := &b.messages[b.find(msg.UID)]
	m.Flags, m.ModSeq = msg.Flags, msg.ModSeq
	m.Flags.Keywords = slices.Clone(m.Flags.Keywords)
}

func (t *memory) dropMessage(id covey.MailboxID, msg *Message) {
	b := t.boxes[id]
	i := b.find(msg.UID)
	b.messages = slices.Delete(b.messages, i, i+1)
}

func (t *memory) uids(id covey.MailboxID) []UIDRange {
	var list []UIDRange
	for _, m := range t.boxes[id].messages {
		list = appendUID(list, m.UID)
	}
	return list
}

func (t *memory) firstUnseen(id covey.MailboxID, from covey.UID) covey.UID {
	b := t.boxes[id]
	for _, m := range b.messages[b.find(from):] {
		if m.Flags.System&covey.Seen == 0 {
			return m.UID
		}
	}
	return 0
}

func (t *memory) addExpunged(id covey.MailboxID, s covey.ModSeq, uids []UIDRange) {
	b := t.boxes[id]
	for _, r := range uids {
		b.gone = append(b.gone, gone{s, r})
	}
}

func (t *memory) trimExpunged(id covey.MailboxID, keep int) (int, covey.ModSeq) {
	b := t.boxes[id]
	if len(b.gone) <= keep {
		return len(b.gone), b.row.horizon
	}
	last := b.gone[len(b.gone)-keep-1].modSeq
	b.gone = slices.DeleteFunc(b.gone, func(g gone) bool { return g.modSeq <= last })
	return len(b.gone), last
}

func (t *memory) expunged(id covey.MailboxID, since covey.ModSeq) []UIDRange {
	var list []UIDRange
	for _, g := range t.boxes[id].gone {
		if g.modSeq > since {
			list = append(list, g.uids)
		}
	}
	return list
}

func (t *memory) addBody(id covey.BodyID, b newBody) {
	t.bodies[id] = &memoryBody{b.refs, b.size, slices.Clone(b.extents), slices.Clone(b.summary)}
	t.count(b.extents, 1)
}

func (t *memory) ref(id covey.BodyID, delta int) {
	b := t.bodies[id]
	if b.refs += delta; b.refs == 0 {
		delete(t.bodies, id)
		t.count(b.extents, -1)
	}
}

func (t *memory) extents(id covey.BodyID) ([]seglog.Extent, bool) {
	b := t.bodies[id]
	if b == nil {
		return nil, false
	}
	return slices.Clone(b.extents), true
}

func (t *memory) summary(id covey.BodyID) ([]byte, bool) {
	b := t.bodies[id]
	if b == nil {
		return nil, false
	}
	return slices.Clone(b.summary), true
}

func (t *memory) putQueued(*Queued) {} // the machine has it

func (t *memory) dropQueued(uint64) {}

// count adds sign times the lengths of extents to what is live.
func (t *memory) count(list []seglog.Extent, sign int64) {
	for _, e := range list {
		t.used.count(e, sign)
	}
}

func (t *memory) addChunk(_ *upload, _ uint32, e seglog.Extent) { t.used.count(e, 1) }

func (t *memory) dropUpload(u *upload) {
	for _, e := range u.chunks {
		t.used.count(e, -1)
	}
}

func (t *memory) live() map[uint64]Usage { return maps.Clone(t.used) }

func (t *memory) residents(segment uint64, after covey.BodyID, most int) []covey.BodyID {
	var list []covey.BodyID
	for id, b := range t.bodies {
		if id > after && slices.ContainsFunc(b.extents, func(e seglog.Extent) bool { return e.Segment == segment }) {
			list = append(list, id)
		}
	}
	slices.Sort(list)
	return list[:min(most, len(list))]
}

func (t *memory) moveBody(id covey.BodyID, from, to []seglog.Extent) {
	t.count(from, -1)
	t.count(to, 1)
	t.bodies[id].extents = slices.Clone(to)
}

func (t *memory) moveChunk(_ *upload, _ uint32, from, to seglog.Extent) {
	t.used.count(from, -1)
	t.used.count(to, 1)
}

func (t *memory) trim() {}

func (t *memory) commit(m *machine) { m.unconfirmed.gone = nil }

func (t *memory) checkpoint() {}

func (t *memory) stay() {}

func (t *memory) fault() error { return nil }

func (t *memory) close() error { return nil }
