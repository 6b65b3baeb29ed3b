package node

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/covey-mail/covey"
)

func TestZeroMeansDefault(t *testing.T) {
	cfg := Config{Node: NodeConfig{Data: "/data", Hostname: "mail.example.org"}}
	if err := cfg.validate(); err != nil {
		t.Fatal(err)
	}
	want := DefaultConfig("/data", 0)
	want.Node.Hostname = "mail.example.org"
	want.Listen = ListenConfig{} // no address is none, not the default
	if d := cmp.Diff(want, cfg, cmpopts.IgnoreFields(Config{}, "Logger")); d != "" {
		t.Errorf("a configuration with nothing in it (-want +got):\n%s", d)
	}
}

func TestConfigIsRefused(t *testing.T) {
	for _, tt := range []struct {
		say    string
		change func(*Config)
	}{
		{"--data DIR", func(c *Config) { c.Node.Data = "" }},
		{"[node] hostname", func(c *Config) { c.Node.Hostname = "not a name" }},
		{"[cluster] shards is -1", func(c *Config) { c.Cluster.Shards = -1 }},
		{"[cluster] shards is 5000", func(c *Config) { c.Cluster.Shards = 5000 }},
		{"[cluster] replicas is 2: want 1, 3 or 5", func(c *Config) { c.Cluster.Replicas = 2 }},
		{"[cluster] replicas is -1", func(c *Config) { c.Cluster.Replicas = -1 }},
		{"[cluster] rebuild_after is 1ms: want 1s to", func(c *Config) { c.Cluster.RebuildAfter = Duration(time.Millisecond) }},
		{"[cluster] rebuild_after is -1s", func(c *Config) { c.Cluster.RebuildAfter = Duration(-time.Second) }},
		{"[cluster] init needs the addresses of all nodes", func(c *Config) { c.Cluster.Init = true }},
		{"[cluster] join: \"mail1\": want host:port", func(c *Config) { c.Cluster.Join = []string{"mail1"} }},
		{"[cluster] join: \":7947\"", func(c *Config) { c.Cluster.Join = []string{":7947"} }},
		{"[cluster] join: \"mail1:0\"", func(c *Config) { c.Cluster.Join = []string{"mail1:0"} }},
		{"[cluster] join: \"mail1:peer\"", func(c *Config) { c.Cluster.Join = []string{"a:1", "mail1:peer"} }},
		{"\"a:1\" is there twice", func(c *Config) { c.Cluster.Join = []string{"a:1", "b:1", "a:1"} }},
		{"join has 1025 addresses", func(c *Config) { c.Cluster.Join = make([]string, maxJoin+1) }},
		{"set [listen] peer and gossip", func(c *Config) { c.Cluster.Join, c.Listen.Peer, c.Listen.Gossip = []string{"a:1"}, nil, nil }},
		{"[listen] peer and gossip go together", func(c *Config) { c.Listen.Peer = nil }},
		{"[listen] peer and gossip go together", func(c *Config) { c.Listen.Gossip = nil }},
		{"[listen] peer: \"unix:/peer\"", func(c *Config) { c.Listen.Peer = []string{"unix:/peer"} }},
		{"[listen] gossip: \"localhost:7946\": want IP:port", func(c *Config) { c.Listen.Gossip = []string{"localhost:7946"} }},
		{"[listen] gossip: \"[::]:2\": all addresses have the same port", func(c *Config) { c.Listen.Gossip = []string{"0.0.0.0:1", "[::]:2"} }},
		{"[node] advertise \"mail1:7947\"", func(c *Config) { c.Node.Advertise = "mail1:7947" }},
		{"[node] advertise \"[192.0.2.1]\"", func(c *Config) { c.Node.Advertise = "[192.0.2.1]" }},
		{"[node] advertise is ::, which leads every node to itself", func(c *Config) { c.Node.Advertise = "::" }},
		{"[node] zone \"rack 1\"", func(c *Config) { c.Node.Zone = "rack 1" }},
		{"set both or neither", func(c *Config) { c.TLS.Cert = "/cert" }},
		{"set both or neither", func(c *Config) { c.TLS.Key = "/key" }},
		{"clear_text_login", func(c *Config) { c.Limits.ClearTextLogin = "always" }},
		{"[limits] message_size", func(c *Config) { c.Limits.MessageSize = -1 }},
		{"[limits] recipients", func(c *Config) { c.Limits.Recipients = -1 }},
		{"[limits] quota", func(c *Config) { c.Limits.Quota = -1 }},
		{"[limits] connections", func(c *Config) { c.Limits.Connections = -1 }},
		{"[limits] disk_reserve", func(c *Config) { c.Limits.DiskReserve = -1 }},
		{"[limits] checkpoint_every", func(c *Config) { c.Limits.CheckpointEvery = -1 }},
		{"[limits] lmtp_peers", func(c *Config) { c.Limits.LMTPPeers = []string{"10.0.0.1"} }},
		{"[listen] smtp", func(c *Config) { c.Listen.SMTP = []string{"25"} }},
		{"[listen] smtp", func(c *Config) { c.Listen.SMTP = []string{""} }},
		{"[listen] smtp", func(c *Config) { c.Listen.SMTP = []string{":smtp"} }},
		{"[listen] imaps", func(c *Config) { c.Listen.IMAPS = []string{"::1:993"} }},
		{"[listen] metrics", func(c *Config) { c.Listen.Metrics = []string{":70000"} }},
		{"absolute path", func(c *Config) { c.Listen.LMTP = []string{"unix:lmtp.sock"} }},
		{"LMTP must not be on port 25", func(c *Config) { c.Listen.LMTP = []string{"[::1]:25"} }},
	} {
		cfg := config("/data")
		tt.change(&cfg)
		err := cfg.validate()
		if !errors.Is(err, covey.Invalid) || !strings.Contains(err.Error(), tt.say) {
			t.Errorf("got %v, want Invalid that says %q", err, tt.say)
		}
	}
	cfg := config("/data")
	cfg.Listen.IMAPS = []string{"[::1]:993", "localhost:0", "unix:/run/imaps"}
	cfg.Listen.Peer, cfg.Listen.Gossip = []string{"localhost:0", "[::1]:7947"}, []string{"127.0.0.1:0", ":0"}
	cfg.Node.Advertise, cfg.Node.Zone = "2001:db8::1", "eu-1.b_2"
	cfg.Cluster.Init, cfg.Cluster.Join = true, []string{"covey-0.covey:7947", "[2001:db8::1]:7947", "192.0.2.1:7947"}
	if err := cfg.validate(); err != nil {
		t.Errorf("good addresses: %v", err)
	}
}

func TestDurationText(t *testing.T) {
	for text, want := range map[string]time.Duration{"90s": 90 * time.Second, "1h30m": 90 * time.Minute, "0s": 0} {
		var d Duration
		if err := d.UnmarshalText([]byte(text)); err != nil || time.Duration(d) != want {
			t.Errorf("%s: got %v, %v", text, d, err)
		}
		again := Duration(1)
		b, err := d.MarshalText()
		if err != nil || again.UnmarshalText(b) != nil || again != d {
			t.Errorf("%s: written as %s, %v", text, b, err)
		}
	}
	for _, text := range []string{"", "60", "-1s", "soon"} {
		var d Duration
		if err := d.UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q is taken for %v", text, d)
		}
	}
}
