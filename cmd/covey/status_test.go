package main

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/covey-mail/covey/node/admin"
)

func TestShardRows(t *testing.T) {
	const a, b, c, d = "000000000000000a", "000000000000000b", "000000000000000c", "000000000000000d"
	of := func(nodes ...string) (list []admin.Replica) {
		for _, n := range nodes {
			list = append(list, admin.Replica{Node: n})
		}
		return list
	}
	silent := of(a, b, c)
	silent[2] = admin.Replica{Node: c, Lag: 7, Silent: true}
	for _, tt := range []struct {
		name            string
		shard           admin.Shard
		lag, state, all string
	}{
		{"as it should be", admin.Shard{Leader: a, Wanted: []string{c, b, a}, Replicas: of(a, b, c)}, "0", "ok", a + " " + b + " " + c},
		{"one is silent", admin.Shard{Leader: a, Wanted: []string{a, b, c}, Replicas: silent}, "7", "degraded", a + " " + b + " " + c + " (silent)"},
		{"one comes", admin.Shard{Leader: a, Wanted: []string{a, b, d}, Replicas: append(of(a, b, c), admin.Replica{Node: d, Learner: true, Copying: true, Lag: 9})},
			"9", "moving", a + " " + b + " " + c + " " + d + " (learner, copying)"},
		{"a learner stays", admin.Shard{Leader: a, Wanted: []string{a}, Replicas: append(of(a), admin.Replica{Node: d, Learner: true})}, "0", "ok", a + " " + d + " (learner)"},
		{"no leader", admin.Shard{Wanted: []string{a}}, "0", "no leader", ""},
		{"stopped", admin.Shard{Leader: a, Stopped: "broken", Replicas: of(a)}, "0", "stopped: broken", a},
	} {
		row := shardRows([]admin.Shard{tt.shard})[0]
		if d := cmp.Diff([]string{tt.lag, tt.state, tt.all}, []string{row[5], row[8], row[9]}); d != "" {
			t.Errorf("%s (-want +got):\n%s", tt.name, d)
		}
	}
}
