// Package replica keeps the Raft groups of one node going: it decides in which
// order the commands of a shard are applied, the same on every replica, and says
// that a command is done only when a majority has it on stable storage.
//
// A Host drives all groups in one goroutine, on the core of
// go.etcd.io/raft/v3, with one log for all of them (storage/seglog) and one
// state machine each. It knows neither mail nor SQLite nor how messages reach
// other nodes: commands are bytes, state machines and transport are interfaces.
//
// The data of a Raft entry is a frame:
//
//	0   8  id of the node that proposed it, little endian
//	8   8  nonce, unique within that node's lifetime, little endian
//	16     the command
//
// The nonce leads a result back to the caller that waits for it. State machines
// see only the command. A frame without a command does not occur; the empty
// entry that a new leader commits is not shown to state machines.
//
// Snapshots are not sent or taken in yet: a follower that needs entries its
// leader no longer keeps stays behind. DESIGN.md tells why things are as they
// are, and what happens in crashes and partitions.
package replica
