package directory

import (
	"crypto/ed25519"
	"fmt"
	"net"
	"strconv"
	"time"

	"github.com/covey-mail/covey"
)

// Level is what this program understands of commands and of what nodes say to
// each other. It is raised with every change that a program before it would not
// understand; the new is used only once Service.Level says that every member
// does.
const Level = 3

// LevelQueues is the level from which shards have queues: commands of version 2, and
// methods with which nodes tell of them.
const LevelQueues = 2

// LevelStamps is the level from which the directory has stamps of disks: commands of
// version 3.
const LevelStamps = 3

// Limits of the node list and the shard map.
const (
	MaxNodes    = 1024   // members at one time
	maxEver     = 16_384 // with those that were removed, which are kept for ever
	MaxVoters   = 7      // of one shard
	maxNodeText = 64     // octets of a zone and of a version
	maxHostPort = covey.MaxDomain + len("[]:65535")
)

// A Node is a member of the cluster, or was one. Its key belongs to the directory
// and is not to be changed.
type Node struct {
	ID  covey.NodeID
	Key ed25519.PublicKey // a link to or from the node needs this very key
	NodeInfo
	State      NodeState
	ReplacedBy covey.NodeID // of a Removed node: its successor; 0: none was named
	Joined     time.Time    // to the second, UTC
	Changed    time.Time    // when anything above did last; so too
	Stamp      covey.DiskStamp
}

// NodeInfo is what a node says of itself, at each start anew.
type NodeInfo struct {
	Peer    string // host:port where other nodes reach it; empty: nowhere
	Gossip  string // host:port of its gossip; empty: it does not take part
	Zone    string // nodes that fail together share one; empty: no matter
	Version string // of its program, for operators
	Level   uint32 // of its program
}

// A NodeState says what part a node has in the cluster. The numbers are stored.
type NodeState uint8

const (
	Active   NodeState = iota
	Draining           // gets no replicas and is to lose those it has
	Removed            // no member any more, and its id never will be one
)

// String returns one lower-case word.
func (s NodeState) String() string {
	switch s {
	case Active:
		return "active"
	case Draining:
		return "draining"
	case Removed:
		return "removed"
	}
	return fmt.Sprintf("state %d", uint8(s))
}

// CheckZone returns what is wrong with the name of a zone: it has at most 64
// letters, digits, dots, hyphens and underscores of ASCII. Empty is no zone, and
// good.
func CheckZone(zone string) error {
	for i := range len(zone) {
		switch c := zone[i]; {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '.', c == '-', c == '_':
		default:
			return covey.Errorf(covey.Invalid, "zone %.64q: want letters, digits, dots, hyphens and underscores", zone)
		}
	}
	if len(zone) > maxNodeText {
		return covey.Errorf(covey.Invalid, "zone %.64q is longer than %d octets", zone, maxNodeText)
	}
	return nil
}

// check returns what is wrong with what a node says of itself.
func (i NodeInfo) check() error {
	if err := checkHostPort("peer", i.Peer); err != nil {
		return err
	}
	if err := checkHostPort("gossip", i.Gossip); err != nil {
		return err
	}
	if err := CheckZone(i.Zone); err != nil {
		return err
	}
	if len(i.Version) > maxNodeText {
		return covey.Errorf(covey.Invalid, "version %.64q is longer than %d octets", i.Version, maxNodeText)
	}
	for _, c := range []byte(i.Version) {
		if c < ' ' || c > '~' {
			return covey.Errorf(covey.Invalid, "version %.64q: want printable ASCII", i.Version)
		}
	}
	if i.Level == 0 {
		return covey.Errorf(covey.Invalid, "a node without a level")
	}
	return nil
}

func checkHostPort(what, addr string) error {
	if addr == "" {
		return nil
	}
	host, text, err := net.SplitHostPort(addr)
	port, noNumber := strconv.ParseUint(text, 10, 16)
	if err != nil || noNumber != nil || port == 0 || host == "" || len(addr) > maxHostPort {
		return covey.Errorf(covey.Invalid, "%s address %.64q: want host:port that other nodes can reach", what, addr)
	}
	if net.ParseIP(host) == nil {
		if _, err := covey.ParseDomain(host); err != nil {
			return covey.Errorf(covey.Invalid, "%s address %.64q: %w", what, addr, err)
		}
	}
	return nil
}

// checkNodeID refuses what is no node.
func checkNodeID(id covey.NodeID) error {
	if id == 0 {
		return covey.Errorf(covey.Invalid, "node id 0 is no node")
	}
	return nil
}
