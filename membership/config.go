package membership

import (
	"encoding/hex"
	"io"
	"log"
	"log/slog"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/covey-mail/covey"
)

// Config is what a Gossip is made with. Self.ID, Self.Peer, Cluster, Keys and
// either Bind or Transport must be set; the zero value of everything else means
// its default.
type Config struct {
	Self    Member          // what others are told; Gossip, State and Since are found out
	Cluster covey.ClusterID // those of another one are not heard
	Keys    [][]byte        // one or two of 32 octets: the first encrypts, all decrypt

	Bind      string // ip:port, for UDP and TCP; port 0 lets the kernel choose
	Advertise string // ip:port that others use; "": where it is bound, which must be one address then

	// Seeds returns gossip addresses (host:port) of nodes that should be there, of
	// this one too if that is easier. Those that no living member has are tried
	// again and again. It is called by a goroutine of its own. nil: none.
	Seeds func() []string

	// Changed is told of a member, other than this node, that is new or whose
	// description or state has changed; not of its load. LeaderChanged is told of a
	// leader that Leaders would now return for its shard, Node 0 for none. Both are
	// called from one goroutine, in order, what happened at once only once; they
	// must neither block nor call Close. nil: nobody is.
	Changed       func(Member)
	LeaderChanged func(Leader)

	Timing    Timing
	Transport Transport    // nil: the network
	Logger    *slog.Logger // nil: nothing is logged
	Metrics   *Metrics     // nil: ones that nobody reads
}

// Timing is how often things are done. DESIGN.md says what follows from it; all
// nodes of a cluster must have the same.
type Timing struct {
	Probe        time.Duration // from one probe of a node to that of another; 500 ms
	ProbeTimeout time.Duration // for an answer, before others are asked to try; 200 ms
	Rejoin       time.Duration // from one try to reach who is missing to the next; 10 s
}

// The rest of the settings, and the reasons: DESIGN.md.
const (
	suspicionMult    = 3
	suspicionMaxMult = 3
	awarenessMax     = 2
	indirectChecks   = 3
	gossipEvery      = 100 * time.Millisecond
	gossipNodes      = 3
	retransmitMult   = 8
	syncEvery        = 10 * time.Second
	streamTimeout    = 5 * time.Second
	deadFor          = 30 * time.Second // that the dead are told that they are
	lookEvery        = 250 * time.Millisecond
	loadEvery        = 5 * time.Second
)

func (c *Config) validate() error {
	if err := c.Self.validate(); err != nil {
		return err
	}
	if err := validateKeys(c.Keys); err != nil {
		return err
	}
	t := &c.Timing
	for _, d := range []struct {
		of   *time.Duration
		zero time.Duration
	}{{&t.Probe, 500 * time.Millisecond}, {&t.ProbeTimeout, 200 * time.Millisecond}, {&t.Rejoin, 10 * time.Second}} {
		if *d.of == 0 {
			*d.of = d.zero
		}
	}
	if t.ProbeTimeout*2 > t.Probe {
		return covey.Errorf(covey.Invalid, "gossip: a probe of %s leaves no time for a second try after %s", t.Probe, t.ProbeTimeout)
	}
	if c.Seeds == nil {
		c.Seeds = func() []string { return nil }
	}
	if c.Changed == nil {
		c.Changed = func(Member) {}
	}
	if c.LeaderChanged == nil {
		c.LeaderChanged = func(Leader) {}
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Metrics == nil {
		c.Metrics = NewMetrics()
	}
	return nil
}

func (c *Config) label() string { return hex.EncodeToString(c.Cluster[:]) }

// base is what memberlist and the observer have in common.
func (c *Config) base(keys *memberlist.Keyring) *memberlist.Config {
	m := memberlist.DefaultLANConfig()
	m.Label = c.label()
	m.Keyring = keys
	m.TCPTimeout = streamTimeout
	m.EnableCompression = false
	m.Logger = log.New(io.Discard, "", 0)
	return m
}

func (c *Config) memberlist(keys *memberlist.Keyring) *memberlist.Config {
	m := c.base(keys)
	m.Name = c.Self.ID.String()
	m.ProbeInterval = c.Timing.Probe
	m.ProbeTimeout = c.Timing.ProbeTimeout
	m.SuspicionMult = suspicionMult
	m.SuspicionMaxTimeoutMult = suspicionMaxMult
	m.AwarenessMaxMultiplier = awarenessMax
	m.IndirectChecks = indirectChecks
	m.GossipInterval = gossipEvery
	m.GossipNodes = gossipNodes
	m.RetransmitMult = retransmitMult
	m.PushPullInterval = syncEvery
	m.GossipToTheDeadTime = deadFor
	m.DeadNodeReclaimTime = time.Millisecond // zero would mean never
	return m
}
