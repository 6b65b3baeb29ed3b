package main

import (
	"context"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/covey-mail/covey/node/admin"
)

// answers is a node that knows only how its replicas compare.
func answers(t *testing.T, list []admin.Comparison) (dir string) {
	t.Helper()
	dir = t.TempDir()
	l, err := net.Listen("unix", filepath.Join(dir, admin.SocketName))
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	admin.Handle(mux, admin.Compare, func(context.Context, admin.Empty) ([]admin.Comparison, error) { return list, nil })
	s := &http.Server{Handler: mux}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Serve(l) // until Close
	}()
	t.Cleanup(func() {
		s.Close()
		<-done
	})
	return dir
}

func TestCheckCluster(t *testing.T) {
	alike := []admin.Comparison{
		{Shard: 0, Index: 7, Replicas: []admin.ComparedReplica{{Node: "a1", Hash: "00ff"}}},
		{Shard: 1, Index: 9, Replicas: []admin.ComparedReplica{{Node: "a1", Hash: "0102"}, {Node: "a2", Error: "no link"}}},
	}
	dir := answers(t, alike)
	want := "SHARD  INDEX  NODE  HASH  STATE\n" +
		"0      7      a1    00ff  alone\n" +
		"1      9      a1    0102  ok\n" +
		"1      9      a2    -     not compared: no link\n"
	if d := cmp.Diff(want, ok(t, "", "check", "--cluster", "--data", dir)); d != "" {
		t.Errorf("-want +got:\n%s", d)
	}
	if d := cmp.Diff(alike, decoded[[]admin.Comparison](t, "", "check", "--cluster", "--data", dir)); d != "" {
		t.Errorf("JSON (-want +got):\n%s", d)
	}
	dir = answers(t, append(alike, admin.Comparison{Shard: 2, Index: 8, Differ: true, Replicas: []admin.ComparedReplica{
		{Node: "a1", Hash: "0a"}, {Node: "a2", Hash: "0b", Differs: true}, {Node: "a3", Hash: "0a"},
	}}))
	for _, args := range [][]string{{}, {"--json"}} {
		r := covey(t, "", append([]string{"check", "--cluster", "--data", dir}, args...)...)
		if r.code != 1 || !strings.Contains(r.err, "1 shards differ") || len(args) == 0 && !strings.Contains(r.out, "2      8      a2    0b    DIFFERS\n") {
			t.Errorf("%v: status %d, %s\n%s", args, r.code, r.err, r.out)
		}
	}
	if err := fails(t, "", "check", "--cluster", "--data", t.TempDir()); !strings.Contains(err, "no node runs") {
		t.Errorf("without a node: %s", err)
	}
}

func TestDifferingReplicasInStatus(t *testing.T) {
	if state := shardState(admin.Shard{ID: 3, Leader: "a1", Differ: []string{"a2", "a3"}}); !strings.Contains(state, "DIFFER on a2, a3") {
		t.Errorf("state is %q", state)
	}
}
