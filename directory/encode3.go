package directory

import (
	"fmt"

	"github.com/covey-mail/covey"
	"github.com/covey-mail/covey/internal/wire"
)

// encodeBody3 appends the fields of version 3 to b and returns the type as well.
func encodeBody3(c Command, b []byte) (byte, []byte) {
	stamp, ok := c.(StampNode)
	if !ok {
		panic(fmt.Errorf("directory: encode %T", c))
	}
	b = wire.AppendUint(wire.AppendUint(b, uint64(stamp.ID)), stamp.Stamp.Count)
	return typeStampNode, wire.AppendUint(b, stamp.Stamp.Mark)
}

func decodeBody3(kind byte, r *wire.Reader) Command {
	if kind != typeStampNode {
		r.Fail("unknown type")
		return nil
	}
	return StampNode{ID: readNodeID(r), Stamp: covey.DiskStamp{Count: r.Uint(), Mark: r.Uint()}}
}
