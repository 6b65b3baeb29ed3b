package node

import (
	"context"

	"github.com/covey-mail/covey/node/admin"
)

// status describes the node for an operator.
func (n *Node) status(context.Context, admin.Empty) (admin.Status, error) {
	s := admin.Status{
		Node: n.folder.id.String(), Version: n.cfg.Version, Hostname: n.cfg.Node.Hostname, Started: n.started,
		Ready: n.readyErr() == nil, Data: n.folder.dir, DiskFree: n.disk.free.Load(), DiskFull: n.disk.full.Load(),
		Listen: []admin.Listen{}, Shards: []admin.Shard{},
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
	for _, g := range n.host.Status() {
		sh := admin.Shard{ID: g.Group, Term: g.Term, Applied: g.Applied, Commit: g.Committed}
		if g.Leader != 0 {
			sh.Leader = g.Leader.String()
		}
		if g.Fault != nil {
			sh.Stopped = g.Fault.Error()
		}
		if st, ok := n.states.get(g.Group); ok {
			live, err := st.Live()
			if err != nil && sh.Stopped == "" { // the rest is still worth knowing
				sh.Stopped = err.Error()
			}
			for _, bytes := range live {
				sh.LiveData += bytes.Bytes
			}
		}
		s.Shards = append(s.Shards, sh)
	}
	return s, nil
}

// health says whether the node serves, as /readyz does.
func (n *Node) health(context.Context, admin.Empty) (admin.Health, error) {
	if err := n.readyErr(); err != nil {
		return admin.Health{Reason: err.Error()}, nil
	}
	return admin.Health{}, nil
}
