package membership

import (
	"bytes"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/covey-mail/covey"
)

func TestConfig(t *testing.T) {
	tests := map[string]func(*Config){
		"no id":              func(c *Config) { c.Self.ID = 0 },
		"no peer address":    func(c *Config) { c.Self.Peer = "" },
		"no key":             func(c *Config) { c.Keys = nil },
		"three keys":         func(c *Config) { c.Keys = [][]byte{key(1), key(2), key(3)} },
		"short key":          func(c *Config) { c.Keys = [][]byte{make([]byte, 16)} },
		"no time to probe":   func(c *Config) { c.Timing.Probe = 300 * time.Millisecond },
		"nowhere to be":      func(c *Config) { c.Bind = "" },
		"version of a novel": func(c *Config) { c.Self.Version = strings.Repeat("v", 65) },
	}
	for name, edit := range tests {
		c := Config{Self: Member{ID: 1, Peer: "127.0.0.1:1"}, Keys: [][]byte{key(1)}, Bind: "127.0.0.1:0"}
		edit(&c)
		if g, err := Start(c); covey.KindOf(err) != covey.Invalid {
			t.Errorf("%s: %v, want Invalid", name, err)
			if err == nil {
				g.Close()
			}
		}
	}
}

// TestInstallKeys goes from any keys to any other.
func TestInstallKeys(t *testing.T) {
	sets := [][][]byte{{key(1)}, {key(2)}, {key(1), key(2)}, {key(2), key(1)}, {key(2), key(3)}, {key(3), key(4)}, {key(5), key(5)}}
	for _, from := range sets {
		for _, to := range sets {
			ring := &memberlist.Keyring{}
			if err := install(ring, from); err != nil {
				t.Fatal(err)
			}
			if err := install(ring, to); err != nil {
				t.Fatal(err)
			}
			want := slices.CompactFunc(slices.Clone(to), bytes.Equal)
			if got := ring.GetKeys(); !slices.EqualFunc(got, want, bytes.Equal) {
				t.Errorf("from %v to %v: %v", from, to, got)
			}
		}
	}
	ring := &memberlist.Keyring{}
	mine := key(1)
	if err := install(ring, [][]byte{mine}); err != nil {
		t.Fatal(err)
	}
	clear(mine)
	if !bytes.Equal(ring.GetPrimaryKey(), key(1)) {
		t.Error("the ring shares the caller's memory")
	}
	if err := install(ring, nil); covey.KindOf(err) != covey.Invalid {
		t.Errorf("no keys: %v", err)
	}
}

// TestC01_WhoMayBeAMember: at the door, before memberlist takes anybody in.
func TestC01_WhoMayBeAMember(t *testing.T) {
	node := func(name string, m Member) *memberlist.Node {
		return &memberlist.Node{Name: name, Meta: encodeMeta(m)}
	}
	m := Member{ID: 0xabc, Peer: "h:1"}
	d := delegate{&Gossip{admitted: map[covey.NodeID]bool{}}}
	if err := d.NotifyAlive(node("0000000000000abc", m)); err != nil {
		t.Error(err)
	}
	for name, n := range map[string]*memberlist.Node{
		"no id":             node("node-7", m),
		"another id":        node("0000000000000abd", m),
		"upper case":        node("0000000000000ABC", m),
		"no description":    {Name: "0000000000000abc"},
		"wrong description": node("0000000000000abc", Member{ID: 0xabc}),
	} {
		if err := d.NotifyAlive(n); err == nil {
			t.Errorf("%s: let in", name)
		}
	}
	for i := range maxMembers + 10 {
		m.ID = covey.NodeID(i + 1)
		err := d.NotifyAlive(node(m.ID.String(), m))
		if want := i < maxMembers-1 || m.ID == 0xabc; (err == nil) != want {
			t.Fatalf("member %d: %v", i+1, err)
		}
	}
	if len(d.admitted) != maxMembers {
		t.Errorf("%d members", len(d.admitted))
	}
}

// TestMissing: whom it is worth trying to reach.
func TestMissing(t *testing.T) {
	at := func(n int) string { return fmt.Sprintf("10.0.0.%d:7946", n) }
	g := &Gossip{
		self: Member{ID: 1},
		members: map[covey.NodeID]Member{
			1: {ID: 1, Gossip: at(1), State: Alive},
			2: {ID: 2, Gossip: at(2), State: Alive},
			3: {ID: 3, Gossip: at(3), State: Suspect},
			4: {ID: 4, Gossip: at(4), State: Dead},
			5: {ID: 5, Gossip: at(5), State: Left},
			6: {ID: 6, Gossip: at(6), State: Left},
		},
		log: newLogbook(slog.New(slog.DiscardHandler), NewMetrics()),
	}
	g.cfg.Seeds = func() []string {
		return []string{at(1), at(2), at(3), at(4), at(6), at(7), "[::ffff:10.0.0.2]:7946", "bad"}
	}
	addrs := func(ns ...int) (as []netip.AddrPort) {
		for _, n := range ns {
			as = append(as, netip.MustParseAddrPort(at(n)))
		}
		return as
	}
	missing, there := g.missing(t.Context())
	slices.SortFunc(missing, netip.AddrPort.Compare)
	slices.SortFunc(there, netip.AddrPort.Compare)
	if want := addrs(4, 6, 7); !slices.Equal(missing, want) {
		t.Errorf("missing are %v, want %v", missing, want)
	}
	if want := addrs(2, 3); !slices.Equal(there, want) {
		t.Errorf("there are %v, want %v", there, want)
	}
	g.left = true
	if missing, there := g.missing(t.Context()); len(missing)+len(there) > 0 {
		t.Errorf("having left it tries %v and %v", missing, there)
	}
}

func TestLogbook(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out := &lines{}
		l := newLogbook(slog.New(slog.NewTextHandler(out, &slog.HandlerOptions{Level: slog.LevelDebug})), NewMetrics())
		write := func(s string) { _, _ = l.Write([]byte(s + "\n")) }
		for i := range 100 {
			write(fmt.Sprintf("[ERR] memberlist: Conflicting address for %d. Mine: …", i))
			l.say("seed", "seed is gone")
		}
		if a, b := out.count("Conflicting"), out.count("seed is gone"); a != 1 || b != 1 {
			t.Errorf("logged %d and %d times", a, b)
		}
		<-time.After(logEvery)
		write("[ERR] memberlist: Conflicting address for 7. Mine: …")
		if out.count("more_of_it=99") != 1 {
			t.Errorf("what was left out is not told: %s", out.text.String())
		}
		write("[DEBUG] memberlist: Stream connection from=pipe")
		write("[WARN] memberlist: Refuting a suspect message (from: x)")
		write("[DEBUG] memberlist: " + strings.Repeat("y", 5000))
		if got := out.text.String(); strings.Contains(got, "pipe") || !strings.Contains(got, "level=DEBUG msg=memberlist says=\"Refuting") || len(got) > 2000 {
			t.Errorf("logged %s", got)
		}
		for i := range 10 * maxKinds {
			l.say(fmt.Sprint("kind", i), "flood")
		}
		if got := out.count("flood"); got > maxKinds {
			t.Errorf("%d kinds", got)
		}
		l.close()
		before := out.text.String()
		<-time.After(2 * logEvery)
		write("[ERR] memberlist: Conflicting address for 8.")
		write("[INFO] memberlist: more")
		if out.text.String() != before {
			t.Error("closed, and still talking")
		}
	})
}
