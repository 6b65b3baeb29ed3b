package directory

import (
	"fmt"

	"github.com/covey-mail/covey"
)

// execute applies one command inside the open transaction. The first result is
// the command's, an error of kind covey.Kind among them; the second is a fault,
// after which the database is not to be trusted. Whatever a command refuses, it
// refuses before its first write. mu is held.
func (s *State) execute(c Command) (any, error) {
	switch c := c.(type) {
	case Found:
		return s.found(c)
	case AddDomain:
		return s.addDomain(c)
	case RemoveDomain:
		return s.removeDomain(c)
	case AddAccounts:
		return s.addAccounts(c)
	case RemoveAccount:
		return s.removeAccount(c)
	case Dropped:
		return nil, s.db.exec("DELETE FROM removed WHERE account = ?+0", int64(c.Account))
	case SetAccount:
		return s.setAccount(c)
	case SetPassword:
		return s.setPassword(c)
	case SetAlias:
		return s.setAlias(c)
	case RemoveAlias:
		return s.removeAlias(c)
	case SetSettings:
		s.change(c.change)
		s.changed |= SettingsChanged
		return nil, nil
	case AddNode:
		return s.addNode(c)
	case UpdateNode:
		return s.updateNode(c)
	case SetNodeState:
		return s.setNodeState(c)
	case RemoveNode:
		return s.removeNode(c)
	case SetShardMap:
		return s.setShardMap(c)
	case SetLevel:
		return s.setLevel(c), nil
	case StampNode:
		return s.stampNode(c)
	}
	return nil, fmt.Errorf("no code applies %T", c)
}

func (s *State) addDomain(c AddDomain) (any, error) {
	if _, ok := s.domains[c.Name]; ok {
		return covey.Errorf(covey.Exists, "domain %s is here already", c.Name), nil
	}
	if len(s.domains) >= MaxDomains {
		return covey.Errorf(covey.Limit, "there are %d domains, and there cannot be more", MaxDomains), nil
	}
	d := domain{id: s.meta.nextDomain, created: c.Time}
	s.change(func(m *meta) { m.nextDomain++ })
	s.showDomain(c.Name, d)
	return nil, s.db.exec("INSERT INTO domain VALUES (?, ?, ?, 0, 0)", d.id, c.Name, c.Time.Unix())
}

func (s *State) removeDomain(c RemoveDomain) (any, error) {
	d, ok := s.domains[c.Name]
	switch {
	case !ok:
		return noDomain(c.Name), nil
	case d.accounts > 0:
		return covey.Errorf(covey.Denied, "domain %s still has %d accounts: see `covey user list`, then `covey user remove`", c.Name, d.accounts), nil
	case d.aliases > 0:
		return covey.Errorf(covey.Denied, "domain %s still has %d aliases: see `covey alias list`, then `covey alias remove`", c.Name, d.aliases), nil
	}
	s.viewMu.Lock()
	delete(s.domains, c.Name)
	s.viewMu.Unlock()
	return nil, s.db.exec("DELETE FROM domain WHERE id = ?+0", d.id)
}

// showDomain makes d what readers see.
func (s *State) showDomain(name string, d domain) {
	s.viewMu.Lock()
	defer s.viewMu.Unlock()
	s.domains[name] = d
}

// count adds to the numbers of accounts and aliases of a domain.
func (s *State) count(name string, accounts, aliases int64) error {
	d := s.domains[name]
	d.accounts += accounts
	d.aliases += aliases
	s.showDomain(name, d)
	return s.db.exec("UPDATE domain SET accounts = ?, aliases = ? WHERE id = ?+0", d.accounts, d.aliases, d.id)
}

// show makes e what readers see under an address of a domain that is there.
func (s *State) show(addr covey.Address, e entry) {
	s.viewMu.Lock()
	defer s.viewMu.Unlock()
	s.addresses.put(s.domains[addr.Domain].id, addr.Local, e)
	s.targets.Delete(addr)
}

func noDomain(name string) error {
	return covey.Errorf(covey.NotFound, "domain %s is not here: add it with `covey domain add %s`", name, name)
}

func noAccount(addr covey.Address) error {
	return covey.Errorf(covey.NotFound, "there is no account %s: see `covey user list`", addr)
}

func noAlias(addr covey.Address) error {
	return covey.Errorf(covey.NotFound, "there is no alias %s: see `covey alias list`", aliasName(addr))
}

// aliasName writes an alias' address as people do, a catch-all as @domain.
func aliasName(addr covey.Address) string {
	if addr.Local == "" {
		return "@" + addr.Domain
	}
	return addr.String()
}

func (s *State) addAccounts(c AddAccounts) (any, error) {
	if s.meta.shards == 0 {
		return covey.Errorf(covey.Unavailable, "the cluster is not founded yet"), nil
	}
	results := make([]AddResult, len(c.Accounts))
	for i, a := range c.Accounts {
		var err error
		if results[i], err = s.addAccount(a, c); err != nil {
			return nil, err
		}
	}
	return results, nil
}

func (s *State) addAccount(a NewAccount, c AddAccounts) (AddResult, error) {
	d, ok := s.domains[a.Address.Domain]
	if !ok {
		return AddResult{Err: noDomain(a.Address.Domain)}, nil
	}
	is, err := s.read(a.Address)
	switch {
	case err != nil:
		return AddResult{}, err
	case is.targets != nil:
		return AddResult{Err: covey.Errorf(covey.Exists, "%s is an alias: remove it first with `covey alias remove %s`", a.Address, a.Address)}, nil
	case is.account != nil && !c.Update:
		return AddResult{Err: covey.Errorf(covey.Exists, "account %s is here already: change it with `covey passwd` or `covey user set`", a.Address)}, nil
	case is.account != nil && is.account.Hash == a.Hash:
		return AddResult{Account: is.account.ID, Outcome: Unchanged}, nil
	case is.account != nil:
		return AddResult{Account: is.account.ID, Outcome: Updated}, s.replacePassword(*is.account, a.Hash, a.Verifier)
	}
	return s.insertAccount(a, d, c.Time.Unix())
}

// insertAccount makes an account. Shards take turns, so that they fill evenly.
func (s *State) insertAccount(a NewAccount, d domain, created int64) (AddResult, error) {
	id := s.meta.nextAccount
	shard := 1 + (uint64(id)-1)%uint64(s.meta.shards)
	quota := a.Quota
	if quota == DefaultQuota {
		quota = s.meta.quota
	}
	s.change(func(m *meta) {
		m.nextAccount++
		m.accounts++
		m.unverified += unverified(a.Hash, a.Verifier)
	})
	s.show(a.Address, entry{anAccount, Account{ID: id, Shard: covey.ShardID(shard), Quota: quota, Created: unixTime(created)}})
	if err := s.count(a.Address.Domain, 1, 0); err != nil {
		return AddResult{}, err
	}
	err := s.db.exec("INSERT INTO account VALUES (?, ?, ?, ?, ?, ?, ?, 0, ?)",
		int64(id), d.id, a.Address.Local, int64(shard), a.Hash, a.Verifier, quota, created)
	return AddResult{Account: id, Outcome: Added}, err
}

// unverified is 1 for an account that keeps SCRAM from being offered.
func unverified(hash, verifier string) int64 {
	if hash != "" && verifier == "" {
		return 1
	}
	return 0
}

func (s *State) removeAccount(c RemoveAccount) (any, error) {
	is, err := s.read(c.Address)
	if err != nil {
		return nil, err
	}
	if is.account == nil {
		return noAccount(c.Address), nil
	}
	a := is.account
	s.show(c.Address, entry{})
	s.change(func(m *meta) {
		m.accounts--
		m.unverified -= unverified(a.Hash, a.Verifier)
	})
	if err := s.count(c.Address.Domain, -1, 0); err != nil {
		return nil, err
	}
	if err := s.db.exec("DELETE FROM account WHERE id = ?+0", int64(a.ID)); err != nil {
		return nil, err
	}
	err = s.db.exec("INSERT INTO removed VALUES (?, ?, ?, ?, ?)",
		int64(a.ID), int64(a.Shard), c.Address.Local, c.Address.Domain, c.Time.Unix())
	return Drop{Account: a.ID, Shard: a.Shard, Address: c.Address, Time: c.Time}, err
}

func (s *State) setAccount(c SetAccount) (any, error) {
	is, err := s.read(c.Address)
	if err != nil {
		return nil, err
	}
	if is.account == nil {
		return noAccount(c.Address), nil
	}
	a := is.account
	was, quota, disabled := a.Quota, a.Quota, a.Disabled
	if c.Quota != nil {
		if quota = *c.Quota; quota == DefaultQuota {
			quota = s.meta.quota
		}
	}
	if c.Disabled != nil {
		disabled = *c.Disabled
	}
	is.account.Quota, is.account.Disabled = quota, disabled
	s.show(c.Address, is.entry())
	if quota != was {
		s.requoted = append(s.requoted, a.Account)
	}
	return nil, s.db.exec("UPDATE account SET quota = ?, disabled = ? WHERE id = ?+0", quota, disabled, int64(a.ID))
}

func (s *State) setPassword(c SetPassword) (any, error) {
	a, err := s.readID(c.Account)
	switch {
	case err != nil:
		return nil, err
	case a == nil:
		return covey.Errorf(covey.NotFound, "there is no account with id %d", c.Account), nil
	case c.Was != "" && c.Was != a.Hash:
		return covey.Errorf(covey.Conflict, "the password of %s was changed meanwhile", a.Address), nil
	}
	return nil, s.replacePassword(*a, c.Hash, c.Verifier)
}

func (s *State) replacePassword(a Credentials, hash, verifier string) error {
	s.viewMu.Lock()
	s.secrets.Delete(a.ID)
	s.viewMu.Unlock()
	s.change(func(m *meta) { m.unverified += unverified(hash, verifier) - unverified(a.Hash, a.Verifier) })
	return s.db.exec("UPDATE account SET hash = ?, verifier = ? WHERE id = ?+0", hash, verifier, int64(a.ID))
}

func (s *State) setAlias(c SetAlias) (any, error) {
	d, ok := s.domains[c.Address.Domain]
	if !ok {
		return noDomain(c.Address.Domain), nil
	}
	is, err := s.read(c.Address)
	if err != nil {
		return nil, err
	}
	switch exists := is.targets != nil; {
	case is.account != nil:
		return covey.Errorf(covey.Exists, "%s is an account: an alias needs an address of its own", c.Address), nil
	case exists && c.Mode == NewAlias:
		return covey.Errorf(covey.Exists, "alias %s is here already: change it with `covey alias set`", aliasName(c.Address)), nil
	case !exists && c.Mode == ReplaceAlias:
		return noAlias(c.Address), nil
	case len(c.Targets) == 0:
		return covey.Errorf(covey.Invalid, "alias %s leads nowhere: name an address, or remove it with `covey alias remove`", aliasName(c.Address)), nil
	}
	for _, t := range c.Targets {
		if refusal, err := s.checkTarget(t); refusal != nil || err != nil {
			return refusal, err
		}
	}
	return nil, s.putAlias(c, d.id, is.targets == nil)
}

// checkTarget returns why an alias cannot lead to t, as a result.
func (s *State) checkTarget(t covey.Address) (any, error) {
	if _, ok := s.domains[t.Domain]; !ok {
		return covey.Errorf(covey.Invalid, "an alias cannot lead to %s: domain %s is not here, and mail is not sent out yet", t, t.Domain), nil
	}
	base, _ := t.Base()
	for _, a := range []covey.Address{t, base} {
		is, err := s.read(a)
		if err != nil {
			return nil, err
		}
		if !is.empty() {
			return nil, nil
		}
	}
	return covey.Errorf(covey.NotFound, "an alias cannot lead to %s, which does not exist: add it first with `covey user add %s`", t, t), nil
}

func (s *State) putAlias(c SetAlias, domain int64, isNew bool) error {
	s.show(c.Address, entry{kind: anAlias})
	if isNew {
		if err := s.count(c.Address.Domain, 0, 1); err != nil {
			return err
		}
	} else if err := s.db.exec("DELETE FROM alias WHERE domain = ?+0 AND local = ?||''", domain, c.Address.Local); err != nil {
		return err
	}
	for i, t := range c.Targets {
		err := s.db.exec("INSERT INTO alias VALUES (?, ?, ?, ?, ?)", domain, c.Address.Local, int64(i), t.Local, t.Domain)
		if err != nil {
			return err
		}
	}
	return nil
}

func (s *State) removeAlias(c RemoveAlias) (any, error) {
	is, err := s.read(c.Address)
	if err != nil {
		return nil, err
	}
	if is.targets == nil {
		return noAlias(c.Address), nil
	}
	s.show(c.Address, entry{})
	if err := s.count(c.Address.Domain, 0, -1); err != nil {
		return nil, err
	}
	return nil, s.db.exec("DELETE FROM alias WHERE domain = ?+0 AND local = ?||''", s.domains[c.Address.Domain].id, c.Address.Local)
}
