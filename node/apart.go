package node

import (
	"context"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/internal/wire"
	"github.com/covey-mail/covey/storage"
)

// askApart is delivery.Config.Ask.
func (n *Node) askApart(ctx context.Context, node covey.NodeID, hash [16]byte, shard covey.ShardID) ([]covey.DeliveryID, error) {
	if n.links.Net == nil {
		return nil, covey.Errorf(covey.Unavailable, "this node has no links")
	}
	b, err := n.links.Call(ctx, node, methodApart, wire.AppendUint(hash[:], uint64(shard)))
	if err != nil {
		return nil, err
	}
	r := wire.NewReader(b)
	ids := storage.ReadDeliveryIDs(r)
	return ids, r.End()
}

// serveApart answers askApart.
func (n *Node) serveApart(_ context.Context, _ covey.NodeID, req []byte) ([]byte, error) {
	r := wire.NewReader(req)
	var hash [16]byte
	copy(hash[:], r.Raw(len(hash)))
	shard := r.Uint()
	if err := r.End(); err != nil {
		return nil, err
	}
	return storage.AppendDeliveryIDs(nil, n.delivery.Apart(hash, covey.ShardID(shard))), nil
}
