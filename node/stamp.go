package node

import (
	"context"
	"errors"
	"time"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/directory"
)

// stampEvery is how often a node's disk gets a new stamp, beside once at each start.
// A disk that is put back to what it was less than that before the node ended is not
// noticed.
const stampEvery = time.Minute

// stampDisk gives this node's disk a new stamp when it is time, and the directory the
// one that it has. There is never more than one that the directory does not know: a
// node that reaches nobody gets no further, however often it is started, and so never
// past what others know of it.
func (n *Node) stampDisk(ctx context.Context) {
	me, ok := n.directory.Node(n.folder.id)
	if n.links.Net == nil || !ok || me.State == directory.Removed || n.directory.Level() < directory.LevelStamps {
		return
	}
	has := n.folder.stamp()
	switch {
	case has == me.Stamp:
		if time.Since(n.stamped) < stampEvery {
			return
		}
	case has.Follows(me.Stamp):
		n.tellStamp(ctx, has)
		return
	case !n.cfg.Cluster.AcceptOlderDisks:
		if !n.putBack {
			n.putBack = true
			n.log.Error("this node is not believed", "err", n.directory.CheckDisk(n.folder.id, has))
		}
		return
	}
	n.stamped = time.Now() // or was tried: a full disk can wait
	// On the disk first: what the others know must be there after a crash.
	has, err := n.folder.restamp(me.Stamp.Count)
	if err == nil {
		err = n.links.SetStamp(has)
	}
	if err != nil {
		n.log.Warn("could not give the disk a new stamp", "err", err)
		return
	}
	n.tellStamp(ctx, has)
}

// tellStamp tells the directory of the stamp that this node's disk has.
func (n *Node) tellStamp(ctx context.Context, has covey.DiskStamp) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	err := n.directory.StampNode(ctx, n.folder.id, has)
	switch {
	case err == nil && !n.stampTold && !n.stamped.IsZero(): // the first of this start
		n.stampTold = true
		n.log.Info("the cluster knows the stamp of this node's disk", "count", has.Count)
	case err == nil:
	case !errors.Is(err, covey.Unavailable) && ctx.Err() == nil:
		n.log.Warn("could not tell the cluster of the stamp of this node's disk", "err", err)
	}
}

// believe is peer.Config.Believe.
func (l *links) believe(id covey.NodeID, has covey.DiskStamp) error {
	d := l.directory.Load()
	if d == nil || l.acceptOlder {
		return nil
	}
	err := d.CheckDisk(id, has)
	l.mu.Lock()
	defer l.mu.Unlock()
	if err == nil {
		delete(l.putBack, id)
	} else if l.putBack[id].IsZero() {
		l.putBack[id] = time.Now()
	}
	return err
}

// refused reports since when a node is not believed because its disk was put back.
func (l *links) refused(id covey.NodeID) (since time.Time, refused bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	since, refused = l.putBack[id]
	return since, refused
}
