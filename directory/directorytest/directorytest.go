// Package directorytest gives tests a working directory without Raft.
package directorytest

import (
	"context"
	"crypto/ed25519"
	"path/filepath"
	"sync"
	"testing"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/directory"
	"github.com/covey-mail/covey/directory/password"
	"github.com/covey-mail/covey/storage/seglog"
)

// What New's cluster has: this many mailbox shards, all on this node.
const (
	Shards              = 4
	Node   covey.NodeID = 1
)

// A Proposer applies commands to a State at once. It may be used by any number of
// goroutines.
type Proposer struct {
	mu    sync.Mutex // guards down, and orders commands
	state *directory.State
	down  error
}

// Direct returns a Proposer for a State that nobody else applies commands to.
func Direct(state *directory.State) *Proposer { return &Proposer{state: state} }

// Fail makes every further call fail with err, as without a quorum; nil ends
// that.
func (p *Proposer) Fail(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.down = err
}

// Propose implements directory.Proposer.
func (p *Proposer) Propose(ctx context.Context, id covey.ShardID, cmd []byte) (any, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.check(ctx, id); err != nil {
		return nil, err
	}
	return p.state.Apply([]seglog.Command{{Index: p.state.Applied() + 1, Data: cmd}})[0], nil
}

// ReadIndex implements directory.Proposer.
func (p *Proposer) ReadIndex(ctx context.Context, id covey.ShardID) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.check(ctx, id)
}

func (p *Proposer) check(ctx context.Context, id covey.ShardID) error {
	switch {
	case p.down != nil:
		return p.down
	case id != covey.DirectoryShard:
		return covey.Errorf(covey.Invalid, "shard %d is not the directory", id)
	case ctx.Err() != nil:
		return covey.Errorf(covey.Unavailable, "%w", ctx.Err())
	}
	return nil
}

// New returns a Service of a founded cluster, on a database in a temporary folder
// that goes with the test. It has no domain yet.
func New(t testing.TB) *directory.Service {
	t.Helper()
	s, _ := Open(t)
	return s
}

// Open is New, and returns the Proposer as well.
func Open(t testing.TB) (*directory.Service, *Proposer) {
	t.Helper()
	state, err := directory.OpenState(directory.Config{Path: filepath.Join(t.TempDir(), "directory.db")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := state.Close(); err != nil {
			t.Errorf("close directory: %v", err)
		}
	})
	p := Direct(state)
	s, err := directory.New(directory.ServiceConfig{State: state, Proposer: p, Hasher: password.NewHasher(0)})
	if err != nil {
		t.Fatal(err)
	}
	first := &directory.AddNode{
		ID: Node, Key: make(ed25519.PublicKey, ed25519.PublicKeySize),
		NodeInfo: directory.NodeInfo{Peer: "127.0.0.1:7947", Gossip: "127.0.0.1:7946", Version: "test", Level: directory.Level},
	}
	if err := s.Found(t.Context(), directory.Found{Cluster: covey.ClusterID{1}, Shards: Shards, First: first}); err != nil {
		t.Fatal(err)
	}
	return s, p
}

// Add adds an account and, if need be, its domain. An empty secret makes an account
// without a password, which costs no hashing.
func Add(t testing.TB, s *directory.Service, address, secret string) directory.Account {
	t.Helper()
	addr, err := covey.ParseAddress(address)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.AddDomain(t.Context(), addr.Domain); err != nil && covey.KindOf(err) != covey.Exists {
		t.Fatal(err)
	}
	a, err := s.AddAccount(t.Context(), addr, secret, directory.DefaultQuota)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// Alias adds an alias; an address that starts with @ is a catch-all.
func Alias(t testing.TB, s *directory.Service, address string, targets ...string) {
	t.Helper()
	from, err := directory.ParseAlias(address)
	if err != nil {
		t.Fatal(err)
	}
	var to []covey.Address
	for _, target := range targets {
		a, err := covey.ParseAddress(target)
		if err != nil {
			t.Fatal(err)
		}
		to = append(to, a)
	}
	if err := s.AddAlias(t.Context(), from, to...); err != nil {
		t.Fatal(err)
	}
}
