package directory

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/covey-mail/covey"
)

// Limits on what one address may lead to.
const (
	maxDepth    = 10  // aliases behind aliases
	maxAccounts = 100 // behind one address
	maxSteps    = 1000
)

// postmaster is the local part that every domain must take mail for (RFC 5321
// section 4.5.1).
const postmaster = "postmaster"

// Resolve returns the accounts that mail for an address goes to, each once.
//
// The address itself comes first, as an account or an alias; then the part before
// a plus sign; then postmaster, if it is that: the one of the settings, or else
// the domain's oldest account; then the domain's catch-all. "postmaster" without a
// domain is that of the settings, or of the first domain in order that has accounts.
// An alias may lead to aliases; what leads in a circle, is deeper than 10 levels,
// or does not exist any more is passed over.
//
// NotFound: the domain is local and nobody is there. Denied: the domain is not
// local. Both are said only after Confirm, so that a node that is behind refuses
// nobody for good; until then, and while there is no domain at all, it is
// Unavailable. Limit: the address leads to more than 100 accounts.
func (s *Service) Resolve(ctx context.Context, to covey.Address) ([]Account, error) {
	list, err := s.resolve(to)
	if !errors.Is(err, covey.NotFound) && !errors.Is(err, covey.Denied) || s.isFresh() {
		return list, err
	}
	if err := s.Confirm(ctx); err != nil {
		return nil, err
	}
	return s.resolve(to)
}

// Owns reports whether an account may send as an address: whether mail for that
// address would reach it.
func (s *Service) Owns(_ context.Context, id covey.AccountID, from covey.Address) (bool, error) {
	list, err := s.resolve(from)
	switch {
	case errors.Is(err, covey.NotFound), errors.Is(err, covey.Denied):
		return false, nil
	case err != nil:
		return false, err
	}
	return slices.ContainsFunc(list, func(a Account) bool { return a.ID == id }), nil
}

// ErrNoDomain is Resolve's error while there is no domain at all, as on a node that
// is new or lost its disk: it may not tell anyone that a user does not exist.
var ErrNoDomain = covey.Errorf(covey.Unavailable, "the directory has no domain yet: covey domain add")

// resolve is Resolve on this copy as it is.
func (s *Service) resolve(to covey.Address) ([]Account, error) {
	m, domains := s.state.view()
	if domains == 0 {
		return nil, ErrNoDomain
	}
	to = to.Key()
	w := walk{state: s.state, settings: m.postmaster}
	if err := w.start(to); err != nil {
		return nil, fmt.Errorf("resolve %s: %w", to, err)
	}
	if len(w.found) == 0 {
		return nil, covey.Errorf(covey.NotFound, "there is no %s", to)
	}
	return w.found, nil
}

// A walk follows one address to accounts.
type walk struct {
	state    *State
	settings covey.Address // postmaster of the settings
	found    []Account
	seen     map[covey.Address]bool // aliases expanded; nil until there is one
	steps    int
}

func (w *walk) start(to covey.Address) error {
	if to.Domain == "" && to.Local == postmaster {
		return w.barePostmaster()
	}
	if _, ok := w.state.domain(to.Domain); !ok {
		return covey.Errorf(covey.Denied, "domain %.64q is not local", to.Domain)
	}
	if hit, err := w.address(to, 0); hit || err != nil {
		return err
	}
	if base, _ := to.Base(); base.Local == postmaster {
		if err := w.postmaster(to.Domain); err != nil || len(w.found) > 0 {
			return err
		}
	}
	_, err := w.exact(covey.Address{Domain: to.Domain}, 0)
	return err
}

// address tries an address and then the part before a plus sign. hit says that
// one of them is there, even if it leads nowhere.
func (w *walk) address(to covey.Address, depth int) (hit bool, err error) {
	if to.Local == "" {
		return false, nil
	}
	if hit, err = w.exact(to, depth); hit || err != nil {
		return hit, err
	}
	base, _ := to.Base()
	if base == to {
		return false, nil
	}
	return w.exact(base, depth)
}

// exact tries one address as it is.
func (w *walk) exact(to covey.Address, depth int) (hit bool, err error) {
	if w.steps++; w.steps > maxSteps {
		return false, covey.Errorf(covey.Limit, "aliases lead to more than %d addresses", maxSteps)
	}
	e, targets, err := w.state.lookup(to)
	switch {
	case err != nil || e.kind == nothing:
		return false, err
	case e.kind == anAccount:
		return true, w.add(e.account)
	case depth >= maxDepth || w.seen[to]:
		return true, nil
	}
	if w.seen == nil {
		w.seen = make(map[covey.Address]bool)
	}
	w.seen[to] = true
	for _, t := range targets {
		if _, err := w.address(t, depth+1); err != nil {
			return true, err
		}
	}
	return true, nil
}

func (w *walk) add(a Account) error {
	if slices.ContainsFunc(w.found, func(b Account) bool { return b.ID == a.ID }) {
		return nil
	}
	if len(w.found) >= maxAccounts {
		return covey.Errorf(covey.Limit, "the address leads to more than %d accounts", maxAccounts)
	}
	w.found = append(w.found, a)
	return nil
}

// postmaster finds whoever reads the mail of a domain that has no postmaster.
func (w *walk) postmaster(domain string) error {
	if !w.settings.IsZero() {
		if hit, err := w.address(w.settings, 0); err != nil || hit && len(w.found) > 0 {
			return err
		}
	}
	a, err := w.state.first(domain)
	if err != nil || a == nil {
		return err
	}
	return w.add(a.Account)
}

// barePostmaster finds the postmaster of the host.
func (w *walk) barePostmaster() error {
	if !w.settings.IsZero() {
		if _, err := w.address(w.settings, 0); err != nil || len(w.found) > 0 {
			return err
		}
	}
	for _, name := range w.state.domainNames() {
		if d, ok := w.state.domain(name); ok && d.accounts > 0 {
			return w.start(covey.Address{Local: postmaster, Domain: name})
		}
	}
	return nil
}

// ParseAlias parses an alias' address as people write it: local@domain, or
// @domain for the catch-all. It is folded.
func ParseAlias(s string) (covey.Address, error) {
	if domain, ok := strings.CutPrefix(s, "@"); ok {
		domain, err := covey.ParseDomain(domain)
		return covey.Address{Domain: domain}, err
	}
	a, err := covey.ParseAddress(s)
	return a.Key(), err
}
