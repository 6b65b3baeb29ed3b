package main

import (
	"cmp"
	"context"
	"crypto/sha1"
	"encoding/base64"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/covey-mail/covey/node/admin"
)

// cluster is the hosts that are members, and what breaks them.
type cluster struct {
	options
	ledger *ledger
	load   *load
	hosts  []*host
	made   int // hosts made so far, for the next one's number
	secret string
	r      *rand.Rand // of this round

	mu      sync.Mutex // guards windows
	windows []window
}

// window is a time in which hosts could reach no quorum, so that no change that
// was asked of them in it may be acknowledged in it.
type window struct {
	hosts    []*host
	from, to time.Time
}

// users of the cluster; each has its name as password.
func userNames(n int) []string {
	names := make([]string, n)
	for i := range names {
		names[i] = fmt.Sprintf("u%d", i)
	}
	return names
}

// newCluster starts nodes that make a cluster, with users and their mailboxes.
func newCluster(ctx context.Context, o options) (*cluster, error) {
	if err := layBridge(); err != nil {
		return nil, err
	}
	c := &cluster{options: o, ledger: newLedger(), secret: filepath.Join(o.dir, "secret")}
	_ = os.Remove(c.secret) // of a run before
	if err := sh(o.bin + " secret " + c.secret); err != nil {
		return nil, err
	}
	peers := make([]string, o.nodes)
	for i := range peers {
		peers[i] = fmt.Sprintf("%s%d:%s", subnet, i+1, peerPort)
	}
	for range o.nodes {
		h, err := c.newMember(peers)
		if err != nil {
			return nil, err
		}
		h.args = append(h.args, "--init")
		c.hosts = append(c.hosts, h)
	}
	for _, h := range c.hosts {
		if err := h.start(); err != nil {
			return nil, err
		}
	}
	c.load = &load{ledger: c.ledger, users: userNames(3 * o.shards), rate: o.rate}
	c.share()
	return c, c.populate(ctx)
}

// newMember makes a host that would join peers.
func (c *cluster) newMember(peers []string) (*host, error) {
	c.made++
	h, err := newHost(c.options, c.made)
	if err != nil {
		return nil, err
	}
	c.introduce(h, peers)
	h.env = c.settings(h.ip)
	return h, nil
}

// introduce has a host ask peers for a cluster, if it comes with an empty disk.
func (c *cluster) introduce(h *host, peers []string) {
	h.args = []string{"--secret-file", c.secret, "--join", strings.Join(peers, ",")}
}

// peerAddrs are where hosts listen for others.
func peerAddrs(hosts []*host) (addrs []string) {
	for _, h := range hosts {
		addrs = append(addrs, h.ip+":"+peerPort)
	}
	return addrs
}

// settings of a node: small segments and frequent checkpoints, so that all of the
// machinery turns within a round.
func (c *cluster) settings(ip string) []string {
	env := []string{
		"COVEY_NODE_HOSTNAME=mail.example.org", "COVEY_LISTEN_METRICS=127.0.0.1:9925",
		"COVEY_LIMITS_LMTP_PEERS=" + subnet + "0/24", "COVEY_LIMITS_PER_ADDRESS=1000",
		"COVEY_LIMITS_CHECKPOINT_EVERY=2s", "COVEY_LIMITS_COMPACT_EVERY=1s",
		fmt.Sprintf("COVEY_LIMITS_SEGMENT_SIZE=%d", 4<<20), fmt.Sprintf("COVEY_LIMITS_DISK_RESERVE=%d", 16<<20),
		fmt.Sprintf("COVEY_LIMITS_LOG_KEEP=%d", 128<<10),
		fmt.Sprintf("COVEY_CLUSTER_SHARDS=%d", c.shards),
	}
	for service, port := range map[string]string{
		"SMTP": smtpPort, "LMTP": lmtpPort, "IMAPS": imapsPort, "POP3S": pop3sPort, "PEER": peerPort, "GOSSIP": gossipPort,
		"SUBMISSION": "", "SUBMISSIONS": "", "IMAP": "", "POP3": "",
	} {
		addr := ""
		if port != "" {
			addr = ip + ":" + port
		}
		env = append(env, "COVEY_LISTEN_"+service+"="+addr)
	}
	return env
}

// share tells the clients which hosts there are.
func (c *cluster) share() {
	hosts := slices.Clone(c.hosts)
	c.load.hosts.Store(&hosts)
}

// populate waits for the cluster and makes domain, users and mailboxes.
func (c *cluster) populate(ctx context.Context) error {
	if err := c.await(ctx, time.Minute, "three nodes that are ready", c.allReady); err != nil {
		return err
	}
	h := c.hosts[0]
	if _, err := h.covey(ctx, "", "domain", "add", "example.org"); err != nil {
		return err
	}
	if err := c.importUsers(ctx, h); err != nil {
		return err
	}
	list, err := call[[]admin.User](h, admin.UserList, admin.Page{})
	if err != nil {
		return err
	}
	c.ledger.shards = make(map[string]int)
	for _, u := range list {
		name, _, _ := strings.Cut(u.Address, "@")
		c.ledger.shards[name] = int(u.Shard)
	}
	if err := c.makeBoxes(ctx); err != nil {
		return err
	}
	return c.await(ctx, 2*time.Minute, "replicas of each shard", c.replicated)
}

// importUsers makes the accounts, with hashes that cost nothing to check: log-ins
// are not what is tested.
func (c *cluster) importUsers(ctx context.Context, h *host) error {
	var lines strings.Builder
	for _, u := range c.load.users {
		const salt = "salt"
		sum := sha1.Sum([]byte(u + salt))
		fmt.Fprintf(&lines, "%s {SSHA}%s\n", address(u), base64.StdEncoding.EncodeToString(append(sum[:], salt...)))
	}
	name := filepath.Join(c.dir, "users")
	if err := os.WriteFile(name, []byte(lines.String()), 0o600); err != nil {
		return err
	}
	_, err := h.covey(ctx, "", "user", "import", name)
	return err
}

// makeBoxes makes the second mailbox of each user.
func (c *cluster) makeBoxes(ctx context.Context) error {
	errs := make(chan error)
	for _, u := range c.load.users {
		go func() {
			errs <- c.await(ctx, time.Minute, "mailboxes of "+u, func() error {
				s, err := imapLogin(c.hosts[0], u)
				if err != nil {
					return err
				}
				defer s.close()
				if _, _, err := s.ask("CREATE %s", box); err != nil && !strings.Contains(err.Error(), "ALREADYEXISTS") {
					return err
				}
				return nil
			})
		}()
	}
	var err error
	for range c.load.users {
		err = errors.Join(err, <-errs)
	}
	return err
}

// await tries until it succeeds, for a time.
func (c *cluster) await(ctx context.Context, limit time.Duration, what string, try func() error) error {
	var err error
	for end := time.Now().Add(limit); time.Now().Before(end); {
		if err = try(); err == nil {
			return nil
		}
		if !nap(ctx, 100*time.Millisecond) {
			return ctx.Err()
		}
	}
	return fmt.Errorf("no %s after %v: %w", what, limit, err)
}

// allReady reports why some host does not serve.
func (c *cluster) allReady() error {
	for _, h := range c.hosts {
		s, err := call[admin.Health](h, admin.NodeHealth, admin.Empty{})
		if err != nil {
			return fmt.Errorf("%s: %w", h.name, err)
		}
		if s.Reason != "" {
			return fmt.Errorf("%s: %s", h.name, s.Reason)
		}
	}
	return nil
}

// replicated reports which shard lacks a replica or a leader, or has one that
// stopped.
func (c *cluster) replicated() error {
	s, err := c.status()
	if err != nil {
		return err
	}
	for _, g := range s.Shards {
		voters := 0
		for _, r := range g.Replicas {
			if !r.Learner && !r.Silent {
				voters++
			}
		}
		switch {
		case g.Stopped != "":
			return fmt.Errorf("shard %d stopped: %s", g.ID, g.Stopped)
		case g.Leader == "":
			return fmt.Errorf("shard %d has no leader", g.ID)
		case voters < min(len(c.hosts), 3):
			return fmt.Errorf("shard %d has %d voters that are heard", g.ID, voters)
		}
	}
	return nil
}

// status asks the first host that answers.
func (c *cluster) status() (s admin.Status, err error) {
	for _, h := range c.hosts {
		if !h.running() {
			continue
		}
		if s, err = call[admin.Status](h, admin.NodeStatus, admin.Empty{}); err == nil {
			return s, nil
		}
	}
	return s, fmt.Errorf("no node tells its status: %w", err)
}

// byLeads returns the hosts, those that lead most shards first. Without an answer
// the order is drawn.
func (c *cluster) byLeads() []*host {
	hosts := slices.Clone(c.hosts)
	c.r.Shuffle(len(hosts), func(i, j int) { hosts[i], hosts[j] = hosts[j], hosts[i] })
	leads := make(map[string]int)
	if s, err := c.status(); err == nil {
		for _, g := range s.Shards {
			leads[g.Leader]++
		}
	}
	ids := make(map[*host]string)
	for _, h := range hosts {
		if s, err := call[admin.Status](h, admin.NodeStatus, admin.Empty{}); err == nil {
			ids[h] = s.Node
		}
	}
	slices.SortStableFunc(hosts, func(a, b *host) int { return cmp.Compare(leads[ids[b]], leads[ids[a]]) })
	return hosts
}

func (c *cluster) leader() *host   { return c.byLeads()[0] }
func (c *cluster) follower() *host { return c.byLeads()[len(c.hosts)-1] }
func (c *cluster) random() *host   { return c.hosts[c.r.IntN(len(c.hosts))] }

// others are all hosts but h.
func (c *cluster) others(h *host) []*host {
	return slices.DeleteFunc(slices.Clone(c.hosts), func(o *host) bool { return o == h })
}

// some draws n hosts.
func (c *cluster) some(n int) []*host {
	hosts := slices.Clone(c.hosts)
	c.r.Shuffle(len(hosts), func(i, j int) { hosts[i], hosts[j] = hosts[j], hosts[i] })
	return hosts[:n]
}

// silence enters that hosts can reach no quorum from now on, until the returned
// function is called, which is before they can again.
func (c *cluster) silence(hosts ...*host) (end func()) {
	from := time.Now()
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.windows = append(c.windows, window{hosts, from, time.Now()})
	}
}

// takeWindows returns this round's windows, and forgets them.
func (c *cluster) takeWindows() []window {
	c.mu.Lock()
	defer c.mu.Unlock()
	w := c.windows
	c.windows = nil
	return w
}

// last waits for about n times the length of a fault.
func (c *cluster) last(n float64) {
	<-time.After(time.Duration(n * (0.75 + 0.5*c.r.Float64()) * float64(c.hold)))
}
