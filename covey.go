// Package covey is the vocabulary of Covey, a clustered mail server: the
// identities, addresses and error kinds that every other package speaks in.
//
// It holds no behaviour beyond parsing and printing its own types, does no I/O
// and imports the standard library only. Which package may import which is in
// docs/design.md and enforced by layers_test.go.
package covey

import (
	"encoding/hex"
	"fmt"
	"strconv"
)

// A NodeID names one node of a cluster. It is random, made once with the data
// folder and kept with it; a host whose disk was lost gets a new one. Zero is no
// node.
type NodeID uint64

// String returns the sixteen hexadecimal digits operators see and type.
func (id NodeID) String() string { return fmt.Sprintf("%016x", uint64(id)) }

// ParseNodeID is the inverse of NodeID.String. Zero is refused.
func ParseNodeID(s string) (NodeID, error) {
	n, err := strconv.ParseUint(s, 16, 64)
	if err != nil || n == 0 || len(s) != 16 {
		return 0, Errorf(Invalid, "node id %q: want sixteen hexadecimal digits", clip(s))
	}
	return NodeID(n), nil
}

// A ClusterID tells clusters apart. It is random, made when a cluster is founded.
type ClusterID [16]byte

// String returns 32 hexadecimal digits.
func (id ClusterID) String() string { return hex.EncodeToString(id[:]) }

// A ShardID names one Raft group. Group 0 is the directory, 1 to N are the
// mailbox shards; N is fixed when a cluster is made.
type ShardID uint32

// DirectoryShard is the group that holds domains, accounts, aliases and the
// shard map.
const DirectoryShard ShardID = 0

// An AccountID names an account for ever: it is never given to another account,
// even after the first is removed. Zero is no account.
type AccountID uint64

// A MailboxID names a mailbox within its shard and is never reused there. Zero
// is no mailbox.
type MailboxID uint64

// A UID is a message's unique identifier within a mailbox and UIDVALIDITY
// (RFC 9051 section 2.3.1.1). UIDs ascend and are never reused; zero is none.
type UID uint32

// A ModSeq is a mod-sequence of a mailbox (RFC 7162 section 3.1). Zero is
// before every change.
type ModSeq uint64

// A BodyID names the bytes of a message within its shard: it is the Raft index
// of the command that brought them. Copies of a message share one BodyID.
type BodyID uint64

// A DeliveryID names one transaction of one front node, so that a retry of it is
// recognised by the shard that already applied it.
type DeliveryID struct {
	Node NodeID
	Boot uint64 // ascends with each start of the node
	Seq  uint64 // ascends within a boot
}

// String returns the form that log lines carry.
func (d DeliveryID) String() string {
	return fmt.Sprintf("%s-%d-%d", d.Node, d.Boot, d.Seq)
}

// A DiskStamp tells later states of a node's disk from earlier ones. A node writes
// a new one to its disk now and then, and only then tells the others: who comes with
// one that is older than they know has had its disk put back.
type DiskStamp struct {
	Count uint64 // ascends; 0: there is no stamp
	Mark  uint64 // random: no two that were made apart are the same
}

// Follows reports whether a disk with this stamp can be a later state of one that
// had another, or the same.
func (s DiskStamp) Follows(other DiskStamp) bool { return s.Count > other.Count || s == other }

// clip bounds foreign text that an error quotes.
func clip(s string) string {
	const most = 64
	if len(s) > most {
		return s[:most] + "…"
	}
	return s
}
