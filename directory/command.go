package directory

import (
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
// there was one before.
type Found struct {
	Cluster covey.ClusterID
	Shards  uint32 // mailbox shards 1 … Shards, for good
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
	Quota      *int64         // of accounts made from now on
	Postmaster *covey.Address // zero: none
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
