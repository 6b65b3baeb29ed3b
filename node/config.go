package node

import (
	"log/slog"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/covey-mail/covey"
)

// Config is the configuration of one node. The toml names are the keys of the
// configuration file; cmd/covey reads it and the environment.
type Config struct {
	Node    NodeConfig    `toml:"node"`
	Listen  ListenConfig  `toml:"listen"`
	TLS     TLSConfig     `toml:"tls"`
	Limits  LimitsConfig  `toml:"limits"`
	Cluster ClusterConfig `toml:"cluster"`

	Version string       `toml:"-"` // of the program, for status and logs
	Files   int          `toml:"-"` // most descriptors that the process may have open; 0: no bound
	Logger  *slog.Logger `toml:"-"` // nil: discard
}

// NodeConfig is the [node] table.
type NodeConfig struct {
	Data     string `toml:"data"`     // the data folder; required
	Hostname string `toml:"hostname"` // said in greetings and Received lines; empty: the host's name
	Debug    bool   `toml:"debug"`    // pprof on the metrics listener, debug log lines

	// Advertise is the IP address or host name at which other nodes reach this one;
	// empty: that of [listen] peer, or of the interface that leads to them.
	Advertise string `toml:"advertise"`
	Zone      string `toml:"zone"` // nodes that fail together name the same one; empty: none
}

// ListenConfig is the [listen] table: for each service the addresses, host:port
// or unix:/path, that it listens on. An empty list turns a service off.
type ListenConfig struct {
	SMTP        []string `toml:"smtp"`
	Submission  []string `toml:"submission"`
	Submissions []string `toml:"submissions"`
	LMTP        []string `toml:"lmtp"`
	IMAP        []string `toml:"imap"`
	IMAPS       []string `toml:"imaps"`
	POP3        []string `toml:"pop3"`
	POP3S       []string `toml:"pop3s"`
	Metrics     []string `toml:"metrics"`

	// For other nodes: both or neither, host:port. A node that listens on neither
	// stays alone.
	Peer   []string `toml:"peer"`   // TCP
	Gossip []string `toml:"gossip"` // UDP and TCP; hosts are IP addresses or empty, the port is one
}

// TLSConfig is the [tls] table. Without both, a self-signed certificate is made
// once and kept in the data folder.
type TLSConfig struct {
	Cert string `toml:"cert"` // file with the certificate chain, PEM
	Key  string `toml:"key"`  // file with its private key, PEM
}

// LimitsConfig is the [limits] table. Zero means the default beside it.
type LimitsConfig struct {
	MessageSize     int64    `toml:"message_size"`      // bytes of one message; 50 MiB
	Recipients      int      `toml:"recipients"`        // of one transaction; 100
	Quota           int64    `toml:"quota"`             // bytes, of accounts made without a quota of their own; 0: none
	Connections     int      `toml:"connections"`       // of each listener; 4,000, or fewer where there are not enough descriptors
	PerAddress      int      `toml:"per_address"`       // connections of each listener from one remote address; 50
	SessionsPerUser int      `toml:"sessions_per_user"` // IMAP sessions of one account; 50
	LMTPPeers       []string `toml:"lmtp_peers"`        // networks beside loopback that may speak LMTP, as CIDR
	ClearTextLogin  string   `toml:"clear_text_login"`  // "loopback" or "never"; loopback
	DiskReserve     int64    `toml:"disk_reserve"`      // bytes kept free for reading and deleting; 64 MiB
	CheckpointEvery Duration `toml:"checkpoint_every"`  // how often each shard's database is put on disk, if 64 MiB of commands do not come before; 60s
	CompactEvery    Duration `toml:"compact_every"`     // how often the log is looked over for segments that are mostly dead; 5s
	ScrubEvery      Duration `toml:"scrub_every"`       // the time in which every message is read once and compared with its checksum; 168h
	SegmentSize     int64    `toml:"segment_size"`      // bytes of a segment of the log; 64 MiB
	LogKeep         int64    `toml:"log_keep"`          // bytes of the log kept of each shard for nodes that were away; 256 MiB
}

// ClusterConfig is the [cluster] table.
type ClusterConfig struct {
	SecretFile   string   `toml:"secret_file"`   // what all nodes share; DIR/cluster.secret
	Init         bool     `toml:"init"`          // make the cluster with the nodes in Join, if this is the first of them
	Join         []string `toml:"join"`          // host:port of the peer listeners of nodes
	Replicas     int      `toml:"replicas"`      // wanted of each mailbox shard, 1, 3 or 5; 3. Fewer while there are fewer nodes
	Shards       int      `toml:"shards"`        // mailbox shards, fixed when the data folder is made; 16
	RebuildAfter Duration `toml:"rebuild_after"` // a node gone for so long has its replicas rebuilt elsewhere; 10m

	// AcceptOlderDisks has nodes believed whose disk is older than what they told the
	// cluster, as when all nodes are restored from backups.
	AcceptOlderDisks bool `toml:"accept_older_disks"`
}

// Duration is a time.Duration written as "90s" or "10m".
type Duration time.Duration

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *Duration) UnmarshalText(b []byte) error {
	v, err := time.ParseDuration(string(b))
	if err == nil && v < 0 {
		err = covey.Errorf(covey.Invalid, "duration %q is negative", b)
	}
	*d = Duration(v)
	return err
}

// MarshalText implements encoding.TextMarshaler.
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// DefaultConfig returns the configuration of a node on the standard ports, each
// raised by offset, with its data in data.
func DefaultConfig(data string, offset int) Config {
	on := func(host string, port int) []string {
		return []string{host + ":" + strconv.Itoa(port+offset)}
	}
	return Config{
		Node: NodeConfig{Data: data},
		Listen: ListenConfig{
			SMTP: on("", 25), Submission: on("", 587), Submissions: on("", 465),
			IMAP: on("", 143), IMAPS: on("", 993), POP3: on("", 110), POP3S: on("", 995),
			LMTP:    append(on("127.0.0.1", 24), "unix:"+data+"/lmtp.sock"),
			Metrics: on("127.0.0.1", 9925),
			Peer:    on("", 7947), Gossip: on("", 7946),
		},
		Limits: LimitsConfig{
			MessageSize: 50 << 20, Recipients: 100, Connections: 4000, PerAddress: 50, SessionsPerUser: 50,
			ClearTextLogin: "loopback", DiskReserve: 64 << 20, CheckpointEvery: Duration(time.Minute),
			CompactEvery: Duration(5 * time.Second), ScrubEvery: Duration(7 * 24 * time.Hour), SegmentSize: 64 << 20, LogKeep: 256 << 20,
		},
		Cluster: ClusterConfig{Replicas: 3, Shards: 16, RebuildAfter: Duration(10 * time.Minute)},
	}
}

// Bounds on the number of shards: each costs a database and a Raft group.
const maxShards = 4096

// validate checks what can be checked without touching anything and fills in
// what is left open.
func (c *Config) validate() error {
	if c.Node.Data == "" {
		return covey.Errorf(covey.Invalid, "no data folder: set [node] data, COVEY_NODE_DATA or --data DIR")
	}
	c.fill()
	if err := c.Limits.validate(); err != nil {
		return err
	}
	if err := c.validateCluster(); err != nil {
		return err
	}
	if (c.TLS.Cert == "") != (c.TLS.Key == "") {
		return covey.Errorf(covey.Invalid, "[tls] cert and key go together: set both or neither")
	}
	for _, l := range c.Listen.services() {
		for _, a := range l.addrs {
			if err := checkListen(l.name, a); err != nil {
				return err
			}
		}
	}
	if c.Node.Hostname == "" {
		c.Node.Hostname, _ = os.Hostname()
	}
	if _, err := covey.ParseDomain(c.Node.Hostname); err != nil {
		return covey.Errorf(covey.Invalid, "[node] hostname %q is not a host name", c.Node.Hostname)
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return nil
}

// fill gives what is zero its default.
func (c *Config) fill() {
	def := DefaultConfig(c.Node.Data, 0)
	l, d := &c.Limits, def.Limits
	setDefault(&l.MessageSize, d.MessageSize)
	setDefault(&l.Recipients, d.Recipients)
	setDefault(&l.Connections, d.Connections)
	setDefault(&l.PerAddress, d.PerAddress)
	setDefault(&l.SessionsPerUser, d.SessionsPerUser)
	setDefault(&l.ClearTextLogin, d.ClearTextLogin)
	setDefault(&l.DiskReserve, d.DiskReserve)
	setDefault(&l.CheckpointEvery, d.CheckpointEvery)
	setDefault(&l.CompactEvery, d.CompactEvery)
	setDefault(&l.ScrubEvery, d.ScrubEvery)
	setDefault(&l.SegmentSize, d.SegmentSize)
	setDefault(&l.LogKeep, d.LogKeep)
	setDefault(&c.Cluster.Replicas, def.Cluster.Replicas)
	setDefault(&c.Cluster.Shards, def.Cluster.Shards)
	setDefault(&c.Cluster.RebuildAfter, def.Cluster.RebuildAfter)
}

func setDefault[T comparable](v *T, def T) {
	var zero T
	if *v == zero {
		*v = def
	}
}

// connections returns how many connections each listener admits: as many as
// configured, or as descriptors are left when the node has its own. A connection
// that finds none cannot even be told that it is one too many.
func (c Config) connections() int {
	mail := 0
	for _, s := range c.Listen.services() {
		if s.name != "metrics" {
			mail += len(s.addrs)
		}
	}
	if c.Files == 0 || mail == 0 {
		return c.Limits.Connections
	}
	// A shard has a database and its log; the rest is for segments, listeners,
	// operators and the runtime.
	own := 4*(c.Cluster.Shards+1) + mail + 128
	const least = 8
	return min(c.Limits.Connections, max((c.Files-own)/mail, least))
}

func (l LimitsConfig) validate() error {
	for _, k := range []struct {
		name  string
		value int64
	}{
		{"message_size", l.MessageSize}, {"recipients", int64(l.Recipients)}, {"quota", l.Quota},
		{"connections", int64(l.Connections)}, {"per_address", int64(l.PerAddress)},
		{"sessions_per_user", int64(l.SessionsPerUser)}, {"disk_reserve", l.DiskReserve},
		{"checkpoint_every", int64(l.CheckpointEvery)}, {"compact_every", int64(l.CompactEvery)},
		{"scrub_every", int64(l.ScrubEvery)}, {"segment_size", l.SegmentSize}, {"log_keep", l.LogKeep},
	} {
		if k.value < 0 {
			return covey.Errorf(covey.Invalid, "[limits] %s is negative", k.name)
		}
	}
	const least, most = 1 << 20, 1 << 30
	if l.SegmentSize < least || l.SegmentSize > most {
		return covey.Errorf(covey.Invalid, "[limits] segment_size is %d: want %d to %d", l.SegmentSize, least, most)
	}
	if l.ClearTextLogin != "loopback" && l.ClearTextLogin != "never" {
		return covey.Errorf(covey.Invalid, `[limits] clear_text_login is %q: want "loopback" or "never"`, l.ClearTextLogin)
	}
	_, err := parsePrefixes(l.LMTPPeers)
	return err
}

func checkListen(service, addr string) error {
	if path, ok := strings.CutPrefix(addr, "unix:"); ok {
		if !strings.HasPrefix(path, "/") {
			return covey.Errorf(covey.Invalid, "[listen] %s: %q: a Unix socket needs an absolute path", service, addr)
		}
		return nil
	}
	_, port, ok := splitHostPort(addr)
	if !ok {
		return covey.Errorf(covey.Invalid, "[listen] %s: %q: want host:port or unix:/path", service, addr)
	}
	if service == "lmtp" && port == 25 { // RFC 2033 section 5
		return covey.Errorf(covey.Invalid, "[listen] lmtp: %q: LMTP must not be on port 25", addr)
	}
	return nil
}

// service is one key of [listen].
type service struct {
	name  string
	addrs []string
}

func (l ListenConfig) services() []service {
	return []service{
		{"smtp", l.SMTP}, {"submission", l.Submission}, {"submissions", l.Submissions}, {"lmtp", l.LMTP},
		{"imap", l.IMAP}, {"imaps", l.IMAPS}, {"pop3", l.POP3}, {"pop3s", l.POP3S}, {"metrics", l.Metrics},
	}
}
