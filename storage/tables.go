package storage

import (
	"context"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/storage/seglog"
)

// tables hold the rows of one shard for a machine that knows what they mean.
// They are called by one goroutine at a time.
//
// Like bufio.Writer they remember their first fault: from then on they return
// nothing and change nothing, and fault tells it. Whoever calls them looks at
// fault before an answer leaves the shard, and a shard with a fault never
// commits.
type tables interface {
	// account returns the row, whose pointer stays valid until trim; nil if there
	// is none. putAccount stores a new one, or a change to what account says is
	// stored.
	account(covey.AccountID) *account
	putAccount(*account)
	dropAccount(covey.AccountID)

	// mailbox and mailboxNamed return a row, nil if there is none. Its pointer
	// stays valid until trim. putMailbox stores a new row or a changed name;
	// counted marks all else of a row as changed. dropMailbox drops the row and
	// what is known of expunged UIDs; it holds no messages any more.
	mailbox(covey.MailboxID) *mailbox
	mailboxNamed(covey.AccountID, string) *mailbox
	putMailbox(*mailbox)
	counted(*mailbox)
	dropMailbox(*mailbox)

	// mailboxes returns, by name, the account's mailboxes below a name, all if it
	// is empty.
	mailboxes(account covey.AccountID, under string) []*mailbox

	// subscriptions returns the names subscribed to, ascending.
	subscriptions(covey.AccountID) []string
	subscribe(covey.AccountID, string)
	unsubscribe(covey.AccountID, string)

	// messages returns, by UID, the next messages of in, and takes what it has
	// looked at off in.uids: at most most at a time, and perhaps none although
	// there are more. When in.uids is empty all was seen.
	messages(in *span, most int) []Message
	addMessage(covey.MailboxID, *Message)
	setFlags(covey.MailboxID, *Message) // and its ModSeq
	dropMessage(covey.MailboxID, *Message)

	// uids returns the UIDs in a mailbox in ascending runs, and firstUnseen the
	// first message from a UID on that has no \Seen, 0 if there is none.
	uids(covey.MailboxID) []UIDRange
	firstUnseen(id covey.MailboxID, from covey.UID) covey.UID

	// addExpunged notes runs of UIDs that went with a change, trimExpunged keeps
	// the newest keep runs but never part of a change: it returns how many there
	// are and the change up to which they are gone. expunged returns those after a
	// change, in any order.
	addExpunged(covey.MailboxID, covey.ModSeq, []UIDRange)
	trimExpunged(id covey.MailboxID, keep int) (left int, gone covey.ModSeq)
	expunged(covey.MailboxID, covey.ModSeq) []UIDRange

	// addBody stores a body that refs messages refer to. ref changes the number;
	// at 0 the body goes. extents returns where it lies, and summary what came with
	// it, and false if it is not there.
	addBody(covey.BodyID, newBody)
	ref(id covey.BodyID, delta int)
	extents(covey.BodyID) ([]seglog.Extent, bool)
	summary(covey.BodyID) ([]byte, bool)

	// putQueued stores a delivery in the queue or what is left of it, dropQueued
	// removes it. Its reference to the body is the caller's affair.
	putQueued(*Queued)
	dropQueued(index uint64)

	// addChunk and dropUpload keep chunks that no body has taken yet.
	addChunk(u *upload, n uint32, e seglog.Extent)
	dropUpload(*upload)

	placements

	// trim ends the validity of row pointers and brings caches within bounds.
	trim()

	// commit makes everything so far, and what m keeps in memory, survive this
	// process; checkpoint then puts it on stable storage. check looks for broken
	// invariants.
	commit(*machine)
	checkpoint()
	check(ctx context.Context, m *machine) []error

	// stay keeps everything in memory until the next commit, however much it is.
	stay()

	fault() error
	close() error
}

// placements are the node-local part of tables.
type placements interface {
	// live returns what bodies and chunks take of each segment of the log.
	live() map[uint64]Usage

	// residents returns bodies with extents in a segment, ascending, the first
	// above after; at most most.
	residents(segment uint64, after covey.BodyID, most int) []covey.BodyID

	// moveBody and moveChunk replace where bytes lie, which they know.
	moveBody(id covey.BodyID, from, to []seglog.Extent)
	moveChunk(u *upload, n uint32, from, to seglog.Extent)
}

// An account is one account's row. Its sums are those of its mailboxes and not
// stored.
type account struct {
	id           covey.AccountID
	lastValidity uint32   // the UIDVALIDITY given out last
	hidden       []string // default folders deleted, ascending

	bytes     int64
	messages  int64
	mailboxes int // those that cannot be selected among them

	fresh bool // for the tables that cache it
}

// A mailbox is one mailbox's row.
type mailbox struct {
	Mailbox
	runs    uint32       // of expunged UIDs that are kept
	horizon covey.ModSeq // expunges up to here are no longer known one by one
	dirty   bool         // for the tables that cache it, as fresh and key are
	fresh   bool
	key     nameKey
	recent  recent
}

// A span selects messages of one mailbox for reading in slices.
type span struct {
	mailbox covey.MailboxID
	uids    []UIDRange   // ascending, disjoint, the caller's own; shrinks from the front
	since   covey.ModSeq // only messages changed after it
	summary bool
	extents bool
	again   bool // what is found is likely to be asked for again
}

// A newBody is a body on its way into the tables.
type newBody struct {
	refs    int
	size    int64
	extents []seglog.Extent
	summary []byte
}
