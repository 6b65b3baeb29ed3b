package node

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"fmt"
	"net"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/directory"
	"github.com/covey-mail/covey/internal/peer"
	"github.com/covey-mail/covey/membership"
)

// What nodes ask each other. The numbers travel: add at the end.
const (
	methodHello    peer.Method          = iota + 1 // to join: empty → the cluster's id, empty if there is none yet
	methodJoin                                     // to join: joinRequest → joinReply
	methodPing                                     // empty → empty, at once
	methodWatch                                    // empty → empty, after a while: who waits for it sees the link break
	methodPropose                                  // to the leader of a shard: see route.Shards.Serve
	methodMembers                                  // to the leader of a shard: number → nodes
	methodShards                                   // empty → what the node knows of its shards, as JSON
	methodLeaders                                  // empty → term and leader of the node's own groups: see serveLeaders
	methodQueue                                    // number → what waits in the queues of shards that the node leads, as JSON
	methodApart                                    // hash, shard → deliveries of the node whose senders are there: see delivery.Service.Apart
	methodAccounts                                 // what accounts hold: numbers of shards and accounts → bytes, messages
	methodSecrets                                  // secrets to use, or none → secrets in use
	methodFound                                    // number of a shard, term: to begin the shard anew
	methodHash                                     // hashRequest → compare.Answer
	methodFetch    = peer.FirstBulk                // a chunk of a copy of a shard
	methodPart     = peer.FirstBulk + 1            // partRequest → part of a body
	methodQuota    = peer.FirstBulk + 2            // accounts over their quota: see quota.Board.Serve
)

// What nodes tell each other.
const (
	kindRaft  peer.Kind = iota + 1
	kindLogon           // tries to log in: logon.AppendNews
)

// links are this node's part in the links of the cluster.
type links struct {
	*peer.Net
	key       ed25519.PrivateKey
	listeners []net.Listener
	serving   sync.WaitGroup
	directory atomic.Pointer[directory.Service]
	gossip    atomic.Pointer[membership.Gossip]

	acceptOlder bool // [cluster] accept_older_disks

	mu      sync.Mutex                 // guards what follows
	boot    map[covey.NodeID]bootNode  // known from joining, until the directory is here
	putBack map[covey.NodeID]time.Time // not believed since
}

type bootNode struct {
	key  ed25519.PublicKey
	addr string
}

// openLinks opens the peer port and begins to answer there. A node that is in no
// cluster yet answers only what others ask to find out.
func (n *Node) openLinks(context.Context) error {
	l := &links{acceptOlder: n.cfg.Cluster.AcceptOlderDisks, boot: make(map[covey.NodeID]bootNode), putBack: make(map[covey.NodeID]time.Time)}
	var err error
	if l.key, err = peer.OpenKey(n.sys.FS, n.folder.path("node.key"), rand.Reader); err != nil {
		return err
	}
	n.links = l
	if len(n.cfg.Listen.Peer) == 0 {
		return nil
	}
	if err := n.openSecrets(); err != nil {
		return err
	}
	m := peer.NewMetrics()
	n.metrics.MustRegister(m.Collectors()...)
	l.Net, err = peer.New(peer.Config{
		Node: n.folder.id, Key: l.key, Secrets: n.secrets.all(), Pin: l.pin, Addr: l.addr, Stamp: n.folder.stamp(), Believe: l.believe,
		Dial: n.sys.Dial, Logger: n.cfg.Logger, Metrics: m,
	})
	if err != nil {
		return err
	}
	for _, addr := range n.cfg.Listen.Peer {
		ln, err := net.Listen("tcp", addr)
		if err != nil {
			return fmt.Errorf("[listen] peer: %w%s", err, listenHint(err))
		}
		l.listeners = append(l.listeners, ln)
	}
	l.HandleJoin(methodHello, n.serveHello)
	l.HandleJoin(methodJoin, n.serveJoin)
	for _, ln := range l.listeners {
		l.serving.Go(func() {
			if err := l.Serve(ln); err != nil {
				n.log.Error("listener ended", "service", "peer", "address", ln.Addr().String(), "err", err)
			}
		})
	}
	return nil
}

// port returns the port that other nodes dial, 0 if none can.
func (l *links) port() int {
	if len(l.listeners) == 0 {
		return 0
	}
	return l.listeners[0].Addr().(*net.TCPAddr).Port
}

// pin is peer.Config.Pin.
func (l *links) pin(id covey.NodeID) (ed25519.PublicKey, bool) {
	if d := l.directory.Load(); d != nil {
		if key, ok := d.Pin(id); ok {
			return key, true
		}
		if _, shards := d.Cluster(); shards > 0 { // the directory is here, and has the last word
			return nil, false
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	b, ok := l.boot[id]
	return b.key, ok
}

// addr is peer.Config.Addr. What a living node gossips is newer than what the
// directory has.
func (l *links) addr(id covey.NodeID) (string, bool) {
	if g := l.gossip.Load(); g != nil {
		if m, ok := g.Member(id); ok && m.State == membership.Alive && m.Peer != "" {
			return m.Peer, true
		}
	}
	if d := l.directory.Load(); d != nil {
		if node, ok := d.Node(id); ok && node.Peer != "" {
			return node.Peer, true
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	b, ok := l.boot[id]
	return b.addr, ok
}

// learn takes in nodes that joining told of.
func (l *links) learn(nodes []joinNode) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, n := range nodes {
		l.boot[n.id] = bootNode{n.key, n.peer}
	}
}

// close ends everything. The zero links have nothing to end.
func (l *links) close() {
	if l == nil || l.Net == nil {
		return
	}
	l.Close()
	for _, ln := range l.listeners {
		_ = ln.Close() // Serve may not have begun
	}
	l.serving.Wait()
}

// advertised returns the host:port at which other nodes reach a port of this one.
// toward is the address of a node that is to, if one is known: the interface that
// leads there is a good guess.
func (n *Node) advertised(port int, listen []string, toward string) string {
	if port == 0 {
		return ""
	}
	host := n.cfg.Node.Advertise
	if host == "" && len(listen) > 0 {
		if h, _, err := net.SplitHostPort(listen[0]); err == nil {
			if ip := net.ParseIP(h); h != "" && (ip == nil || !ip.IsUnspecified()) {
				host = h
			}
		}
	}
	if host == "" {
		host = outbound(toward)
	}
	return net.JoinHostPort(host, strconv.Itoa(port))
}

// outbound returns the address of the interface that leads to another host, or to
// the world. Nothing is sent.
func outbound(toward string) string {
	for _, to := range []string{toward, "192.0.2.1:9", "[2001:db8::1]:9"} {
		if to == "" {
			continue
		}
		c, err := net.Dial("udp", to)
		if err != nil {
			continue
		}
		host, _, err := net.SplitHostPort(c.LocalAddr().String())
		_ = c.Close() // nothing was sent
		if err == nil {
			return host
		}
	}
	return "127.0.0.1"
}

// info is what this node says of itself to the directory.
func (n *Node) info() directory.NodeInfo {
	toward := ""
	if i := slices.IndexFunc(n.joinAddrs(), func(a string) bool { return a != "" }); i >= 0 {
		toward = n.joinAddrs()[i]
	}
	return directory.NodeInfo{
		Peer:   n.advertised(n.links.port(), n.cfg.Listen.Peer, toward),
		Gossip: n.gossipAddr(toward),
		Zone:   n.cfg.Node.Zone, Version: clipVersion(n.cfg.Version), Level: n.sys.Level,
	}
}

// clipVersion bounds a version to what the directory takes.
func clipVersion(v string) string { return v[:min(len(v), 64)] }
