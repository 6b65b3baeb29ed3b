package directory

import (
	"crypto/ed25519"
	"encoding/binary"
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
	first := AddNode{
		ID: 0x4dee7bf4187f97cf, Key: ed25519.PublicKey("an Ed25519 key is of this length"),
		NodeInfo: NodeInfo{Peer: "mail1.example.org:7947", Gossip: "192.0.2.1:7946", Zone: "rack-1", Version: "1.2.3", Level: 1}, Time: at,
	}
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
		Found{Cluster: covey.ClusterID{0xc0, 0xfe, 15: 0xee}, Shards: 16, First: &first},
		SetSettings{Quota: ptr[int64](0), Replicas: ptr(5), RebuildAfter: ptr(90 * time.Second)},
		SetSettings{Replicas: ptr(1)},
		first,
		AddNode{ID: 2, Key: make([]byte, ed25519.PublicKeySize), NodeInfo: NodeInfo{Level: 1}, Time: at},
		UpdateNode{ID: first.ID, NodeInfo: NodeInfo{Peer: "[2001:db8::1]:1", Gossip: "b:2", Zone: "z", Version: "v", Level: 300}, Time: at},
		SetNodeState{ID: first.ID, State: Draining, Expected: Active, Time: at},
		SetNodeState{ID: first.ID, State: Active, Expected: Draining, Time: at},
		RemoveNode{ID: first.ID, ReplacedBy: 2, Time: at},
		RemoveNode{ID: first.ID, Time: at},
		SetShardMap{Expected: 300, Changes: map[covey.ShardID][]covey.NodeID{300: {2}, 0: {first.ID, 3, 2}, 1: {3, 2, first.ID}}},
		SetShardMap{Changes: map[covey.ShardID][]covey.NodeID{}},
		SetLevel{Level: 2},
		StampNode{ID: first.ID, Stamp: covey.DiskStamp{Count: 300, Mark: 1<<63 + 5}},
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
	key := make([]byte, ed25519.PublicKeySize)
	shardMap := func(id covey.ShardID, voters []covey.NodeID) SetShardMap {
		return SetShardMap{Changes: map[covey.ShardID][]covey.NodeID{id: voters}}
	}
	for _, tt := range []struct {
		name string
		in   []byte
	}{
		{"nothing", nil},
		{"another version", []byte{4, 1}},
		{"unknown type", []byte{version1, 200}},
		{"no fields", []byte{version1, typeAddDomain}},
		{"octets left over", append(Encode(Dropped{Account: 1}), 0)},
		{"no shards", Encode(Found{})},
		{"too many shards", Encode(Found{Shards: MaxShards + 1})},
		{"too many accounts", Encode(many)},
		{"too many targets", Encode(wide)},
		{"alias mode", Encode(SetAlias{Mode: 2})},
		{"long domain", Encode(AddDomain{Name: long})},
		{"long local part", Encode(RemoveAlias{Address: covey.Address{Local: long}})},
		{"long hash", Encode(SetPassword{Hash: long})},
		{"a new type in an old version", append([]byte{version1}, Encode(SetLevel{})[1:]...)},
		{"an old type in a new version", append([]byte{version2}, Encode(Dropped{Account: 1})[1:]...)},
		{"a new type in version 2", append([]byte{version2}, Encode(StampNode{ID: 1})[1:]...)},
		{"an old type in version 3", append([]byte{version3}, Encode(SetLevel{})[1:]...)},
		{"stamp of node 0", Encode(StampNode{})},
		{"node 0", Encode(AddNode{Key: key})},
		{"short key", Encode(AddNode{ID: 1, Key: key[1:]})},
		{"long key", Encode(AddNode{ID: 1, Key: append(key, 0)})},
		{"long address", Encode(AddNode{ID: 1, Key: key, NodeInfo: NodeInfo{Peer: long}})},
		{"long zone", Encode(AddNode{ID: 1, Key: key, NodeInfo: NodeInfo{Zone: long[:maxNodeText+1]}})},
		{"long program version", Encode(UpdateNode{ID: 1, NodeInfo: NodeInfo{Version: long[:maxNodeText+1]}})},
		{"removal as a state", Encode(SetNodeState{ID: 1, State: Removed})},
		{"removal expected", Encode(SetNodeState{ID: 1, Expected: Removed})},
		{"level", binary.AppendUvarint([]byte{version2, typeSetLevel}, 1<<32)},
		{"too many voters", Encode(shardMap(1, make([]covey.NodeID, MaxVoters+1)))},
		{"voter 0", Encode(shardMap(1, []covey.NodeID{1, 0}))},
		{"shard too high", Encode(shardMap(MaxShards+1, []covey.NodeID{1}))},
		{"shard twice", []byte{version2, typeSetShardMap, 0, 2, 5, 0, 5, 0}},
		{"shards out of order", []byte{version2, typeSetShardMap, 0, 2, 5, 0, 4, 0}},
		{"too many shards", binary.AppendUvarint([]byte{version2, typeSetShardMap, 0}, MaxShards+2)},
		{"two replicas", Encode(SetSettings{Replicas: ptr(2)})},
		{"rebuild at once", Encode(SetSettings{RebuildAfter: ptr(time.Duration(0))})},
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
	f.Add([]byte{version1, typeAddAccounts, 0xff, 0xff, 0xff, 0x7f})
	f.Add([]byte{version2, typeSetShardMap, 0, 0xff, 0xff, 0xff, 0x7f})
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
