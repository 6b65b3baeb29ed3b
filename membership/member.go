package membership

import (
	"encoding/binary"
	"net"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/internal/wire"
)

// A State is what a member is taken for.
type State uint8

const (
	Alive   State = iota + 1 // answers probes
	Suspect                  // did not answer somebody; may object
	Dead                     // did not object either
	Left                     // said that it goes
)

var stateNames = [...]string{"unknown", "alive", "suspect", "dead", "left"}

// String returns a lower-case word.
func (s State) String() string {
	if int(s) >= len(stateNames) {
		s = 0
	}
	return stateNames[s]
}

// here reports whether a member takes part in gossip.
func (s State) here() bool { return s == Alive || s == Suspect }

// A Load is a few figures that a node tells about itself, for operators to look
// at. They may be seconds old.
type Load struct {
	DiskUsed, DiskFree    uint64 // octets, of the file system with the data folder
	Connections, Sessions uint64 // of clients
}

// A Member is a node as this node sees it.
type Member struct {
	ID      covey.NodeID
	Peer    string // host:port where peers are answered
	Gossip  string // ip:port where gossip is
	Version string // of its software
	Zone    string // "" if it has none
	State   State
	Since   time.Time // when this node saw it enter State
	Load    Load
}

// differs reports whether others would want to know of a change from m to n.
func (m Member) differs(n Member) bool {
	m.Load, m.Since = n.Load, n.Since
	return m != n
}

// Lengths of the texts in a description, so that it fits into what memberlist
// allows.
const (
	maxPeer    = 261 // a domain name, a colon, a port
	maxText    = 64
	maxMeta    = 512
	maxMembers = 1024

	metaVersion = 1
)

// encodeMeta makes what a node tells about itself. The member must be valid.
func encodeMeta(m Member) []byte {
	b := binary.LittleEndian.AppendUint64([]byte{metaVersion}, uint64(m.ID))
	b = wire.AppendBytes(b, m.Peer)
	b = wire.AppendBytes(b, m.Version)
	b = wire.AppendBytes(b, m.Zone)
	b = wire.AppendUint(b, m.Load.DiskUsed)
	b = wire.AppendUint(b, m.Load.DiskFree)
	b = wire.AppendUint(b, m.Load.Connections)
	return wire.AppendUint(b, m.Load.Sessions)
}

// decodeMeta is the inverse of encodeMeta, of foreign bytes.
func decodeMeta(b []byte) (Member, error) {
	if len(b) > maxMeta {
		return Member{}, covey.Errorf(covey.Limit, "description of %d octets", len(b))
	}
	r := wire.NewReader(b)
	if r.Byte() != metaVersion {
		r.Fail("version of a description")
	}
	m := Member{
		ID:      covey.NodeID(r.Uint64()),
		Peer:    r.String(),
		Version: r.String(),
		Zone:    r.String(),
		Load:    Load{r.Uint(), r.Uint(), r.Uint(), r.Uint()},
	}
	if err := r.Err(); err != nil {
		return Member{}, err
	}
	return m, m.validate()
}

// validate reports whether a node may describe itself like this.
func (m Member) validate() error {
	if m.ID == 0 {
		return covey.Errorf(covey.Invalid, "no node id")
	}
	host, port, err := net.SplitHostPort(m.Peer)
	if err != nil || host == "" || len(m.Peer) > maxPeer || !printable(m.Peer) {
		return covey.Errorf(covey.Invalid, "peer address %.80q: want host:port", m.Peer)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return covey.Errorf(covey.Invalid, "peer address %.80q: no such port", m.Peer)
	}
	for _, s := range []string{m.Version, m.Zone} {
		if len(s) > maxText || !printable(s) {
			return covey.Errorf(covey.Invalid, "version or zone %.80q: want at most %d printable characters", s, maxText)
		}
	}
	return nil
}

func printable(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) })
}
