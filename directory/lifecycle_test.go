package directory_test

import (
	"errors"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/directory"
	"github.com/covey-mail/covey/directory/directorytest"
)

// openAt returns a Service on a database that the test closes and opens itself.
func openAt(t *testing.T, path string) (*directory.State, *directory.Service) {
	t.Helper()
	state, err := directory.OpenState(directory.Config{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	s, err := directory.New(directory.ServiceConfig{State: state, Proposer: directorytest.Direct(state)})
	if err != nil {
		t.Fatal(err)
	}
	return state, s
}

func TestFoundOnce(t *testing.T) {
	state, s := openAt(t, filepath.Join(t.TempDir(), "directory.db"))
	defer state.Close()
	ctx := t.Context()
	if _, shards := s.Cluster(); shards != 0 {
		t.Errorf("%d shards before Found", shards)
	}
	if err := s.AddDomain(ctx, "example.org"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.AddAccount(ctx, covey.Address{Local: "a", Domain: "example.org"}, "", 0); !errors.Is(err, covey.Unavailable) {
		t.Errorf("account before Found: %v, want unavailable", err)
	}
	for _, shards := range []uint32{0, directory.MaxShards + 1} {
		if err := s.Found(ctx, directory.Found{Cluster: covey.ClusterID{1}, Shards: shards}); !errors.Is(err, covey.Invalid) {
			t.Errorf("Found with %d shards: %v, want invalid", shards, err)
		}
	}
	if err := s.Found(ctx, directory.Found{Cluster: covey.ClusterID{1}, Shards: 16}); err != nil {
		t.Fatal(err)
	}
	if err := s.Found(ctx, directory.Found{Cluster: covey.ClusterID{2}, Shards: 8}); !errors.Is(err, covey.Exists) {
		t.Errorf("Found again: %v, want exists", err)
	}
	if id, shards := s.Cluster(); id != (covey.ClusterID{1}) || shards != 16 {
		t.Errorf("Cluster = %v, %d", id, shards)
	}
}

// Everything is there after closing and opening, and nothing is answered in
// between.
func TestReopen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "directory.db")
	state, s := openAt(t, path)
	ctx := t.Context()
	if err := s.Found(ctx, directory.Found{Cluster: covey.ClusterID{7}, Shards: 3}); err != nil {
		t.Fatal(err)
	}
	alice := directorytest.Add(t, s, "alice@example.org", cheap)
	directorytest.Alias(t, s, "@example.org", "alice@example.org")
	settings := directory.Settings{Quota: 99, Postmaster: alice.Address, Replicas: 5, RebuildAfter: time.Hour}
	err := s.SetSettings(ctx, directory.SetSettings{
		Quota: &settings.Quota, Postmaster: &settings.Postmaster, Replicas: &settings.Replicas, RebuildAfter: &settings.RebuildAfter,
	})
	if err != nil {
		t.Fatal(err)
	}
	domains, applied := s.Domains(), state.Applied()
	for range 2 {
		if err := state.Close(); err != nil {
			t.Fatal(err)
		}
	}
	other := covey.Address{Local: "not in the cache", Domain: "example.org"}
	if _, err := s.Lookup(ctx, other); !errors.Is(err, covey.Unavailable) {
		t.Errorf("Lookup after Close: %v, want unavailable", err)
	}
	if _, err := state.Checkpoint(); !errors.Is(err, covey.Unavailable) {
		t.Errorf("Checkpoint after Close: %v, want unavailable", err)
	}

	state, s = openAt(t, path)
	defer state.Close()
	if got := state.Applied(); got != applied {
		t.Errorf("Applied = %d, want %d", got, applied)
	}
	if diff := cmp.Diff(domains, s.Domains()); diff != "" {
		t.Errorf("Domains (-before +after):\n%s", diff)
	}
	if diff := cmp.Diff(settings, s.Settings()); diff != "" {
		t.Errorf("Settings (-before +after):\n%s", diff)
	}
	got, err := s.Resolve(ctx, address(t, "whoever@example.org"))
	if diff := cmp.Diff([]directory.Account{alice}, got); diff != "" {
		t.Errorf("Resolve through the catch-all: %v (-before +after):\n%s", err, diff)
	}
	if id, shards := s.Cluster(); id != (covey.ClusterID{7}) || shards != 3 {
		t.Errorf("Cluster = %v, %d", id, shards)
	}
	if bob := directorytest.Add(t, s, "bob@example.org", ""); bob.ID != alice.ID+1 || bob.Quota != 99 {
		t.Errorf("the next account: %+v", bob)
	}
	for _, err := range state.Check(ctx) {
		t.Error(err)
	}
}
