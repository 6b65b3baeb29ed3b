package directory_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/directory"
	"github.com/covey-mail/covey/directory/directorytest"
)

// keyOf is the key of a node of these tests.
func keyOf(id covey.NodeID) ed25519.PublicKey {
	return bytes.Repeat([]byte{byte(id)}, ed25519.PublicKeySize)
}

func infoOf(id covey.NodeID) directory.NodeInfo {
	return directory.NodeInfo{
		Peer: fmt.Sprintf("192.0.2.%d:7947", id), Gossip: fmt.Sprintf("[2001:db8::%d]:7946", id), Zone: "rack-1", Version: "1.0", Level: directory.Level,
	}
}

// join adds nodes to a cluster.
func join(t *testing.T, s *directory.Service, ids ...covey.NodeID) {
	t.Helper()
	for _, id := range ids {
		if err := s.AddNode(t.Context(), id, keyOf(id), infoOf(id)); err != nil {
			t.Fatal(err)
		}
	}
}

// A step is one change and how it must end.
type step struct {
	what string
	err  error
	want error // a covey.Kind, or nil
	says string
}

func checkSteps(t *testing.T, steps []step) {
	t.Helper()
	for _, s := range steps {
		if !errors.Is(s.err, s.want) || s.err != nil && !strings.Contains(s.err.Error(), s.says) {
			t.Errorf("%s: %v, want %v that says %q", s.what, s.err, s.want, s.says)
		}
	}
}

func ids(nodes []directory.Node) (list []covey.NodeID) {
	for _, n := range nodes {
		list = append(list, n.ID)
	}
	return list
}

func TestNodesJoin(t *testing.T) {
	s := directorytest.New(t)
	ctx := t.Context()
	moved := infoOf(3)
	moved.Peer, moved.Version = "mail3.example.org:7947", "1.1"
	checkSteps(t, []step{
		{"join", s.AddNode(ctx, 3, keyOf(3), infoOf(3)), nil, ""},
		{"join before the others in order", s.AddNode(ctx, 2, keyOf(2), directory.NodeInfo{Level: directory.Level}), nil, ""},
		{"join again from elsewhere", s.AddNode(ctx, 3, keyOf(3), moved), nil, ""},
		{"another key", s.AddNode(ctx, 3, keyOf(4), infoOf(3)), covey.Denied, "with another key"},
		{"no id", s.AddNode(ctx, 0, keyOf(4), infoOf(4)), covey.Invalid, "node id 0"},
		{"no key", s.AddNode(ctx, 4, nil, infoOf(4)), covey.Invalid, "key of 0 octets"},
		{"no level", s.AddNode(ctx, 4, keyOf(4), directory.NodeInfo{}), covey.Invalid, "level"},
		{"update of a stranger", s.UpdateNode(ctx, 4, infoOf(4)), covey.NotFound, "there is no node 0000000000000004"},
		{"update without an id", s.UpdateNode(ctx, 0, infoOf(4)), covey.Invalid, "node id 0"},
		{"update with nonsense", s.UpdateNode(ctx, 3, directory.NodeInfo{Zone: "rack 1", Level: directory.Level}), covey.Invalid, "zone"},
	})
	if diff := cmp.Diff([]covey.NodeID{1, 2, 3}, ids(s.Nodes())); diff != "" {
		t.Errorf("Nodes (-want +got):\n%s", diff)
	}
	n, ok := s.Node(3)
	if !ok || n.NodeInfo != moved || n.State != directory.Active || !n.Key.Equal(keyOf(3)) {
		t.Errorf("Node(3) = %+v, %v", n, ok)
	}
	if err := s.UpdateNode(ctx, 3, infoOf(3)); err != nil {
		t.Fatal(err)
	}
	if n, _ := s.Node(3); n.NodeInfo != infoOf(3) {
		t.Errorf("Node(3) after UpdateNode = %+v", n)
	}
	if _, ok := s.Node(4); ok {
		t.Error("there is a node 4")
	}
	if key, ok := s.Pin(4); ok {
		t.Errorf("Pin of a stranger = %x", key)
	}
	if key, ok := s.Pin(2); !ok || !key.Equal(keyOf(2)) {
		t.Errorf("Pin(2) = %x, %v", key, ok)
	}
}

// C-04: what a disk has to have said last for its node to be believed.
func TestC04_StampsOfDisks(t *testing.T) {
	s := directorytest.New(t)
	ctx := t.Context()
	stamp := func(count, mark uint64) covey.DiskStamp { return covey.DiskStamp{Count: count, Mark: mark} }
	moved := infoOf(2)
	moved.Zone = "elsewhere"
	checkSteps(t, []step{
		{"join", s.AddNode(ctx, 2, keyOf(2), infoOf(2)), nil, ""},
		{"a disk without a stamp", s.CheckDisk(2, stamp(0, 0)), nil, ""},
		{"the first", s.StampNode(ctx, 2, stamp(1, 1<<63)), nil, ""},
		{"the first again", s.StampNode(ctx, 2, stamp(1, 1<<63)), nil, ""},
		{"a twin's first", s.StampNode(ctx, 2, stamp(1, 5)), covey.Denied, "older than"},
		{"some later", s.StampNode(ctx, 2, stamp(7, 9)), nil, ""},
		{"an older one", s.StampNode(ctx, 2, stamp(1, 1<<63)), covey.Denied, "covey node remove 0000000000000002"},
		{"of a stranger", s.StampNode(ctx, 5, stamp(1, 1)), covey.NotFound, "no node"},
		{"of no node", s.StampNode(ctx, 0, stamp(1, 1)), covey.Invalid, "node id 0"},
		{"update", s.UpdateNode(ctx, 2, moved), nil, ""},
		{"join again", s.AddNode(ctx, 2, keyOf(2), infoOf(2)), nil, ""},
		{"the disk as it was", s.CheckDisk(2, stamp(7, 9)), nil, ""},
		{"a disk ahead of this copy", s.CheckDisk(2, stamp(8, 1)), nil, ""},
		{"a disk put back", s.CheckDisk(2, stamp(6, 3)), covey.Denied, "older than"},
		{"a twin's disk", s.CheckDisk(2, stamp(7, 8)), covey.Denied, "older than"},
		{"a disk that lost its stamp", s.CheckDisk(2, stamp(0, 0)), covey.Denied, "older than"},
		{"a stranger's disk", s.CheckDisk(5, stamp(1, 1)), nil, ""},
	})
	if n, _ := s.Node(2); n.Stamp != stamp(7, 9) {
		t.Errorf("the stamp on record is %+v", n.Stamp)
	}
}

func TestNodeInfoIsChecked(t *testing.T) {
	s := directorytest.New(t)
	for _, tt := range []struct {
		info directory.NodeInfo
		says string
	}{
		{directory.NodeInfo{Peer: "192.0.2.1"}, "want host:port"},
		{directory.NodeInfo{Peer: ":7947"}, "want host:port"},
		{directory.NodeInfo{Peer: "192.0.2.1:0"}, "want host:port"},
		{directory.NodeInfo{Peer: "192.0.2.1:70000"}, "want host:port"},
		{directory.NodeInfo{Gossip: "a host:1"}, "bad character"},
		{directory.NodeInfo{Gossip: strings.Repeat("a.", 150) + "a:1"}, "gossip address"},
		{directory.NodeInfo{Zone: strings.Repeat("z", 65)}, "longer than 64"},
		{directory.NodeInfo{Zone: "zürich"}, "want letters"},
		{directory.NodeInfo{Version: strings.Repeat("1", 65)}, "longer than 64"},
		{directory.NodeInfo{Version: "1\n"}, "printable"},
	} {
		tt.info.Level = directory.Level
		err := s.AddNode(t.Context(), 2, keyOf(2), tt.info)
		if !errors.Is(err, covey.Invalid) || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%+v: %v, want invalid that says %q", tt.info, err, tt.says)
		}
	}
	good := directory.NodeInfo{Peer: "covey-0.covey:7947", Gossip: "[::1]:65535", Zone: "eu-1.b_2", Version: "v1 (x)", Level: directory.Level}
	if err := s.AddNode(t.Context(), 2, keyOf(2), good); err != nil {
		t.Error(err)
	}
}

func TestRemovedNodeNeverComesBack(t *testing.T) {
	s := directorytest.New(t)
	ctx := t.Context()
	remove := func(id, by covey.NodeID) error { return s.RemoveNode(ctx, id, by) }
	state := func(id covey.NodeID, to, from directory.NodeState) error { return s.SetNodeState(ctx, id, to, from) }
	checkSteps(t, []step{{"the only node", remove(1, 0), covey.Denied, "5 shards"}})
	join(t, s, 2, 3, 4)
	checkSteps(t, []step{
		{"drain", state(2, directory.Draining, directory.Active), nil, ""},
		{"drain again", state(2, directory.Draining, directory.Active), nil, ""},
		{"back", state(2, directory.Active, directory.Draining), nil, ""},
		{"drain what is thought to drain", state(3, directory.Active, directory.Draining), nil, ""},
		{"drain a stranger", state(9, directory.Draining, directory.Active), covey.NotFound, "covey status"},
		{"remove by state", state(2, directory.Removed, directory.Active), covey.Invalid, "active or draining"},
		{"remove with shards", remove(1, 2), covey.Denied, "covey node drain 0000000000000001"},
		{"remove a stranger", remove(9, 0), covey.NotFound, "covey status"},
		{"replace by a stranger", remove(2, 9), covey.NotFound, "0000000000000009"},
		{"replace by itself", remove(2, 2), covey.Invalid, "itself"},
		{"remove", remove(4, 0), nil, ""},
		{"replace by a removed one", remove(2, 4), covey.Denied, "was removed"},
		{"replace", remove(2, 3), nil, ""},
		{"replace again", remove(2, 3), nil, ""},
		{"replace by another", remove(2, 1), covey.Denied, "replaced by 0000000000000003"},
		{"join", s.AddNode(ctx, 2, keyOf(2), infoOf(2)), covey.Denied, "as a new node"},
		{"join with another key", s.AddNode(ctx, 2, keyOf(5), infoOf(2)), covey.Denied, "was removed"},
		{"update", s.UpdateNode(ctx, 4, infoOf(4)), covey.Denied, "was removed"},
		{"undrain", state(4, directory.Active, directory.Draining), covey.Denied, "was removed"},
	})
	if diff := cmp.Diff([]covey.NodeID{1, 3}, ids(s.Nodes())); diff != "" {
		t.Errorf("Nodes (-want +got):\n%s", diff)
	}
	if n, ok := s.Node(2); !ok || n.State != directory.Removed || n.ReplacedBy != 3 {
		t.Errorf("Node(2) = %+v, %v", n, ok)
	}
	if key, ok := s.Pin(2); ok || key != nil {
		t.Errorf("a removed node has the pin %x", key)
	}
}

func TestSetNodeStateConflict(t *testing.T) {
	s := directorytest.New(t)
	if err := s.SetNodeState(t.Context(), 1, directory.Draining, directory.Draining); !errors.Is(err, covey.Conflict) {
		t.Errorf("drain a node that is thought to drain: %v", err)
	}
}

func TestShardMap(t *testing.T) {
	s := directorytest.New(t)
	join(t, s, 2, 3, 4)
	if err := s.RemoveNode(t.Context(), 4, 0); err != nil {
		t.Fatal(err)
	}
	before, epoch := s.ShardMap()
	if epoch != 1 || len(before) != directorytest.Shards+1 {
		t.Errorf("the first map has epoch %d and %d shards", epoch, len(before))
	}
	type changes = map[covey.ShardID][]covey.NodeID
	set := func(expected uint64, c changes) error {
		_, err := s.SetShardMap(t.Context(), expected, c)
		return err
	}
	checkSteps(t, []step{
		{"old epoch", set(0, changes{1: {2}}), covey.Conflict, "has epoch 1, not 0"},
		{"future epoch", set(2, changes{1: {2}}), covey.Conflict, "has epoch 1, not 2"},
		{"nothing", set(1, nil), covey.Invalid, "at least one"},
		{"no voter", set(1, changes{1: {}}), covey.Invalid, "has to have a voter"},
		{"too many voters", set(1, changes{1: make([]covey.NodeID, directory.MaxVoters+1)}), covey.Invalid, "8 voters"},
		{"voter 0", set(1, changes{1: {2, 0}}), covey.Invalid, "node id 0"},
		{"voter twice", set(1, changes{1: {2, 3, 2}}), covey.Invalid, "twice"},
		{"stranger", set(1, changes{1: {9}}), covey.NotFound, "0000000000000009"},
		{"removed node", set(1, changes{0: {1}, 1: {4}}), covey.Denied, "was removed"},
		{"no such shard", set(1, changes{1: {2}, directorytest.Shards + 1: {2}}), covey.NotFound, "no shard 5"},
		{"shard out of range", set(1, changes{directory.MaxShards + 1: {2}}), covey.Invalid, "shard 65537"},
	})
	if now, epoch := s.ShardMap(); epoch != 1 || !cmp.Equal(now, before) {
		t.Errorf("refused changes made %v of epoch %d", now, epoch)
	}
	after, err := s.SetShardMap(t.Context(), 1, changes{2: {3, 1, 2}, 0: {1, 3}})
	if err != nil || after != 2 {
		t.Fatalf("SetShardMap = %d, %v; want epoch 2", after, err)
	}
	got, epoch := s.ShardMap()
	want := changes{0: {1, 3}, 1: {1}, 2: {3, 1, 2}, 3: {1}, 4: {1}}
	if diff := cmp.Diff(want, got); diff != "" || epoch != 2 {
		t.Errorf("ShardMap of epoch %d (-want +got):\n%s", epoch, diff)
	}
	if diff := cmp.Diff([]covey.NodeID{1}, before[2]); diff != "" {
		t.Errorf("a map that was read has changed (-want +got):\n%s", diff)
	}
	// An account's way to its nodes.
	for _, name := range []string{"alice@example.org", "bob@example.org"} {
		a := directorytest.Add(t, s, name, "")
		if diff := cmp.Diff(want[a.Shard], s.Voters(a.Shard)); diff != "" {
			t.Errorf("voters of %s, shard %d (-want +got):\n%s", name, a.Shard, diff)
		}
	}
}

// A node that founded its cluster before there was a node list enters itself.
func TestFoundWithoutANode(t *testing.T) {
	state, s := openAt(t, filepath.Join(t.TempDir(), "directory.db"))
	defer state.Close()
	ctx := t.Context()
	checkSteps(t, []step{
		{"join before Found", s.AddNode(ctx, 1, keyOf(1), infoOf(1)), covey.Unavailable, "not founded"},
		{"Found by nobody", s.Found(ctx, directory.Found{Shards: 2, First: &directory.AddNode{ID: 1}}), covey.Invalid, "key"},
		{"Found", s.Found(ctx, directory.Found{Cluster: covey.ClusterID{1}, Shards: 2}), nil, ""},
		{"level", s.RaiseLevel(ctx), nil, ""},
	})
	if m, epoch := s.ShardMap(); len(m) != 0 || epoch != 0 || s.Voters(1) != nil || len(s.Nodes()) != 0 {
		t.Errorf("map %v of epoch %d, nodes %v; want none", m, epoch, s.Nodes())
	}
	join(t, s, 1)
	only := []covey.NodeID{1}
	_, err := s.SetShardMap(ctx, 0, map[covey.ShardID][]covey.NodeID{0: only, 2: only})
	checkSteps(t, []step{
		{"part of a map", err, covey.Invalid, "has all of them"},
		{"remove the only node", s.RemoveNode(ctx, 1, 0), covey.Denied, "the only one"},
	})
	if epoch, err := s.SetShardMap(ctx, 0, map[covey.ShardID][]covey.NodeID{0: only, 1: only, 2: only}); err != nil || epoch != 1 {
		t.Errorf("the first map: epoch %d, %v", epoch, err)
	}
	for _, err := range state.Check(ctx) {
		t.Error(err)
	}
}

func TestClusterOutlivesTheProcess(t *testing.T) {
	path := filepath.Join(t.TempDir(), "directory.db")
	state, s := openAt(t, path)
	ctx := t.Context()
	first := &directory.AddNode{ID: 0x7000_0000_0000_0001, Key: keyOf(1), NodeInfo: infoOf(1)}
	if err := s.Found(ctx, directory.Found{Cluster: covey.ClusterID{1}, Shards: 2, First: first}); err != nil {
		t.Fatal(err)
	}
	if !first.Time.IsZero() {
		t.Error("Found changed what it was given")
	}
	join(t, s, 2, 3)
	if err := s.RemoveNode(ctx, 3, 2); err != nil {
		t.Fatal(err)
	}
	if _, err := s.SetShardMap(ctx, 1, map[covey.ShardID][]covey.NodeID{1: {2, first.ID}}); err != nil {
		t.Fatal(err)
	}
	nodes := s.Nodes()
	removed, _ := s.Node(3)
	shards, epoch := s.ShardMap()
	if err := state.Close(); err != nil {
		t.Fatal(err)
	}

	state, s = openAt(t, path)
	defer state.Close()
	if diff := cmp.Diff(nodes, s.Nodes()); diff != "" || len(nodes) != 2 || nodes[0].Joined.IsZero() {
		t.Errorf("Nodes (-before +after):\n%s", diff)
	}
	if n, _ := s.Node(3); !cmp.Equal(n, removed) {
		t.Errorf("Node(3) = %+v, was %+v", n, removed)
	}
	if now, e := s.ShardMap(); e != epoch || epoch != 2 || !cmp.Equal(now, shards) {
		t.Errorf("ShardMap = %v, %d; was %v, %d", now, e, shards, epoch)
	}
	for _, err := range state.Check(ctx) {
		t.Error(err)
	}
}

func TestLevelRisesWithTheLastMember(t *testing.T) {
	state, s := openAt(t, filepath.Join(t.TempDir(), "directory.db"))
	defer state.Close()
	ctx := t.Context()
	at := func(level uint32) directory.NodeInfo { return directory.NodeInfo{Level: level} }
	raise := func(want uint32) {
		t.Helper()
		if err := s.RaiseLevel(ctx); err != nil || s.Level() != want {
			t.Errorf("level %d, %v; want %d", s.Level(), err, want)
		}
	}
	first := &directory.AddNode{ID: 1, Key: keyOf(1), NodeInfo: at(2)}
	if err := s.Found(ctx, directory.Found{Cluster: covey.ClusterID{1}, Shards: 2, First: first}); err != nil {
		t.Fatal(err)
	}
	raise(2) // as it was founded
	checkSteps(t, []step{
		{"older program joins", s.AddNode(ctx, 2, keyOf(2), at(1)), covey.Denied, "needs 2: install a newer one"},
		{"newer program joins", s.AddNode(ctx, 2, keyOf(2), at(5)), nil, ""},
	})
	raise(2) // there is still node 1
	if err := s.UpdateNode(ctx, 1, at(4)); err != nil {
		t.Fatal(err)
	}
	raise(4)
	checkSteps(t, []step{
		{"back to an older program", s.UpdateNode(ctx, 1, at(3)), covey.Denied, "needs 4"},
		{"join again with an older program", s.AddNode(ctx, 2, keyOf(2), at(3)), covey.Denied, "needs 4"},
	})
	raise(4)
}

func TestSettingsOfReplication(t *testing.T) {
	s := directorytest.New(t)
	ctx := t.Context()
	want := directory.Settings{Replicas: 3, RebuildAfter: 10 * time.Minute}
	if diff := cmp.Diff(want, s.Settings()); diff != "" {
		t.Errorf("defaults (-want +got):\n%s", diff)
	}
	set := func(c directory.SetSettings) error { return s.SetSettings(ctx, c) }
	checkSteps(t, []step{
		{"replicas", set(directory.SetSettings{Replicas: new(1)}), nil, ""},
		{"rebuild after", set(directory.SetSettings{RebuildAfter: new(1500 * time.Millisecond)}), nil, ""},
		{"two replicas", set(directory.SetSettings{Replicas: new(2)}), covey.Invalid, "want 1, 3 or 5"},
		{"rebuild at once", set(directory.SetSettings{RebuildAfter: new(time.Duration(0))}), covey.Invalid, "want 1s to"},
		{"never rebuild", set(directory.SetSettings{RebuildAfter: new(directory.MaxRebuildAfter + 1)}), covey.Invalid, "want 1s to"},
		{"negative quota", set(directory.SetSettings{Quota: new(int64(-1))}), covey.Invalid, "negative"},
	})
	want = directory.Settings{Replicas: 1, RebuildAfter: time.Second}
	if diff := cmp.Diff(want, s.Settings()); diff != "" {
		t.Errorf("settings (-want +got):\n%s", diff)
	}
}

// Watchers are told before the change's own caller, with the change in place, and
// nothing of what they do not watch.
func TestWatch(t *testing.T) {
	s := directorytest.New(t)
	ctx := t.Context()
	var told []directory.Event
	nodes := 0
	s.Watch(func(e directory.Event) {
		told = append(told, e)
		nodes = len(s.Nodes())
		if _, err := s.ByID(ctx, 1); err != nil && !errors.Is(err, covey.NotFound) { // takes every lock
			t.Error(err)
		}
	})
	after := func(what string, err error, want ...directory.Event) {
		t.Helper()
		if diff := cmp.Diff(want, told); diff != "" || err != nil {
			t.Errorf("%s: %v, events (-want +got):\n%s", what, err, diff)
		}
		told = nil
	}
	directorytest.Add(t, s, "alice@example.org", "")
	after("account", nil)
	after("join", s.AddNode(ctx, 2, keyOf(2), infoOf(2)), directory.NodesChanged)
	if nodes != 2 {
		t.Errorf("the watcher saw %d nodes", nodes)
	}
	after("join again", s.AddNode(ctx, 2, keyOf(2), infoOf(2)))
	_, err := s.SetShardMap(ctx, 1, map[covey.ShardID][]covey.NodeID{1: {2}})
	after("shard map", err, directory.MapChanged)
	after("settings", s.SetSettings(ctx, directory.SetSettings{Replicas: new(5)}), directory.SettingsChanged)
	if err := s.RemoveNode(ctx, 2, 0); !errors.Is(err, covey.Denied) {
		t.Error(err)
	}
	after("refusal", nil)
}

// Readers beside the applier see whole maps and lists.
func TestReadersBesideTheApplier(t *testing.T) {
	s := directorytest.New(t)
	join(t, s, 2)
	ctx, done := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for ctx.Err() == nil {
				m, epoch := s.ShardMap()
				if a, b := m[1][0], m[2][0]; a != b || epoch > 1 && a != covey.NodeID(1+epoch%2) {
					t.Errorf("shards 1 and 2 on %v and %v at epoch %d", a, b, epoch)
				}
				for _, n := range s.Nodes() {
					if key, ok := s.Pin(n.ID); ok && !key.Equal(n.Key) {
						t.Errorf("Pin(%v) = %x", n.ID, key)
					}
				}
			}
		})
	}
	for epoch := uint64(1); epoch < 100; epoch++ {
		to := []covey.NodeID{covey.NodeID(1 + (epoch+1)%2)}
		if _, err := s.SetShardMap(t.Context(), epoch, map[covey.ShardID][]covey.NodeID{1: to, 2: to}); err != nil {
			t.Fatal(err)
		}
		join(t, s, covey.NodeID(2+epoch))
	}
	done()
	wg.Wait()
}
