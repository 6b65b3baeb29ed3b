package membership

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	dto "github.com/prometheus/client_model/go"
	"go.uber.org/goleak"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/internal/simnet"
	"github.com/covey-mail/covey/membership/membershiptest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// lan is a network in good order.
var lan = simnet.Weather{MinDelay: 100 * time.Microsecond, MaxDelay: time.Millisecond}

// A world is a network with nodes on it, inside a synctest bubble.
type world struct {
	*testing.T
	net   *membershiptest.Net
	nodes map[covey.NodeID]*node // those that run
	seeds []string
}

// A node is one life of a node.
type node struct {
	*Gossip
	host *membershiptest.Host
	log  *lines

	mu      sync.Mutex // guards the following
	changes []Member
	leads   []Leader
}

// inWorld runs a test in a bubble and ends all nodes after it.
func inWorld(t *testing.T, weather simnet.Weather, test func(w *world)) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{T: t, net: membershiptest.New(1, weather), nodes: map[covey.NodeID]*node{}}
		ctx, cancel := context.WithCancel(t.Context())
		var net sync.WaitGroup
		net.Go(func() { w.net.Run(ctx) })
		defer func() {
			for _, n := range w.nodes {
				n.Close()
			}
			w.pass(5 * time.Second) // memberlist's last probes
			cancel()
			net.Wait()
		}()
		test(w)
	})
}

func key(b byte) []byte { return bytes.Repeat([]byte{b}, 32) }

func (w *world) config(id covey.NodeID, ip string) (Config, *node) {
	n := &node{host: w.net.Host(id, ip), log: &lines{}}
	return Config{
		Self:          Member{ID: id, Peer: ip + ":7947", Version: "v1", Zone: "z"},
		Keys:          [][]byte{key(1)},
		Transport:     n.host,
		Seeds:         func() []string { return w.seeds },
		Changed:       n.changed,
		LeaderChanged: n.leaderChanged,
		Logger:        slog.New(slog.NewTextHandler(n.log, nil)),
	}, n
}

// start starts a node, with what edit changes in its Config.
func (w *world) start(id covey.NodeID, edit ...func(*Config)) *node {
	w.Helper()
	return w.startAt(id, membershiptest.IP(int(id)), edit...)
}

func (w *world) startAt(id covey.NodeID, ip string, edit ...func(*Config)) *node {
	w.Helper()
	cfg, n := w.config(id, ip)
	for _, e := range edit {
		e(&cfg)
	}
	var err error
	if n.Gossip, err = Start(cfg); err != nil {
		w.Fatal(err)
	}
	w.nodes[id] = n
	return n
}

// cluster starts n nodes that know each other's addresses and waits until all see
// all.
func (w *world) cluster(n int) {
	w.Helper()
	for i := range n {
		w.seeds = append(w.seeds, membershiptest.IP(i+1)+":7946")
	}
	for i := range n {
		w.start(covey.NodeID(i + 1))
	}
	w.all(Alive)
}

// all waits until all nodes that run see all nodes that run in a state.
func (w *world) all(s State) {
	w.Helper()
	for id := range w.nodes {
		w.see(id, s)
	}
}

// see waits until all nodes that run, but for itself, see a node in a state.
func (w *world) see(id covey.NodeID, s State) {
	w.Helper()
	for by, n := range w.nodes {
		if by != id {
			w.until(fmt.Sprintf("%s sees %s %s", by, id, s), func() bool {
				m, _ := n.Member(id)
				return m.State == s
			})
		}
	}
}

// until waits for a condition, for a minute of the bubble's time.
func (w *world) until(what string, cond func() bool) {
	w.Helper()
	w.within(time.Minute, what, cond)
}

// within waits for a condition, for some of the bubble's time.
func (w *world) within(d time.Duration, what string, cond func() bool) {
	w.Helper()
	for by := time.Now().Add(d); !cond(); w.pass(10 * time.Millisecond) {
		if time.Now().After(by) {
			for id, n := range w.nodes {
				for _, m := range n.Members() {
					w.Logf("to %s, %s is %s since %s", id, m.ID, m.State, m.Since)
				}
			}
			w.Fatalf("it never happens that %s", what)
		}
	}
}

// pass lets time pass.
func (w *world) pass(d time.Duration) { <-time.After(d) }

// crash ends a node like SIGKILL.
func (w *world) crash(id covey.NodeID) {
	n := w.nodes[id]
	n.host.Kill()
	n.Close()
	delete(w.nodes, id)
}

func (n *node) changed(m Member) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.changes = append(n.changes, m)
}

func (n *node) leaderChanged(l Leader) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.leads = append(n.leads, l)
}

// states returns the states of a member that Changed was told, in order.
func (n *node) states(id covey.NodeID) (ss []State) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, m := range n.changes {
		if m.ID == id {
			ss = append(ss, m.State)
		}
	}
	return ss
}

// lines is a log that can be searched.
type lines struct {
	mu   sync.Mutex // guards text
	text strings.Builder
}

var _ io.Writer = (*lines)(nil)

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

// count returns how many lines contain a text.
func (l *lines) count(text string) (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for line := range strings.Lines(l.text.String()) {
		if strings.Contains(line, text) {
			n++
		}
	}
	return n
}

// refused returns how often something was refused for a reason.
func refused(t *testing.T, g *Gossip, reason string) int {
	t.Helper()
	var m dto.Metric
	if err := g.cfg.Metrics.refused.WithLabelValues(reason).Write(&m); err != nil {
		t.Fatal(err)
	}
	return int(m.GetCounter().GetValue())
}
