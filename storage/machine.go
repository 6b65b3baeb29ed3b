package storage

import (
	"fmt"
	"time"

	"github.com/cespare/xxhash/v2"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/internal/mutant"
	"github.com/covey-mail/covey/internal/runhash"
	"github.com/covey-mail/covey/internal/wire"
	"github.com/covey-mail/covey/storage/seglog"
)

// sliceRows is how many messages a command or a reader takes from the tables at
// a time.
const sliceRows = 256

// A machine applies commands to tables. What it does is a function of the
// tables, its own fields and the command: no clock, no chance, no order of a
// map. Each command is judged in full before it changes anything.
type machine struct {
	t           tables
	meta        meta
	uploads     uploads
	unconfirmed unconfirmed
	heard       heard
	queue       queue
	rolls       rolls
	hashes      runhash.History
	installed   []byte // what the last Install was given; not replicated

	entry   seglog.Command // being applied
	touched []touch        // by the command being applied
	scratch []byte         // for fold
	extent  [1]seglog.Extent
	digest  *xxhash.Digest
}

// A touch is a mailbox that a command changed.
type touch struct {
	account covey.AccountID
	mailbox covey.MailboxID
}

// meta is what a shard knows of itself.
type meta struct {
	applied     uint64          // index of the last command applied
	hash        uint64          // over all commands applied and their results
	clock       int64           // the latest command time seen, in seconds; never goes back
	lastMailbox covey.MailboxID // the last that was given out
}

// latestClock keeps room above the clock in the 32 bits of UIDVALIDITY, however
// wrong a node's clock may be.
const latestClock = 0xf0000000

func newMachine(t tables) *machine {
	return &machine{t: t, uploads: newUploads(), unconfirmed: newUnconfirmed(), queue: newQueue(), rolls: newRolls(), digest: xxhash.New()}
}

// apply applies one command. The error is of data that cannot be decoded; a
// fault of the tables is left for the caller to look at.
func (m *machine) apply(e seglog.Command) (*Result, error) {
	cmd, err := Decode(e.Data)
	if err != nil {
		return nil, fmt.Errorf("decode command %d: %w", e.Index, err)
	}
	m.entry, m.touched = e, m.touched[:0]
	r := m.run(cmd)
	m.entry.Data = nil
	m.meta.applied = e.Index
	e.Data = e.Data[:len(e.Data)-summed(cmd)]
	m.fold(e, r)
	return r, nil
}

func (m *machine) run(cmd Command) *Result {
	var r Result
	switch c := cmd.(type) {
	case Chunk:
		r.Err = m.chunk(&c)
	case Abort:
		m.dropUpload(c.Upload)
	case Deliver:
		r.Err = m.deliver(&c, &r)
	case Append:
		r.Err = m.append(&c, &r)
	case StoreFlags:
		r.Err = m.storeFlags(&c, &r)
	case Expunge:
		r.Err = m.expunge(&c, &r)
	case Copy:
		r.Err = m.copy(&c, &r)
	case CreateMailbox:
		r.Err = m.create(&c, &r)
	case DeleteMailbox:
		r.Err = m.delete(&c)
	case RenameMailbox:
		r.Err = m.rename(&c)
	case Subscribe:
		r.Err = m.subscribe(&c)
	case DropAccount:
		m.dropAccount(c.Account)
	case Confirm:
		m.confirm(c.IDs, c.Remember)
	case Enqueue:
		r.Err = m.enqueue(&c)
	case Dequeue:
		m.dequeue(&c)
	}
	return &r
}

// summed returns how many octets of a body an encoded command ends with: the
// checksum in front of them speaks for them.
func summed(cmd Command) int {
	switch c := cmd.(type) {
	case Chunk:
		return len(c.Data)
	case Deliver:
		return len(c.Body.Inline)
	case Append:
		return len(c.Body.Inline)
	}
	return 0
}

// fold adds a command and its result to the running hash. Where its bytes lie is
// no part of it, nor is the wording of an error.
func (m *machine) fold(e seglog.Command, r *Result) {
	b := wire.AppendUint(m.scratch[:0], m.meta.hash)
	b = wire.AppendUint(b, e.Index)
	if r.Err != nil {
		b = append(b, 1, byte(covey.KindOf(r.Err)))
	}
	for _, p := range r.Placed {
		b = wire.AppendUint(wire.AppendUint(b, uint64(p.Mailbox)), uint64(p.UIDValidity))
		b = wire.AppendUint(wire.AppendUint(b, uint64(p.Source)), uint64(p.UID))
		b = wire.AppendBool(b, p.Repeat)
	}
	b = appendRanges(appendRanges(b, r.UIDs), r.Conflicts)
	b = wire.AppendUint(b, uint64(r.Mailbox.ID))
	b = wire.AppendUint(b, uint64(r.ModSeq))
	m.digest.Reset()
	m.digest.Write(b)
	m.digest.Write(e.Data)
	m.meta.hash, m.scratch = m.digest.Sum64(), b
	m.hashes.Add(e.Index, m.meta.hash)
}

// tick moves the shard's clock to a command's time, if that is later, and drops
// what has expired.
func (m *machine) tick(t time.Time) {
	m.meta.clock = max(m.meta.clock, min(t.Unix(), latestClock))
	m.expireUploads()
	m.unconfirmed.expire(m.meta.clock)
}

// touch notes that a mailbox changed, for those who watch it.
func (m *machine) touch(mb *mailbox) {
	m.touched = append(m.touched, touch{mb.Account, mb.ID})
}

// find returns a mailbox that can be selected, by the id a session holds.
func (m *machine) find(a covey.AccountID, id covey.MailboxID) (*mailbox, error) {
	mb := m.t.mailbox(id)
	if mb == nil || mb.Account != a || mb.NoSelect {
		return nil, covey.Errorf(covey.NotFound, "mailbox %d of account %d", id, a)
	}
	return mb, nil
}

// named returns a mailbox that can be selected, nil if there is none.
func (m *machine) named(a covey.AccountID, name string) *mailbox {
	if mb := m.t.mailboxNamed(a, name); mb != nil && !mb.NoSelect {
		return mb
	}
	return nil
}

// A target is the mailbox that a command puts messages into: one there is, or a
// default folder that is made when the command is sure to succeed.
type target struct {
	account covey.AccountID
	name    string
	have    *mailbox
}

// target finds the destination called name. NotFound if there is none.
func (m *machine) target(a covey.AccountID, name string) (target, error) {
	if a == 0 {
		return target{}, covey.Errorf(covey.Invalid, "account 0")
	}
	name, err := CleanName(name)
	if err != nil {
		return target{}, err
	}
	to := target{a, name, m.named(a, name)}
	if _, ok := defaultFolder(name); to.have == nil && !ok {
		return target{}, covey.Errorf(covey.NotFound, "mailbox %q of account %d", name, a)
	}
	return to, nil
}

// destination returns the mailbox, which it makes if need be.
func (m *machine) destination(to target) *mailbox {
	if to.have != nil {
		return to.have
	}
	return m.makeMailbox(to.account, to.name, NoUse)
}

// room reports whether a destination can take n messages more.
func (to target) room(n int) error {
	const most = 1<<32 - 1
	if to.have != nil && uint64(to.have.UIDNext)+uint64(n) > most {
		return covey.Errorf(covey.Limit, "mailbox %d has given out its last UID", to.have.ID)
	}
	return nil
}

// bump returns the ModSeq of a change that is being made to mb.
func (m *machine) bump(mb *mailbox) covey.ModSeq {
	mb.HighestModSeq++
	m.t.counted(mb)
	m.touch(mb)
	return mb.HighestModSeq
}

// put adds a message to mb under its next UID, which it returns.
func (m *machine) put(mb *mailbox, msg *Message) covey.UID {
	if mutant.Is(mutant.LocalUID) && time.Now().UnixMicro()%50 == 0 {
		mb.UIDNext++
	}
	msg.UID = mb.UIDNext
	mb.UIDNext++
	m.count(mb, msg, 1)
	m.t.addMessage(mb.ID, msg)
	mb.recent.add(msg.ModSeq, msg.UID)
	m.rolls.add(mb.ID, msg.UID)
	return msg.UID
}

// remove drops a message that mb holds. The body is the caller's to release.
func (m *machine) remove(mb *mailbox, msg *Message) {
	m.count(mb, msg, -1)
	m.t.dropMessage(mb.ID, msg)
}

// count adds sign times a message to the counts of its mailbox and account.
func (m *machine) count(mb *mailbox, msg *Message, sign int) {
	a := m.t.account(mb.Account)
	if a == nil {
		return // a fault, or a broken invariant that check tells
	}
	size := int64(sign) * msg.Size
	mb.Messages += uint32(sign)
	mb.Bytes += size
	a.messages += int64(sign)
	a.bytes += size
	m.countFlags(mb, msg.Flags.System, sign)
	m.t.counted(mb)
}

func (m *machine) countFlags(mb *mailbox, f covey.SystemFlags, sign int) {
	if f&covey.Seen == 0 {
		mb.Unseen += uint32(sign)
	}
	if f&covey.Deleted != 0 {
		mb.Deleted += uint32(sign)
	}
}

// withinQuota reports whether an account may hold size bytes more.
func (m *machine) withinQuota(id covey.AccountID, size, quota int64) error {
	var used int64
	if a := m.t.account(id); a != nil {
		used = a.bytes
	}
	if quota > 0 && used+size > quota {
		return covey.Errorf(covey.OverQuota, "account %d holds %d bytes of %d", id, used, quota)
	}
	return nil
}
