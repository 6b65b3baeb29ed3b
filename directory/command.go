package directory

import (
	"crypto/ed25519"
	"time"

	"github.com/covey-mail/covey"
)

// Limits of commands. Decode refuses what is beyond them.
const (
	MaxBatch   = 1000 // accounts in one AddAccounts
	MaxTargets = 100  // of one alias
	MaxDomains = 100_000
	MaxShards  = 1 << 16
)

// A Command changes the directory. Its effect depends on the directory and the
// command alone; the time, and everything random, comes in its fields. Addresses
// in commands are folded (covey.Address.Key).
//
// The result of a command is an error or, where its comment names one, a value.
type Command interface {
	command() // closes the set
}

// Found makes a new cluster: the first command of a directory's life. Exists if
// there was one before. First becomes its only node, and the one voter that is
// wanted for every shard; nil leaves the node list and the shard map empty, as in
// logs from before there were any.
type Found struct {
	Cluster covey.ClusterID
	Shards  uint32 // mailbox shards 1 … Shards, for good
	First   *AddNode
}

// AddDomain makes a domain local.
type AddDomain struct {
	Name string
	Time time.Time
}

// RemoveDomain ends that. Denied while it has accounts or aliases.
type RemoveDomain struct {
	Name string
}

// AddAccounts makes accounts, each by itself. The result is []AddResult, one for
// each of Accounts.
type AddAccounts struct {
	Accounts []NewAccount
	Update   bool // an account that exists gets the hash and verifier; otherwise Exists
	Time     time.Time
}

// A NewAccount is what is known of an account before it has an id.
type NewAccount struct {
	Address  covey.Address
	Hash     string // as package password writes it; empty: nobody can log in
	Verifier string // SCRAM, as package password writes it; empty: none yet
	Quota    int64  // bytes; 0 none, DefaultQuota that of the settings
}

// DefaultQuota as an account's quota takes over what the settings say when the
// account is made.
const DefaultQuota = -1

// RemoveAccount removes an account. What it held on its shard stays until the
// caller has dropped it and said so with Dropped; until then it is among
// Service.Drops. The result is a Drop.
type RemoveAccount struct {
	Address covey.Address
	Time    time.Time
}

// Dropped forgets a removed account.
type Dropped struct {
	Account covey.AccountID
}

// SetAccount changes the fields that are not nil.
type SetAccount struct {
	Address  covey.Address
	Quota    *int64
	Disabled *bool
}

// SetPassword replaces hash and verifier. With Was, only if the hash is still
// that, else Conflict.
type SetPassword struct {
	Account  covey.AccountID
	Hash     string
	Verifier string
	Was      string
}

// SetAlias makes or replaces an alias, as Mode says.
type SetAlias struct {
	Address covey.Address // empty local part: the domain's catch-all
	Targets []covey.Address
	Mode    AliasMode
}

// An AliasMode says what SetAlias does with an alias that exists or does not. The
// numbers are stored.
type AliasMode uint8

const (
	NewAlias     AliasMode = iota // Exists if it is there
	ReplaceAlias                  // NotFound if it is not
)

// RemoveAlias removes an alias.
type RemoveAlias struct {
	Address covey.Address
}

// SetSettings changes the settings that are not nil.
type SetSettings struct {
	Quota        *int64         // of accounts made from now on
	Postmaster   *covey.Address // zero: none
	Replicas     *int           // wanted of each mailbox shard: 1, 3 or 5
	RebuildAfter *time.Duration // whole seconds; see Settings
}

// AddNode makes a node a member, or changes what a member with that key says of
// itself: a node that asks twice joins once. Denied if the id was removed or has
// another key, or if the node's level is below the cluster's; Limit if there are
// too many.
type AddNode struct {
	ID  covey.NodeID
	Key ed25519.PublicKey
	NodeInfo
	Time time.Time
}

// UpdateNode replaces what a member says of itself. Denied as with AddNode.
type UpdateNode struct {
	ID covey.NodeID
	NodeInfo
	Time time.Time
}

// SetNodeState makes a member Active or Draining. Conflict if it is neither State
// already nor Expected.
type SetNodeState struct {
	ID       covey.NodeID
	State    NodeState
	Expected NodeState
	Time     time.Time
}

// RemoveNode ends a membership for good; ReplacedBy, unless 0, is a member that
// takes the node's place. Denied while the shard map wants the node, and of the
// last member. Nothing happens if it was removed with that successor already.
type RemoveNode struct {
	ID         covey.NodeID
	ReplacedBy covey.NodeID
	Time       time.Time
}

// SetShardMap changes the wanted voters of the shards that Changes names, and
// raises the map's epoch by one. Conflict if that is not Expected. The first map,
// of epoch 1, names every shard and group 0. Voters are members, at least one and
// each once. The result is the new epoch, a uint64.
type SetShardMap struct {
	Expected uint64
	Changes  map[covey.ShardID][]covey.NodeID
}

// SetLevel raises the cluster's level. Denied if a member has less, or if that is
// below what it is.
type SetLevel struct {
	Level uint32
}

// StampNode takes down the stamp that a member's disk has now. Denied if it does not
// follow the one on record.
type StampNode struct {
	ID    covey.NodeID
	Stamp covey.DiskStamp
}

func (Found) command()         {}
func (AddDomain) command()     {}
func (RemoveDomain) command()  {}
func (AddAccounts) command()   {}
func (RemoveAccount) command() {}
func (Dropped) command()       {}
func (SetAccount) command()    {}
func (SetPassword) command()   {}
func (SetAlias) command()      {}
func (RemoveAlias) command()   {}
func (SetSettings) command()   {}
func (AddNode) command()       {}
func (UpdateNode) command()    {}
func (SetNodeState) command()  {}
func (RemoveNode) command()    {}
func (SetShardMap) command()   {}
func (SetLevel) command()      {}
func (StampNode) command()     {}

// An AddResult is what became of one account of AddAccounts.
type AddResult struct {
	Account covey.AccountID // 0 if Err
	Outcome Outcome
	Err     error
}

// An Outcome says what adding an account did.
type Outcome uint8

const (
	Added     Outcome = iota
	Updated           // it was there and has the new password
	Unchanged         // it was there with this very hash
)

// A Drop is an account that is removed from the directory and not yet from its
// shard.
type Drop struct {
	Account covey.AccountID
	Shard   covey.ShardID
	Address covey.Address
	Time    time.Time
}
