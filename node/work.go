package node

import (
	"context"
	"time"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/directory"
	"github.com/covey-mail/covey/storage"
)

// readyErr is nil while the node serves, and says why it does not.
func (n *Node) readyErr() error {
	select {
	case <-n.hostDone:
		return covey.Errorf(covey.Unavailable, "the engine stopped; the log says why")
	default:
	}
	if !n.ready.Load() {
		return covey.Errorf(covey.Unavailable, "starting or stopping")
	}
	return nil
}

// confirmEvery is how long a delivery's confirmation may wait for another
// delivery to travel with.
const confirmEvery = 500 * time.Millisecond

func (n *Node) confirm(ctx context.Context) {
	tick := time.NewTicker(confirmEvery)
	defer tick.Stop()
	n.delivery.Run(ctx, tick.C)
}

// dropEvery is how often removed accounts are looked for.
const dropEvery = 5 * time.Second

// dropRemoved deletes the mail of removed accounts. An account is removed in the
// directory first; the shard's part is done here, and again after a crash, until
// the directory knows that it is done.
func (n *Node) dropRemoved(ctx context.Context) {
	tick := time.NewTicker(dropEvery)
	defer tick.Stop()
	for {
		if leader, _ := n.table.Known(covey.DirectoryShard); leader == n.folder.id { // one node is enough
			if err := n.dropOnce(ctx); err != nil && ctx.Err() == nil {
				n.log.Warn("mail of removed accounts is still there; trying again", "err", err)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (n *Node) dropOnce(ctx context.Context) error {
	const atOnce = 100
	drops, err := n.directory.Drops(atOnce)
	if err != nil {
		return err
	}
	for _, d := range drops {
		if err := n.drop(ctx, d); err != nil {
			return err
		}
	}
	return nil
}

func (n *Node) drop(ctx context.Context, d directory.Drop) error {
	if _, err := n.shards.Propose(ctx, d.Shard, storage.DropAccount{Account: d.Account}); err != nil {
		return err
	}
	return n.directory.Dropped(ctx, d.Account)
}
