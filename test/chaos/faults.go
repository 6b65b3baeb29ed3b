package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/covey-mail/covey/node/admin"
	"github.com/covey-mail/covey/test/process"
)

// A fault is one way to break a cluster. do injects it, lets it last, and heals it;
// an error is one of the harness, and ends the run.
type fault struct {
	name string // of the catalogue
	what string
	do   func(c *cluster) error
	// cannot says why this machine cannot do it; nil or empty: it can.
	cannot func() string
	// endsProcess says that a node may end by itself.
	endsProcess bool
	// clean says that no transaction may break.
	clean bool
}

// faults of one run, which all work on a cluster of three or more.
var faults = []fault{
	{name: "F-01", what: "kill of a follower", do: func(c *cluster) error { return c.crash(c.follower()) }},
	{name: "F-02", what: "kill of a leader", do: func(c *cluster) error { return c.crash(c.leader()) }},
	{name: "F-03", what: "kill of a leader, again and again", do: crashRepeatedly},
	{name: "F-05", what: "kill of a minority", do: func(c *cluster) error { return c.crash(c.some((len(c.hosts) - 1) / 2)...) }},
	{name: "F-06", what: "kill of a majority", do: crashMajority},
	{name: "F-07", what: "a leader stands still", do: freezeLeader},
	{name: "F-08", what: "5 % of a processor", do: starve, cannot: needs("cpu", "cpu.cfs_quota_us")},
	{name: "F-09", what: "power cut of one node", do: func(c *cluster) error { return c.powerCut(c.random()) }},
	{name: "F-10", what: "power cut of all nodes", do: func(c *cluster) error { return c.powerCut(c.hosts...) }},
	{name: "F-11", what: "power cut during recovery", do: cutDuringRecovery},
	{name: "F-12", what: "power cut of one node and partition of another", do: cutAndPartition},
	{name: "F-17", what: "every write fails", do: failDisk, endsProcess: true},
	{name: "F-18", what: "no room in the middle of a record", do: nibbleDisk},
	{name: "F-19", what: "full disk of a follower", do: func(c *cluster) error { return c.fillDisks(c.follower()) }},
	{name: "F-20", what: "full disk of a leader", do: func(c *cluster) error { return c.fillDisks(c.leader()) }},
	{name: "F-21", what: "full disks of all nodes", do: func(c *cluster) error { return c.fillDisks(c.hosts...) }},
	{name: "F-22", what: "no file descriptors left", do: exhaustFiles},
	{name: "F-23", what: "slow disk of a follower", do: func(c *cluster) error { return c.slowDisk(c.follower()) }, cannot: needs("blkio", "blkio.throttle.write_iops_device")},
	{name: "F-24", what: "slow or stalled disk of a leader", do: slowOrStalled, cannot: needs("blkio", "blkio.throttle.write_iops_device")},
	{name: "F-25", what: "leader alone", do: isolateLeader},
	{name: "F-26", what: "leader hears nobody, or is not heard", do: halfDeaf},
	{name: "F-27", what: "two nodes see each other only through a third", do: partialCut},
	{name: "F-28", what: "link goes on and off", do: flap},
	{name: "F-30", what: "64 kbit/s while a node catches up", do: narrowLink},
	{name: "F-31", what: "gossip blocked", do: blockGossip},
	{name: "F-36", what: "rolling restart", do: rollingRestart, clean: true},
	{name: "F-38", what: "add, replace and remove nodes", do: changeMembers},
	{name: "F-39", what: "wiped disk", do: wipeOne},
	{name: "F-40", what: "a node that was away for longer than the log goes back", do: staleNode},
}

// needs says that a controller of version 1 is missing, if it is.
func needs(controller, file string) func() string {
	return func() string {
		if hasController(controller, file) {
			return ""
		}
		return "no cgroup of version 1 with " + file
	}
}

// crash kills hosts and starts them again later.
func (c *cluster) crash(hosts ...*host) error {
	for _, h := range hosts {
		h.logf("kill")
		h.kill()
	}
	c.last(1)
	return startAll(hosts)
}

func startAll(hosts []*host) error {
	var err error
	for _, h := range hosts {
		err = errors.Join(err, h.start())
	}
	return err
}

func crashRepeatedly(c *cluster) error {
	for range 3 {
		if err := c.crash(c.leader()); err != nil {
			return err
		}
		if err := c.await(context.Background(), time.Minute, "nodes that are ready", c.allReady); err != nil {
			c.ledger.report(unrecovered, "%v", err)
			return nil
		}
	}
	return nil
}

func crashMajority(c *cluster) error {
	dead := c.some(len(c.hosts)/2 + 1)
	for _, h := range dead {
		h.logf("kill, with a majority")
		h.kill()
	}
	end := c.silence(c.hosts...)
	c.last(1.5)
	end()
	return startAll(dead)
}

func freezeLeader(c *cluster) error {
	h := c.leader()
	h.logf("freeze")
	if err := h.freeze(); err != nil {
		return err
	}
	c.last([]float64{0.5, 1, 3}[c.r.IntN(3)])
	h.logf("thaw")
	return h.thaw()
}

func starve(c *cluster) error {
	h := c.random()
	h.logf("5 %% of a processor")
	if err := h.confine("cpu", "cpu.cfs_quota_us", "5000"); err != nil {
		return err
	}
	c.last(2)
	return h.confine("cpu", "cpu.cfs_quota_us", "-1")
}

// powerCut takes the power from hosts at once and gives it back later.
func (c *cluster) powerCut(hosts ...*host) error {
	errs := make(chan error)
	for _, h := range hosts {
		h.logf("power cut")
		go func() { errs <- h.cutPower() }()
	}
	var err error
	for range hosts {
		err = errors.Join(err, <-errs)
	}
	if err != nil {
		return err
	}
	end := func() {}
	if len(hosts) > len(c.hosts)/2 {
		end = c.silence(c.hosts...)
	}
	c.last(0.7)
	end()
	for _, h := range hosts {
		err = errors.Join(err, h.restorePower())
	}
	return err
}

func cutDuringRecovery(c *cluster) error {
	h := c.random()
	if err := c.powerCut(h); err != nil {
		return err
	}
	for range 1 + c.r.IntN(2) {
		<-time.After(time.Duration(c.r.IntN(1200)) * time.Millisecond)
		if err := c.powerCut(h); err != nil {
			return err
		}
	}
	return nil
}

// cutAndPartition leaves a quorum at no time but before and after: one node is
// without power, another is cut off or frozen.
func cutAndPartition(c *cluster) error {
	two := c.some(2)
	dead, away := two[0], two[1]
	if err := c.isolate(away); err != nil {
		return err
	}
	c.last(0.5)
	dead.logf("power cut, while %s is alone", away.name)
	if err := dead.cutPower(); err != nil {
		return err
	}
	end := func() {}
	if len(c.hosts) == 3 {
		end = c.silence(c.hosts...)
	}
	c.last(0.5)
	end()
	if c.r.IntN(2) == 0 { // the two that were away meet first
		if err := c.rejoin(); err != nil {
			return err
		}
		c.last(0.5)
		return dead.restorePower()
	}
	if err := dead.restorePower(); err != nil {
		return err
	}
	c.last(0.5)
	return c.rejoin()
}

// failDisk makes every write of a leader's disk fail. The process stands still
// while the journal is shut down, for the reason given at cutPower.
func failDisk(c *cluster) error {
	h := c.leader()
	id := c.id(h)
	h.logf("disk fails")
	p := h.current()
	if err := errors.Join(process.FreezeIdle(p.cmd.Process), h.cutDisk(), h.thaw()); err != nil {
		return err
	}
	if err := c.await(context.Background(), 10*time.Second, "other leaders", func() error { return c.without(id, h) }); err != nil {
		c.ledger.report(unrecovered, "the disk of %s failed: %v", h.name, err)
	}
	select {
	case <-p.done:
	case <-time.After(25 * time.Second): // sessions have 15 s to end
		c.ledger.report(crashed, "%s goes on 25 s after its disk failed", h.name)
	}
	c.last(0.5)
	h.kill()
	return errors.Join(h.umount(), h.mount(), h.start())
}

// fillDisks takes every byte, also what a node gives up for deletions, again and
// again for a time.
func (c *cluster) fillDisks(hosts ...*host) error {
	for end := time.Now().Add(2 * c.hold); time.Now().Before(end); {
		for _, h := range hosts {
			if err := h.fill(0); err != nil {
				return err
			}
		}
		<-time.After(50 * time.Millisecond)
	}
	return freeAll(hosts)
}

func freeAll(hosts []*host) error {
	var err error
	for _, h := range hosts {
		err = errors.Join(err, h.free())
	}
	return err
}

// nibbleDisk lets the room end anywhere within a record, and gives some back.
func nibbleDisk(c *cluster) error {
	h := c.random()
	h.logf("room ends")
	for end := time.Now().Add(c.hold); time.Now().Before(end); {
		if err := h.fill(int64(c.r.IntN(48 << 10))); err != nil {
			return err
		}
		<-time.After(time.Duration(20+c.r.IntN(60)) * time.Millisecond)
		if c.r.IntN(4) == 0 {
			if err := h.free(); err != nil {
				return err
			}
			<-time.After(100 * time.Millisecond)
		}
	}
	return h.free()
}

// slowDisk allows a disk four writes a second: about 300 ms an fsync.
func (c *cluster) slowDisk(h *host) error {
	dev, err := h.device()
	if err != nil {
		return err
	}
	h.logf("slow disk")
	const file = "blkio.throttle.write_iops_device"
	if err := h.confine("blkio", file, dev+" 4"); err != nil {
		return err
	}
	c.last(2)
	h.logf("disk is fast again")
	return h.confine("blkio", file, dev+" 0")
}

func slowOrStalled(c *cluster) error {
	h := c.leader()
	if c.r.IntN(2) == 0 {
		return c.slowDisk(h)
	}
	h.logf("stalled disk")
	if err := h.stallDisk(); err != nil {
		return err
	}
	c.last(2)
	h.logf("disk goes on")
	return h.thawDisk()
}

// isolate cuts a host off from all others; clients reach it still.
func (c *cluster) isolate(h *host) error {
	h.logf("alone")
	var pairs [][2]*host
	for _, o := range c.others(h) {
		pairs = append(pairs, [2]*host{h, o})
	}
	return cutBetween(pairs...)
}

// rejoin ends every cut.
func (c *cluster) rejoin() error {
	var err error
	for _, h := range c.hosts {
		err = errors.Join(err, h.hear())
	}
	return err
}

func isolateLeader(c *cluster) error {
	h := c.leader()
	if err := c.isolate(h); err != nil {
		return err
	}
	end := c.silence(h)
	c.last(1.5)
	end()
	return c.rejoin()
}

// halfDeaf drops one direction: what the leader is sent, or what it sends.
// Connections need both, so that it reaches no quorum either way.
func halfDeaf(c *cluster) error {
	h := c.leader()
	var err error
	if c.r.IntN(2) == 0 {
		h.logf("hears nobody")
		var rules []string
		for _, o := range c.others(h) {
			rules = append(rules, "ip saddr "+o.ip)
		}
		err = h.deaf(rules...)
	} else {
		h.logf("is not heard")
		for _, o := range c.others(h) {
			err = errors.Join(err, o.deaf("ip saddr "+h.ip))
		}
	}
	if err != nil {
		return err
	}
	end := c.silence(h)
	c.last(1.5)
	end()
	return c.rejoin()
}

func partialCut(c *cluster) error {
	two := c.byLeads()[:2]
	two[0].logf("cut from %s", two[1].name)
	if err := cutBetween([2]*host{two[0], two[1]}); err != nil {
		return err
	}
	c.last(1.5)
	return c.rejoin()
}

func flap(c *cluster) error {
	h := c.random()
	h.logf("link flaps")
	for range 4 {
		if err := h.unplug(); err != nil {
			return err
		}
		c.last(0.2)
		if err := h.plug(); err != nil {
			return err
		}
		c.last(0.2)
	}
	return nil
}

// narrowLink starts a node that has much to catch up with over a link of 64
// kbit/s each way.
func narrowLink(c *cluster) error {
	h := c.follower()
	h.logf("kill, and a narrow link afterwards")
	h.kill()
	c.last(1)
	if err := h.throttle(64); err != nil {
		return err
	}
	if err := h.start(); err != nil {
		return err
	}
	c.last(1.5)
	return h.unthrottle()
}

// staleNode keeps a node away until the others' logs no longer reach back to
// where it left, so that it needs copies; now and then the power fails meanwhile.
func staleNode(c *cluster) error {
	h := c.random()
	h.logf("away")
	h.kill()
	c.last(4)
	if err := h.start(); err != nil {
		return err
	}
	if c.r.IntN(2) == 0 {
		return nil
	}
	<-time.After(time.Duration(c.r.IntN(1500)) * time.Millisecond)
	return c.powerCut(c.random())
}

func blockGossip(c *cluster) error {
	proto := []string{"udp", "tcp"}[c.r.IntN(2)]
	for _, h := range c.hosts {
		h.logf("gossip by %s blocked", proto)
		if err := h.deaf(proto+" dport "+gossipPort, proto+" sport "+gossipPort); err != nil {
			return err
		}
	}
	c.last(2)
	return c.rejoin()
}

func rollingRestart(c *cluster) error {
	for _, h := range c.byLeads() {
		h.logf("SIGTERM")
		if err := h.stop(25 * time.Second); err != nil {
			c.ledger.report(brokenSession, "%v", err)
		}
		if err := h.start(); err != nil {
			return err
		}
		if err := c.await(context.Background(), time.Minute, "nodes that are ready", c.settled); err != nil {
			c.ledger.report(unrecovered, "rolling restart: %v", err)
			return nil
		}
	}
	return nil
}

// settled reports what keeps an operator from stopping the next node.
func (c *cluster) settled() error {
	return errors.Join(c.allReady(), c.replicated())
}

// memberLimit is how long a change of members may take.
const memberLimit = 2 * time.Minute

// changeMembers adds a node, and has another replaced by it or removed.
func changeMembers(c *cluster) error {
	old := c.random()
	added, err := c.join()
	if err != nil {
		return err
	}
	if c.r.IntN(2) == 0 {
		old.logf("is to be removed")
		err = c.move(admin.NodeRemove, admin.NodeRequest{Node: c.id(old)}, old)
	} else {
		old.logf("is to be replaced by %s", added.name)
		err = c.move(admin.NodeReplace, admin.NodeRequest{Node: c.id(old), By: c.id(added)}, old)
	}
	if err != nil {
		c.ledger.report(unrecovered, "%v", err)
		return nil
	}
	old.kill()
	return c.scrap(old)
}

// join adds a new host to the cluster and waits until it serves.
func (c *cluster) join() (*host, error) {
	h, err := c.newMember(peerAddrs(c.hosts))
	if err != nil {
		return nil, err
	}
	c.hosts = append(c.hosts, h)
	if err := h.start(); err != nil {
		return nil, err
	}
	if err := c.await(context.Background(), memberLimit, "new node that is ready", c.allReady); err != nil {
		c.ledger.report(unrecovered, "%v", err)
	}
	c.share()
	return h, nil
}

// without reports which shard still has the node for its leader, or none at all, as
// the others see it.
func (c *cluster) without(id string, h *host) error {
	s, err := call[admin.Status](c.others(h)[0], admin.NodeStatus, admin.Empty{})
	if err != nil {
		return err
	}
	for _, g := range s.Shards {
		if g.Leader == id || g.Leader == "" {
			return fmt.Errorf("shard %d is led by %q", g.ID, g.Leader)
		}
	}
	return nil
}

// id asks a host for its node id.
func (c *cluster) id(h *host) string {
	s, err := call[admin.Status](h, admin.NodeStatus, admin.Empty{})
	if err != nil {
		return ""
	}
	return s.Node
}

// move asks for a change of members until it is done; not of the host that goes.
func (c *cluster) move(op string, req admin.NodeRequest, goes *host) error {
	return c.await(context.Background(), memberLimit, fmt.Sprintf("end of %s of %s", op, goes.name), func() error {
		h := c.others(goes)[c.r.IntN(len(c.hosts)-1)]
		m, err := call[admin.NodeMove](h, op, req)
		if err != nil {
			return err
		}
		if !m.Done {
			return fmt.Errorf("shards %v have yet to move", m.Shards)
		}
		return nil
	})
}

// scrap takes a host that is no member any more away from the clients.
func (c *cluster) scrap(h *host) error {
	c.hosts = c.others(h)
	c.share()
	return h.umount()
}

// wipeOne starts a host on an empty disk: it is a new node, which replaces the old.
func wipeOne(c *cluster) error {
	h := c.random()
	old := c.id(h)
	h.logf("wiped")
	h.kill()
	if err := errors.Join(h.umount(), h.format()); err != nil {
		return err
	}
	c.last(0.5)
	c.introduce(h, peerAddrs(c.others(h))) // those that it began with may be gone
	if err := h.start(); err != nil {
		return err
	}
	if c.r.IntN(3) == 0 { // F-11: during the first start, or while states are copied to it
		<-time.After(time.Duration(c.r.IntN(3000)) * time.Millisecond)
		if err := c.powerCut(h); err != nil {
			return err
		}
	}
	err := c.await(context.Background(), memberLimit, "wiped node that is ready", c.allReady)
	if err == nil && c.id(h) == old {
		err = fmt.Errorf("%s is node %s again, without its log", h.name, old)
	}
	if err == nil {
		err = c.move(admin.NodeReplace, admin.NodeRequest{Node: old, By: c.id(h)}, h)
	}
	if err != nil {
		c.ledger.report(unrecovered, "%v", err)
	}
	return nil
}

// exhaustFiles restarts a host with few file descriptors and takes all that it
// gives to clients.
func exhaustFiles(c *cluster) error {
	const few = 256
	h := c.random()
	h.logf("%d file descriptors", few)
	h.kill()
	h.files = few
	defer func() { h.files = 0 }()
	if err := h.start(); err != nil {
		return err
	}
	if err := c.await(context.Background(), recoverLimit, "node that is ready with few files", c.allReady); err != nil {
		c.ledger.report(unrecovered, "%v", err)
	}
	var idle []net.Conn
	for range 2 * few {
		port := []string{smtpPort, lmtpPort, peerPort}[c.r.IntN(3)]
		if conn, err := dial(h, port); err == nil { // accepted by the kernel, if not by the node
			idle = append(idle, conn)
		}
	}
	c.last(1.5)
	var err error
	for _, conn := range idle {
		err = errors.Join(err, conn.Close())
	}
	return err
}
