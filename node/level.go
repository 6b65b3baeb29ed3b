package node

import (
	"context"
	"errors"
	"time"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/directory"
)

// raiseLevel lets the cluster use what all its members understand, if this node
// leads the directory.
func (n *Node) raiseLevel(ctx context.Context) {
	if leader, _ := n.table.Known(covey.DirectoryShard); leader != n.folder.id || n.directory.Level() >= directory.Level {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	err := n.directory.RaiseLevel(ctx)
	if err != nil && !errors.Is(err, covey.Unavailable) && ctx.Err() == nil {
		n.log.Warn("could not raise the level of the cluster", "err", err)
	}
}
