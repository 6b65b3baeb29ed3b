package directory

import "github.com/covey-mail/covey"

// MaxPage is the most that one listing returns.
const MaxPage = 10_000

// A Page selects part of a listing, which is in the order of domains and, within
// each, of local parts.
type Page struct {
	Domain string        // only this one; empty: all
	Prefix string        // only local parts that start so
	After  covey.Address // only what comes after it; zero: from the start
	Limit  int           // at most so many; 0 and more than MaxPage: MaxPage
}

func (p Page) limit() int {
	if p.Limit <= 0 || p.Limit > MaxPage {
		return MaxPage
	}
	return p.Limit
}

// each calls list for each domain that p asks for, with the local part to start
// after and how many more are wanted, until there are enough.
func (p Page) each(s *State, list func(domain, after string, limit int) (int, error)) error {
	names := s.domainNames()
	if p.Domain != "" {
		domain, err := covey.ParseDomain(p.Domain)
		if err != nil {
			return err
		}
		names = []string{domain}
	}
	after, left := p.After.Key(), p.limit()
	for _, name := range names {
		if name < after.Domain {
			continue
		}
		from := ""
		if name == after.Domain {
			from = after.Local
		}
		n, err := list(name, from, left)
		if err != nil {
			return err
		}
		if left -= n; left <= 0 {
			return nil
		}
	}
	return nil
}

// Accounts returns a page of accounts. NotFound if a domain is named that is not
// local.
func (s *Service) Accounts(p Page) ([]Account, error) {
	var all []Account
	prefix := covey.Address{Local: p.Prefix}.Key().Local
	err := p.each(s.state, func(domain, after string, limit int) (int, error) {
		list, err := s.state.accounts(domain, prefix, after, limit)
		all = append(all, list...)
		return len(list), err
	})
	return all, err
}

// Aliases returns a page of aliases; a domain's catch-all comes before its others.
// Prefix is not looked at.
func (s *Service) Aliases(p Page) ([]Alias, error) {
	var all []Alias
	err := p.each(s.state, func(domain, after string, limit int) (int, error) {
		catchAll := covey.Address{Domain: domain}
		before := len(all)
		if p.After.Key() != catchAll && after == "" {
			_, targets, err := s.state.lookup(catchAll)
			if err != nil {
				return 0, err
			}
			if targets != nil {
				all = append(all, Alias{Address: catchAll, Targets: targets})
				limit--
			}
		}
		list, err := s.state.aliases(domain, after, limit)
		all = append(all, list...)
		return len(all) - before, err
	})
	return all, err
}
