// Package storage keeps the mailboxes of one shard: it applies the shard's
// commands in the order of the log, and answers questions about what they made.
//
// A State orders nothing and replicates nothing; package replica hands it
// committed commands. What a command does depends on the state and the command
// alone (see machine), so that replicas agree, and Hash shows that they do. Two
// implementations share that logic and differ in where the rows are: OpenMemory
// and Open, which keeps them in an SQLite database. Package storagetest holds
// both to the same suite.
//
// The bytes of messages are not copied here: a State knows where in its node's
// log they lie, and a Compactor moves those that would keep an old segment of the
// log alive. The encoding of commands is in encode.go, the database's tables in
// schema.go, and what survives which failure in DESIGN.md.
package storage

import (
	"context"
	"time"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/internal/snapshot"
	"github.com/covey-mail/covey/storage/seglog"
)

// A State is one shard's mailboxes, as the shard's commands have made them.
//
// Apply and Checkpoint are called by one goroutine at a time, in the order of
// the log; all else may be called by any number of goroutines beside it and sees
// every command applied before the call.
type State interface {
	Reader
	Placer

	// Applied returns the index of the last command applied. After opening it is
	// that of the last checkpoint or commit that survived; commands from there
	// are applied again.
	Applied() uint64

	// Apply applies commands with ascending indexes above Applied and returns one
	// *Result for each. It returns when the effects are visible to readers, not
	// when they are on disk: the log makes them durable. Data that cannot be
	// decoded, and a fault of the disk, stop the shard: Apply panics with an
	// error.
	Apply(cmds []seglog.Command) []any

	// Checkpoint puts everything applied on stable storage and returns the index
	// that this covers.
	Checkpoint() (uint64, error)

	// Recover makes the shard usable again after Apply panicked, or Checkpoint
	// failed, with covey.DiskFull. It goes back to the last commit, whose index it
	// gives to replay, and applies what replay hands it from there; readers wait
	// meanwhile. Until there is room again nothing but a checkpoint is committed.
	Recover(replay func(after uint64, apply func([]seglog.Command) []any) error) error

	// Hash returns the running hash over everything applied and the index it
	// stands for. Replicas with the same index have the same hash.
	Hash() (index, hash uint64)

	// HashAt returns the running hash over everything up to index, and false if
	// that is not known any more, or not yet. Known are, of what was applied since
	// the state was opened, each of the last 1,024 commands and the last 64
	// indexes that are multiples of 1,024. So replicas that are busy can be
	// compared: at the index that one of them gave, when the others are past it.
	HashAt(index uint64) (hash uint64, ok bool)

	// Snapshot begins a copy of the state as it is now, with the bodies. The
	// goroutine that calls Apply calls it. It takes as long as a checkpoint; the
	// file is copied behind it, which takes as much room on the disk as the
	// database, and meanwhile checkpoints leave the database file alone. Segments
	// of the log with bodies of the copy stay until it is closed. Callers who ask
	// while a copy is being made get that one. Limit: too many are open. After
	// DiskFull, Recover, as after a checkpoint.
	Snapshot() (snapshot.Snapshot, error)

	// Restore begins to take in a copy of another replica, beside everything
	// else. InUse: one is being taken in.
	Restore() (snapshot.Restorer, error)

	// Install replaces the state by a staged copy; the goroutine that calls Apply
	// calls it. When it returns nil that is on stable storage, with meta, of at
	// most snapshot.MetaSize bytes. Readers wait and then go on with the new
	// state; Config.Replaced is called. A copy that is behind Applied is Invalid.
	// After Invalid and DiskFull nothing has happened, after any other error the
	// state is not served any more, and Open will show the old one or the new.
	Install(r snapshot.Restorer, meta []byte) error

	// Installed returns the meta of the Install that this state began with, nil
	// if there was none. The caller must not change it.
	Installed() []byte

	// Check verifies the shard's invariants and returns each violation.
	Check(ctx context.Context) []error

	// Close checkpoints and releases everything. It may be called twice.
	Close() error
}

// A Reader reads one shard. What does not exist is covey.NotFound. Slices it
// returns are the caller's.
type Reader interface {
	// Account returns what an account uses; zero for one that holds nothing.
	Account(covey.AccountID) (Account, error)

	// Mailboxes returns the account's mailboxes in the order of their names, and
	// names that are only subscribed to. Default folders not yet used are not
	// among them: see Account.Hidden.
	Mailboxes(covey.AccountID) ([]Mailbox, error)

	// Mailbox finds a mailbox by its name.
	Mailbox(account covey.AccountID, name string) (Mailbox, error)

	// View returns, as of one moment, a mailbox, the UIDs in it in ascending
	// runs, and the UID of its first message without \Seen (0: none).
	View(account covey.AccountID, id covey.MailboxID) (Mailbox, []UIDRange, covey.UID, error)

	// Messages calls fn for the messages that q selects, in ascending UID order;
	// each is fn's to keep. No lock is held meanwhile: fn may call the State. A long answer does not hold up the writer: it is read in slices and may see
	// changes made meanwhile. An error of fn ends it and is returned.
	Messages(ctx context.Context, q Query, fn func(*Message) error) error

	// Changes returns, as of one moment, what happened to a mailbox after since.
	// For a since long ago, Expunged may hold UIDs that went before it.
	Changes(account covey.AccountID, id covey.MailboxID, since covey.ModSeq) (Changes, error)

	// Body returns where a body's bytes lie in this node's log, in order.
	Body(covey.BodyID) ([]seglog.Extent, error)

	// Summary returns the summary that came with a body.
	Summary(covey.BodyID) ([]byte, error)

	// Queue returns the deliveries in the queue with indexes above one, in
	// ascending order, at most most.
	Queue(after uint64, most int) ([]Queued, error)

	// QueueLength returns how many deliveries are in the queue, and the time of
	// the one that has been there longest.
	QueueLength() (n int, oldest time.Time, err error)
}

// A Query selects messages of a mailbox.
type Query struct {
	Mailbox covey.MailboxID
	UIDs    []UIDRange   // ascending, disjoint; nil selects all
	Since   covey.ModSeq // only messages changed after it
	Summary bool         // fill in Message.Summary
	Extents bool         // fill in Message.Extents
}

// A UIDRange is the UIDs from First to Last, both included.
type UIDRange struct{ First, Last covey.UID }

// An Account is what a shard knows of an account.
type Account struct {
	ID       covey.AccountID
	Bytes    int64 // sum of the sizes of its messages
	Messages int64
	Hidden   []string // default folders that were deleted, and not made again
}

// A Mailbox is one mailbox with its counts.
type Mailbox struct {
	ID            covey.MailboxID // 0: a name subscribed to that does not exist
	Account       covey.AccountID
	Name          string
	Use           SpecialUse
	NoSelect      bool // a name with children, without messages
	Subscribed    bool // told by Mailboxes alone: it belongs to the name
	UIDValidity   uint32
	UIDNext       covey.UID
	HighestModSeq covey.ModSeq
	Messages      uint32
	Unseen        uint32
	Deleted       uint32
	Bytes         int64
	Keywords      []string // ever used in it, at most MaxMailboxKeywords
}

// MaxMailboxKeywords bounds the different keywords of one mailbox; a command
// that would go beyond fails with covey.Limit (a Deliver brings none).
const MaxMailboxKeywords = 256

// A Message is one message of a mailbox. Its bytes are Prefix and then the body.
type Message struct {
	UID     covey.UID
	ModSeq  covey.ModSeq
	Flags   covey.Flags
	Date    time.Time // internal date, to the second, UTC
	Size    int64     // of prefix and body together
	Prefix  []byte
	Body    covey.BodyID
	Summary []byte          // if asked for
	Extents []seglog.Extent // where the body lies, if asked for: see Reader.Body
}

// Changes are what happened to a mailbox after a ModSeq.
type Changes struct {
	Mailbox  Mailbox
	Expunged []UIDRange // ascending
	Changed  []Message  // new or with new flags, in ascending UID order, without summaries
}

// A SpecialUse is a mailbox's use (RFC 6154). The numbers are stored.
type SpecialUse uint8

const (
	NoUse SpecialUse = iota
	Drafts
	Sent
	Junk
	Trash
	Archive
)

// Inbox is the name of the mailbox that every account has.
const Inbox = "INBOX"

// A DefaultFolder is a mailbox that every account is shown; it is made when it
// is first used.
type DefaultFolder struct {
	Name string
	Use  SpecialUse
}

// DefaultFolders returns the default folders, INBOX first.
func DefaultFolders() []DefaultFolder {
	return []DefaultFolder{
		{Inbox, NoUse}, {"Archive", Archive}, {"Drafts", Drafts}, {"Junk", Junk}, {"Sent", Sent}, {"Trash", Trash},
	}
}
