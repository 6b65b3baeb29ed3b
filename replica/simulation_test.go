package replica

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/internal/simnet"
)

var (
	simSeed  = flag.Uint64("sim.seed", 0, "run the simulation with this seed alone")
	simSeeds = flag.Uint64("sim.seeds", 25, "run the simulation with this many seeds")
)

// TestSimulation has clients propose to and read from five nodes while nodes
// lose power, stop and come back, and the network loses, delays, reorders and
// duplicates messages and is cut in pieces, and logs are cut short, so that who
// falls behind needs a copy of the state, and replicas come and go; and then
// checks what everybody was told. The first group is on all nodes in the end, and
// its proposals go to the leader; the second stays where it is. A failure names
// its seed; replay it with -sim.seed. (Goroutines race even then, so that it may
// take several tries.)
func TestSimulation(t *testing.T) {
	first, last := uint64(1), *simSeeds
	switch {
	case *simSeed != 0:
		first, last = *simSeed, *simSeed
	case testing.Short():
		last = min(last, 10)
	}
	done := 0
	var log countingHandler
	for seed := first; seed <= last; seed++ {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { done += simulate(t, seed, &log) })
		})
	}
	// One seed may be all trouble, not all of them.
	if want := 100 * int(last-first); done < want {
		t.Errorf("only %d commands were done, want %d: nothing was tested", done, want)
	}
	for _, line := range []string{"copy of the state installed", "copy of the state dropped", "copy of the state failed"} {
		n := log.count(line)
		t.Logf("%d times: %s", n, line)
		// Few seeds need not see what is rare.
		if rare := line != "copy of the state installed"; n == 0 && (last-first > 100 || !rare && last-first > 20) {
			t.Errorf("never seen: %s", line)
		}
	}
}

const (
	simNodes   = 5
	simVoters  = 3 // at the start
	simGroups  = 2
	simClients = 3 // for each group
	simTime    = 40 * time.Second
)

// A simulation is a cluster, what its clients were told, and the chance that
// troubles both.
type simulation struct {
	*cluster
	rand     *rand.Rand // of the trouble alone
	changing sync.WaitGroup

	// A token lies in members while somebody changes the members of the first group,
	// or looks at wanted: who may be one of them. It stands for the map of shards.
	members chan struct{}
	wanted  map[covey.NodeID]bool

	mu      sync.Mutex // guards the following
	answers [simGroups]answers
	reads   int
	past    [simGroups][]chain // states that were durable when a node went down
}

// answers is what clients of one group were told about their commands.
type answers struct {
	done    []string // in the order of the answers
	not     []string // definitely not done
	unknown []string
}

// simulate returns how many commands were done.
func simulate(t *testing.T, seed uint64, log *countingHandler) int {
	s := &simulation{cluster: prepareCluster(t, seed, simNodes, simVoters, simGroups), wanted: map[covey.NodeID]bool{}, members: make(chan struct{}, 1), rand: rand.New(rand.NewPCG(seed, 0x7472))}
	s.cfg.Logger = slog.New(log)
	s.cfg.Forward = []covey.ShardID{0}
	s.cfg.CheckpointEvery = s.between(time.Second, 10*time.Second)
	s.log.Keep = s.rand.Int64N(64 << 10)
	for _, p := range s.nodes {
		s.wanted[p.id] = p.id <= simVoters
		if !s.wanted[p.id] {
			clear(p.machines)
		}
	}
	s.start()
	s.weather()
	ctx, cancel := context.WithTimeout(t.Context(), simTime)
	var clients sync.WaitGroup
	for group := range covey.ShardID(simGroups) {
		for n := range simClients {
			r := rand.New(rand.NewPCG(seed, uint64(group)<<8|uint64(n)))
			clients.Go(func() { s.propose(ctx, group, n, r) })
		}
		r := rand.New(rand.NewPCG(seed, uint64(group)<<8|0xff))
		clients.Go(func() { s.read(ctx, group, r) })
	}
	for ctx.Err() == nil {
		s.trouble()
		pause(ctx, s.between(200*time.Millisecond, 3*time.Second))
	}
	clients.Wait()
	s.changing.Wait()
	cancel()
	s.calm()
	done := 0
	for group := range covey.ShardID(simGroups) {
		done += s.verify(group)
	}
	s.end()
	return done
}

func pause(ctx context.Context, d time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	<-ctx.Done()
}

func (s *simulation) between(from, to time.Duration) time.Duration {
	return from + time.Duration(s.rand.Int64N(int64(to-from)))
}

// weather draws how badly the network behaves from now on.
func (s *simulation) weather() {
	s.net.SetWeather(simnet.Weather{
		Loss:      max(0, s.rand.Float64()*0.3-0.1),
		Duplicate: max(0, s.rand.Float64()*0.3-0.1),
		MinDelay:  s.between(0, 5*time.Millisecond),
		MaxDelay:  s.between(5*time.Millisecond, 150*time.Millisecond),
	})
}

// trouble does one bad thing, or undoes one.
func (s *simulation) trouble() {
	p := s.nodes[s.rand.IntN(len(s.nodes))]
	other := s.node(s.others(p.id)[s.rand.IntN(simNodes-1)])
	s.followMap()
	switch kind := s.rand.IntN(17); {
	case kind < 4 && p.up.Load() == nil:
		p.start()
	case kind == 0:
		s.down(p, p.shutDown)
	case kind == 1:
		// The power goes in the middle of what the disk does, and best where a copy is
		// being taken in.
		for _, q := range s.nodes {
			if up := q.up.Load(); up != nil && status(up.host, 0).Receiving {
				p = q
			}
		}
		p.disk.StopAfter(s.rand.IntN(20))
		pause(s.t.Context(), s.between(0, time.Second))
		s.down(p, func() { p.crash(2 + s.rand.Uint64()) })
	case kind == 2:
		s.down(p, func() { p.crash(s.rand.Uint64N(2)) })
	case kind == 3 && s.rand.IntN(3) == 0:
		for _, p := range s.nodes {
			if p.up.Load() != nil {
				s.down(p, func() { p.crash(s.rand.Uint64()) })
			}
		}
	case kind == 4:
		s.net.Split([]covey.NodeID{p.id}, s.others(p.id))
	case kind == 5:
		s.net.Cut(p.id, other.id)
	case kind == 6:
		s.weather()
	case kind == 7 && p.up.Load() != nil:
		// Unavailable at two nodes of three, and no harm if it is lost.
		_ = p.host.TransferLeader(s.t.Context(), covey.ShardID(s.rand.IntN(simGroups)), other.id)
	case kind == 8:
		for _, p := range s.nodes {
			if p.up.Load() == nil {
				p.start()
			}
		}
	case kind < 11:
		role := []Role{Voter, Voter, Learner, Removed}[s.rand.IntN(4)]
		s.changing.Go(func() { s.changeMember(MemberChange{p.id, role}) })
	case kind < 13:
		s.compact(p)
	case kind == 13:
		for _, q := range s.nodes {
			if up := q.up.Load(); up != nil && s.rand.IntN(3) > 0 {
				up.host.Suspect(p.id)
			}
		}
	default:
		s.net.Heal()
	}
}

// followMap gives nodes the first group that may be members of it, and takes it
// from those who are not. It is the goroutine that starts and stops them.
func (s *simulation) followMap() {
	select {
	case s.members <- struct{}{}:
	default:
		return
	}
	defer func() { <-s.members }()
	for _, p := range s.nodes {
		switch up := p.up.Load() != nil; {
		case up && s.wanted[p.id] && p.machines[0] == nil:
			p.join(0)
			p.machines[0].chunk = 500 + s.rand.IntN(20_000)
		case up && !s.wanted[p.id] && p.machines[0] != nil && s.rand.IntN(2) == 0:
			last := p.machines[0].now()
			if err := p.leave(0); err == nil {
				s.keep(0, last)
			} else if kind := covey.KindOf(err); kind != covey.Unavailable && kind != covey.Unknown && kind != covey.Invalid {
				s.t.Errorf("Remove: %v", err)
			}
		}
	}
}

// compact removes segments that nobody needs from a node's log.
func (s *simulation) compact(p *peer) {
	if p.up.Load() == nil {
		return
	}
	for _, seg := range p.log.Segments() {
		if seg.Sealed && !seg.Needed {
			// It may be needed again, or the power may be gone.
			_ = p.log.Remove(seg.Number)
		}
	}
}

// changeMember gives a node a role in the first group, if someone leads it.
func (s *simulation) changeMember(change MemberChange) (err error) {
	s.members <- struct{}{}
	defer func() { <-s.members }()
	if change.Role != Removed {
		s.wanted[change.Node] = true
	} else {
		defer func() {
			if err == nil {
				s.wanted[change.Node] = false
			}
		}()
	}
	for _, p := range s.nodes {
		if up := p.up.Load(); up != nil && p.leads(0) {
			ctx, cancel := context.WithTimeout(s.t.Context(), 3*time.Second)
			defer cancel()
			return up.host.ChangeMembers(ctx, 0, []MemberChange{change})
		}
	}
	return covey.Unavailable
}

// down takes a node down and notes what its disk kept.
func (s *simulation) down(p *peer, how func()) {
	if p.up.Load() == nil {
		return
	}
	how()
	for i, m := range p.machines {
		if m != nil {
			s.keep(covey.ShardID(i), m.now())
		}
	}
}

// keep remembers a state that a node had.
func (s *simulation) keep(group covey.ShardID, c chain) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.past[group] = append(s.past[group], c)
}

// propose is a client that proposes commands, each once.
func (s *simulation) propose(ctx context.Context, group covey.ShardID, client int, r *rand.Rand) {
	for n := 0; ctx.Err() == nil; n++ {
		p := s.nodes[r.IntN(len(s.nodes))]
		for _, q := range s.nodes {
			if r.IntN(10) > 4*int(1-group) && q.leads(group) { // the first group forwards
				p = q
			}
		}
		up := p.up.Load()
		if up == nil {
			pause(ctx, 50*time.Millisecond)
			continue
		}
		command := fmt.Sprintf("%d-%d-%d %s", group, client, n, strings.Repeat("x", r.IntN(4000)))
		err := propose(s.t, up.host, group, time.Duration(r.IntN(3000))*time.Millisecond, command)
		s.note(group, command, err)
		pause(ctx, time.Duration(r.IntN(100))*time.Millisecond)
	}
}

func (s *simulation) note(group covey.ShardID, command string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	a := &s.answers[group]
	switch {
	case err == nil:
		a.done = append(a.done, command)
	case covey.KindOf(err) == covey.Unavailable, covey.KindOf(err) == covey.NotFound:
		a.not = append(a.not, command)
	case covey.KindOf(err) == covey.Unknown:
		a.unknown = append(a.unknown, command)
	default:
		s.t.Errorf("Propose: %v", err)
	}
}

// read is a client that wants to see all that was answered before it asked.
func (s *simulation) read(ctx context.Context, group covey.ShardID, r *rand.Rand) {
	for ctx.Err() == nil {
		pause(ctx, time.Duration(r.IntN(1000))*time.Millisecond)
		p := s.nodes[r.IntN(len(s.nodes))]
		up := p.up.Load()
		if up == nil {
			continue
		}
		s.mu.Lock()
		before := s.answers[group].done
		s.mu.Unlock()
		m := up.machines[group]
		if err := up.host.ReadIndex(ctx, group); err != nil || m == nil || p.up.Load() != up {
			continue // or another replica has come in its place
		}
		seen := asSet(m.now().Commands)
		for _, c := range before {
			if !seen[c] {
				s.t.Errorf("group %d: a read at node %d misses %.20q, which was answered before", group, p.id, c)
			}
		}
		s.mu.Lock()
		s.reads++
		s.mu.Unlock()
	}
}

func asSet(commands []string) map[string]bool {
	set := make(map[string]bool, len(commands))
	for _, c := range commands {
		set[c] = true
	}
	return set
}

// calm ends all trouble, and waits until the groups work again.
func (s *simulation) calm() {
	s.t.Helper()
	s.net.Heal()
	s.net.SetWeather(simnet.Weather{MinDelay: time.Millisecond, MaxDelay: 2 * time.Millisecond})
	for _, p := range s.nodes {
		p.disk.Heal()
		if p.up.Load() != nil && len(p.ended) > 0 { // its power went by itself
			s.down(p, func() { p.crash(s.rand.Uint64()) })
		}
		if p.up.Load() == nil {
			p.start()
		}
	}
	for _, p := range s.nodes {
		s.waitFor("change of members", func() bool {
			s.followMap()
			if s.changeMember(MemberChange{p.id, Voter}) == nil {
				return true
			}
			_ = s.changeMember(MemberChange{p.id, Learner}) // it may have to become able first
			return false
		})
	}
	s.followMap()
	for group := range covey.ShardID(simGroups) {
		command := fmt.Sprintf("last of group %d", group)
		s.waitFor(command, func() bool {
			p := s.leader(group, s.all()...)
			err := p.propose(group, time.Second, command)
			s.note(group, command, err)
			return err == nil
		})
	}
}

// verify compares what the clients of a group were told with what is there.
func (s *simulation) verify(group covey.ShardID) int {
	t := s.t
	t.Helper()
	final := s.agree(group)
	if !slices.IsSorted(final.Indexes) || len(slices.Compact(slices.Clone(final.Indexes))) != len(final.Indexes) {
		t.Errorf("group %d: indexes do not ascend", group)
	}
	a := s.answers[group]
	count := map[string]int{}
	for _, c := range final.Commands {
		count[c]++
	}
	for _, c := range a.done {
		if count[c] == 0 {
			t.Errorf("group %d: %.20q was answered and is lost", group, c)
		}
	}
	for _, c := range a.not {
		if count[c] > 0 && !strings.HasPrefix(c, "last") {
			t.Errorf("group %d: %.20q was refused as definitely not done, and is there", group, c)
		}
	}
	known := asSet(slices.Concat(a.done, a.not, a.unknown))
	for c, n := range count {
		if n != 1 && !strings.HasPrefix(c, "last") {
			t.Errorf("group %d: %.20q was applied %d times", group, c, n)
		}
		if !known[c] {
			t.Errorf("group %d: %.20q was never proposed", group, c)
		}
	}
	for _, c := range s.past[group] {
		if len(c.Commands) > len(final.Commands) || !slices.Equal(c.Commands, final.Commands[:len(c.Commands)]) {
			t.Errorf("group %d: a state of %d commands that was durable is not part of the final one", group, len(c.Commands))
		}
	}
	t.Logf("group %d: %d done, %d not, %d unknown, %d applied; %d reads in all; %+v",
		group, len(a.done), len(a.not), len(a.unknown), len(final.Commands), s.reads, s.net.Counts())
	return len(a.done)
}
