package node

import (
	"strings"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/node/admin"
)

// cutAddress splits what an operator typed at the last @; ok is false without
// one.
func cutAddress(s string) (local, domain string, ok bool) {
	i := strings.LastIndexByte(s, '@')
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+1:], true
}

// aliasAddress parses an alias; @domain is the domain's catch-all.
func aliasAddress(s string) (covey.Address, error) {
	if domain, ok := strings.CutPrefix(s, "@"); ok {
		d, err := covey.ParseDomain(domain)
		return covey.Address{Domain: d}, err
	}
	return covey.ParseAddress(s)
}

// aliasName is the inverse of aliasAddress.
func aliasName(a covey.Address) string {
	if a.Local == "" {
		return "@" + a.Domain
	}
	return a.String()
}

func parseAlias(r admin.Alias) (covey.Address, []covey.Address, error) {
	addr, err := aliasAddress(r.Address)
	if err != nil {
		return addr, nil, err
	}
	targets := make([]covey.Address, len(r.Targets))
	for i, t := range r.Targets {
		if targets[i], err = covey.ParseAddress(t); err != nil {
			return addr, nil, err
		}
	}
	return addr, targets, nil
}
