package admin

import (
	"strings"
	"time"

	"github.com/covey-mail/covey"
)

// Names of the operations; beside each its request and response.
const (
	DomainAdd    = "domain.add"    // Name → Done
	DomainRemove = "domain.remove" // Name → Done
	DomainList   = "domain.list"   // Empty → []Domain
	UserAdd      = "user.add"      // UserRequest → User
	UserSet      = "user.set"      // UserRequest → User
	UserRemove   = "user.remove"   // Name → Done
	UserShow     = "user.show"     // Name → User
	UserList     = "user.list"     // Page → []User
	UserImport   = "user.import"   // ImportRequest → ImportResult
	AliasAdd     = "alias.add"     // Alias → Done
	AliasSet     = "alias.set"     // Alias → Done
	AliasRemove  = "alias.remove"  // Name → Done
	AliasList    = "alias.list"    // Page → []Alias
	NodeStatus   = "status"        // Empty → Status
	NodeDrain    = "node.drain"    // NodeRequest → NodeMove
	NodeRemove   = "node.remove"   // NodeRequest → NodeMove
	NodeReplace  = "node.replace"  // NodeRequest → NodeMove
	NodeLoss     = "node.loss"     // NodeRequest → Loss
	UserInShard  = "user.inshard"  // ShardPage → []User
	ClusterSet   = "cluster.set"   // Settings → Settings
	QueueList    = "queue.list"    // QueueRequest → QueueAnswer
	SecretList   = "secret.list"   // Empty → []Secrets
	SecretRotate = "secret.rotate" // Empty → Secrets
	NodeHealth   = "health"        // Empty → Health
	NodeCheck    = "check"         // Empty → CheckResult
	Compare      = "compare"       // Empty → []Comparison
)

// Empty is a request without fields.
type Empty struct{}

// Done is a response that says only that it was done.
type Done struct{}

// Name names a domain, an address or an alias.
type Name struct {
	Name string `json:"name"`
}

// A Domain is a domain that Covey takes mail for.
type Domain struct {
	Name     string `json:"name"`
	Accounts int    `json:"accounts"`
	Aliases  int    `json:"aliases"`
}

// UserRequest makes or changes an account. Nil fields are left as they are.
type UserRequest struct {
	Address  string  `json:"address"`
	Password *string `json:"password,omitempty"` // in clear
	Hash     *string `json:"hash,omitempty"`     // with {SCHEME} in front; instead of Password
	Quota    *int64  `json:"quota,omitempty"`    // bytes; 0: none, -1: the default
	Disabled *bool   `json:"disabled,omitempty"`
}

// A User is an account as the directory and its shard know it.
type User struct {
	Address  string          `json:"address"`
	ID       covey.AccountID `json:"id"`
	Shard    covey.ShardID   `json:"shard"`
	Quota    int64           `json:"quota"` // bytes, 0: none
	Disabled bool            `json:"disabled"`
	Created  time.Time       `json:"created"`
	Bytes    int64           `json:"bytes"`    // -1: the shard cannot be asked now
	Messages int64           `json:"messages"` // so too
	Nodes    []string        `json:"nodes"`    // that have a replica of the shard
	Leader   string          `json:"leader"`   // of them, where sessions run; empty: none known
}

// A Page asks for part of a list in the order of names.
type Page struct {
	Prefix string `json:"prefix,omitempty"`
	After  string `json:"after,omitempty"` // the last name of the page before
	Limit  int    `json:"limit,omitempty"` // 0: 1,000
}

// An Alias is an address that leads to others. Local part "" is the domain's
// catch-all, written @domain.
type Alias struct {
	Address string   `json:"address"`
	Targets []string `json:"targets"`
}

// ImportRequest brings lines of an import file.
type ImportRequest struct {
	First int      `json:"first"` // line number of Lines[0]
	Lines []string `json:"lines"`
}

// ImportResult counts what an import did.
type ImportResult struct {
	Added   int      `json:"added"`
	Updated int      `json:"updated"`
	Same    int      `json:"unchanged"`
	Errors  []string `json:"errors,omitempty"` // each with its line number; at most 100 a request
	Failed  int      `json:"failed"`
}

// Health is whether a node serves.
type Health struct {
	Reason string `json:"reason"` // why it is not ready; empty if it is
}

// NodeRequest names a node of the cluster.
type NodeRequest struct {
	Node string `json:"node"`
	By   string `json:"by,omitempty"`   // to replace: the successor
	Undo bool   `json:"undo,omitempty"` // to drain: give it replicas again

	// AcceptLoss has the shards begin anew, empty, of which the node to remove has
	// the only replica and cannot be reached.
	AcceptLoss bool `json:"accept_loss,omitempty"`
}

// Loss tells the shards whose mail is lost if a node is removed with AcceptLoss.
type Loss struct {
	Shards []covey.ShardID `json:"shards"`
}

// A ShardPage asks for accounts of a shard, in the order of their ids.
type ShardPage struct {
	Shard covey.ShardID   `json:"shard"`
	After covey.AccountID `json:"after,omitempty"` // the last of the page before
}

// NodeMove says how far the replicas of a node have moved. The operation is to be
// asked for again until Done.
type NodeMove struct {
	Done   bool            `json:"done"`
	Shards []covey.ShardID `json:"shards"` // that still have a replica there
}

// Settings hold for the whole cluster. Nil fields are left as they are.
type Settings struct {
	Quota        *int64 `json:"quota,omitempty"`         // bytes, of accounts made without a quota of their own; 0: none
	Replicas     *int   `json:"replicas,omitempty"`      // 1, 3 or 5
	RebuildAfter *int64 `json:"rebuild_after,omitempty"` // seconds
}

// Secrets are those that a node uses, the first for what it sends.
type Secrets struct {
	Node    string   `json:"node"`
	Secrets []string `json:"secrets"`         // fingerprints
	Error   string   `json:"error,omitempty"` // why they are not known
}

// Peer is one node of the cluster, as the node that was asked sees it.
type Peer struct {
	Node     string    `json:"node"`
	Address  string    `json:"address"` // of its peer listener
	Zone     string    `json:"zone,omitempty"`
	Version  string    `json:"version"`
	State    string    `json:"state"` // alive, suspect, dead, left, refused (its disk was put back), or unknown
	Since    time.Time `json:"since"` // when this node saw that
	Role     string    `json:"role"`  // active or draining
	Leads    int       `json:"leads"` // shards, group 0 among them
	Replicas int       `json:"replicas"`
	DiskFree int64     `json:"disk_free"`
	LogBytes int64     `json:"log_bytes"`

	Connections int64 `json:"connections"` // of clients
}

// Replica is one member of a Raft group.
type Replica struct {
	Node    string `json:"node"`
	Learner bool   `json:"learner,omitempty"`
	Lag     uint64 `json:"lag"`               // entries committed that it lacks, as its leader sees it
	Silent  bool   `json:"silent,omitempty"`  // its leader does not hear it
	Copying bool   `json:"copying,omitempty"` // is sent a copy of the state
}

// Status is the state of a node.
type Status struct {
	Node     string    `json:"node"`
	Version  string    `json:"version"`
	Hostname string    `json:"hostname"`
	Started  time.Time `json:"started"`
	Ready    bool      `json:"ready"`
	Data     string    `json:"data"`
	DiskFree int64     `json:"disk_free"`
	DiskFull bool      `json:"disk_full"`
	LogBytes int64     `json:"log_bytes"`
	Segments int       `json:"segments"`
	Domains  int       `json:"domains"`
	Accounts int64     `json:"accounts"`
	Cluster  string    `json:"cluster"`
	Listen   []Listen  `json:"listen"`
	Peers    []Peer    `json:"nodes"`
	Shards   []Shard   `json:"shards"`
}

// Listen is one listener.
type Listen struct {
	Service string `json:"service"`
	Address string `json:"address"`
}

// Shard is one Raft group, as its leader sees it or, if that cannot be asked, the
// node that was.
type Shard struct {
	ID       covey.ShardID `json:"id"`
	Leader   string        `json:"leader"` // node id, empty: none known
	Term     uint64        `json:"term"`
	Applied  uint64        `json:"applied"`
	Commit   uint64        `json:"commit"`
	Stopped  string        `json:"stopped,omitempty"` // why the group no longer runs there
	Differ   []string      `json:"differ,omitempty"`  // nodes whose replica is not like the others
	LiveData int64         `json:"live_bytes"`
	Queued   int           `json:"queued"`                 // deliveries that wait for other shards
	Oldest   *time.Time    `json:"queued_since,omitempty"` // the oldest of them
	Wanted   []string      `json:"wanted"`                 // nodes that should have a replica
	Replicas []Replica     `json:"replicas"`
}

// QueueRequest asks for what waits in queues.
type QueueRequest struct {
	Limit int `json:"limit,omitempty"` // deliveries; 0: 1,000
}

// QueueAnswer is what waits in the queues of all shards whose leader answers, those
// that wait longest first.
type QueueAnswer struct {
	Total      int             `json:"total"`
	Deliveries []Queued        `json:"deliveries"`
	Silent     []covey.ShardID `json:"silent"` // shards of whose queue nothing can be told now
}

// Queued is a delivery that waits in the queue of a shard, because the shards of
// some of its recipients have not taken it.
type Queued struct {
	Shard      covey.ShardID     `json:"shard"`
	Delivery   string            `json:"delivery"`
	Sender     string            `json:"sender"` // empty: <>
	Since      time.Time         `json:"since"`
	Left       int               `json:"left"` // recipients who have not got it
	Recipients []QueuedRecipient `json:"recipients"`
	Tries      int               `json:"tries"` // in vain, of the shard's present leader
	Next       *time.Time        `json:"next,omitempty"`
	Error      string            `json:"error,omitempty"` // of the last try
}

// QueuedRecipient is one of them; of very many only the first are told.
type QueuedRecipient struct {
	Address string        `json:"address"`
	Shard   covey.ShardID `json:"shard"`
}

// CheckResult is what a check found.
type CheckResult struct {
	Shards    int      `json:"shards"`
	LiveBytes int64    `json:"live_bytes"` // of messages, all of them read and compared with their checksums
	Problems  []string `json:"problems"`
}

// A Comparison is one of the replicas of a shard by their running hashes at an
// index.
type Comparison struct {
	Shard    covey.ShardID     `json:"shard"`
	Index    uint64            `json:"index"` // 0: no replica answered
	Differ   bool              `json:"differ"`
	Replicas []ComparedReplica `json:"replicas"`
}

// A ComparedReplica is one of them.
type ComparedReplica struct {
	Node    string `json:"node"`
	Hash    string `json:"hash,omitempty"` // in hex
	Differs bool   `json:"differs,omitempty"`
	Error   string `json:"error,omitempty"` // why it was not compared
}

// Secret returns what the directory stores a password from: the hash, or the
// password marked as one in clear, so that no password is taken for a hash.
func (r UserRequest) Secret() (string, error) {
	switch {
	case r.Hash != nil && r.Password != nil:
		return "", covey.Errorf(covey.Invalid, "give a password or a hash, not both")
	case r.Hash != nil:
		if !strings.HasPrefix(*r.Hash, "{") {
			return "", covey.Errorf(covey.Invalid, "a hash needs its {SCHEME} in front, as Dovecot writes it: {ARGON2ID}$argon2id$…")
		}
		return *r.Hash, nil
	case r.Password != nil && *r.Password != "":
		return "{PLAIN}" + *r.Password, nil
	}
	return "", covey.Errorf(covey.Invalid, "no password given")
}
