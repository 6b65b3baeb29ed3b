package directory

import (
	"time"

	"github.com/covey-mail/covey"
)

// An Account is somebody with mail of their own.
type Account struct {
	ID       covey.AccountID
	Shard    covey.ShardID // where the mail lies
	Address  covey.Address // folded
	Quota    int64         // bytes, 0 none
	Disabled bool          // may not log in; mail still arrives
	Created  time.Time     // to the second, UTC
}

// Credentials are an account and what its password is verified against.
type Credentials struct {
	Account
	Hash     string // as package password writes it; empty: no password matches
	Verifier string // for SCRAM; empty: not made yet
}

// An Alias is an address that leads to others.
type Alias struct {
	Address covey.Address // empty local part: the domain's catch-all
	Targets []covey.Address
}

// String returns the alias' address as people write it, a catch-all as @domain.
func (a Alias) String() string { return aliasName(a.Address) }

// A Domain is a local domain.
type Domain struct {
	Name     string // folded
	Created  time.Time
	Accounts int64
	Aliases  int64
}

// Settings hold for the whole cluster.
type Settings struct {
	Quota        int64         // of new accounts, bytes; 0 none
	Postmaster   covey.Address // gets mail for postmaster of domains that have none; zero: nobody
	Replicas     int           // wanted of each mailbox shard, as far as there are nodes: 1, 3 or 5
	RebuildAfter time.Duration // a node gone for so long has its replicas rebuilt elsewhere
}

// Bounds of Settings.RebuildAfter.
const (
	MinRebuildAfter = time.Second
	MaxRebuildAfter = 365 * 24 * time.Hour
)
