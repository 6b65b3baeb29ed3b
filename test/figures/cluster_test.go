package main

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/covey-mail/covey/bench"
	"github.com/covey-mail/covey/node/admin"
)

// three is a cluster of three nodes and two shards that lacks nothing.
func three() *admin.Status {
	replicas := []admin.Replica{{Node: "a"}, {Node: "b"}, {Node: "c", Lag: mostLag}}
	s := &admin.Status{}
	for _, id := range []string{"a", "b", "c"} {
		s.Peers = append(s.Peers, admin.Peer{Node: id, State: "alive"})
	}
	s.Shards = []admin.Shard{
		{ID: 0, Leader: "b", Replicas: slices.Clone(replicas)},
		{ID: 1, Leader: "a", Replicas: slices.Clone(replicas)},
		{ID: 2, Leader: "b", Replicas: slices.Clone(replicas)},
	}
	s.Shards[0].Replicas[2].Learner = true
	return s
}

func TestWholeCluster(t *testing.T) {
	if why := whole(three(), 3, 3); why != "" {
		t.Errorf("lacks %q", why)
	}
	for name, spoil := range map[string]func(*admin.Status){
		"node missing":     func(s *admin.Status) { s.Peers = s.Peers[:2] },
		"node suspect":     func(s *admin.Status) { s.Peers[1].State = "suspect" },
		"no leader":        func(s *admin.Status) { s.Shards[2].Leader = "" },
		"stopped":          func(s *admin.Status) { s.Shards[2].Stopped = "why" },
		"too few replicas": func(s *admin.Status) { s.Shards[1].Replicas = s.Shards[1].Replicas[:2] },
		"learner":          func(s *admin.Status) { s.Shards[1].Replicas[0].Learner = true },
		"no directory":     func(s *admin.Status) { s.Shards[0].Replicas = s.Shards[0].Replicas[:2] },
		"lag":              func(s *admin.Status) { s.Shards[2].Replicas[2].Lag = mostLag + 1 },
		"silent":           func(s *admin.Status) { s.Shards[2].Replicas[2].Silent = true },
		"copying":          func(s *admin.Status) { s.Shards[2].Replicas[2].Copying = true },
		"one leads all": func(s *admin.Status) {
			s.Shards = append(s.Shards, admin.Shard{ID: 3, Leader: "b", Replicas: s.Shards[2].Replicas})
		},
	} {
		s := three()
		spoil(s)
		if whole(s, 3, 3) == "" {
			t.Errorf("%s: called whole", name)
		}
	}
	if whole(three(), 3, 1) == "" {
		t.Error("three replicas where one is wanted")
	}
}

func TestPercentile(t *testing.T) {
	values := []float64{4, 1, 3, 2}
	for q, want := range map[float64]float64{0: 1, 0.25: 1, 0.5: 2, 0.51: 3, 0.99: 4, 1: 4} {
		if got := percentile(values, q); got != want {
			t.Errorf("%v of 1 to 4: %v, want %v", q, got, want)
		}
	}
	hundred := make([]float64, 100)
	for i := range hundred {
		hundred[i] = float64(i + 1)
	}
	if got := percentile(hundred, 0.99); got != 99 {
		t.Errorf("p99 of 1 to 100: %v", got)
	}
	if percentile(nil, 0.5) != 0 {
		t.Error("of nothing")
	}
}

func TestDeathInALog(t *testing.T) {
	const log = `time=2026-01-02T03:04:05.100Z level=INFO msg=member member=n2 state=dead gossip=x
time=2026-01-02T03:04:06.100Z level=INFO msg="message taken" member=n2 state=dead
time=2026-01-02T03:04:06.200Z level=INFO msg=member component=gossip member=n2 state=suspect
time=2026-01-02T03:04:06.300Z level=INFO msg=member component=gossip member=n22 state=dead
time=2026-01-02T03:04:08.400Z level=INFO msg=member component=gossip member=n2 state=dead
time=2026-01-02T03:04:09.400Z level=INFO msg=member component=gossip member=n2 state=dead
`
	at, ok := deathIn(log, "n2", time.Date(2026, 1, 2, 3, 4, 6, 0, time.UTC))
	if want := time.Date(2026, 1, 2, 3, 4, 8, 400e6, time.UTC); !ok || !at.Equal(want) {
		t.Errorf("got %v, %v; want %v", at, ok, want)
	}
	if _, ok := deathIn(log, "n3", time.Time{}); ok {
		t.Error("a death of nobody")
	}
}

func TestFailuresOfARestart(t *testing.T) {
	rt := &restartTest{}
	kinds := map[*int64]string{&rt.inside: "inside", &rt.between: "between", &rt.refused: "refused"}
	for what, want := range map[string]string{
		"MAIL: 421 4.3.2 going away":                     "between",
		"greeting: 421 4.3.2 going away":                 "between",
		"MAIL: the server closed the connection":         "between",
		"connect: connection refused":                    "between",
		"RSET: 421 4.3.2 going away":                     "between",
		"RCPT: 421 4.3.2 going away":                     "inside",
		"end of DATA: 421 4.3.2 going away":              "inside",
		"end of DATA: the server closed the connection":  "inside",
		"end of DATA: timeout":                           "inside",
		"send message: the server reset the connection":  "inside",
		"RCPT: 451 4.3.0 try again":                      "refused",
		"end of DATA: 451 4.3.0 try again":               "refused",
		"end of DATA: 554 5.0.0 we do not want messages": "inside",
	} {
		if got := kinds[rt.kind(what)]; got != want {
			t.Errorf("%q is %s, want %s", what, got, want)
		}
	}
}

func TestRateKeptAfterAKill(t *testing.T) {
	var line []bench.Moment
	for i, done := range []int64{1, 100, 100, 100, 100, 50, 50, 100, 100, 100, 100, 100, 100, 7} {
		line = append(line, bench.Moment{Second: i, Done: done}, bench.Moment{Second: i, Group: "1", Done: 9999})
	}
	if before, after := kept(line, 5); before != 100 || after != 80 {
		t.Errorf("%v before, %v after; want 100, 80", before, after)
	}
	if before, after := kept(line[:10], 5); before != 0 || after != 0 {
		t.Errorf("too short a line gives %v and %v", before, after)
	}
}

func TestRefusedAtRCPT(t *testing.T) {
	share, longest := refusedAt(&bench.Result{Done: 1, Failed: 9, Failures: []bench.FailureClass{
		{What: "RCPT: 451 4.3.0 a", Count: 5, MaxMS: 20}, {What: "end of DATA: 451 4.3.0", Count: 2, MaxMS: 9999}, {What: "RCPT: 451 4.3.0 b", Count: 2, MaxMS: 40},
	}})
	if share != 0.7 || longest != 40 {
		t.Errorf("share %v, longest %v; want 0.7, 40", share, longest)
	}
}

func TestFailuresAreNamed(t *testing.T) {
	f := make(failures)
	if got := f.String(); got != "none failed" {
		t.Error(got)
	}
	for range 2 {
		f.add(&bench.Result{Failures: []bench.FailureClass{{What: "b", Count: 1}, {What: "a", Count: 1}, {What: "c", Count: 3}, {What: "d", Count: 1}, {What: "e", Count: 1}}})
	}
	if got, want := f.String(), "6 × c; 2 × a; 2 × b; 2 × d"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestDetectionFigures(t *testing.T) {
	found := []detection{{killed, 2}, {unplugged, 9}, {killed, 3}, {unplugged, 1}}
	f := detectionFigures(16, killed, found)
	if len(f) != 2 || f[0].Value != 2 || f[1].Value != 3 || f[1].Goal != 5 || !strings.Contains(f[0].Name, "16 nodes, one killed") {
		t.Errorf("got %+v", f)
	}
	if f := detectionFigures(3, unplugged, found); f[0].Value != 1 || f[1].Goal != 4 {
		t.Errorf("got %+v", f)
	}
}

// Members see who is there and who is gone, whatever order reports come in.
func TestMembersAgree(t *testing.T) {
	lab := &gossipTest{views: make(map[[2]int]sighting)}
	for i := range 3 {
		lab.members = append(lab.members, &gossiper{id: i + 1})
	}
	say := func(by, of int, state string) { lab.views[[2]int{by, of}] = sighting{by: by, of: of, state: state} }
	for by := 1; by <= 3; by++ {
		for of := 1; of <= 3; of++ {
			if lab.agree(nil, "alive") {
				t.Fatalf("agreed before %d spoke of %d", by, of)
			}
			if by != of && !(by == 3 && of == 2) {
				say(by, of, "alive")
			}
		}
	}
	say(3, 2, "alive")
	if !lab.agree(nil, "alive") || lab.agree(lab.members[0], "dead") {
		t.Error("all know of all, and nobody is dead")
	}
	say(2, 1, "dead")
	if lab.agree(lab.members[0], "dead") {
		t.Error("one has not seen it")
	}
	say(3, 1, "dead")
	if !lab.agree(lab.members[0], "dead") || lab.agree(nil, "alive") {
		t.Error("both others have seen it")
	}
}
