package logon

import (
	"context"
	"errors"
	"strconv"
	"strings"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/directory"
)

const (
	maxName   = covey.MaxLocalPart + covey.MaxDomain + 3 // octets of a user name
	maxQuoted = 64                                       // of them in a log line
)

// A name is a user's name as it was given.
type name struct {
	addr   covey.Address // folded and completed; zero if it cannot be anybody's
	key    string        // what failures are counted under
	quoted string        // for log lines
}

// parseName folds a name and completes a local part where there is one domain. A
// name that is none becomes that of nobody.
func (s *Service) parseName(user string) name {
	n := name{quoted: strconv.QuoteToASCII(user[:min(len(user), maxQuoted)])}
	if len(user) > maxName {
		n.key = n.quoted
		return n
	}
	full := user
	if !strings.Contains(user, "@") {
		if domain, ok := s.dir.OnlyDomain(); ok {
			full += "@" + domain
		}
	}
	addr, err := covey.ParseAddress(full)
	if err != nil {
		n.key = strings.ToLower(user)
		return n
	}
	n.addr = addr.Key()
	n.key = n.addr.String()
	return n
}

// A found is a user who may or may not exist.
type found struct {
	directory.Credentials
	exists bool
}

// obstacle returns why the account cannot be logged in to, empty if it can.
func (f found) obstacle() string {
	switch {
	case !f.exists:
		return "no such account"
	case f.Disabled:
		return "account is disabled"
	case f.Hash == "":
		return "account has no password"
	}
	return ""
}

// find looks a user up. One who does not exist is no error.
func (s *Service) find(ctx context.Context, n name) (found, error) {
	if n.addr.IsZero() {
		return found{}, nil
	}
	c, err := s.dir.Credentials(ctx, n.addr)
	switch {
	case errors.Is(err, covey.NotFound):
		return found{}, nil
	case err != nil:
		return found{}, err
	}
	return found{c, true}, nil
}
