package directory

import (
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/storage/seglog"
)

// A book answers as a map does, whatever was put in and taken out.
func TestBook(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b, want := newBook(), map[string]entry{}
		domain := rapid.Int64Range(1, 3)
		local := rapid.StringMatching(`[ab]{0,3}|long{100}[a-e]`)
		t.Repeat(map[string]func(*rapid.T){
			"set": func(t *rapid.T) {
				d, l := domain.Draw(t, "domain"), local.Draw(t, "local")
				e := entry{kind: entryKind(rapid.IntRange(0, 2).Draw(t, "kind"))}
				if e.kind == anAccount {
					e.account = Account{
						ID:       covey.AccountID(rapid.Uint64().Draw(t, "id")),
						Shard:    covey.ShardID(rapid.Uint32().Draw(t, "shard")),
						Quota:    rapid.Int64().Draw(t, "quota"),
						Created:  unixTime(rapid.Int64Range(0, 1<<40).Draw(t, "created")),
						Disabled: rapid.Bool().Draw(t, "disabled"),
					}
				}
				b.set(d, l, e)
				want[fmt.Sprint(d, l)] = e
			},
			"drop": func(t *rapid.T) {
				d, l := domain.Draw(t, "domain"), local.Draw(t, "local")
				b.drop(d, l)
				delete(want, fmt.Sprint(d, l))
			},
			"": func(t *rapid.T) {
				d, l := domain.Draw(t, "domain"), local.Draw(t, "local")
				got, ok := b.get(d, l)
				if e, there := want[fmt.Sprint(d, l)]; ok != there || got != e {
					t.Fatalf("%d %q is %+v, %v; want %+v, %v", d, l, got, ok, e, there)
				}
				if b.n != len(want) {
					t.Fatalf("%d entries, want %d", b.n, len(want))
				}
			},
		})
	})
}

// Many entries, most of them gone again: what they took comes to be used again.
func TestBookOfMany(t *testing.T) {
	const n = 30_000
	b := newBook()
	name := func(i int) string { return fmt.Sprintf("user%d", i) }
	for round := range 5 {
		for i := range n {
			b.set(1, name(i), entry{anAccount, Account{ID: covey.AccountID(n*round + i), Shard: 3, Created: unixTime(1_700_000_000)}})
		}
		for i := range n {
			if i%10 != round {
				b.drop(1, name(i))
			}
		}
		for i := range n {
			e, ok := b.get(1, name(i))
			if want := i%10 == round; ok != want || ok && e.account.ID != covey.AccountID(n*round+i) {
				t.Fatalf("round %d: %d is %+v, %v", round, i, e, ok)
			}
		}
		for i := range n {
			b.drop(1, name(i))
		}
	}
	for i := range n {
		b.set(1, name(i), entry{anAccount, Account{ID: covey.AccountID(i), Shard: 3, Created: unixTime(1_700_000_000)}})
	}
	took := 0
	for i := range b.parts {
		took += b.parts[i].size()
	}
	if took != b.bytes || took/n > 60 || b.n != n {
		t.Errorf("%d entries take %d octets each, %d in all; counted were %d and %d", n, took/n, took, b.n, b.bytes)
	}
}

// Beyond the limit some addresses are known, the latest among them.
func TestAddressesBeyondTheLimit(t *testing.T) {
	const limit = 64 << 10
	a := newAddresses(limit)
	name := func(i int) string { return fmt.Sprintf("user%d", i) }
	for i := range 10_000 {
		a.put(1, name(i), entry{anAccount, Account{ID: covey.AccountID(i + 1)}})
		if e, ok := a.get(1, name(i)); !ok || e.account.ID != covey.AccountID(i+1) {
			if i < 10 || a.young.n > 0 {
				t.Fatalf("%d is %+v, %v just after it was put there", i, e, ok)
			}
		}
		if b := a.young.bytes + a.old.bytes; b > limit+1000 {
			t.Fatalf("%d octets after %d, limit %d", b, i, limit)
		}
	}
	if a.whole {
		t.Error("all are said to be there")
	}
	if _, ok := a.get(1, name(5)); ok {
		t.Error("an address of long ago is still there")
	}
	if e, ok := a.get(1, "nobody"); ok {
		t.Errorf("an address that nobody asked for is known as %+v", e)
	}
	a.put(1, name(9_999), entry{})
	if e, ok := a.get(1, name(9_999)); !ok || e.kind != nothing {
		t.Errorf("one that was removed is %+v, %v", e, ok)
	}
}

// A changing is a directory that random commands change, and that is opened again,
// carried away and recovered in between.
type changing struct {
	t     *testing.T
	cfg   Config
	s     *State
	index uint64
	since []seglog.Command // since the last checkpoint
}

func (c *changing) open() {
	var err error
	if c.s, err = OpenState(c.cfg); err != nil {
		c.t.Fatal(err)
	}
}

func (c *changing) apply(cmd Command) {
	c.index++
	one := seglog.Command{Index: c.index, Data: Encode(cmd)}
	c.since = append(c.since, one)
	c.s.Apply([]seglog.Command{one})
}

// restart opens the directory again.
func (c *changing) restart() {
	if err := c.s.Close(); err != nil {
		c.t.Fatal(err)
	}
	c.since = nil
	c.open()
}

// recover goes back to the last commit and applies what came after it.
func (c *changing) recover() {
	err := c.s.Recover(func(after uint64, apply func([]seglog.Command) []any) error {
		for _, one := range c.since {
			if one.Index > after {
				apply([]seglog.Command{one})
			}
		}
		return nil
	})
	if err != nil {
		c.t.Fatal(err)
	}
}

// carry goes on with a copy, in place of one that has some addresses in memory.
func (c *changing) carry() {
	old := c.s
	defer old.Close()
	c.cfg.Path += "+"
	c.open()
	c.s.Apply([]seglog.Command{
		{Index: 1, Data: Encode(Found{Cluster: covey.ClusterID{2}, Shards: 1})}, {Index: 2, Data: Encode(AddDomain{Name: "a.example"})},
		{Index: 3, Data: Encode(AddAccounts{Accounts: []NewAccount{{Address: covey.Address{Local: "u1", Domain: "a.example"}}}})},
	})
	c.same()
	r, _, err := stage(c.t, c.s, chunks(c.t, old))
	if err == nil {
		err = c.s.Install(r, nil)
	}
	if err != nil {
		c.t.Fatal(err)
	}
	c.since = nil
}

// universe are the addresses that commands and look-ups name.
func universe() (list []covey.Address) {
	for _, domain := range []string{"a.example", "b.example"} {
		list = append(list, covey.Address{Domain: domain})
		for i := range 6 {
			list = append(list, covey.Address{Local: fmt.Sprintf("u%d", i), Domain: domain})
		}
	}
	return list
}

// same compares what look-ups say with what the database has.
func (c *changing) same() {
	c.t.Helper()
	for _, addr := range universe() {
		c.s.mu.Lock()
		want, err := c.s.read(addr)
		c.s.mu.Unlock()
		if err != nil {
			c.t.Fatal(err)
		}
		e, targets, err1 := c.s.lookup(addr)
		credentials, err2 := c.s.credentials(addr)
		if err1 != nil || err2 != nil {
			c.t.Fatal(err1, err2)
		}
		if e != want.entry() {
			c.t.Fatalf("after %d: %s is %+v, want %+v", c.index, addr, e, want.entry())
		}
		if d := cmp.Diff(want, row{credentials, targets}, cmp.AllowUnexported(row{})); d != "" {
			c.t.Fatalf("after %d: %s (-want +got):\n%s", c.index, addr, d)
		}
		if want.account == nil {
			continue
		}
		if a, err := c.s.byID(want.account.ID); err != nil || *a != want.account.Account {
			c.t.Fatalf("after %d: account %d is %+v, %v, want %+v", c.index, want.account.ID, a, err, want.account.Account)
		}
	}
	if c.index%20 == 0 {
		for _, err := range c.s.Check(c.t.Context()) {
			c.t.Error(err)
		}
	}
}

// What look-ups say is what the database has, whatever was changed before, and
// whether or not all addresses find room in memory.
func TestAddressesAgreeWithTheDatabase(t *testing.T) {
	for limit, rows := range map[int]int{1: 4, 200: 100, 0: 100} {
		t.Run(fmt.Sprint(limit), func(t *testing.T) {
			seed := rand.Uint64()
			t.Logf("seed %d", seed)
			r := rand.New(rand.NewPCG(seed, 0))
			c := &changing{t: t, cfg: Config{Path: filepath.Join(t.TempDir(), "d"), CacheRows: rows, AddressBytes: limit}}
			c.open()
			defer func() { c.s.Close() }()
			c.apply(Found{Cluster: covey.ClusterID{1}, Shards: 3})
			for n := range 200 {
				c.apply(someCommand(r, c.s.meta.nextAccount))
				switch {
				case n%97 == 96:
					c.restart()
				case n%89 == 88:
					c.recover()
				case n%151 == 150:
					c.carry()
				}
				c.same()
			}
			if whole := c.s.addresses.whole; whole != (limit == 0) || c.s.meta.accounts == 0 {
				t.Errorf("%d accounts, all in memory %v", c.s.meta.accounts, whole)
			}
		})
	}
}

func someCommand(r *rand.Rand, next covey.AccountID) Command {
	all := universe()
	addr := func() covey.Address { return all[r.IntN(len(all))] }
	person := func() covey.Address {
		return covey.Address{Local: fmt.Sprintf("u%d", r.IntN(6)), Domain: addr().Domain}
	}
	hashes := []string{"", "{SSHA}TUAWaBXvNE7O36NutGSJo/XIE0HMC7+c", "{SSHA.B64}UZoVFjlUuqMXb9iB5g3PCRwAwmPuK4Ii"}
	at := time.Unix(1_700_000_000+r.Int64N(1000), 0)
	switch r.IntN(12) {
	case 0, 1:
		return AddDomain{Name: addr().Domain, Time: at}
	case 2:
		return RemoveDomain{Name: addr().Domain}
	case 3, 4:
		return AddAccounts{Time: at, Update: r.IntN(2) == 0, Accounts: []NewAccount{
			{Address: person(), Quota: r.Int64N(3)}, {Address: person(), Hash: hashes[r.IntN(len(hashes))], Quota: DefaultQuota}}}
	case 5, 6:
		return RemoveAccount{Address: person(), Time: at}
	case 7:
		return SetAccount{Address: person(), Quota: ptr(r.Int64N(5)), Disabled: ptr(r.IntN(2) == 0)}
	case 8:
		return SetPassword{Account: next - min(next, covey.AccountID(r.Uint64N(6))), Hash: hashes[r.IntN(len(hashes))], Verifier: "v"}
	case 9, 10:
		return SetAlias{Address: addr(), Targets: []covey.Address{person(), person()}[:1+r.IntN(2)]}
	}
	return RemoveAlias{Address: addr()}
}
