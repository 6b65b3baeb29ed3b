package storage

import (
	"time"

	"github.com/covey-mail/covey"
)

// A Command changes one shard. Its effect depends on the shard's state and the
// command alone, so that every replica that applies the same commands holds the
// same state; whatever else matters (the time, a quota) comes in its fields.
//
// Names of mailboxes are UTF-8, with '/' between levels; INBOX is that word in
// upper case. Encode gives the form that travels and is logged; Decode reads it.
type Command interface {
	command() // closes the set
}

// ChunkSize is the most body bytes that one command carries. A larger body
// travels as Chunks ahead of the command that refers to them.
const ChunkSize = 256 << 10

// A Body is the bytes of one message as a command brings them: in the command,
// or in chunks sent before it.
type Body struct {
	Inline []byte // if Chunks is 0; the last field of the encoded command
	Upload covey.DeliveryID
	Chunks uint32 // Chunk commands 0 … Chunks-1 of Upload
	Size   int64  // total length in bytes
	Sum    uint32 // CRC32C of Inline: carried by the encoding, made by Encode
}

// Chunk brings part N of an upload that a Deliver or Append will refer to. A
// chunk that is there already is left as it is. Uploads none of whose chunks
// arrived in the last hour of command time are dropped.
type Chunk struct {
	Upload covey.DeliveryID
	N      uint32
	Time   time.Time
	Sum    uint32 // CRC32C of Data: carried by the encoding, made by Encode
	Data   []byte // at most ChunkSize; last field of the encoding
}

// Abort drops the chunks of an upload.
type Abort struct {
	Upload covey.DeliveryID
}

// Deliver puts one message into mailboxes of several accounts of the shard. It
// never fails for quota.
//
// A Deliver whose ID was applied before and is unconfirmed, returns what it
// returned then. So does, recipient by recipient, one whose Hash equals that of
// an unconfirmed delivery into the same mailbox within the last five days of
// command time: a resend after a lost reply.
//
// An unconfirmed delivery may also be one whose sender is still there, and sends the
// same bytes a second time on purpose. A front node that Asks can tell: where
// a message lies of which neither Apart nor Lost speaks, nothing is done, and
// Result.Doubts names it.
//
// One that comes from a queue is Late: its message may have come by another way
// meanwhile, and the sender may have heard so. Where it came since Time, it is
// recognised by its Hash even so, as long as that is remembered.
type Deliver struct {
	ID         covey.DeliveryID
	Time       time.Time          // the front node's clock; becomes the internal date
	Hash       [16]byte           // of reverse-path and raw DATA; zero: not to be recognised by it
	Recipients []Recipient        // at least one
	Confirmed  []covey.DeliveryID // deliveries whose positive reply reached the sender; forgotten
	Remember   bool               // where what is Confirmed came to lie is remembered, for what comes Late
	Late       bool
	Asks       bool
	Apart      []covey.DeliveryID // if Asks: deliveries that this one is no resend of, their senders being there
	Lost       []covey.DeliveryID // likewise: whose senders may come again
	Summary    []byte             // of the message without prefixes; opaque here
	Body       Body
}

// Confirm forgets deliveries whose positive reply reached the sender, when no
// Deliver comes by that could say so. Ids that are not known are passed over.
type Confirm struct {
	IDs      []covey.DeliveryID
	Remember bool // as in Deliver
}

// A Recipient is one destination of a Deliver.
type Recipient struct {
	Account covey.AccountID
	Mailbox string // created if it is one of the default folders or INBOX, else INBOX is taken instead
	Prefix  []byte // header lines that this recipient's copy starts with; at most 1,024 octets
}

// Append puts one message into one mailbox (IMAP APPEND).
type Append struct {
	Account covey.AccountID
	Mailbox string // NotFound if it does not exist and is no default folder
	Time    time.Time
	Date    time.Time // internal date
	Flags   covey.Flags
	Quota   int64 // bytes the account may hold, 0 for no limit; beyond: OverQuota
	Summary []byte
	Body    Body
}

// A FlagOp says what StoreFlags does with its flags. The numbers are stored.
type FlagOp uint8

const (
	SetFlags FlagOp = iota
	AddFlags
	RemoveFlags
)

// StoreFlags changes the flags of those messages of UIDs that exist.
type StoreFlags struct {
	Account        covey.AccountID
	Mailbox        covey.MailboxID
	UIDs           []UIDRange
	Op             FlagOp
	Flags          covey.Flags
	UnchangedSince covey.ModSeq // if Conditional: messages with a higher ModSeq are left, and listed in Result.Conflicts
	Conditional    bool
}

// Expunge removes those messages of UIDs that exist and, if OnlyDeleted, carry
// \Deleted.
type Expunge struct {
	Account     covey.AccountID
	Mailbox     covey.MailboxID
	UIDs        []UIDRange
	OnlyDeleted bool
}

// Copy copies messages to a mailbox of the same account, all or none; with Move
// they leave their mailbox in the same command.
type Copy struct {
	Account covey.AccountID
	Mailbox covey.MailboxID
	UIDs    []UIDRange
	To      string // NotFound if it does not exist and is no default folder
	Time    time.Time
	Quota   int64 // as in Append; not looked at by a move
	Move    bool
}

// CreateMailbox makes a mailbox and the levels above it. Exists if it is there;
// with IfMissing that is a success. A default folder is made with its use.
type CreateMailbox struct {
	Account   covey.AccountID
	Name      string
	Use       SpecialUse
	Time      time.Time
	IfMissing bool
	Most      uint32 // the account may hold this many mailboxes, 0 for no limit; beyond: Limit
}

// DeleteMailbox removes a mailbox and its messages. INBOX: Denied. One with
// children stays, under another id, as a name that cannot be selected; such a one
// with children is Denied, and goes with the last of them. A deleted default folder is not shown again until it
// is created.
type DeleteMailbox struct {
	Account covey.AccountID
	Name    string
}

// RenameMailbox renames a mailbox and all below it (RFC 9051 section 6.3.6);
// they keep their ids, UIDVALIDITY and messages. From INBOX it moves the messages
// into a new mailbox instead. To below From: Denied; To there already: Exists;
// a name below it that would be too long: Limit. A default folder never used can
// be renamed, and its old name is not shown again until it is created.
// Subscriptions stay with the names.
type RenameMailbox struct {
	Account  covey.AccountID
	From, To string
	Time     time.Time
}

// Subscribe sets or clears a name's subscription; the name need not exist. More
// than MaxSubscriptions: Limit.
type Subscribe struct {
	Account covey.AccountID
	Name    string
	On      bool
}

// DropAccount removes all that an account holds. Dropping nothing is a success.
type DropAccount struct {
	Account covey.AccountID
}

func (Chunk) command()         {}
func (Abort) command()         {}
func (Confirm) command()       {}
func (Deliver) command()       {}
func (Append) command()        {}
func (StoreFlags) command()    {}
func (Expunge) command()       {}
func (Copy) command()          {}
func (CreateMailbox) command() {}
func (DeleteMailbox) command() {}
func (RenameMailbox) command() {}
func (Subscribe) command()     {}
func (DropAccount) command()   {}
func (Enqueue) command()       {}
func (Dequeue) command()       {}

// A Result is the outcome of a command.
type Result struct {
	Err       error              // carries a covey.Kind; if not nil, nothing changed
	Doubts    []covey.DeliveryID // Deliver: not done, for want of knowing about these; at most MaxDoubts
	Placed    []Placed           // Deliver: one per recipient in order; Append: one; Copy: one per message, in order of source UID
	UIDs      []UIDRange         // StoreFlags: those changed or already so; Expunge, Copy with Move: those gone
	Conflicts []UIDRange         // StoreFlags: those left for UnchangedSince
	Mailbox   Mailbox            // CreateMailbox: the mailbox; Append, Copy: the destination
	ModSeq    covey.ModSeq       // of the change: to the source by a Copy with Move, else to the mailbox that got or holds the messages; 0 if nothing changed, and for Deliver
}

// Placed says where a message came to lie.
type Placed struct {
	Mailbox     covey.MailboxID
	UIDValidity uint32
	Source      covey.UID // Copy: the UID it was copied from
	UID         covey.UID
	Repeat      bool // recognised: it lay there already
}
