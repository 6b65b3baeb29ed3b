package directory

import (
	"context"
	"fmt"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/directory/password"
)

// Found makes a new cluster: see the command. The time of f.First is set here.
// Exists if this directory belongs to one.
func (s *Service) Found(ctx context.Context, f Found) error {
	if f.Shards == 0 || f.Shards > MaxShards {
		return covey.Errorf(covey.Invalid, "a cluster has 1 to %d mailbox shards, not %d", MaxShards, f.Shards)
	}
	if f.First != nil {
		first := *f.First
		first.Time = s.now()
		if err := first.check(); err != nil {
			return err
		}
		f.First = &first
	}
	_, err := s.propose(ctx, f)
	return err
}

// Cluster returns the cluster's id and how many mailbox shards it has; 0 before
// Found.
func (s *Service) Cluster() (covey.ClusterID, uint32) {
	m, _ := s.state.view()
	return m.cluster, m.shards
}

// AddDomain makes a domain local. Exists if it is.
func (s *Service) AddDomain(ctx context.Context, name string) error {
	name, err := covey.ParseDomain(name)
	if err != nil {
		return err
	}
	_, err = s.propose(ctx, AddDomain{Name: name, Time: s.now()})
	return err
}

// RemoveDomain ends that. Denied while it has accounts or aliases.
func (s *Service) RemoveDomain(ctx context.Context, name string) error {
	name, err := covey.ParseDomain(name)
	if err != nil {
		return err
	}
	_, err = s.propose(ctx, RemoveDomain{Name: name})
	return err
}

// Domains returns all local domains in order.
func (s *Service) Domains() []Domain {
	var list []Domain
	for _, name := range s.state.domainNames() {
		if d, ok := s.state.domain(name); ok {
			list = append(list, Domain{Name: name, Created: d.created, Accounts: d.accounts, Aliases: d.aliases})
		}
	}
	return list
}

// AddAccount makes an account. secret is a password in clear, or a hash with its
// {SCHEME} as package password takes it, or empty for an account nobody can log in
// to. A password is hashed here. quota is in bytes; DefaultQuota is that of the
// settings. Exists if the address is taken.
func (s *Service) AddAccount(ctx context.Context, addr covey.Address, secret string, quota int64) (Account, error) {
	if quota < DefaultQuota {
		return Account{}, covey.Errorf(covey.Invalid, "quota %d is negative", quota)
	}
	hash, verifier, err := s.seal(ctx, secret)
	if err != nil {
		return Account{}, fmt.Errorf("add account %s: %w", addr, err)
	}
	a := NewAccount{Address: addr.Key(), Hash: hash, Verifier: verifier, Quota: quota}
	result, err := s.propose(ctx, AddAccounts{Accounts: []NewAccount{a}, Time: s.now()})
	if err != nil {
		return Account{}, err
	}
	if r := result.([]AddResult)[0]; r.Err != nil {
		return Account{}, r.Err
	}
	return s.Lookup(ctx, addr)
}

// seal turns a password in clear into hash and verifier, and checks a hash.
func (s *Service) seal(ctx context.Context, secret string) (hash, verifier string, err error) {
	_, clear, isClear := password.Split(secret)
	switch {
	case secret == "":
		return "", "", nil
	case !isClear:
		return secret, "", password.Check(secret)
	}
	if hash, err = s.hasher.Hash(ctx, clear); err != nil {
		return "", "", err
	}
	verifier, err = s.hasher.Scram(ctx, clear)
	return hash, verifier, err
}

// RemoveAccount removes an account. Its mail lies on its shard until that has
// dropped the account: see Drops.
func (s *Service) RemoveAccount(ctx context.Context, addr covey.Address) (Drop, error) {
	result, err := s.propose(ctx, RemoveAccount{Address: addr.Key(), Time: s.now()})
	if err != nil {
		return Drop{}, err
	}
	return result.(Drop), nil
}

// Drops returns up to limit removed accounts whose shards are yet to drop them,
// oldest account first.
func (s *Service) Drops(limit int) ([]Drop, error) { return s.state.drops(limit) }

// Dropped records that the shard of a removed account has dropped it.
func (s *Service) Dropped(ctx context.Context, id covey.AccountID) error {
	_, err := s.propose(ctx, Dropped{Account: id})
	return err
}

// SetAccount changes an account's quota, unless nil, and whether it may log in,
// unless nil. A quota of DefaultQuota is that of the settings.
func (s *Service) SetAccount(ctx context.Context, addr covey.Address, quota *int64, disabled *bool) error {
	if quota != nil && *quota < DefaultQuota {
		return covey.Errorf(covey.Invalid, "quota %d is negative", *quota)
	}
	_, err := s.propose(ctx, SetAccount{Address: addr.Key(), Quota: quota, Disabled: disabled})
	return err
}

// SetPassword gives an account another password, or another hash, as AddAccount
// takes it.
func (s *Service) SetPassword(ctx context.Context, addr covey.Address, secret string) error {
	a, err := s.Lookup(ctx, addr)
	if err != nil {
		return err
	}
	hash, verifier, err := s.seal(ctx, secret)
	if err != nil {
		return fmt.Errorf("set password of %s: %w", addr, err)
	}
	_, err = s.propose(ctx, SetPassword{Account: a.ID, Hash: hash, Verifier: verifier})
	return err
}

// SetVerifier keeps the SCRAM verifier of a password that was just found to match
// c.Hash. Conflict if the password was changed meanwhile.
func (s *Service) SetVerifier(ctx context.Context, c Credentials, verifier string) error {
	if _, err := password.ParseScram(verifier); err != nil {
		return err
	}
	_, err := s.propose(ctx, SetPassword{Account: c.ID, Hash: c.Hash, Verifier: verifier, Was: c.Hash})
	return err
}

// AddAlias makes an alias for one address or more. Exists if the address is
// taken.
func (s *Service) AddAlias(ctx context.Context, addr covey.Address, targets ...covey.Address) error {
	return s.setAlias(ctx, addr, targets, NewAlias)
}

// SetAlias gives an alias that exists other targets.
func (s *Service) SetAlias(ctx context.Context, addr covey.Address, targets ...covey.Address) error {
	return s.setAlias(ctx, addr, targets, ReplaceAlias)
}

func (s *Service) setAlias(ctx context.Context, addr covey.Address, targets []covey.Address, mode AliasMode) error {
	if len(targets) > MaxTargets {
		return covey.Errorf(covey.Limit, "an alias has at most %d targets: make aliases of aliases", MaxTargets)
	}
	c := SetAlias{Address: addr.Key(), Mode: mode}
	for _, t := range targets {
		c.Targets = append(c.Targets, t.Key())
	}
	_, err := s.propose(ctx, c)
	return err
}

// RemoveAlias removes an alias.
func (s *Service) RemoveAlias(ctx context.Context, addr covey.Address) error {
	_, err := s.propose(ctx, RemoveAlias{Address: addr.Key()})
	return err
}
