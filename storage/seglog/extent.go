package seglog

// An Extent is where a run of bytes lies in this node's log, with its checksum.
// It means nothing on another node.
type Extent struct {
	Segment uint64 // number of the segment file
	Offset  uint32 // of the first byte, from the start of the file
	Length  uint32 // in bytes
	Sum     uint32 // CRC32C (Castagnoli) of the bytes; 0 and unchecked if not known
}

// A Command is one committed command of a Raft group and where its bytes lie.
type Command struct {
	Index uint64
	Data  []byte // valid while it is being applied; not to be changed
	Place Extent // of Data; Sum is not set
}
