package directory

import (
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/covey-mail/covey"
)

func ptr[T any](v T) *T { return &v }

// samples are one command of every type and option. Their encodings stand in
// testdata/commands.golden, and are in logs out there: change neither.
func samples() []Command {
	alice := covey.Address{Local: "alice", Domain: "example.org"}
	bob := covey.Address{Local: "bób", Domain: "bücher.example"}
	at := time.Unix(1_700_000_000, 0).UTC()
	return []Command{
		Found{Cluster: covey.ClusterID{0xc0, 0xfe, 15: 0xee}, Shards: 16},
		AddDomain{Name: "example.org", Time: at},
		RemoveDomain{Name: "example.org"},
		AddAccounts{Time: at, Accounts: []NewAccount{
			{Address: alice, Hash: "{SSHA}abc", Verifier: "{SCRAM-SHA-256}4096,a,b,c", Quota: 1 << 30},
			{Address: bob, Quota: DefaultQuota},
		}},
		AddAccounts{Time: at, Update: true, Accounts: []NewAccount{}},
		RemoveAccount{Address: alice, Time: at},
		Dropped{Account: 300},
		SetAccount{Address: alice, Quota: ptr[int64](5), Disabled: ptr(true)},
		SetAccount{Address: bob},
		SetPassword{Account: 7, Hash: "{SSHA}new", Verifier: "{SCRAM-SHA-256}x", Was: "{SSHA}old"},
		SetAlias{Address: alice, Targets: []covey.Address{bob, alice}, Mode: ReplaceAlias},
		SetAlias{Address: covey.Address{Domain: "example.org"}, Targets: []covey.Address{}},
		RemoveAlias{Address: alice},
		SetSettings{Quota: ptr[int64](1000), Postmaster: &alice},
		SetSettings{},
	}
}

func TestCommandsKeepTheirEncoding(t *testing.T) {
	golden := filepath.Join("testdata", "commands.golden")
	raw, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(raw)), "\n")
	var got []string
	for _, c := range samples() {
		got = append(got, fmt.Sprintf("%T %x", c, Encode(c)))
	}
	if diff := cmp.Diff(lines, got); diff != "" {
		t.Errorf("%s (-golden +got):\n%s", golden, diff)
	}
	for i, line := range lines {
		_, digits, _ := strings.Cut(line, " ")
		b, err := hex.DecodeString(digits)
		if err != nil {
			t.Fatal(err)
		}
		c, err := Decode(b)
		if err != nil {
			t.Fatalf("line %d: %v", i+1, err)
		}
		if diff := cmp.Diff(samples()[i], c); diff != "" {
			t.Errorf("line %d (-want +got):\n%s", i+1, diff)
		}
	}
}

func TestDecodeRefuses(t *testing.T) {
	long := strings.Repeat("x", 600)
	many := AddAccounts{Accounts: make([]NewAccount, MaxBatch+1)}
	wide := SetAlias{Targets: make([]covey.Address, MaxTargets+1)}
	for _, tt := range []struct {
		name string
		in   []byte
	}{
		{"nothing", nil},
		{"another version", []byte{2, 1}},
		{"unknown type", []byte{version, 200}},
		{"no fields", []byte{version, typeAddDomain}},
		{"octets left over", append(Encode(Dropped{Account: 1}), 0)},
		{"no shards", Encode(Found{})},
		{"too many shards", Encode(Found{Shards: MaxShards + 1})},
		{"too many accounts", Encode(many)},
		{"too many targets", Encode(wide)},
		{"alias mode", Encode(SetAlias{Mode: 2})},
		{"long domain", Encode(AddDomain{Name: long})},
		{"long local part", Encode(RemoveAlias{Address: covey.Address{Local: long}})},
		{"long hash", Encode(SetPassword{Hash: long})},
		{"negative quota", Encode(SetSettings{Quota: ptr[int64](-2)})},
	} {
		if c, err := Decode(tt.in); !errors.Is(err, covey.Corrupt) {
			t.Errorf("%s: Decode = %v, %v; want corrupt", tt.name, c, err)
		}
	}
}

func FuzzDecode(f *testing.F) {
	for _, c := range samples() {
		f.Add(Encode(c))
	}
	f.Add([]byte{version, typeAddAccounts, 0xff, 0xff, 0xff, 0x7f})
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := Decode(b)
		if err != nil {
			return
		}
		again, err := Decode(Encode(c))
		if err != nil {
			t.Fatalf("Decode of the encoding of %v: %v", c, err)
		}
		if diff := cmp.Diff(c, again); diff != "" {
			t.Errorf("changed on the way (-before +after):\n%s", diff)
		}
	})
}
