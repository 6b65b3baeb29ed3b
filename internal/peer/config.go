package peer

import (
	"context"
	"crypto/ed25519"
	"log/slog"
	"net"
	"time"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/internal/serve"
	"github.com/covey-mail/covey/internal/sockio"
)

// A Config says who a node is and how it finds the others. The fields up to Addr
// are required, but for Cluster.
type Config struct {
	Node    covey.NodeID
	Cluster covey.ClusterID // zero: in no cluster yet, see SetCluster
	Key     ed25519.PrivateKey
	Secrets []Secret // one or two; see SetSecrets

	// Pin returns the only key that may speak as a node, false if it is not a
	// member of the cluster. Addr returns where its peer port is now, as
	// host:port. Both are called by any goroutine, also while a connection is
	// being made, and must not block.
	Pin  func(covey.NodeID) (ed25519.PublicKey, bool)
	Addr func(covey.NodeID) (string, bool)

	// Stamp is what this node's disk has now; see SetStamp. Believe returns why a node
	// is not believed whose disk has a stamp: covey.Denied, with the reason for people.
	// It is called like Pin, and may be nil.
	Stamp   covey.DiskStamp
	Believe func(covey.NodeID, covey.DiskStamp) error

	// Dial makes connections; nil dials TCP.
	Dial func(ctx context.Context, addr string) (net.Conn, error)

	// DialTimeout bounds the making of a connection: TCP, TLS and hello; 2 s. It
	// is also the longest that a Call, a Dial or a CallAddr waits for a node that
	// was not known to be unreachable.
	DialTimeout time.Duration

	// Silence is after how long without an octet a link counts as broken, and so
	// the longest that a Call waits for a node that falls silent; 2 s. Pings go
	// out four times as often.
	Silence time.Duration

	// QueueBytes bounds what waits to be sent on a link; 32 MiB, and at least
	// MaxPayload and a little. Beyond, Post drops and Call is refused.
	QueueBytes int

	// Calls and CallBytes bound the calls of one peer, and the length of their
	// requests in all, that are handled at a time; 1,024 and 64 MiB. Beyond, they
	// are answered Unavailable.
	Calls     int
	CallBytes int

	// Streams bounds the connections for sessions from one peer; 8,192.
	Streams int

	// Strangers bounds the connections whose other end has not proved who it is;
	// 128. Half of them are for addresses that members have come from.
	Strangers int

	Logger     *slog.Logger   // nil discards
	Metrics    *Metrics       // nil counts into the void
	Acceptance *serve.Metrics // of the listener "peer"; likewise
}

const (
	// welcomeTime is what a stranger has to prove who it is.
	welcomeTime = 5 * time.Second
	// joinTime bounds a call of a node that joins, on both sides.
	joinTime = 30 * time.Second
	// retireTime is what calls on a link have to end that is to be replaced.
	retireTime = 10 * time.Second
	// patience is how long calls wait for another try to reach a node that could
	// not be reached a moment ago.
	patience = 100 * time.Millisecond
	// beats is how many signs of life are sent, both ways, in Config.Silence.
	beats = 4
	// steady is how long a link has to live for its peer to count as reachable.
	steady = time.Second

	minBackoff = 50 * time.Millisecond
	maxBackoff = 2 * time.Second

	// maxPending bounds the calls of ours that wait on one link.
	maxPending = 1 << 16
	// maxJoins bounds the calls of joining nodes that are handled at a time.
	maxJoins = 16
	// maxInbound bounds the links of one class that a peer may have here: it uses
	// one, and may have others that it is done with or that died unnoticed.
	maxInbound = 4
)

func (cfg Config) withDefaults() (Config, error) {
	switch {
	case cfg.Node == 0:
		return cfg, covey.Errorf(covey.Invalid, "peer: no node id")
	case len(cfg.Key) != ed25519.PrivateKeySize:
		return cfg, covey.Errorf(covey.Invalid, "peer: no node key")
	case cfg.Pin == nil || cfg.Addr == nil:
		return cfg, covey.Errorf(covey.Invalid, "peer: Pin and Addr are required")
	}
	set := func(v *int, def int) {
		if *v <= 0 {
			*v = def
		}
	}
	set(&cfg.QueueBytes, 32<<20)
	cfg.QueueBytes = max(cfg.QueueBytes, MaxPayload+4<<10)
	set(&cfg.Calls, 1024)
	set(&cfg.CallBytes, 64<<20)
	cfg.CallBytes = max(cfg.CallBytes, MaxPayload)
	set(&cfg.Streams, 8192)
	set(&cfg.Strangers, 128)
	if cfg.DialTimeout <= 0 {
		cfg.DialTimeout = 2 * time.Second
	}
	if cfg.Silence <= 0 {
		cfg.Silence = 2 * time.Second
	}
	if cfg.Dial == nil {
		cfg.Dial = dialTCP
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Metrics == nil {
		cfg.Metrics = NewMetrics()
	}
	return cfg, nil
}

// keepAlive finds dead peers of connections without pings: sessions that idle.
var keepAlive = net.KeepAliveConfig{Enable: true, Idle: 5 * time.Second, Interval: time.Second, Count: 3}

func dialTCP(ctx context.Context, addr string) (net.Conn, error) {
	d := net.Dialer{KeepAliveConfig: keepAlive}
	c, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	return sockio.Wrap(c), nil
}
