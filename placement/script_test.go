package placement

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/covey-mail/covey"
)

var rewrite = flag.Bool("rewrite", false, "write the scripts' answers anew instead of comparing with them")

// TestScripts runs the stories in testdata. A block is a command, a line of
// dashes, and what it answers; # begins a comment. Commands:
//
//	nodes 1 2:zone 3!draining    the nodes there are from now on
//	plan shards=4 replicas=3     plans on, and shows the map: L leads, v votes,
//	                             + votes newly, - no more
//	directory                    who votes on group 0
//	remove 1 replicas=3          what its removal would cost
//	move 1,2,3 leader=1 to 2,3,4 the steps, if all goes well
func TestScripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatal("no scripts", err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			s := &script{t: t, current: Map{}, leaders: map[covey.ShardID]covey.NodeID{}}
			got := s.run(string(text))
			if *rewrite {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if diff := cmp.Diff(strings.Split(string(text), "\n"), strings.Split(got, "\n")); diff != "" && !*rewrite {
				t.Errorf("run with -rewrite and look at the difference:\n%s", diff)
			}
		})
	}
}

type script struct {
	t       *testing.T
	nodes   []Node
	current Map
	leaders map[covey.ShardID]covey.NodeID
	voters  Assignment // of the directory
}

func (s *script) run(text string) string {
	var out strings.Builder
	for block := range strings.SplitSeq(strings.TrimSpace(text), "\n\n") {
		command, _, _ := strings.Cut(block, "\n----")
		out.WriteString(command + "\n----\n")
		for line := range strings.SplitSeq(command, "\n") {
			if !strings.HasPrefix(line, "#") {
				out.WriteString(s.command(strings.Fields(line)))
			}
		}
		out.WriteString("\n")
	}
	return strings.TrimSuffix(out.String(), "\n")
}

func (s *script) command(words []string) string {
	args := map[string]string{}
	for _, w := range words[1:] {
		if k, v, ok := strings.Cut(w, "="); ok {
			args[k] = v
		}
	}
	switch words[0] {
	case "nodes":
		s.nodes = nil
		for _, w := range words[1:] {
			s.nodes = append(s.nodes, s.node(w))
		}
		return ""
	case "plan":
		return s.plan(s.number(args["shards"]), s.number(args["replicas"]))
	case "directory":
		var learners Assignment
		s.voters, learners = Directory(s.nodes, s.voters)
		return fmt.Sprintf("voters %s learners %s\n", list(s.voters), list(learners))
	case "remove":
		lostQuorum, lost := Removal(s.nodes, s.current, s.number(args["replicas"]), covey.NodeID(s.number(words[1])))
		return fmt.Sprintf("without quorum %v lost %v\n", lostQuorum, lost)
	case "move":
		return s.move(s.ids(words[1]), covey.NodeID(s.number(args["leader"])), s.ids(words[len(words)-1]))
	}
	s.t.Fatalf("unknown command %q", words)
	return ""
}

func (s *script) number(text string) int {
	n, err := strconv.Atoi(text)
	if err != nil {
		s.t.Fatal(err)
	}
	return n
}

func (s *script) ids(text string) (ids Assignment) {
	for word := range strings.SplitSeq(text, ",") {
		ids = append(ids, covey.NodeID(s.number(word)))
	}
	return ids
}

func (s *script) node(word string) Node {
	word, state, _ := strings.Cut(word, "!")
	id, zone, _ := strings.Cut(word, ":")
	states := map[string]State{"": Up, "draining": Draining, "down": Down, "lost": Lost}
	if states[state] == 0 {
		s.t.Fatalf("unknown state %q", state)
	}
	return Node{ID: covey.NodeID(s.number(id)), Zone: zone, State: states[state]}
}

func (s *script) plan(shards, replicas int) string {
	before, ledBefore := s.current, s.leaders
	s.current = Plan(s.nodes, s.current, shards, replicas)
	s.leaders = Leaders(s.current, s.nodes, s.leaders)
	columns := map[covey.NodeID]bool{}
	for _, n := range s.nodes {
		columns[n.ID] = true
	}
	for _, a := range before {
		for _, id := range a {
			columns[id] = true
		}
	}
	ids := slices.Sorted(maps.Keys(columns))
	var out strings.Builder
	row := func(name any, cell func(id covey.NodeID) any) {
		line := fmt.Sprintf("%8v", name)
		for _, id := range ids {
			line += fmt.Sprintf("%5v", cell(id))
		}
		out.WriteString(line + "\n")
	}
	led := map[covey.NodeID]int{}
	handOvers := 0
	row("shard", func(id covey.NodeID) any { return uint64(id) })
	for shard := range covey.ShardID(shards) {
		shard++
		led[s.leaders[shard]]++
		if old := ledBefore[shard]; old != 0 && old != s.leaders[shard] {
			handOvers++
		}
		row(shard, func(id covey.NodeID) any { return s.cell(shard, id, before) })
	}
	load := loads(s.nodes, s.current)
	row("votes", func(id covey.NodeID) any { return load[id] })
	row("leads", func(id covey.NodeID) any { return led[id] })
	fmt.Fprintf(&out, "%d replicas made, %d hand-overs\n", moved(before, s.current), handOvers)
	return out.String()
}

func (s *script) cell(shard covey.ShardID, id covey.NodeID, before Map) string {
	had, has := slices.Contains(before[shard], id), slices.Contains(s.current[shard], id)
	mark := ""
	if has && !had {
		mark = "+"
	}
	switch {
	case had && !has:
		return "-"
	case s.leaders[shard] == id:
		return mark + "L"
	case has:
		return mark + "v"
	}
	return "."
}

// move carries out what Next says; whatever is added catches up at once.
func (s *script) move(voters Assignment, leader covey.NodeID, want Assignment) string {
	var out strings.Builder
	names := map[Role]string{Voter: "voter", Learner: "learner", Removed: "removed", Leader: "leader"}
	g := Group{Voters: voters, Leader: leader, CaughtUp: map[covey.NodeID]bool{}}
	for range 10 {
		for _, id := range slices.Concat(g.Voters, g.Learners) {
			g.CaughtUp[id] = true
		}
		changes := Next(g, want, nil)
		for _, c := range changes {
			other := func(id covey.NodeID) bool { return id == c.Node }
			switch c.Role {
			case Voter:
				g.Voters = append(g.Voters, c.Node)
				g.Learners = slices.DeleteFunc(g.Learners, other)
			case Learner:
				g.Learners = append(g.Learners, c.Node)
			case Removed:
				g.Voters = slices.DeleteFunc(g.Voters, other)
			case Leader:
				g.Leader = c.Node
			}
			fmt.Fprintf(&out, "%d %s; ", c.Node, names[c.Role])
		}
		if changes == nil {
			return out.String()
		}
		fmt.Fprintf(&out, "now voters %s leader %d\n", list(g.Voters), g.Leader)
	}
	return out.String() + "and so on\n"
}

func list(ids []covey.NodeID) string {
	var words []string
	for _, id := range sorted(ids) {
		words = append(words, strconv.FormatUint(uint64(id), 10))
	}
	return strings.Join(words, ",")
}
