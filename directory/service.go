package directory

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/directory/password"
)

// A Proposer brings commands to group 0 and knows how far this node has followed
// it; replica.Host is one.
type Proposer interface {
	// Propose returns the result of applying cmd here, once that is done.
	// Unavailable: it was not done; Unknown: it may yet be.
	Propose(ctx context.Context, id covey.ShardID, cmd []byte) (any, error)

	// ReadIndex returns once everything committed before the call is applied
	// here, or Unavailable.
	ReadIndex(ctx context.Context, id covey.ShardID) error
}

// A ServiceConfig says what a Service works with. State and Proposer must be set.
type ServiceConfig struct {
	State    *State
	Proposer Proposer
	Hasher   *password.Hasher // nil: one of GOMAXPROCS hashes at a time
	Logger   *slog.Logger     // nil: silent
	Now      func() time.Time // nil: time.Now
}

// A Service is a node's view of the directory. All methods may be called by any
// number of goroutines. Look-ups read this node's copy and do not wait for the
// network, but where they say so; changes wait until they are committed and
// applied here.
//
// A change that fails with Unavailable was not made. After Unknown it may have
// been: look before trying again.
type Service struct {
	state    *State
	proposer Proposer
	hasher   *password.Hasher
	log      *slog.Logger
	now      func() time.Time
	metrics  *Metrics
	fresh    freshness
}

// New returns a Service. It does no I/O.
func New(cfg ServiceConfig) (*Service, error) {
	if cfg.State == nil || cfg.Proposer == nil {
		return nil, covey.Errorf(covey.Invalid, "directory: State and Proposer are needed")
	}
	if cfg.Hasher == nil {
		cfg.Hasher = password.NewHasher(0)
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	s := &Service{
		state: cfg.State, proposer: cfg.Proposer, hasher: cfg.Hasher, now: cfg.Now,
		log: cfg.Logger.With("component", "directory"),
	}
	s.metrics = newMetrics(s.state)
	s.fresh.slot = make(chan struct{}, 1)
	return s, nil
}

// Metrics returns the collectors of this Service, to be registered once.
func (s *Service) Metrics() *Metrics { return s.metrics }

// Hasher returns what the Service hashes passwords with, so that others share its
// bound.
func (s *Service) Hasher() *password.Hasher { return s.hasher }

// Applied returns the index of the last command that look-ups know in full: while it is
// the same, no command that changes what they return has ended.
func (s *Service) Applied() uint64 { return s.state.Applied() }

// Lookup returns the account whose address is addr, whatever its case: no alias,
// no detail. NotFound if there is none in this copy.
func (s *Service) Lookup(_ context.Context, addr covey.Address) (Account, error) {
	addr = addr.Key()
	e, _, err := s.state.lookup(addr)
	if err != nil {
		return Account{}, fmt.Errorf("look up %s: %w", addr, err)
	}
	if e.kind != anAccount {
		return Account{}, noAccount(addr)
	}
	return e.account, nil
}

// Credentials is Lookup with what the password is verified against.
func (s *Service) Credentials(_ context.Context, addr covey.Address) (Credentials, error) {
	addr = addr.Key()
	c, err := s.state.credentials(addr)
	if err != nil {
		return Credentials{}, fmt.Errorf("look up %s: %w", addr, err)
	}
	if c == nil {
		return Credentials{}, noAccount(addr)
	}
	return *c, nil
}

// ByID returns an account by its id, NotFound if this copy has none.
func (s *Service) ByID(_ context.Context, id covey.AccountID) (Account, error) {
	a, err := s.state.byID(id)
	if err != nil {
		return Account{}, fmt.Errorf("look up account %d: %w", id, err)
	}
	if a == nil {
		return Account{}, covey.Errorf(covey.NotFound, "there is no account with id %d", id)
	}
	return *a, nil
}

// Removed reports whether an account was there and is no more: ids ascend, so a copy
// that knows of later ones, and not of this one, will never have it again. False
// where this copy cannot tell.
func (s *Service) Removed(id covey.AccountID) (bool, error) {
	m, _ := s.state.view() // before the look: a copy does not lose what it had but by removal
	a, err := s.state.byID(id)
	if err != nil {
		return false, fmt.Errorf("look up account %d: %w", id, err)
	}
	return a == nil && id > 0 && id < m.nextAccount, nil
}

// OnlyDomain returns the one local domain if there is exactly one, so that a bare
// user name can be completed.
func (s *Service) OnlyDomain() (string, bool) {
	if _, n := s.state.view(); n != 1 {
		return "", false
	}
	names := s.state.domainNames()
	return names[0], len(names) == 1
}

// ScramReady reports whether every account that has a password has a SCRAM
// verifier.
func (s *Service) ScramReady() bool {
	m, _ := s.state.view()
	return m.unverified == 0
}

// propose brings c to group 0 and returns its result. An error result is the
// error.
func (s *Service) propose(ctx context.Context, c Command) (any, error) {
	result, err := s.proposer.Propose(ctx, covey.DirectoryShard, Encode(c))
	if err != nil {
		return nil, fmt.Errorf("change the directory: %w", err)
	}
	if err, ok := result.(error); ok {
		return nil, err
	}
	return result, nil
}
