package directory_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/directory"
	"github.com/covey-mail/covey/directory/directorytest"
	"github.com/covey-mail/covey/directory/password"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// cheap is {SSHA} of "secret", as doveadm makes it.
const cheap = "{SSHA}6Lw8u+dmi39h9FJXXVdrOGC2x6mojMMU"

func TestDomains(t *testing.T) {
	s := directorytest.New(t)
	ctx := t.Context()
	for _, step := range []struct {
		what string
		do   func() error
		want error
		says string
	}{
		{"add", func() error { return s.AddDomain(ctx, "Example.ORG") }, nil, ""},
		{"add again", func() error { return s.AddDomain(ctx, "example.org") }, covey.Exists, "example.org is here already"},
		{"add nonsense", func() error { return s.AddDomain(ctx, "a..b") }, covey.Invalid, "bad label"},
		{"add account", func() error {
			_, err := s.AddAccount(ctx, covey.Address{Local: "alice", Domain: "example.org"}, "", 0)
			return err
		}, nil, ""},
		{"add account elsewhere", func() error {
			_, err := s.AddAccount(ctx, covey.Address{Local: "alice", Domain: "b.example"}, "", 0)
			return err
		}, covey.NotFound, "covey domain add b.example"},
		{"remove with account", func() error { return s.RemoveDomain(ctx, "example.org") }, covey.Denied, "1 accounts"},
		{"remove account", func() error {
			_, err := s.RemoveAccount(ctx, covey.Address{Local: "Alice", Domain: "example.org"})
			return err
		}, nil, ""},
		{"remove", func() error { return s.RemoveDomain(ctx, "example.org") }, nil, ""},
		{"remove again", func() error { return s.RemoveDomain(ctx, "example.org") }, covey.NotFound, "covey domain add"},
	} {
		err := step.do()
		if !errors.Is(err, step.want) || err != nil && !strings.Contains(err.Error(), step.says) {
			t.Errorf("%s: %v, want %v that says %q", step.what, err, step.want, step.says)
		}
	}
	if got := s.Domains(); len(got) != 0 {
		t.Errorf("Domains = %v, want none", got)
	}
}

// A removed account's address may be taken again, its id never; its shard has to
// drop it first.
func TestRemovedAccountIsDroppedLater(t *testing.T) {
	s := directorytest.New(t)
	first := directorytest.Add(t, s, "alice@example.org", "")
	drop, err := s.RemoveAccount(t.Context(), first.Address)
	if err != nil {
		t.Fatal(err)
	}
	if drop.Account != first.ID || drop.Shard != first.Shard || drop.Address != first.Address {
		t.Errorf("Drop %v of account %v", drop, first)
	}
	if _, err := s.Lookup(t.Context(), first.Address); !errors.Is(err, covey.NotFound) {
		t.Errorf("Lookup of the removed account: %v", err)
	}
	second := directorytest.Add(t, s, "alice@example.org", "")
	if second.ID == first.ID {
		t.Errorf("id %d was given out again", first.ID)
	}
	pending, err := s.Drops(10)
	if err != nil || len(pending) != 1 || pending[0].Account != first.ID {
		t.Fatalf("Drops = %v, %v; want that of account %d", pending, err, first.ID)
	}
	if err := s.Dropped(t.Context(), first.ID); err != nil {
		t.Fatal(err)
	}
	if pending, err := s.Drops(10); err != nil || len(pending) != 0 {
		t.Errorf("Drops after Dropped = %v, %v", pending, err)
	}
}

func TestShardsFillEvenly(t *testing.T) {
	s := directorytest.New(t)
	count := make(map[covey.ShardID]int)
	for i := range 5 * directorytest.Shards {
		count[directorytest.Add(t, s, fmt.Sprintf("u%d@example.org", i), "").Shard]++
	}
	for id := covey.ShardID(1); id <= directorytest.Shards; id++ {
		if count[id] != 5 {
			t.Errorf("shard %d has %d accounts, want 5", id, count[id])
		}
	}
}

func TestAliases(t *testing.T) {
	s := directorytest.New(t)
	ctx := t.Context()
	directorytest.Add(t, s, "alice@example.org", "")
	alias := func(name string) covey.Address {
		a, err := directory.ParseAlias(name)
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	alice := alias("alice@example.org")
	for _, step := range []struct {
		what string
		err  error
		want error
		says string
	}{
		{"add", s.AddAlias(ctx, alias("Info@example.org"), alice), nil, ""},
		{"add again", s.AddAlias(ctx, alias("info@example.org"), alice), covey.Exists, "covey alias set"},
		{"add without targets", s.AddAlias(ctx, alias("x@example.org")), covey.Invalid, "leads nowhere"},
		{"on an account", s.AddAlias(ctx, alice, alice), covey.Exists, "is an account"},
		{"to nobody", s.AddAlias(ctx, alias("x@example.org"), alias("nobody@example.org")), covey.NotFound, "covey user add nobody@example.org"},
		{"to a detail", s.AddAlias(ctx, alias("detail@example.org"), alias("alice+x@example.org")), nil, ""},
		{"to another domain", s.AddAlias(ctx, alias("x@example.org"), alias("a@elsewhere.example")), covey.Invalid, "not sent out yet"},
		{"set what is not", s.SetAlias(ctx, alias("x@example.org"), alice), covey.NotFound, "covey alias list"},
		{"set", s.SetAlias(ctx, alias("info@example.org"), alice, alias("detail@example.org")), nil, ""},
		{"catch-all", s.AddAlias(ctx, alias("@example.org"), alice), nil, ""},
		{"remove what is not", s.RemoveAlias(ctx, alias("x@example.org")), covey.NotFound, "x@example.org"},
	} {
		if !errors.Is(step.err, step.want) || step.err != nil && !strings.Contains(step.err.Error(), step.says) {
			t.Errorf("%s: %v, want %v that says %q", step.what, step.err, step.want, step.says)
		}
	}
	if _, err := s.AddAccount(ctx, alias("info@example.org"), "", 0); !errors.Is(err, covey.Exists) {
		t.Errorf("account on an alias: %v, want exists", err)
	}
	if err := s.RemoveAlias(ctx, alias("detail@example.org")); err != nil {
		t.Error(err)
	}
	list, err := s.Aliases(directory.Page{})
	if err != nil {
		t.Fatal(err)
	}
	want := []directory.Alias{
		{Address: alias("@example.org"), Targets: []covey.Address{alice}},
		{Address: alias("info@example.org"), Targets: []covey.Address{alice, alias("detail@example.org")}},
	}
	if diff := cmp.Diff(want, list); diff != "" {
		t.Errorf("Aliases (-want +got):\n%s", diff)
	}
	if next, err := s.Aliases(directory.Page{After: alias("@example.org"), Limit: 1}); err != nil || len(next) != 1 || next[0].String() != "info@example.org" {
		t.Errorf("Aliases after the catch-all = %v, %v", next, err)
	}
}

func TestAccountsByPage(t *testing.T) {
	s := directorytest.New(t)
	var want []string
	for _, domain := range []string{"a.example", "b.example", "c.example"} {
		for _, local := range []string{"al", "ann", "anna", "bob"} {
			want = append(want, local+"@"+domain)
		}
	}
	for _, i := range rand.Perm(len(want)) {
		directorytest.Add(t, s, want[i], "")
	}
	for limit := 1; limit < 6; limit++ {
		var got []string
		for p := (directory.Page{Limit: limit}); ; {
			list, err := s.Accounts(p)
			if err != nil {
				t.Fatal(err)
			}
			if len(list) == 0 {
				break
			}
			got = append(got, names(list)...)
			p.After = list[len(list)-1].Address
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("by %d (-want +got):\n%s", limit, diff)
		}
	}
	list, err := s.Accounts(directory.Page{Domain: "B.example", Prefix: "AN"})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"ann@b.example", "anna@b.example"}, names(list)); diff != "" {
		t.Errorf("an… of b.example (-want +got):\n%s", diff)
	}
	if _, err := s.Accounts(directory.Page{Domain: "d.example"}); !errors.Is(err, covey.NotFound) {
		t.Errorf("page of a foreign domain: %v", err)
	}
}

func TestQuotaAndSettings(t *testing.T) {
	s := directorytest.New(t)
	ctx := t.Context()
	if err := s.SetSettings(ctx, directory.SetSettings{Quota: new(int64(1000))}); err != nil {
		t.Fatal(err)
	}
	a := directorytest.Add(t, s, "alice@example.org", "")
	if a.Quota != 1000 {
		t.Errorf("quota %d, want that of the settings", a.Quota)
	}
	quota, off := int64(5), true
	if err := s.SetAccount(ctx, a.Address, &quota, nil); err != nil {
		t.Fatal(err)
	}
	if err := s.SetAccount(ctx, a.Address, nil, &off); err != nil {
		t.Fatal(err)
	}
	got, err := s.ByID(ctx, a.ID)
	if err != nil || got.Quota != 5 || !got.Disabled {
		t.Errorf("account %+v, %v; want quota 5 and disabled", got, err)
	}
	if err := s.SetSettings(ctx, directory.SetSettings{Postmaster: &covey.Address{Local: "no", Domain: "example.org"}}); !errors.Is(err, covey.NotFound) {
		t.Errorf("postmaster who does not exist: %v", err)
	}
	directorytest.Add(t, s, "zoe@second.example", "")
	if err := s.SetSettings(ctx, directory.SetSettings{Postmaster: &a.Address}); err != nil {
		t.Fatal(err)
	}
	for _, to := range []covey.Address{{Local: "postmaster"}, {Local: "Postmaster", Domain: "second.example"}, {Local: "postmaster+x", Domain: "example.org"}} {
		list, err := s.Resolve(ctx, to)
		if diff := cmp.Diff([]string{"alice@example.org"}, names(list)); diff != "" {
			t.Errorf("Resolve(%v): %v (-want +got):\n%s", to, err, diff)
		}
	}
	directorytest.Alias(t, s, "postmaster@second.example", "zoe@second.example")
	if list, err := s.Resolve(ctx, covey.Address{Local: "postmaster", Domain: "second.example"}); err != nil || list[0].Address.Local != "zoe" {
		t.Errorf("postmaster by alias = %v, %v", list, err)
	}
}

func TestOwns(t *testing.T) {
	s := directorytest.New(t)
	alice := directorytest.Add(t, s, "alice@example.org", "")
	directorytest.Add(t, s, "bob@example.org", "")
	directorytest.Alias(t, s, "sales@example.org", "alice@example.org", "bob@example.org")
	for from, want := range map[string]bool{
		"alice@example.org": true, "Alice+x@example.org": true, "sales@example.org": true,
		"bob@example.org": false, "nobody@example.org": false, "alice@elsewhere.example": false,
	} {
		got, err := s.Owns(t.Context(), alice.ID, address(t, from))
		if err != nil || got != want {
			t.Errorf("Owns(%s) = %v, %v; want %v", from, got, err, want)
		}
	}
	if got, err := s.Owns(t.Context(), alice.ID, covey.Address{}); err != nil || got {
		t.Errorf("Owns(<>) = %v, %v; want false", got, err)
	}
}

func TestResolveBounds(t *testing.T) {
	s := directorytest.New(t)
	directorytest.Add(t, s, "end@example.org", "")
	directorytest.Alias(t, s, "a0@example.org", "end@example.org")
	for i := range 15 {
		directorytest.Alias(t, s, fmt.Sprintf("a%d@example.org", i+1), fmt.Sprintf("a%d@example.org", i))
	}
	for i, want := range map[int]error{0: nil, 9: nil, 10: covey.NotFound, 15: covey.NotFound} {
		if _, err := s.Resolve(t.Context(), covey.Address{Local: fmt.Sprintf("a%d", i), Domain: "example.org"}); !errors.Is(err, want) {
			t.Errorf("%d aliases before the account: %v, want %v", i+1, err, want)
		}
	}
	var hundred []string
	for i := range 100 {
		directorytest.Add(t, s, fmt.Sprintf("u%d@example.org", i), "")
		hundred = append(hundred, fmt.Sprintf("u%d@example.org", i))
	}
	directorytest.Alias(t, s, "hundred@example.org", hundred...)
	directorytest.Alias(t, s, "more@example.org", "hundred@example.org", "end@example.org")
	if list, err := s.Resolve(t.Context(), address(t, "hundred@example.org")); len(list) != 100 {
		t.Errorf("alias of 100: %d accounts, %v", len(list), err)
	}
	if _, err := s.Resolve(t.Context(), address(t, "more@example.org")); !errors.Is(err, covey.Limit) {
		t.Errorf("alias of 101: %v, want limit", err)
	}
}

// A directory without a domain never says that somebody does not exist.
func TestEmptyDirectoryRefusesNobody(t *testing.T) {
	s := directorytest.New(t)
	for _, to := range []covey.Address{{Local: "a", Domain: "example.org"}, {Local: "postmaster"}} {
		if _, err := s.Resolve(t.Context(), to); !errors.Is(err, covey.Unavailable) {
			t.Errorf("Resolve(%v) = %v, want unavailable", to, err)
		}
	}
}

// Negative answers need a confirmation that is no older than five seconds;
// positive ones need none.
func TestNegativeAnswersAreConfirmed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, p := directorytest.Open(t)
		directorytest.Add(t, s, "alice@example.org", "")
		resolve := func(to string) error {
			_, err := s.Resolve(t.Context(), address(t, to))
			return err
		}
		down := covey.Errorf(covey.Unavailable, "no quorum")
		p.Fail(down)
		if err := resolve("nobody@example.org"); !errors.Is(err, covey.Unavailable) {
			t.Errorf("unknown user, never confirmed: %v, want unavailable", err)
		}
		if err := resolve("a@elsewhere.example"); !errors.Is(err, covey.Unavailable) {
			t.Errorf("foreign domain, never confirmed: %v, want unavailable", err)
		}
		if err := resolve("alice@example.org"); err != nil {
			t.Errorf("known user: %v", err)
		}
		p.Fail(nil)
		if err := resolve("nobody@example.org"); !errors.Is(err, covey.NotFound) {
			t.Errorf("unknown user, confirmed now: %v, want not found", err)
		}
		p.Fail(down)
		wait(5*time.Second - 1)
		if err := resolve("nobody@example.org"); !errors.Is(err, covey.NotFound) {
			t.Errorf("unknown user, confirmed 5 s ago: %v, want not found", err)
		}
		wait(1)
		if err := resolve("nobody@example.org"); !errors.Is(err, covey.Unavailable) {
			t.Errorf("unknown user, confirmed longer ago: %v, want unavailable", err)
		}
	})
}

// wait lets the bubble's time pass.
func wait(d time.Duration) { <-time.After(d) }

// slow is a Proposer whose ReadIndex waits until it is let go.
type slow struct {
	*directorytest.Proposer
	asked chan struct{}
	let   chan struct{}
}

func (p slow) ReadIndex(ctx context.Context, id covey.ShardID) error {
	p.asked <- struct{}{}
	select {
	case <-p.let:
		return nil
	case <-ctx.Done():
		return covey.Errorf(covey.Unavailable, "%w", ctx.Err())
	}
}

func TestConfirmationIsShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		state, err := directory.OpenState(directory.Config{Path: t.TempDir() + "/directory.db"})
		if err != nil {
			t.Fatal(err)
		}
		defer state.Close()
		p := slow{directorytest.Direct(state), make(chan struct{}, 100), make(chan struct{})}
		s, err := directory.New(directory.ServiceConfig{State: state, Proposer: p})
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		for range 50 {
			wg.Go(func() {
				if err := s.Confirm(t.Context()); err != nil {
					t.Errorf("Confirm: %v", err)
				}
			})
		}
		synctest.Wait()
		close(p.let)
		wg.Wait()
		if n := len(p.asked); n != 1 {
			t.Errorf("50 callers asked %d times", n)
		}
		<-p.asked
		p.let = make(chan struct{})
		wait(time.Minute)
	})
}

// Without an answer a caller waits two seconds and no longer.
func TestConfirmGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		state, err := directory.OpenState(directory.Config{Path: t.TempDir() + "/directory.db"})
		if err != nil {
			t.Fatal(err)
		}
		defer state.Close()
		p := slow{directorytest.Direct(state), make(chan struct{}, 100), make(chan struct{})}
		s, err := directory.New(directory.ServiceConfig{State: state, Proposer: p})
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() {
				start := time.Now()
				if err := s.Confirm(t.Context()); !errors.Is(err, covey.Unavailable) || time.Since(start) != 2*time.Second {
					t.Errorf("Confirm = %v after %v; want unavailable after 2 s", err, time.Since(start))
				}
			})
		}
		wg.Wait()
	})
}

// Look-ups see every change at once, whatever was in the cache, beside a writer
// and more addresses than the cache holds.
func TestLookupsBesideChanges(t *testing.T) {
	state, err := directory.OpenState(directory.Config{Path: t.TempDir() + "/directory.db", CacheRows: 16})
	if err != nil {
		t.Fatal(err)
	}
	defer state.Close()
	s, err := directory.New(directory.ServiceConfig{State: state, Proposer: directorytest.Direct(state)})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Found(t.Context(), directory.Found{Cluster: covey.ClusterID{}, Shards: 1}); err != nil {
		t.Fatal(err)
	}
	for i := range 50 {
		directorytest.Add(t, s, fmt.Sprintf("u%d@example.org", i), "")
	}
	stop := make(chan struct{})
	var readers sync.WaitGroup
	for range 4 {
		readers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				addr := covey.Address{Local: fmt.Sprintf("u%d", rand.IntN(50)), Domain: "example.org"}
				if a, err := s.Lookup(t.Context(), addr); err != nil || a.Address != addr {
					t.Errorf("Lookup(%v) = %v, %v", addr, a, err)
				}
			}
		})
	}
	for i := range 500 {
		addr, quota := covey.Address{Local: fmt.Sprintf("u%d", i%50), Domain: "example.org"}, int64(i)
		if err := s.SetAccount(t.Context(), addr, &quota, nil); err != nil {
			t.Fatal(err)
		}
		if a, err := s.Lookup(t.Context(), addr); err != nil || a.Quota != quota {
			t.Fatalf("after the change to %d: %v, %v", quota, a, err)
		}
	}
	close(stop)
	readers.Wait()
}

func TestPasswords(t *testing.T) {
	s := directorytest.New(t)
	ctx := t.Context()
	a := directorytest.Add(t, s, "alice@example.org", cheap)
	if s.ScramReady() {
		t.Error("SCRAM is ready though an account has no verifier")
	}
	before, err := s.Credentials(ctx, a.Address)
	if err != nil || before.Hash != cheap {
		t.Fatalf("Credentials = %v, %v", before, err)
	}
	if err := s.SetPassword(ctx, a.Address, "correct horse"); err != nil {
		t.Fatal(err)
	}
	after, err := s.Credentials(ctx, a.Address)
	if err != nil {
		t.Fatal(err)
	}
	if ok, err := s.Hasher().Verify(ctx, after.Hash, "correct horse"); !ok || err != nil {
		t.Errorf("new password does not verify: %v, %v", ok, err)
	}
	if _, err := password.ParseScram(after.Verifier); err != nil || !s.ScramReady() {
		t.Errorf("verifier %q: %v; ready %v", after.Verifier, err, s.ScramReady())
	}
	if err := s.SetVerifier(ctx, before, after.Verifier); !errors.Is(err, covey.Conflict) {
		t.Errorf("SetVerifier for the old hash: %v, want conflict", err)
	}
	for secret, want := range map[string]error{"{MD5}x": covey.Invalid, "a\x00b": covey.Invalid, strings.Repeat("x", 2000): covey.Invalid} {
		if err := s.SetPassword(ctx, a.Address, secret); !errors.Is(err, want) {
			t.Errorf("SetPassword(%.20q) = %v, want %v", secret, err, want)
		}
	}
	if err := s.SetPassword(ctx, covey.Address{Local: "no", Domain: "example.org"}, "x"); !errors.Is(err, covey.NotFound) {
		t.Errorf("SetPassword of nobody: %v", err)
	}
}

// Removed tells an account that is gone from one that this copy has not heard of.
func TestRemoved(t *testing.T) {
	s, ctx := directorytest.New(t), t.Context()
	a := directorytest.Add(t, s, "alice@example.org", "")
	b := directorytest.Add(t, s, "bob@example.org", "")
	if _, err := s.RemoveAccount(ctx, a.Address); err != nil {
		t.Fatal(err)
	}
	if err := s.Dropped(ctx, a.ID); err != nil {
		t.Fatal(err)
	}
	for id, want := range map[covey.AccountID]bool{a.ID: true, b.ID: false, b.ID + 1: false, 0: false} {
		if got, err := s.Removed(id); got != want || err != nil {
			t.Errorf("account %d: %v, error %v; want %v", id, got, err, want)
		}
	}
}

// InShard pages through the accounts of one shard, whatever their domains.
func TestInShard(t *testing.T) {
	s := directorytest.New(t)
	want := make(map[covey.ShardID][]directory.Account)
	for i := range 3 * directorytest.Shards {
		a := directorytest.Add(t, s, fmt.Sprintf("u%d@d%d.example", i, i%2), "")
		want[a.Shard] = append(want[a.Shard], a)
	}
	for shard := range covey.ShardID(directorytest.Shards) + 1 {
		var got []directory.Account
		for after := covey.AccountID(0); ; after = got[len(got)-1].ID {
			page, err := s.InShard(shard, after, 2)
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, page...)
			if len(page) < 2 {
				break
			}
		}
		if d := cmp.Diff(want[shard], got); d != "" {
			t.Errorf("shard %d (-want +got):\n%s", shard, d)
		}
	}
}

// An account found by its id is as it is now, also where memory has what was there
// before.
func TestByIDIsCurrent(t *testing.T) {
	s := directorytest.New(t)
	a := directorytest.Add(t, s, "a@example.org", "")
	directorytest.Add(t, s, "b@example.org", "")
	look := func() (directory.Account, error) {
		t.Helper()
		if _, err := s.Lookup(t.Context(), a.Address); err != nil && !errors.Is(err, covey.NotFound) {
			t.Fatal(err)
		}
		return s.ByID(t.Context(), a.ID)
	}
	if got, err := look(); err != nil || got.Quota != 0 {
		t.Fatalf("got %+v, %v", got, err)
	}
	quota := int64(5)
	if err := s.SetAccount(t.Context(), a.Address, &quota, nil); err != nil {
		t.Fatal(err)
	}
	for range 2 { // from the database, then from memory
		if got, err := look(); err != nil || got.Quota != quota {
			t.Errorf("after a change: got %+v, %v", got, err)
		}
	}
	if _, err := s.RemoveAccount(t.Context(), a.Address); err != nil {
		t.Fatal(err)
	}
	if got, err := look(); !errors.Is(err, covey.NotFound) {
		t.Errorf("after its end: got %+v, %v", got, err)
	}
	again := directorytest.Add(t, s, "a@example.org", "")
	if got, err := look(); !errors.Is(err, covey.NotFound) {
		t.Errorf("with the address of another: got %+v, %v", got, err)
	}
	if got, err := s.ByID(t.Context(), again.ID); err != nil || got.ID != again.ID {
		t.Errorf("the other: got %+v, %v", got, err)
	}
}
