package directory

import (
	"slices"
	"strings"

	"zombiezen.com/go/sqlite"

	"github.com/covey-mail/covey"
)

// accountColumns are what scanAccount reads.
const accountColumns = "account.id, account.local, account.shard, account.hash, account.verifier, account.quota, account.disabled, account.created"

func scanAccount(q *sqlite.Stmt, domain string) *Credentials {
	return &Credentials{
		Account: Account{
			ID:       covey.AccountID(q.ColumnInt64(0)),
			Address:  covey.Address{Local: q.ColumnText(1), Domain: domain},
			Shard:    covey.ShardID(q.ColumnInt64(2)),
			Quota:    q.ColumnInt64(5),
			Disabled: q.ColumnBool(6),
			Created:  unixTime(q.ColumnInt64(7)),
		},
		Hash:     q.ColumnText(3),
		Verifier: q.ColumnText(4),
	}
}

// read returns what the database has under addr. mu is held.
func (s *State) read(addr covey.Address) (row, error) {
	d, ok := s.domains[addr.Domain]
	if !ok {
		return row{}, nil
	}
	var r row
	err := s.db.query("SELECT "+accountColumns+" FROM account WHERE domain = ?+0 AND local = ?||''", []any{d.id, addr.Local},
		func(q *sqlite.Stmt) error {
			r.account = scanAccount(q, addr.Domain)
			return nil
		})
	if err != nil || r.account != nil {
		return r, err
	}
	err = s.db.query("SELECT target_local, target_domain FROM alias WHERE domain = ?+0 AND local = ?||'' ORDER BY position",
		[]any{d.id, addr.Local}, func(q *sqlite.Stmt) error {
			r.targets = append(r.targets, covey.Address{Local: q.ColumnText(0), Domain: q.ColumnText(1)})
			return nil
		})
	return r, err
}

// readID returns the account with an id, nil if there is none. mu is held.
func (s *State) readID(id covey.AccountID) (*Credentials, error) {
	var a *Credentials
	err := s.db.query("SELECT "+accountColumns+", domain.name FROM account JOIN domain ON domain.id = account.domain WHERE account.id = ?+0",
		[]any{int64(id)}, func(q *sqlite.Stmt) error {
			a = scanAccount(q, q.ColumnText(8))
			return nil
		})
	return a, err
}

// lookup returns what there is under a folded address, from memory if it is there,
// and where it leads if it is an alias, both of one moment. The list is shared and not
// to be changed.
func (s *State) lookup(addr covey.Address) (entry, []covey.Address, error) {
	s.viewMu.Lock()
	e, ok := s.find(addr)
	var targets []covey.Address
	if e.kind == anAlias {
		targets, ok = s.targets.Load(addr)
	}
	s.viewMu.Unlock()
	if ok {
		return e, targets, nil
	}
	r, err := s.ask(addr)
	return r.entry(), r.targets, err
}

// find returns what there is under a folded address, and false if the database has
// to be asked. viewMu is held.
func (s *State) find(addr covey.Address) (entry, bool) {
	d, ok := s.domains[addr.Domain]
	if !ok {
		return entry{}, true
	}
	e, ok := s.addresses.get(d.id, addr.Local)
	if e.kind == anAccount {
		e.account.Address = addr
		s.names.Store(e.account.ID, addr)
	}
	return e, ok
}

// ask reads what there is under a folded address from the database, and keeps it.
func (s *State) ask(addr covey.Address) (row, error) {
	s.mu.Lock() // until it is kept, so that no command comes between
	defer s.mu.Unlock()
	if err := s.readable(); err != nil {
		return row{}, err
	}
	r, err := s.read(addr)
	if err != nil {
		return row{}, err
	}
	s.viewMu.Lock()
	defer s.viewMu.Unlock()
	if d, ok := s.domains[addr.Domain]; ok {
		s.addresses.put(d.id, addr.Local, r.entry())
	}
	if r.account != nil {
		s.names.Store(r.account.ID, addr)
		s.secrets.Store(r.account.ID, secret{r.account.Hash, r.account.Verifier})
	}
	if r.targets != nil {
		s.targets.Store(addr, r.targets)
	}
	return r, nil
}

// credentials returns the account under a folded address, nil if there is none.
func (s *State) credentials(addr covey.Address) (*Credentials, error) {
	s.viewMu.Lock()
	e, known := s.find(addr)
	c := &Credentials{Account: e.account}
	secret, ok := s.secrets.Load(e.account.ID)
	c.Hash, c.Verifier = secret.hash, secret.verifier
	s.viewMu.Unlock()
	switch {
	case known && e.kind != anAccount:
		return nil, nil
	case known && ok:
		return c, nil
	}
	r, err := s.ask(addr)
	return r.account, err
}

// readable reports whether the database may be read. mu is held.
func (s *State) readable() error {
	if s.closed {
		return covey.Errorf(covey.Unavailable, "directory is closed")
	}
	if s.failed != nil {
		return covey.Errorf(covey.Unavailable, "directory has failed: %w", s.failed)
	}
	return nil
}

// view returns the numbers of the directory.
func (s *State) view() (m meta, domains int) {
	s.viewMu.Lock()
	defer s.viewMu.Unlock()
	return s.meta, len(s.domains)
}

// domain finds a domain by its folded name.
func (s *State) domain(name string) (domain, bool) {
	s.viewMu.Lock()
	defer s.viewMu.Unlock()
	d, ok := s.domains[name]
	return d, ok
}

// domainNames returns all domains in order.
func (s *State) domainNames() []string {
	s.viewMu.Lock()
	defer s.viewMu.Unlock()
	names := make([]string, 0, len(s.domains))
	for name := range s.domains {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// byID returns an account, nil if there is none.
func (s *State) byID(id covey.AccountID) (*Account, error) {
	if a := s.findID(id); a != nil {
		return a, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.readable(); err != nil {
		return nil, err
	}
	c, err := s.readID(id)
	if err != nil || c == nil {
		return nil, err
	}
	return &c.Account, nil
}

// findID returns an account that was looked for lately by its address, else nil.
func (s *State) findID(id covey.AccountID) *Account {
	s.viewMu.Lock()
	defer s.viewMu.Unlock()
	addr, ok := s.names.Load(id)
	if !ok {
		return nil
	}
	if e, _ := s.find(addr); e.kind == anAccount && e.account.ID == id {
		return &e.account
	}
	return nil
}

// first returns the oldest account of a domain, nil if it has none.
func (s *State) first(domain string) (*Credentials, error) {
	d, ok := s.domain(domain)
	if !ok || d.accounts == 0 {
		return nil, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.readable(); err != nil {
		return nil, err
	}
	var a *Credentials
	err := s.db.query("SELECT "+accountColumns+" FROM account INDEXED BY account_domain WHERE domain = ?+0 ORDER BY id LIMIT 1", []any{d.id},
		func(q *sqlite.Stmt) error {
			a = scanAccount(q, domain)
			return nil
		})
	return a, err
}

// accounts returns up to limit accounts of a domain in the order of their local
// parts, those after the given one that start with prefix.
func (s *State) accounts(domain, prefix, after string, limit int) ([]Account, error) {
	d, ok := s.domain(domain)
	if !ok {
		return nil, noDomain(domain)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.readable(); err != nil {
		return nil, err
	}
	var list []Account
	err := s.db.query("SELECT "+accountColumns+" FROM account WHERE domain = ?+0 AND local > ?||'' AND local >= ?||'' ORDER BY local LIMIT ?",
		[]any{d.id, after, prefix, int64(limit)}, func(q *sqlite.Stmt) error {
			if a := scanAccount(q, domain); strings.HasPrefix(a.Address.Local, prefix) {
				list = append(list, a.Account)
			}
			return nil
		})
	return list, err
}

// aliases returns up to limit aliases of a domain in the order of their local
// parts, those after the given one. A catch-all is not among them.
func (s *State) aliases(domain, after string, limit int) ([]Alias, error) {
	d, ok := s.domain(domain)
	if !ok {
		return nil, noDomain(domain)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.readable(); err != nil {
		return nil, err
	}
	var list []Alias
	err := s.db.query(`SELECT alias.local, target_local, target_domain FROM alias JOIN
		(SELECT DISTINCT local FROM alias WHERE domain = ?1+0 AND local > ?2||'' ORDER BY local LIMIT ?3) AS page
		ON alias.domain = ?1+0 AND alias.local = page.local ORDER BY alias.local, position`,
		[]any{d.id, after, int64(limit)}, func(q *sqlite.Stmt) error {
			addr := covey.Address{Local: q.ColumnText(0), Domain: domain}
			if n := len(list); n == 0 || list[n-1].Address != addr {
				list = append(list, Alias{Address: addr})
			}
			last := &list[len(list)-1]
			last.Targets = append(last.Targets, covey.Address{Local: q.ColumnText(1), Domain: q.ColumnText(2)})
			return nil
		})
	return list, err
}

// drops returns up to limit removed accounts whose shards may still hold mail.
func (s *State) drops(limit int) ([]Drop, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.readable(); err != nil {
		return nil, err
	}
	var list []Drop
	err := s.db.query("SELECT account, shard, local, domain, time FROM removed ORDER BY account LIMIT ?", []any{int64(limit)},
		func(q *sqlite.Stmt) error {
			list = append(list, Drop{
				Account: covey.AccountID(q.ColumnInt64(0)),
				Shard:   covey.ShardID(q.ColumnInt64(1)),
				Address: covey.Address{Local: q.ColumnText(2), Domain: q.ColumnText(3)},
				Time:    unixTime(q.ColumnInt64(4)),
			})
			return nil
		})
	return list, err
}
