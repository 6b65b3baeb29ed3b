package node

import (
	"context"
	"encoding/json"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/membership"
	"github.com/covey-mail/covey/node/admin"
)

// health says whether the node serves, as /readyz does.
func (n *Node) health(context.Context, admin.Empty) (admin.Health, error) {
	if err := n.readyErr(); err != nil {
		return admin.Health{Reason: err.Error()}, nil
	}
	return admin.Health{}, nil
}

// status describes the node, and the cluster as far as its other nodes answer, for
// an operator.
func (n *Node) status(ctx context.Context, _ admin.Empty) (admin.Status, error) {
	s := admin.Status{
		Node: n.folder.id.String(), Version: n.cfg.Version, Hostname: n.cfg.Node.Hostname, Started: n.started,
		Ready: n.readyErr() == nil, Data: n.folder.dir, DiskFree: n.disk.free.Load(), DiskFull: n.disk.full.Load(),
		Cluster: n.folder.self.Cluster, Listen: []admin.Listen{},
	}
	for _, seg := range n.seglog.Segments() {
		s.LogBytes += seg.Size
		s.Segments++
	}
	for _, d := range n.directory.Domains() {
		s.Domains++
		s.Accounts += int64(d.Accounts)
	}
	for _, l := range n.Listening() {
		s.Listen = append(s.Listen, admin.Listen{Service: l.Service, Address: l.Address})
	}
	s.Shards = n.allShards(ctx)
	s.Peers = n.peers(s.Shards)
	return s, nil
}

// shardsHere describes this node's groups.
func (n *Node) shardsHere() []admin.Shard {
	shards := []admin.Shard{}
	differing := n.comparer.Differing()
	for _, g := range n.host.Status() {
		sh := admin.Shard{ID: g.Group, Term: g.Term, Applied: g.Applied, Commit: g.Committed, Leader: nodeName(g.Leader)}
		if g.Fault != nil {
			sh.Stopped = g.Fault.Error()
		}
		for _, p := range differing[g.Group].Replicas {
			if p.Differs {
				sh.Differ = append(sh.Differ, p.Node.String())
			}
		}
		if st, ok := n.states.get(g.Group); ok {
			live, err := st.Live()
			if err != nil && sh.Stopped == "" { // the rest is still worth knowing
				sh.Stopped = err.Error()
			}
			for _, bytes := range live {
				sh.LiveData += bytes.Bytes
			}
			if waiting, oldest, err := st.QueueLength(); err == nil && waiting > 0 {
				sh.Queued, sh.Oldest = waiting, &oldest
			}
		}
		for _, v := range g.Voters {
			sh.Replicas = append(sh.Replicas, admin.Replica{Node: v.String()})
		}
		for _, l := range g.Learners {
			sh.Replicas = append(sh.Replicas, admin.Replica{Node: l.String(), Learner: true})
		}
		for _, f := range g.Followers {
			i := slices.IndexFunc(sh.Replicas, func(r admin.Replica) bool { return r.Node == f.Node.String() })
			if i >= 0 {
				r := &sh.Replicas[i]
				r.Lag, r.Silent, r.Copying = g.Committed-min(f.Match, g.Committed), !f.Active, f.Snapshot
			}
		}
		shards = append(shards, sh)
	}
	return shards
}

// askTime bounds how long a status waits for other nodes.
const askTime = time.Second

// allShards describes every shard as its leader sees it, those whose leader does
// not answer as this node does.
func (n *Node) allShards(ctx context.Context) []admin.Shard {
	best := make(map[covey.ShardID]admin.Shard)
	take := func(from covey.NodeID, list []admin.Shard) {
		for _, sh := range list {
			if _, known := best[sh.ID]; !known || sh.Leader == nodeName(from) {
				best[sh.ID] = sh
			}
		}
	}
	take(n.folder.id, n.shardsHere())
	for from, list := range n.askShards(ctx) {
		take(from, list)
	}
	shards := []admin.Shard{}
	for id := covey.ShardID(0); id <= covey.ShardID(n.folder.self.Shards); id++ {
		sh, ok := best[id]
		if !ok {
			leader, term := n.table.Known(id)
			sh = admin.Shard{ID: id, Leader: nodeName(leader), Term: term}
		}
		sh.Wanted = nodeNames(n.directory.Voters(id))
		shards = append(shards, sh)
	}
	return shards
}

// askShards asks every other node for the shards that it has.
func (n *Node) askShards(ctx context.Context) map[covey.NodeID][]admin.Shard {
	if n.links.Net == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	var mu sync.Mutex
	var asked sync.WaitGroup
	all := make(map[covey.NodeID][]admin.Shard)
	for _, m := range n.directory.Nodes() {
		if m.ID == n.folder.id {
			continue
		}
		asked.Go(func() {
			b, err := n.links.Call(ctx, m.ID, methodShards)
			var list []admin.Shard
			if err != nil || json.Unmarshal(b, &list) != nil {
				return // what others know of it must do
			}
			mu.Lock()
			defer mu.Unlock()
			all[m.ID] = list
		})
	}
	asked.Wait()
	return all
}

func (n *Node) serveShards(context.Context, covey.NodeID, []byte) ([]byte, error) {
	return json.Marshal(n.shardsHere())
}

// peers describes the nodes of the cluster.
func (n *Node) peers(shards []admin.Shard) []admin.Peer {
	peers := []admin.Peer{}
	gossip := n.links.gossip.Load()
	for _, m := range n.directory.Nodes() {
		p := admin.Peer{Node: m.ID.String(), Address: m.Peer, Zone: m.Zone, Version: m.Version, Role: m.State.String(), State: "unknown", Since: n.started}
		if m.ID == n.folder.id {
			load := n.load()
			p.State, p.Since, p.DiskFree, p.LogBytes = membership.Alive.String(), n.started, int64(load.DiskFree), int64(load.DiskUsed)
			p.Connections = int64(load.Connections)
		} else if gossip != nil {
			if g, ok := gossip.Member(m.ID); ok {
				p.State, p.Since, p.DiskFree, p.LogBytes = g.State.String(), g.Since, int64(g.Load.DiskFree), int64(g.Load.DiskUsed)
				p.Connections = int64(g.Load.Connections)
			}
			if since, refused := n.links.refused(m.ID); refused {
				p.State, p.Since = "refused", since
			}
		}
		for _, sh := range shards {
			if sh.Leader == p.Node {
				p.Leads++
			}
			if slices.ContainsFunc(sh.Replicas, func(r admin.Replica) bool { return r.Node == p.Node }) {
				p.Replicas++
			}
		}
		peers = append(peers, p)
	}
	return peers
}

// connections counts those that clients have open here.
func (n *Node) connections() (sum uint64) {
	open := make(chan prometheus.Metric)
	go func() { // ends when the loop below has read all
		n.connMetrics.Open.Collect(open)
		close(open)
	}()
	for m := range open {
		var v dto.Metric
		if m.Write(&v) == nil {
			sum += uint64(max(v.GetGauge().GetValue(), 0))
		}
	}
	return sum
}

// nodeName is how an operator sees a node; empty for none.
func nodeName(id covey.NodeID) string {
	if id == 0 {
		return ""
	}
	return id.String()
}

func nodeNames(ids []covey.NodeID) []string {
	names := make([]string, len(ids))
	for i, id := range ids {
		names[i] = id.String()
	}
	return names
}
