package directory

import (
	"crypto/ed25519"
	"fmt"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/internal/wire"
)

// encodeBody2 appends the fields of version 2 to b and returns the type as well.
func encodeBody2(c Command, b []byte) (byte, []byte) {
	switch c := c.(type) {
	case Found:
		kind, b := encodeBody(c, b)
		return kind, c.First.append(b)
	case SetSettings:
		kind, b := encodeBody(c, b)
		return kind, appendOptional(appendOptional(b, c.Replicas, appendInt), c.RebuildAfter, appendSeconds)
	case AddNode:
		return typeAddNode, c.append(b)
	case UpdateNode:
		return typeUpdateNode, appendTime(c.NodeInfo.append(wire.AppendUint(b, uint64(c.ID))), c.Time)
	case SetNodeState:
		b = append(wire.AppendUint(b, uint64(c.ID)), byte(c.State), byte(c.Expected))
		return typeSetNodeState, appendTime(b, c.Time)
	case RemoveNode:
		b = wire.AppendUint(wire.AppendUint(b, uint64(c.ID)), uint64(c.ReplacedBy))
		return typeRemoveNode, appendTime(b, c.Time)
	case SetShardMap:
		return typeSetShardMap, c.append(b)
	case SetLevel:
		return typeSetLevel, wire.AppendUint(b, uint64(c.Level))
	}
	panic(fmt.Errorf("directory: encode %T", c))
}

func (c AddNode) append(b []byte) []byte {
	b = wire.AppendBytes(wire.AppendUint(b, uint64(c.ID)), []byte(c.Key))
	return appendTime(c.NodeInfo.append(b), c.Time)
}

func (i NodeInfo) append(b []byte) []byte {
	for _, text := range []string{i.Peer, i.Gossip, i.Zone, i.Version} {
		b = wire.AppendBytes(b, text)
	}
	return wire.AppendUint(b, uint64(i.Level))
}

// append writes the shards in order.
func (c SetShardMap) append(b []byte) []byte {
	b = wire.AppendUint(wire.AppendUint(b, c.Expected), uint64(len(c.Changes)))
	for _, id := range slices.Sorted(maps.Keys(c.Changes)) {
		b = wire.AppendUint(wire.AppendUint(b, uint64(id)), uint64(len(c.Changes[id])))
		for _, voter := range c.Changes[id] {
			b = wire.AppendUint(b, uint64(voter))
		}
	}
	return b
}

func appendInt(b []byte, n int) []byte { return wire.AppendInt(b, int64(n)) }

func appendSeconds(b []byte, d time.Duration) []byte { return wire.AppendInt(b, int64(d/time.Second)) }

func decodeBody2(kind byte, r *wire.Reader) Command {
	switch kind {
	case typeFound:
		c := readFound(r)
		first := readAddNode(r)
		c.First = &first
		return c
	case typeSetSettings:
		c := readSettings(r)
		c.Replicas, c.RebuildAfter = readOptional(r, readReplicas), readOptional(r, readRebuildAfter)
		return c
	case typeAddNode:
		return readAddNode(r)
	case typeUpdateNode:
		return UpdateNode{ID: readNodeID(r), NodeInfo: readNodeInfo(r), Time: readTime(r)}
	case typeSetNodeState:
		return SetNodeState{ID: readNodeID(r), State: readNodeState(r), Expected: readNodeState(r), Time: readTime(r)}
	case typeRemoveNode:
		return RemoveNode{ID: readNodeID(r), ReplacedBy: covey.NodeID(r.Uint()), Time: readTime(r)}
	case typeSetShardMap:
		return readSetShardMap(r)
	case typeSetLevel:
		return SetLevel{Level: readUint32(r)}
	}
	r.Fail("unknown type")
	return nil
}

func readAddNode(r *wire.Reader) AddNode {
	c := AddNode{ID: readNodeID(r), Key: ed25519.PublicKey(readText(r, ed25519.PublicKeySize))}
	if len(c.Key) != ed25519.PublicKeySize {
		r.Fail("key")
	}
	c.NodeInfo, c.Time = readNodeInfo(r), readTime(r)
	return c
}

func readNodeInfo(r *wire.Reader) NodeInfo {
	return NodeInfo{
		Peer: readText(r, maxHostPort), Gossip: readText(r, maxHostPort),
		Zone: readText(r, maxNodeText), Version: readText(r, maxNodeText), Level: readUint32(r),
	}
}

func readSetShardMap(r *wire.Reader) SetShardMap {
	c := SetShardMap{Expected: r.Uint(), Changes: make(map[covey.ShardID][]covey.NodeID)}
	shards := r.Count(2)
	if shards > MaxShards+1 {
		r.Fail("more shards than there can be")
		return c
	}
	next := uint32(0) // lowest that may come
	for range shards {
		id := readUint32(r)
		if id < next || id > MaxShards {
			r.Fail("shard out of order")
			return c
		}
		next = id + 1
		n := r.Count(1)
		if n > MaxVoters {
			r.Fail("more voters than a shard may have")
			return c
		}
		voters := make([]covey.NodeID, n)
		for i := range voters {
			voters[i] = readNodeID(r)
		}
		c.Changes[covey.ShardID(id)] = voters
	}
	return c
}

func readNodeID(r *wire.Reader) covey.NodeID {
	id := covey.NodeID(r.Uint())
	if id == 0 {
		r.Fail("node id")
	}
	return id
}

// readNodeState reads a state that a command may ask for.
func readNodeState(r *wire.Reader) NodeState {
	s := NodeState(r.Byte())
	if s > Draining {
		r.Fail("node state")
	}
	return s
}

func readUint32(r *wire.Reader) uint32 {
	n := r.Uint()
	if n > math.MaxUint32 {
		r.Fail("number too large")
	}
	return uint32(n)
}

func readReplicas(r *wire.Reader) int {
	n := int(r.Int())
	if !validReplicas(n) {
		r.Fail("replicas")
	}
	return n
}

func readRebuildAfter(r *wire.Reader) time.Duration {
	n := r.Int()
	if n < int64(MinRebuildAfter/time.Second) || n > int64(MaxRebuildAfter/time.Second) {
		r.Fail("rebuild after")
	}
	return time.Duration(n) * time.Second
}
