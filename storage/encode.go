package storage

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"slices"
	"time"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/internal/wire"
)

// The first octet of an encoded command is the lowest version that has all of it.
// A new form gets a new number, and is proposed only once every member understands
// it. Version 2 has the commands of the queue, and what goes with them: a Deliver
// with a flag, and a Confirm to Remember.
const (
	version1 = 1
	version2 = 2
)

// The flags of a Deliver, in version 2 the octet behind its type.
const (
	flagLate     = 1 << 0
	flagRemember = 1 << 1
	flagAsks     = 1 << 2
)

// The second octet of an encoded command. The numbers are stored: add at the end.
const (
	typeChunk = iota + 1
	typeAbort
	typeDeliver
	typeAppend
	typeStoreFlags
	typeExpunge
	typeCopy
	typeCreateMailbox
	typeDeleteMailbox
	typeRenameMailbox
	typeSubscribe
	typeDropAccount
	typeConfirm
	typeEnqueue
	typeDequeue
)

// castagnoli makes the checksums of body bytes, as seglog.Extent has them.
func checksum(p []byte) uint32 { return crc32.Checksum(p, crc32.MakeTable(crc32.Castagnoli)) }

// Encode returns the form in which c travels and is logged: a version octet, a
// type octet, then the fields in order as internal/wire writes them, times in
// whole seconds. The bytes of a body come last, so that they lie in the log at
// the end of the entry. The result is the caller's.
func Encode(c Command) []byte { return AppendEncoded(nil, c) }

// AppendEncoded appends what Encode returns to b, which it grows at most once for
// a command with a body.
func AppendEncoded(b []byte, c Command) []byte {
	b = append(slices.Grow(b, sizeHint(c)), versionOf(c))
	switch c := c.(type) {
	case Chunk:
		b = appendDelivery(append(b, typeChunk), c.Upload)
		b = appendTime(wire.AppendUint(b, uint64(c.N)), c.Time)
		return appendSummed(b, c.Data)
	case Abort:
		return appendDelivery(append(b, typeAbort), c.Upload)
	case Deliver:
		if b = append(b, typeDeliver); c.flags() != 0 {
			b = append(b, c.flags())
		}
		return c.encode(b)
	case Append:
		return c.encode(append(b, typeAppend))
	case StoreFlags:
		return c.encode(append(b, typeStoreFlags))
	case Expunge:
		b = appendTarget(append(b, typeExpunge), c.Account, c.Mailbox, c.UIDs)
		return wire.AppendBool(b, c.OnlyDeleted)
	case Copy:
		return c.encode(append(b, typeCopy))
	case CreateMailbox:
		return c.encode(append(b, typeCreateMailbox))
	case DeleteMailbox:
		b = wire.AppendUint(append(b, typeDeleteMailbox), uint64(c.Account))
		return wire.AppendBytes(b, c.Name)
	case RenameMailbox:
		b = wire.AppendUint(append(b, typeRenameMailbox), uint64(c.Account))
		b = wire.AppendBytes(wire.AppendBytes(b, c.From), c.To)
		return appendTime(b, c.Time)
	case Subscribe:
		b = wire.AppendUint(append(b, typeSubscribe), uint64(c.Account))
		return wire.AppendBool(wire.AppendBytes(b, c.Name), c.On)
	case DropAccount:
		return wire.AppendUint(append(b, typeDropAccount), uint64(c.Account))
	case Confirm:
		return AppendDeliveryIDs(append(b, typeConfirm), c.IDs)
	case Enqueue:
		return c.encode(append(b, typeEnqueue))
	case Dequeue:
		return c.encode(append(b, typeDequeue))
	}
	panic(fmt.Sprintf("storage: encode %T", c))
}

func versionOf(c Command) byte {
	switch c := c.(type) {
	case Deliver:
		if c.flags() != 0 {
			return version2
		}
	case Confirm:
		if c.Remember {
			return version2
		}
	case Enqueue, Dequeue:
		return version2
	}
	return version1
}

// sizeHint is enough for most commands to be encoded without growing.
func sizeHint(c Command) int {
	switch c := c.(type) {
	case Chunk:
		return 64 + len(c.Data)
	case Deliver:
		n := 160 + len(c.Summary) + len(c.Body.Inline) + 32*(len(c.Confirmed)+len(c.Apart)+len(c.Lost))
		for _, r := range c.Recipients {
			n += 24 + len(r.Mailbox) + len(r.Prefix)
		}
		return n
	case Append:
		return 256 + len(c.Summary) + len(c.Body.Inline)
	}
	return 128
}

func (c *Deliver) flags() (f byte) {
	if c.Late {
		f |= flagLate
	}
	if c.Remember {
		f |= flagRemember
	}
	if c.Asks {
		f |= flagAsks
	}
	return f
}

func (c Deliver) encode(b []byte) []byte {
	b = appendTime(appendDelivery(b, c.ID), c.Time)
	b = append(b, c.Hash[:]...)
	b = wire.AppendUint(b, uint64(len(c.Recipients)))
	for _, r := range c.Recipients {
		b = wire.AppendUint(b, uint64(r.Account))
		b = wire.AppendBytes(b, r.Mailbox)
		b = wire.AppendBytes(b, r.Prefix)
	}
	b = AppendDeliveryIDs(b, c.Confirmed)
	if c.Asks {
		b = AppendDeliveryIDs(AppendDeliveryIDs(b, c.Apart), c.Lost)
	}
	return appendBody(wire.AppendBytes(b, c.Summary), c.Body)
}

// AppendDeliveryIDs appends a list in the form that ReadDeliveryIDs reads.
func AppendDeliveryIDs(b []byte, ids []covey.DeliveryID) []byte {
	b = wire.AppendUint(b, uint64(len(ids)))
	for _, id := range ids {
		b = appendDelivery(b, id)
	}
	return b
}

func (c Append) encode(b []byte) []byte {
	b = wire.AppendUint(b, uint64(c.Account))
	b = wire.AppendBytes(b, c.Mailbox)
	b = appendTime(appendTime(b, c.Time), c.Date)
	b = appendFlags(b, c.Flags)
	b = wire.AppendInt(b, c.Quota)
	return appendBody(wire.AppendBytes(b, c.Summary), c.Body)
}

func (c StoreFlags) encode(b []byte) []byte {
	b = appendTarget(b, c.Account, c.Mailbox, c.UIDs)
	b = appendFlags(append(b, byte(c.Op)), c.Flags)
	b = wire.AppendUint(b, uint64(c.UnchangedSince))
	return wire.AppendBool(b, c.Conditional)
}

func (c Copy) encode(b []byte) []byte {
	b = appendTarget(b, c.Account, c.Mailbox, c.UIDs)
	b = appendTime(wire.AppendBytes(b, c.To), c.Time)
	return wire.AppendBool(wire.AppendInt(b, c.Quota), c.Move)
}

func (c CreateMailbox) encode(b []byte) []byte {
	b = wire.AppendUint(b, uint64(c.Account))
	b = append(wire.AppendBytes(b, c.Name), byte(c.Use))
	b = wire.AppendBool(appendTime(b, c.Time), c.IfMissing)
	return wire.AppendUint(b, uint64(c.Most))
}

func appendDelivery(b []byte, id covey.DeliveryID) []byte {
	b = wire.AppendUint(b, uint64(id.Node))
	return wire.AppendUint(wire.AppendUint(b, id.Boot), id.Seq)
}

func appendTime(b []byte, t time.Time) []byte { return wire.AppendInt(b, t.Unix()) }

func appendFlags(b []byte, f covey.Flags) []byte {
	b = append(b, byte(f.System))
	return appendStrings(b, f.Keywords)
}

func appendStrings(b []byte, list []string) []byte {
	b = wire.AppendUint(b, uint64(len(list)))
	for _, s := range list {
		b = wire.AppendBytes(b, s)
	}
	return b
}

func appendRanges(b []byte, list []UIDRange) []byte {
	b = wire.AppendUint(b, uint64(len(list)))
	for _, r := range list {
		b = wire.AppendUint(wire.AppendUint(b, uint64(r.First)), uint64(r.Last))
	}
	return b
}

func appendTarget(b []byte, a covey.AccountID, m covey.MailboxID, uids []UIDRange) []byte {
	b = wire.AppendUint(wire.AppendUint(b, uint64(a)), uint64(m))
	return appendRanges(b, uids)
}

func appendBody(b []byte, body Body) []byte {
	b = wire.AppendUint(b, uint64(body.Chunks))
	if body.Chunks > 0 {
		b = appendDelivery(b, body.Upload)
	}
	return appendSummed(wire.AppendInt(b, body.Size), body.Inline)
}

func appendSummed(b, p []byte) []byte {
	b = binary.LittleEndian.AppendUint32(b, checksum(p))
	return wire.AppendBytes(b, p)
}
