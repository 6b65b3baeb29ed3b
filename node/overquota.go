package node

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/node/quota"
)

// newQuota returns the board of accounts over their quota. It needs the directory,
// and is there before any state calls Touch.
func (n *Node) newQuota() *quota.Board {
	b := quota.New(quota.Config{
		Self: n.folder.id, Accounts: n.directory, Led: n.ledShards,
		Leader: func(id covey.ShardID) covey.NodeID {
			leader, _ := n.table.Known(id)
			return leader
		},
		Used: func(id covey.ShardID, account covey.AccountID) (int64, error) {
			r, here := n.states.reader(id)
			if !here {
				return 0, covey.Errorf(covey.Unavailable, "shard %d has no replica on this node", id)
			}
			a, err := r.Account(account)
			return a.Bytes, err
		},
	})
	n.directory.WatchQuotas(b.Requote)
	n.metrics.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "covey_accounts_over_quota", Help: "Accounts over their quota in the shards that this node leads, as other nodes are told.",
	}, func() float64 { return float64(b.Over()) }))
	return b
}

// ledShards returns the mailbox shards that this node leads.
func (n *Node) ledShards() (ids []covey.ShardID) {
	for _, g := range n.host.Status() {
		if g.Leader == n.folder.id && g.Fault == nil && g.Group != covey.DirectoryShard {
			ids = append(ids, g.Group)
		}
	}
	return ids
}

// watchQuota follows which accounts another node tells are over, until ctx ends.
func (n *Node) watchQuota(ctx context.Context, id covey.NodeID) {
	for {
		err := n.quota.Watch(ctx, id, func(ctx context.Context, request []byte) ([]byte, error) {
			return n.links.Call(ctx, id, methodQuota, request)
		})
		select {
		case <-ctx.Done():
			n.quota.Forget(id) // it is no member any more, or this node stops
			return
		case <-time.After(time.Second):
			n.log.Debug("accounts over quota are not told", "by", id.String(), "err", err)
		}
	}
}
