package storage

import (
	"time"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/internal/wire"
)

// Decode reads what Encode wrote. Byte slices of the result alias b. It judges
// the form only: whether the values make sense is told by the Result of applying
// the command. The error is covey.Corrupt.
func Decode(b []byte) (Command, error) {
	r := decoder{wire.NewReader(b)}
	var c Command
	switch r.Byte() {
	case version1:
		c = r.command(r.Byte())
	case version2:
		c = r.command2(r.Byte())
	default:
		r.Fail("unknown version of a command")
	}
	if err := r.End(); err != nil {
		return nil, err
	}
	return c, nil
}

// A decoder reads the fields that commands have in common.
type decoder struct{ *wire.Reader }

func (r decoder) command(typ byte) Command {
	switch typ {
	case typeChunk:
		c := Chunk{Upload: r.delivery(), N: r.uint32(), Time: r.time()}
		c.Sum, c.Data = r.Uint32(), r.Bytes()
		return c
	case typeAbort:
		return Abort{Upload: r.delivery()}
	case typeDeliver:
		return r.deliver(0)
	case typeAppend:
		return Append{
			Account: r.account(), Mailbox: r.String(), Time: r.time(), Date: r.time(),
			Flags: r.flags(), Quota: r.Int(), Summary: r.Bytes(), Body: r.body(),
		}
	case typeStoreFlags:
		return StoreFlags{
			Account: r.account(), Mailbox: r.mailbox(), UIDs: r.ranges(), Op: FlagOp(r.Byte()),
			Flags: r.flags(), UnchangedSince: covey.ModSeq(r.Uint()), Conditional: r.Bool(),
		}
	case typeExpunge:
		return Expunge{Account: r.account(), Mailbox: r.mailbox(), UIDs: r.ranges(), OnlyDeleted: r.Bool()}
	case typeCopy:
		return Copy{
			Account: r.account(), Mailbox: r.mailbox(), UIDs: r.ranges(), To: r.String(),
			Time: r.time(), Quota: r.Int(), Move: r.Bool(),
		}
	case typeCreateMailbox:
		return CreateMailbox{
			Account: r.account(), Name: r.String(), Use: SpecialUse(r.Byte()), Time: r.time(),
			IfMissing: r.Bool(), Most: r.uint32(),
		}
	case typeDeleteMailbox:
		return DeleteMailbox{Account: r.account(), Name: r.String()}
	case typeRenameMailbox:
		return RenameMailbox{Account: r.account(), From: r.String(), To: r.String(), Time: r.time()}
	case typeSubscribe:
		return Subscribe{Account: r.account(), Name: r.String(), On: r.Bool()}
	case typeDropAccount:
		return DropAccount{Account: r.account()}
	case typeConfirm:
		return Confirm{IDs: r.deliveries()}
	}
	r.Fail("unknown type of a command")
	return nil
}

// command2 reads a command that needs version 2.
func (r decoder) command2(typ byte) Command {
	switch typ {
	case typeDeliver:
		f := r.Byte()
		if f == 0 || f&^(flagLate|flagRemember|flagAsks) != 0 {
			r.Fail("unknown flags of a delivery")
		}
		return r.deliver(f)
	case typeConfirm:
		return Confirm{IDs: r.deliveries(), Remember: true}
	case typeEnqueue:
		return r.enqueue()
	case typeDequeue:
		return r.dequeue()
	}
	r.Fail("unknown type of a command of version 2")
	return nil
}

func (r decoder) deliver(flags byte) Deliver {
	c := Deliver{
		Late: flags&flagLate != 0, Remember: flags&flagRemember != 0, Asks: flags&flagAsks != 0,
		ID: r.delivery(), Time: r.time(),
	}
	copy(c.Hash[:], r.Raw(len(c.Hash)))
	if n := r.Count(3); n > 0 {
		c.Recipients = make([]Recipient, n)
		for i := range c.Recipients {
			c.Recipients[i] = Recipient{Account: r.account(), Mailbox: r.name(), Prefix: r.Bytes()}
		}
	}
	c.Confirmed = r.deliveries()
	if c.Asks {
		c.Apart, c.Lost = r.deliveries(), r.deliveries()
	}
	c.Summary, c.Body = r.Bytes(), r.body()
	return c
}

func (r decoder) deliveries() []covey.DeliveryID { return ReadDeliveryIDs(r.Reader) }

// ReadDeliveryIDs reads what AppendDeliveryIDs wrote; nil for an empty list.
func ReadDeliveryIDs(r *wire.Reader) []covey.DeliveryID {
	n := r.Count(3)
	if n == 0 {
		return nil
	}
	ids := make([]covey.DeliveryID, n)
	for i := range ids {
		ids[i] = decoder{r}.delivery()
	}
	return ids
}

func (r decoder) account() covey.AccountID { return covey.AccountID(r.Uint()) }

func (r decoder) mailbox() covey.MailboxID { return covey.MailboxID(r.Uint()) }

// name reads a mailbox name; the usual one costs no memory.
func (r decoder) name() string {
	if b := r.Bytes(); string(b) != Inbox {
		return string(b)
	}
	return Inbox
}

func (r decoder) uint32() uint32 {
	v := r.Uint()
	if v > 1<<32-1 {
		r.Fail("number beyond 32 bits")
		return 0
	}
	return uint32(v)
}

func (r decoder) delivery() covey.DeliveryID {
	return covey.DeliveryID{Node: covey.NodeID(r.Uint()), Boot: r.Uint(), Seq: r.Uint()}
}

func (r decoder) time() time.Time { return time.Unix(r.Int(), 0).UTC() }

func (r decoder) flags() covey.Flags {
	return covey.Flags{System: covey.SystemFlags(r.Byte()), Keywords: r.strings()}
}

func (r decoder) strings() []string {
	n := r.Count(1)
	if n == 0 {
		return nil
	}
	list := make([]string, n)
	for i := range list {
		list[i] = r.String()
	}
	return list
}

func (r decoder) ranges() []UIDRange {
	n := r.Count(2)
	if n == 0 {
		return nil
	}
	list := make([]UIDRange, n)
	for i := range list {
		list[i] = UIDRange{covey.UID(r.uint32()), covey.UID(r.uint32())}
	}
	return list
}

func (r decoder) body() Body {
	var b Body
	if b.Chunks = r.uint32(); b.Chunks > 0 {
		b.Upload = r.delivery()
	}
	b.Size, b.Sum, b.Inline = r.Int(), r.Uint32(), r.Bytes()
	return b
}
