package mailbox

import (
	"sync/atomic"

	"github.com/covey-mail/covey"
)

// A Sequence gives out delivery ids that no node gives twice. It is safe for
// concurrent use.
type Sequence struct {
	node covey.NodeID
	boot uint64
	last atomic.Uint64
}

// NewSequence returns the sequence of one start of a node; boot must be higher
// than at any earlier start with the same id.
func NewSequence(node covey.NodeID, boot uint64) *Sequence {
	return &Sequence{node: node, boot: boot}
}

// Next returns an id not given before.
func (s *Sequence) Next() covey.DeliveryID {
	return covey.DeliveryID{Node: s.node, Boot: s.boot, Seq: s.last.Add(1)}
}
