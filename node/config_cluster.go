package node

import (
	"net"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/directory"
)

// maxJoin bounds the addresses of [cluster] join.
const maxJoin = directory.MaxNodes

// validateCluster checks what other nodes have to do with.
func (c *Config) validateCluster() error {
	k := c.Cluster
	if k.Shards < 1 || k.Shards > maxShards {
		return covey.Errorf(covey.Invalid, "[cluster] shards is %d: want 1 to %d", k.Shards, maxShards)
	}
	if k.Replicas != 1 && k.Replicas != 3 && k.Replicas != 5 {
		return covey.Errorf(covey.Invalid, "[cluster] replicas is %d: want 1, 3 or 5", k.Replicas)
	}
	if d := time.Duration(k.RebuildAfter); d < directory.MinRebuildAfter || d > directory.MaxRebuildAfter {
		return covey.Errorf(covey.Invalid, "[cluster] rebuild_after is %v: want %v to %v", d, directory.MinRebuildAfter, directory.MaxRebuildAfter)
	}
	if err := directory.CheckZone(c.Node.Zone); err != nil {
		return covey.Errorf(covey.Invalid, "[node] %w", err)
	}
	if err := checkAdvertise(c.Node.Advertise); err != nil {
		return err
	}
	if err := c.Listen.validateLinks(); err != nil {
		return err
	}
	return c.validateJoin()
}

func (c *Config) validateJoin() error {
	k := c.Cluster
	switch {
	case k.Init && len(k.Join) == 0:
		return covey.Errorf(covey.Invalid, "[cluster] init needs the addresses of all nodes, this one's among them, in join; for a cluster of one leave init away")
	case len(k.Join) > maxJoin:
		return covey.Errorf(covey.Invalid, "[cluster] join has %d addresses: %d are enough", len(k.Join), maxJoin)
	case len(k.Join) > 0 && len(c.Listen.Peer) == 0:
		return covey.Errorf(covey.Invalid, "[cluster] join: a node that others cannot reach cannot join: set [listen] peer and gossip")
	}
	for i, addr := range k.Join {
		host, port, ok := splitHostPort(addr)
		if !ok || port == 0 || !isHost(host) {
			return covey.Errorf(covey.Invalid, "[cluster] join: %q: want host:port, the port being that of the node's [listen] peer", addr)
		}
		if slices.Contains(k.Join[:i], addr) {
			return covey.Errorf(covey.Invalid, "[cluster] join: %q is there twice", addr)
		}
	}
	return nil
}

// validateLinks checks the listeners for other nodes.
func (l ListenConfig) validateLinks() error {
	if (len(l.Peer) == 0) != (len(l.Gossip) == 0) {
		return covey.Errorf(covey.Invalid, "[listen] peer and gossip go together: set both, or neither for a node that stays alone")
	}
	for _, addr := range l.Peer {
		if _, _, ok := splitHostPort(addr); !ok {
			return covey.Errorf(covey.Invalid, "[listen] peer: %q: want host:port", addr)
		}
	}
	first := 0
	for i, addr := range l.Gossip {
		host, port, ok := splitHostPort(addr)
		if _, err := netip.ParseAddr(host); !ok || host != "" && err != nil {
			return covey.Errorf(covey.Invalid, "[listen] gossip: %q: want IP:port or :port", addr)
		}
		if i == 0 {
			first = port
		}
		if port != first {
			return covey.Errorf(covey.Invalid, "[listen] gossip: %q: all addresses have the same port, and %q has %d", addr, l.Gossip[0], first)
		}
	}
	return nil
}

// checkAdvertise refuses what other nodes cannot dial.
func checkAdvertise(host string) error {
	if host == "" {
		return nil
	}
	if ip, err := netip.ParseAddr(host); err == nil && ip.IsUnspecified() {
		return covey.Errorf(covey.Invalid, "[node] advertise is %s, which leads every node to itself: want an address of this host", host)
	}
	if !isHost(host) {
		return covey.Errorf(covey.Invalid, "[node] advertise %q: want an IP address or a host name, without port: that is the one of [listen] peer and gossip", host)
	}
	return nil
}

// isHost reports whether s is an IP address or a host name.
func isHost(s string) bool {
	if _, err := netip.ParseAddr(s); err == nil {
		return true
	}
	_, err := covey.ParseDomain(s)
	return err == nil && s[0] != '['
}

// splitHostPort splits an address with a number for a port.
func splitHostPort(addr string) (host string, port int, ok bool) {
	host, text, err := net.SplitHostPort(addr)
	port, noNumber := strconv.Atoi(text)
	return host, port, err == nil && noNumber == nil && port >= 0 && port <= 65535
}
