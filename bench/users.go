package bench

import (
	"fmt"
	"math/rand/v2"
	"strings"
)

// users names the accounts of a run. Operation n takes the user (n*step+first)
// mod count: each user comes once before any comes again, so that sessions
// running side by side rarely meet in one POP3 mailbox. Safe for concurrent use.
type users struct {
	pattern, password string
	count             uint64 // of those that operations go to
	pick              []int  // which they are; nil: all
	step, first       uint64
}

// newNames returns users that have names but take no turns.
func newNames(cfg Config) *users { return &users{pattern: cfg.UserPattern, password: cfg.Password} }

func newUsers(cfg Config) *users {
	r := rand.New(rand.NewPCG(cfg.Seed, 1))
	u := newNames(cfg)
	u.count, u.step = uint64(cfg.Users), 1
	if u.pick = u.picked(&cfg); u.pick != nil {
		u.count = uint64(len(u.pick))
	}
	u.first = r.Uint64N(u.count)
	// A step without a common divisor visits all. Half of all numbers or so have none.
	for u.count > 2 {
		if u.step = 1 + r.Uint64N(u.count-1); divisor(u.step, u.count) == 1 {
			break
		}
	}
	return u
}

func divisor(a, b uint64) uint64 {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}

func (u *users) of(n int64) int {
	i := int((uint64(n)%u.count*u.step + u.first) % u.count)
	if u.pick != nil {
		return u.pick[i]
	}
	return i
}

func (u *users) address(i int) string { return expand(u.pattern, i) }

// login returns the name and password that user i logs in with.
func (u *users) login(i int) (name, password string) {
	name = u.address(i)
	if u.password == "" {
		local, _, _ := strings.Cut(name, "@")
		return name, local
	}
	return name, expand(u.password, i)
}

// expand fills in the one number of a pattern that patternOK has passed.
func expand(pattern string, i int) string {
	if !strings.Contains(pattern, "%") {
		return pattern
	}
	return fmt.Sprintf(pattern, i)
}
