package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

var gossipRow = row{
	name: "cluster-gossip",
	what: "how long until all survivors report a node dead: kills and pulled cables, 3 and 16 nodes",
	run:  runGossip,
}

// A detection is one fault: how many seconds until the last survivor reported the
// node dead.
type detection struct {
	Fault   string  `json:"fault"` // killed or unplugged
	Seconds float64 `json:"seconds"`
}

// Faults of a member.
const (
	killed    = "killed"
	unplugged = "unplugged"
)

// runGossip measures membership alone: processes that do nothing but gossip, each
// in a network namespace of its own, all on one bridge.
func runGossip(ctx context.Context, l *lab) ([]figure, error) {
	if os.Geteuid() != 0 {
		return nil, errNeedsRoot
	}
	var figures []figure
	for _, nodes := range []int{3, 16} {
		found, err := l.gossipLab(ctx, nodes, l.roundsOf(30))
		if err != nil {
			return nil, err
		}
		for _, fault := range []string{killed, unplugged} {
			figures = append(figures, detectionFigures(nodes, fault, found)...)
		}
	}
	return figures, nil
}

func detectionFigures(nodes int, fault string, found []detection) []figure {
	var took []float64
	for _, d := range found {
		if d.Fault == fault {
			took = append(took, d.Seconds)
		}
	}
	most := 4.0
	if nodes > 3 {
		most = 5
	}
	name := fmt.Sprintf("%d nodes, one %s: all others know, ", nodes, fault)
	return []figure{
		{Name: name + "p50", Value: percentile(took, 0.5), Unit: "s", Goal: 3, Most: true, Note: fmt.Sprintf("%d times", len(took))},
		{Name: name + "p99", Value: percentile(took, 0.99), Unit: "s", Goal: most, Most: true},
	}
}

// gossipCommand runs this program as the lab, in namespaces that end with it.
const gossipCommand = "gossip-lab"

// gossipLab has the faults made and waits for what came of them.
func (l *lab) gossipLab(ctx context.Context, nodes, times int) ([]detection, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, self, gossipCommand, strconv.Itoa(nodes), strconv.Itoa(times))
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS | unix.CLONE_NEWPID, Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start in new namespaces: %w", err)
	}
	var found []detection
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		var d detection
		if err = json.Unmarshal(lines.Bytes(), &d); err != nil {
			break
		}
		found = append(found, d)
		l.say("%d nodes: %s, known after %.2f s", nodes, d.Fault, d.Seconds)
	}
	_, _ = io.Copy(io.Discard, out)
	return found, errors.Join(err, cmd.Wait())
}

// A gossiper is a member in a namespace.
type gossiper struct {
	id    int
	space string // its network namespace, and the bridge's end of its cable
	cmd   *exec.Cmd
	done  chan struct{} // closed when all that it said is in heard
}

// A sighting is what one member says of another.
type sighting struct {
	by, of int
	state  string
	at     time.Time
}

// gossipNet is known inside the namespaces only.
const gossipNet = "10.91.0."

// A gossipTest is the lab, seen from inside.
type gossipTest struct {
	self    string
	members []*gossiper
	heard   chan sighting
	views   map[[2]int]sighting // the latest of each of each
}

// runGossipLab makes faults and writes what came of each.
func runGossipLab(ctx context.Context, args []string, w io.Writer) error {
	if len(args) != 2 {
		return errors.New("want the number of nodes and of faults")
	}
	nodes, err := strconv.Atoi(args[0])
	times, err2 := strconv.Atoi(args[1])
	if err := errors.Join(err, err2); err != nil {
		return err
	}
	t := &gossipTest{heard: make(chan sighting, 1024), views: make(map[[2]int]sighting)}
	if t.self, err = os.Executable(); err != nil {
		return err
	}
	if err := t.lay(nodes); err != nil {
		return err
	}
	defer t.end()
	for _, m := range t.members {
		if err := t.start(m); err != nil {
			return err
		}
	}
	out := json.NewEncoder(w)
	for n := range times {
		m := t.members[n%nodes]
		for _, fault := range []string{killed, unplugged} {
			took, err := t.fault(ctx, m, fault)
			if err != nil {
				return fmt.Errorf("node %d %s: %w", m.id, fault, err)
			}
			if err := out.Encode(detection{fault, took.Seconds()}); err != nil {
				return err
			}
		}
	}
	return nil
}

// lay makes a bridge and the namespaces on it. What mounts this makes, nobody else
// sees.
func (t *gossipTest) lay(nodes int) error {
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := syscall.Mount("tmpfs", "/run", "tmpfs", 0, ""); err != nil {
		return fmt.Errorf("mount a /run: %w", err)
	}
	if err := ip("link add br0 type bridge", "link set br0 up"); err != nil {
		return err
	}
	for i := range nodes {
		m := &gossiper{id: i + 1, space: fmt.Sprintf("m%d", i+1)}
		err := ip(
			"netns add "+m.space,
			fmt.Sprintf("link add %s type veth peer name eth0 netns %s", m.space, m.space),
			fmt.Sprintf("link set %s master br0 up", m.space),
			fmt.Sprintf("-n %s addr add %s/24 dev eth0", m.space, gossipAddr(m.id)),
			fmt.Sprintf("-n %s link set lo up", m.space),
			fmt.Sprintf("-n %s link set eth0 up", m.space),
		)
		if err != nil {
			return err
		}
		t.members = append(t.members, m)
	}
	return nil
}

func gossipAddr(id int) string { return gossipNet + strconv.Itoa(id) }

// ip runs the commands of ip(8).
func ip(commands ...string) error {
	for _, c := range commands {
		if out, err := exec.Command("ip", strings.Fields(c)...).CombinedOutput(); err != nil {
			return fmt.Errorf("ip %s: %w: %s", c, err, strings.TrimSpace(string(out)))
		}
	}
	return nil
}

// start starts a member.
func (t *gossipTest) start(m *gossiper) error {
	m.cmd = exec.Command("nsenter", "--net=/run/netns/"+m.space, t.self, memberCommand, strconv.Itoa(m.id), strconv.Itoa(len(t.members)))
	m.cmd.Stderr = os.Stderr
	m.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := m.cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := m.cmd.Start(); err != nil {
		return fmt.Errorf("start member %d: %w", m.id, err)
	}
	m.done = make(chan struct{})
	go func() { // ends with the process's output, which kill waits for
		defer close(m.done)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			r := sighting{by: m.id}
			var nanos int64
			if n, _ := fmt.Sscan(lines.Text(), &r.of, &r.state, &nanos); n == 3 {
				r.at = time.Unix(0, nanos)
				t.heard <- r
			}
		}
	}()
	return nil
}

// kill ends a member at once. What it has said is forgotten.
func (t *gossipTest) kill(m *gossiper) {
	_ = m.cmd.Process.Kill()
	for open := true; open; {
		select {
		case r := <-t.heard:
			t.views[[2]int{r.by, r.of}] = r
		case <-m.done:
			open = false
		}
	}
	_ = m.cmd.Wait()
	for of := range t.members {
		delete(t.views, [2]int{m.id, of + 1})
	}
}

func (t *gossipTest) end() {
	for _, m := range t.members {
		if m.cmd != nil {
			t.kill(m)
		}
	}
}

// faultWait bounds how long members may take to agree.
const faultWait = 2 * time.Minute

// fault makes a fault when all know of all, and returns how long the last survivor
// took to call the member dead. Then it is undone.
func (t *gossipTest) fault(ctx context.Context, m *gossiper, fault string) (time.Duration, error) {
	if err := t.until(ctx, func() bool { return t.agree(nil, "alive") }); err != nil {
		return 0, fmt.Errorf("before it: %w", err)
	}
	at := time.Now()
	if fault == killed {
		t.kill(m)
	} else if err := ip("link set " + m.space + " down"); err != nil {
		return 0, err
	}
	if err := t.until(ctx, func() bool { return t.agree(m, "dead") }); err != nil {
		return 0, err
	}
	var last time.Time
	for _, by := range t.members {
		if r := t.views[[2]int{by.id, m.id}]; by != m && r.at.After(last) {
			last = r.at
		}
	}
	if fault == killed {
		return last.Sub(at), t.start(m)
	}
	return last.Sub(at), ip("link set " + m.space + " up")
}

// agree reports whether all others say that a member is in a state, or with nil
// whether all say so of all.
func (t *gossipTest) agree(of *gossiper, state string) bool {
	for _, by := range t.members {
		for _, about := range t.members {
			if by == about || of != nil && (about != of || by == of) {
				continue
			}
			if t.views[[2]int{by.id, about.id}].state != state {
				return false
			}
		}
	}
	return true
}

// until takes in reports until something holds.
func (t *gossipTest) until(ctx context.Context, holds func() bool) error {
	ctx, cancel := context.WithTimeout(ctx, faultWait)
	defer cancel()
	for !holds() {
		select {
		case r := <-t.heard:
			t.views[[2]int{r.by, r.of}] = r
		case <-ctx.Done():
			return fmt.Errorf("the members do not agree after %v: %w", faultWait, ctx.Err())
		}
	}
	return nil
}
