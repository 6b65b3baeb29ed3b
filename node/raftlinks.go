package node

import (
	"context"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/internal/peer"
	"github.com/covey-mail/covey/replica"
)

// raftLinks carries the messages of this node's groups: one frame a peer for all
// groups, or a few where there is much.
type raftLinks struct{ net *peer.Net }

// Send implements replica.Transport. What cannot be sent is lost, as on a network.
func (r raftLinks) Send(to covey.NodeID, messages []replica.Message) {
	for len(messages) > 0 {
		parts, rest, err := replica.EncodeMessages(messages)
		if err != nil {
			return
		}
		r.net.Post(to, kindRaft, parts...)
		messages = rest
	}
}

// Fetch implements replica.Transport.
func (r raftLinks) Fetch(ctx context.Context, from covey.NodeID, req replica.SnapshotRequest) ([]byte, error) {
	return r.net.Call(ctx, from, methodFetch, replica.AppendSnapshotRequest(nil, req))
}

// serveFetch answers Fetch on the node that offers the copy.
func (n *Node) serveFetch(_ context.Context, from covey.NodeID, request []byte) ([]byte, error) {
	req, err := replica.ParseSnapshotRequest(request)
	if err != nil {
		return nil, err
	}
	return n.host.ServeSnapshot(from, req)
}

// receive hands the messages of a frame to the host. What makes no sense is
// dropped; the peer has proved who it is, so it is a fault of a program and not an
// attack.
func (n *Node) receive(from covey.NodeID, frame []byte) {
	messages, err := replica.ParseMessages(frame)
	if err != nil {
		n.log.Warn("messages of Raft make no sense", "from", from.String(), "err", err)
		return
	}
	n.host.Step(from, messages)
}
